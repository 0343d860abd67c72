"""Bytes to pixels: every mode, range and orientation, and the reasons for what is no image."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from image_sources import encoded
from PIL import Image

from alray.config import DataConfig
from alray.data.catalog import Catalog, CatalogError, index
from alray.data.decode import decode, inspect, shown_size
from alray.data.depth import scaled
from alray.data.fetch import ImageError
from alray.data.origin import ensure_catalog
from alray.data.other_files import why_not_decoded

RAMP = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (8, 1))
COLOURS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    """A PNG of a kind that Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body


def tiff(values: Sequence[int | float], bits: int, kind: str, white_is_zero: bool = False, form: int = 1) -> bytes:
    """A TIFF of one row. kind: of the values in NumPy, or "packed" for 12 bits; form: its sample format."""
    if kind == "packed":
        text = "".join(f"{value:012b}" for value in values)
        raw = int(text, 2).to_bytes(len(text) // 8, "big")
    else:
        raw = np.array(values, kind).tobytes()
    tags = [(256, len(values)), (257, 1), (258, bits), (259, 1), (262, 0 if white_is_zero else 1), (273, 134), (277, 1),
            (278, 1), (279, len(raw)), (339, form)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + raw


def colour16(values: np.ndarray) -> bytes:
    """A PNG of one row of 16-bit colours (n, 3)."""
    return png(len(values), 1, 16, 2, b"\0" + values.astype(">u2").tobytes())


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (encoded(RAMP), RAMP),
        (saved(Image.fromarray(RAMP).convert("RGBA"), "PNG"), RAMP),
        (saved(Image.fromarray(RAMP).convert("LA"), "PNG"), RAMP),
        (saved(Image.fromarray(RAMP).convert("P"), "PNG"), RAMP),
        (saved(Image.fromarray(RAMP).convert("P"), "PNG", transparency=0), RAMP),
        (saved(Image.fromarray(RAMP).convert("P"), "GIF"), RAMP),
        (saved(Image.fromarray(RAMP > 100), "PNG"), (RAMP > 100) * np.uint8(255)),
        (saved(Image.fromarray(RAMP.astype(np.uint16) * 256 + 17), "PNG"), RAMP),
        (saved(Image.fromarray(RAMP.astype(np.uint16) * 256 + 17), "TIFF"), RAMP),
        (saved(Image.fromarray(RAMP.astype(np.uint16) * 256 + 17), "JPEG2000"), RAMP),
        (saved(Image.fromarray(RAMP.astype(np.uint16) * 256 + 17), "PPM"), RAMP),
        (b"P5 2 1 4095\n" + np.array([2048, 4095], ">u2").tobytes(), [[128, 255]]),
        (tiff([0, 16, 2048, 4095], 12, "packed"), [[0, 1, 128, 255]]),
        (tiff([0, 4000, 65535], 16, "<u2", white_is_zero=True), [[255, 240, 0]]),
        (saved(Image.fromarray(RAMP.astype(np.float32) / 255), "TIFF"), RAMP),
        (saved(Image.fromarray(RAMP).convert("CMYK"), "JPEG", quality=100), RAMP),
        (saved(Image.fromarray(RAMP).convert("CMYK"), "TIFF"), RAMP),
        (saved(Image.fromarray(RAMP).convert("RGB"), "JPEG2000"), RAMP),
        (saved(Image.fromarray(RAMP), "WEBP", lossless=True), RAMP),
        (saved(Image.fromarray(RAMP), "BMP"), RAMP),
        (saved(Image.fromarray(RAMP), "GIF", save_all=True, append_images=[Image.fromarray(255 - RAMP)]), RAMP),
        (saved(Image.fromarray(RAMP), "TIFF", save_all=True, append_images=[Image.fromarray(255 - RAMP)]), RAMP),
    ],
    ids=["L", "RGBA", "LA", "P", "P with transparency", "GIF", "1", "16-bit PNG", "16-bit TIFF", "16-bit JPEG 2000",
         "16-bit PGM", "12-bit PGM", "12-bit TIFF", "16-bit TIFF, white is zero", "float TIFF", "CMYK JPEG",
         "CMYK TIFF", "JPEG 2000", "WebP", "BMP", "animated GIF", "TIFF of two pages"],
)  # fmt: skip
def test_any_mode_becomes_rgb(data: bytes, expected: np.ndarray) -> None:
    image = decode(data, "key")
    assert image.mode == "RGB"
    close = np.abs(np.asarray(image).astype(int) - np.asarray(expected, int)[..., None])
    assert close.max() <= (3 if data[:2] == b"\xff\xd8" else 0)


def test_colours_of_16_bits_keep_their_upper_byte() -> None:
    values = np.random.default_rng(1).integers(0, 65536, (5, 3))
    for pixel_range in (None, (0.0, 65535.0)):
        assert np.array_equal(np.asarray(decode(colour16(values), "k", pixel_range))[0], values >> 8)
    with pytest.raises(ImageError, match="k: unknown range: 16-bit colour is read with the range 0 to 65535 only"):
        decode(colour16(values), "k", (0.0, 4095.0))


@pytest.mark.parametrize(
    ("data", "pixel_range", "expected"),
    [
        (saved(Image.fromarray(RAMP.astype(np.uint16)), "PNG"), (0, 255), RAMP),
        (saved(Image.fromarray(RAMP.astype(np.uint16) * 16 + 3), "PNG"), (0, 4095), RAMP),
        (saved(Image.fromarray(RAMP.astype(np.int32) * 256 + 17), "TIFF"), (0, 65535), RAMP),
        (saved(Image.fromarray(RAMP.astype(np.float32)), "TIFF"), (0, 255), RAMP),
        (tiff([-1024, 0, 3071, 9000], 16, "<i2", form=2), (-1024, 3071), [[0, 64, 255, 255]]),
        (tiff([5, 2**31, 2**32 - 1], 32, "<u4"), (0, 2**32 - 1), [[0, 128, 255]]),
        (encoded(RAMP), (0, 4095), RAMP),
    ],
    ids=["8 bits in 16", "12 bits in 16", "32-bit TIFF", "float TIFF", "signed TIFF", "unsigned 32-bit TIFF", "8 bits"],
)
def test_a_declared_range(data: bytes, pixel_range: tuple[float, float], expected: np.ndarray) -> None:
    assert np.array_equal(np.asarray(decode(data, "key", pixel_range))[..., 1], expected)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (saved(Image.fromarray(RAMP.astype(np.uint16)), "PNG"),
         "pixels of 16-bit grey from 0 to 252 would become black everywhere; declare .*--pixel-range 0 255 .*; "
         "--pixel-range 0 65535 if they are meant to be dark"),
        (saved(Image.fromarray(RAMP.astype(np.int32) * 16), "TIFF"),
         "pixels of 32-bit or signed integers from 0 to 4032 have no range of their own; declare .*-range 0 4095.$"),
        (tiff([-1024, 3071], 16, "<i2", form=2), "pixels of 32-bit or signed integers from .* -1024 3071.$"),
        (saved(Image.fromarray(RAMP.astype(np.float32)), "TIFF"),
         "pixels of floating-point numbers from 0 to 252 do not fit into the range 0 to 1; declare .* 0 252.$"),
    ],
)  # fmt: skip
def test_a_range_that_is_not_known_is_asked_for(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=f"^a/b: unknown range: {message}"):
        decode(data, "a/b")


def test_brightness_does_not_depend_on_the_other_pixels_of_an_image() -> None:
    """One value is as bright in every image of the data set."""
    for other in (1, 200, 30_000):
        for pixel_range, bright in ((None, 39), ((0.0, 20_000.0), 127)):
            data = encoded(np.array([[10_000, other]], np.uint16))
            assert np.asarray(decode(data, "k", pixel_range))[0, 0].tolist() == [bright] * 3


@pytest.mark.parametrize(
    ("low", "high", "whole"), [(0, 255, True), (0, 65535, True), (-7, 900, True), (-0.5, 2, False)]
)
def test_levels_stand_for_equal_parts_of_the_range(low: float, high: float, whole: bool) -> None:
    values = np.linspace(low - 1, high + 1, 40_001) if not whole else np.arange(low - 300, high + 300)
    inside = values[(values >= low) & (values <= high)]
    grey = scaled(values[None], (low, high), whole)[0]
    assert (
        (np.diff(grey.astype(int)) >= 0).all() and set(grey[values < low]) == {0} and set(grey[values > high]) == {255}
    )
    counts = np.bincount(scaled(inside[None], (low, high), whole)[0], minlength=256)
    assert counts.max() - counts.min() <= 2


def test_pixels_that_are_no_numbers() -> None:
    data = saved(Image.fromarray(np.array([[0.5, np.nan, np.inf]], np.float32)), "TIFF")
    for pixel_range in (None, (0.0, 1.0)):
        with pytest.raises(ImageError, match="k: broken image: 2 of 3 pixels are not finite"):
            decode(data, "k", pixel_range)


SHOWN = {  # how an image that is stored with each orientation is seen
    1: COLOURS,
    2: COLOURS[:, ::-1],
    3: COLOURS[::-1, ::-1],
    4: COLOURS[::-1],
    5: COLOURS.transpose(1, 0, 2),
    6: np.rot90(COLOURS, -1),
    7: COLOURS[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(COLOURS),
}


def oriented(orientation: int, kind: str, pixels: np.ndarray = COLOURS) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(Image.fromarray(pixels), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", SHOWN)
def test_every_orientation_is_applied(orientation: int, kind: str) -> None:
    expected, data = SHOWN[orientation], oriented(orientation, kind)
    assert np.array_equal(np.asarray(decode(data, "k")), expected)
    size, unsure = shown_size(data, "k")
    assert size == expected.shape[1::-1]
    assert unsure == (orientation in (2, 3, 4))
    assert np.array_equal(np.asarray(decode(oriented(orientation, kind, RAMP.T), "k")).shape[:2], (
        RAMP.shape if orientation >= 5 else RAMP.T.shape
    ))  # fmt: skip


@pytest.mark.parametrize("orientation", [*SHOWN, 0, 9])
def test_orientation_of_photographs(orientation: int) -> None:
    """JPEG, in all of whose pixels the corners differ; numbers outside of 1 to 8 mean nothing."""
    corners = np.zeros((32, 48, 3), np.uint8)
    corners[:16, :24, 0] = corners[:16, 24:, 1] = corners[16:, :24, 2] = 255
    found = np.asarray(decode(oriented(orientation, "JPEG", corners), "k")).astype(int)
    turned = {1: corners, 0: corners, 9: corners, 2: corners[:, ::-1], 3: corners[::-1, ::-1], 4: corners[::-1],
              5: corners.transpose(1, 0, 2), 6: np.rot90(corners, -1), 7: corners[::-1, ::-1].transpose(1, 0, 2),
              8: np.rot90(corners)}[orientation].astype(int)  # fmt: skip
    assert found.shape == turned.shape
    assert np.abs(found - turned).mean() < 12


def test_damaged_exif_data_do_not_make_an_image_unusable() -> None:
    data = saved(Image.fromarray(COLOURS), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert np.array_equal(np.asarray(decode(data, "k")), COLOURS)
    cut = oriented(6, "JPEG")
    at = cut.index(b"Exif\0\0") + 6
    cut = cut[: at + 4] + b"\xff" * 4 + cut[at + 8 :]
    assert decode(cut, "k").size == (9, 6)


LONG = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def drawn(kind: str) -> bytes:
    return saved(Image.fromarray(COLOURS), kind)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it has no bytes"),
        (b"hello", "got a text that begins with 'hello' .5 bytes."),
        (b"\x00" * 50, "got only zero bytes .50 bytes."),
        (b"\x03\x01\x02", "got bytes that begin with 03 01 02 "),
        (LONG.encode(), "a Git LFS pointer, not the image itself"),
        (b"/annex/objects/MD5E-s3--9.jpg\n", "a git-annex pointer"),
        (b"\r\n  <!DOCTYPE html><html><body>404", "an HTML page, as a failed download leaves it"),
        (b"<HTML>", "an HTML page"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML document"),
        (drawn("EPS"), "a PostScript document"),
        (drawn("PDF"), "a PDF document"),
        (drawn("ICO"), "expected an image .JPEG, PNG, .*, got bytes that begin with 00 00 01 00"),
        (b"\x00\x00\x00\x18ftypheic" + bytes(20), "a HEIF picture or a video"),
        (b"\x1f\x8b\x08\x00", "a gzip file"),
        (b"PK\x03\x04", "a zip file"),
        (tiff([0.5], 64, "<f8", form=3), "a TIFF file that is damaged or of a kind that Pillow does not read"),
        (encoded(RAMP, "JPEG")[:200], "Truncated|truncated|damaged"),
        (encoded(RAMP)[:50], "Truncated|truncated|damaged"),
        (encoded(RAMP)[:40] + b"x" * 60, ""),
        (png(30_000, 30_000, 8, 2, b"\0"), r"too many pixels: Image size \(900000000 pixels\) exceeds limit"),
    ],
)
def test_what_cannot_be_decoded_is_named_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=rf"^train/cat/1\.jpg: broken image: .*({reason})") as refused:
        decode(data, "train/cat/1.jpg")
    assert " at 0x" not in str(refused.value) and "BytesIO" not in str(refused.value)
    with pytest.raises(ImageError, match="broken image"):
        inspect(data, "train/cat/1.jpg")


def test_reasons_show_no_addresses() -> None:
    error = OSError("unrecognized data stream contents when reading <_io.BytesIO object at 0x7f7d1ebdcbd0>")
    assert why_not_decoded(error, b"xyz", ()) == "unrecognized data stream contents when reading (3 bytes)"
    assert why_not_decoded(SyntaxError(), b"xyz", ()) == "SyntaxError (3 bytes)"


def folder(place: Path, images: dict[str, bytes]) -> str:
    for name, data in images.items():
        (place / "x").mkdir(parents=True, exist_ok=True)
        (place / "x" / name).write_bytes(data)
    return str(place)


def indexed(place: Path, images: dict[str, bytes], **options: object) -> Catalog:
    return index(folder(place / "images", images), str(place / "catalog"), yes=True, **options)


def seen(place: Path, catalog: Catalog) -> list[str]:
    """What is said of an indexed folder because its images were opened."""
    closed = index(str(place / "images"), str(place / "closed"), yes=True, check="none")
    return [note for note in catalog.notes() if note not in closed.notes()]


GREY = encoded(COLOURS)
WIDE = COLOURS[..., 0].astype(np.uint16)


def test_a_catalog_says_what_was_seen(tmp_path: Path) -> None:
    several = [Image.fromarray(COLOURS), Image.fromarray(255 - COLOURS)]
    catalog = indexed(tmp_path, {
        "a.png": GREY,
        "b.png": oriented(3, "PNG"),
        "c.png": oriented(6, "PNG"),
        "d.tif": saved(several[0], "TIFF", save_all=True, append_images=several[1:]),
        "e.gif": saved(several[0], "GIF", save_all=True, append_images=several[1:]),
        "f.png": encoded(np.dstack([COLOURS, COLOURS[..., 0]])),
        "g.png": encoded(np.full((5, 5, 3), 9, np.uint8)),
        "h.png": encoded(WIDE * 257),
        "i.png": encoded(WIDE),
        "j.png": encoded(WIDE[:1] * 14),
    }, on_problem="exclude")  # fmt: skip
    assert [note for note in seen(tmp_path, catalog) if "first x/" in note] == [
        "2 images are turned or mirrored, as the orientation in the EXIF data says (first x/b.png).",
        "2 images have several frames, of which the first is used (first x/d.tif).",
        "1 image has transparency, which is dropped: the colours beneath it are used (first x/f.png).",
        "1 image has one colour everywhere (first x/g.png).",
        f"2 images have pixels of 16-bit grey, from {(WIDE[:1] * 14).min()} to {WIDE.max() * 257}; 0 to 65535 becomes "
        "black to white (first x/h.png).",
        "1 image uses less than a sixteenth of 0 to 65535, and looks almost black (first x/j.png).",
    ]  # fmt: skip
    assert catalog.problems()["key"].to_pylist() == ["x/i.png"]


def test_nothing_is_said_of_ordinary_images(tmp_path: Path) -> None:
    assert seen(tmp_path, indexed(tmp_path, {"a.png": GREY, "b.jpg": encoded(COLOURS, "JPEG")})) == []


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([encoded(WIDE * 16), encoded(WIDE[:2] * 16)],
         "2 images have pixels of 16-bit grey, from .* which are almost black in the range 0 to 65535; declare the "
         "range of the data set, as in --pixel-range 0 4095 .in a run .*-range 0 4095.; --pixel-range 0 65535 if"),
        ([colour16(COLOURS[0].astype(int) * 16)],
         "1 image has pixels of 16-bit colour, .*; convert them to 8 bits per channel, or declare"),
        ([saved(Image.fromarray(COLOURS[..., 0].astype(np.float32) / 2048), "TIFF")], "1 image has pixels of floating"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("on_problem", ["refuse", "exclude"])
def test_a_data_set_that_would_be_black_is_refused(
    images: list[bytes], message: str, on_problem: str, tmp_path: Path
) -> None:
    """12 bits in 16, and the like: no image is black by itself."""
    named = {f"{number}.png": data for number, data in enumerate(images)}
    with pytest.raises(CatalogError, match=f"^pixel_range: {message}"):
        indexed(tmp_path, named, on_problem=on_problem)
    assert not (tmp_path / "catalog" / "meta.json").exists()
    assert indexed(tmp_path, named, pixel_range=(0, 1 if b"II*" in images[0] else 65535)).pixel_range is not None


def test_a_declared_range_belongs_to_the_catalog(tmp_path: Path) -> None:
    """It changes the fingerprint, and a run may not name another one."""
    images = {"a.png": encoded(WIDE * 16), "b.png": encoded(WIDE * 32), "c.png": GREY}
    catalog = indexed(tmp_path, images, pixel_range=(0, 4095))
    assert catalog.pixel_range == (0.0, 4095.0) == Catalog.open(catalog.uri).pixel_range
    assert "1 image has values outside of 0 to 4095, which are clipped (first x/b.png)." in catalog.notes()
    dark = index(str(tmp_path / "images"), str(tmp_path / "dark"), yes=True, pixel_range=(0, 65535))
    assert len({catalog.fingerprint, dark.fingerprint}) == 2
    plain = DataConfig(root=str(tmp_path / "images"), catalog=catalog.uri)
    for given in (None, (0, 4095)):
        assert ensure_catalog(plain.model_copy(update={"pixel_range": given}), "")[0].fingerprint == catalog.fingerprint
    with pytest.raises(CatalogError, match=r"data.pixel_range: expected that of the catalog .* got \(0.0, 255.0\)"):
        ensure_catalog(DataConfig(catalog=catalog.uri, pixel_range=(0, 255)), "")


def test_a_range_that_no_image_needs(tmp_path: Path) -> None:
    catalog = indexed(tmp_path, {"a.png": GREY}, pixel_range=(0, 4095))
    assert seen(tmp_path, catalog) == ["pixel_range changes nothing: no image has more than 8 bits per channel."]


@pytest.mark.parametrize("pixel_range", [(5, 5), (9, 2)])
def test_a_range_ascends(pixel_range: tuple[float, float], tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="pixel_range: .* the second is larger"):
        indexed(tmp_path, {"a.png": GREY}, pixel_range=pixel_range)


THIN = """
import resource, sys
import numpy as np
from PIL import Image
from alray.config import TransformConfig
from alray.data.augment import eval_transform, train_transform
from alray.data.decode import decode
from alray.data.paired import PairTransform
from alray.data.views import Views

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

data = open(sys.argv[1], "rb").read()
config = TransformConfig()
small = Image.fromarray(np.zeros((300, 400, 3), np.uint8))
mask = np.zeros((9000, 2), np.uint8)
for image in (small, decode(data, "thin")):
    before = peak()
    found = [eval_transform(config), eval_transform(TransformConfig(resize=0)), train_transform(config, 0),
             train_transform(TransformConfig(train="crop_pad", resize=0), 0), Views(config, 0)]
    for transform in found:
        transform(image, 0, 0)
    if image is not small:
        for seed in (None, 3):
            PairTransform(config, seed).pair(image, mask, 0, 0)
print(peak() - before)
"""


def test_a_thin_image_needs_little_memory(tmp_path: Path) -> None:
    """A PNG of 97 bytes took 1.2 GB: the whole image was resized to 256 x 1,152,000 before the crop."""
    (tmp_path / "thin.png").write_bytes(encoded(np.zeros((9000, 2, 3), np.uint8)))
    command = [sys.executable, "-c", THIN, str(tmp_path / "thin.png")]
    assert float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) < 150
