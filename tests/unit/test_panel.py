"""Runs lined up for comparison, the tables made of them, and curves that alray did not make."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from test_report import change_identity, metrics_of, rewrite, write_run

from alray.config import SplitConfig
from alray.report import ReportError, report
from alray.report.analysis import BEST, TIE, analyse, overall_ranks
from alray.report.claims import detectable_note, method_note
from alray.report.csv_curves import read_curves
from alray.report.layout import Section
from alray.report.metrics import metrics
from alray.report.panel import Line, arrange, panel
from alray.report.records import runs_table
from alray.report.runs import load_all
from alray.report.sections import sections
from alray.report.statistics import area
from alray.store import Store

LABELS = (100.0, 200.0, 300.0, 400.0)


def line(method: str, seed: int, gain: float = 0.0, setting: str = "", rounds: int = 4, **changes: object) -> Line:
    """A curve with a part that all methods of a seed share."""
    shared = np.random.default_rng(seed).normal(0, 0.03)
    own = np.random.default_rng([seed, sum(map(ord, method))]).normal(0, 0.002, rounds)
    values = 0.5 + 0.1 * np.log2(np.array(LABELS[:rounds]) / 100) + shared + own + gain
    scalars = {"test_top1": tuple(values.tolist())}
    return Line(setting, method, method, seed, LABELS[:rounds], {**scalars, **changes})  # type: ignore[dict-item]


def parts_of(lines: Sequence[Line]) -> dict[str, Section]:
    """The sections of a report on curves by their identifiers."""
    found = arrange(lines)
    shown = metrics(found)
    return {part.id: part for part in sections(found, shown, analyse(found, shown[0].scalar))}


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


def test_options_name_a_strategy_only_where_its_own_runs_differ(tmp_path: Path) -> None:
    write_run(tmp_path, "random", 0)
    write_run(tmp_path, "base", 0, strategy_options={"class_order": "seeded"})
    assert panel(load_all([str(tmp_path)])).methods == ("random", "base")


def seed_set(**fields: object) -> dict[str, object]:
    return {**SplitConfig().model_dump(mode="json", exclude={"seed_set_options", "val_list", "test_list"}), **fields}


def test_a_seed_set_that_was_chosen_is_the_strategys_and_one_that_was_drawn_is_a_setting(tmp_path: Path) -> None:
    for strategy in ("random", "margin"):
        write_run(tmp_path, strategy, 0)
        change_identity(write_run(tmp_path, strategy, 0, name="balanced"), split=seed_set(seed_set_how="balanced"))
    for options in ({"metric": "cosine"}, {"metric": "euclid"}):
        run = write_run(tmp_path, "base", 0, name=options["metric"])
        change_identity(run, split=seed_set(seed_set_how="k_means", seed_set_options=options))
    found = panel(load_all([str(tmp_path)]))
    assert found.settings == ("split.seed_set_how balanced", "split.seed_set_how random")
    cold = [f"base, seed_set k_means, seed_set.metric {metric}" for metric in ("cosine", "euclid")]
    assert found.methods == ("random", *cold, "margin")
    assert {line.setting for line in found.lines if line.strategy == "base"} == {"split.seed_set_how random"}
    assert found.cold_starts


def test_where_all_chose_their_seed_set_it_goes_without_saying(tmp_path: Path) -> None:
    for strategy in ("random", "base"):
        change_identity(write_run(tmp_path, strategy, 0), split=seed_set(seed_set_how="pretext"))
    found = panel(load_all([str(tmp_path)]))
    assert (found.methods, found.cold_starts) == (("random", "base"), False)


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
        change_identity(write_run(tmp_path, "random", 0, name=name), data_fingerprint=name[::-1])
    assert panel(load_all([str(tmp_path)])).settings == ("run cifar", "run plankton")
    for name, budget in (("cifar", 5), ("plankton", 7)):
        change_identity(write_run(tmp_path, "base", 0, name=name, budget=budget), data_fingerprint=name[::-1])
    assert set(panel(load_all([str(tmp_path)])).settings) == {
        "run cifar, budget 5", "run cifar, budget 10000", "run plankton, budget 7", "run plankton, budget 10000",
    }  # fmt: skip


def test_runs_that_never_meet_are_said_not_to_be_compared(tmp_path: Path) -> None:
    """One strategy on one data set, another on another: they stand beside each other, with the data's names."""
    for name, strategy in (("cifar", "random"), ("plankton", "base")):
        change_identity(write_run(tmp_path, strategy, 0, name=name), data_fingerprint=name[::-1])
    text = report([str(tmp_path)])
    assert "No two strategies were run in the same setting with the same seed" in text
    assert "The settings: run cifar; run plankton." in text
    assert re.search("labels +base · run plankton .1 seed. +random · run cifar .1 seed.", text)


def test_short_runs_are_put_aside_and_said_so() -> None:
    found = arrange([*planted(6), line("margin", 6, rounds=2)])
    assert [(short.method, short.seed) for short in found.incomplete] == [("margin", 6)]
    assert any("margin seed 6: 2 rounds" in text for text in analyse(found, "test_top1").warnings)


def ended(line: Line, rounds: int) -> Line:
    """The line as a scheduler left it."""
    scalars = {name: values[:rounds] for name, values in line.scalars.items()}
    return replace(line, labels=line.labels[:rounds], scalars=scalars, stopped="asha")


@pytest.mark.parametrize("everyone", [False, True])
def test_where_a_scheduler_stopped_runs_nothing_is_claimed(everyone: bool) -> None:
    """Neither of the seeds that it left, nor where it stopped a whole setting after the same round."""
    lines = [ended(one, 2) if everyone or one.seed < 2 else one for one in planted(8)]
    found = analyse(arrange(lines), "test_top1")
    assert found.verdicts == ()
    assert set(found.tables) == {"area"}
    assert not found.everyone.met.any()
    for row in found.tables["area"].rows:
        assert re.fullmatch(r"[\d.]+ †", row[3]) and (row[4], row[-1]) == ("–", "–")
    (said,) = found.warnings
    assert said.startswith(
        f"asha stopped {24 if everyone else 6} of 24 runs early because of their accuracy. The survivors"
    )
    parts = parts_of(lines)
    assert any("runs were stopped early" in note for note in parts["curves"].notes)
    assert not {"differences", "efficiency"} & set(parts)


def test_settings_in_which_no_run_was_stopped_are_compared() -> None:
    lines = [replace(one, setting=f"budget {budget}") for one in planted(8) for budget in (5, 6)]
    lines = [ended(one, 3) if (one.setting, one.seed) == ("budget 6", 0) else one for one in lines]
    found = analyse(arrange(lines), "test_top1")
    assert found.verdicts[0].startswith("base (budget 5): better than random")
    assert not any("budget 6" in text for text in found.verdicts)
    assert found.tables["wins"].rows[0][1:4] == ("–", "1/1", "1/1")
    assert "3 of 24 runs early because of their accuracy (budget 6)" in found.warnings[0]
    assert {row[0] for row in found.tables["efficiency"].rows} == {"budget 5"}
    assert overall_ranks(arrange(lines), "test_top1").blocks == 8
    shown = {name: len(part.charts) for name, part in parts_of(lines).items()}
    assert (shown["curves"], shown["differences"], shown["efficiency"]) == (2, 1, 1)


@pytest.mark.parametrize(("scheduler", "named"), [("asha", "asha"), ("none", "a scheduler")])
def test_what_a_scheduler_stopped_is_read_beside_the_runs(scheduler: str, named: str, tmp_path: Path) -> None:
    """None: the sweep was started again without one, which does not bring back what another start stopped."""
    runs = [write_run(tmp_path, "random", seed, rounds=rounds) for seed, rounds in ((0, 3), (1, 2), (2, 3))]
    trials = [
        {"run": Path(run).name, "status": status, "rounds": 2, "of": 3, "fields": {}, "error": ""}
        for run, status in zip(runs, ("stopped", "stopped", "finished"), strict=True)
    ]  # the first was brought to its end since, by itself
    Store(str(tmp_path)).write_json("sweep.json", {"scheduler": scheduler, "trials": trials})
    for given in ([str(tmp_path)], runs):
        stopped = panel(load_all(given)).stopped("")
        assert [(line.seed, line.stopped) for line in stopped] == [(1, named)]
    (said,) = [text for text in analyse(panel(load_all(runs)), "test_top1").warnings if "early" in text]
    assert said.startswith(f"{named} stopped 1 of 3 runs early")


def test_friedmans_test_counts_a_seed_once() -> None:
    """Equal strategies whose seeds do alike in both budgets: with a block per setting, a third of p are below 0.05."""
    rng = np.random.default_rng(0)
    low = 0
    for _ in range(150):
        own = rng.normal(0, 0.01, (5, 8))
        values = 0.5 + own + rng.normal(0, 0.003, (2, 5, 8))
        lines = [
            Line(f"budget {budget}", f"s{s}", f"s{s}", seed, (10.0,), {"test_top1": (float(values[budget, s, seed]),)})
            for budget in (0, 1) for s in range(5) for seed in range(8)
        ]  # fmt: skip
        ranks = overall_ranks(arrange(lines), "test_top1")
        assert (ranks.blocks, ranks.seeds) == (16, 8)
        low += ranks.p < 0.05
    assert 0 < low < 15


def test_ranks_of_a_seed_are_averaged_over_settings() -> None:
    values = {"budget 1": [[0.5, 0.6, 0.7], [0.5, 0.7, 0.6]], "budget 2": [[0.9, 0.8, 0.7], [0.9, 0.8, 0.7]]}
    lines = [
        Line(setting, f"s{s}", f"s{s}", seed, (10.0,), {"test_top1": (value,)})
        for setting, seeds in values.items() for seed, row in enumerate(seeds) for s, value in enumerate(row)
    ]  # fmt: skip
    ranks = overall_ranks(arrange(lines), "test_top1")
    assert ranks.mean == {"s0": 2.0, "s1": 1.75, "s2": 2.25}
    assert ranks.p == pytest.approx(stats.friedmanchisquare([2, 2], [2, 1.5], [2, 2.5]).pvalue)


def test_levels_and_tests_are_named_where_they_are_used() -> None:
    lines = arrange(planted(6))
    usual, wide = analyse(lines, "test_top1"), analyse(lines, "test_top1", "wilcoxon", 0.1)
    for name, column in (("area", 3), ("area", 4), ("differences", 3), ("differences", 7), ("efficiency", 6)):
        assert "95%" in usual.tables[name].head[column] and "90%" in wide.tables[name].head[column]
        assert usual.tables[name].rows != wide.tables[name].rows
    assert usual.tables["differences"].head[-1] == "detectable, points"
    assert wide.tables["differences"].head[-1] == "detectable by t, points"
    assert "level 0.1, uncorrected; computed for the paired t test, not for Wilcoxon" in detectable_note(
        wide.to_reference
    )
    assert "Student's, 90%" in method_note(wide.everyone, "of all")
    d = [area(*(one.labels, one.scalars["test_top1"])) for one in lines.select("", "base")]
    low, high = stats.t.interval(0.9, 5, np.mean(d), stats.sem(d))
    row = next(row for row in wide.tables["area"].rows if row[1] == "base")
    assert f"[{100 * low:.2f}, {100 * high:.2f}]" in row[3]


@pytest.mark.parametrize("seeds", [4, 5])
def test_no_bootstrap_of_a_few_seeds(seeds: int) -> None:
    found = analyse(arrange(planted(seeds)), "test_top1")
    cells = [row[4] for row in found.tables["area"].rows] + [row[6] for row in found.tables["efficiency"].rows]
    assert {cell == "–" for cell in cells} == {seeds < 5}


def test_one_difference_of_all_seeds_has_no_interval() -> None:
    """As on a tiny test set; five signs are no proof at 5 %, eight are."""
    random = [line("random", seed) for seed in range(8)]
    more = [{"test_top1": tuple((v or 0) + 0.01 for v in one.scalars["test_top1"])} for one in random]
    gained = [replace(one, method="base", strategy="base", scalars=s) for one, s in zip(random, more, strict=True)]
    for seeds, claim in ((5, "not shown"), (8, "better")):
        found = analyse(arrange([*random[:seeds], *gained[:seeds]]), "test_top1")
        (row,) = found.tables["differences"].rows
        assert row[3:] == ("+1.00", f"{2 ** (1 - seeds):.4f}", f"{2 ** (1 - seeds):.4f}", claim, "+1.00", "–")
        assert "the sign test is used and there is no interval" in method_note(found.to_reference, "of all")
    assert "sign test" not in method_note(analyse(arrange(planted(8)), "test_top1").everyone, "of all")


def test_the_best_is_marked_on_the_seeds_that_all_have() -> None:
    """Base was run on fewer seeds, the easy ones; margin beats it on each."""
    level = {seed: -0.05 * (seed < 3) for seed in range(10)}
    lines = [
        Line("", name, name, seed, (10.0, 20.0), {"test_top1": (0.5 + level[seed], 0.6 + level[seed] + gain)})
        for name, gains in (("margin", [0.02] * 10), ("base", [0.016, 0.014] * 5))
        for seed, gain in enumerate(gains) if name == "margin" or seed >= 3
    ]  # fmt: skip
    first, second = analyse(arrange(lines), "test_top1").tables["area"].rows
    assert (first[1], second[1]) == ("margin", "base")
    assert first[3].endswith(BEST) and not second[3].endswith((BEST, TIE))
    assert first[3] < second[3]  # the mean over all its seeds is the lower


def test_the_same_run_twice_is_refused() -> None:
    with pytest.raises(ReportError, match="the same strategy, seed and settings"):
        arrange([line("base", 0), line("base", 0)])


def test_strategies_that_peek_are_marked(tmp_path: Path) -> None:
    for strategy in ("random", "base"):
        write_run(tmp_path, strategy, 0)
    change_identity(str(tmp_path / "t-base-0"), strategy="balancing")
    about = tmp_path / "t-base-0" / "run.json"
    Store(str(about.parent)).write_json("run.json", {**json.loads(about.read_text()), "peeks": True})
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
    assert "3 of 3 comparisons of every pair and 2 of 2 comparisons against random" in found.warnings[0]
    assert not found.everyone.wins.any()


def test_few_seeds_of_one_strategy_are_not_said_of_all() -> None:
    lines = [one for one in planted(8) if one.method != "margin" or one.seed < 3]
    (said,) = analyse(arrange(lines), "test_top1").warnings
    assert "in 2 of 3 comparisons of every pair and 1 of 2 comparisons against random: 3 paired seeds where 5" in said


def test_one_seed_gets_one_sentence_and_no_statistics(tmp_path: Path) -> None:
    """No table of differences, no win matrix, no interval, no star: they would say nothing."""
    found = analyse(arrange(planted(1)), "test_top1")
    assert (found.verdicts, dict(found.tables)) == ((), {})
    (said,) = found.warnings
    assert said.startswith("Each strategy was run with one seed.") and "seed=0..4" in said
    assert method_note(found.everyone, "of all").startswith("Nothing is tested")
    parts = parts_of(planted(1))
    assert list(parts) == ["curves", "areas"]
    (table,) = parts["areas"].tables
    assert table.head == ("setting", "strategy", "top-1 accuracy %", "top-1 accuracy, mean %")
    last = {one.method: 100 * float(one.scalars["test_top1"][-1] or 0) for one in planted(1)}
    assert [(row[1], row[2]) for row in table.rows] == [
        (name, f"{last[name]:.2f}") for name in sorted(last, key=lambda name: -last[name])
    ]
    for strategy in ("random", "base"):
        write_run(tmp_path, strategy, 0)
    texts = (report([str(tmp_path)]), *((tmp_path / name).read_text() for name in ("report.md", "report.html")))
    for text in texts:
        assert "Each strategy was run with one seed." in text
        for nothing in ("Holm", "Win matrix", "bootstrap", "p-value", "[95%]", "rank", BEST, TIE, "Too few seeds"):
            assert nothing not in text, nothing


def test_two_seeds_get_differences_again() -> None:
    assert {"areas", "differences", "efficiency"} <= set(parts_of(planted(2)))
    assert "wins" not in parts_of(planted(2))  # nobody can win with two seeds
    assert parts_of(planted(8))["wins"].tables


def test_a_matrix_without_a_win_is_a_sentence() -> None:
    lines = [line(method, seed) for method in ("base", "margin", "random") for seed in range(6)]
    part = parts_of(lines)["wins"]
    assert not part.tables
    assert part.notes == ("None of the 3 comparisons of two strategies with enough seeds shows a difference.",)


def test_warnings_and_marks_are_in_every_text(tmp_path: Path) -> None:
    for strategy in ("random", "base"):
        for seed in (0, 1):
            write_run(tmp_path, strategy, seed)
    text = report([str(tmp_path)])
    for said in (text, *((tmp_path / name).read_text() for name in ("report.md", "report.html"))):
        assert "Too few seeds for a claim" in said
        assert f"{BEST}\N{NO-BREAK SPACE}highest mean" in said


def test_without_random_there_is_nothing_to_compare_with() -> None:
    lines = [one for one in planted(6) if one.method != "random"]
    found = analyse(arrange(lines), "test_top1")
    assert any("No run of random sampling" in text for text in found.warnings)
    assert "differences" not in found.tables
    assert "efficiency" not in found.tables


def test_balanced_accuracy_is_shown_where_it_is_another_number() -> None:
    same = [line("random", 0, test_balanced_accuracy=line("random", 0).scalars["test_top1"])]
    other = [line("random", 0, test_balanced_accuracy=(0.1, 0.2, 0.3, 0.4))]
    assert [one.scalar for one in metrics(arrange(same))] == ["test_top1"]
    assert [one.scalar for one in metrics(arrange(other))] == ["test_top1", "test_balanced_accuracy"]
    assert len(parts_of(other)["curves"].charts) == 2


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
    assert "### Area under the budget curve" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"strategy": None}, r"expected the columns strategy, seed, labels.*got data, seed"),
        ({"test_top1": None}, "one or more of test_top1, test_miou"),
        ({"seed": "1.5"}, "line 2: seed: expected a whole number, got 1.5"),
        ({"labels": "nan"}, "line 2: labels: expected a number above 0, got nan"),
        ({"labels": "0"}, "line 2: labels: expected a number above 0, got 0"),
        ({"test_top1": "nan"}, "line 2: test_top1: expected a fraction from 0 to 1, got nan"),
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


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "got an empty file"),
        ("strategy,seed,labels,test_top1\n", "expected one line per run and round, got no line"),
        ("strategy,seed,labels,test_top1\nbase,0,10\n", "line 2: expected 4 cells, got 3"),
        ("strategy,seed,labels,test_top1\nbase,0,10,0.5\nbase,0,20,0.5,1\n", "line 3: expected 4 cells, got 5"),
    ],
)
def test_broken_files_are_refused(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "curves.csv").write_text(text)
    with pytest.raises(ReportError, match=says):
        report([str(tmp_path / "curves.csv")], str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("between", [",", ";", "\t", ", "])
def test_curves_are_read_as_spreadsheets_save_them(between: str, encoding: str, tmp_path: Path) -> None:
    text = "strategy,seed,labels,test_top5\r\nbase,0,10,0.5\r\n".replace(",", between)
    (tmp_path / "curves.csv").write_bytes(text.encode(encoding))
    (line,) = read_curves(str(tmp_path / "curves.csv"))
    assert (line.method, line.scalars) == ("base", {"test_top5": (0.5,)})


def test_runs_without_any_accuracy_have_a_page_of_what_was_labeled(tmp_path: Path) -> None:
    run = write_run(tmp_path, "base", 0, rounds=2)
    for number in (0, 1):
        rewrite(run, number, test=None, validation=None)
    text = report([run])
    html = Path(run, "report.html").read_text()
    sentence = (
        "No accuracy was measured, because the runs have neither test images nor a validation set; base chose images "
        "up to 200 labels."
    )
    assert sentence in text and sentence in html
    assert re.findall("<h2>(.*?)</h2>", html) == [
        "Labels per class", "Class balance", "Time", "Runs and configuration",
    ]  # fmt: skip
    assert not {"accuracy", "accuracy %"} & set(re.findall("<th[^>]*>(.*?)</th>", html))
    assert "last" not in (Path(run) / "tables" / "records.csv").read_text().splitlines()[0]
    assert (Path(run) / "report.png").exists()
    with pytest.raises(ReportError, match="no run has an accuracy"):
        report([run], measure="test_top1")


@pytest.mark.parametrize("name", ["top9", "test_top9", "seconds_total", "labels", "validation_epochs"])
def test_a_measure_that_is_none_is_refused_before_anything_is_written(name: str, tmp_path: Path) -> None:
    run = write_run(tmp_path, "random", 0)
    known = "test_top1, test_top5, test_balanced_accuracy, validation_top1, labeled_normalised_entropy"
    with pytest.raises(ReportError, match=f"measure: expected one of {known}, which all rounds have; got {name}"):
        report([run], measure=name)
    assert not list(Path(run).glob("report.*"))


def test_the_measure_that_was_asked_for_comes_first(tmp_path: Path) -> None:
    run = write_run(tmp_path, "random", 0)
    report([run], measure="test_top5")
    html = Path(run, "report.html").read_text()
    captions = re.findall("<figcaption>(.*?)</figcaption>", html)
    assert captions[:3] == ["test top-5 accuracy", "test top-1 accuracy", "test balanced accuracy"]
    assert "<dt>Measure</dt><dd>test top-5 accuracy</dd>" in html and "last top-5 accuracy %" in html
