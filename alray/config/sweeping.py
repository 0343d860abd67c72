"""How a sweep is run: its options on the command line, in a job file and in Python."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from alray.config.fields import Frozen


class SweepConfig(Frozen):
    """The sweep. Nothing here changes what a trial picks, but a scheduler may end a trial before its last round."""

    samples: int = Field(1, ge=1)
    """Draws from the search spaces; each draw goes through the whole grid."""
    cpus_per_trial: float = Field(1.0, ge=0.1)
    """CPUs that a trial reserves for itself, fractions included. Its training workers and selection actors come on
    top."""
    gpus_per_trial: float = Field(0.0, ge=0)
    """GPUs (or a fraction of one) for the linear head of a trial. Fine-tuning reserves a GPU per training worker by
    itself."""
    max_concurrent: int = Field(0, ge=0)
    """Most trials at a time; 0: as many as the cluster has room for."""
    scheduler: Literal["none", "asha", "median"] = "none"
    """Stop bad trials early, by validation accuracy per round: asha halves asynchronously, median stops trials that are
    worse than the median."""
    grace_rounds: int = Field(2, ge=1)
    """Rounds that no scheduler cuts off."""
    retries: int = Field(1, ge=0)
    """How often a failed trial is started again in the same sweep. It continues after its last finished round."""
    mlflow: str = ""
    """Tracking URI of MLflow, where every trial becomes a run; needs the extra alray[mlflow]."""

    @model_validator(mode="after")
    def _whole_gpus(self) -> SweepConfig:
        if self.gpus_per_trial > 1 and not self.gpus_per_trial.is_integer():
            raise ValueError(f"gpus_per_trial: expected a fraction of one or whole GPUs, got {self.gpus_per_trial}")
        return self

    @property
    def rule(self) -> str:
        """The rule by which trials are stopped early; empty without a scheduler."""
        return "" if self.scheduler == "none" else f"{self.scheduler} after {self.grace_rounds}"
