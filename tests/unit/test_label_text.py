"""One class, one spelling: labels of all kinds of sources, and what is told about what was changed."""

from __future__ import annotations

import json
import re
import tarfile
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_sources import add, encoded

from alray.cli import main
from alray.data.catalog import Catalog, CatalogError, index
from alray.data.sources.label_text import tidied, tidy, whole_number
from alray.reasons import short

NFC, NFD = "café", unicodedata.normalize("NFD", "café")


def png(number: int) -> bytes:
    return encoded(np.full((4, 4, 3), number % 256, np.uint8))


def pictures(place: Path, number: int) -> None:
    (place / "img").mkdir(parents=True, exist_ok=True)
    for i in range(number):
        (place / "img" / f"{i}.png").write_bytes(png(i))


def as_csv(labels: Sequence[Any], place: Path) -> str:
    pictures(place, len(labels))
    lines = ["path,label", *(f"img/{i}.png,{'' if label is None else label}" for i, label in enumerate(labels))]
    (place / "m.csv").write_text("\n".join(lines))
    return str(place / "m.csv")


def as_jsonl(labels: Sequence[Any], place: Path) -> str:
    pictures(place, len(labels))
    lines = [json.dumps({"path": f"img/{i}.png", "label": label}) for i, label in enumerate(labels)]
    (place / "m.jsonl").write_text("\n".join(lines))
    return str(place / "m.jsonl")


def as_parquet(labels: Any, place: Path) -> str:
    place.mkdir(parents=True, exist_ok=True)
    images = [png(i) for i in range(len(labels))]
    pq.write_table(pa.table({"image": images, "label": labels}), place / "a.parquet")
    return str(place / "a.parquet")


def as_tar(labels: Sequence[Any], place: Path) -> str:
    place.mkdir(parents=True, exist_ok=True)
    with tarfile.open(place / "a.tar", "w") as tar:
        for i, label in enumerate(labels):
            add(tar, f"{i}.png", png(i))
            add(tar, f"{i}.json", json.dumps({"label": label}).encode())
    return str(place / "a.tar")


def as_npz(labels: Sequence[Any], place: Path) -> str:
    place.mkdir(parents=True, exist_ok=True)
    np.savez(place / "f.npz", features=np.ones((len(labels), 2)), labels=np.array(labels))
    return str(place / "f.npz")


WRITERS: dict[str, Callable[[Any, Path], str]] = {
    "csv": as_csv, "jsonl": as_jsonl, "parquet": as_parquet, "tar": as_tar, "npz": as_npz,
}  # fmt: skip


def names_of(catalog: Catalog) -> list[str | None]:
    return [None if number < 0 else catalog.classes[number] for number in catalog.labels().tolist()]


def indexed(source: str, place: Path, **options: Any) -> Catalog:
    return index(source, str(place / "catalog"), check="none", yes=True, **options)


def told(catalog: Catalog) -> list[str]:
    """The notes but for the first four, on images, classes, labels and ignored files."""
    return [note for note in catalog.notes()[4:] if not note.startswith(("accepted by --yes", "--check was not used"))]


# ---- one spelling


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(
    ("labels", "expected", "note"),
    [
        (
            ["cat", "dog ", " cat", "dog"],
            ["cat", "dog", "cat", "dog"],
            "2 images: spaces around the label",
        ),
        ([NFC, NFD, "dog", NFD], [NFC, NFC, "dog", NFC], r"2 images: .* Unicode form NFC \('cafe\\u0301'\)"),
        (["0.0", "1.0", "10.0", "2"], ["0", "1", "10", "2"], "3 images: the label was read as a whole number"),
        (["cat", "-1", "-1.0", " -1 "], ["cat", None, None, None], r"1 image: .* so they are unlabeled \('-1.0'\)"),
        (["0", "nan", "NaN", "1"], ["0", None, None, "1"], r"2 images: .* so they are unlabeled \('nan', 'NaN'\)"),
        (["cat", "", " ", "dog"], ["cat", None, None, "dog"], None),
        (["1.5", "2.0", "1.5", "2.0"], ["1.5", "2.0", "1.5", "2.0"], r"2 images of the class '1.5': .* no class"),
        (["cat", "3.0", "cat", "3.0"], ["cat", "3.0", "cat", "3.0"], None),
        (
            ["cat", "None", "NA", "cat"],
            ["cat", "None", "NA", "cat"],
            "2 images of the class 'None', 'NA': if",
        ),
        (["007", "008", "007", "008"], ["007", "008", "007", "008"], None),
    ],
)
def test_a_class_has_one_spelling(
    kind: str, labels: list[str], expected: list[str | None], note: str | None, tmp_path: Path
) -> None:
    catalog = indexed(WRITERS[kind](labels, tmp_path), tmp_path)
    assert names_of(catalog) == expected
    notes = "\n".join(told(catalog))
    if note is None:
        assert notes == ""
    else:
        assert re.search(note, notes)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([0.0, float("nan"), None, -1.0, 3.0]), ["0", None, None, None, "3"]),
        (pa.array([0.0, 1.0, 3.0], pa.float16()), ["0", "1", "3"]),
        (pa.array([1, None, -1, 12], pa.int16()), ["1", None, None, "12"]),
        (pa.array([2**64 - 1, 5], pa.uint64()), ["18446744073709551615", "5"]),
        (pa.array([True, False, None]), ["true", "false", None]),
        (pa.array(["a ", "b", None, "a"]).dictionary_encode(), ["a", "b", None, "a"]),
        (pa.array([1.0, None, 2.0]).dictionary_encode(), ["1", None, "2"]),
        (pa.array([b"a", b"b"]), ["a", "b"]),
        (pa.array(["a", "b"], pa.large_string()), ["a", "b"]),
        (pa.nulls(3), [None] * 3),
    ],
)
def test_columns_of_any_type_are_text(column: pa.Array, expected: list[str | None], tmp_path: Path) -> None:
    assert names_of(indexed(as_parquet(column, tmp_path), tmp_path)) == expected


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (
            pa.array([0.0, 1.5, 2.5]),
            r"a\.parquet: label of row 1: expected .* whole numbers .* got 1.5 \(2 such",
        ),
        (pa.array([None, ["a", "b"]]), r"a\.parquet: label of row 1: .* got a list \[\"a\", \"b\"\]"),
        (pa.array([{"name": "a"}]), r"a\.parquet: label of row 0: .* got an object"),
        (pa.array([b"a", b"\xff"]), r"a\.parquet: label of row 1: expected class names in UTF-8"),
    ],
)
def test_columns_that_hold_no_classes(column: pa.Array, message: str, tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=message):
        indexed(as_parquet(column, tmp_path), tmp_path)


def test_numbers_of_the_test_source_are_those_of_the_training_source(tmp_path: Path) -> None:
    """pandas writes 3 as 3.0 where another label is missing."""
    train = as_csv(["0.0", "1.0", "11.0", None], tmp_path / "train")
    catalog = indexed(train, tmp_path, test_root=as_csv(["0", "1", "11"], tmp_path / "test"))
    assert catalog.classes == ("0", "1", "11")
    assert names_of(catalog) == ["0", "1", "11", "0", "1", "11", None]
    assert told(catalog) == [
        "3 images: the label was read as a whole number ('0.0' is '0', '1.0' is '1', '11.0' is '11')."
    ]


def test_what_was_changed_is_told_also_where_no_catalog_is_written(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="What was understood(.|\n)*3 images: the label was read as a whole number"):
        index(as_csv(["1.0"] * 3, tmp_path), str(tmp_path / "catalog"), check="none")


def test_folders_of_a_mac_and_of_another_system(tmp_path: Path) -> None:
    for place, name in (("train", NFD), ("train", "dog"), ("test", NFC), ("test", "dog")):
        (tmp_path / place / name).mkdir(parents=True)
        (tmp_path / place / name / "0.png").write_bytes(png(0))
    catalog = indexed(str(tmp_path / "train"), tmp_path, test_root=str(tmp_path / "test"))
    assert catalog.classes == (NFC, "dog")
    assert catalog.keys().to_pylist() == [
        f"test/{NFC}/0.png",
        "test/dog/0.png",
        f"train/{NFD}/0.png",
        "train/dog/0.png",
    ]


# ---- two spellings


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["cat", "Cat", "cat"], r"'cat' \(2 images\) and 'Cat' \(1 image\)"),
        (["polar bear", "polar  bear", "polarbear"], "'polar bear' .* and 'polar  bear' .* and 'polarbear'"),
        (["01", "1", "02"], r"'01' \(1 image\) and '1' \(1 image\)"),
        (["Straße", "STRASSE", "b"], "'Straße' .* and 'STRASSE'"),
    ],
)
def test_classes_that_differ_in_case_or_spaces_only_are_refused(
    kind: str, labels: list[str], message: str, tmp_path: Path
) -> None:
    source = WRITERS[kind](labels, tmp_path)
    with pytest.raises(CatalogError, match=message):
        indexed(source, tmp_path)


def test_letters_of_both_cases_are_classes_if_the_user_lists_them(tmp_path: Path) -> None:
    source = as_csv(["a", "A", "b", "A"], tmp_path)
    assert indexed(source, tmp_path, classes=("A", "a", "b")).labels().tolist() == [1, 0, 2, 0]
    (tmp_path / "alray-classes.txt").write_text("b\na\nA\n")
    assert indexed(source, tmp_path).labels().tolist() == [1, 2, 0, 2]


# ---- lists of classes


def test_a_list_of_classes_is_tidied_too(tmp_path: Path) -> None:
    source = as_csv(["cat", NFD, "dog "], tmp_path)
    (tmp_path / "alray-classes.txt").write_bytes(f"\ufeffdog \r\n{NFC}\r\n\r\ncat\r\n".encode())
    catalog = indexed(source, tmp_path)
    assert catalog.classes == ("dog", NFC, "cat")
    assert catalog.labels().tolist() == [2, 1, 0]
    assert told(catalog)[0].startswith("Names in the list of classes: 1 were put into Unicode form NFC")
    assert indexed(source, tmp_path, classes=(" cat", "dog", NFD)).labels().tolist() == [0, 2, 1]
    with pytest.raises(CatalogError, match="expected different names, got 'cat' more than once"):
        indexed(source, tmp_path, classes=("cat", "cat ", "dog"))


def test_a_list_of_classes_in_another_encoding(tmp_path: Path) -> None:
    source = as_csv(["dog"], tmp_path)
    (tmp_path / "alray-classes.txt").write_bytes("dog\ncafé\n".encode("latin-1"))
    with pytest.raises(
        CatalogError, match=r"alray-classes\.txt: line 2: expected text in UTF-8, got the bytes b'\\xe9"
    ):
        indexed(source, tmp_path)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("classes", "labels", "expected"),
    [
        (("cat", "dog"), [0, 1, 1], [0, 1, 1]),
        (("cat", "dog"), ["0.0", "dog", "1"], [0, 1, 1]),
        (("2", "1", "0"), [0, 1, 2], [2, 1, 0]),  # a number is the name of a class before it is the number of one
        (("nan", "dog"), ["nan", "dog", "nan"], [0, 1, 0]),
        (("None", "dog"), ["None", "dog", "-1"], [0, 1, -1]),
        (("1.0", "1.5"), ["1.0", "1.5", "1.0"], [0, 1, 0]),
        (("2.0", "1.0"), ["1.0", "2.0", "1.0"], [1, 0, 1]),
    ],
)
def test_labels_by_the_classes_that_are_given(
    kind: str, classes: tuple[str, ...], labels: list[Any], expected: list[int], tmp_path: Path
) -> None:
    catalog = indexed(WRITERS[kind](labels, tmp_path), tmp_path, classes=classes)
    assert catalog.labels().tolist() == expected


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_numbers_are_not_guessed_where_classes_have_numbers_as_names(kind: str, tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="unknown class: '3' is not one of the 3 classes"):
        indexed(WRITERS[kind]([0, 1, 3], tmp_path), tmp_path, classes=("2", "1", "0"))


def test_a_class_in_a_key_is_spelled_as_the_class(tmp_path: Path) -> None:
    source = as_csv(["0.0", "1.0 ", "1"], tmp_path)
    assert indexed(source, tmp_path, key="{class}/{row}").keys().to_pylist() == ["0/0", "1/1", "1/2"]
    catalog = indexed(as_parquet(["0.0", "1.0 ", "1"], tmp_path), tmp_path, key="{class}/{row}", classes=("a", "b"))
    assert catalog.keys().to_pylist() == ["a/0", "b/1", "b/2"]


def test_whole_numbers_are_looked_at_in_all_batches_of_a_parquet_file(tmp_path: Path) -> None:
    """1.0 is a class beside 1.5, although the first thousand rows have whole numbers only."""
    labels = ["1.0"] * 1100 + ["1.5"] * 10
    catalog = indexed(as_parquet(labels, tmp_path), tmp_path, key="{class}/{row}")
    assert catalog.classes == ("1.0", "1.5")
    assert catalog.keys().to_pylist()[0].startswith("1.0/")


# ---- the rules themselves


@pytest.mark.parametrize(
    ("text", "number"),
    [("3", 3), ("3.0", 3), ("3.", 3), ("+3", 3), ("-1.00", -1), ("\u22121", -1), ("3e2", 300), ("007", 7),
     ("3.5", None), ("", None), ("nan", None), ("1_0", None), ("٣", None), ("1e999", None), (".", None), ("0x1", None)],
)  # fmt: skip
def test_whole_numbers(text: str, number: int | None) -> None:
    assert whole_number(text) == number


def test_a_byte_order_mark_and_spaces_of_all_kinds_are_removed() -> None:
    assert tidy("\ufeff\u00a0cat\u200b\t\r\n") == "cat"


def test_tidied_counts_and_keeps_the_order_of_rows() -> None:
    found = tidied(pa.chunked_array([["b", None, "a "], [" a", "-1", "b"]]), None)
    assert found.labels.to_pylist() == ["b", None, "a", "a", None, "b"]
    assert dict(zip(found.labels.dictionary.to_pylist(), found.counts.tolist(), strict=True)) == {"b": 2, "a": 2}
    empty = tidied(pa.chunked_array([], pa.string()), None)
    assert len(empty.labels) == 0
    assert empty.notes == ()


def test_a_class_name_that_would_fill_the_screen_is_cut_in_messages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long, other = "x" * 3000, "y" * 3000
    np.savez(tmp_path / "e.npz", features=np.eye(6, 3), label=np.array([long, "cat", other] * 2))
    main(["index", str(tmp_path / "e.npz"), "--out", str(tmp_path / "c"), "--yes"])
    with pytest.raises(SystemExit):
        main(["index", str(tmp_path / "e.npz"), "--out", str(tmp_path / "d"), "--yes", "--classes", "cat", other])
    said = "\n".join(capsys.readouterr())
    assert said.count(f"{long[:60]}… (3,000 letters)") == 3
    assert "x" * 61 not in said and "y" * 61 not in said
    assert Catalog.open(str(tmp_path / "c")).classes == ("cat", long, other)


def test_short_names_are_whole() -> None:
    assert short("x" * 200) == "x" * 200
    assert short("x" * 201) == f"{'x' * 60}… (201 letters)"
