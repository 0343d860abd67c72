"""JPEG decoders: CPU seconds of one thread beside Pillow's, and whether the pixels are the same.

    python benchmarks/bench_decode.py [DATA]   # DATA: a folder with imagenet_samples/ (../shared/data)

alray decodes JPEG files with simplejpeg and all others with Pillow. OpenCV is tried where it is installed
(`pip install opencv-python-headless`). Real photographs (shorter side 256), and the same enlarged to a shorter side of
512, as photographs are before anybody made them smaller. "scaled" decodes to a half or less where the image stays large
enough for the crop, by the JPEG format's own means: it gives other pixels, so that it would be another transform. Every
way is measured five times in turn; the least is kept.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from results import record

RESIZE, CROP = 256, 224
Decoder = Callable[[bytes], np.ndarray]


def pillow(data: bytes) -> np.ndarray:
    """Pillow's own decoder."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def pillow_scaled(data: bytes) -> np.ndarray:
    """Scaled by Pillow's draft mode, to no less than the resized image."""
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (RESIZE, RESIZE))
        return np.asarray(image.convert("RGB"))


def torchvision_io(data: bytes) -> np.ndarray:
    """torchvision's own binding of libjpeg-turbo."""
    from torchvision.io import ImageReadMode, decode_jpeg

    pixels = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
    return np.asarray(pixels.permute(1, 2, 0).numpy())


def simplejpeg(data: bytes) -> np.ndarray:
    """Bindings of libjpeg-turbo, as alray decodes (without opening the file with Pillow first)."""
    return np.asarray(import_module("simplejpeg").decode_jpeg(data))


def simplejpeg_scaled(data: bytes) -> np.ndarray:
    """The same, scaled."""
    return np.asarray(import_module("simplejpeg").decode_jpeg(data, min_height=RESIZE, min_width=RESIZE))


def opencv(data: bytes) -> np.ndarray:
    """OpenCV's."""
    cv2 = import_module("cv2")
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB))


DECODERS: dict[str, tuple[Decoder, str]] = {
    "pillow": (pillow, "pillow"),
    "torchvision.io": (torchvision_io, "torchvision"),
    "simplejpeg": (simplejpeg, "simplejpeg"),
    "opencv": (opencv, "opencv-python-headless"),
    "pillow, scaled": (pillow_scaled, "pillow"),
    "simplejpeg, scaled": (simplejpeg_scaled, "simplejpeg"),
}


def cropped(pixels: np.ndarray) -> np.ndarray:
    """Resized to 256 and cropped to 224 by Pillow, as alray's evaluation transform does."""
    image = Image.fromarray(pixels)
    width, height = image.size
    shorter = min(width, height)
    sides = (RESIZE * width // shorter, RESIZE * height // shorter)
    left, top = ((side - CROP) // 2 for side in sides)
    return np.asarray(image.resize(sides, Image.Resampling.BILINEAR).crop((left, top, left + CROP, top + CROP)))


def enlarged(data: bytes) -> bytes:
    """Twice as wide and high."""
    with Image.open(io.BytesIO(data)) as image:
        buffer = io.BytesIO()
        image.convert("RGB").resize((2 * image.width, 2 * image.height), Image.Resampling.LANCZOS).save(
            buffer, "JPEG", quality=90
        )
    return buffer.getvalue()


def seconds(images: list[bytes], work: Callable[[bytes], Any]) -> float:
    """CPU seconds an image."""
    start = time.process_time()
    for data in images:
        work(data)
    return (time.process_time() - start) / len(images)


def compared(images: list[bytes]) -> dict[str, dict[str, Any]]:
    """The decoders that are installed, in turn."""
    there = {}
    for name, (decode, package) in DECODERS.items():
        try:
            decode(images[0])
            there[name] = decode, version(package)
        except ImportError:
            print(f"{name}: {package} is not installed")
    least = {name: [np.inf, np.inf] for name in there}
    for _ in range(5):
        for name, (decode, _) in there.items():
            both = seconds(images, decode), seconds(images, lambda data, decode=decode: cropped(decode(data)))
            least[name] = [min(pair) for pair in zip(least[name], both, strict=True)]
    found = {}
    for name, (decode, number) in there.items():
        apart = [np.abs(cropped(decode(d)).astype(int) - cropped(pillow(d)).astype(int)) for d in images]
        found[name] = {
            "version": number,
            "decode_us": round(1e6 * least[name][0]),
            "decode_and_crop_us": round(1e6 * least[name][1]),
            "over_pillow": round(least[name][0] / least["pillow"][0], 3),
            "over_pillow_with_crop": round(least[name][1] / least["pillow"][1], 3),
            "largest_difference": int(max(part.max() for part in apart)),
            "mean_difference": round(float(np.mean([part.mean() for part in apart])), 4),
        }
        print(name, found[name])
    return found


def main(data: str) -> None:
    """Both sizes of the photographs."""
    torch.set_num_threads(1)
    table = pq.read_table(next(Path(data, "imagenet_samples").glob("*.parquet")), columns=["image"])
    images = [value["bytes"] if isinstance(value, dict) else value for value in table["image"].to_pylist()]
    result = {"shorter side 256": compared(images), "shorter side 512": compared([enlarged(one) for one in images])}
    record("decode", {"images": len(images), "results": result})


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "../shared/data")
