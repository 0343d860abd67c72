"""What `alray index` prints, what looks wrong, and how one goes on from there."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from trees import DATA, tar, tree

from alray.cli import main
from alray.config import DataConfig
from alray.data.catalog import Catalog, CatalogError, index
from alray.data.origin import ensure_catalog

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


def test_an_option_without_meaning_is_told(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", *GOOD)
    notes = index(source, str(tmp_path / "o"), key="{class}/{file}").notes()
    assert "key has no meaning for a source of the format folder" in notes


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
