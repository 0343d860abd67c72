"""labels.overlap: while a batch is out, the next one is chosen with the model that there is, and given out as well."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pytest

import alray
from alray.cli import main
from alray.config import (
    DataConfig, FeatureConfig, LabelConfig, ModelConfig, ResourceConfig, RunConfig, SplitConfig, TrainConfig, replace,
)  # fmt: skip
from alray.explain.briefly import Briefly
from alray.explain.why import why
from alray.features.table import FeatureTable
from alray.labeling import receive, state
from alray.labeling.desk import Waiting
from alray.labeling.standing import lines
from alray.labeling.turns import past_turn
from alray.report import report
from alray.rounds import run
from alray.rundir import RunDir, RunError
from alray.selection.registry import STRATEGIES
from alray.verify import verify

N, NAMES, BUDGET, ROUNDS = 90, ("ant", "bee", "cat"), 7, 4
RUNNABLE = [name for name in STRATEGIES if name != "vaal"]  # VAAL trains on images


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("overlap"), np.random.default_rng(0)
    label = np.arange(N) % 3
    features = (2 * np.eye(3, 6)[label] + rng.standard_normal((N, 6))).astype(np.float32)
    np.savez(root / "pool.npz", features=features, label=label, pretext_loss=rng.random(N))
    return root


def config_of(data, **changes):
    config = RunConfig(
        name="overlap", root=str(data / "runs"), rounds=ROUNDS, budget=BUDGET, top_k=(), strategy="margin",
        data=DataConfig(root=str(data / "pool.npz"), classes=NAMES), split=SplitConfig(seed_set_size=9, test_share=0.1),
        model=ModelConfig(), train=TrainConfig(mode="linear", epochs=3, lr=1.0), features=FeatureConfig(keep="all"),
        labels=LabelConfig(overlap=1), resources=ResourceConfig(select_workers="process", select_shards=2),
    )  # fmt: skip
    return replace(config, changes)


def picked(folder, number):
    return folder.round(number).picks()["row"].to_numpy()


CASES = [(name, {}, {}) for name in RUNNABLE] + [
    ("base", {"quota": "fill"}, {}),
    ("k_center", {}, {"subset_labeled": 12, "subset_unlabeled": 20}),
    ("pt4al", {"batches": 20}, {}),  # a batch has fewer rows than the budget, so that rounds look at later batches
]


@pytest.mark.parametrize(("name", "options", "more"), CASES)
def test_a_run_picks_what_select_picks_with_the_same_model_and_pending_rows(name, options, more, data):
    folder = RunDir(run(config_of(data, strategy=name, strategy_options=options, **more), quiet=True).dir)
    catalog, labels = folder.catalog(), np.arange(N) % 3
    labels = catalog.labels()
    known, everyone = folder.seed()[0], np.union1d(folder.pool(), folder.seed()[0])
    pending = np.empty(0, np.int64)
    for batch in range(ROUNDS - 1):
        model = max(0, batch - 1)
        turn, _ = past_turn(folder, batch)
        assert (turn.model, turn.pending.tolist()) == (model, sorted(pending))
        table = FeatureTable.open(next((Path(folder.uri).parent / "features").iterdir()).as_posix())
        head = folder.round(model).head()
        expected = alray.select(
            name, BUDGET, strategy_options=options, embedding=table.read(np.arange(N), "embedding"),
            head=(head.weight, head.bias), labels=labels, pretext_loss=catalog.pretext_loss(),
            discriminator=np.zeros(N), labeled=known, pending=pending,
            exclude=np.setdiff1d(np.arange(N), everyone), seed=0, round=batch, num_shards=3, **more,
        )  # fmt: skip
        np.testing.assert_array_equal(picked(folder, batch), expected.rows)
        if batch:
            known = np.union1d(known, pending)
        pending = picked(folder, batch)
    bought = [row for number in range(ROUNDS - 1) for row in picked(folder, number).tolist()]
    assert len(set(bought)) == len(bought) == (ROUNDS - 1) * BUDGET
    metrics = [folder.round(number).metrics() for number in range(ROUNDS)]
    assert [one["labels"] for one in metrics] == [9 + number * BUDGET for number in range(ROUNDS)]
    assert [one["labels_bought"] for one in metrics] == [number * BUDGET for number in range(ROUNDS)]
    assert verify(folder.uri).problems == []
    briefly, keys = Briefly(folder), catalog.keys().to_pylist()
    for number in range(ROUNDS - 1):
        rows = picked(folder, number)
        assert all(f"pick {at + 1} of 7" in text or "partitioned" in name
                   for at, text in enumerate(briefly.of(number, rows.tolist()).values()))  # fmt: skip
        for row in rows[:2]:
            said = " ".join(why(folder, keys[row]))
            assert f"It is labeled since round {number}, which picked it" in said
            ahead = f" with the model of round {number - 1}" if number else ""
            assert f"Round {number}, by {name}{ahead}: picked." in said
            assert "nan" not in said
    waits = why(folder, keys[picked(folder, 1)[0]], 2)
    assert waits[-1].endswith("it was picked before, and its label was awaited.")
