"""People draw masks: folders, tables and COCO are read, checked as masks of the source are, and stored in the run."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alray.config import RunConfig
from alray.data.masks import masks_of
from alray.data.oracle import Answers, Status
from alray.export.labels import labeled, write_masks
from alray.labeling import receive, state
from alray.labeling.deliveries import Delivered, LabelError
from alray.labeling.desk import Waiting
from alray.labeling.kinds import kind_of
from alray.labeling.mask_deliveries import rasterised
from alray.planning.plan import plan, plan_once
from alray.planning.result import Plan
from alray.prepare import begin, check, prepare
from alray.rounds import run
from alray.rundir import PLAN, RunDir
from alray.store import Store
from alray.verify import verify

WIDTH, HEIGHT = 24, 20
CLASSES = ("background", "red", "green")


def mask_of(number):
    """The true mask of an image: a square of class 1 or 2, whose place depends on the number."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[2 + number % 5 : 12, 4:14] = 1 + number % 2
    return mask


@pytest.fixture
def folder(tmp_path):
    """A run without any mask that waits for the six masks of its seed set."""
    for number in range(16):
        image = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
        image[mask_of(number) > 0, number % 2] = 220
        path = tmp_path / "images" / f"Köln {number // 8}" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    config = RunConfig(
        root=str(tmp_path / "runs"), task="segmentation", rounds=2, budget=4, strategy="entropy", top_k=(),
        data={"root": str(tmp_path / "images"), "classes": CLASSES, "mask_suffix": "_mask.png"},
        split={"seed_set_how": "given", "seed_set_size": 6, "val_how": "random"},
        labels={"oracle": "files", "wait": "exit"}, transform={"size": 32, "resize": 0},
        model={"backbone": "test_resnet"}, train={"epochs": 1, "batch_size": 4},
    )  # type: ignore[arg-type]  # fmt: skip
    with pytest.raises(Waiting, match="draw a mask of each image in batch.csv"):
        run(config, quiet=True)
    (place,) = (tmp_path / "runs").glob("run-*")
    return RunDir(str(place))


def keys_of(folder):
    return state.open_batch(folder).requests["key"].to_pylist()


def number_of(key):
    return int(Path(key).stem)


def draw(place, masks):
    """Write masks (by key) as people save them: the image's name with another ending."""
    for key, mask in masks.items():
        path = place / key.replace(".png", "_mask.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)
    return str(place)


def stored(folder, key):
    catalog = replace(folder.catalog(), masks=state.masks(folder))
    masks = masks_of(folder.settings().data, catalog)
    (data,) = masks.fetch(catalog.references(catalog.rows_of([key])))
    return masks.decode(data, key)


def test_masks_come_as_a_folder_a_table_or_coco_and_are_stored_as_they_were_drawn(folder, tmp_path):
    keys = keys_of(folder)
    batch = Path(folder.batch_files("start").uri)
    assert next(csv.DictReader((batch / "batch.csv").open())).keys() >= {"key", "mask", "status"}
    assert (batch / "sheet-001.html").exists()
    got = receive.receive(folder, [draw(tmp_path / "a", {key: mask_of(number_of(key)) for key in keys[:2]})])
    assert (got.taken, got.open) == (2, {"start": (4, 6)})
    draw(tmp_path / "b", {"one.png": mask_of(number_of(keys[2]))})
    (tmp_path / "b" / "list.csv").write_text(f"key,mask,status\n{keys[2]},one_mask.png,\n{keys[3]},,skip\n")
    assert receive.receive(folder, [str(tmp_path / "b" / "list.csv")]).taken == 2
    tree = {
        "categories": [{"id": 7, "name": "green"}, {"id": 3, "name": "red"}],
        "images": [{"id": at, "file_name": key, "width": WIDTH, "height": HEIGHT} for at, key in enumerate(keys[4:])],
        "annotations": [
            {"image_id": 0, "category_id": 7, "segmentation": [[1, 1, 4, 1, 4, 3, 1, 3]]},
            {"image_id": 1, "category_id": 3, "segmentation": {"size": [HEIGHT, WIDTH], "counts": [0, 5, 475]}},
        ],
    }
    (tmp_path / "coco.json").write_text(json.dumps(tree))
    got = receive.receive(folder, [str(tmp_path / "coco.json")])
    assert (got.taken, got.open) == (2, {"start": (0, 6)})
    assert "coco.json: pixels in no polygon are background" in got.notes
    for key in keys[:3]:
        np.testing.assert_array_equal(stored(folder, key), mask_of(number_of(key)))
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[1:4, 1:5] = 2
    np.testing.assert_array_equal(stored(folder, keys[4]), expected)
    assert stored(folder, keys[5])[:5, 0].tolist() == [1] * 5 and stored(folder, keys[5]).sum() == 5
    ready = prepare(folder.settings())
    assert ready.pool.labeled.tolist() == sorted(ready.catalog.rows_of([*keys[:3], *keys[4:]]).tolist())
    assert state.given(folder)[keys[3]] == (Status.SKIP, "")
    exported = labeled(folder, folder.catalog())
    assert {image.key: image.label for image in exported} == {
        key: f"masks/{key.replace('.png', '_mask.png')}" for key in (*keys[:3], *keys[4:])
    }
    write_masks(exported, folder, folder.catalog(), Store(str(tmp_path / "out"), ""))
    for image in exported:
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / image.label)), stored(folder, image.key))
    assert verify(folder.uri).problems == []


def test_masks_that_cannot_be_used_are_refused_by_name_and_nothing_is_written(folder, tmp_path):
    keys = keys_of(folder)
    good, wide = mask_of(number_of(keys[0])), np.zeros((HEIGHT, WIDTH + 1), np.uint8)
    place = draw(tmp_path / "a", {keys[0]: good, keys[1]: wide, keys[2]: good + 5, keys[3]: good * 0 + 255})
    draw(tmp_path / "a", {"0/nobody.png": good})
    Image.fromarray(good).save(tmp_path / "a" / "plain.png")
    with pytest.raises(LabelError) as refused:
        receive.receive(folder, [place])
    said = str(refused.value)
    assert "5 lines cannot be used, nothing was written; --take-good takes 1 good answer" in said
    assert f"{keys[1]}: mask: expected the image's 24 x 20 pixels, got 25 x 20" in said
    assert f"{keys[2]}: mask: expected 0 to 2 or 255 (void), got" in said
    assert f"{keys[3]}: mask: expected some class, got only void" in said
    assert "'0/nobody_mask.png' is not an image of this run" in said
    assert "plain.png: expected a mask whose name ends with _mask.png" in said
    assert state.masks(folder) == {} and folder.masks.names() == []
    assert receive.receive(folder, [place], take_good=True).taken == 1


def test_a_folder_of_masks_from_macos_has_its_accents_apart_from_their_letters(folder, tmp_path):
    keys = keys_of(folder)
    masks = {unicodedata.normalize("NFD", key): mask_of(number_of(key)) for key in keys}
    assert masks.keys().isdisjoint(keys)
    got = receive.receive(folder, [draw(tmp_path / "a", masks)])
    assert (got.taken, got.open) == (6, {"start": (0, 6)})
    for key in keys:
        np.testing.assert_array_equal(stored(folder, key), mask_of(number_of(key)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segmentation": [[1, 1, 4]]}, "expected a polygon of at least 3 points"),
        ({"segmentation": {"size": [3, 3], "counts": [9]}}, "expected RLE of 20 x 24 pixels"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [9]}}, "expected RLE of 480 pixels, got 9"),
        ({"category_id": 2}, "'blue' is not a class; expected one of background, red, green"),
        ({"image_id": 5}, "expected an image_id of this file"),
    ],
)
def test_coco_that_does_not_fit_is_refused(folder, tmp_path, change, message):
    tree = {
        "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}],
        "images": [{"id": 0, "file_name": keys_of(folder)[0], "width": WIDTH, "height": HEIGHT}],
        "annotations": [{"image_id": 0, "category_id": 1, "segmentation": [[1, 1, 4, 1, 4, 3]], **change}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(tree))
    with pytest.raises(LabelError, match=message):
        receive.receive(folder, [str(tmp_path / "coco.json")])


def test_a_mask_is_corrected_and_the_earlier_one_stays_on_record(folder, tmp_path):
    keys = keys_of(folder)
    receive.receive(folder, [draw(tmp_path / "a", {keys[0]: mask_of(0)})])
    other = draw(tmp_path / "b", {keys[0]: mask_of(1)})
    with pytest.raises(LabelError, match="was answered with mask; --correct replaces an answer"):
        receive.receive(folder, [other])
    receive.receive(folder, [other], correct=True)
    np.testing.assert_array_equal(stored(folder, keys[0]), mask_of(1))
    assert sum(name.endswith(".png") for name in folder.masks.names()) == 2


def test_rle_and_polygons_are_rasterised():
    square = rasterised([[2, 1, 5, 1, 5, 3, 2, 3]], (8, 6))
    assert square.shape == (6, 8) and square[1:4, 2:6].all() and square.sum() == 12
    column = rasterised({"size": [3, 2], "counts": [1, 2, 3]}, (2, 3))
    assert column.astype(int).tolist() == [[0, 0], [1, 0], [1, 0]]


def region(kind, name, **value):
    return {"type": kind, "original_width": WIDTH, "original_height": HEIGHT, "value": {kind: [name], **value}}


def box(name, left, top, right, bottom):
    """A polygon around pixels [top, bottom) x [left, right)."""
    x, y = (
        (100 * (left + 0.5) / WIDTH, 100 * (right - 0.5) / WIDTH),
        (100 * (top + 0.5) / HEIGHT, 100 * (bottom - 0.5) / HEIGHT),
    )
    return region("polygonlabels", name, points=[[x[0], y[0]], [x[1], y[0]], [x[1], y[1]], [x[0], y[1]]])


def test_an_export_of_label_studio_holds_masks(folder, tmp_path):
    keys = keys_of(folder)
    unusable = {"from_name": "unusable", "type": "choices", "value": {"choices": ["unusable"]}}
    small = box("red", 1, 1, 9, 9)
    said = [[box("red", 4, 2, 14, 12), box("green", 0, 0, 3, 2)], [], [small, unusable], [small]]
    tasks = [
        {"id": at, "data": {"key": key}, "annotations": [{"id": 7, "completed_by": 1, "result": result}]}
        for at, (key, result) in enumerate(zip(keys, said, strict=False))
    ]
    tasks[3]["annotations"][0]["was_cancelled"] = True
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    with pytest.raises(LabelError, match="task 1: annotation 7: expected a brush or a polygon, got none"):
        receive.receive(folder, [str(tmp_path / "export.json")])
    got = receive.receive(folder, [str(tmp_path / "export.json")], take_good=True)
    assert got.taken == 3 and "export.json: pixels in no region are background" in got.notes
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[2:12, 4:14], expected[:2, :3] = 1, 2
    np.testing.assert_array_equal(stored(folder, keys[0]), expected)
    assert [state.given(folder)[key][0] for key in (keys[2], keys[3])] == [Status.UNUSABLE, Status.SKIP]


def test_each_pixel_has_the_class_that_most_people_gave_it(folder):
    kind = kind_of(folder)
    random = np.random.default_rng(0)
    drawn = random.integers(0, 3, (4, HEIGHT, WIDTH)).astype(np.uint8)
    drawn[0][drawn[0] == 0] = 255
    lines = [kind.drawn(Delivered("x", "k", Status.NOT_YET, "", str(who)), png(one)) for who, one in enumerate(drawn)]
    skip = Delivered("x", "k", Status.SKIP, "", "5")
    for count in (1, 2, 3, 4):
        found = kind.together([*lines[:count], skip])
        assert [line.annotator for line in found] == [*map(str, range(count)), "5"] and found[-1] == skip
        assert len({line.label for line in found[:-1]}) == 1
        mask = np.asarray(Image.open(io.BytesIO(kind.contents[found[0].label])))
        for at in np.ndindex(HEIGHT, WIDTH):
            (first, most), *others = Counter(drawn[(slice(count), *at)].tolist()).most_common(2)
            assert mask[at] == (255 if others and others[0][1] == most else first)


def png(mask):
    out = io.BytesIO()
    Image.fromarray(mask).save(out, "PNG")
    return out.getvalue()


class Draws:
    """An oracle of one's own that draws: at first one mask is wrong."""

    def __init__(self):
        self.asked = []

    def answer(self, requests):
        first, masks = not self.asked, [png(mask_of(number_of(key))) for key in requests.keys]
        self.asked.append(list(requests.keys))
        if first:
            masks[0] = png(mask_of(0)[:, :9])
        return Answers(np.full(len(masks), Status.MASK, np.uint8), np.zeros(len(masks), np.int32), masks=masks)


def test_an_oracle_of_ones_own_may_draw_and_what_cannot_be_used_is_asked_for_again(folder):
    config, oracle = folder.settings(), Draws()
    with pytest.raises(Waiting, match="5 of 6 answers are there") as waits:
        begin(check(config), oracle)
    first = oracle.asked[0]
    assert f"Draws: {first[0]}: mask: expected the image's 24 x 20 pixels, got 9 x 20" in str(waits.value)
    assert sorted(state.masks(folder)) == sorted(first[1:])
    ready = begin(check(config), oracle)
    assert oracle.asked[1] == first[:1]
    assert len(ready.pool.labeled) == 6
    for key in first:
        np.testing.assert_array_equal(stored(folder, key), mask_of(number_of(key)))


def test_a_plan_measures_training_on_the_masks_that_are_there(folder):
    checked, said = check(folder.settings()), []
    begun = plan(checked, start=4.0)
    assert "train" not in begun.seconds
    assert begun.unknown == ["the time of training is not in the plan: no image has a mask yet to measure it on"]
    assert begun.lines()[-1] == begun.unknown[0]
    with pytest.raises(Waiting):
        begin(checked, Draws())
    plan_once(checked, folder, said.append)
    assert said[0].startswith("plan: about") and "train" in said[0]
    assert len(said) == 1 or (len(said) == 2 and "this machine does other work now" in said[1])
    assert Plan(**folder.noted(PLAN)).unknown == []
