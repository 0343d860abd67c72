"""What trials share is computed once, before the first of them starts: pretext tasks and their losses, and with a
frozen backbone the embedding of every image. No trial decodes an image then."""

from __future__ import annotations

from collections.abc import Iterable

from alray.cluster import ClusterError
from alray.config import fingerprint
from alray.joining import join
from alray.prepare import Checked
from alray.progress import Stages
from alray.reasons import ours
from alray.store import content_hash
from alray.sweep.trials import SweepPlan

_SHARED = ("model", "transform", "features", "pretext")


def share(plan: SweepPlan, settings: Iterable[int], quiet: bool = False) -> dict[int, str]:
    """Compute what these settings share. Returns the error message of each setting that failed: only its trials cannot
    run."""
    failed: dict[int, str] = {}
    for numbers in groups(plan, settings):
        try:
            _make(plan.settings[numbers[0]], quiet)
        except Exception as error:
            if isinstance(error, ClusterError) or not ours(error):
                raise  # not the fault of this setting
            failed.update(dict.fromkeys(numbers, f"before the trials: {type(error).__name__}: {error}"))
    return failed


def groups(plan: SweepPlan, settings: Iterable[int]) -> list[list[int]]:
    """Settings in groups that share everything that can be shared; settings that share nothing are left out."""
    found: dict[str, list[int]] = {}
    for number in sorted(set(settings)):
        if mark := _mark(plan.settings[number]):
            found.setdefault(mark, []).append(number)
    return list(found.values())


def _mark(ready: Checked) -> str:
    config, frozen = ready.config, ready.learner.frozen
    if not (frozen or ready.needs_pretext or config.pretext.as_backbone):
        return ""
    # A key in memory, which is stored nowhere: whole sections do no harm.
    source = {part: getattr(config, part).model_dump(mode="json") for part in _SHARED}
    # A pretext task is trained on the pool: every pool has its own.
    pool = content_hash(ready.pool_rows.tobytes()) if ready.trains_pretext else ""
    return fingerprint([ready.catalog.uri, source, frozen, ready.needs_pretext, pool])


def _make(ready: Checked, quiet: bool) -> None:
    from alray.train.columns import Columns

    config = ready.config
    stages = Stages(f"{config.name} · before the trials", quiet=quiet)
    joined = join(ready)
    columns = Columns(config, ready.catalog, joined, ready.pool_rows)
    started = columns.with_backbone(stages)
    if ready.needs_pretext:
        columns.pretext_loss(ready.pool_rows[:1], stages)
    if ready.learner.frozen:
        ready.learner(started, ready.catalog, joined).begin(stages)
