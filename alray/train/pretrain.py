"""Any `Recipe` trained with Ray Train: the driver's and the workers' half (see `alray.train.objective`)."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from alray.config import ResourceConfig
from alray.data.catalog import Catalog
from alray.train.batches import Batch, Pairs, Plan
from alray.train.launch import clean, launch
from alray.train.objective import WEIGHTS, Recipe, fit
from alray.train.summary import TrainError, TrainSummary
from alray.train.worker import Streams, at_work, report, restored, teller, wrap

SUMMARY = "train.json"


def pretrain(
    recipe: Recipe,
    catalog: Catalog,
    *,
    what: str,
    resources: ResourceConfig,
    use_gpu: bool,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> TrainSummary:
    """Train, or return at once where the recipe's directory holds a finished training; what: named in messages.

    Leaves model.pt and, last, train.json. Raises TrainError, ImageError, StoreError.
    """
    out = recipe.out
    if not out.has(SUMMARY):
        if len(recipe.rows) < 2 * resources.train_workers:
            raise TrainError(
                f"{what}: {len(recipe.rows)} images cannot be shared by resources.train_workers="
                f"{resources.train_workers}; expected at least 2 for each"
            )
        summary = launch(
            lambda cpus: _work(recipe, catalog, resources, cpus),
            what=what,
            written=WEIGHTS,
            out=out,
            resources=resources,
            use_gpu=use_gpu,
            epochs=recipe.epochs,
            progress=progress,
        )
        out.write_json(SUMMARY, summary)
    clean(out)
    return TrainSummary.from_json(out.read_json(SUMMARY))


def _work(recipe: Recipe, catalog: Catalog, resources: ResourceConfig, cpus: float) -> dict[str, Any]:
    """One worker's training."""
    with at_work(resources.cpus_per_train_worker, cpus) as place:
        streams = Streams(catalog, cpus, resources.decode_cpus, recipe.transform.config.size)

        def images(plan: Plan | Pairs, first_epoch: int) -> Generator[Batch, None, None]:
            for tables in plan.streams(first_epoch, recipe.epochs, streams.block_rows):
                yield from streams.read(tables, recipe.rows, recipe.transform)

        summary = fit(recipe, place, images, wrap=wrap, report=report, tell=teller(recipe.out, place), state=restored())
    return summary.to_json()
