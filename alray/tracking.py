"""Log a run to MLflow: its configuration once, and the numbers of every round."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import urlopen

from alray.config import RunConfig, changed
from alray.config.fields import flat_tree
from alray.credentials import has_credentials, redacted
from alray.rundir import TRACKED, RunDir
from alray.scalars import flat

_LONGEST = 500  # characters of a parameter's value that MLflow takes


class TrackingError(ValueError):
    """MLflow is missing, or nothing can be logged at the URI."""


def check_mlflow(uri: str) -> None:
    """Raise TrackingError where MLflow is missing, or nothing can be logged at a tracking URI."""
    try:
        import mlflow
    except ImportError:
        raise TrackingError("mlflow: not installed; it comes with the extra: pip install 'alray[mlflow]'") from None
    if uri.startswith("http"):
        _check_server(uri)
    else:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 rejects file stores unless this is set
    try:
        mlflow.MlflowClient(uri).search_experiments(max_results=1)
    except Exception as error:
        raise TrackingError(
            f"mlflow: expected a folder or an MLflow server at {redacted(uri)!r}: {_reason(error, uri)}"
        ) from None


def track(config: RunConfig, run: RunDir, rounds: Sequence[Mapping[str, Any]]) -> None:
    """Log the rounds of a run that are finished to the MLflow run that belongs to its directory; the first call makes
    it. Values that were logged before are not logged again. Does nothing without a tracking URI (config.mlflow).

    rounds: `metrics.json` of each. Raises TrackingError.
    """
    if not config.mlflow:
        return
    check_mlflow(config.mlflow)
    import mlflow
    from mlflow.entities import Metric, Param

    try:
        client = mlflow.MlflowClient(config.mlflow)
        known = run.noted(TRACKED)
        if known is None or known["uri"] != config.mlflow:
            experiment = client.get_experiment_by_name(config.name)
            place = experiment.experiment_id if experiment else client.create_experiment(config.name)
            made = client.create_run(place, run_name=run.uri.rpartition("/")[2])
            known = {"uri": config.mlflow, "run": made.info.run_id, "rounds": 0}
            params = [Param(name, str(value)[:_LONGEST]) for name, value in flat_tree(changed(config)).items()]
            client.log_batch(known["run"], params=params)
            run.note(TRACKED, known)
        for number in range(known["rounds"], len(rounds)):
            values = {name: value for name, value in flat(dict(rounds[number])).items() if _is_number(value)}
            client.log_batch(known["run"], [Metric(name, float(value), 0, number) for name, value in values.items()])
            run.note(TRACKED, {**known, "rounds": number + 1})
        if len(rounds) == config.rounds or rounds[-1].get("stopped"):
            client.set_terminated(known["run"])
    except Exception as error:
        raise TrackingError(
            f"mlflow: nothing could be logged at {config.mlflow!r}: {_reason(error, config.mlflow)}"
        ) from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_server(uri: str) -> None:
    """Refuse an unreachable server within seconds: MLflow itself retries for minutes."""
    try:
        urlopen(_without_user(uri), timeout=10).close()
    except HTTPError:
        return  # a server answered: MLflow reports what is wrong
    except (OSError, ValueError, HTTPException) as error:
        raise TrackingError(f"mlflow: no server answers at {redacted(uri)!r}: {_reason(error, uri)}") from None


def _without_user(uri: str) -> str:
    """The URI without a user's name and password, which urllib does not take."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _reason(error: Exception, uri: str) -> str:
    """The error's text, or only its kind if the URI has credentials, of which the text may quote any part."""
    return type(error).__name__ if has_credentials(uri) else str(error)
