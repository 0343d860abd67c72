"""Segmentation: masks follow their images, metrics agree with scikit-learn, a network learns, strategies fit."""

from __future__ import annotations

import io
import re
import runpy
import shlex
from collections.abc import Generator, Iterator
from dataclasses import replace as replace_fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, jaccard_score, recall_score

from alray.cli import options
from alray.cluster import Cluster
from alray.config import (
    ConfigError,
    DataConfig,
    FeatureConfig,
    ModelConfig,
    RunConfig,
    TransformConfig,
    identity,
    replace,
)
from alray.data import masks as masks_module
from alray.data.catalog import Catalog, CatalogError, index
from alray.data.fetch import ImageError
from alray.data.mask_check import check_masks, mask_sizes, with_masks
from alray.data.masks import Masks, masks_of
from alray.data.paired import PairTransform
from alray.data.sources.folder import FOLDER
from alray.data.sources.parquet import PARQUET
from alray.features.arrays import PIXEL, ArraySource
from alray.features.table import commit, write_part
from alray.keyed import priorities
from alray.models.segmenter import confusion, create_segmenter, segment_images, uncertainties
from alray.prepare import prepare, with_absolute_paths
from alray.selection.protocol import Context, SelectionError
from alray.selection.registry import build_for_segmentation
from alray.selection.select import select_from
from alray.store import Store
from alray.train.batches import Batch, BatchPlan
from alray.train.evaluate import EvaluateError, segmentation_metrics
from alray.train.loop import fit
from alray.train.losses import cross_entropy, pixel_losses
from alray.train.measure import model_source
from alray.train.objective import Place
from alray.train.segment import CONFUSION, Confusions, SegmentationLearner, as_stored, extraction_of, total_confusion
from alray.train.supervised import SupervisedRecipe, supervised_recipe
from alray.train.targets import MaskTargets

SIZE, C, VOID = 32, 3, 11
MODEL = ModelConfig(backbone="test_resnet")


def scene(row: int) -> tuple[np.ndarray, np.ndarray]:
    """Dark ground with a red and a green square; a void border of one pixel."""
    rng = np.random.default_rng(row)
    image, mask = rng.integers(0, 60, (SIZE, SIZE, 3)), np.zeros((SIZE, SIZE), int)
    for number, left in ((1, 2), (2, 18)):
        top = int(rng.integers(2, 18))
        image[top : top + 12, left : left + 12, number - 1] += 180
        mask[top : top + 12, left : left + 12] = number
    mask[0] = mask[-1] = VOID
    return image.astype(np.uint8), mask.astype(np.uint8)


@pytest.mark.parametrize("seed", [None, 4])
def test_a_mask_is_cut_as_its_image(seed: int | None) -> None:
    transform = PairTransform(TransformConfig(size=48), seed)
    places = set()
    for row in range(20):
        pixels, mask = scene(row)
        mask[mask == VOID] = 0
        image, labels = transform.pair(Image.fromarray(pixels), mask, row, 1)
        assert image.shape == (48, 48, 3) and labels.shape == (48, 48)
        seen = np.where(image[..., 0] > 120, 1, np.where(image[..., 1] > 120, 2, 0))
        assert (seen == labels).mean() > 0.9
        places.add((labels > 0).mean())
        again = transform.pair(Image.fromarray(pixels), mask, row, 1)
        assert np.array_equal(again[0], image) and np.array_equal(again[1], labels)
    assert len(places) > 15 or seed is None


@pytest.mark.parametrize("kind", ["random", "perfect", "missing class"])
def test_metrics_against_scikit_learn(kind: str) -> None:
    rng = np.random.default_rng(0)
    mask = rng.integers(0, C, (4, 20, 30))
    predicted = rng.integers(0, C, mask.shape) if kind != "perfect" else mask.copy()
    if kind == "missing class":
        mask[mask == 1] = 0
        predicted[predicted == 1] = 2
    mask[:, :2] = VOID
    total = sum(confusion(p, m, C, VOID) for p, m in zip(predicted, mask, strict=True))
    got = segmentation_metrics(np.asarray(total, float), 4, ["a", "b", "c"])
    true, guess = mask[mask != VOID], predicted[mask != VOID]
    there = np.union1d(true, guess)
    assert got["top1"] == pytest.approx(accuracy_score(true, guess))
    assert got["miou"] == pytest.approx(jaccard_score(true, guess, average="macro", labels=there))
    assert got["balanced_accuracy"] == pytest.approx(recall_score(true, guess, average="macro", labels=np.unique(true)))
    assert [value is None for value in got["per_class_iou"]] == [number not in there for number in range(C)]


def test_void_alone_cannot_be_evaluated() -> None:
    with pytest.raises(EvaluateError, match="all masks are void"):
        segmentation_metrics(np.zeros((C, C)), 3, ["a", "b", "c"])


def test_uncertainties_of_pixels() -> None:
    """Against NumPy."""
    logits = np.random.default_rng(0).normal(size=(3, 5, 6, 7))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    top = np.sort(p, axis=1)
    each = {
        "confidence": 1 - top[:, -1], "margin": 1 + top[:, -2] - top[:, -1], "entropy": -(p * np.log(p)).sum(1)
    }  # fmt: skip
    found = uncertainties(torch.from_numpy(logits))
    for name, values in each.items():
        np.testing.assert_allclose(found[name][:, 0], np.log(values.mean((1, 2))), rtol=1e-6)


def test_uncertainties_of_pixels_do_not_saturate() -> None:
    """Images of which the model is more and more certain, in float32: each is less uncertain than the one before."""
    gaps = torch.tensor([0.1, 1.0, 10.0, 17.0, 18.0, 50.0, 100.0, 110.0, 1000.0, 1e4])
    logits = torch.stack([gaps, torch.zeros(10), torch.full((10,), -1.5)], 1)[:, :, None, None].expand(-1, -1, 4, 3)
    for values in uncertainties(logits).values():
        assert (np.diff(values[:, 0]) < 0).all()
        assert np.isfinite(values).all()
    assert all(np.isnan(values).all() for values in uncertainties(logits * torch.nan).values())


def test_void_pixels_have_no_loss() -> None:
    logits = torch.randn(2, C, 4, 4, generator=torch.Generator().manual_seed(0))
    masks = torch.randint(0, C, (2, 4, 4), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    masks[0, :2] = VOID
    masks[1] = VOID
    losses = pixel_losses(cross_entropy, logits, masks, VOID)
    p = logits[0].softmax(0)
    expected = np.mean([-np.log(float(p[int(masks[0, y, x]), y, x])) for y in (2, 3) for x in range(4)])
    assert float(losses[0]) == pytest.approx(expected, rel=1e-5)
    assert float(losses[1]) == 0.0


class Scenes:
    def training(self, plan: BatchPlan, first_epoch: int) -> Generator[Batch, None, None]:
        for tables in plan.streams(first_epoch, 12, 17):
            for table in tables:
                yield self.block(table["row"].to_numpy())

    def validation(self) -> Iterator[Batch]:
        yield self.block(np.arange(100, 120))

    def block(self, rows: np.ndarray) -> Batch:
        pairs = [scene(row) for row in rows]
        images, masks = (np.stack(part) for part in zip(*pairs, strict=True))
        masks[masks == VOID] = masks_module.VOID  # as they are decoded
        return {"row": rows, "label": np.zeros(len(rows), np.int32), "image": images, "mask": masks}


@pytest.mark.parametrize("loss", ["cross_entropy", "focal", "label_smoothing"])
def test_a_network_learns_to_segment(loss: str, tmp_path: Path) -> None:
    config = RunConfig(
        task="segmentation", model=MODEL.model_dump(), split={"val_size": 20, "val_how": "random"}, top_k=(),
        transform={"size": SIZE, "resize": 0},
        train={"epochs": 12, "batch_size": 8, "optimizer": "adamw", "lr": 3e-3, "schedule": "cosine", "loss": loss},
    )  # type: ignore[arg-type]  # fmt: skip
    rows, val = np.arange(40), np.arange(100, 120)
    recipe = SupervisedRecipe(
        config, MaskTargets(NAMED), 0, 0, rows, rows * 0, val, val * 0, None, Store(str(tmp_path))
    )
    summary = fit(
        recipe, Place(), Scenes(), wrap=lambda m: m, report=lambda *_: None, tell=lambda make: make() and None
    )
    assert summary.val_accuracy is not None and summary.val_accuracy > 0.85
    assert summary.history[0].val_accuracy < summary.val_accuracy
    model = create_segmenter(MODEL, C, 5, SIZE)
    model.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    images, masks = (np.stack(part) for part in zip(*[scene(row) for row in val], strict=True))
    batches = list(segment_images(model, images, 7, torch.device("cpu")))
    predicted = np.concatenate([logits.argmax(1).numpy() for _, logits in batches])
    right = [(p == m)[m != VOID].mean() for p, m in zip(predicted, masks, strict=True)]
    assert np.mean(right) == pytest.approx(summary.val_accuracy, abs=1e-6)
    assert batches[0][0].shape[1] == create_segmenter(MODEL, C, 0, SIZE).narrow[0].in_channels


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenetv3_small_100", "vit_tiny_patch16_224"])
def test_backbones_of_other_shapes(backbone: str) -> None:
    model = create_segmenter(ModelConfig(backbone=backbone), C, 0, 64).eval()
    embedding, logits = model(torch.zeros(2, 64, 64, 3, dtype=torch.uint8))
    assert logits.shape == (2, C, 64, 64) and embedding.ndim == 2


CLASSES = ("ground", "red", "green")


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def write(folder: Path, count: int, masks: int) -> None:
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for row in range(count):
        image, mask = (encoded(part) for part in scene(row))
        (folder / "images" / f"{row:02d}.png").write_bytes(image)
        if row < masks:
            (folder / "masks" / f"{row:02d}_ids.png").write_bytes(mask)


def in_folder(folder: Path, **changes: object) -> RunConfig:
    return RunConfig(
        task="segmentation", root=str(folder / "runs"), rounds=2, budget=1, strategy="random", top_k=(),
        data={"root": str(folder / "images"), "mask_root": str(folder / "masks"), "mask_suffix": "_ids.png",
              "classes": CLASSES, "ignore_label": VOID, **changes},
        split={"seed_set_size": 1}, transform={"size": SIZE, "resize": 0}, model=MODEL,
    )  # type: ignore[arg-type]  # fmt: skip


def in_parquet(place: Path, rows: range, masks: list[bytes | None] | None = None, classes: str = "") -> Catalog:
    """Frames of 2 a row group; the classes are ground, red and green."""
    images = [encoded(scene(row)[0]) for row in rows]
    masks = masks or [encoded(scene(row)[1]) for row in rows]
    table = pa.table({"frame": [f"f{row}" for row in rows], "image": images, "mask": masks, "other": masks})
    place.mkdir(parents=True, exist_ok=True)
    named = table.replace_schema_metadata({"classes": classes or ",".join(CLASSES)})
    pq.write_table(named, place / "train.parquet", row_group_size=2)
    return index(str(place / "train.parquet"), str(place / "catalog"), key="frame", label_column="")


def test_masks_in_a_folder(tmp_path: Path) -> None:
    write(tmp_path, 6, 5)
    catalog = index(str(tmp_path / "images"), str(tmp_path / "catalog"), classes=CLASSES)
    config = DataConfig(mask_root=str(tmp_path / "masks"), mask_suffix="_ids.png", ignore_label=VOID)
    masks = masks_of(config, catalog)
    check_masks(masks, catalog, np.arange(5), mask_sizes(masks, catalog))
    with pytest.raises(CatalogError, match=r"1 of 6 images have no mask, first 05.png: expected .*05_ids.png"):
        check_masks(masks, catalog, np.arange(6), mask_sizes(masks, catalog))
    references: pa.Table = catalog.references(np.array([3, 1]))
    decoded = [masks.decode(data, "x") for data in masks.fetch(references)]
    assert np.array_equal(decoded[0], channels(scene(1)[1])) and np.array_equal(decoded[1], channels(scene(3)[1]))
    with pytest.raises(CatalogError, match="mask_root: expected a folder of masks"):
        mask_sizes(masks_of(DataConfig(), catalog), catalog)
    other = replace_fields(masks, image_suffix="_rgb.png")
    with pytest.raises(CatalogError, match="image_suffix: .* end with _rgb.png, got 6 of 6 that do not, first 00.png"):
        check_masks(other, catalog, np.arange(6), mask_sizes(other, catalog))


def channels(mask: np.ndarray) -> np.ndarray:
    """Where no class is ignored, only void has another number."""
    return np.where(mask == VOID, masks_module.VOID, mask)


def test_masks_in_parquet_beside_the_images(tmp_path: Path) -> None:
    catalog = in_parquet(tmp_path, range(6))
    assert catalog.classes == CLASSES and (catalog.labels() == -1).all()
    there = masks_of(DataConfig(ignore_label=VOID), catalog)
    check_masks(there, catalog, np.arange(6), mask_sizes(there, catalog))
    found = [there.decode(data, "x") for data in there.fetch(catalog.references(np.array([2, 5])))]
    assert np.array_equal(found[0], channels(scene(2)[1])) and np.array_equal(found[1], channels(scene(5)[1]))
    with pytest.raises(CatalogError, match="expected a column 'labels' for the masks, got frame, image, mask"):
        mask_sizes(masks_of(DataConfig(mask_column="labels"), catalog), catalog)


@pytest.mark.parametrize(
    ("key", "image_suffix", "expected"),
    [
        ("train/frame7.jpg", "", "/m/train/frame7_ids.png"),
        ("frame7", "", "/m/frame7_ids.png"),
        ("v1.0/train/frame7", "", "/m/v1.0/train/frame7_ids.png"),
        ("v1.0/frame.7", "", "/m/v1.0/frame.7_ids.png"),
        ("a.b.JPEG", "", "/m/a.b_ids.png"),
        ("train/ulm/x_leftImg8bit.png", "_leftImg8bit.png", "/m/train/ulm/x_ids.png"),
    ],
)
def test_the_name_of_a_mask(key: str, image_suffix: str, expected: str) -> None:
    assert Masks(FOLDER, "", "/m", image_suffix, "_ids.png", VOID, CLASSES).uri(key) == expected


NAMED = Masks(PARQUET, "mask", "", "", ".png", VOID, CLASSES)


@pytest.mark.parametrize(
    ("ignore", "classes", "names", "expected"),
    [
        (11, CLASSES, ("ground", "red", "green"), [0, 1, 2, 255]),
        (3, (*CLASSES, "Unlabelled"), ("ground", "red", "green"), [0, 1, 2, 255]),
        (1, ("ground", "nothing", "red", "green"), ("ground", "red", "green"), [0, 255, 1, 2]),
        (0, ("nothing", *CLASSES), ("ground", "red", "green"), [255, 0, 1, 2]),
    ],
)
def test_an_ignored_class_has_no_channel(
    ignore: int, classes: tuple[str, ...], names: tuple[str, ...], expected: list[int]
) -> None:
    masks = replace_fields(NAMED, ignore=ignore, classes=classes)
    assert masks.names == names and masks.num_classes == 3
    numbers = np.array([[0, 1, 2, 3 if len(classes) == 4 else ignore]], np.uint8)
    assert masks.decode(encoded(numbers), "x").tolist() == [expected]


def test_255_classes_and_void_are_the_most(tmp_path: Path) -> None:
    catalog = replace_fields(in_parquet(tmp_path, range(2)), classes=tuple(map(str, range(256))))
    assert masks_of(DataConfig(), catalog).num_classes == 255
    with pytest.raises(
        CatalogError, match="1 to 255 classes besides void in 8-bit masks, got 0 of 1 .number 0 is void"
    ):
        masks_of(DataConfig(classes=("sky",), ignore_label=0), catalog)
    with pytest.raises(CatalogError, match="got 256 of 257"):
        masks_of(DataConfig(), replace_fields(catalog, classes=tuple(map(str, range(257)))))


BAD_MASKS = [
    (encoded(np.full((2, 2), 7, np.uint8)), "mask: expected 0 to 2 or 11 .void., got 7"),
    (encoded(np.full((2, 2), 65_536 - 250, np.uint16)), "mask: expected 0 to 2 or 11 .void., got 65286"),
    (
        encoded(np.zeros((2, 2, 3), np.uint8)),
        "mask: expected one class number per pixel, got an image of mode RGB with ",
    ),
    (encoded(np.full((2, 2), -256, np.int32), "TIFF"), "mask: expected a PNG of class numbers, got TIFF"),
    (encoded(np.zeros((2, 2), np.uint8), "JPEG"), "mask: expected a PNG of class numbers, got JPEG"),
    (b"nothing", "mask: cannot be decoded"),
    (encoded(np.random.default_rng(0).integers(0, 3, (40, 40), np.uint8))[:-200], "mask: cannot be decoded"),
    (b"", "no mask: it has no bytes"),
]


@pytest.mark.parametrize(("data", "message"), BAD_MASKS)
def test_bad_masks_are_named(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=f"frame1: {message}"):
        NAMED.decode(data, "frame1")


def test_every_mask_is_opened_once_before_the_first_run(tmp_path: Path) -> None:
    """Broken ones are counted and named, all kinds at once; what was fine is not read again."""
    void, small = np.full((SIZE, SIZE), VOID, np.uint8), np.zeros((4, 6), np.uint8)
    masks = [encoded(scene(row)[1]) for row in range(5)]
    bad = [None, b"", *map(encoded, (void, small)), BAD_MASKS[0][0]]
    catalog = in_parquet(tmp_path, range(10), [*masks, *bad])
    config, rows, fine = DataConfig(ignore_label=VOID), np.arange(10), Store(str(tmp_path / "fine"))
    test = rows[:0]
    with pytest.raises(CatalogError, match="^5 of 10 masks cannot be used; the first:") as refused:
        with_masks(config, catalog, rows, test, fine)
    assert str(refused.value).splitlines()[1:] == [
        "  f5: no mask: its bytes are null",
        "  f6: no mask: it has no bytes",
        f"  f7: mask: expected some class, got only void pixels ({VOID})",
        f"  f8: mask: expected the image's {SIZE} x {SIZE} pixels, got 6 x 4",
        f"  f9: mask: expected 0 to 2 or {VOID} (void), got 7 in 4 pixels",
    ]
    assert not fine.names()
    with_masks(config.model_copy(update={"check": "none"}), catalog, rows, test, fine)
    with_masks(config, catalog, rows[:5], test, fine)
    assert len(fine.names()) == 2  # what was found, and the content that was read
    masks[0] = masks[0][:-30] + b"x" * 30  # as many bytes: only their file's time tells
    in_parquet(tmp_path, range(10), [*masks, *bad])
    for store in (fine, Store(str(tmp_path / "other"))):
        with pytest.raises(CatalogError, match="^1 of 5 masks cannot be used; the first:\n  f0: mask: cannot be dec"):
            with_masks(config, catalog, rows[:5], test, store)


def test_a_broken_mask_stops_a_run_before_it_has_a_directory(tmp_path: Path) -> None:
    write(tmp_path, 4, 4)
    (tmp_path / "masks" / "02_ids.png").write_bytes(b"nothing")
    with pytest.raises(
        CatalogError, match="1 of 4 masks cannot be used; the first:\n  02.png: mask: cannot be decoded"
    ):
        prepare(in_folder(tmp_path))
    assert not list((tmp_path / "runs").glob("run-*"))
    assert prepare(in_folder(tmp_path, check="none")).run.has("run.json")


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_another_annotation_is_another_run(tmp_path: Path, kind: str) -> None:
    """The same masks elsewhere are the same run, repaired ones are another, and are compared anew."""

    def prepared(place: str, repaired: bool = False, column: str = "mask") -> tuple[str, str]:
        if kind == "folder":
            write(tmp_path / place, 4, 4)
            if repaired:
                path = tmp_path / place / "masks" / "01_ids.png"
                path.write_bytes(encoded(np.zeros((SIZE, SIZE), np.uint8)))
            config = in_folder(tmp_path / place)
        else:
            masks = [encoded(scene(row)[1]) for row in range(4)]
            in_parquet(tmp_path / place, range(4), [*masks[:3], masks[0]] if repaired else masks)
            config = in_folder(tmp_path / place, root=str(tmp_path / place / "train.parquet"), mask_root="")
            config = replace(config, {"data.key": "frame", "data.mask_column": column})
        ready = prepare(config)
        learner = SegmentationLearner(ready.config, ready.catalog, Cluster(1, 0, False))
        measure = Confusions(learner._source(None), config.transform, config.features, learner.masks)
        return ready.run.read_json("run.json")["fingerprint"], extraction_of(
            measure, ready.catalog, np.arange(4)
        ).fingerprint

    first = prepared("a")
    assert prepared("b") == first
    for changed in (prepared("c", repaired=True), prepared("d", column="other") if kind == "parquet" else first[::-1]):
        assert changed[0] != first[0] and changed[1] != first[1]


def test_numbers_of_masks_are_part_of_what_is_compared(tmp_path: Path) -> None:
    source = model_source(in_folder(tmp_path), replace_fields(in_parquet(tmp_path, range(2))), None)
    marks = [
        str(Confusions(source, TransformConfig(), FeatureConfig(), masks).identity())
        for masks in (NAMED, replace_fields(NAMED, ignore=1), replace_fields(NAMED, classes=CLASSES[::-1]))
    ]
    assert len(set(marks)) == 3


def test_a_run_of_classification_keeps_its_fingerprint() -> None:
    """What masks brought to the configuration is not in it."""
    plain = identity(RunConfig(), "images", "weights")
    assert "masks_fingerprint" not in plain
    mine = identity(RunConfig(), "images+masks", "weights")
    assert (mine["data_fingerprint"], mine["masks_fingerprint"]) == ("images", "masks")


def test_the_folder_of_masks_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers run in other directories."""
    monkeypatch.chdir(tmp_path)
    config = RunConfig(data={"mask_root": "masks"}, model={"checkpoint": "w.pt"})  # type: ignore[arg-type]
    found = with_absolute_paths(config)
    assert found.data.mask_root == str(tmp_path / "masks") and found.model.checkpoint == str(tmp_path / "w.pt")
    assert found.root == str(tmp_path / "runs") and found.data.catalog == ""
    remote = "s3://bucket/w.pth"
    assert with_absolute_paths(replace(config, {"model.checkpoint": remote})).model.checkpoint == remote


def test_a_worker_trains_in_channels() -> None:
    masks = replace_fields(NAMED, ignore=1)
    config = RunConfig(task="segmentation", transform={"resize": 0}, data={"ignore_label": 1})  # type: ignore[arg-type]
    rows = np.arange(3)
    recipe = supervised_recipe(
        config, MaskTargets(masks), labeled=(rows, rows * 0), held_out=(rows, rows * 0), round=0, seed=0, start=None,
        out=Store("x"),
    )  # fmt: skip
    assert recipe.masks == masks and recipe.targets.num_classes == len(recipe.class_weights) == 2


def cityscapes(folder: Path) -> None:
    """As it is unpacked: the masks of test/ are void, files of other kinds lie beside the masks."""
    for number, (split, city) in enumerate(
        [
            ("train", "ulm"),
            ("train", "ulm"),
            ("train", "jena"),
            *[("train", "bonn")] * 3,
            ("val", "lindau"),
            ("test", "berlin"),
        ]
    ):
        image, mask = scene(number)
        mask[(mask == VOID) | (split == "test")] = 255
        for kind, data in (("leftImg8bit", encoded(image)), ("gtFine_labelTrainIds", encoded(mask)),
                           ("gtFine_color", encoded(image))):  # fmt: skip
            path = folder / kind.partition("_")[0] / split / city / f"{city}_{number:06d}_000019_{kind}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def camvid(folder: Path) -> None:
    for row in range(7):
        for kind, part in zip(("images", "masks"), scene(row), strict=True):
            path = folder / kind / ("val" if row == 6 else "train") / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(part))
    in_parquet(folder, range(6), classes=",".join([*map(str, range(11)), "Unlabelled"]))


JOB = Path(__file__).resolve().parents[2] / "jobs" / "camvid_pt4al.py"
SMALL = ["--budget", "1", "--rounds", "2", "--split.seed-set-size", "1", "--transform.size", "32"]


@pytest.mark.parametrize(
    "command", re.findall(r"^    python jobs/camvid_pt4al.py (.*)$", JOB.read_text(), re.MULTILINE)
)
def test_the_commands_of_the_job_can_start(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    camvid(tmp_path / "camvid")
    cityscapes(tmp_path)
    ready = prepare(options(runpy.run_path(str(JOB))["PRESETS"], [*shlex.split(command), *SMALL]))
    about = ready.run.read_json("run.json")
    assert len(about["classes"]) == (19 if "cityscapes" in command else 11)
    assert (ready.catalog.labels() == -1).all() and len(ready.pool_rows) == 6
    assert len(ready.test_rows) == (0 if "parquet" in command else 1)


def test_folders_of_cities_are_no_classes(tmp_path: Path) -> None:
    cityscapes(tmp_path)
    catalog = index(str(tmp_path / "leftImg8bit"), str(tmp_path / "catalog"), label_column="")
    assert catalog.classes == () and catalog.labels().tolist() == [-1] * 8 and catalog.is_test().sum() == 2
    named = index(str(tmp_path / "leftImg8bit"), str(tmp_path / "named"), yes=True)
    assert named.classes == ("berlin", "bonn", "jena", "lindau", "ulm")
    config = in_folder(
        tmp_path, root="", catalog=named.uri, mask_root=str(tmp_path / "gtFine"), check="none", ignore_label=255,
        image_suffix="_leftImg8bit.png", mask_suffix="_gtFine_labelTrainIds.png",
    )  # fmt: skip
    ready = prepare(config)
    assert ready.run.read_json("run.json")["classes"] == list(CLASSES) and ready.pool_counts is None
    with pytest.raises(CatalogError, match=r"1 of 8 masks cannot be used; .*\n  test/berlin/.*got only void pixels"):
        prepare(replace(config, {"data.check": "decode"}))


@pytest.mark.parametrize("rows_per_part", [1, 3, 700])
def test_confusions_are_added_exactly(tmp_path: Path, rows_per_part: int) -> None:
    """More than 2^24 pixels of one pair of classes, where float32 leaves some out."""
    rng, rows = np.random.default_rng(0), np.arange(700)
    counts = rng.integers(0, 2**28, (len(rows), C * C))
    parts = [rows[start : start + rows_per_part] for start in range(0, len(rows), rows_per_part)]
    for number, part in enumerate(parts):
        stored = as_stored(counts[part]).astype(np.float32)
        write_part(Store(str(tmp_path)), number, part, {CONFUSION: stored})
    table = commit(Store(str(tmp_path)), parts, "x", {CONFUSION: (2 * C * C, "float32")})
    chosen = rows[rows % 3 > 0]
    assert total_confusion(table, chosen).tolist() == counts[chosen].sum(0).reshape(C, C).tolist()


@pytest.mark.parametrize("name", ["confidence", "margin", "entropy"])
@pytest.mark.parametrize("shards", [1, 2, 7])
def test_images_are_sorted_by_their_pixels(name: str, shards: int) -> None:
    values = np.random.default_rng(0).integers(0, 9, 50).astype(np.float32)
    columns = {PIXEL[name]: values[:, None]}
    sources = [
        ArraySource(part, {key: column[part] for key, column in columns.items()})
        for part in np.array_split(np.arange(50), shards)
    ]
    picks = select_from(sources, build_for_segmentation(name), 12, Context())
    hashes = priorities(0, "ties/0", np.arange(50))
    assert picks.rows.tolist() == np.lexsort((hashes, -values))[:12].tolist()


def test_pt4al_takes_the_least_sure_pixels_of_its_batch() -> None:
    rng = np.random.default_rng(0)
    loss, sure = rng.random(50), rng.random(50).astype(np.float32)
    strategy = build_for_segmentation("pt4al", {"batches": 5})
    source = ArraySource(np.arange(50), {PIXEL["confidence"]: sure[:, None], PIXEL["entropy"]: sure[:, None]})
    picks = select_from([source], strategy, 4, Context(round=2, pretext=(np.arange(50), loss)))
    batch = np.argsort(-loss)[20:30]
    assert picks.rows.tolist() == batch[np.argsort(-sure[batch])[:4]].tolist()


def test_strategies_that_need_a_class_per_image_are_refused() -> None:
    for name in ("base", "mase", "badge", "balanced_random", "cluster_margin"):
        with pytest.raises(SelectionError, match=f"{name} needs .* of whole images"):
            build_for_segmentation(name)
    for name in ("random", "k_center", "vaal", "k_means"):
        assert build_for_segmentation(name)
    with pytest.raises(SelectionError, match="pt4al: normalise_logits, class_balanced: expected false"):
        build_for_segmentation("pt4al", {"class_balanced": True})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train.mode": "linear"}, "train.mode: expected finetune in segmentation, got linear"),
        ({"transform.resize": 256}, "transform.resize: expected 0 in segmentation, got 256"),
        ({"split.val_size": 5}, "split.val_how: expected random in segmentation, got balanced"),
        ({"train.class_weights": True}, "train.class_weights: expected False"),
        ({"transform.train": "crop_pad"}, "transform.train: expected random_resized_crop or eval in .*, got crop_pad"),
        ({"transform.pad": 2}, "transform.pad: expected 4 in segmentation, got 2"),
    ],
)
def test_settings_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    good = RunConfig(task="segmentation", transform={"resize": 0})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=message):
        replace(good, change)
