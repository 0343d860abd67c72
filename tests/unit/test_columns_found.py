"""Columns and arrays are found by their usual names where one name fits; what was guessed is told."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_sources import encoded

import alray
from alray.data import catalog
from alray.data.catalog import Catalog, CatalogError
from alray.data.fetch import fetch
from alray.data.sources.columns import EMBEDDINGS, LABELS, PLACES, ColumnError, Role, find, missing
from alray.selection.files import read_rows
from alray.selection.protocol import SelectionError

PNG = encoded(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
X = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
LISTS = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), 6)


def written(place: Path, text: str, name: str = "m.csv") -> str:
    (place / "img").mkdir(exist_ok=True)
    for i in range(4):
        (place / "img" / f"{i}.png").write_bytes(PNG)
    (place / name).write_bytes(text.encode())
    return str(place / name)


def lines(header: str, separator: str = ",", end: str = "\n") -> str:
    """A list of four images and two classes; the first two columns are those of images and labels."""
    columns = header.split(",")
    others = ["0"] * (len(columns) - 2)
    rows = [[f"img/{i}.png", "cat" if i % 2 else "dog", *others] for i in range(4)]
    return end.join(separator.join(row) for row in [columns, *rows])


def index(source: str, out: str, **options: Any) -> Catalog:
    """Whatever the images and classes are: most tests have one class, or no image for testing."""
    return catalog.index(source, out, yes=True, **options)


def notes_of(made: Catalog) -> list[str]:
    """The notes but for the first four, on images, classes, labels and ignored files, and those on copies: all images
    here are one."""
    told = [note for note in made.notes()[4:] if "the same bytes" not in note]
    return [note for note in told if not note.startswith("accepted by --yes")]


# ---- the finder


@pytest.mark.parametrize(
    ("role", "there", "wanted", "name", "told"),
    [
        (LABELS, ["path", "label"], "label", "label", False),
        (LABELS, ["path", "Label"], "label", "Label", True),
        (LABELS, ["path", "Class Name"], "label", "Class Name", True),
        (LABELS, ["label", "class"], "label", "label", False),
        (LABELS, ["label", "emotion"], "emotion", "emotion", False),
        (LABELS, ["label", "Emotion"], "emotion", "Emotion", False),
        (LABELS, ["fine_label", "coarse_label"], "label", "fine_label", True),
        (LABELS, ["path", "x", "y"], "label", None, False),
        (LABELS, ["path", "y"], "label", "y", True),
        (LABELS, ["path", "emotion"], "label", None, False),
        (PLACES, ["path", "uri"], "", "uri", False),
        (PLACES, ["File_Name", "label"], "", "File_Name", True),
    ],
)
def test_finding(role: Role, there: list[str], wanted: str, name: str | None, told: bool) -> None:
    found = find(role, there, wanted)
    assert (found.name if found else None) == name
    assert bool(found and found.note) == told
    if told:
        assert all(repr(name) in found.note or name in found.note for name in there)


@pytest.mark.parametrize(
    ("there", "wanted", "message"),
    [
        (["class", "category"], "label", r"got 2 that may be it \(class, category\): name it with --label-column NAME"),
        (["label", "label"], "label", "expected one column 'label' .* got 2 of this name"),
        (["label", "x"], "emotion", "expected a column of labels, called 'emotion', got label, x"),
    ],
)
def test_what_is_not_clear_is_refused(there: list[str], wanted: str, message: str) -> None:
    with pytest.raises(ColumnError, match=message):
        find(LABELS, there, wanted)


def test_messages_do_not_list_a_thousand_columns() -> None:
    assert len(missing(EMBEDDINGS, [f"column{i}" for i in range(1000)])) < 500


# ---- lists


@pytest.mark.parametrize(
    ("header", "options", "notes"),
    [
        ("path,label", {}, 0),
        ("image,class", {}, 2),
        ("filename,label", {}, 1),
        ("Image_Path,TARGET", {}, 2),
        ("foto,art", {"image_column": "foto", "label_column": "art"}, 0),
        (" path , label ", {}, 0),
        ("path,label,,", {}, 0),
        ("path,label,other,other", {}, 0),
    ],
)
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", "\r"])
def test_lists_with_other_names_separators_and_ends_of_lines(
    header: str, options: dict[str, Any], notes: int, separator: str, end: str, tmp_path: Path
) -> None:
    source = written(tmp_path, "\ufeff" + lines(header, separator, end))
    made = index(source, str(tmp_path / "out"), check="none", **options)
    assert made.keys().to_pylist() == [f"img/{i}.png" for i in range(4)]
    assert [made.classes[i] for i in made.labels()] == ["dog", "cat"] * 2
    told = [note for note in notes_of(made) if "is called" in note]
    assert len(told) == notes
    assert any("separated by" in note for note in notes_of(made)) == (separator != ",")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("id,label", r"expected a column of paths or URIs .* got id, label: name it with --image-column NAME"),
        ("img/9.png,cat", "The first line of a CSV holds the names of its columns"),
        ("path,label,label", "expected one column 'label' .* got 2"),
        ("path,class,category", "may be it .class, category."),
        ("image,file", "expected one column of paths .* may be it .image, file."),
    ],
)
def test_lists_without_a_clear_column(header: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=message):
        index(written(tmp_path, lines(header)), str(tmp_path / "out"))


def test_a_list_without_labels_says_so_and_names_its_columns(tmp_path: Path) -> None:
    made = index(written(tmp_path, lines("path,emotion")), str(tmp_path / "out"))
    assert made.classes == ()
    (note,) = notes_of(made)
    assert note.startswith(
        "No column of labels was recognised, so all images of m.csv are unlabeled. There are: path, "
    )
    assert "--label-column" in note
    assert notes_of(index(written(tmp_path, lines("path,emotion")), str(tmp_path / "o"), label_column="")) == []
    with pytest.raises(CatalogError, match="called 'species', got path, emotion"):
        index(written(tmp_path, lines("path,emotion")), str(tmp_path / "o"), label_column="species")


def test_keys_keep_their_zeros_and_all_columns_are_text(tmp_path: Path) -> None:
    text = "path,image_id,label\n" + "".join(f"img/{i}.png,00000{i},{i % 2}\n" for i in range(4))
    made = index(written(tmp_path, text), str(tmp_path / "out"), key="image_id")
    assert made.keys().to_pylist() == ["000000", "000001", "000002", "000003"]
    template = index(written(tmp_path, text), str(tmp_path / "o"), key="{label}/{image_id}.png")
    assert template.keys().to_pylist()[0] == "0/000000.png"


def test_compressed_lists(tmp_path: Path) -> None:
    written(tmp_path, "")
    (tmp_path / "m.csv.gz").write_bytes(gzip.compress(lines("path,label").encode()))
    (tmp_path / "m.jsonl.gz").write_bytes(gzip.compress(b'{"path": "img/0.png", "label": "a"}\n'))
    assert len(index(str(tmp_path / "m.csv.gz"), str(tmp_path / "out"))) == 4
    assert len(index(str(tmp_path / "m.jsonl.gz"), str(tmp_path / "o"))) == 1


def test_values_with_separators_quotes_and_newlines(tmp_path: Path) -> None:
    text = "path,label,text\n" + "".join(f'img/{i}.png,"a ""b"", {i % 2}","one\ntwo, three"\n' for i in range(4))
    made = index(written(tmp_path, text), str(tmp_path / "out"))
    assert made.classes == ('a "b", 0', 'a "b", 1')


def test_quoted_newlines_beyond_one_block_of_the_reader(tmp_path: Path) -> None:
    """pyarrow cuts a file into blocks of a megabyte, at any newline unless it is told that values may have some."""
    text = "one\n" * 30
    rows = "".join(f'img/0.png,{i % 2},"{text}",k{i}\n' for i in range(15000))
    made = index(written(tmp_path, "path,label,text,key\n" + rows), str(tmp_path / "out"), check="none")
    assert len(made) == 15000
    assert made.labels().sum() == 7500


@pytest.mark.parametrize("column", ["split", "set", "Subset"])
def test_splits_in_a_column_of_another_name(column: str, tmp_path: Path) -> None:
    text = f"path,label,{column}\n" + "".join(f"img/{i}.png,a,{('train', 'Val')[i % 2]}\n" for i in range(4))
    made = index(written(tmp_path, text), str(tmp_path / "out"))
    assert made.is_test().tolist() == [False, True] * 2
    assert len(notes_of(made)) == (column != "split")
    others = text.replace("Val", "3").replace("train", "2")
    if column != "split":
        assert not index(written(tmp_path, others), str(tmp_path / "o")).is_test().any()


def test_files_under_another_spelling_of_their_path(tmp_path: Path) -> None:
    source = written(tmp_path, "path,label\nimg\\0.png,a\nimg/cafe\u0301.png,b\nimg/na\u00efve.png,a\nimg/0.png,b\n")
    (tmp_path / "img" / "caf\u00e9.png").write_bytes(PNG)
    (tmp_path / "img" / "nai\u0308ve.png").write_bytes(PNG)
    made = index(source, str(tmp_path / "out"))
    assert len(made) == 4
    told = "\n".join(notes_of(made))
    for what in ("in Unicode form NFC: 1 ", "in Unicode form NFD: 1 ", "slashes instead of backslashes: 1 "):
        assert what in told
    assert "1 lines name a file that another line names, too" not in told


def test_lines_that_name_one_file_twice_are_told(tmp_path: Path) -> None:
    source = written(tmp_path, "path,label\nimg/0.png,a\n./img/0.png,b\n")
    assert "1 lines name a file that another line names, too." in notes_of(index(source, str(tmp_path / "out")))


# ---- JSON lines


def test_json_values_of_several_types(tmp_path: Path) -> None:
    labels = [1, "1", 1.0, None, "cat", True]
    text = "\n".join(json.dumps({"path": f"img/{i % 4}.png", "key": i, "label": v}) for i, v in enumerate(labels))
    made = index(written(tmp_path, text, "m.jsonl"), str(tmp_path / "out"))
    assert made.classes == ("1", "cat", "true")
    assert made.labels().tolist() == [0, 0, 0, -1, 1, 2]
    assert made.keys().to_pylist() == ["0", "1", "2", "3", "4", "5"]


def test_json_dates_stay_as_they_are_written(tmp_path: Path) -> None:
    values = [{"path": f"img/{i}.png", "label": f"2020-01-0{i + 1}"} for i in range(4)]
    made = index(written(tmp_path, "\n".join(map(json.dumps, values)), "m.jsonl"), str(tmp_path / "out"))
    assert made.classes == ("2020-01-01", "2020-01-02", "2020-01-03", "2020-01-04")


def test_large_numbers_in_json_keep_all_digits(tmp_path: Path) -> None:
    ids = [12345678901234567890, 12345678901234567891, 3, 4]
    values = [{"path": f"img/{i}.png", "key": key} for i, key in enumerate(ids)]
    made = index(written(tmp_path, "\n".join(map(json.dumps, values)), "m.jsonl"), str(tmp_path / "out"))
    assert made.keys().to_pylist() == sorted(map(str, ids))


def test_json_lines_longer_than_a_block_of_the_reader(tmp_path: Path) -> None:
    text = "\n".join(json.dumps({"path": f"img/{i}.png", "label": "a", "text": "x" * 2_000_000}) for i in range(4))
    assert len(index(written(tmp_path, text, "m.jsonl"), str(tmp_path / "out"))) == 4


# ---- Parquet


def parquet(place: Path, name: str = "a.parquet", **columns: Any) -> str:
    pq.write_table(pa.table(columns), place / name)
    return str(place / name)


@pytest.mark.parametrize(
    ("columns", "images", "notes"),
    [
        ({"image": [PNG], "label": [1]}, "image", 0),
        ({"img": [PNG], "fine_label": [1], "coarse_label": [0]}, "img", 2),
        ({"pixels": [{"bytes": PNG, "path": "x"}], "class": ["a"]}, "pixels", 2),
        ({"image": [PNG], "thumbnail": [PNG], "label": [1]}, "image", 0),
        ({"img": [PNG], "mask": [PNG], "label": [1]}, "img", 1),
    ],
)
def test_parquet_columns(columns: dict[str, Any], images: str, notes: int, tmp_path: Path) -> None:
    made = index(parquet(tmp_path, **columns), str(tmp_path / "out"))
    assert made.image_column == images
    assert made.labels().tolist() == [0]
    assert len(notes_of(made)) == notes
    assert fetch(made.references(np.arange(1)), made.source, made.image_column) == [PNG]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"left": [PNG], "right": [PNG], "label": [1]},
            "expected a column of images, called 'image', got left, right",
        ),
        ({"image": ["img/0.png"], "label": [1]}, "image: expected the encoded bytes of images, got string"),
        ({"image": [PNG], "emotion": [1]}, "expected a column of labels, called 'label', got image, emotion"),
        ({"image": [PNG], "class": [1], "target": [1]}, "may be it .class, target."),
    ],
)
def test_parquet_without_a_clear_column(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=message):
        index(parquet(tmp_path, **columns), str(tmp_path / "out"))


def test_parquet_files_with_different_columns(tmp_path: Path) -> None:
    one = parquet(tmp_path, "a.parquet", image=[PNG], label=[1])
    other = parquet(tmp_path, "b.parquet", img=[PNG], label=[1])
    with pytest.raises(CatalogError, match=r"'image' and 'label' .* in a\.parquet, 'img' and 'label' in b\.parquet"):
        index(str(tmp_path / "*.parquet"), str(tmp_path / "out"))
    with pytest.raises(CatalogError, match="test_root: expected the images in the same column .* got image and img"):
        index(one, str(tmp_path / "out"), test_root=other)


def test_class_names_of_a_column_that_was_found(tmp_path: Path) -> None:
    features = {"fine_label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
    table = pa.table({"img": [PNG, PNG], "fine_label": [1, -1]})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "a.parquet")
    made = index(str(tmp_path), str(tmp_path / "out"))
    assert made.classes == ("cat", "dog")
    assert made.labels().tolist() == [1, -1]


# ---- .npz


@pytest.mark.parametrize(
    ("arrays", "embedding", "classes", "notes"),
    [
        ({"features": X, "label": np.arange(40) % 2}, "features", 2, 0),
        ({"feats": X, "targets": np.arange(40) % 2}, "feats", 2, 2),
        ({"q": X, "y": np.arange(40) % 2}, "q", 2, 1),
        ({"x": X, "y": np.arange(40) % 2}, "x", 2, 0),
        ({"features": X, "species": np.arange(40)}, "features", 0, 2),
    ],
)
def test_arrays_of_embeddings(
    arrays: dict[str, np.ndarray], embedding: str, classes: int, notes: int, tmp_path: Path
) -> None:
    np.savez(tmp_path / "f.npz", **arrays)
    made = index(str(tmp_path / "f.npz"), str(tmp_path / "out"))
    assert made.image_column == embedding
    assert np.array_equal(made.embedding(), X)
    assert len(made.classes) == classes
    assert len(notes_of(made)) == notes


def test_an_array_of_embeddings_by_its_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", a=X, b=-X, classes=np.arange(40) % 2, kinds=np.arange(40) % 3)
    source = str(tmp_path / "f.npz")
    with pytest.raises(CatalogError, match=r"expected an array of embeddings, .* got a \(40, 6\) float32, b \(40, 6\)"):
        index(source, str(tmp_path / "out"))
    made = index(source, str(tmp_path / "out"), image_column="b", label_column="kinds")
    assert np.array_equal(made.embedding(), -X)
    assert len(made.classes) == 3
    with pytest.raises(CatalogError, match="expected an array of labels, called 'sorts', got a, b, classes, kinds"):
        index(source, str(tmp_path / "out"), image_column="b", label_column="sorts")


@pytest.mark.parametrize(
    ("name", "values"),
    [("is_test", [0, 1]), ("test_mask", [False, True]), ("split", ["train", "Val"]), ("splits", ["train", "test"])],
)
def test_arrays_that_tell_the_test_rows(name: str, values: list[Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", features=X, y=np.arange(40) % 2, **{name: np.array(values * 20)})
    assert index(str(tmp_path / "f.npz"), str(tmp_path / "out")).is_test().tolist() == [False, True] * 20


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"split": np.array(["train", "other"] * 20)}, "split: expected names of splits .* got 'other'"),
        ({"split": np.array([0, 1] * 20)}, "split: expected names of splits .* got '0'"),
        ({"split": np.array(["train"] * 40), "is_test": np.zeros(40)}, "expected one array .* got is_test and split"),
    ],
)
def test_arrays_of_splits_that_cannot_be_used(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", features=X, **arrays)
    with pytest.raises(CatalogError, match=message):
        index(str(tmp_path / "f.npz"), str(tmp_path / "out"))


def test_names_of_splits_by_the_user_and_rows_that_cannot_be_left_out(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", features=X, y=np.arange(40) % 2, split=np.array(["fold0 ", "fold1"] * 20))
    roles = {"fold0": "train", "fold1": "test"}
    assert index(str(tmp_path / "f.npz"), str(tmp_path / "out"), split=roles).is_test().tolist() == [False, True] * 20
    with pytest.raises(CatalogError, match="got 'fold1' to ignore: no embedding can be left out"):
        index(str(tmp_path / "f.npz"), str(tmp_path / "out"), split={"fold0": "train", "fold1": "ignore"})


# ---- alray.select


def chosen(given: Any) -> list[int]:
    return [int(row) for row in alray.select("k_center", 5, embedding=given).rows]


def test_select_takes_arrow_tables_columns_and_data_frames() -> None:
    pandas = pytest.importorskip("pandas")
    expected = chosen(X)
    order = np.random.default_rng(1).permutation(40)
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(X)
    for given in (
        LISTS, pa.chunked_array([LISTS.slice(0, 7), LISTS.slice(7)]), tensors, pa.table({"embedding": tensors}),
        pa.table({"id": range(40), "embedding": LISTS}), pa.table({"id": range(40), "features": LISTS}),
        pa.table({"id": range(40), "anything": LISTS}), pa.record_batch([pa.array(X.tolist())], ["x"]),
        pa.table({"row": order, "emb": LISTS.take(pa.array(order))}),
        pandas.DataFrame(X), pandas.DataFrame({"id": range(40), "feats": list(X)}), pandas.Series(list(X)), list(X),
        np.array([*X, None], object)[:-1],
    ):  # fmt: skip
        assert chosen(given) == expected, type(given)


def test_select_takes_any_frame_with_the_interface_of_arrow() -> None:
    class Frame:
        """As data frames of polars and others."""

        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            return pa.table({"id": range(40), "emb": LISTS}).__arrow_c_stream__(requested_schema)

    assert chosen(Frame()) == chosen(X)


def test_select_logs_what_it_took(caplog: pytest.LogCaptureFixture) -> None:
    chosen(pa.table({"id": range(40), "features": LISTS}))
    assert "no 'embedding' is there: took 'features' of id, features" in caplog.text


@pytest.mark.parametrize(
    ("strategy", "argument", "name"), [("margin", "logits", "features"), ("k_center", "embedding", "logit")]
)
def test_select_takes_no_column_that_is_named_as_another_argument(strategy: str, argument: str, name: str) -> None:
    with pytest.raises(SelectionError, match=f"got '{name}', which is a name of"):
        alray.select(strategy, 5, **{argument: pa.table({"id": range(40), name: LISTS})})


@pytest.mark.parametrize("kind", ["parquet", "npz"])
def test_select_finds_columns_in_files(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"f.{kind}"
    for name in ("embedding", "features", "emb", "q"):
        if kind == "npz":
            np.savez(path, **{name: X, "labels": np.arange(40)})
        else:
            pq.write_table(pa.table({name: LISTS, "labels": range(40)}), path)
        assert chosen(str(path)) == chosen(X)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (pa.table({"a": LISTS, "b": LISTS}), "embedding: the Table: expected a column 'embedding', got a, b"),
        (pa.table({"emb": LISTS, "feats": LISTS}), "got 2 that may be it .emb, feats."),
        (pa.table({"id": range(40)}), "expected a column 'embedding', got id"),
        ({"embedding": X}, "expected an array of numbers, an Arrow table .*; got dict"),
        (object(), "got object"),
        (pa.table({"embedding": [["a"]] * 40}), "expected float16, float32, float64 or integers"),
    ],
)
def test_select_refuses_what_is_not_clear(given: Any, message: str) -> None:
    with pytest.raises(SelectionError, match=message):
        chosen(given)


def test_labels_and_losses_are_found_too() -> None:
    labels = pa.table({"label": np.arange(40) % 3, "loss": np.arange(40) / 7})
    plain = alray.select("balanced_random", 3, embedding=X, labels=np.arange(40) % 3, labeled=[0])
    assert alray.select("balanced_random", 3, embedding=LISTS, labels=labels, labeled=[0]) == plain
    losses = alray.select("pt4al", 5, embedding=X, pretext_loss=np.arange(40) / 7, round=1, logits=X)
    assert alray.select("pt4al", 5, embedding=X, pretext_loss=labels, round=1, logits=X) == losses


def test_row_numbers_in_files(tmp_path: Path) -> None:
    pq.write_table(pa.table({"rows": [3, 1], "score": [0.1, 0.2]}), tmp_path / "a.parquet")
    assert read_rows(str(tmp_path / "a.parquet")).tolist() == [3, 1]
    (tmp_path / "a.csv").write_text("index,score\n3,1\n")
    with pytest.raises(SelectionError, match="expected a column of row numbers, called 'row', got index, score"):
        read_rows(str(tmp_path / "a.csv"))
