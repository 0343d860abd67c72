"""A batch is chosen while another is out, where each round extracts its own features, and where VAAL learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alray import RunConfig
from alray.explain.why import why
from alray.labeling.turns import past_turn
from alray.rounds import run
from alray.rundir import RunDir
from alray.verify import verify

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.slow]
BUDGET, ROUNDS = 12, 3


def images(folder: Path, count: int) -> None:
    """Two classes of grey noise, one of them brighter."""
    for number in range(count):
        pixels = np.random.default_rng(number).integers(60, 140, (16, 16, 3)) + 60 * (number % 2)
        path = folder / f"class{number % 2}" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy": "base", "strategy_options": {"quota": "fill"}},
        {"strategy": "badge", "subset_labeled": 15, "subset_unlabeled": 40},
        {"strategy": "vaal"},
    ],
)
def test_a_run_with_two_batches_out(changes: dict[str, Any], tmp_path: Path) -> None:
    images(tmp_path / "images", 120)
    tree: dict[str, Any] = {
        "root": str(tmp_path / "runs"), "rounds": ROUNDS, "budget": BUDGET, "top_k": (), "labels": {"overlap": 1},
        "data": {"root": str(tmp_path / "images")}, "split": {"seed_set_size": 20, "test_share": 0.1},
        "transform": {"size": 16, "resize": 0}, "train": {"epochs": 1, "batch_size": 16, "lr": 0.01},
        "model": {"backbone": "resnet18", "options": {"channels": [16, 16, 16, 16]}, "small_stem": True},
        "vaal": {"image_size": 16, "latent": 4, "width": 4, "epochs": 1, "batch_size": 16, "lr": 1e-3},
        "resources": {"select_shards": 2, "select_workers": "process"}, **changes,
    }  # fmt: skip
    result = run(RunConfig.model_validate(tree), quiet=True)
    folder = RunDir(result.dir)
    batches = [folder.round(batch).picks()["row"].to_numpy() for batch in range(ROUNDS - 1)]
    assert [len(batch) for batch in batches] == [BUDGET, BUDGET]
    assert len(set(np.concatenate(batches).tolist())) == 2 * BUDGET
    assert [one["labels"] for one in result.rounds] == [20, 32, 44]
    turn, _ = past_turn(folder, 1)
    assert (turn.model, turn.pending.tolist()) == (0, sorted(batches[0].tolist()))
    assert verify(folder.uri).problems == []
    key = folder.catalog().keys(batches[1][:1])[0].as_py()
    assert any(line.endswith("with the model of round 0: picked.") for line in why(folder, key))

    before = [folder.round(batch).picks() for batch in range(ROUNDS - 1)]
    for number, names in ((1, ("picks.parquet", "selection.json")), (0, ("labels.parquet", "metrics.json"))):
        for name in names:  # as if killed before the second batch was chosen
            folder.round(number).delete(name)
    folder.delete("deliveries")
    folder.round(1).child("batch").delete("requests.parquet")
    run(RunConfig.model_validate(tree), quiet=True)
    assert [folder.round(batch).picks() for batch in range(ROUNDS - 1)] == before
