"""What trials share is made once, before any of them: pretext tasks and their losses, and with a frozen backbone the
embedding of every image. Trials find it complete: no image is decoded by any of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from alray import cluster
from alray.cluster import ClusterError
from alray.config import fingerprint
from alray.prepare import Checked
from alray.progress import Stages
from alray.sweep.trials import Plan

_SHARED = ("model", "transform", "features", "pretext")


def share(plan: Plan, settings: Iterable[int], quiet: bool = False) -> dict[int, str]:
    """Make what these settings share. Returns what went wrong by setting: its trials cannot run, the others can."""
    failed: dict[int, str] = {}
    for numbers in groups(plan, settings):
        try:
            _make(plan.settings[numbers[0]], quiet)
        except Exception as error:
            if isinstance(error, ClusterError) or not type(error).__module__.startswith("alray."):
                raise  # no fault of this setting
            failed.update(dict.fromkeys(numbers, f"before the trials: {type(error).__name__}: {error}"))
    return failed


def groups(plan: Plan, settings: Iterable[int]) -> list[list[int]]:
    """Settings that share all there is to share; those that share nothing are left out."""
    found: dict[str, list[int]] = {}
    for number in sorted(set(settings)):
        if mark := _mark(plan.settings[number]):
            found.setdefault(mark, []).append(number)
    return list(found.values())


def _mark(ready: Checked) -> str:
    config, linear = ready.config, ready.config.train.mode == "linear"
    if not (linear or ready.needs_pretext or config.pretext.as_backbone):
        return ""
    source = {part: getattr(config, part).model_dump(mode="json") for part in _SHARED}
    # A pretext task is trained on the pool: every pool has its own.
    pool = hashlib.blake2b(ready.pool_rows.tobytes(), digest_size=8).hexdigest() if ready.trains_pretext else ""
    return fingerprint([ready.catalog.uri, source, linear, ready.needs_pretext, pool])


def _make(ready: Checked, quiet: bool) -> None:
    from alray.train.classify import LinearLearner
    from alray.train.columns import Columns

    config, images = ready.config, ready.catalog.format != "embeddings"
    stages = Stages(f"{config.name} · before the trials", quiet)
    columns = Columns(config, ready.catalog, cluster.start(config.resources) if images else None, ready.pool_rows)
    started = columns.with_backbone(stages)
    if ready.needs_pretext:
        columns.pretext_loss(ready.pool_rows[:1], stages)
    if config.train.mode == "linear":
        LinearLearner(started, ready.catalog, columns.cluster).begin(stages)
