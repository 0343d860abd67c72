"""How a run's first labels are chosen: one object answers for every value of split.seed_set_how."""

from __future__ import annotations

from typing import Any, ClassVar, get_args

import numpy as np
import pytest

from alray import RunConfig
from alray.cold_start import SeedSet
from alray.config import SplitConfig
from alray.selection.registry import build
from alray.selection.strategies.k_means import KMeans
from alray.selection.strategies.pt4al import Pt4al

HOWS = get_args(SplitConfig.model_fields["seed_set_how"].annotation)
ROWS = np.arange(100, 160)
LABELS = np.repeat([0, 0, 0, 1, 2, 2], 10)


def seed_set(how: str, strategy: Any = None, **options: Any) -> SeedSet:
    split = {"seed_set_size": 9, "seed_set_how": how, "seed_set_options": options}
    return SeedSet.of(RunConfig(split=split), strategy or build("margin"))  # type: ignore[arg-type]


@pytest.mark.parametrize("how", sorted({*HOWS} - {"given"}))
def test_a_seed_set_is_drawn_or_chosen_by_a_strategy(how: str) -> None:
    found = seed_set(how)
    rows = found.draw(ROWS, LABELS, 3, 3)
    assert (found.how, found.size) == (how, 9)
    assert (len(rows) == 0) == (found.chooser is not None)
    if found.chooser is None:
        assert len(np.unique(rows)) == 9 and np.isin(rows, ROWS).all()
        assert found.needs == frozenset() and found.notes(60) == []
    else:
        assert found.chooser.seed_set_how == how
        assert found.needs == found.chooser.needs_in(0) != frozenset()


def test_given_labels_are_the_seed_set_whatever_their_number_and_without_any_a_cold_start_chooses() -> None:
    config = RunConfig(split={"seed_set_size": 9, "seed_set_how": "given", "cold_start": "k_means"})  # type: ignore[arg-type]
    labels = np.where(np.arange(60) < 25, LABELS, -1)
    some = SeedSet.of(config, build("margin"), 25)
    assert (some.given, some.size, some.chooser) == (True, 25, None)
    assert some.draw(ROWS, labels, 3, 3).tolist() == ROWS[:25].tolist()
    none = SeedSet.of(config, build("margin"), 0)
    assert (none.given, none.size, none.how) == (False, 9, "k_means")
    assert isinstance(none.chooser, KMeans)


def test_a_balanced_seed_set_has_as_many_of_every_class() -> None:
    rows = seed_set("balanced").draw(ROWS, LABELS, 3, 3)
    assert np.bincount(LABELS[np.searchsorted(ROWS, rows)]).tolist() == [3, 3, 3]


def test_rounds_are_counted_from_the_seed_set_only_where_that_is_a_round() -> None:
    assert {how: seed_set(how).round_of(4) for how in HOWS} == {
        "random": 4, "balanced": 4, "given": 4, "pretext": 5, "k_means": 4,
    }  # fmt: skip


def test_the_runs_own_strategy_chooses_where_it_can() -> None:
    class Middle(Pt4al):
        seed_set_how: ClassVar[str] = "pretext"

    assert seed_set("pretext", Pt4al(batches=4), rest="carry").chooser == Pt4al(batches=4, rest="carry")
    assert isinstance(seed_set("pretext", Middle(batches=4)).chooser, Middle)
    assert seed_set("k_means", Pt4al(batches=4)).chooser == KMeans()
