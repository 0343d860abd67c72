"""Options of strategies in sweeps and on alray's own command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_pt4al import brought

import alray
from alray import replace
from alray.cli import main
from alray.selection.protocol import SelectionError
from alray.store import Store
from alray.sweep import SweepError, plan


def test_trials_of_another_strategy_leave_the_options_of_the_bases(tmp_path: Path) -> None:
    trials = plan(brought(tmp_path), {"strategy": ["pt4al", "random"], "seed": [0]}).trials
    assert [trial.config.strategy_options for trial in trials] == [{"batches": 5}, {}]


@pytest.mark.parametrize(
    ("changes", "space", "error", "message"),
    [
        ({}, {"strategy": ["pt4al", "random"], "strategy_options.rest": ["drop", "carry"]}, SweepError,
         r"trial strategy=random, strategy_options.rest=drop: strategy random: unknown option 'rest'; it has none"),
        ({"strategy": "base", "strategy_options": {"batches": 5}}, {"strategy": ["pt4al", "random"]}, SelectionError,
         "strategy base: unknown option 'batches'"),
        ({}, {"split.seed_set_how": ["pretext", "k_means"], "split.seed_set_options.batches": [5]}, SweepError,
         "trial split.seed_set_how=k_means, .*strategy k_means: unknown option 'batches'"),
    ],
)  # fmt: skip
def test_options_that_are_given_must_fit(
    changes: dict[str, Any], space: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        plan(replace(brought(tmp_path), changes), space)


def test_a_run_by_its_json_takes_options_by_path(tmp_path: Path) -> None:
    config = replace(brought(tmp_path), {"rounds": 1, "run_dir": str(tmp_path / "mine")})
    (tmp_path / "config.json").write_text(config.to_json())
    changes = [
        "--strategy-options.rest=carry",
        "--strategy-options.batches",
        "3",
        "--split.seed-set-options.cold_start",
        "middle",
    ]
    main(["run", str(tmp_path / "config.json"), *changes])
    done = Store(str(tmp_path / "mine")).read_json("config.json")
    assert done["strategy_options"] == {"batches": 3, "rest": "carry"}
    assert done["split"]["seed_set_options"] == {"cold_start": "middle"}


def test_select_takes_options_in_pairs(tmp_path: Path) -> None:
    losses = np.random.default_rng(0).random(60)
    np.save(tmp_path / "loss.npy", losses)
    arguments = [
        "select",
        "pt4al",
        "4",
        "--out",
        str(tmp_path / "out.csv"),
        "--pretext-loss",
        str(tmp_path / "loss.npy"),
    ]
    main([*arguments, "--strategy-options", "batches", "3", "cold_start", "middle"])
    rows = np.loadtxt(tmp_path / "out.csv", delimiter=",", skiprows=1)[:, 0]
    options = {"batches": 3, "cold_start": "middle"}
    assert rows.tolist() == alray.select("pt4al", 4, strategy_options=options, pretext_loss=losses).rows.tolist()


def test_the_strategies_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["strategies", "pt4al", "random"])
    text = capsys.readouterr().out
    assert text.startswith("pt4al [batches 10] [uncertainty confidence]")
    assert "\n\nrandom\n    Uniform without replacement" in text
