"""Samples of WebDataset tars: which member is the image, which names the class, and what the keys are."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from trees import DATA, indexed, tar

from alray.data.catalog import CatalogError, index
from alray.data.sources.samples import sample_of


def classes(names: list[str], each: str = "cls") -> dict[str, str]:
    return {f"{name}.{each}": str(number % 2) for number, name in enumerate(names)}


NAMES = [f"s{number:04d}" for number in range(6)]


def members(*suffixes: str) -> dict[str, str]:
    return {**{f"{name}.{suffix}": "" for name in NAMES for suffix in suffixes}, **classes(NAMES)}


# ---- images


@pytest.mark.parametrize("mask", ["seg.png", "mask.png", "label.png", "annotation.png", "gt.png", "part_masks.png"])
def test_masks_are_no_images(mask: str, tmp_path: Path) -> None:
    """Case 04."""
    catalog = index(tar(tmp_path / "train-0.tar", members("jpg", mask)), str(tmp_path / "o"))
    assert catalog.keys().to_pylist() == [f"{name}.jpg" for name in NAMES]
    assert any(note.startswith(f"left out: 6 members, .{mask} (6), which are masks") for note in catalog.notes())


@pytest.mark.parametrize("pair", [("jpg", "png"), ("left.jpg", "right.jpg"), ("a.png", "jpg"), ("rgb2.png", "nir.png")])
def test_several_images_in_a_sample_need_a_choice(pair: tuple[str, str], tmp_path: Path) -> None:
    source = tar(tmp_path / "train-0.tar", members(*pair))
    first, second = sorted(pair)
    with pytest.raises(
        CatalogError,
        match=rf"6 samples with several images: \.{first} \(6\), \.{second} \(6\)\. Pass --image-column {first}",
    ):
        index(source, str(tmp_path / "o"))
    for suffix in pair:
        found = indexed(source, tmp_path / "p", image_column=suffix)
        assert sorted(found) == [f"{name}.{suffix}" for name in NAMES]
    assert len(indexed(source, tmp_path / "q", yes=True)) == 12
    with pytest.raises(
        CatalogError, match=rf"image_column: expected the suffix of image members, \.{first} \(6\), .*got 'depth'"
    ):
        index(source, str(tmp_path / "o"), image_column="depth")


def test_a_suffix_may_be_named_without_its_extension(tmp_path: Path) -> None:
    source = tar(tmp_path / "train-0.tar", members("left.jpg", "right.jpg"))
    assert sorted(indexed(source, tmp_path / "p", image_column="right")) == [f"{name}.right.jpg" for name in NAMES]


@pytest.mark.parametrize("other", ["thumb.jpg", "depth.png", "mask.png"])
def test_a_member_called_image_is_the_image(other: str, tmp_path: Path) -> None:
    found = indexed(tar(tmp_path / "train-0.tar", members("image.jpg", other)), tmp_path / "p")
    assert sorted(found) == [f"{name}.image.jpg" for name in NAMES]


def test_formats_may_differ_between_samples(tmp_path: Path) -> None:
    names = {f"{name}.{'png' if number % 3 else 'jpg'}": "" for number, name in enumerate(NAMES)}
    assert len(indexed(tar(tmp_path / "train-0.tar", {**names, **classes(NAMES)}), tmp_path / "p")) == 6


def test_dots_in_the_names_of_images(tmp_path: Path) -> None:
    """Numbers after a dot belong to the name, and so do words that are different for every image."""
    assert sample_of("a/n00.0001.jpg") == ("a/n00.0001", "jpg") and sample_of("s1.left.png") == ("s1", "left.png")
    names = [f"photo.{'abcdefghijklmnopqrstu'[i]}x.jpg" for i in range(20)]
    labels = {f"{name[:-4]}.cls": str(i % 2) for i, name in enumerate(names)}
    found = indexed(tar(tmp_path / "train-0.tar", {**dict.fromkeys(names, ""), **labels}), tmp_path / "p")
    assert found == {name: f"train {i % 2}" for i, name in enumerate(names)}


# ---- classes


@pytest.mark.parametrize(
    "order",
    [(".jpg", ".cls", ".json"), (".json", ".cls", ".jpg"), (".json", ".jpg", ".cls"), (".cls", ".json", ".jpg")],
)
def test_the_order_of_label_members_is_declared(order: tuple[str, ...], tmp_path: Path) -> None:
    """Case 29."""
    texts = {
        ".jpg": [""] * 6,
        ".cls": list("010101"),
        ".json": [f'{{"label": "{n}", "kind": "k{n}"}}' for n in ("tabby", "beagle") * 3],
    }
    every = {f"n{i % 2:02d}.{i:04d}{kind}": texts[kind][i] for i in range(6) for kind in order}
    source = tar(tmp_path / "train-0.tar", every)
    assert Counter(indexed(source, tmp_path / "o").values()) == {"train 0": 3, "train 1": 3}
    (note,) = [note for note in index(source, str(tmp_path / "p")).notes() if "different classes" in note]
    assert note == (
        "6 samples with members that name different classes; of .cls, .cls.txt, .json the first counts (as in "
        "n00.0000.jpg: 0 in .cls, tabby in .json)"
    )
    assert Counter(indexed(source, tmp_path / "q", label_column="kind").values()) == {
        "train ktabby": 3,
        "train kbeagle": 3,
    }


def test_a_label_column_that_no_member_has(tmp_path: Path) -> None:
    source = tar(
        tmp_path / "train-0.tar", {"a.jpg": "", "a.json": '{"label": 1}', "b.jpg": "", "b.json": '{"label": 2}'}
    )
    with pytest.raises(CatalogError, match=r"label_column: expected 'species' in \.json members, got 2 without it"):
        index(source, str(tmp_path / "o"), label_column="species")


def test_metadata_without_a_label_leave_the_class_to_the_folder(tmp_path: Path) -> None:
    texts = {
        "cat/1.jpg": "",
        "cat/1.json": '{"width": 4}',
        "dog/2.jpg": "",
        "dog/2.json": "[1, 2]",
        "dog/3.jpg": "",
        "dog/3.json": '{"label": null}',
    }
    found = indexed(tar(tmp_path / "train-0.tar", texts), tmp_path / "o")
    assert found == {"cat/1.jpg": "train cat", "dog/2.jpg": "train dog", "dog/3.jpg": "train"}


def test_labels_that_are_no_names(tmp_path: Path) -> None:
    source = tar(
        tmp_path / "train-0.tar",
        {
            "a.jpg": "",
            "a.json": '{"label": [1, 2]}',
            "b.jpg": "",
            "b.json": '{"label": 3.0}',
            "c.jpg": "",
            "c.cls.txt": "4\n",
        },
    )
    with pytest.raises(
        CatalogError, match="broken sidecar: 1(.|\n)*a.json: .*expected one class name or number, got a list"
    ):
        index(source, str(tmp_path / "o"))
    assert indexed(source, tmp_path / "p", on_problem="exclude") == {
        "a.jpg": "train",
        "b.jpg": "train 3",
        "c.jpg": "train 4",
    }


def test_ignored_members_are_counted_by_suffix(tmp_path: Path) -> None:
    source = tar(tmp_path / "s" / "train-0.tar", {**members("jpg", "txt"), "s0000.npy": "", "README": ""})
    (tmp_path / "s" / "info.yaml").write_text("x")
    notes = index(str(tmp_path / "s"), str(tmp_path / "o")).notes()
    assert "9 files of other kinds ignored: .txt 6, .npy 1, .yaml 1, without suffix 1" in notes, notes
    assert source


# ---- keys and splits


def test_names_that_begin_anew_in_every_shard(tmp_path: Path) -> None:
    """Case 02: the shard is part of every key."""
    for number in range(3):
        tar(tmp_path / "s" / f"shard-{number:04d}.tar", members("jpg"))
    catalog = index(str(tmp_path / "s"), str(tmp_path / "o"))
    assert len(catalog) == 18 and catalog.keys().to_pylist()[0] == "shard-0000/s0000.jpg"
    assert (
        "12 names of images in more than one tar, so every key begins with the name of its tar, as "
        "shard-0000/s0000.jpg (--key gives other keys)" in catalog.notes()
    )
    found = indexed(str(tmp_path / "s"), tmp_path / "p", key="{class}/{file}-{row:02d}-{name}")
    assert found["1/shard-0002-05-s0005.jpg"] == "train 1" and len(found) == 18
    for key in ("name", "{filename}", "{name", "{0}"):
        with pytest.raises(CatalogError, match="key: expected "):
            index(str(tmp_path / "s"), str(tmp_path / "o"), key=key)


def test_one_name_twice_in_one_tar_stays_a_problem_and_the_loss_is_said(tmp_path: Path) -> None:
    import tarfile

    source = tar(tmp_path / "train-0.tar", members("jpg"))
    with tarfile.open(source, "a") as file:
        from image_sources import add

        add(file, "s0000.jpg", DATA["jpg"])
    with pytest.raises(CatalogError, match=r"duplicate key: 1(.|\n)*exclude\): that loses 1 and leaves 6 images"):
        index(source, str(tmp_path / "o"))


@pytest.mark.parametrize(
    "names",
    [("train/0000.tar", "test/0000.tar"), ("train-0.tar", "test-0.tar"), ("Training/a.tar", "validation/b.tar")],
)
def test_splits_of_tars(names: tuple[str, str], tmp_path: Path) -> None:
    for name in names:
        tar(
            tmp_path / "s" / name,
            members("jpg")
            if "0000" in name
            else {f"{Path(name).parts[0][:2]}{k}": v for k, v in members("jpg").items()},
        )
    found = indexed(str(tmp_path / "s"), tmp_path / "o")
    assert Counter(found.values()) == {"train 0": 3, "train 1": 3, "test 0": 3, "test 1": 3}


def test_the_user_says_what_the_names_of_tars_mean(tmp_path: Path) -> None:
    for name in ("old", "extra", "train"):
        tar(tmp_path / "s" / f"{name}-0.tar", {f"{name}{member}": text for member, text in members("jpg").items()})
    found = indexed(str(tmp_path / "s"), tmp_path / "o", split={"old": "ignore", "extra": "test"})
    assert Counter(found.values()) == {"train 0": 3, "train 1": 3, "test 0": 3, "test 1": 3}


def test_parquet_files_of_one_name_in_several_folders(tmp_path: Path) -> None:
    """As Hugging Face converts data sets: default/train/0000.parquet."""
    for split in ("train", "test"):
        place = tmp_path / "s" / "default" / split
        place.mkdir(parents=True)
        pq.write_table(pa.table({"image": [DATA["png"]] * 4, "label": [0, 1, 0, 1]}), place / "0000.parquet")
    catalog = index(str(tmp_path / "s"), str(tmp_path / "o"))
    assert catalog.keys().to_pylist()[:2] == ["default/test/0000/000000000", "default/test/0000/000000001"]
    assert catalog.is_test().sum() == 4
    assert any("1 file with the name of another file" in note for note in catalog.notes())


def test_values_of_a_split_column(tmp_path: Path) -> None:
    rows = {
        "image": [DATA["png"]] * 6,
        "label": [0, 1] * 3,
        "split": ["Train", "training", "Dev", "eval", "bench", "bench"],
    }
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    with pytest.raises(CatalogError, match="unknown split: 2(.|\n)*Train .1., training .1.: these names mean the same"):
        index(str(tmp_path / "a.parquet"), str(tmp_path / "o"))
    found = indexed(
        str(tmp_path / "a.parquet"), tmp_path / "o", split={"bench": "ignore", "Train": "train", "Dev": "test"}
    )
    assert Counter(found.values()) == {"train 0": 1, "train 1": 1, "test 0": 1, "test 1": 1}
