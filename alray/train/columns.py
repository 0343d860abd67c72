"""The networks that some strategies need beside the main model, and the numbers per image that these measure.

`pretext_loss` comes from a pretext task that is trained once on the whole pool and kept under the runs' root for every
run on the same data. `discriminator` comes from VAAL's networks, trained anew in every round on labeled and unlabeled
images.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from alray.cluster import Joined
from alray.config import RunConfig
from alray.data.catalog import Catalog
from alray.data.pool import Rows
from alray.features.arrays import DISCRIMINATOR, PRETEXT_LOSS, Array, narrow_values
from alray.features.measures import Extraction, Measure
from alray.features.table import MANIFEST, FeatureTable
from alray.lease import lease
from alray.progress import Stages
from alray.rundir import FEATURES_DIR, MODEL, SUMMARY, Shared
from alray.store import Store, weights_fingerprint
from alray.train.measure import measure_images, measured, watched

if TYPE_CHECKING:
    from alray.train.pretext import PretextRecipe

MEASURED = frozenset({DISCRIMINATOR, PRETEXT_LOSS})
_LOSSES, _VAAL = "losses", "vaal"  # directories of a pretext task and of a round


@dataclass
class Columns:
    """Trains and measures for one run. pool: all rows of the pool (n,) int64 ascending, with the held-out ones."""

    config: RunConfig
    catalog: Catalog
    joined: Joined
    pool: Rows
    _losses: Array | None = field(default=None, init=False)  # of the whole pool, read once: every round asks for them

    def with_backbone(self, stages: Stages) -> RunConfig:
        """The configuration; with pretext.as_backbone its model starts from the pretext task's encoder."""
        if not self.config.pretext.as_backbone:
            return self.config
        from alray.train.pretext import ENCODER

        model = self.config.model.model_copy(update={"checkpoint": self._pretrained(stages).at(ENCODER)})
        return self.config.model_copy(update={"model": model})

    def pretext_loss(self, rows: Rows, stages: Stages) -> Array:
        """Losses of these rows of the pool, (n,) float32 or, if that would change them, float64: measured once for the
        whole pool, or the user's own."""
        if self._losses is None:
            provided = PRETEXT_LOSS in self.catalog.provided_columns
            self._losses = (
                narrow_values(self.catalog.pretext_loss()[self.pool]) if provided else self._measured_losses(stages)
            )
        if len(rows) == len(self.pool):
            return self._losses
        return self._losses[np.searchsorted(self.pool, rows)]

    def pretext_mark(self, stages: Stages) -> str:
        """A fingerprint of the pretext task's weights; trains the task if that has not been done."""

        return weights_fingerprint(self._pretrained(stages).at(MODEL))

    def _measured_losses(self, stages: Stages) -> Array:
        from alray.train.pretext import PretextLosses

        config, folder = self.config, self._pretrained(stages)
        weights = folder.at(MODEL)
        measure = PretextLosses(
            config.pretext, config.model, config.transform, config.pretext.seed, weights, weights_fingerprint(weights)
        )
        table = self._measure(self._extraction(self.pool, measure), folder.at(_LOSSES), stages)
        return table.read(self.pool, PRETEXT_LOSS)[:, 0].copy()

    def discriminator(self, number: int, labeled: Rows, unlabeled: Rows, out: Store, stages: Stages) -> Array:
        """Train VAAL's networks in the round's directory; returns the unlabeled rows' logits of being labeled, (n,)
        float32."""
        from alray.train.driver import train
        from alray.train.vaal import Discriminating, VaalRecipe

        config, folder = self.config, out.child(_VAAL)
        recipe = VaalRecipe(config.vaal, config.seed, number, labeled, unlabeled, folder)
        with watched(stages, "vaal", config.vaal.epochs, f"{len(labeled):,} labeled images") as progress:
            train(
                recipe, self.catalog, self.joined, what=f"VAAL of round {number}", progress=progress,
                stages=stages,
            )  # fmt: skip
        weights = folder.at(MODEL)
        measure = Discriminating(config.vaal, weights, weights_fingerprint(weights))
        table = self._measure(self._extraction(unlabeled, measure), folder.at(FEATURES_DIR), stages)
        return table.read(unlabeled, DISCRIMINATOR)[:, 0]

    def _pretrained(self, stages: Stages) -> Store:
        """The directory of the pretext task's weights; trains the task if that has not been done."""
        from alray.train.driver import train

        config = self.config
        recipe, folder = _pretext_task(config, self.catalog, self.pool)
        if folder.has(SUMMARY):
            return folder
        what = f"{config.pretext.task} on {len(self.pool):,} images"
        with lease(folder, lambda holder: stages.print_line(f"pretext · {holder} trains {what}: waiting for it")):
            if folder.has(SUMMARY):
                return folder
            with watched(stages, "pretext", config.pretext.epochs, what) as progress:
                train(
                    recipe.into(folder), self.catalog, self.joined, what=f"pretext task {config.pretext.task}",
                    progress=progress, stages=stages,
                )  # fmt: skip
        return folder

    def _extraction(self, rows: Rows, measure: Measure) -> Extraction:
        return Extraction(self.catalog, rows, measure, self.config.features.part_rows)

    def _measure(self, extraction: Extraction, folder: str, stages: Stages) -> FeatureTable:
        if known := measured(extraction, folder):
            return known
        (column,) = extraction.measure.columns
        with stages.stage("extract", f"{column} of {len(extraction.rows):,} images"):
            return measure_images(extraction, folder, self.joined, stages)


def kept_pretext_loss(config: RunConfig, catalog: Catalog, pool: Rows) -> Array | None:
    """The pretext losses of the whole pool (n,) float64 as a finished run used them; None if they are gone."""
    if PRETEXT_LOSS in catalog.provided_columns:
        return catalog.pretext_loss()[pool]
    table = _kept(_pretext_task(config, catalog, pool)[1].child(_LOSSES))
    return None if table is None else table.read(pool, PRETEXT_LOSS)[:, 0].astype(np.float64)


def kept_discriminator(out: Store) -> FeatureTable | None:
    """The discriminator's logits of a round, as a finished run used them; None if they are gone. out: the round."""
    return _kept(out.child(_VAAL).child(FEATURES_DIR))


def _kept(store: Store) -> FeatureTable | None:
    return FeatureTable.open(store.uri) if store.has(MANIFEST) else None


def _pretext_task(config: RunConfig, catalog: Catalog, pool: Rows) -> tuple[PretextRecipe, Store]:
    """The training of the configuration's pretext task, and the directory that it has."""
    from alray.train.pretext import PretextRecipe, name

    recipe = PretextRecipe(config.pretext, config.model, config.transform, config.pretext.seed, pool, Store(""))
    return recipe, Shared(config.root).pretext(name(recipe, catalog.fingerprint))
