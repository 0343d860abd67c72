"""Errors of other libraries become one message of alray: which file, which line or row, and what to do."""

from __future__ import annotations

import os
import re
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_sources import add, encoded

import alray
from alray.config import DataConfig, IndexConfig
from alray.data import catalog as catalogs
from alray.data.catalog import Catalog, CatalogError, build
from alray.data.origin import ensure_catalog
from alray.data.sources.damaged import reachable
from alray.reasons import why
from alray.selection.files import read_head, read_rows
from alray.selection.protocol import SelectionError
from alray.store import StoreError, filesystem, read_table

PNG = encoded(np.zeros((4, 4, 3), np.uint8))
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 12\n"
X = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)


def pictures(place: Path, number: int = 4) -> None:
    (place / "img").mkdir(exist_ok=True)
    for i in range(number):
        (place / "img" / f"{i}.png").write_bytes(PNG)


def index(source: str, out: str, **options: Any) -> Catalog:
    """Whatever the classes are: most tests have one."""
    return catalogs.index(source, out, **{"yes": True, **options})


def refusal(source: Path | str, place: Path, **options: Any) -> str:
    with pytest.raises(CatalogError) as found:
        index(str(source), str(place / "catalog"), **options)
    message = str(found.value)
    assert " at 0x" not in message
    return message


def problems(catalog: Catalog) -> dict[str, str]:
    return {line["key"]: line["reason"] for line in catalog.problems().to_pylist()}


# ---- lists


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("path,label\nimg/0.png,café\nimg/1.png,b\nimg/2.png,é\n".encode("latin-1"),
         r"m\.csv: line 2: expected text in UTF-8, got the bytes b'\\xe9' and in 1 other lines; save it as UTF-8"),
        ("path,label\nimg/0.png,a\n".encode("utf-16"), "expected text in UTF-8, got UTF-16"),
        (b"path,label\nimg/0.png,a\nimg/1\0.png,b\n", "line 3: expected text, got a zero byte"),
        (b"", "expected a list of images, got an empty file"),
        (b"\n\n", "expected a list of images, got an empty file"),
        (b'path,label\nimg/0.png,"a\nimg/1.png,b\nimg/2.png,a\n', r'line 2: a quote \("\) is opened and never closed'),
        (b'path,label\nimg/0.png,a\n\nimg/1.png,"b\nimg/2.png,a\n', "line 4: a quote"),
        (POINTER, "m.csv: Git LFS pointer: .* run `git lfs pull`"),
    ],
)  # fmt: skip
def test_lists_that_are_no_text(data: bytes, message: str, tmp_path: Path) -> None:
    pictures(tmp_path)
    (tmp_path / "m.csv").write_bytes(data)
    assert re.search(message, refusal(tmp_path / "m.csv", tmp_path))


def test_a_quote_inside_a_value_is_no_open_quote(tmp_path: Path) -> None:
    pictures(tmp_path)
    (tmp_path / "m.csv").write_text('path,label\nimg/0.png,5" disk\nimg/1.png,b\n')
    assert index(str(tmp_path / "m.csv"), str(tmp_path / "out")).classes == ('5" disk', "b")


def test_lines_with_another_number_of_columns_are_problems_of_their_lines(tmp_path: Path) -> None:
    pictures(tmp_path)
    text = (
        'path,label,text\n\nimg/0.png,a,"one\ntwo"\nimg/1.png,b\nimg/2.png,a,x,y\n,b,x\nimg/3.png,b,x\nimg/9.png,a,x\n'
    )
    (tmp_path / "m.csv").write_text(text)
    told = refusal(tmp_path / "m.csv", tmp_path)
    assert "broken line: 2, missing image: 1, no path: 1 (2 images can be used)" in told
    catalog = index(str(tmp_path / "m.csv"), str(tmp_path / "out"), on_problem="exclude")
    assert catalog.keys().to_pylist() == ["img/0.png", "img/3.png"]
    assert {key: reason for key, reason in problems(catalog).items() if key.startswith("line")} == {
        "line 5": "broken line: expected 3 columns, as in the first line, got 2",
        "line 6": "broken line: expected 3 columns, as in the first line, got 4",
        "line 7": "no path: the line does not name an image",
    }


def test_json_lines_that_cannot_be_used_are_told_by_number(tmp_path: Path) -> None:
    pictures(tmp_path)
    lines = [
        '{"path": "img/0.png", "label": ["cat"]}', '{"path": "img/1.png", "label": "a"}', "",
        '{"path": "img/2.png", "la', '["img/3.png", "a"]',
        '{"path": "img/3.png", "label": {"name": "a"}}', '{"label": "a"}',
    ]  # fmt: skip
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    told = refusal(tmp_path / "m.jsonl", tmp_path)
    assert 'line 1: broken line: label: expected one class name or number, got a list ["cat"]' in told
    catalog = index(str(tmp_path / "m.jsonl"), str(tmp_path / "out"), on_problem="exclude")
    assert catalog.keys().to_pylist() == ["img/1.png"]
    found = problems(catalog)
    assert list(found) == ["line 1", "line 4", "line 5", "line 6", "line 7"]
    assert found["line 4"].startswith("broken line: expected a JSON object, got something else")
    assert found["line 5"].startswith("broken line: expected a JSON object with a name for each value, got [")
    assert found["line 6"] == 'broken line: label: expected one class name or number, got an object {"name": "a"}'
    assert found["line 7"] == "no path: the line does not name an image"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            b'{"path": "img/0.png", "label": "a"}\n{"path": "img/1.png", "label": "\xe9"}',
            r"line 2: expected text in UTF-8",
        ),
        (b'[{"path": "img/0.png"}]', "line 1: expected a JSON object with a name for each value"),
        (b"no json", "line 1: expected a JSON object, got something else"),
        (b'{"path": 1, "label": "a"}', r"path: expected paths or URIs of images, got numbers \(int64\)"),
        (b'{"path": "img/0.png", "label": 0.5}\n{"path": "img/1.png", "label": 1.0}', r"line 1: label: .* got 0\.5"),
    ],
)
def test_json_lists_that_cannot_be_read(text: bytes, message: str, tmp_path: Path) -> None:
    pictures(tmp_path)
    (tmp_path / "m.jsonl").write_bytes(text)
    assert re.search(message, refusal(tmp_path / "m.jsonl", tmp_path))


# ---- Parquet, .npz, tars


def damage(data: bytes) -> bytes:
    return data[:60] + bytes(60) + data[120:]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (damage, "broken Parquet file: "),
        (lambda data: data[:-20], "broken Parquet file: Parquet magic bytes not found"),
        (lambda data: POINTER, "broken Parquet file: Git LFS pointer: "),
        (lambda data: b"", "broken Parquet file: Parquet file size is 0 bytes"),
    ],
)
def test_damaged_parquet_files(change: Callable[[bytes], bytes], reason: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        pq.write_table(pa.table({"image": [PNG * 30] * 4, "label": [0, 1] * 2}), tmp_path / f"{name}.parquet")
    (tmp_path / "b.parquet").write_bytes(change((tmp_path / "a.parquet").read_bytes()))
    catalog = index(str(tmp_path / "*.parquet"), str(tmp_path / "out"), on_problem="exclude", check="none")
    assert problems(catalog)["b.parquet"].startswith(reason)


def test_metadata_of_parquet_that_cannot_be_read(tmp_path: Path) -> None:
    table = pa.table({"image": [PNG], "label": [0]})
    for name, data in (("huggingface", "{no json"), ("classes", "[1,"), ("huggingface", "[]")):
        pq.write_table(table.replace_schema_metadata({name: data}), tmp_path / "a.parquet")
        assert "a.parquet: the names of classes in the file's metadata cannot be read: " in refusal(tmp_path, tmp_path)


def objects(path: Path) -> None:
    np.savez(path, features=X, labels=np.array(["a", 1] * 4, object))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-60]), "cannot be read as .npz: File is not a zip file"),
        (lambda path: path.write_bytes(damage(path.read_bytes())), "cannot be read as .npz: "),
        (lambda path: path.write_bytes(POINTER), "Git LFS pointer: "),
        (lambda path: path.write_bytes(b"hello"), "expected an .npz, got a file that begins with b'hello'"),
        (objects, "labels: expected numbers or text, got Python objects, which only pickle can read; save numbers"),
        (
            lambda path: np.savez(path, features=X, labels=np.ones(8, complex)),
            "labels: expected whole numbers or names",
        ),
    ],
)
def test_damaged_embeddings(write: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", features=X, labels=np.zeros(8, int))
    write(tmp_path / "f.npz")
    told = refusal(tmp_path / "f.npz", tmp_path)
    assert message in told
    assert "allow_pickle" not in told


def test_pickled_arrays_that_are_not_needed_do_no_harm(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", features=X, labels=np.zeros(8, int), names=np.array(["a", 1] * 4, object))
    assert len(index(str(tmp_path / "f.npz"), str(tmp_path / "out"))) == 8


def test_tars_that_are_pointers_or_links_to_nowhere(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "cat/1.png", PNG)
    (tmp_path / "b.tar").write_bytes(POINTER)
    (tmp_path / "c.tar").symlink_to(tmp_path / "nowhere.tar")
    catalog = index(str(tmp_path / "*.tar"), str(tmp_path / "out"), on_problem="exclude")
    found = problems(catalog)
    assert found["b.tar"].startswith("broken tar: Git LFS pointer: ")
    assert found["c.tar"].startswith("broken tar: ")


def test_sidecars_that_hold_no_label(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in (
            ("1.json", b'{"label": ["a"]}'), ("2.json", b'{"label": "\xe9"}'), ("3.cls", b"\xe9"), ("4.json", b"{"),
            ("5.json", b'{"label": true}'), ("6.json", b'{"label": 3.0}'), ("7.cls", b"\xef\xbb\xbfTRUE\n"),
        ):  # fmt: skip
            add(tar, name.replace("json", "png").replace("cls", "png"), PNG)
            add(tar, name, data)
    catalog = index(str(tmp_path), str(tmp_path / "out"), on_problem="exclude", classes=("3", "true", "TRUE"))
    found = problems(catalog)
    assert found["1.json"] == 'broken sidecar: expected one class name or number, got a list ["a"]'
    assert found["2.json"].startswith("broken sidecar: expected text in UTF-8, got the bytes b'\\xe9")
    assert sorted(found) == ["1.json", "2.json", "3.cls", "4.json"]
    assert catalog.labels().tolist()[4:] == [1, 0, 2]


# ---- names that are not UTF-8


def test_names_in_folders_that_are_not_utf8(tmp_path: Path) -> None:
    place = os.fsencode(tmp_path / "data")
    for name in (b"caf\xe9/1.png", b"dog/2.png", b"dog/\xff.png"):
        path = place + b"/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(PNG)
    told = refusal(tmp_path / "data", tmp_path)
    assert "unreadable name: 2 (1 image can be used)" in told
    assert r"caf\xe9/1.png: unreadable name: the name is not in UTF-8" in told
    catalog = index(str(tmp_path / "data"), str(tmp_path / "out"), on_problem="exclude")
    assert catalog.keys().to_pylist() == ["dog/2.png"]


def test_names_in_tars_that_are_not_utf8(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as tar:
        add(tar, "dog/1.png", PNG)
        add(tar, os.fsdecode(b"caf\xe9/2.png"), PNG)
    catalog = index(str(tmp_path), str(tmp_path / "out"), on_problem="exclude")
    assert catalog.keys().to_pylist() == ["dog/1.png"]
    assert problems(catalog)[r"caf\xe9/2.png"].startswith("unreadable name: the name is not in UTF-8")


# ---- all problems at once


def test_missing_and_broken_images_are_told_together_and_all_in_a_file(tmp_path: Path) -> None:
    pictures(tmp_path, 10)
    for i in range(4):
        (tmp_path / "img" / f"{i}.png").write_bytes(b"no image")
    names = [f"img/{i}.png" for i in range(12)]
    (tmp_path / "m.csv").write_text("\n".join(["path,label", *(f"{name},a" for name in names)]))
    config = IndexConfig(root=str(tmp_path / "m.csv"), yes=True)
    with pytest.raises(CatalogError, match=r"broken image: 4, missing image: 2 \(6 images can be used\)") as found:
        build(config, str(tmp_path / "out"))
    assert f"All 6 are listed with key, place and reason in {tmp_path}/out/problems.csv." in str(found.value)
    assert sorted(os.listdir(tmp_path / "out")) == ["problems.csv"]  # a file for people: there is no catalog
    text = (tmp_path / "out" / "problems.csv").read_text()
    assert [name for name in names if name in text] == [*names[:4], *names[10:]]
    for use in (Catalog.open, lambda uri: ensure_catalog(DataConfig(catalog=uri), "elsewhere")):
        with pytest.raises(
            CatalogError, match=f"got the problems of a source that was refused, in {tmp_path}/out/prob"
        ):
            use(str(tmp_path / "out"))
    with pytest.raises(CatalogError, match=rf"make one with `alray index SOURCE --out {tmp_path}/out`"):
        Catalog.open(str(tmp_path / "out"))
    (tmp_path / "m.csv").write_text("path,label\nimg/5.png,a\n")
    build(config, str(tmp_path / "out"))
    assert not (tmp_path / "out" / "problems.csv").exists()


def test_a_refusal_leaves_no_list_of_an_earlier_one(tmp_path: Path) -> None:
    pictures(tmp_path, 10)
    config = IndexConfig(root=str(tmp_path / "img"), yes=True, label_column="")
    for i in range(7):
        (tmp_path / "img" / f"{i}.png").write_bytes(b"no image")
    with pytest.raises(CatalogError, match="All 7 are listed"):
        build(config, str(tmp_path / "out"))
    for i in range(5):
        (tmp_path / "img" / f"{i}.png").unlink()
    with pytest.raises(CatalogError, match=r"broken image: 2 \(3 images can be used\)"):
        build(config, str(tmp_path / "out"))
    assert os.listdir(tmp_path / "out") == []


def test_a_source_that_looks_wrong_says_that_its_images_were_not_opened_yet(tmp_path: Path) -> None:
    pictures(tmp_path, 10)
    (tmp_path / "img" / "a").mkdir()
    for i in range(10):
        (tmp_path / "img" / f"{i}.png").rename(tmp_path / "img" / "a" / f"{i}.png")
    (tmp_path / "img" / "a" / "0.png").write_bytes(b"")
    (tmp_path / "img" / "a" / "1.png").write_bytes(b"no image")
    told = refusal(tmp_path / "img", tmp_path, yes=False)
    assert "broken image: 1 (9 images can be used, as far as is known before they are opened)" in told
    assert "loses 1 and leaves at most 9 images." in told and "all labels are 'a'" in told
    told = refusal(tmp_path / "img", tmp_path)
    assert "broken image: 2 (8 images can be used)" in told and "leaves 8 images." in told
    told = refusal(tmp_path / "img", tmp_path, yes=False, check="none")
    assert "broken image: 1 (9 images can be used)" in told, "nobody will open them"


# ---- object stores, files of a run, selection


@pytest.mark.parametrize("uri", ["foo://a/b", "nonsense://x"])
def test_schemes_that_nobody_knows(uri: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"{uri}: .*no filesystem for"):
        index(uri, str(tmp_path / "out"))


def test_a_scheme_whose_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec")

    def missing(scheme: str) -> None:
        raise ImportError(f"Please install the package for {scheme}")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(StoreError, match=r"dropbox://a: .*Please install the package for dropbox"):
        filesystem("dropbox://a")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(StoreError, match=r"dropbox://a: no filesystem for dropbox:// .*fsspec"):
        filesystem("dropbox://a")


def test_errors_of_clients_name_the_source() -> None:
    class ConnectError(Exception):
        pass

    ConnectError.__module__ = "httpx"
    with (
        pytest.raises(CatalogError, match="hf://datasets/a: cannot be read: ConnectError: no route"),
        reachable("hf://datasets/a"),
    ):
        raise ConnectError("no route")
    with pytest.raises(ConnectError), reachable("/local"):
        raise ConnectError("a defect")
    with pytest.raises(KeyError), reachable("s3://bucket"):
        raise KeyError("a defect")


@pytest.mark.parametrize("change", [damage, lambda data: data[:-8], lambda data: b"no"])
def test_damaged_tables_of_a_run(change: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"row": np.random.default_rng(0).permutation(1000)}), path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(StoreError, match=r"a\.parquet: expected a Parquet file, got a damaged one \(.*; restore it"):
        read_table(str(path))
    with pytest.raises(FileNotFoundError):
        read_table(str(tmp_path / "b.parquet"))


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.npy", POINTER, "Git LFS pointer"),
        ("a.npz", POINTER, "Git LFS pointer"),
        ("a.parquet", POINTER, "Git LFS pointer"),
        ("a.npy", b"hello", "it begins with b'hello'"),
        ("a.npz", b"PK\x03\x04 and no more", "File is not a zip file"),
    ],
)
def test_files_that_select_cannot_read(name: str, data: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(
        SelectionError, match=re.escape(f"{name} is not .npy, .npz or Parquet, or is damaged: {reason}")
    ):
        alray.select("k_center", 1, embedding=str(tmp_path / name))
    if name != "a.npz":
        with pytest.raises(SelectionError, match=reason):
            read_rows(str(tmp_path / name))
    if name == "a.npy":
        with pytest.raises(SelectionError, match=reason):
            read_head(str(tmp_path / name), "")


def test_pickled_arrays_in_select(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([1, "a"], object))
    np.savez(tmp_path / "a.npz", embedding=np.array([[1, "a"]], object))
    for name in ("a.npy", "a.npz"):
        with pytest.raises(SelectionError, match="it holds Python objects, which only pickle can read; save numbers"):
            alray.select("k_center", 1, embedding=str(tmp_path / name))


def test_tensors_that_need_a_gradient() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(SelectionError, match="embedding: expected an array, got something else .*requires grad"):
        alray.select("k_center", 1, embedding=torch.ones((3, 2), requires_grad=True))


# ---- the words themselves


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("cannot identify <_io.BytesIO object at 0x7f505fefc4a0>"), "cannot identify BytesIO"),
        (ValueError("one\n  two"), "one two"),
        (KeyError(), "KeyError"),
    ],
)
def test_reasons_are_one_line_without_addresses(error: Exception, reason: str) -> None:
    assert why(error) == reason
    assert why(error, POINTER).startswith("Git LFS pointer: ")
