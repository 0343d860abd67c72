"""Ray Data pipelines: blocks in, the same blocks with images out, and no file opened that was not asked for."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray
from PIL import Image

from alray import demand
from alray.config import RunConfig, TransformConfig
from alray.data.augment import Transform, eval_transform, train_transform
from alray.data.catalog import Catalog, index, index_arrays
from alray.data.decode import decode
from alray.data.fetch import ImageError, block_rows, fetch
from alray.data.images import first_cause, image_dataset, raise_first_cause
from alray.data.kept import keep
from alray.reservation import Share, reserve
from alray.store import Store
from alray.train.objective import Place
from alray.train.reserved import Decoding
from alray.train.supervised import supervised_recipe
from alray.train.targets import ClassTargets
from alray.train.worker import RayImages

pytestmark = pytest.mark.usefixtures("ray_session")
CONFIG = TransformConfig(size=8, resize=0, train="crop_pad", pad=2)
PIXELS = np.random.default_rng(0).integers(0, 255, (60, 8, 8, 3), np.uint8)


def image_folder(place: Path) -> Catalog:
    for row, pixels in enumerate(PIXELS):
        path = place / "images" / f"class{row % 2}" / f"{row:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return index(str(place / "images"), str(place / "catalog"))


def expected(catalog: Catalog, transform: Transform, rows: np.ndarray, epochs: np.ndarray) -> np.ndarray:
    out = []
    for row, epoch in zip(rows.tolist(), epochs.tolist(), strict=True):
        references = catalog.references(np.array([row]))
        (data,) = fetch(references, catalog.source, catalog.image_column)
        out.append(transform(decode(data, "key"), row, epoch))
    return np.stack(out)


def blocks_of(dataset: ray.data.Dataset) -> list[pa.Table]:
    return [ray.get(ref) for bundle in dataset.iter_internal_ref_bundles() for ref in bundle.block_refs]


def images_of(block: pa.Table) -> np.ndarray:
    return block["image"].combine_chunks().to_numpy_ndarray()  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["folder", "arrays"])
def test_each_block_comes_back_with_its_images(kind: str, tmp_path: Path) -> None:
    catalog = image_folder(tmp_path) if kind == "folder" else index_arrays(PIXELS, None, str(tmp_path))
    transform = train_transform(CONFIG, seed=3)
    rng = np.random.default_rng(1)
    sizes = [17, 1, 30, 8, 5]
    blocks = [
        pa.table(
            {"row": rng.choice(60, n), "epoch": rng.integers(0, 3, n), "weight": rng.normal(size=n)}
        )  # rows repeat
        for n in sizes
    ]
    rows = np.unique(np.concatenate([block["row"].to_numpy() for block in blocks]))
    out = blocks_of(image_dataset(catalog, rows, blocks, transform))
    assert [len(block) for block in out] == sizes
    for given, got in zip(blocks, out, strict=True):
        assert got.drop_columns("image").equals(given)
        assert images_of(got).dtype == np.uint8
        assert np.array_equal(
            images_of(got), expected(catalog, transform, given["row"].to_numpy(), given["epoch"].to_numpy())
        )


def test_what_comes_out_does_not_depend_on_the_blocks(tmp_path: Path) -> None:
    catalog = index_arrays(PIXELS, None, str(tmp_path))
    rows = np.arange(60)
    seen = []
    for size in (60, 7):
        blocks = [pa.table({"row": rows[start : start + size]}) for start in range(0, 60, size)]
        out = blocks_of(image_dataset(catalog, rows, blocks, train_transform(CONFIG, 0), max_tasks=2, num_cpus=0.5))
        seen.append(np.concatenate([images_of(block) for block in out]))
    assert np.array_equal(*seen)


def test_only_the_rows_asked_for_are_opened(tmp_path: Path) -> None:
    """Every other file is gone: the pool is not read."""
    catalog = image_folder(tmp_path)
    rows = np.array([3, 11, 50])
    for row, key in enumerate(catalog.keys().to_pylist()):
        if row not in rows:
            (tmp_path / "images" / key).unlink()
    (block,) = blocks_of(image_dataset(catalog, rows, [pa.table({"row": rows})], eval_transform(CONFIG)))
    assert np.array_equal(images_of(block), expected(catalog, eval_transform(CONFIG), rows, np.zeros(3)))


@pytest.mark.parametrize("where", ["driver", "worker"])
def test_a_broken_image_is_one_short_error_with_its_key(
    where: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("ray.data"), "propagate", True)  # what it would print comes to caplog
    catalog = image_folder(tmp_path)
    path = tmp_path / "images" / "class1" / "31.png"
    path.write_bytes(path.read_bytes()[:100].ljust(path.stat().st_size, b"x"))
    rows = np.arange(60)
    dataset = image_dataset(catalog, rows, [pa.table({"row": rows})], eval_transform(CONFIG))

    def consume() -> None:
        for _ in dataset.iter_batches():
            pass

    def run() -> None:
        try:
            consume() if where == "driver" else ray.get(ray.remote(consume).remote())
        except Exception as error:
            raise_first_cause(error)

    with pytest.raises(ImageError, match=r"^class1/31\.png: broken image: .* bytes\)$") as caught:
        run()
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert caplog.records == []


def test_first_cause_leaves_other_errors_alone() -> None:
    @ray.remote
    def fails() -> None:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError) as caught:
        ray.get(fails.remote())
    assert first_cause(caught.value) is caught.value
    error = KeyError("x")
    assert first_cause(error) is error


def test_pixels_inside_a_worker(tmp_path: Path) -> None:
    """As a Ray Train worker does it: the pipeline is made and consumed inside a task."""
    catalog = index_arrays(PIXELS, None, str(tmp_path))

    @ray.remote(num_cpus=1)
    def sums() -> list[int]:
        rows = np.arange(60)
        blocks = [pa.table({"row": rows[start : start + 20]}) for start in (0, 20, 40)]
        dataset = image_dataset(catalog, rows, blocks, eval_transform(CONFIG))
        return [int(batch["image"].sum()) for batch in dataset.iter_batches(batch_size=30)]

    assert ray.get(sums.remote()) == [int(PIXELS[:30].sum()), int(PIXELS[30:].sum())]


def test_block_rows() -> None:
    assert block_rows(224) == 222
    assert block_rows(32) == 4096
    assert block_rows(4000) == 16
    assert block_rows(128) * 128 * 128 * 3 <= 32 * 2**20


def differing(place: Path, sides: list[tuple[int, int]]) -> Catalog:
    """Images of noise with these widths and heights."""
    rng = np.random.default_rng(5)
    (place / "images").mkdir()
    for number, (width, height) in enumerate(sides):
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(place / "images" / f"{number:03d}.png")
    return index(str(place / "images"), str(place / "catalog"), yes=True)


@pytest.mark.parametrize("train", ["random_resized_crop", "crop_pad"])
def test_kept_images_give_the_same_pixels_without_their_files(train: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sides = [(int(w), int(h)) for w, h in rng.integers(8, 40, (300, 2))]
    catalog = differing(tmp_path, sides)
    transform = train_transform(TransformConfig(size=16, resize=0, train=train, pad=2), seed=3)
    kept_rows = np.flatnonzero(np.arange(300) % 7 != 0)
    rows, epochs = rng.choice(kept_rows, 500), rng.integers(0, 3, 500)
    blocks = [pa.table({"row": rows[at : at + 100], "epoch": epochs[at : at + 100]}) for at in range(0, 500, 100)]
    before = blocks_of(image_dataset(catalog, kept_rows, blocks, transform))
    total = sum(3 * sides[row][0] * sides[row][1] for row in kept_rows.tolist())
    assert keep(catalog, kept_rows, total - 1) is None
    kept = keep(catalog, kept_rows, total)
    assert kept is not None and len(kept.parts) > 1
    shutil.rmtree(tmp_path / "images")
    after = blocks_of(image_dataset(catalog, kept_rows, blocks, transform, kept=kept))
    assert all(one.equals(other) for one, other in zip(before, after, strict=True))


def test_images_that_take_too_many_bytes_are_not_all_decoded(tmp_path: Path) -> None:
    """The first of them show it: the others may be missing."""
    catalog = differing(tmp_path, [(30, 30)] * 200)
    for number in range(64, 200):
        (tmp_path / "images" / f"{number:03d}.png").unlink()
    assert keep(catalog, np.arange(200), 200 * 30 * 30 * 3 - 1) is None
    with pytest.raises(Exception, match="missing image") as caught:
        keep(catalog, np.arange(200), 200 * 30 * 30 * 3)
    assert isinstance(first_cause(caught.value), ImageError)


def test_a_training_worker_reads_small_images_once(tmp_path: Path) -> None:
    """Its images may be gone after the first block; with one epoch left, or no room, they are read as they come."""
    rng = np.random.default_rng(1)
    catalog = differing(tmp_path, [(20, 20)] * 40)
    config = RunConfig(
        transform={"size": 16, "train": "crop_pad", "pad": 1, "resize": 0}, model={"backbone": "test_resnet"},
        train={"epochs": 4, "batch_size": 10},
    )  # fmt: skip
    labeled = np.arange(40), rng.integers(0, 3, 40)
    nothing = np.zeros(0, np.int64), np.zeros(0, np.int64)
    recipe = supervised_recipe(
        config, ClassTargets(3), labeled=labeled, held_out=nothing, round=1, seed=0, start=None,
        out=Store(str(tmp_path / "out")),
    )  # fmt: skip
    with reserve(Share("all"), "train", demand.training(config.resources, use_gpu=False)) as held:

        def stream(kept_bytes: int, first_epoch: int = 0) -> Any:
            images = RayImages(recipe, Place(), catalog, Decoding(held, 1, kept_bytes))
            return images.training(recipe.plan(Place()), first_epoch)

        expected = list(stream(0))
        kept = stream(1 << 20)
        first = next(kept)
        shutil.rmtree(tmp_path / "images")
        for one, other in zip([first, *kept], expected, strict=True):
            assert all(np.array_equal(one[name], other[name]) for name in ("row", "label", "image"))
        for at_once in (stream(0), stream(40 * 20 * 20 * 3 - 1), stream(1 << 20, first_epoch=3)):
            with pytest.raises(Exception, match="missing image"):
                list(at_once)
