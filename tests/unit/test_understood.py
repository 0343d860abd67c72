"""What `alray index` prints, what looks wrong, and how one goes on from there."""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_sources import add
from trees import DATA, tar, tree

from alray.cli import main
from alray.config import DataConfig, IndexConfig
from alray.data.catalog import Catalog, CatalogError, index
from alray.data.origin import ensure_catalog
from alray.data.sources.kinds import SOURCES

GOOD = ("train/cat/{0..2}.png", "train/dog/{0..1}.png", "val/cat/0.png", "val/dog/0.png")


def command(*words: str | Path) -> None:
    main(["index", *map(str, words)])


def wrong(source: str, out: Path, *words: str | Path) -> str:
    """The error message for a source that looks wrong; nothing must be written."""
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed), pytest.raises(SystemExit) as stopped:
        command(source, "--out", out, *words)
    assert stopped.value.code == 2
    assert not (out / "meta.json").exists()
    return printed.getvalue()


def test_it_is_printed_what_was_understood(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tree(
        tmp_path / "s", *GOOD, "train/cat/Thumbs.db", "README.md", "train/dog/._0.png", "val/list.txt", "val/b.txt"
    )
    command(source, "--out", tmp_path / "o")
    assert capsys.readouterr().out.splitlines() == [
        f"{source}:",
        "  7 images: 5 train, 2 test (val)",
        "  2 classes, the largest 'cat' with 4 images, the smallest 'dog' with 3: cat, dog",
        "  every image has a label",
        "  5 files of other kinds ignored: .txt 2, .db 1, .md 1, hidden 1",
        "  7 images with the same bytes as another one (1 set of equal ones), as train/cat/0.png and train/cat/1.png",
        "  2 test images with the same bytes as one that is not in the test split",
        "  7 images with the same bytes as one of another label, as train/cat/0.png and train/dog/0.png",
        f"catalog: {tmp_path / 'o'} (7 images)",
    ]


def test_classes_that_are_named_for_images_without_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tree(tmp_path / "s", "{0..2}.png")
    command(source, "--out", tmp_path / "o", "--classes", "cat", "cow")
    assert "  2 classes that no image has so far: cat, cow\n" in capsys.readouterr().out
    assert "classes: expected names, got an empty one" in wrong(source, tmp_path / "p", "--classes", "cat", " ")
    command(tree(tmp_path / "t", "0.png"), "--out", tmp_path / "a\nb")
    assert f"catalog: {tmp_path}/a\\nb (1 image)\n" in capsys.readouterr().out


def test_what_looks_wrong_ends_with_2_and_says_what_was_understood(tmp_path: Path) -> None:
    """As a program, without a terminal: it never waits for an answer."""
    source = tree(tmp_path / "s", *GOOD, "extra/cat/{0..3}.png")
    done = subprocess.run(
        [sys.executable, "-m", "alray.cli", "index", source, "--out", str(tmp_path / "o")],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2 and not (tmp_path / "o" / "meta.json").exists()
    text = done.stderr
    assert "7 images: 5 train, 2 test (val)" in text and "extra (4): 4 of 11 images in no split folder" in text
    assert "--split extra train" in text and "Traceback" not in text
    command(source, "--out", tmp_path / "o", "--split", "extra", "train")
    assert len(Catalog.open(str(tmp_path / "o"))) == 11


def test_yes_accepts_and_the_catalog_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tree(tmp_path / "s", *GOOD, "extra/cat/{0..3}.png")
    for words in (["--yes", source, "--out", tmp_path / "o"], [source, "--out", tmp_path / "p", "--yes"],
                  [source, "--yes", "true", "--out", tmp_path / "q"]):  # fmt: skip
        command(*words)
        told = capsys.readouterr().out
        assert "accepted by --yes: extra (4): 4 of 11 images in no split folder" in told and "Pass --" not in told
    with pytest.raises(SystemExit):
        command(source, "--yes", "false", "--out", tmp_path / "r")


def test_a_run_refuses_likewise(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", *GOOD, "extra/cat/{0..3}.png")
    with pytest.raises(CatalogError, match=r"7 images: 5 train, 2 test(.|\n)*extra \(4\)(.|\n)*--data\.yes"):
        ensure_catalog(DataConfig(root=source), str(tmp_path / "o"))
    assert len(ensure_catalog(DataConfig(root=source, yes=True), str(tmp_path / "o"))[0]) == 7


# ---- each thing that looks wrong


def test_one_class(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", "train/cat/{0..2}.png", "val/cat/0.png")
    assert "all labels are 'cat', so there is nothing to learn" in wrong(source, tmp_path / "o")
    rows = {"image": [DATA["png"]] * 3, "label": [4, 4, None], "split": ["train", "test", "train"]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    assert "all labels are '4'" in wrong(str(tmp_path / "a.parquet"), tmp_path / "o")


def test_classes_that_are_splits(tmp_path: Path) -> None:
    rows = {"image": [DATA["png"]] * 4, "kind": ["train", "test"] * 2, "split": ["train", "train", "test", "test"]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    text = wrong(str(tmp_path / "a.parquet"), tmp_path / "o", "--label-column", "kind")
    assert "test, train: these classes have the names of splits. Pass another --label-column" in text
    source = tree(tmp_path / "s", "train/{0..2}.png", "test/{0..2}.png")
    text = wrong(source, tmp_path / "o", "--split", "train", "class", "test", "train")
    assert "no split folder" in text
    command(source, "--out", tmp_path / "o", "--split", "train", "class", "test", "class", "--yes")
    assert Catalog.open(str(tmp_path / "o")).classes == ("test", "train")


def test_most_files_ignored(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", *GOOD, "train/cat/{10..20}.heic")
    text = wrong(source, tmp_path / "o")
    assert "most files are not images that can be read here: 11 others, most of them .heic, and 7 images" in text
    tar(tmp_path / "t" / "zoo" / "train-0.tar", ["a.png"])
    text = wrong(
        tree(tmp_path / "t", "a/cat/0.png", "a/dog/0.png", *[f"zoo/{i}.tar" for i in range(5)]), tmp_path / "o"
    )
    assert "most of them .tar, and 2 images. Pass --format webdataset to read these" in text


def test_no_image_at_all_says_what_there_is(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", "notes/{0..3}.txt", "shards/{0..1}.tar", "a.yaml")
    text = wrong(source, tmp_path / "o")
    assert "expected images, got 7 files of other kinds (.txt 4, .tar 2, .yaml 1)" in text


def test_files_of_annotations_beside_each_image_are_nothing_strange(tmp_path: Path) -> None:
    names = [name.replace(".png", end) for name in GOOD for end in (".txt", ".xml")]
    command(tree(tmp_path / "s", *GOOD, *names), "--out", tmp_path / "o")
    assert "14 files of other kinds ignored: .txt 7, .xml 7" in Catalog.open(str(tmp_path / "o")).notes()


def test_test_classes_unknown_to_training(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", *GOOD, "val/cow/0.png", "val/emu/0.png")
    assert "2 of 4 classes have test images but no training image: cow, emu" in wrong(source, tmp_path / "o")


def test_a_pool_without_any_label_is_no_doubt(tmp_path: Path) -> None:
    """Labels are bought from an oracle: classes of the test images are unknown to training by intention."""
    command(tree(tmp_path / "s", "train/{0..5}.png", "val/cat/0.png", "val/dog/0.png"), "--out", tmp_path / "o")
    catalog = Catalog.open(str(tmp_path / "o"))
    assert catalog.classes == ("cat", "dog") and "6 images without a label (6 train, 0 test)" in catalog.notes()


def test_no_test_images(tmp_path: Path) -> None:
    """Wrong for the command where there are labels; a run decides by itself."""
    source = tree(tmp_path / "s", "cat/{0..2}.png", "dog/{0..1}.png")
    text = wrong(source, tmp_path / "o")
    assert "there are no test images. Pass --test-root FOLDER" in text and "--split.test-share" in text
    command(source, "--out", tmp_path / "o", "--yes")
    assert len(ensure_catalog(DataConfig(root=source), str(tmp_path / "p"))[0]) == 5
    command(tree(tmp_path / "u", "{0..2}.png"), "--out", tmp_path / "q")
    np.savez(tmp_path / "e.npz", features=np.eye(4), label=[0, 1, 0, 1])
    assert "there are no test images" in wrong(str(tmp_path / "e.npz"), tmp_path / "r")


def test_test_images_without_labels(tmp_path: Path) -> None:
    """Case 24."""
    source = tree(tmp_path / "s", "train/cat/{0..2}.png", "train/dog/{0..1}.png", "val/{0..5}.JPEG")
    for words in ([source], [f"{source}/train", "--test-root", f"{source}/val"]):
        text = wrong(words[0], tmp_path / "o", *words[1:])
        assert "none of the 6 test images has a label, so no accuracy can be measured" in text
        assert "6 of 6 images without a label, which cannot be used for testing" in text


def test_nothing_but_test_images(tmp_path: Path) -> None:
    rows = {"image": [DATA["png"]] * 4, "label": [0, 1] * 2}
    pq.write_table(pa.table(rows), tmp_path / "crash-test.parquet")
    text = wrong(str(tmp_path / "crash-test.parquet"), tmp_path / "o")
    assert "all images are test images, and none is left to learn from. Pass --split test train" in text


def test_problems_and_doubts_are_told_together(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", *GOOD, "extra/cat/0.png")
    (tmp_path / "s/train/cat/0.png").write_bytes(b"")
    text = wrong(source, tmp_path / "o")
    assert "broken image: 1" in text and "that loses 1 and leaves at most 6 images" in text and "extra (1)" in text


# Options that not every kind of source reads: another value than the default, and the kinds that read it.
SOME_READ: dict[str, tuple[object, str]] = {
    "key": ("{split}/{class}-{row}", "webdataset parquet arrow manifest"),
    "label_column": ("kind", "webdataset parquet arrow manifest embeddings"),
    "image_column": ("png", "webdataset parquet arrow manifest embeddings"),
    "class_depth": (1, "folder webdataset"),
    "links": ("all", "folder webdataset parquet arrow"),
    "on_problem": ("exclude", "folder webdataset parquet arrow manifest"),
    "check": ("none", "folder webdataset parquet arrow manifest"),
    "pixel_range": ((0, 100), "folder webdataset parquet arrow manifest"),
    "test_label_numbers": ("sorted", ""),  # without test_labels
}
READ_BY_ALL = {"root", "test_root", "test_labels", "format", "split", "yes", "classes"}  # or refused


def written_as(kind: str, place: Path) -> str:
    """A source of two images or rows; what holds the images is called png, the classes are in `kind`."""
    data, labels = [DATA["png"]] * 2, ["cat", "dog"]
    place.mkdir()
    if kind == "folder":
        return tree(place, "cat/0.png", "dog/0.png")
    if kind == "webdataset":
        with tarfile.open(place / "a.tar", "w") as file:
            for number, label in enumerate(labels):
                add(file, f"{number}.png", data[number])
                add(file, f"{number}.json", json.dumps({"kind": label}).encode())
        return str(place / "a.tar")
    if kind == "embeddings":
        np.savez(place / "a.npz", png=np.zeros((2, 2), np.float32), kind=labels)
        return str(place / "a.npz")
    if kind == "manifest":
        tree(place, "cat/0.png", "dog/0.png", **{"list.csv": "png,kind\ncat/0.png,cat\ndog/0.png,dog\n"})
        return str(place / "list.csv")
    rows = pa.table({"png": data, "kind": labels})
    if kind == "parquet":
        pq.write_table(rows, place / "a.parquet")
    else:
        with pa.ipc.new_stream(place / "a.arrow", rows.schema) as writer:
            writer.write_table(rows)
    return str(place)


@pytest.mark.parametrize("kind", SOURCES)
def test_an_option_that_is_not_read_is_told(kind: str, tmp_path: Path) -> None:
    assert SOME_READ.keys() | READ_BY_ALL == set(IndexConfig.model_fields)  # a new option says who reads it
    source = written_as(kind, tmp_path / "s")
    given = {name: value for name, (value, _) in SOME_READ.items()}
    notes = index(source, str(tmp_path / "o"), yes=True, classes=("cat", "dog"), **given).notes()
    told = {note.split(" ")[0][2:].replace("-", "_") for note in notes if " was not used: it is for " in note}
    assert told == {name for name, (_, kinds) in SOME_READ.items() if kind not in kinds.split()}


def test_folders_are_counted_with_what_is_left_out_and_it_is_said(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", *GOOD, "train/cat/deep/0.png")
    (tmp_path / "s/train/cat/0.png").write_bytes(b"")
    text = wrong(source, tmp_path / "o", "--on-problem", "exclude")
    assert "7 images: 5 train" in text and "7 images 1 deep" in text
    assert "the 1 left out (broken image: 1) are not among these, but where folders are counted" in text
    (tmp_path / "s/train/cat/0.png").write_bytes(DATA["png"])
    assert "left out (" not in wrong(source, tmp_path / "o")


def test_names_with_control_characters_are_one_line_of_a_refusal(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", *GOOD, "train/new\nline\x1b/0.png", "alray-classes.txt", **{
        "alray-classes.txt": "cat\ndog\n"
    })  # fmt: skip
    text = wrong(source, tmp_path / "o")
    said = r"  train/new\nline\x1b/0.png: unknown class: 'new\nline\x1b' is not one of the 2 classes"
    assert said in text.splitlines()


def test_a_row_without_bytes_is_named_by_its_row(tmp_path: Path) -> None:
    data = [DATA["png"], None, DATA["png"]]
    pq.write_table(pa.table({"image": data, "label": ["a", "b", "a"]}), tmp_path / "nulls.parquet")
    text = wrong(str(tmp_path / "nulls.parquet"), tmp_path / "o")
    assert "nulls/000000001: missing image: row 1 of nulls.parquet has no bytes\n" in text


def test_a_glob_that_matches_folders_says_what_to_give(tmp_path: Path) -> None:
    tree(tmp_path / "s", "trip1/cat/{0..1}.png", "trip2/dog/{0..1}.png", "trip2/notes.txt", "other/cat/0.png")
    text = wrong(f"{tmp_path}/s/trip*", tmp_path / "o")
    assert f"it matches 2 folders, the first trip1, and no file; give the folder above them, {tmp_path}/s, or" in text
    (given,) = re.findall("such as '(.*)'", text)
    assert index(given, str(tmp_path / "o"), yes=True).keys().to_pylist() == (
        ["trip1/cat/0.png", "trip1/cat/1.png", "trip2/dog/0.png", "trip2/dog/1.png"]
    )
    assert "trap*: no file matches" in wrong(f"{tmp_path}/s/trap*", tmp_path / "p")
    (tmp_path / "s/empty").mkdir()
    assert f"it matches 1 folder, the first empty, and no file; give the folder above them, {tmp_path}/s, or" in (
        wrong(f"{tmp_path}/s/emp*", tmp_path / "p")
    )


@pytest.mark.parametrize("given", [("extra", "pool"), ("extra",)])
def test_wrong_values_of_split(given: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        command(tree(tmp_path / "s", *GOOD), "--out", tmp_path / "o", "--split", *given)
    assert stopped.value.code == 2


def test_names_are_printed_without_obeying_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tree(tmp_path / "s", *GOOD, "train/a\x1b[2Jb/0.png")
    command(source, "--out", tmp_path / "o")
    assert "\x1b" not in capsys.readouterr().out


def test_a_catalog_that_would_leave_most_images_out_is_refused(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", "cat/{0..2}.png", "dog/0.png", "holiday/{0..8}.png")
    words = ("--classes", "cat", "dog", "--on-problem", "exclude")
    said = wrong(source, tmp_path / "o", *words)
    assert "most images would be left out, 9, and 4 images used (unknown class: 9). Pass --classes" in said
    assert "--label-column '' if the folders are no classes" in said
    command(source, "--out", tmp_path / "o", *words, "--yes")
    assert len(Catalog.open(str(tmp_path / "o"))) == 4


def test_folders_of_different_depth_may_be_no_classes(tmp_path: Path) -> None:
    said = wrong(tree(tmp_path / "s", "2023/feb/{0..3}.png", "2024/{0..8}.png"), tmp_path / "o")
    assert "or --label-column '' if the folders are no classes; --yes takes the whole path" in said


def test_labels_that_are_no_class_say_what_to_pass(tmp_path: Path) -> None:
    said = wrong(tree(tmp_path / "s", *GOOD), tmp_path / "o", "--classes", "cat", "mouse")
    assert "Pass --classes with the classes that are meant, or --label-column ''" in said
