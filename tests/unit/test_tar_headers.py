"""The direct walk over a tar finds what `tarfile` finds, whatever the tar holds and wherever it is damaged."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alray.data.sources.tar_headers import BLOCK, PlainHeaders
from alray.data.sources.tars import Tar, _read_others, read_headers

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
PLAIN = ["short", "long", "time", "directory", "large", "empty_files", "unicode", "label"]
OTHERS = ["link", "hard_link", "not_utf8", "owner", "global", "device", "very_long", "sparse"]


def member(name: str, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def add_kind(tar: tarfile.TarFile, kind: str, at: int) -> None:
    """One member of a kind, and before it an image and its class."""
    for name, data in ((f"./{at:04d}.jpg", bytes([at % 256]) * (at * 37 % 1500)), (f"{at:04d}.cls", b"cat")):
        tar.addfile(member(name, size=len(data)), io.BytesIO(data))
    special: dict[str, Callable[[], tarfile.TarInfo]] = {
        "long": lambda: member(f"{'deep/' * 12}{at}/{'n' * 90}.jpg", size=700),
        "very_long": lambda: member(f"{'d' * 80}/{'very/' * 60}{at}.jpg", size=700),
        "time": lambda: member(f"t{at}.png", size=700, mtime=1234567.25),
        "directory": lambda: member(f"folder{at}", type=tarfile.DIRTYPE),
        "large": lambda: member(f"l{at}.jpg", size=9000),
        "empty_files": lambda: member(f"e{at}.jpg"),
        "unicode": lambda: member(f"ü{at}.jpg", size=100),
        "label": lambda: member(f"j{at}.txt", size=6000),
        "link": lambda: member(f"s{at}.jpg", type=tarfile.SYMTYPE, linkname="0001.jpg"),
        "hard_link": lambda: member(f"h{at}.cls", type=tarfile.LNKTYPE, linkname="0001.cls"),
        "not_utf8": lambda: member(f"\udcff{at}.jpg", size=100),
        "owner": lambda: member(f"o{at}.jpg", size=100, uid=1 << 30),
        "global": lambda: member(f"g{at}.jpg", size=100),
        "device": lambda: member(f"d{at}.jpg", type=tarfile.FIFOTYPE),
        "sparse": lambda: member(f"p{at}.jpg", type=tarfile.GNUTYPE_SPARSE, size=100),
    }
    if kind in special:
        info = special[kind]()
        tar.addfile(info, io.BytesIO(bytes(info.size)))


def written(path: Path, kind: str, form: str, members: int = 7) -> bool:
    """Write a tar with members of a kind; returns whether its format can hold them."""
    given = {"pax_headers": {"comment": "all"}} if kind == "global" and form == "pax" else {}
    try:
        with tarfile.open(path, "w", format=FORMATS[form], **given) as tar:  # type: ignore[call-overload]
            for at in range(members):
                add_kind(tar, kind if at % 3 == 1 else "short", at)
    except ValueError:
        return False
    return True


def assert_as_tarfile(path: Path) -> None:
    expected = Tar(str(path), path.name.removesuffix(".tar"))
    with path.open("rb") as raw, io.BufferedReader(raw) as file:  # type: ignore[type-var]
        _read_others(expected, file, 0, path.stat().st_size, "label")
    found = read_headers(str(path), path.name, "label")
    for tar in (found, expected):
        tar.problems = [one.to_pylist() for one in tar.problems]  # type: ignore[misc]
    assert found == expected


def ended(path: Path) -> bool:
    """Whether the direct walk alone reads the tar."""

    class File:
        def read_at(self, length: int, offset: int) -> bytes:
            return path.read_bytes()[offset : offset + length]

    plain = PlainHeaders(File(), path.stat().st_size, lambda name: False)
    list(plain.batches())
    return plain.ended


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", [*PLAIN, *OTHERS])
def test_any_kind_of_member_is_found_as_by_tarfile(kind: str, form: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    if not written(path, kind, form):
        pytest.skip("this format cannot hold such a member")
    assert_as_tarfile(path)
    if kind in PLAIN:
        assert ended(path)
    if kind in ("link", "not_utf8", "device"):
        assert not ended(path)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", ["short", "long", "time"])
def test_a_tar_that_is_cut_anywhere_is_told_as_by_tarfile(kind: str, form: str, tmp_path: Path) -> None:
    path, part = tmp_path / "whole.tar", tmp_path / "a.tar"
    if not written(path, kind, form, 3):
        pytest.skip("this format cannot hold such a member")
    whole = path.read_bytes()
    for end in sorted({*range(0, len(whole), BLOCK), *range(100, 6000, 371), len(whole) - 1}):
        part.write_bytes(whole[:end])
        assert_as_tarfile(part)


@pytest.mark.parametrize("form", FORMATS)
def test_a_tar_with_any_damaged_byte_is_told_as_by_tarfile(form: str, tmp_path: Path) -> None:
    path, damaged = tmp_path / "whole.tar", tmp_path / "a.tar"
    assert written(path, "time", form, 3)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for at in rng.integers(0, len(whole) - 2 * BLOCK, 400).tolist():
        damaged.write_bytes(whole[:at] + bytes([int(rng.integers(0, 256))]) + whole[at + 1 :])
        assert_as_tarfile(damaged)


def test_a_header_that_is_wrong_far_inside_a_batch_ends_the_walk_there(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    written(path, "short", "ustar", 400)
    whole = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        wrong = tar.getmembers()[301]
    whole[wrong.offset + 3] ^= 1
    path.write_bytes(bytes(whole))
    assert_as_tarfile(path)
    assert len(read_headers(str(path), "a.tar", "label").images) == 151
