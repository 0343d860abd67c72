"""Segmentation: masks follow their images, metrics agree with scikit-learn, a network learns, strategies fit."""

from __future__ import annotations

import io
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, jaccard_score, recall_score

from alray.config import ConfigError, DataConfig, ModelConfig, RunConfig, TransformConfig, replace
from alray.data.catalog import CatalogError, index
from alray.data.fetch import ImageError
from alray.data.masks import Masks, check_masks, masks_of
from alray.data.paired import PairTransform
from alray.features.arrays import PIXEL, ArraySource
from alray.models.segmenter import confusion, create_segmenter, pixel_losses, segment_images, uncertainties
from alray.selection.pixels import build_for_segmentation
from alray.selection.protocol import Context, SelectionError
from alray.selection.select import select_from
from alray.store import Store
from alray.train.batches import Batch, Plan
from alray.train.evaluate import EvaluateError, segmentation_metrics
from alray.train.loop import Job, Place, fit

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
    got = segmentation_metrics(np.asarray(total, float), 4, ["a", "b", "c"], VOID)
    true, guess = mask[mask != VOID], predicted[mask != VOID]
    there = np.union1d(true, guess)
    assert got["top1"] == pytest.approx(accuracy_score(true, guess))
    assert got["miou"] == pytest.approx(jaccard_score(true, guess, average="macro", labels=there))
    assert got["balanced_accuracy"] == pytest.approx(recall_score(true, guess, average="macro", labels=np.unique(true)))
    assert [value is None for value in got["per_class_iou"]] == [number not in there for number in range(C)]


def test_void_alone_cannot_be_evaluated() -> None:
    with pytest.raises(EvaluateError, match="all masks are void"):
        segmentation_metrics(np.zeros((C, C)), 3, ["a", "b", "c"], VOID)


def test_uncertainties_of_pixels() -> None:
    """Against NumPy, with and without void pixels; pixels of one distribution are as unsure as their image."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 5, 6, 7))
    counted = rng.random((3, 6, 7)) < 0.7
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    top = np.sort(p, axis=1)
    each = {
        "confidence": -top[:, -1], "margin": top[:, -2] - top[:, -1], "entropy": -(p * np.log(p)).sum(1)
    }  # fmt: skip
    plain = uncertainties(torch.from_numpy(logits))
    partly = uncertainties(torch.from_numpy(logits), torch.from_numpy(counted))
    for name, values in each.items():
        np.testing.assert_allclose(plain[name][:, 0], values.mean((1, 2)), rtol=1e-6)
        expected = [v[c].mean() for v, c in zip(values, counted, strict=True)]
        np.testing.assert_allclose(partly[name][:, 0], expected, rtol=1e-6)


def test_void_pixels_have_no_loss() -> None:
    logits = torch.randn(2, C, 4, 4, generator=torch.Generator().manual_seed(0))
    masks = torch.randint(0, C, (2, 4, 4), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    masks[0, :2] = VOID
    masks[1] = VOID
    losses = pixel_losses(logits, masks, VOID)
    p = logits[0].softmax(0)
    expected = np.mean([-np.log(float(p[int(masks[0, y, x]), y, x])) for y in (2, 3) for x in range(4)])
    assert float(losses[0]) == pytest.approx(expected, rel=1e-5)
    assert float(losses[1]) == 0.0


class Scenes:
    def training(self, plan: Plan, first_epoch: int) -> Generator[Batch, None, None]:
        for tables in plan.streams(first_epoch, 12, 17):
            for table in tables:
                yield self.block(table["row"].to_numpy())

    def held_out(self) -> Iterator[Batch]:
        yield self.block(np.arange(100, 120))

    def block(self, rows: np.ndarray) -> Batch:
        pairs = [scene(row) for row in rows]
        images, masks = (np.stack(part) for part in zip(*pairs, strict=True))
        return {"row": rows, "label": np.zeros(len(rows), np.int32), "image": images, "mask": masks}


def test_a_network_learns_to_segment(tmp_path: Path) -> None:
    config = RunConfig(
        task="segmentation", model=MODEL.model_dump(), split={"val_size": 20, "val_how": "random"}, top_k=(),
        transform={"size": SIZE, "resize": 0}, data={"ignore_label": VOID},
        train={"epochs": 12, "batch_size": 8, "optimizer": "adamw", "lr": 3e-3, "schedule": "cosine"},
    )  # type: ignore[arg-type]  # fmt: skip
    rows, val = np.arange(40), np.arange(100, 120)
    job = Job(config, 0, C, 0, rows, rows * 0, val, val * 0, None, Store(str(tmp_path)))
    summary = fit(job, Place(), Scenes(), wrap=lambda m: m, report=lambda *_: None, tell=lambda make: make() and None)
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


def write(folder: Path, count: int, masks: int) -> None:
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for row in range(count):
        image, mask = scene(row)
        Image.fromarray(image).save(folder / "images" / f"{row:02d}.png")
        if row < masks:
            Image.fromarray(mask).save(folder / "masks" / f"{row:02d}_ids.png")


def test_masks_in_a_folder(tmp_path: Path) -> None:
    write(tmp_path, 6, 5)
    catalog = index(str(tmp_path / "images"), str(tmp_path / "catalog"), classes=["ground", "red", "green"])
    config = DataConfig(mask_root=str(tmp_path / "masks"), mask_suffix="_ids.png", ignore_label=VOID)
    masks = masks_of(config, catalog)
    check_masks(masks, catalog, np.arange(5))
    with pytest.raises(CatalogError, match=r"1 of 6 images have no mask, first 05.png: expected .*05_ids.png"):
        check_masks(masks, catalog, np.arange(6))
    references: pa.Table = catalog.references(np.array([3, 1]))
    decoded = [masks.decode(data, "x") for data in masks.fetch(references)]
    assert np.array_equal(decoded[0], scene(1)[1]) and np.array_equal(decoded[1], scene(3)[1])
    with pytest.raises(CatalogError, match="mask_root: expected a folder of masks"):
        masks_of(DataConfig(), catalog)


def test_masks_in_parquet_beside_the_images(tmp_path: Path) -> None:
    pairs = [scene(row) for row in range(6)]
    images, masks = ([encoded(part) for part in column] for column in zip(*pairs, strict=True))
    table = pa.table({"frame": [f"f{row}" for row in range(6)], "image": images, "mask": masks})
    named = table.replace_schema_metadata({"classes": "ground,red,green"})
    pq.write_table(named, tmp_path / "train.parquet", row_group_size=2)
    catalog = index(str(tmp_path / "train.parquet"), str(tmp_path / "catalog"), key="frame", label_column="")
    assert catalog.classes == ("ground", "red", "green") and (catalog.labels() == -1).all()
    there = masks_of(DataConfig(ignore_label=VOID), catalog)
    check_masks(there, catalog, np.arange(6))
    found = [there.decode(data, "x") for data in there.fetch(catalog.references(np.array([2, 5])))]
    assert np.array_equal(found[0], scene(2)[1]) and np.array_equal(found[1], scene(5)[1])
    with pytest.raises(CatalogError, match="no column 'labels' for the masks; its columns are frame, image, mask"):
        check_masks(masks_of(DataConfig(mask_column="labels"), catalog), catalog, np.arange(6))


def encoded(mask: np.ndarray, mode: str | None = None) -> bytes:
    image = Image.fromarray(mask, mode) if mode else Image.fromarray(mask)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (encoded(np.full((2, 2), 7, np.uint8)), "frame1: mask: expected 0 to 2 or 11 .void., got 7"),
        (
            encoded(np.zeros((2, 2, 3), np.uint8)),
            "frame1: mask: expected one number per pixel, got an image of mode RGB",
        ),
        (b"nothing", "frame1: mask: cannot be decoded"),
    ],
)
def test_bad_masks_are_named(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        Masks("parquet", "mask", "", ".png", VOID, C).decode(data, "frame1")


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
    assert picks.rows.tolist() == np.lexsort((np.arange(50), -values))[:12].tolist()


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
    ],
)
def test_settings_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    good = RunConfig(task="segmentation", transform={"resize": 0})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=message):
        replace(good, change)
