"""The driver's half of a training with Ray Train: it checks a recipe, runs the workers and writes the summary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from alray.config import ResourceConfig
from alray.data.catalog import Catalog
from alray.rundir import MODEL, SUMMARY
from alray.train.launch import clean, launch
from alray.train.objective import Recipe
from alray.train.summary import TrainError, TrainSummary
from alray.train.worker import work


def train(
    recipe: Recipe,
    catalog: Catalog,
    *,
    what: str,
    resources: ResourceConfig,
    use_gpu: bool,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> TrainSummary:
    """Train a recipe; returns at once if its directory holds a finished training.

    Leaves model.pt and, last, train.json. what: the training's name in messages ("training of round 3"). progress is
    called at the start and then about once a second from a thread, with state, epoch (how many are finished) and
    epochs, and while training also step, steps, loss and val_accuracy. Raises TrainError (cannot start, diverged, or a
    worker failed), ImageError, ModelError, CheckpointError, StoreError.
    """
    out = recipe.out
    if not out.has(SUMMARY):
        try:
            recipe.check(resources.train_workers)
        except TrainError as error:
            raise TrainError(f"{what}: {error}") from None
        summary = launch(
            lambda cpus: work(recipe, catalog, resources, cpus),
            what=what,
            written=MODEL,
            out=out,
            resources=resources,
            use_gpu=use_gpu,
            epochs=recipe.epochs,
            progress=progress,
        )
        out.write_json(SUMMARY, summary, last=True)
    clean(out)
    return TrainSummary.from_json(out.read_json(SUMMARY))
