from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest

from alray.store import Store, StoreError, absolute, content_hash, filesystem


def test_files_come_back_as_written(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "a" / "b"))
    store.write_json("x.json", {"k": [1, None]})
    store.write_table("t.parquet", pa.table({"row": [1, 2]}))
    assert store.read_json("x.json") == {"k": [1, None]}
    assert store.read_table("t.parquet")["row"].to_pylist() == [1, 2]
    assert store.names() == ["t.parquet", "x.json"]
    assert store.has("x.json")
    assert not store.has("y.json")
    assert not Store(str(tmp_path)).has("a")  # a directory is no file
    store.delete("x.json")
    store.delete("x.json")
    Store(str(tmp_path / "a")).delete("b")
    assert store.names() == []


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    store.write_bytes("f", b"old")

    replace = os.replace

    def full(source: str, target: str) -> None:
        if target.endswith("/f"):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StoreError, match="cannot write .*/f: No space left on device$"):
        store.write_bytes("f", b"new")
    assert store.read_bytes("f") == b"old"
    assert (tmp_path / "f").read_bytes() == b"old"
    assert [path.name for path in tmp_path.glob("f*")] == ["f"]


def test_unwritable_places_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write .*file/run"):
        Store(str(tmp_path / "file" / "run")).check_writable()


def test_hand_edited_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text("{")
    with pytest.raises(StoreError, match=r"m.json: expected JSON"):
        Store(str(tmp_path)).read_json("m.json")


def test_paths_are_absolute_and_uris_are_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("runs/x") == os.path.join(tmp_path, "runs/x")
    assert absolute("file:///a/b") == "/a/b"
    assert absolute("s3://bucket/runs/") == "s3://bucket/runs"


def test_an_absolute_path_has_no_dots_and_leads_where_the_given_one_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "c").symlink_to("a/b")
    (tmp_path / "a" / "x").write_text("of a")
    (tmp_path / "x").write_text("above")
    monkeypatch.chdir(tmp_path / "a" / "b")
    for path, place in (
        ("../x", "a/x"), ("../../x", "x"), (f"{tmp_path}/c/../x", "a/x"), (f"{tmp_path}/c/../../c/../x", "a/x"),
        ("../../new/../x", "x"), ("..", "a"), ("../../a..b/..c", "a..b/..c"),
    ):  # fmt: skip
        assert absolute(path) == f"{tmp_path}/{place}"
        if place.endswith("x") and "new" not in path:
            assert Path(absolute(path)).read_text() == Path(path).read_text()
    assert absolute("/../..") == "/"


def test_fsspec_serves_what_pyarrow_does_not_know() -> None:
    pytest.importorskip("fsspec")
    store = Store("memory://bucket/dir")
    store.write_json("x.json", [1])
    assert store.read_json("x.json") == [1]
    assert store.names() == ["x.json"]
    with pytest.raises((StoreError, ValueError, OSError)):
        filesystem("nonsense://x")


def test_hashes_of_content_stay_the_same() -> None:
    """They name cached features, masks and pretext tasks, which another hash would compute again."""
    assert content_hash(b"alray") == "948f650ca487b3a1"
