"""Names from the user's data in Markdown, in CSV for spreadsheets and on a terminal."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from test_report import BASE_GAIN, write_run

from alray.reasons import terminal
from alray.report import report
from alray.report.escape import code, markdown, spreadsheet
from alray.report.tables import Table, as_markdown, as_text, table_csv


@pytest.mark.parametrize(
    "formula",
    ["=1", "=cmd|' /C calc'!A0", "+cmd|x", "-2+3+cmd|'x'!A0", "-A1", "-2+A1", "@SUM(A1)", "\t=1", "\r=1", "-CMD|x!A0"],
)  # fmt: skip
def test_a_spreadsheet_runs_no_formula(formula: str) -> None:
    text = table_csv(Table("t", ("class", formula), ((formula, "1"),)))
    head, row = list(csv.reader(io.StringIO(text, newline="")))
    assert head[1] == row[0] == f"'{formula}".replace("\r", " ")


@pytest.mark.parametrize(
    "number",
    ["-1", "+0.5", "-3.20 [-4.00, -2.40]", "-1,234.5", "-0.52±0.10", "+3 %", "-", "-inf", "52.1", "–", "",
     "[-1, 2]", "a=b", "k_center"],
)  # fmt: skip
def test_numbers_and_other_texts_stay(number: str) -> None:
    assert spreadsheet(number) == number


def test_markdown_shows_a_name_as_it_is() -> None:
    assert markdown("a|b`c*d\\e~f\ng") == "a\\|b\\`c\\*d\\\\e\\~f g"
    assert markdown("[x](http://y) <b>&amp; __init__ k_center") == (
        "[x\\](http://y) \\<b>\\&amp; \\_\\_init\\_\\_ k_center"
    )
    assert [markdown(text) for text in ("# a", "- a", "1. a", "p < 0.01 [95%]")] == (
        ["\\# a", "\\- a", "1\\. a", "p < 0.01 [95%]"]
    )
    assert [code(text) for text in ("a", "a`b", "a``b\n")] == ["`a`", "`` a`b ``", "``` a``b ```"]
    assert as_markdown(Table("a*b", ("x|y",), (("1",),))).splitlines()[:3] == ["### a\\*b", "", "| x\\|y |"]


def test_a_terminal_gets_no_control_characters() -> None:
    assert as_text(Table("t\x1b[2J", ("a\nb",), (("c\x07",),))).isprintable() is False  # its own line ends only
    assert set("\x1b\x07") & set(as_text(Table("t\x1b[2J", ("a\nb",), (("c\x07",),)))) == set()
    assert terminal("é ★ \x1b[31m") == "é ★ \\x1b[31m"


def test_a_report_on_odd_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "=cmd|`x`*"
    monkeypatch.setitem(BASE_GAIN, name, 0.0)  # the accuracies that the made-up runs have
    said = report([write_run(tmp_path, strategy=name, seed=0)])
    assert said
    (folder,) = (path.parent for path in tmp_path.rglob("report.md"))
    assert "\\`x\\`\\*" in (folder / "report.md").read_text()
    (first, *_) = csv.DictReader(io.StringIO((folder / "report.csv").read_text()))
    assert first["strategy"] == f"'{name}"
    for path in (folder / "tables").iterdir():
        cells = [cell for row in csv.reader(io.StringIO(path.read_text())) for cell in row]
        assert not [cell for cell in cells if cell.startswith(("=", "@"))]
