"""Small folders and tars by the names of their files, for tests of how their structure is understood."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from image_sources import encoded

from alray.data.catalog import Catalog, index

PIXELS = np.random.default_rng(0).integers(0, 255, (4, 4, 3), np.uint8)
DATA = {"png": encoded(PIXELS), "jpg": encoded(PIXELS, "JPEG"), "jpeg": encoded(PIXELS, "JPEG"),
        "ppm": encoded(PIXELS, "PPM")}  # fmt: skip


def content(name: str) -> bytes:
    return DATA.get(name.rpartition(".")[2].lower(), b"text")


def tree(place: Path, *names: str, **texts: str) -> str:
    """Write a folder. A name may hold {0..3}: one file for each of the numbers. texts: files with a text of their own,
    as the values of "name"."""
    for name in expanded(names):
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(name))
    for name, text in texts.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    return str(place)


def expanded(names: Sequence[str]) -> list[str]:
    found = []
    for name in names:
        start, brace, rest = name.partition("{")
        numbers, _, end = rest.partition("}")
        first, _, last = numbers.partition("..")
        found += [f"{start}{number}{end}" for number in range(int(first), int(last) + 1)] if brace else [name]
    return found


def tar(path: Path, members: Sequence[str] | Mapping[str, str]) -> str:
    """Write a tar with members of these names, in their order; with a mapping, their texts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = dict(members) if isinstance(members, Mapping) else {}
    with tarfile.open(path, "w") as file:
        for name in expanded(list(members)):
            data = texts[name].encode() if texts.get(name) else content(name)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return str(path)


def described(catalog: Catalog) -> dict[str, str]:
    """The split and the class of each key, as "test cat"; without a class "test"."""
    labels = [catalog.classes[number] if number >= 0 else "" for number in catalog.labels()]
    return {
        key: f"{'test' if test else 'train'} {label}".strip()
        for key, test, label in zip(catalog.keys().to_pylist(), catalog.is_test(), labels, strict=True)
    }


def indexed(source: str, out: Path, **options: object) -> dict[str, str]:
    return described(index(source, str(out), **options))
