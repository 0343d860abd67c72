"""Telling MLflow about the trials of a sweep, through Ray's own callback."""

from __future__ import annotations

import os
from urllib.error import HTTPError
from urllib.request import urlopen

from ray import tune

from alray.sweep.trials import SweepError


def mlflow_callback(uri: str, name: str) -> tune.Callback:
    """Ray's callback for MLflow. Raises SweepError where MLflow is not installed, or cannot be told anything there."""
    try:
        import mlflow
    except ImportError:
        raise SweepError("mlflow: not installed; it comes with the extra: pip install 'alray[mlflow]'") from None
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    if uri.startswith("http"):
        _knock(uri)
    else:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # a folder was asked for: MLflow 3 wants to hear it
    try:
        mlflow.set_tracking_uri(uri)
        mlflow.search_experiments(max_results=1)
    except Exception as error:
        raise SweepError(f"mlflow: expected a folder or an MLflow server at {uri!r}: {error}") from None
    callback: tune.Callback = MLflowLoggerCallback(tracking_uri=uri, experiment_name=name)
    return callback


def _knock(uri: str) -> None:
    """MLflow itself tries for minutes before it says that nobody answers."""
    try:
        urlopen(uri, timeout=10).close()
    except HTTPError:
        return  # somebody answers: MLflow finds out what is wrong
    except (OSError, ValueError) as error:
        raise SweepError(f"mlflow: no server answers at {uri!r}: {error}") from None
