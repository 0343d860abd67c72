"""Logging the trials of a sweep to MLflow, through Ray's callback."""

from __future__ import annotations

import os
from urllib.error import HTTPError
from urllib.request import urlopen

from ray import tune

from alray.sweep.trials import SweepError


def mlflow_callback(uri: str, name: str) -> tune.Callback:
    """Ray's callback for MLflow. Raises SweepError where MLflow is missing, or nothing can be logged at the URI."""
    try:
        import mlflow
    except ImportError:
        raise SweepError("mlflow: not installed; it comes with the extra: pip install 'alray[mlflow]'") from None
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    if uri.startswith("http"):
        _check_server(uri)
    else:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 rejects file stores unless this is set
    try:
        mlflow.set_tracking_uri(uri)
        mlflow.search_experiments(max_results=1)
    except Exception as error:
        raise SweepError(f"mlflow: expected a folder or an MLflow server at {uri!r}: {error}") from None
    callback: tune.Callback = MLflowLoggerCallback(tracking_uri=uri, experiment_name=name)
    return callback


def _check_server(uri: str) -> None:
    """Refuse an unreachable server within seconds: MLflow itself retries for minutes."""
    try:
        urlopen(uri, timeout=10).close()
    except HTTPError:
        return  # a server answered: MLflow reports what is wrong
    except (OSError, ValueError) as error:
        raise SweepError(f"mlflow: no server answers at {uri!r}: {error}") from None
