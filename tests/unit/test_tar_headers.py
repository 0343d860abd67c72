"""The direct walk over a tar finds what `tarfile` finds, whatever the tar holds and wherever it is damaged."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import pytest

from alray.data.sources.scan import is_image_name
from alray.data.sources.tar_blocks import BLOCK
from alray.data.sources.tar_headers import PlainHeaders
from alray.data.sources.tars import Tar, _read_others, read_headers

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
PLAIN = ["short", "long", "time", "directory", "large", "empty_files", "unicode", "label"]
OTHERS = ["old_directory", "link", "hard_link", "not_utf8", "owner", "global", "device", "very_long", "sparse"]


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
        "old_directory": lambda: member(f"folder{at}/", type=tarfile.AREGTYPE),
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
    with pafs.LocalFileSystem().open_input_file(str(path)) as file:
        plain = PlainHeaders(file, file.size())
        for _ in plain.batches():
            pass
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
    assert len(read_headers(str(path), "a.tar", "label").names) == 151


def random_name(rng: np.random.Generator, at: int, odd: float) -> str:
    """A name; with probability `odd` one that is long, not ASCII, hidden, or has dots or an unusual suffix."""
    start, middle, end = "", "", ("jpg", "cls")[at % 2]
    if rng.random() < odd:
        starts = ("./", "deep/er/", "w\u00fcrfel/", ".hidden/", "f/" * int(rng.integers(1, 90)), ".", "deep/.")
        middles = (".0001", ".left", "\u732b", "\u732b\0", "n" * int(rng.integers(1, 150)), "/")
        ends = ("JPEG", "Png", "json", "cls.txt", "txt", "tar", "")
        which = rng.integers(4)
        start = starts[rng.integers(len(starts))] if which in (0, 3) else start
        middle = middles[rng.integers(len(middles))] if which in (1, 3) else middle
        end = ends[rng.integers(len(ends))] if which in (2, 3) else end
    return f"{start}{at // 2:05d}{middle}.{end}"


def random_tar(rng: np.random.Generator, form: str, members: int, odd: float) -> bytes:
    """A tar of images and classes; with probability `odd` each, a member is of another kind, large, or has a time that
    needs a pax header."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=FORMATS[form]) as tar:
        for at in range(members):
            info = member(random_name(rng, at, odd), size=int(rng.integers(0, (9000 if rng.random() < odd else 900))))
            if rng.random() < odd:
                info.mtime = float(rng.integers(0, 1 << 30)) + 0.25
            if rng.random() < odd / 3:
                info.type = (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, b"\0")[
                    rng.integers(5)
                ]
                info.linkname, info.size = "00000.jpg", info.size if info.type == b"\0" else 0
            if info.name.endswith((".cls", ".json")) and rng.random() >= odd:
                info.size = 2
            with contextlib.suppress(ValueError):  # this format cannot hold such a name
                tar.addfile(info, io.BytesIO(b"7 " * (info.size // 2) + b"9" * (info.size % 2)))
    return sink.getvalue()


def with_checksum(header: bytes) -> bytes:
    blank = header[:148] + b" " * 8 + header[156:]
    return header[:148] + b"%06o\0 " % sum(blank) + header[156:]


def changed(rng: np.random.Generator, whole: bytes, form: str, odd: float) -> bytes:
    """The tar, or what accidents make of it."""
    end, second = len(whole.rstrip(b"\0")) // BLOCK * BLOCK + BLOCK, random_tar(rng, form, 40, odd)
    at = int(rng.integers(0, len(whole)))
    return (
        whole,
        whole[:at],  # cut
        whole[:at] + bytes([int(rng.integers(0, 256))]) + whole[at + 1 :],
        whole + second,  # two tars, with the zeros at the end of the first between them
        whole[:end] + bytes(BLOCK) + second,
        whole[:end] + second,
        whole[: at // BLOCK * BLOCK] + bytes(BLOCK) + whole[at // BLOCK * BLOCK :],
        whole.rstrip(b"\0"),
    )[rng.integers(8)]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("seed", range(60))
def test_random_tars_are_read_as_by_tarfile(seed: int, form: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    odd = (0, 0.005, 0.2)[seed % 3]
    data = changed(rng, random_tar(rng, form, int(rng.integers(0, 300)), odd), form, odd)
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    assert_as_tarfile(path)
    entries, files, links = list[tuple[str, tuple[int, int] | str]](), dict[str, tuple[int, int]](), dict[str, str]()
    try:
        with tarfile.open(path) as tar:
            for info in tar:
                name = info.name.removeprefix("./")
                if not is_image_name(name):
                    continue
                if info.isreg() and info.offset_data + info.size <= len(data):
                    files[name] = info.offset_data, info.size
                    entries.append((name, files[name]))
                elif info.issym() or info.islnk():
                    links[name] = os.path.join(os.path.dirname(name) * info.issym(), info.linkname)
                    entries.append((name, links[name]))
    except (tarfile.TarError, ValueError):  # the latter for sizes that no file has
        pass

    def place(name: str) -> tuple[int, int] | None:
        """Of the bytes where a name leads."""
        for _ in links:
            name = name if name in files else links.get(name, "")
        return files.get(name)

    places = [(name, place(there) if isinstance(there, str) else there) for name, there in entries]
    found = read_headers(str(path), "a.tar", "label")
    assert [*zip(found.names, zip(found.offsets, found.sizes, strict=True), strict=True)] == [
        (name, there) for name, there in places if there
    ]
    told = {line["key"] for one in found.problems for line in one.to_pylist() if "broken link" in line["reason"]}
    assert told >= {name for name, there in places if not there}


@pytest.mark.parametrize("at", [0, 99, 105, 110, 120, 124, 130, 134, 135, 140, 156, 257, 332, 345, 499])
@pytest.mark.parametrize("form", FORMATS)
def test_a_header_with_an_odd_byte_and_a_right_checksum_is_read_as_by_tarfile(
    form: str, at: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.tar"
    whole = random_tar(np.random.default_rng(0), form, 100, 0)
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        begin = tar.getmembers()[80].offset
    assert begin > 1 << 15  # headers are looked at together there
    for odd in b"0127/ \0au\xc3\x80Lx":
        header = whole[begin : begin + at] + bytes([odd]) + whole[begin + at + 1 : begin + BLOCK]
        path.write_bytes(whole[:begin] + with_checksum(header) + whole[begin + BLOCK :])
        assert_as_tarfile(path)


def test_headers_that_lie_close_together_are_read_in_few_reads(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(random_tar(np.random.default_rng(0), "ustar", 2000, 0))

    class Counted:
        """A file that counts its reads."""

        def __init__(self, file: Any) -> None:
            self.file, self.reads = file, 0

        def read_at(self, length: int, offset: int) -> Any:
            self.reads += 1
            return self.file.read_at(length, offset)

    with pafs.LocalFileSystem().open_input_file(str(path)) as raw:
        file = Counted(raw)
        plain = PlainHeaders(file, raw.size())
        assert sum(len(members.names) for members in plain.batches()) == 2000
    assert file.reads < 20


@pytest.mark.parametrize("size", [-1, -BLOCK, -3 * BLOCK, -(1 << 40)])
@pytest.mark.parametrize("where", ["header", "pax"])
def test_a_size_below_zero_does_not_lead_back(where: str, size: int, tmp_path: Path) -> None:
    """Such a tar would be read for ever."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for at in range(4):
            info = member(f"{at}.jpg", size=10)
            if where == "pax" and at == 2:
                info.pax_headers = {"size": str(size)}
            tar.addfile(info, io.BytesIO(bytes(10)))
    if where == "header":
        whole = bytearray(path.read_bytes())
        header = 2 * 2 * BLOCK
        whole[header + 124 : header + 136] = (size + 256**12).to_bytes(12, "big")
        whole[header : header + BLOCK] = with_checksum(bytes(whole[header : header + BLOCK]))
        path.write_bytes(bytes(whole))
    found = read_headers(str(path), "a.tar", "label")
    assert found.names[:2] == ["0.jpg", "1.jpg"]
    assert "truncated tar" in str(found.problems[-1].to_pylist())
