"""Networks beside the main model, and the numbers per image that they give to strategies.

`pretext_loss` comes from a pretext task trained once on the whole pool (and kept under the runs' root, for every run on
the same data); `discriminator` from VAAL's networks, trained anew every round on what is labeled and what is not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from alray.cluster import Cluster
from alray.config import RunConfig
from alray.data.catalog import Catalog
from alray.data.pool import Rows
from alray.features.arrays import DISCRIMINATOR, PRETEXT_LOSS, Array
from alray.features.table import MANIFEST, FeatureTable
from alray.lease import lease
from alray.progress import Stages
from alray.rundir import Shared
from alray.store import Store, join, weights_fingerprint
from alray.train.measure import measure_images, watched

if TYPE_CHECKING:
    from alray.features.extract import Extraction, Measure

MEASURED = frozenset({DISCRIMINATOR, PRETEXT_LOSS})


@dataclass
class Columns:
    """Trains and measures for one run. pool: all rows of the pool (n,) int64 ascending, held-out ones too."""

    config: RunConfig
    catalog: Catalog
    cluster: Cluster | None
    pool: Rows
    _losses: Array | None = field(default=None, init=False)  # of the pool: every round asks for them

    def with_backbone(self, stages: Stages) -> RunConfig:
        """The configuration whose model starts from the pretext task's encoder, where that is asked for."""
        if not self.config.pretext.as_backbone:
            return self.config
        from alray.train.pretext import ENCODER

        model = self.config.model.model_copy(update={"checkpoint": self._pretrained(stages).at(ENCODER)})
        return self.config.model_copy(update={"model": model})

    def pretext_loss(self, rows: Rows, stages: Stages) -> Array:
        """Losses of these rows of the pool, (n,) float64: measured once for the whole pool, or brought in."""
        if self._losses is None:
            brought = PRETEXT_LOSS in self.catalog.brings
            self._losses = self.catalog.pretext_loss()[self.pool] if brought else self._measured_losses(stages)
        return self._losses[np.searchsorted(self.pool, rows)]

    def pretext_mark(self, stages: Stages) -> str:
        """Names the weights of the (trained, or found trained) pretext task by their content."""
        from alray.train.objective import WEIGHTS

        return weights_fingerprint(self._pretrained(stages).at(WEIGHTS))

    def _measured_losses(self, stages: Stages) -> Array:
        from alray.train.objective import WEIGHTS
        from alray.train.pretext import PretextLosses

        config, folder = self.config, self._pretrained(stages)
        weights = folder.at(WEIGHTS)
        measure = PretextLosses(
            config.pretext, config.model, config.transform, config.pretext.seed, weights, weights_fingerprint(weights)
        )
        table = self._measure(self._extraction(self.pool, measure), folder.at("losses"), stages)
        return table.read(self.pool, PRETEXT_LOSS)[:, 0].astype(np.float64)

    def discriminator(self, number: int, labeled: Rows, unlabeled: Rows, out: Store, stages: Stages) -> Array:
        """Logits of looking labeled, (n,) float32, of the unlabeled rows; artefacts go into the round's directory."""
        from alray.train.objective import WEIGHTS
        from alray.train.pretrain import pretrain
        from alray.train.vaal import Discriminating, VaalRecipe

        assert self.cluster is not None  # runs on images have one
        config, folder = self.config, out.child("vaal")
        recipe = VaalRecipe(config.vaal, config.seed, number, labeled, unlabeled, folder)
        with watched(stages, "vaal", config.vaal.epochs, f"{len(labeled):,} labeled images") as progress:
            pretrain(
                recipe, self.catalog, what=f"VAAL of round {number}", resources=config.resources,
                use_gpu=self.cluster.use_gpu, progress=progress,
            )  # fmt: skip
        weights = folder.at(WEIGHTS)
        measure = Discriminating(config.vaal, weights, weights_fingerprint(weights))
        table = self._measure(self._extraction(unlabeled, measure), folder.at("features"), stages)
        return table.read(unlabeled, DISCRIMINATOR)[:, 0]

    def _pretrained(self, stages: Stages) -> Store:
        """Where the pretext task's weights are: trained, or found trained."""
        from alray.train.pretext import PretextRecipe, name
        from alray.train.pretrain import SUMMARY, pretrain

        assert self.cluster is not None
        config = self.config
        recipe = PretextRecipe(
            config.pretext, config.model, config.transform, config.pretext.seed, self.pool, Store("")
        )
        folder = Shared(config.root).pretext(name(recipe, self.catalog.fingerprint))
        if folder.has(SUMMARY):
            return folder
        what = f"{config.pretext.task} on {len(self.pool):,} images"
        with lease(folder, lambda holder: stages.say(f"pretext · {holder} trains {what}: waiting for it")):
            if folder.has(SUMMARY):
                return folder
            with watched(stages, "pretext", config.pretext.epochs, what) as progress:
                pretrain(
                    recipe.into(folder), self.catalog, what=f"pretext task {config.pretext.task}",
                    resources=config.resources, use_gpu=self.cluster.use_gpu, progress=progress,
                )  # fmt: skip
        return folder

    def _extraction(self, rows: Rows, measure: Measure) -> Extraction:
        from alray.features.extract import Extraction

        return Extraction(self.catalog, rows, measure, self.config.features.part_rows)

    def _measure(self, extraction: Extraction, folder: str, stages: Stages) -> FeatureTable:
        assert self.cluster is not None
        place = Store(join(folder, extraction.fingerprint))
        if place.has(MANIFEST):
            return FeatureTable.open(place.uri)
        (column,) = extraction.measure.columns
        with stages.stage("extract", f"{column} of {len(extraction.rows):,} images"):
            return measure_images(extraction, folder, self.config.resources, self.cluster, stages)
