"""The driver's half of a training with Ray Train: it checks a recipe, runs the workers and writes the summary."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from alray.cluster import Joined
from alray.data.catalog import Catalog
from alray.progress import Stages
from alray.rundir import MODEL, SUMMARY
from alray.train.launch import clean, launch
from alray.train.objective import Recipe
from alray.train.summary import TrainError, TrainSummary
from alray.train.worker import work

log = logging.getLogger(__name__)


def train(
    recipe: Recipe,
    catalog: Catalog,
    joined: Joined,
    *,
    what: str,
    progress: Callable[[dict[str, Any]], None] | None = None,
    stages: Stages | None = None,
) -> TrainSummary:
    """Train a recipe; returns at once if its directory holds a finished training.

    Leaves model.pt and, last, train.json. what: the training's name in messages ("training of round 3"). progress is
    called at the start and then about once a second from a thread, with state, epoch (how many are finished) and
    epochs, and while training also step, steps, loss and val_accuracy. stages: prints a line while the training waits
    for CPUs or GPUs, and notes restarts. Raises TrainError (cannot start or diverged), TrainFailed (workers died more
    often than they are restarted), ClusterError (there was no room), ImageError, ModelError, CheckpointError,
    StoreError.
    """
    out = recipe.out
    if not out.has(SUMMARY):
        resources = joined.resources
        try:
            recipe.check(resources.train_workers)
        except TrainError as error:
            raise TrainError(f"{what}: {error}") from None
        summary = launch(
            lambda decoding: work(recipe, catalog, resources, decoding),
            what=what,
            written=MODEL,
            out=out,
            resources=resources,
            use_gpu=joined.use_gpu,
            share=joined.share(stages.print_line if stages else log.warning),
            epochs=recipe.epochs,
            progress=progress,
            note=stages.note_restart if stages else lambda restart: None,
        )
        out.write_json(SUMMARY, summary, last=True)
    clean(out)
    return TrainSummary.from_json(out.read_json(SUMMARY))
