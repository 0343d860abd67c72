"""Logging the trials of a sweep to MLflow, through Ray's callback."""

from __future__ import annotations

from ray import tune

from alray.tracking import check_mlflow


def mlflow_callback(uri: str, name: str) -> tune.Callback:
    """Ray's callback for MLflow. Raises TrackingError where MLflow is missing, or nothing can be logged at the URI."""
    check_mlflow(uri)
    import mlflow
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    mlflow.set_tracking_uri(uri)
    callback: tune.Callback = MLflowLoggerCallback(tracking_uri=uri, experiment_name=name)
    return callback
