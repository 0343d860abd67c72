"""Runs lined up for comparison, the tables made of them, and curves that alray did not make."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from test_report import metrics_of, rewrite, write_run

from alray.report import ReportError, report
from alray.report.analysis import BEST, TIE, analyse
from alray.report.foreign import read_curves
from alray.report.panel import Line, arrange, panel
from alray.report.records import runs_table
from alray.report.runs import load_all
from alray.report.sections import measures, sections

LABELS = (100.0, 200.0, 300.0, 400.0)


def line(method: str, seed: int, gain: float = 0.0, setting: str = "", rounds: int = 4, **changes: object) -> Line:
    """A curve with a part that all methods of a seed share."""
    shared = np.random.default_rng(seed).normal(0, 0.03)
    own = np.random.default_rng([seed, sum(map(ord, method))]).normal(0, 0.002, rounds)
    values = 0.5 + 0.1 * np.log2(np.array(LABELS[:rounds]) / 100) + shared + own + gain
    scalars = {"test_top1": tuple(values.tolist())}
    return Line(setting, method, method, seed, LABELS[:rounds], {**scalars, **changes})  # type: ignore[dict-item]


def planted(seeds: int, gain: float = 0.03) -> list[Line]:
    return [
        line(method, seed, extra)
        for seed in range(seeds)
        for method, extra in (("base", gain), ("margin", 0.0), ("random", 0.0))
    ]


def test_settings_are_what_differs_besides_strategy_and_seed(tmp_path: Path) -> None:
    for budget in (5, 50):
        for strategy in ("random", "base"):
            write_run(tmp_path, strategy, 0, name=f"b{budget}", budget=budget)
    write_run(tmp_path, "base", 0, name="sorted", budget=5, strategy_options={"class_order": "seeded"})
    found = panel(load_all([str(tmp_path)]))
    assert found.settings == ("budget 5", "budget 50")
    assert {line.method for line in found.lines} == {"random", "base", "base, class_order seeded"}
    assert found.methods[0] == found.reference == "random"


def test_curves_are_by_seed_and_settings_by_number(tmp_path: Path) -> None:
    for budget in (50, 5):
        for seed in (1, 0):
            write_run(tmp_path / str(budget), "random", seed, budget=budget)
    found = panel(load_all([str(tmp_path / "50"), str(tmp_path / "5")]))
    assert found.settings == ("budget 5", "budget 50")
    curves = found.curves("budget 5", "random", "test_top1")
    assert curves is not None
    assert curves.seeds == (0, 1)
    assert curves.values[1].tolist() == [metrics_of(r, "random", 1)["test"]["top1"] for r in range(3)]


def test_data_sets_are_told_apart_by_the_names_of_their_runs(tmp_path: Path) -> None:
    for name in ("cifar", "plankton"):
        run = Path(write_run(tmp_path, "random", 0, name=name))
        text = (
            (run / "run.json").read_text().replace('"data_fingerprint": "data"', f'"data_fingerprint": "{name[::-1]}"')
        )
        (run / "run.json").write_text(text)
    assert panel(load_all([str(tmp_path)])).settings == ("run cifar", "run plankton")


def test_short_runs_are_put_aside_and_said_so() -> None:
    found = arrange([*planted(6), line("margin", 6, rounds=2)])
    assert [(short.method, short.seed) for short in found.incomplete] == [("margin", 6)]
    assert any("margin seed 6: 2 rounds" in text for text in analyse(found, "test_top1").warnings)


def test_the_same_run_twice_is_refused() -> None:
    with pytest.raises(ReportError, match="the same strategy, seed and settings"):
        arrange([line("base", 0), line("base", 0)])


def test_strategies_that_peek_are_marked(tmp_path: Path) -> None:
    for strategy in ("random", "base"):
        rewritten = write_run(tmp_path, strategy, 0)
        text = Path(rewritten, "run.json").read_text().replace('"base"', '"balancing"')
        Path(rewritten, "run.json").write_text(text)
    assert panel(load_all([str(tmp_path)])).methods == ("random", "balancing*")


def test_runs_that_bought_a_few_labels_more_are_read_between_their_rounds() -> None:
    shifted = Line("", "base", "base", 0, (100, 201, 302, 403), {"test_top1": (0.1, 0.2, 0.3, 0.4)})
    found = arrange([shifted, line("random", 0)])
    assert found.grid("").tolist() == [100, 200, 300, 400]
    curves = found.curves("", "base", "test_top1")
    assert curves is not None
    assert curves.values[0] == pytest.approx([0.1, 0.1 + 0.1 * 100 / 101, 0.2 + 0.1 * 99 / 101, 0.3 + 0.1 * 98 / 101])


def test_a_planted_gain_is_claimed_and_nothing_else() -> None:
    found = analyse(arrange(planted(8)), "test_top1")
    base, margin = found.verdicts
    assert base.startswith("base: better than random; +3.")
    assert margin.startswith("margin: no difference to random shown")
    rows = {row[1]: row for row in found.tables["area"].rows}
    assert BEST in rows["base"][3]
    assert TIE not in rows["random"][3] + rows["margin"][3]
    assert found.tables["wins"].rows[0] == ("base", "–", "1/1", "1/1", "2")
    assert not found.warnings
    saved = {(row[1], row[3]): row[-1] for row in found.tables["efficiency"].rows}
    assert saved["base", "400"] == "> 0 %"
    assert int(saved["base", "300"].removesuffix(" %")) in range(12, 25)  # 300 * 2^0.3 = 369 labels of random: 19 %


def test_with_few_seeds_the_report_says_so_and_claims_nothing() -> None:
    found = analyse(arrange(planted(3, gain=0.2)), "test_top1")
    assert all("no difference to random shown" in text for text in found.verdicts)
    assert "Too few seeds for a claim" in found.warnings[0]
    assert "3 paired seeds where 5 are needed" in found.warnings[0]
    assert not found.everyone.wins.any()


def test_without_random_there_is_nothing_to_compare_with() -> None:
    lines = [one for one in planted(6) if one.method != "random"]
    found = analyse(arrange(lines), "test_top1")
    assert any("No run of random sampling" in text for text in found.warnings)
    assert "differences" not in found.tables
    assert "efficiency" not in found.tables


def test_balanced_accuracy_is_shown_where_it_is_another_number() -> None:
    same = [line("random", 0, test_balanced_accuracy=line("random", 0).scalars["test_top1"])]
    other = [line("random", 0, test_balanced_accuracy=(0.1, 0.2, 0.3, 0.4))]
    assert measures(arrange(same)) == ["test_top1"]
    assert measures(arrange(other)) == ["test_top1", "test_balanced_accuracy"]
    parts, _ = sections(arrange(other))
    assert len(next(part for part in parts if part.id == "curves").charts) == 2


def test_the_record_of_runs_names_their_picks(tmp_path: Path) -> None:
    run = write_run(tmp_path, "base", 0)
    (row,) = runs_table(panel(load_all([run])), "test_top1").rows
    assert (row[0], row[2], row[3], row[-1]) == ("base", "0", "3", "t-base-0")
    assert len(row[6]) == 12


def write_csv(path: Path, rows: list[dict[str, object]]) -> str:
    with path.open("w", newline="") as file:
        out = csv.DictWriter(file, list(rows[0]))
        out.writeheader()
        out.writerows(rows)
    return str(path)


ROWS: list[dict[str, object]] = [
    {"data": data, "strategy": strategy, "seed": seed, "labels": labels, "test_top1": 0.5 + labels / 1000 + seed / 100}
    for data in ("a", "b") for strategy in ("random", "base") for seed in (1, 2) for labels in (10, 20)
]  # fmt: skip


def test_a_report_on_somebody_elses_curves(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "curves.csv", ROWS)
    found = arrange(read_curves(path))
    assert found.settings == ("data a", "data b")
    text = report([path], str(tmp_path / "out"))
    assert "Area under the budget curve" in text
    html = (tmp_path / "out" / "report.html").read_text()
    assert "Too few seeds for a claim" in html
    assert (tmp_path / "out" / "tables" / "areas.csv").read_text().startswith("setting,strategy,seeds")
    assert "### Win matrix" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"strategy": None}, r"expected the columns strategy, seed, labels.*got data, seed"),
        ({"test_top1": None}, "one or more of test_top1"),
        ({"test_top1": "52.1"}, r"line 2: test_top1: expected a fraction from 0 to 1, got 52.1"),
        ({"seed": "one"}, r"line 2: seed: expected a number, got 'one'"),
        ({"labels": "20"}, "the same labels twice"),
    ],
)
def test_curves_that_cannot_be_read_are_refused(change: dict[str, object], says: str, tmp_path: Path) -> None:
    if None in change.values():
        rows = [{name: value for name, value in row.items() if name not in change} for row in ROWS]
    else:
        rows = [{**ROWS[0], **change}, *ROWS[1:]]
    with pytest.raises(ReportError, match=says):
        read_curves(write_csv(tmp_path / "curves.csv", rows))


def test_runs_without_any_accuracy_have_no_page(tmp_path: Path) -> None:
    run = write_run(tmp_path, "base", 0, rounds=1)
    rewrite(run, 0, test=None, validation=None)
    assert "no report.html: no run has an accuracy" in report([run])
    assert (Path(run) / "report.csv").exists() and not (Path(run) / "report.html").exists()
    with pytest.raises(ReportError, match="no run has an accuracy"):
        report([run], measure="test_top1")
    with pytest.raises(ReportError, match=r"measure: expected .* such as test_top1, got top9"):
        report([write_run(tmp_path, "random", 0)], measure="top9")
