"""Logging the trials of a sweep to MLflow, through Ray's callback."""

from __future__ import annotations

import os
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import urlopen

from ray import tune

from alray.credentials import has_credentials, redacted
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
        raise SweepError(
            f"mlflow: expected a folder or an MLflow server at {redacted(uri)!r}: {_reason(error, uri)}"
        ) from None
    callback: tune.Callback = MLflowLoggerCallback(tracking_uri=uri, experiment_name=name)
    return callback


def _check_server(uri: str) -> None:
    """Refuse an unreachable server within seconds: MLflow itself retries for minutes."""
    try:
        urlopen(_without_user(uri), timeout=10).close()
    except HTTPError:
        return  # a server answered: MLflow reports what is wrong
    except (OSError, ValueError, HTTPException) as error:
        raise SweepError(f"mlflow: no server answers at {redacted(uri)!r}: {_reason(error, uri)}") from None


def _without_user(uri: str) -> str:
    """The URI without a user's name and password, which urllib does not take."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _reason(error: Exception, uri: str) -> str:
    """The error's text, or only its kind if the URI has credentials, of which the text may quote any part."""
    return type(error).__name__ if has_credentials(uri) else str(error)
