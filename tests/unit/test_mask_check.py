"""Masks before a run: what they hold together, masks of turned images, and numbers and colours that are no classes."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from image_sources import encoded
from PIL import Image

from alray.config import DataConfig, RunConfig, replace
from alray.data.catalog import Catalog, CatalogError, index
from alray.data.fetch import ImageError
from alray.data.mask_check import with_masks
from alray.data.masks import Masks
from alray.data.sources.parquet import PARQUET
from alray.prepare import check
from alray.store import Store

CLASSES = ("ground", "red", "green")
PICTURE = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
NONE = np.arange(0)


def mask(*numbers: int) -> np.ndarray:
    """A mask (6, 9) with an equal number of pixels of each."""
    return np.resize(np.array(numbers, np.uint8), (6, 9))


def turned(orientation: int, pixels: np.ndarray = PICTURE) -> bytes:
    exif, sink = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(sink, "PNG", exif=exif)
    return sink.getvalue()


def written(place: Path, masks: Mapping[str, bytes | np.ndarray], images: Mapping[str, bytes] | None = None) -> Catalog:
    """A folder of images, of masks and a catalog."""
    for name, content in masks.items():
        for folder in ("images", "masks"):
            (place / folder / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "images" / f"{name}.png").write_bytes((images or {}).get(name, encoded(PICTURE)))
        data = content if isinstance(content, bytes) else encoded(content)
        (place / "masks" / f"{name}.png").write_bytes(data)
    return index(str(place / "images"), str(place / "catalog"), label_column="")


def checked(place: Path, catalog: Catalog, test: np.ndarray = NONE, **options: object) -> list[str]:
    config = DataConfig(mask_root=str(place / "masks"), **{"classes": CLASSES, **options})  # type: ignore[arg-type]
    pool = np.setdiff1d(np.arange(len(catalog)), test)
    return with_masks(config, catalog, pool, test, Store(str(place / "fine")))[1]


def test_masks_of_black_and_white_are_refused(tmp_path: Path) -> None:
    """The usual 0 and 255, where 255 is void by default: no pixel of the second class is in any mask."""
    catalog = written(tmp_path, {str(number): mask(0, 0, 255) for number in range(5)})
    with pytest.raises(
        CatalogError,
        match="data.classes: expected pixels of at least two classes in the masks of the pool, got background alone: "
        "no pixel of lesion in 5 masks. 33.3 % of all pixels have the number 255, which is void .data.ignore_label.",
    ):
        checked(tmp_path, catalog, classes=("background", "lesion"))
    with pytest.raises(
        CatalogError, match="(?s)5 of 5 masks .* 255 in 18 pixels; a mask of black and white has to hold 1"
    ):
        checked(tmp_path, catalog, classes=("background", "lesion"), ignore_label=254)
    with pytest.raises(CatalogError, match="got background alone: no pixel of lesion, vessel in 5 masks. 33"):
        checked(tmp_path, catalog, classes=("background", "lesion", "vessel"))
    assert checked(tmp_path, catalog, classes=("background", "lesion"), check="none") == []
    assert checked(tmp_path, catalog, classes=("background",)) == []


def test_a_class_that_only_test_masks_show_cannot_be_learned(tmp_path: Path) -> None:
    catalog = written(tmp_path, {"a": mask(0), "b": mask(0), "c": mask(0, 1)})
    with pytest.raises(CatalogError, match="got ground alone: no pixel of red, green in 2 masks$"):
        checked(tmp_path, catalog, test=np.array([2]))


def test_classes_without_a_pixel_are_named_and_remembered(tmp_path: Path) -> None:
    masks = {"a": mask(0, 1), "b": mask(1, 255), "c": mask(2, 0)}
    catalog = written(tmp_path, masks)
    expected = [
        "data.classes: no mask of the pool has a pixel of green (1 of 3 classes, 2 masks).",
        "data.classes: no mask of the test set has a pixel of red (1 of 3 classes, 1 masks).",
    ]
    assert checked(tmp_path, catalog, np.array([2])) == expected
    (note,) = (tmp_path / "fine").rglob("checked.json")
    found = json.loads(note.read_text())
    assert found["classes"] == list(CLASSES)
    assert found["pool"] == {"masks": 2, "pixels": [27, 54, 0], "void": 27, "turned": 0}
    for name in masks:  # as many bytes and the same times: only reading them would tell
        path = tmp_path / "masks" / f"{name}.png"
        before = path.stat()
        path.write_bytes(bytes(before.st_size))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert checked(tmp_path, catalog, np.array([2])) == expected
    with pytest.raises(CatalogError, match="3 of 3 masks cannot be used"):
        checked(tmp_path, catalog)
    assert checked(tmp_path / "other", written(tmp_path / "other", {"a": mask(0, 1, 2)})) == []


def test_many_absent_classes_do_not_fill_the_screen(tmp_path: Path) -> None:
    catalog = written(tmp_path, {"a": mask(0, 1)})
    (note,) = checked(tmp_path, catalog, classes=tuple(f"c{number}" for number in range(100)))
    assert note.endswith("c20, c21 and 78 others (98 of 100 classes, 1 masks).")


def test_a_run_says_what_its_masks_lack(tmp_path: Path) -> None:
    written(tmp_path, {f"{split}/{number}": mask(0, 1) for split in ("train", "val") for number in range(4)})
    config = RunConfig(
        task="segmentation", root=str(tmp_path / "runs"), rounds=2, budget=1, strategy="random", top_k=(),
        data={"root": str(tmp_path / "images"), "mask_root": str(tmp_path / "masks"), "classes": CLASSES},
        split={"seed_set_size": 1}, transform={"size": 32, "resize": 0}, model={"backbone": "test_resnet"},
    )  # type: ignore[arg-type]  # fmt: skip
    assert "data.classes: no mask of the pool has a pixel of green (1 of 3 classes, 4 masks)." in check(config).notes
    with pytest.raises(CatalogError, match="got ground alone: no pixel of green in 4 masks. 50.0 % of all pixels"):
        check(replace(config, {"data.ignore_label": 1}))
    assert not list((tmp_path / "runs").glob("run-*"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_belongs_to_the_image_as_it_is_shown(orientation: int, tmp_path: Path) -> None:
    """Where the image is turned by a right angle, the size of its mask tells on which of both it was drawn."""
    images = {"a": turned(orientation)}
    right_angle = orientation >= 5
    shown, stored = mask(0, 1).reshape(9, 6) if right_angle else mask(0, 1), mask(0, 1)
    notes = checked(tmp_path, written(tmp_path, {"a": shown}, images), classes=CLASSES[:2])
    assert len(notes) == (orientation in (2, 3, 4))
    if notes:
        assert notes[0].startswith("EXIF orientation turns or mirrors 1 of 1 images without")
    if right_angle:
        catalog = written(tmp_path, {"a": stored}, images)
        with pytest.raises(CatalogError, match="image's 6 x 9 pixels, got 9 x 6 .masks belong to .* EXIF orientation"):
            checked(tmp_path, catalog, classes=CLASSES[:2])


def test_square_images_that_are_turned_are_counted(tmp_path: Path) -> None:
    images = {"a": turned(6, PICTURE[:, :6]), "b": encoded(PICTURE[:, :6])}
    catalog = written(tmp_path, dict.fromkeys("ab", mask(0, 1)[:, :6]), images)
    (note,) = checked(tmp_path, catalog, classes=CLASSES[:2])
    assert note.startswith("EXIF orientation turns or mirrors 1 of 2 images")


NAMED = Masks(PARQUET, "mask", "", "", ".png", 255, CLASSES)
PALETTE = Image.fromarray(mask(0, 7)).convert("P")
COLOURED = np.zeros((6, 9, 3), np.uint8)
COLOURED[:2] = (128, 0, 0)


def saved(image: Image.Image) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (encoded(mask(0, 1, 3, 77, 200, 1)), "got 3 in 9 pixels, 77 in 9 pixels, 200 in 9 pixels$"),
        (encoded(mask(*range(3, 12))), "got 3 in 6 pixels, .* 7 in 6 pixels and 4 other numbers$"),
        (encoded(mask(1, 254)), "got 254 in 27 pixels$"),
        (saved(PALETTE), "got 7 in 27 pixels; the numbers of a mask with a palette are places in its palette"),
        (
            encoded(COLOURED),
            r"an image of mode RGB with 2 colours \(\(0, 0, 0\), \(128, 0, 0\)\); replace each",
        ),
        (encoded(np.dstack([mask(0, 1)] * 3)), "an image of mode RGB with three equal channels; save it as grey"),
        (encoded(np.dstack([mask(0, 1), mask(255)])), "an image of mode LA with 2 colours"),
        (turned(6, mask(0, 1)), "expected no EXIF orientation, got 6; save the mask upright"),
        (b"version https://git-lfs.github.com/spec/v1\n", "cannot be decoded: .* a Git LFS pointer"),
    ],
)
def test_numbers_and_colours_that_are_no_classes_are_named(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=f"^frame: mask: .*{message}"):
        NAMED.decode(data, "frame")


def test_numbers_are_named_by_their_pixels_in_the_whole_set(tmp_path: Path) -> None:
    catalog = written(tmp_path, {"a": mask(0, 1), "b": mask(0, 9), "c": mask(0, 1)})
    with pytest.raises(CatalogError, match="1 of 3 masks cannot be used.*\n  b.png: mask: .* 9 in 27 pixels"):
        checked(tmp_path, catalog)


def test_a_corrected_mask_of_equal_size_is_another_content(tmp_path: Path) -> None:
    """Its class is another one, and its PNG has as many bytes. A mask that was only copied is read again and passes."""
    catalog = written(tmp_path, {str(number): mask(0, 1, 2) for number in range(4)})
    config, rows = DataConfig(mask_root=str(tmp_path / "masks"), classes=CLASSES), np.arange(4)
    store = Store(str(tmp_path / "fine"))
    path = tmp_path / "masks" / "2.png"

    def fingerprint() -> str:
        return with_masks(config, catalog, rows, NONE, store)[0].fingerprint

    first, data = fingerprint(), path.read_bytes()
    path.write_bytes(data)
    assert fingerprint() == first
    corrected = encoded(mask(0, 2, 1))
    assert len(corrected) == len(data) and corrected != data
    path.write_bytes(corrected)
    assert fingerprint() != first
    path.write_bytes(data)
    assert fingerprint() == first
