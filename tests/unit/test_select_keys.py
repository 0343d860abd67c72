"""`alray select` with the keys of the rows: picks say key and URI, and files of keys are understood."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

import alray
from alray.cli import main
from alray.data.catalog import index

N = 30
X = np.random.default_rng(0).standard_normal((N, 4))
KEYS = [f"folder {row % 3}/{row:03}.jpg" for row in np.random.default_rng(1).permutation(N).tolist()]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    Path("keys.txt").write_text("\n".join(KEYS) + "\n")
    return tmp_path


def select(out: str = "out.csv", *more: str) -> pa.Table:
    main(["select", "k_center", "4", "--embedding", "x.npy", "--out", out, *more])
    text = pacsv.ConvertOptions(column_types={"key": pa.string()})
    return pacsv.read_csv(out, convert_options=text) if out.endswith(".csv") else pq.read_table(out)


def refusal(capsys: pytest.CaptureFixture[str], *more: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        select("no.csv", *more)
    assert stopped.value.code == 2
    assert not Path("no.csv").exists()
    return capsys.readouterr().err


@pytest.mark.parametrize("out", ["out.csv", "out.parquet"])
def test_picks_have_the_keys_of_a_file(out: str, here: Path) -> None:
    plain = alray.select("k_center", 4, embedding=X)
    found = select(out, "--keys", "keys.txt")
    assert found.column_names == ["row", "score", "radius", "key"]
    assert found["row"].to_pylist() == plain.rows.tolist()
    assert found["key"].to_pylist() == [KEYS[row] for row in plain.rows]
    assert select(out, "--overwrite").column_names == ["row", "score", "radius"]


def test_picks_have_the_keys_and_uris_of_a_catalog(here: Path) -> None:
    from PIL import Image

    for row in range(N):
        (here / "images" / f"c{row % 2}").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(here / "images" / f"c{row % 2}" / f"{row:02}.png")
    catalog = index(str(here / "images"), str(here / "catalog"), yes=True)
    found = select("out.csv", "--catalog", "catalog")
    rows = found["row"].to_numpy()
    assert found.column_names == ["row", "score", "radius", "key", "uri"]
    assert found["key"].to_pylist() == catalog.keys(rows).to_pylist()
    places = catalog.references(np.arange(N))["uri"].to_pylist()
    assert found["uri"].to_pylist() == [places[row] for row in rows]
    again = select("again.csv", "--catalog", "catalog", "--labeled", "out.csv")
    assert again["row"].to_pylist() == alray.select("k_center", 4, embedding=X, labeled=rows).rows.tolist()


@pytest.mark.parametrize("form", ["txt", "csv", "tsv", "parquet", "picks"])
def test_labeled_and_exclude_are_files_of_keys(form: str, here: Path) -> None:
    labeled, out = [3, 8, 21], [4, 5]
    for name, rows in (("labeled", labeled), ("out", out)):
        keys = [KEYS[row] for row in rows]
        table = pa.table({"key": keys, "score": np.zeros(len(rows))})
        if form == "txt":
            Path(f"{name}.txt").write_text("\r\n".join(keys))
        elif form == "parquet":
            pq.write_table(table, f"{name}.parquet")
        else:
            table = table.append_column("row", pa.array(rows)) if form == "picks" else table
            how = pacsv.WriteOptions(delimiter="\t" if form == "tsv" else ",")
            pacsv.write_csv(table, f"{name}.{'csv' if form == 'picks' else form}", how)
    end = "csv" if form == "picks" else form
    found = select("o.csv", "--keys", "keys.txt", "--labeled", f"labeled.{end}", "--exclude", f"out.{end}")
    assert (
        found["row"].to_pylist() == alray.select("k_center", 4, embedding=X, labeled=labeled, exclude=out).rows.tolist()
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    ("name", "mark"), [("rows.csv", ";"), ("rows.csv", ","), ("rows.csv", "\t"), ("rows.tsv", "\t")]
)
def test_tables_are_read_as_spreadsheets_save_them(name: str, mark: str, encoding: str, here: Path) -> None:
    """Also with a byte order mark, in UTF-16, and with semicolons."""
    rows = [3, 4, 12]
    plain = alray.select("k_center", 4, embedding=X, labeled=np.array(rows)).rows.tolist()
    Path(name).write_text(
        "".join(f"{mark.join(line)}\n" for line in [("row", "label"), *((str(row), "d\u00e4") for row in rows)]),
        encoding=encoding,
    )
    assert select("out.csv", "--labeled", name)["row"].to_pylist() == plain
    lines = [f"{key}{mark}{row}\n" for row, key in enumerate(KEYS)]
    Path(name).write_text(f"key{mark}row\n" + "".join(lines), encoding=encoding)
    Path("rows.txt").write_text("3\n4\n12\n", encoding=encoding)
    found = select("out.csv", "--keys", name, "--labeled", "rows.txt", "--overwrite")
    assert found["key"].to_pylist() == [KEYS[row] for row in plain]


def test_row_numbers_are_understood_as_before(here: Path) -> None:
    Path("rows.txt").write_text("3\n8\n")
    expected = alray.select("k_center", 4, embedding=X, labeled=[3, 8]).rows.tolist()
    assert select("a.csv", "--labeled", "rows.txt")["row"].to_pylist() == expected
    assert select("b.csv", "--labeled", "rows.txt", "--keys", "keys.txt")["row"].to_pylist() == expected


def test_keys_of_digits_stay_text(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digits = [f"{row:05}" for row in range(N)][::-1]
    pacsv.write_csv(pa.table({"key": digits}), "keys.csv")
    pacsv.write_csv(pa.table({"key": [digits[3], digits[8]]}), "labeled.csv")
    Path("labeled.txt").write_text(f"{digits[3]}\n{digits[8]}\n")
    found = select("a.csv", "--labeled", "labeled.csv", "--keys", "keys.csv")
    assert found["row"].to_pylist() == alray.select("k_center", 4, embedding=X, labeled=[3, 8]).rows.tolist()
    assert found["key"].to_pylist() == [digits[row] for row in found["row"].to_pylist()]
    said = refusal(capsys, "--labeled", "labeled.txt", "--keys", "keys.csv")
    assert "the lines are row numbers and keys of keys.csv; give a CSV with the column row or key" in said


def test_keys_of_many_digits_are_keys(here: Path) -> None:
    digits = [str(10**22 + row) for row in range(N)]
    Path("keys.txt").write_text("\n".join(digits))
    Path("labeled.txt").write_text(f"{digits[3]}\n{digits[8]}\n")
    found = select("a.csv", "--labeled", "labeled.txt", "--keys", "keys.txt")
    assert found["row"].to_pylist() == alray.select("k_center", 4, embedding=X, labeled=[3, 8]).rows.tolist()


def test_a_table_of_keys_is_sorted_by_its_rows(here: Path) -> None:
    order = np.random.default_rng(2).permutation(N)
    pq.write_table(pa.table({"row": order, "key": [KEYS[row] for row in order]}), "keys.parquet")
    assert select("a.csv", "--keys", "keys.parquet") == select("b.csv", "--keys", "keys.txt")


def test_features_with_a_row_column_may_be_some_of_the_rows(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.arange(0, N, 2)
    pq.write_table(pa.table({"row": rows, "embedding": list(X[rows])}), "x.parquet")
    main(["select", "k_center", "3", "--embedding", "x.parquet", "--keys", "keys.txt", "--out", "o.csv"])
    found = pacsv.read_csv("o.csv")
    assert found["key"].to_pylist() == [KEYS[row] for row in found["row"].to_pylist()]


CASES: list[tuple[dict[str, str], tuple[str, ...], str]] = [
    ({"l.txt": f"{KEYS[0]}\nnowhere\nnothing\n"}, ("--labeled", "l.txt", "--keys", "keys.txt"),
     "l.txt: 2 of 3 keys are not among the 30 keys of keys.txt; the first is 'nowhere'"),
    ({"l.csv": f"key\n{KEYS[0]}\nnowhere\n"}, ("--exclude", "l.csv", "--keys", "keys.txt"),
     "l.csv: 1 of 2 keys are not among the 30 keys of keys.txt; the first is 'nowhere'"),
    ({"l.csv": f"row,key\n1,{KEYS[1]}\n2,{KEYS[3]}\n"}, ("--labeled", "l.csv", "--keys", "keys.txt"),
     f"l.csv: 1 of 2 keys have another row in keys.txt; the first is '{KEYS[3]}', row 2 in the file and 3 there"),
    ({"l.txt": KEYS[0]}, ("--labeled", "l.txt"), "--catalog or --keys makes keys understood"),
    ({"k.txt": "\n".join(["key", *KEYS])}, ("--keys", "k.txt"), "k.txt: expected 30 keys, one for each row, got 31"),
    ({"k.txt": "\n".join(KEYS[1:])}, ("--keys", "k.txt"), "k.txt: expected 30 keys, one for each row, got 29"),
    ({"k.txt": "\n".join([*KEYS[1:], KEYS[3]])}, ("--keys", "k.txt"), f"expected each key once, got '{KEYS[3]}' again"),
    ({"k.txt": "\n".join([*KEYS[:4], "", *KEYS[5:]])}, ("--keys", "k.txt"), "a key for each row, row 4 has none"),
    ({"k.csv": "name\na\n"}, ("--keys", "k.csv"), "k.csv: expected a column 'key', got name"),
    ({"k.csv": "row,key\n0,a\n2,b\n"}, ("--keys", "k.csv"), "expected the rows 0 to 1 in the column 'row', each once"),
    ({}, ("--keys", "none.csv"), "none.csv: expected a table of keys, got no such file"),
    ({}, ("--keys", "none.txt"), "none.txt: expected keys, one a line, got no such file"),
    ({}, ("--keys", "folder"), "folder: expected keys, one a line, got a directory"),
    ({}, ("--labeled", "none.txt"), "none.txt: expected row numbers, one a line, got no such file"),
    ({}, ("--labeled", "none.npy"), "none.npy: expected row numbers, one a line, got no such file"),
    ({}, ("--exclude", "folder"), "folder: expected row numbers, one a line, got a directory"),
    ({"l.txt": "1\n3 5\n"}, ("--labeled", "l.txt"), "l.txt: expected row numbers, one a line, got '3 5'"),
    ({"l.txt": "1\nan image\n"}, ("--labeled", "l.txt"), "one a line, got 'an image'"),
    ({"l.csv": "row\n1\nx\n"}, ("--labeled", "l.csv"), "l.csv: expected row numbers, got 'x' in line 2 of its rows"),
    ({"l.csv": "row,a\n1,2\n,2\n"}, ("--labeled", "l.csv"), "expected row numbers, got None in line 2 of its rows"),
    ({"l.txt": "9" * 30}, ("--labeled", "l.txt"), f"one a line, got '{'9' * 30}'"),
    ({"l.csv": "row\n1e300\n"}, ("--labeled", "l.csv"), "expected row numbers, got 1e+300 in line 1 of its rows"),
    ({"l.csv": "row\n1.5\n"}, ("--labeled", "l.csv"), "expected row numbers, got 1.5 in line 1 of its rows"),
    ({"l.csv": "row\ntrue\n"}, ("--labeled", "l.csv"), "expected row numbers, got True in line 1 of its rows"),
    ({"w.parquet": "no head"}, ("--weight", "w.parquet"), "w.parquet: expected a .npy array, got something else (it"),
    ({}, ("--keys", "keys.txt", "--catalog", "c"), "expected --catalog or --keys, got both"),
    ({}, ("--catalog", "c"), "c: expected a catalog, got none"),
]  # fmt: skip


@pytest.mark.parametrize(("files", "options", "message"), CASES, ids=[case[2][:40] for case in CASES])
def test_what_does_not_fit_is_refused(
    files: dict[str, str], options: Any, message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("folder").mkdir()
    for name, text in files.items():
        Path(name).write_text(text)
    assert message in refusal(capsys, *options)


def table(keys: list[str], **more: Any) -> None:
    pq.write_table(pa.table({"key": keys, "embedding": X.tolist(), **more}), "x.parquet")


def of_parquet(*more: str) -> pa.Table:
    main(["select", "k_center", "4", "--embedding", "x.parquet", "--out", "picks.csv", "--overwrite", *more])
    return pacsv.read_csv("picks.csv", convert_options=pacsv.ConvertOptions(column_types={"key": pa.string()}))


def test_the_keys_of_a_table_of_features_are_those_of_the_picks(here: Path) -> None:
    picks = alray.select("k_center", 4, embedding=X).rows
    table(KEYS)
    assert of_parquet()["key"].to_pylist() == [KEYS[row] for row in picks]
    assert of_parquet("--keys", "keys.txt")["key"].to_pylist() == [KEYS[row] for row in picks]
    table(KEYS, row=np.arange(N)[::-1].tolist())  # the first line is the last row
    turned = alray.select("k_center", 4, embedding=X[::-1]).rows
    assert of_parquet()["key"].to_pylist() == [KEYS[::-1][row] for row in turned]


def test_keys_of_a_table_of_features_in_another_order_are_refused(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table([KEYS[1], KEYS[0], *KEYS[2:]])
    with pytest.raises(SystemExit):
        of_parquet("--keys", "keys.txt")
    said = capsys.readouterr().err
    assert f"x.parquet: row 0 has the key {KEYS[1]!r}, and in keys.txt {KEYS[0]!r}" in said
    assert not Path("picks.csv").exists()


def test_picks_from_the_test_split_of_a_catalog_are_counted(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    for row in range(N):
        folder = here / "images" / ("test" if row < 10 else "train") / f"c{row % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / f"{row:02}.png")
    index("images", "catalog")
    picks = select("out.csv", "--catalog", "catalog")
    held_out = sum(key.startswith("test/") for key in picks["key"].to_pylist())
    said = capsys.readouterr().err
    assert (f"{held_out} of them are test or validation images in the catalog catalog" in said) == (held_out > 0)
    assert held_out > 0, "this seed picks none"


def test_a_search_that_its_time_limit_ended_says_so(
    here: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    np.save("many.npy", np.random.default_rng(0).normal(size=(200, 6)))
    options = ["--strategy-options", "outliers", "0", "time_limit", "1e-9"]
    main(["select", "robust_k_center", "10", "--embedding", "many.npy", "--out", "o.csv", *options])
    assert capsys.readouterr().out == "10 rows: o.csv\n"
    assert "robust_k_center: time_limit: 1e-09 s were not enough" in caplog.text


def test_a_file_that_is_read_is_not_written(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("labeled.csv").write_text("row\n3\n")
    with pytest.raises(SystemExit):
        select(str(here / "labeled.csv"), "--labeled", "labeled.csv", "--overwrite")
    assert "out: expected another file than those that are read" in capsys.readouterr().err
    assert Path("labeled.csv").read_text() == "row\n3\n"


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--labeled", "a.csv", "--labeled", "b.csv"], "--labeled: expected once, got it again"),
        (["--strategy", "margin"], "STRATEGY: expected once, got k_center and --strategy"),
    ],
)
def test_what_is_given_twice_is_refused(
    more: list[str], expected: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refusal(capsys, *more)


def test_python_m_alray_is_the_command(here: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "alray", "--version"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("alray ")
