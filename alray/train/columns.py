"""Numbers per image from networks beside the main model: what some strategies need and no classifier gives.

`discriminator` comes from VAAL's networks, trained anew every round on what is labeled and what is not.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from alray.cluster import Cluster
from alray.config import RunConfig
from alray.data.catalog import Catalog
from alray.data.pool import Rows
from alray.features.arrays import DISCRIMINATOR, Array
from alray.progress import Stages
from alray.store import Store, absolute
from alray.train.learner import measure_images, watched, weights_fingerprint

MEASURED = frozenset({DISCRIMINATOR})


@dataclass(frozen=True)
class Columns:
    """Measures such columns for one run."""

    config: RunConfig
    catalog: Catalog
    cluster: Cluster | None

    def of(
        self, needs: Set[str], number: int, labeled: Rows, unlabeled: Rows, out: Store, stages: Stages
    ) -> dict[str, Array]:
        """The columns that are needed, each (n,) float32 of the unlabeled rows; artefacts go into the round's
        directory."""
        if DISCRIMINATOR not in needs:
            return {}
        return {DISCRIMINATOR: self._discriminator(number, labeled, unlabeled, out, stages)}

    def _discriminator(self, number: int, labeled: Rows, unlabeled: Rows, out: Store, stages: Stages) -> Array:
        from alray.features.extract import Extraction
        from alray.train.pretrain import WEIGHTS, pretrain
        from alray.train.vaal import Discriminating, VaalRecipe

        assert self.cluster is not None  # rounds start one for every run with images
        config, resources = self.config, self.config.resources
        folder = Store(absolute(out.at("vaal")))
        recipe = VaalRecipe(config.vaal, config.seed, number, labeled, unlabeled, folder)
        with watched(stages, "vaal", config.vaal.epochs, f"{len(labeled):,} labeled images") as progress:
            pretrain(
                recipe, self.catalog, what=f"VAAL of round {number}", resources=resources,
                use_gpu=self.cluster.use_gpu, progress=progress,
            )  # fmt: skip
        weights = folder.at(WEIGHTS)
        measure = Discriminating(config.vaal, weights, weights_fingerprint(weights))
        extraction = Extraction(self.catalog, unlabeled, measure, config.features.part_rows)
        with stages.stage("extract", f"discriminator of {len(unlabeled):,} images"):
            table = measure_images(extraction, folder.at("features"), resources, self.cluster, stages)
        return table.read(unlabeled, DISCRIMINATOR)[:, 0]
