"""Tell those who are not at the terminal what a run does: by a file in its directory, and by Ray's metrics."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from typing import Any

from alray.lease import at_work
from alray.patience import impatient
from alray.progress import Now, round_in_words
from alray.rundir import RunDir

_STALE = 60.0  # seconds without a sign after which a run counts as stopped
GAUGES = {
    "alray_stage": "1 for the stage that the run is in, 0 for those that it has left.",
    "alray_round": "Number of the round, from 0.",
    "alray_rounds": "How many rounds the run has.",
    "alray_stage_done": "What is done in this stage: images, epochs or picks.",
    "alray_stage_total": "What the stage has in all.",
    "alray_stage_rate": "What is done per second, mean since the stage began.",
    "alray_stage_seconds": "Seconds since the stage began.",
    "alray_labels": "Labeled images of the last round that is finished.",
}
"""Name -> meaning of the metrics that a run gives to Ray, in Prometheus's format with the tags run, stage and unit."""
_shown: dict[str, tuple[str, str]] = {}  # stage and unit of each run in Ray's gauges


def watchers(run: RunDir) -> Callable[[Now], None]:
    """A function that passes on what a run does. It never fails: a run does not depend on who watches it."""

    def tell(now: Now) -> None:
        try:
            with impatient():
                run.write_now(asdict(now))
        except OSError:  # storage is away: the next look comes in some seconds
            pass
        to_ray(now.run, now.stage, now.unit, measurements(now))

    return tell


def measurements(now: Now) -> dict[str, float]:
    """The values of GAUGES that a moment gives."""
    return {
        "alray_stage": 1.0,
        "alray_round": now.round,
        "alray_rounds": now.rounds,
        "alray_stage_done": now.done,
        "alray_stage_total": now.total,
        "alray_stage_rate": now.rate,
        "alray_stage_seconds": now.at - now.began,
    }


def to_ray(run: str, stage: str, unit: str, values: dict[str, float]) -> None:
    """Set Ray's gauges, if this process has joined a cluster. A gauge keeps its value as long as the process lives, so
    the stage before is said to be left, and to do nothing any more."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return
    before, _shown[run] = _shown.get(run), (stage, unit)
    if before is not None and before != (stage, unit):
        _set(run, *before, {"alray_stage": 0.0, "alray_stage_rate": 0.0})
    _set(run, stage, unit, values)


def _set(run: str, stage: str, unit: str, values: dict[str, float]) -> None:
    for name, value in values.items():
        _gauge(name).set(value, tags={"run": run, "stage": stage, "unit": unit})


@cache
def _gauge(name: str) -> Any:
    from ray.util.metrics import Gauge

    return Gauge(name, description=GAUGES[name], tag_keys=("run", "stage", "unit"))


def sentences(run: RunDir) -> list[str]:
    """What a run does, or did last, for people: stage, how far, rate, time to go."""
    from alray.durations import duration

    told = run.now()
    if told is None:
        return []
    now = Now(**told)
    ago = max(0.0, time.time() - now.at)
    words = f"{round_in_words(now.round, now.rounds)}, {now.stage}" + (f" ({now.detail})" if now.detail else "")
    working = at_work(run)
    if working is False:
        return [f"nobody works on it now; the last sign was {duration(ago)} ago, in {words}"]
    if working is None and ago > _STALE:
        return [f"last sign {duration(ago)} ago, in {words}: it may have stopped"]
    if not now.total:
        return [f"now: {words}, since {duration(now.at - now.began)}"]
    left = "" if now.left is None else f", about {duration(now.left)} to go"
    return [f"now: {words}: {now.done:,} of {now.total:,} {now.unit}, {now.rate:,.3g} a second{left}"]
