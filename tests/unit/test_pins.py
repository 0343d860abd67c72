"""Rearranging the code changes no pick, no label, no metric and no table (`tests/pins.py` says what is pinned)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pins import KINDS, METRICS, PICKS, TABLES, picks_of, run_all, tables_of

from alray import STRATEGIES, RunConfig
from alray.config import fingerprint, identity


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", list(STRATEGIES))
def test_a_strategy_picks_what_it_always_picked(name: str, kind: str) -> None:
    pinned = json.loads(PICKS.read_text())
    assert name in pinned, "a new strategy: `python tests/pins.py add` pins what it picks"
    assert picks_of(name, kind) == pinned[name][kind]


def test_the_fingerprint_of_the_default_configuration_is_what_it_was() -> None:
    """It names the directories and the cached features of every user: another one starts all of them anew."""
    assert fingerprint(identity(RunConfig(), "data", "weights")) == "a8f745a1d4"


def test_whole_runs_label_and_measure_what_they_did(tmp_path: Path) -> None:
    expected = json.loads(METRICS.read_text())
    found = json.loads(json.dumps(run_all(tmp_path)))
    assert {name: one["labeled"] for name, one in found.items()} == {n: one["labeled"] for n, one in expected.items()}
    assert rounded(found) == rounded(expected)


def rounded(value: Any) -> Any:
    """Heads are trained in float32: other processors may differ in the last digits."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return round(value, 5) if isinstance(value, float) else value


def test_a_finished_run_gives_the_tables_it_always_gave(tmp_path: Path) -> None:
    tables_of(tmp_path, tmp_path / "tables")
    expected = {path.name: path.read_text() for path in TABLES.iterdir()}
    assert {path.name: path.read_text() for path in (tmp_path / "tables").iterdir()} == expected
