"""JPEG files have the same pixels by libjpeg-turbo as by Pillow, and Pillow decodes what the other does not."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alray.data.decode import decode
from alray.data.fetch import ImageError
from alray.data.jpeg import decode_jpeg, decoded

pytestmark = pytest.mark.skipif(decode_jpeg is None, reason="simplejpeg is not installed")


def photograph(width: int, height: int, mode: str = "RGB", **options: Any) -> bytes:
    """A picture with smooth and with noisy parts."""
    rng = np.random.default_rng(width * 1000 + height)
    channels = {"RGB": 3, "L": 1, "CMYK": 4}[mode]
    y, x = np.mgrid[:height, :width]
    smooth = (np.stack([x * 3 + 5 * k + y * (k + 1) for k in range(channels)], axis=2) % 256).astype(np.uint8)
    smooth[: height // 2] ^= rng.integers(0, 64, (height // 2, width, channels), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(smooth.squeeze(axis=2) if channels == 1 else smooth, mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def by_pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def fast(data: bytes) -> Image.Image | None:
    with Image.open(io.BytesIO(data)) as image:
        return decoded(image, data)


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (16, 16), (33, 17), (250, 191), (9, 400)])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [20, 75, 95])
def test_the_same_pixels(size: tuple[int, int], progressive: bool, subsampling: int, quality: int) -> None:
    data = photograph(*size, progressive=progressive, subsampling=subsampling, quality=quality)
    found = fast(data)
    assert found is not None
    np.testing.assert_array_equal(np.asarray(found), by_pillow(data))


@pytest.mark.parametrize(
    "options", [{"keep_rgb": True}, {"restart_marker_rows": 1}, {"optimize": True}, {"smooth": 50}]
)
def test_the_same_pixels_in_rarer_files(options: dict[str, Any]) -> None:
    data = photograph(70, 50, **options)
    np.testing.assert_array_equal(np.asarray(decode(data, "k")), by_pillow(data))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_colours_are_left_to_pillow(mode: str) -> None:
    data = photograph(40, 30, mode)
    assert fast(data) is None
    np.testing.assert_array_equal(np.asarray(decode(data, "k")), by_pillow(data))


def test_the_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[274] = 6
    data = photograph(40, 30, exif=exif)
    found = decode(data, "k")
    assert found.size == (30, 40)
    np.testing.assert_array_equal(np.asarray(found), np.rot90(by_pillow(data), 3))


def test_damaged_files_are_refused_as_before() -> None:
    data = photograph(200, 200, quality=90)
    assert fast(data[: len(data) // 2]) is None
    with pytest.raises(ImageError, match="k: broken image: .*truncated"):
        decode(data[: len(data) // 2], "k")
    flipped = bytearray(data)
    flipped[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    assert np.asarray(decode(bytes(flipped), "k")).shape == (200, 200, 3)  # Pillow reads it in spite of the damage
    np.testing.assert_array_equal(np.asarray(decode(bytes(flipped), "k")), by_pillow(bytes(flipped)))
