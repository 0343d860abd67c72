"""What the starts of Ray's processes take in each stage, in starts of one process as the probe measures it.

A part of a start is alone: Ray starts the processes that lead a stage one after the other. Then the workers start at
the same time, on the cores that there are. The numbers are from `benchmarks/bench_plan.py`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Starts:
    """alone: starts that come one after the other; each: of every worker, together with all others."""

    alone: float
    each: float

    def of(self, workers: float, cores: float) -> float:
        """In starts of one process."""
        return self.alone + self.each * max(1.0, workers / cores)


CLUSTER = Starts(0.6, 0.0)  # a cluster that the run starts itself, once
TRAIN = Starts(0.8, 1.0)  # every training has new processes
EXTRACT = Starts(0.2, 0.2)  # the first time: actors and decoders, which stay
EXTRACT_AGAIN = Starts(0.3, 0.0)
SELECT = Starts(0.15, 0.25)


def report_seconds(own_cluster: bool) -> float:
    """How long a training worker waits when it reports a checkpoint: until Ray Train asks it the next time."""
    asked = os.environ.get("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S")  # `alray.cluster` sets it for clusters of its own
    return float(asked) if asked else 0.5 if own_cluster else 2.0
