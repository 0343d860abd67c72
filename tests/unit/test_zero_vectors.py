"""Zero vectors have no direction: strategies with the cosine metric say how many they were given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alray import replace, run, select
from alray.config import RunConfig, SplitConfig, TrainConfig

COSINE = ["k_center", "k_means", "partitioned_k_center"]
WORDS = "rows are zero vectors, which have no direction: the distance is 1 to every other row"


def embeddings(zeros: int) -> np.ndarray:
    x = np.random.default_rng(0).normal(size=(90, 5)).astype(np.float32)
    x[np.random.default_rng(1).permutation(90)[:zeros]] = 0
    return x


@pytest.mark.parametrize("shards", [1, 2, 7, 30])
@pytest.mark.parametrize("strategy", COSINE)
def test_they_are_counted_and_told_once(strategy: str, shards: int, caplog: pytest.LogCaptureFixture) -> None:
    given = {"embedding": embeddings(3), "labeled": [0], "num_shards": shards}
    picks = select(strategy, 5, strategy_options={"metric": "cosine"}, **given)
    labeled = int(not embeddings(3)[0].any())  # a labeled row is not one of those to choose from
    assert picks.account["zero_vectors"] == 3 - labeled
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"{strategy}: metric cosine: {3 - labeled} {WORDS}")


@pytest.mark.parametrize(("metric", "zeros"), [("l2", 3), ("cosine", 0)])
@pytest.mark.parametrize("strategy", COSINE)
def test_nothing_is_said_where_they_do_not_matter(
    strategy: str, metric: str, zeros: int, caplog: pytest.LogCaptureFixture
) -> None:
    select(strategy, 5, strategy_options={"metric": metric}, embedding=embeddings(zeros), num_shards=2)
    assert caplog.records == []


def test_a_run_says_it_of_its_seed_set_and_of_its_rounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "e.npz", features=embeddings(20), label=np.arange(90) % 2, is_test=np.arange(90) % 9 == 0)
    config = replace(
        RunConfig(split=SplitConfig(val_size=0, seed_set_size=6), train=TrainConfig(mode="linear", epochs=1)),
        {
            "data.root": str(tmp_path / "e.npz"), "root": str(tmp_path / "runs"), "rounds": 2, "budget": 4,
            "strategy": "k_center", "strategy_options": {"metric": "cosine"}, "top_k": (),
            "split.seed_set_how": "k_means", "split.seed_set_options": {"metric": "cosine"},
            "resources.select_workers": "process",
        },
    )  # fmt: skip
    run(config)
    said = capsys.readouterr().out
    assert said.count("select · k_means: metric cosine: ") == 1
    assert said.count("select · k_center: metric cosine: ") == 1
