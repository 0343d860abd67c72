"""What needs no Label Studio: interfaces, tasks, addresses of images, annotations, agreement, masks, settings."""

from __future__ import annotations

import io
import random
import urllib.request
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from test_object_store import BUCKET, s3  # noqa: F401  the fixture

from alray.config import ConfigError, LabelConfig, RunConfig, TransformConfig
from alray.data.catalog import index
from alray.data.masks import VOID
from alray.data.oracle import Answers, OracleError, Requests, Status, checked
from alray.labeling.deliveries import Delivered, LabelError, of_task
from alray.labeling.label_studio.agreement import agreed
from alray.labeling.label_studio.images import Images, expires_soon
from alray.labeling.label_studio.interface import fitting, fitting_masks, for_classes, for_masks
from alray.labeling.label_studio.oracle import tasks_of
from alray.labeling.label_studio.regions import mask_of
from alray.labeling.label_studio.server import TOKEN, parts
from alray.labeling.registry import check
from alray.store import Store

CLASSES = ("ant", "bee & wasp", 'the "cat"')


@pytest.mark.parametrize("new_classes", [False, True])
@pytest.mark.parametrize("count", [2, 40])
def test_an_interface_that_alray_makes_fits_its_classes(new_classes: bool, count: int) -> None:
    classes = [*CLASSES, *map(str, range(count))]
    xml = for_classes(classes, new_classes)
    found = fitting(xml, classes, new_classes, "here")
    assert (found.control, found.image, found.classes, found.xml) == ("label", "image", tuple(classes), xml)
    tags = [tag.tag for tag in ElementTree.fromstring(xml).iter()]
    assert tags.count("Choice") == len(classes) + 1
    assert ("TextArea" in tags) == new_classes
    assert ('layout="select"' in xml) == (count == 40)


OWN = """<View><Header value="x"/><Image name="photo" value="$image"/>
<Choices name="animal" toName="photo"><Choice value="ANT" alias="ant"/><Choice value="bee"/>{}</Choices>
<Choices name="quality" toName="photo"><Choice value="good"/></Choices></View>"""


def test_an_interface_of_somebody_else_is_used_where_it_fits() -> None:
    found = fitting(OWN.format(""), ["ant", "bee"], False, "here")
    assert found.prediction("ant") == {
        "from_name": "animal", "to_name": "photo", "type": "choices", "value": {"choices": ["ant"]},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("xml", "classes", "said"),
    [
        (OWN.format(""), ["ant", "bee", "cow"], "'animal' has no choice for 'cow'"),
        (OWN.format('<Choice value="fly"/>'), ["ant", "bee"], "choices that are no class of the run, 'fly'"),
        (OWN.format("").replace('toName="photo"', 'toName="photo" choice="multiple"'), ["ant", "bee"], "one choice"),
        ('<View><Text name="t" value="$text"/></View>', ["ant"], "expected a labeling interface with <Image"),
        ("<View>", ["ant"], "is not XML"),
    ],
)
def test_an_interface_that_does_not_fit_is_refused(xml: str, classes: list[str], said: str) -> None:
    with pytest.raises(OracleError, match=f"^here: .*{said}"):
        fitting(xml, classes, False, "here")


def test_where_classes_may_come_they_are_added_to_the_interface() -> None:
    found = fitting(OWN.format('<Choice value="fly"/>'), ["ant", "bee", "cow"], True, "here")
    assert found.classes == ("ant", "bee", "fly", "cow")
    assert fitting(found.xml, found.classes, False, "here").classes == found.classes


def choice(name: str, control: str = "label") -> dict[str, Any]:
    return {"from_name": control, "to_name": "image", "type": "choices", "value": {"choices": [name]}}


def text(name: str) -> dict[str, Any]:
    return {"from_name": "new_class", "to_name": "image", "type": "textarea", "value": {"text": [name]}}


@pytest.mark.parametrize(
    ("result", "cancelled", "expected"),
    [
        ([choice("ant")], False, (Status.LABEL, "ant")),
        ([choice("ant"), choice("unusable", "unusable")], False, (Status.UNUSABLE, "")),
        ([choice("ant"), text(" dog ")], False, (Status.LABEL, "dog")),
        ([], True, (Status.SKIP, "")),
        ([choice("ant")], True, (Status.SKIP, "")),
        ([], False, None),
    ],
)
def test_an_annotation_is_a_class_a_skip_or_unusable(
    result: list[Any], cancelled: bool, expected: tuple[Status, str] | None
) -> None:
    task = {"id": 3, "data": {"key": "a.png"}, "annotations": [
        {"result": result, "was_cancelled": cancelled, "completed_by": 7},
    ]}  # fmt: skip
    found = list(of_task("here", 1, task))
    assert [(line.status, line.label) for line in found] == ([expected] if expected else [])
    assert all((line.key, line.annotator, line.where) == ("a.png", "7", "here: task 3") for line in found)


def test_two_choices_in_one_annotation_are_a_problem() -> None:
    both = {"data": {"key": "a.png"}, "annotations": [{"result": [choice("ant"), choice("bee")]}]}
    (line,) = of_task("here", 1, both)
    assert line.problem == "expected one choice, got ant, bee"


def votes(**said: str) -> dict[str, list[Any]]:
    """Votes of annotators by image: "1a 2b" is a of annotator 1, then b of annotator 2; - is a skip, ! unusable."""
    found = {}
    for key, words in said.items():
        annotations = [
            {"result": [choice("unusable", "unusable")] if name == "!" else [choice(name)],
             "was_cancelled": name == "-", "completed_by": int(who)}
            for who, name in words.split()
        ]  # fmt: skip
        found[key] = list(of_task("here", 1, {"data": {"key": key}, "annotations": annotations}))
    return found


@pytest.mark.parametrize(
    ("said", "enough", "expected"),
    [
        ("", 1, None), ("1a", 1, "a"), ("1a", 2, None), ("1a 2a", 2, "a"), ("1a 2b", 2, "open"), ("1a 2b", 1, "open"),
        ("1a 2b 3b", 2, "b"), ("1a 1b", 2, None), ("1a 1b", 1, "b"), ("1a 2-", 2, "a"), ("1- 2-", 2, "skip"),
        ("1! 2a", 2, "open"), ("1! 2a 3!", 2, "unusable"), ("1a 2b 1b", 2, "b"), ("1a 2b 3c 4c", 2, "c"),
    ],
)  # fmt: skip
def test_most_people_are_right_and_a_tie_waits_for_one_more(said: str, enough: int, expected: str | None) -> None:
    found = agreed(votes(k=said), enough, "majority")
    settled = [line.label or line.status.name.lower() for line in found.settled]
    assert settled == ([] if expected in (None, "open") else [expected])
    assert len(found.open) == (expected == "open")
    if expected == "open":
        assert "one more annotation decides" in found.open[0]


def test_masks_of_several_people_are_one_answer() -> None:
    """What makes masks equal is tested with them; here it is that equal answers are settled, and others are not."""
    lines = [
        Delivered("here", "k", status, label, who)
        for status, label, who in [(Status.MASK, "a.png", "1"), (Status.UNUSABLE, "", "2"), (Status.MASK, "b.png", "3")]
    ]

    def together(given: Sequence[Delivered]) -> list[Delivered]:
        return [replace(line, label="c.png" if line.label else "") for line in given]

    assert [line.label for line in agreed({"k": lines}, 3, "majority", together).settled] == ["c.png"]
    assert agreed({"k": lines[:2]}, 2, "majority", together).open == [
        "k: people disagree, mask (annotator 1), unusable (annotator 2); one more annotation decides"
    ]


def test_who_agreed_is_on_record() -> None:
    (line,) = agreed(votes(k="4a 2a 9b"), 3, "majority").settled
    assert line.annotator == "4, 2, 9"


def test_dawid_skene_trusts_people_who_are_usually_right() -> None:
    """Two who are right nine times of ten, and three who are right four times of ten (of three classes)."""
    pytest.importorskip("crowdkit", reason="crowd-kit: pip install 'alray[label-studio]'")
    draw, truth, said = random.Random(0), {}, {}
    for number in range(400):
        right = truth[f"k{number}"] = draw.choice("abc")
        says = [right if draw.random() < share else draw.choice("abc".replace(right, ""))
                for share in (0.9, 0.9, 0.4, 0.4, 0.4)]  # fmt: skip
        said[f"k{number}"] = " ".join(f"{who}{name}" for who, name in enumerate(says, 1))

    def correct(how: Any) -> float:
        found = agreed(votes(**said), 5, how).settled
        return sum(line.label == truth[line.key] for line in found) / len(truth)

    assert agreed(votes(**said), 5, "dawid_skene").open == []
    assert correct("dawid_skene") > 0.85 > correct("majority") + 0.05


@pytest.mark.skipif("__import__('importlib.util').util.find_spec('crowdkit')", reason="crowd-kit: it is installed")
def test_dawid_skene_without_crowd_kit_says_what_to_install() -> None:
    with pytest.raises(OracleError, match=r"pip install 'alray\[label-studio\]'"):
        agreed(votes(k="1a 2b"), 2, "dawid_skene")


def folder_of(root: Path, suffix: str = "png") -> str:
    for number in range(6):
        path = root / "files" / "photos" / f"{number} é.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40 + number, 30), (40 * number, 90, 0)).save(path)
    return str(root / "files" / "photos")


def test_images_are_embedded_or_served_from_a_folder_of_the_server(tmp_path: Path) -> None:
    catalog = index(folder_of(tmp_path), str(tmp_path / "catalog"), yes=True)
    rows = np.array([4, 1])
    embedded = Images(LabelConfig(), catalog).addresses(rows)
    assert all(address.startswith("data:image/jpeg;base64,") for address in embedded)
    sizes = [Image.open(io.BytesIO(urllib.request.urlopen(address).read())).size for address in embedded]
    assert sizes == [(44, 30), (41, 30)]
    served = Images(LabelConfig(local_root=str(tmp_path / "files")), catalog)
    addresses = served.addresses(rows)
    assert addresses == [f"/data/local-files/?d=photos/{number}%20%C3%A9.png" for number in (4, 1)]
    assert served.folders(addresses) == [str(tmp_path / "files" / "photos")]
    at_root = Images(LabelConfig(local_root=str(tmp_path / "files" / "photos")), catalog).addresses(rows)
    assert at_root == embedded  # Label Studio serves only folders in its document root
    assert Images(LabelConfig(local_root=str(tmp_path / "else")), catalog).addresses(rows) == embedded
    assert Images(LabelConfig(local_root=str(tmp_path / "files"), images="embed"), catalog).addresses(rows) == embedded
    (uri,) = Images(LabelConfig(images="uri"), catalog).addresses(rows[:1])
    assert uri == str(tmp_path / "files" / "photos" / "4 é.png")


def test_images_that_browsers_do_not_show_are_embedded(tmp_path: Path) -> None:
    catalog = index(folder_of(tmp_path, "tiff"), str(tmp_path / "catalog"), yes=True)
    (address,) = Images(LabelConfig(local_root=str(tmp_path / "files")), catalog).addresses(np.array([2]))
    assert address.startswith("data:image/jpeg")


def test_an_image_that_is_gone_is_an_error(tmp_path: Path) -> None:
    catalog = index(folder_of(tmp_path), str(tmp_path / "catalog"), yes=True)
    (tmp_path / "files" / "photos" / "2 é.png").unlink()
    with pytest.raises(OracleError, match=r"2 é\.png: the image cannot be read"):
        Images(LabelConfig(), catalog).addresses(np.array([1, 2]))


def test_images_in_s3_have_presigned_urls_that_are_renewed(s3: str, tmp_path: Path) -> None:  # noqa: F811
    for path in Path(folder_of(tmp_path)).iterdir():
        Store(f"{s3}/studio").write_bytes(path.name, path.read_bytes())
    catalog = index(f"{s3}/studio", str(tmp_path / "catalog"), yes=True)
    (address,) = Images(LabelConfig(), catalog).addresses(np.array([3]))
    assert f"/{BUCKET}/studio/3" in address
    assert urllib.request.urlopen(address).read() == (tmp_path / "files" / "photos" / "3 é.png").read_bytes()
    now = datetime.now(timezone.utc)
    assert not expires_soon(address, now)
    assert expires_soon(address, now + timedelta(days=4))
    assert not expires_soon("https://host/image.png", now)
    (uri,) = Images(LabelConfig(images="uri"), catalog).addresses(np.array([3]))
    assert uri == f"{s3}/studio/3 é.png"


def test_tasks_carry_key_batch_and_prediction() -> None:
    keys, rows = ["a", "b", "c"], np.arange(3)
    asked = Requests(rows, keys, keys, 0, np.array([1, -1, 0]), np.array([0.7, np.nan, np.nan]), rows / 1.0)
    shown = fitting(for_classes(CLASSES, False), CLASSES, False, "here")
    tasks = list(tasks_of(asked, ["x", "y", "z"], "run, round 0", CLASSES, shown))
    assert [task["data"] for task in tasks] == [
        {"image": address, "key": key, "batch": "run, round 0"} for key, address in zip(keys, "xyz", strict=True)
    ]
    (one,) = tasks[0]["predictions"]
    assert (one["score"], one["result"]) == (0.7, [choice("bee & wasp")])
    assert "predictions" not in tasks[1]
    assert "score" not in tasks[2]["predictions"][0]


def test_large_tasks_are_pushed_in_small_requests() -> None:
    small, large = [{"data": {"image": "x"}}] * 230, [{"data": {"image": "x" * 7_000_000}}] * 5
    assert [len(part) for part in parts(small)] == [100, 100, 30]
    assert [len(part) for part in parts(large)] == [2, 2, 1]
    assert list(parts([])) == []


def region(kind: str, name: str, **value: Any) -> dict[str, Any]:
    return {
        "from_name": kind.removesuffix("labels"), "to_name": "image", "type": kind, "original_width": 20,
        "original_height": 10, "image_rotation": 0, "value": {kind: [name], **value},
    }  # fmt: skip


def rectangle(name: str, left: float, top: float, right: float, bottom: float) -> dict[str, Any]:
    points = [[left, top], [right, top], [right, bottom], [left, bottom]]
    return region("polygonlabels", name, points=points, closed=True)


def test_polygons_become_a_mask() -> None:
    square, inner = rectangle("bee", 25, 20, 75, 80), rectangle("ant", 45, 40, 55, 60)
    mask = mask_of({"result": [square, inner, choice("good", "quality")]}, ["ant", "bee"], VOID)
    assert (mask.shape, mask.dtype) == ((10, 20), np.uint8)
    assert mask[0, 0] == VOID
    assert mask[5, 7] == 1
    assert mask[5, 10] == 0
    assert abs(int((mask != VOID).sum()) - 60) <= 22  # 10 x 6 pixels, and at most the border
    assert mask_of({"result": [square]}, ["ant", "bee"], 0)[0, 0] == 0


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ([], "annotation 4: expected a brush or a polygon, got none"),
        ([choice("ant")], "expected a brush or a polygon, got none"),
        ([region("polygonlabels", "cow", points=[])], "expected a region of one of ant, bee, got cow"),
        ([region("polygonlabels", "ant", points=[[1, 1]])], "a polygon with 3 corners or more, got 1"),
        ([region("rectanglelabels", "ant", x=1, y=1, width=5, height=5)], "brushlabels or polygonlabels .* got r"),
        ([rectangle("ant", 1, 1, 9, 9) | {"image_rotation": 90}], "an image that is not rotated"),
        ([rectangle("ant", 1, 1, 9, 9) | {"original_width": None}], "expected regions with the size of one image"),
        ([rectangle("ant", 1, 1, 9, 9), rectangle("ant", 1, 1, 9, 9) | {"original_width": 30}], "of one image"),
    ],
)  # fmt: skip
def test_drawings_that_are_no_mask_are_refused(result: list[Any], said: str) -> None:
    with pytest.raises(LabelError, match=said):
        mask_of({"id": 4, "result": result}, ["ant", "bee"], VOID)


# A brush of 20 x 10 pixels that covers rows 2 to 4 and columns 3 to 10, as mask2rle of label-studio-sdk 2.0 packs it.
RECORDED = [0, 0, 3, 32, 57, 27, 254, 171, 0, 195, 255, 248, 188, 3, 15, 255, 226, 240, 12, 63, 255, 192, 108, 192, 0]


def test_brushes_become_a_mask() -> None:
    pytest.importorskip("label_studio_sdk", reason="label-studio-sdk: pip install 'alray[label-studio]'")
    drawn = np.zeros((10, 20), bool)
    drawn[2:5, 3:11] = True
    mask = mask_of({"result": [region("brushlabels", "bee", rle=RECORDED)]}, ["ant", "bee"], VOID)
    np.testing.assert_array_equal(mask, np.where(drawn, 1, VOID))
    with pytest.raises(LabelError, match="expected a brush of 10 x 20 pixels, got something else"):
        mask_of({"result": [region("brushlabels", "bee", rle=RECORDED[:-9])]}, ["ant", "bee"], VOID)


@pytest.mark.parametrize("seed", range(5))
def test_masks_that_are_packed_as_brushes_come_back(seed: int) -> None:
    brush = pytest.importorskip("label_studio_sdk.converter.brush", reason="label-studio-sdk")
    random = np.random.default_rng(seed)
    numbers = random.integers(0, 3, (5, 10)).repeat(2, 0).repeat(2, 1)  # two classes, and 2 where nothing is drawn
    regions = [
        region("brushlabels", name, rle=brush.mask2rle(np.where(numbers == at, 255, 0).astype(np.uint8)))
        for at, name in enumerate(("ant", "bee"))
    ]
    np.testing.assert_array_equal(mask_of({"result": regions}, ["ant", "bee"], 2), numbers)


def test_the_interface_for_masks_has_a_brush_and_polygons() -> None:
    xml = for_masks(["road", "sky"], False)
    found = {tag.tag: [label.get("value") for label in tag] for tag in ElementTree.fromstring(xml) if len(tag)}
    assert found == {"BrushLabels": ["road", "sky"], "PolygonLabels": ["road", "sky"], "Choices": ["unusable"]}
    fits = fitting_masks(xml, ["road", "sky"], False, "here")
    assert (fits.image, fits.classes, fits.xml) == ("image", ("road", "sky"), xml)
    for classes, said in [
        (["road", "sky", "sea"], "'brush' has no label for 'sea'"),
        (["road"], "'brush' has labels that are no class, 'sky'"),
    ]:
        with pytest.raises(OracleError, match=f"^here: .*{said}"):
            fitting_masks(xml, classes, False, "here")
    with pytest.raises(OracleError, match="and <BrushLabels> or <PolygonLabels> for it, got <Choices>"):
        fitting_masks(for_classes(["road"], False), ["road"], False, "here")


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"url": "studio.example.org"}, "labels.url: expected http://"),
        ({"url": "https://me:secret@studio.example.org"}, "labels.url: expected no credentials"),
        ({}, "label-studio-sdk|LABEL_STUDIO_API_KEY"),
    ],
)
def test_settings_with_which_nobody_can_be_asked_are_refused_first(
    labels: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    with pytest.raises(ValueError, match=said) as refused:
        check(RunConfig(labels=LabelConfig(oracle="label_studio", **labels)))
    assert "secret" not in str(refused.value)


def test_annotators_are_not_weighed_by_masks() -> None:
    labels = LabelConfig(oracle="label_studio", url="http://127.0.0.1:9", annotations=2, agreement="dawid_skene")
    with pytest.raises(ConfigError, match=r"labels.agreement: expected majority, got dawid_skene: a pixel of a mask"):
        check(RunConfig(task="segmentation", labels=labels, strategy="entropy", transform=TransformConfig(resize=0)))


def test_an_answer_may_say_who_gave_it() -> None:
    class Two:
        def answer(self, requests: Requests) -> Answers:
            return Answers(np.array([1], np.uint8), np.array([0], np.int32), ["ant"], ["me", "you"])

    rows = np.arange(1)
    asked = Requests(rows, ["a"], ["a"], 0, np.zeros(1, np.int32), rows / 1.0, rows / 1.0)
    with pytest.raises(OracleError, match="expected one answer for each of 1 requests"):
        checked(Two(), asked)
