"""The head of a report: its headline claims what the tests support, and its facts are those of the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from test_report import rewrite, write_run

from alray.report.comparisons import paired
from alray.report.header import facts, title
from alray.report.headline import headline, points
from alray.report.metrics import metrics
from alray.report.panel import Line, Panel, arrange, panel
from alray.report.runs import load_all
from alray.store import Store

NOISE = (0.004, -0.003, 0.001, 0.002, -0.004, 0.0, 0.003, -0.002, -0.001, 0.002)


def curves(last: Mapping[str, float], seeds: int, setting: str = "", peeks: Sequence[str] = ()) -> list[Line]:
    """Runs from 50 to 250 labels whose accuracies end at given means; `last` may be 0.972 or 0.941."""
    found = []
    for number, (method, mean) in enumerate(last.items()):
        noise = np.roll(NOISE[:seeds], number)
        noise = noise - noise.mean()
        for seed in range(seeds):
            values = {"test_top1": (0.5, mean + float(noise[seed]))}
            found.append(Line(setting, method, method, seed, (50.0, 250.0), values, peeks=method in peeks))
    return found


def said(lines: Sequence[Line]) -> str:
    """The headline with plain spaces."""
    found = arrange(lines)
    shown = metrics(found)
    return headline(found, shown[0] if shown else None).replace("\N{NO-BREAK SPACE}", " ")


def test_a_difference_that_was_shown_is_claimed_with_its_interval() -> None:
    lines = curves({"random": 0.941, "base": 0.972, "margin": 0.95}, 10)
    by = {m: np.array([one.scalars["test_top1"][-1] for one in lines if one.method == m]) for m in ("base", "random")}
    r = paired(by["base"], by["random"])
    assert said(lines) == (
        f"At 250 labels, base reached 97.2 % top-1 accuracy, 3.1 points more than random (10 seeds, 95 % interval "
        f"{100 * r.low:.1f} to {100 * r.high:.1f})."
    )
    assert 0 < r.low < 0.031 < r.high


def test_without_a_shown_difference_the_headline_says_so() -> None:
    text = said(curves({"random": 0.941, "base": 0.942}, 10))
    assert text.startswith(
        "At 250 labels, base reached 94.2 % top-1 accuracy, but no difference was shown: 0.1 points "
    )
    assert "more than random (10 seeds, 95 % interval \N{MINUS SIGN}0." in text


def test_where_random_is_best_nobody_is_praised() -> None:
    text = said(curves({"random": 0.941, "base": 0.9, "margin": 0.94}, 10))
    assert text.startswith(
        "At 250 labels, random reached 94.1 % top-1 accuracy; no strategy was shown to be better: margin, the next, "
        "reached 0.1 points less (10 seeds, 95 % interval "
    )


def test_a_claimed_strategy_goes_before_one_with_a_higher_mean() -> None:
    """base is higher on average, but only because of half of the seeds."""
    lines = curves({"random": 0.9, "margin": 0.93}, 10)
    lines += [
        Line("", "base", "base", seed, (50.0, 250.0), {"test_top1": (0.5, 0.99 if seed < 5 else 0.885)})
        for seed in range(10)
    ]
    assert "margin reached 93.0 %" in said(lines)


@pytest.mark.parametrize(
    ("seeds", "end"),
    [
        (1, "97.2 % top-1 accuracy and random 94.1 % (one seed: no statement about the difference can be made)."),
        (3, "97.2 % top-1 accuracy, 3.1 points more than random (3 seeds; a claim needs 5 seeds)."),
    ],
)
def test_few_seeds_support_no_claim(seeds: int, end: str) -> None:
    assert said(curves({"random": 0.941, "base": 0.972, "margin": 0.95}, seeds)) == f"At 250 labels, base reached {end}"


def test_other_cases_of_one_setting() -> None:
    assert said(curves({"base": 0.972}, 1)) == "At 250 labels, base reached 97.2 % top-1 accuracy (one seed)."
    assert said(curves({"base": 0.972, "margin": 0.9}, 6)).endswith(
        "97.2 % top-1 accuracy (6 seeds); there is no run of random sampling to compare it with."
    )
    peeking = curves({"random": 0.941, "base": 0.972, "balancing": 0.99}, 10, peeks=["balancing"])
    assert "base reached" in said(peeking)  # nobody can use a strategy that knows the labels
    apart = [one for one in curves({"random": 0.941, "base": 0.972}, 10) if (one.method == "base") == (one.seed > 4)]
    assert said(apart).endswith("top-1 accuracy, which shares no seed with random.")


def test_several_settings_are_counted() -> None:
    good = [one for budget in (1, 2, 3) for one in curves({"random": 0.94, "base": 0.97}, 10, f"budget {budget}")]
    even = curves({"random": 0.94, "base": 0.94}, 10, "budget 4")
    assert said([*good, *even]) == (
        "After the last round, base had a higher top-1 accuracy than random in 3 of 4 settings and a lower one in 0; "
        "in the others no difference was shown."
    )
    few = [one for budget in (1, 2) for one in curves({"random": 0.94, "base": 0.97}, 2, f"budget {budget}")]
    assert said(few) == (
        "After the last round, no strategy was shown to differ from random in top-1 accuracy in any of 2 settings "
        "(2 seeds; a claim needs 5 seeds)."
    )
    one = [line for budget in (1, 2) for line in curves({"random": 0.94, "base": 0.97}, 1, f"budget {budget}")]
    assert "no statement about differences" in said(one)


def test_validation_accuracy_is_called_that() -> None:
    lines = curves({"random": 0.941, "base": 0.972}, 1)
    moved = [
        Line("", one.method, one.strategy, one.seed, one.labels, {"validation_top1": one.scalars["test_top1"]})
        for one in lines
    ]
    assert "base reached 97.2 % validation top-1 accuracy" in said(moved)


def test_a_small_difference_keeps_a_digit() -> None:
    assert [points(value) for value in (0.031, 0.0006, 0.0004, -0.0004, 0)] == ["3.1", "0.1", "0.04", "-0.04", "0.0"]


def read(*runs: str) -> tuple[Panel, dict[str, str]]:
    lines = panel(load_all(list(runs)))
    shown = metrics(lines)
    return lines, dict(facts(lines, shown[0] if shown else None))


def test_facts_of_runs(tmp_path: Path) -> None:
    data = {"data.root": str(tmp_path / "flowers" / "*.parquet")}
    runs = [write_run(tmp_path, strategy, seed, **data) for strategy in ("random", "base") for seed in (0, 1, 2)]
    for run in runs:
        Store(run).write_json("run.json", {**Store(run).read_json("run.json"), "model": "resnet18; all weights"})
    lines, found = read(*runs)
    assert found == {
        "Data": "flowers",
        "Classes": "10 (class0, class1, class2, class3, class4, class5, class6, …)",
        "Pool": "1,950 images",
        "Validation": "50 images",
        "Test": "1,000 images",
        "Model": "resnet18; all weights",
        "Labels": "100 in the seed set, then 100 per round for 2 rounds: 300 in the end",
        "Strategies": "2 (random, base)",
        "Seeds": "3 per strategy: 0 to 2",
        "Measure": "test top-1 accuracy",
    }
    assert title(lines) == "t: comparison of labeling strategies"


def test_facts_in_which_runs_differ_are_listed(tmp_path: Path) -> None:
    runs = [write_run(tmp_path, "base", 0, rounds=2, name=f"b{budget}", budget=budget) for budget in (5, 50)]
    rewrite(runs[1], 1, labels=400, test=None)
    _, found = read(*runs)
    assert found["Labels"] == (
        "100 in the seed set, then 100 per round for 1 round: 200 in the end or "
        "100 in the seed set, then 300 per round for 1 round: 400 in the end"
    )
    assert found["Test"] == "1,000 images or none"
    assert found["Settings"] == "2: budget 5; budget 50"
    assert "Data" not in found and "Model" not in found  # these runs do not say


def test_facts_of_curves() -> None:
    lines = arrange(curves({"random": 0.9, "base": 0.9}, 1))
    assert dict(facts(lines, metrics(lines)[0], "curves.csv")) == {
        "Data": "curves.csv", "Labels": "50 to 250", "Strategies": "2 (random, base)", "Seeds": "one per strategy: 0",
        "Measure": "test top-1 accuracy",
    }  # fmt: skip
    assert title(lines, "curves.csv") == "curves.csv: comparison of labeling strategies"
