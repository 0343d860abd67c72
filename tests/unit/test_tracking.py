"""A single run is logged to MLflow: its settings once, each round once, also over several starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_plan import embeddings

from alray.config import ConfigError
from alray.prepare import check
from alray.rounds import run
from alray.rundir import RunDir
from alray.sweep.trials import SweepError, plan
from alray.tracking import TrackingError

mlflow = pytest.importorskip("mlflow")


def test_every_round_is_logged_once(tmp_path: Path) -> None:
    uri = str(tmp_path / "mlruns")
    config = embeddings(tmp_path, mlflow=uri, rounds=2)
    first = run(config, quiet=True)
    run(config.model_copy(update={"rounds": 3}), quiet=True)
    client = mlflow.MlflowClient(uri)
    (told,) = client.search_runs([client.get_experiment_by_name("planned").experiment_id])
    assert told.info.status == "FINISHED" and told.data.params["strategy"] == "margin"
    history = client.get_metric_history(told.info.run_id, "test_top1")
    expected = [RunDir(first.dir).round(number).metrics()["test"]["top1"] for number in range(3)]
    assert [(point.step, point.value) for point in history] == list(enumerate(expected))


def test_a_server_that_is_away_is_refused_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="mlflow: no server answers"):
        run(embeddings(tmp_path, mlflow="http://127.0.0.1:9"), quiet=True)
    with pytest.raises(ConfigError, match="expected no credentials"):
        run(embeddings(tmp_path, mlflow="http://me:secret@127.0.0.1:9"), quiet=True)
    assert not (tmp_path / "runs").exists()


def test_a_server_that_is_away_is_refused_with_the_rest_of_a_configuration(tmp_path: Path) -> None:
    """`alray plan` says so, too, and a sweep before its first trial."""
    config = embeddings(tmp_path, mlflow="http://127.0.0.1:9")
    with pytest.raises(TrackingError, match="mlflow: no server answers"):
        check(config)
    with pytest.raises(SweepError, match=r"trial seed=0: mlflow: no server answers"):
        plan(config, {"seed": [0, 1]})
