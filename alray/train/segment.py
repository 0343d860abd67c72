"""The learner of segmentation, and what it measures of images by a segmentation network.

PyTorch is imported inside of functions, because a run that is refused does not need it.

Letters: b images, s their side in pixels, c classes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from alray.cluster import Joined
from alray.config import Dtype, FeatureConfig, RunConfig, TransformConfig, changed
from alray.data.augment import Transform, eval_transform
from alray.data.catalog import Catalog
from alray.data.mask_check import mask_sizes
from alray.data.masks import VOID, Masks, masks_of
from alray.data.pool import Pool, Rows
from alray.features.arrays import EMBEDDING, PIXEL, Array
from alray.features.measures import Extraction, Measure, Measured, ModelSource
from alray.features.table import FeatureTable
from alray.models.head import Head
from alray.progress import Stages
from alray.rundir import CHECKPOINT, FEATURES_DIR, MODEL
from alray.store import Store, read_checked
from alray.train.evaluate import segmentation_metrics
from alray.train.learners import FinetuneLearner, backbone
from alray.train.measure import measure_images, model_source

if TYPE_CHECKING:
    import torch

    from alray.train.targets import MaskTargets

CONFUSION = "confusion"
_ROWS = 256  # masks decoded at once when classes are counted, confusions added at once
_LOW = 1 << 12  # float32 is exact up to 2^24: a count of pixels is stored as two smaller numbers


@dataclass(frozen=True)
class Segmenting:
    """A model and the images it sees: the common part of both measures."""

    model: ModelSource
    config: TransformConfig
    features: FeatureConfig

    @property
    def transform(self) -> Transform:
        """The whole image, resized to a square."""
        return eval_transform(self.config)

    def identity(self) -> dict[str, Any]:
        """Model, weights and transform."""
        return {
            "segmenter": changed(self.model.config),
            "seed": self.model.seed,
            "weights": self.model.weights_id,
            "size": self.config.size,
        }

    def network(self, device: torch.device) -> torch.nn.Module:
        """The model with its weights."""
        import torch

        from alray.models.segmenter import create_segmenter

        source = self.model
        network = create_segmenter(source.config, source.num_classes, source.seed, source.image_size)
        if source.weights:
            state = torch.load(io.BytesIO(read_checked(source.weights)), map_location="cpu", weights_only=True)
            network.load_state_dict(state)
        return network.to(device)


@dataclass(frozen=True)
class SegmentationFeatures(Segmenting):
    """Pooled embeddings, and how unsure the model is of the pixels."""

    masks: Masks | None = None

    @property
    def columns(self) -> Mapping[str, Dtype]:
        """The embedding as configured, one float32 number for each kind of uncertainty."""
        return {EMBEDDING: self.features.dtype, **dict.fromkeys(PIXEL.values(), "float32")}

    def load(self, device: torch.device) -> Measured:
        """The model in evaluation mode."""
        from alray.models.segmenter import segment_images, uncertainties

        network = self.network(device)

        def measure(batch: Mapping[str, Array]) -> dict[str, Array]:
            found: dict[str, list[Array]] = {name: [] for name in self.columns}
            for embedding, logits in segment_images(network, batch["image"], self.features.batch_size, device):
                found[EMBEDDING].append(embedding)
                for name, values in uncertainties(logits).items():
                    found[PIXEL[name]].append(values)
            return {name: np.concatenate(parts) for name, parts in found.items()}

        return measure


@dataclass(frozen=True)
class Confusions(Segmenting):
    """Measures the column `confusion` (n, 2 * c * c): pixels of each true and predicted class, at the masks' own
    resolution. Each count is stored as two numbers: first all quotients by _LOW, then all remainders."""

    masks: Masks | None = None

    @property
    def columns(self) -> Mapping[str, Dtype]:
        """Two numbers per count, exact in float32."""
        return {CONFUSION: "float32"}

    def identity(self) -> dict[str, Any]:
        """Also how the masks are read. Their content is in the fingerprint of an annotated catalog."""
        assert self.masks is not None
        return {**super().identity(), "ignore": self.masks.ignore, "classes": list(self.masks.classes)}

    def load(self, device: torch.device) -> Measured:
        """The model in evaluation mode; logits are resized to each mask."""
        from torch.nn.functional import interpolate

        from alray.models.segmenter import confusion, segment_images

        network, masks = self.network(device), self.masks
        assert masks is not None

        def measure(batch: Mapping[str, Array]) -> dict[str, Array]:
            counts: list[Array] = []
            for _, logits in segment_images(network, batch["image"], self.features.batch_size, device):
                for one in logits:
                    mask = masks.decode(batch["mask"][len(counts)], f"row {batch['row'][len(counts)]}")
                    wide = interpolate(one[None], size=mask.shape, mode="bilinear")
                    predicted = wide[0].argmax(0).cpu().numpy()
                    counts.append(confusion(predicted, mask, masks.num_classes, VOID).ravel())
            return {CONFUSION: as_stored(np.stack(counts))}

        return measure


class SegmentationLearner(FinetuneLearner):
    """Fine-tunes a segmentation network with Ray Train; metrics and class counts are of pixels."""

    @classmethod
    def described(cls, config: RunConfig) -> str:
        """The backbone and the decoder."""
        return f"{backbone(config)}, with a decoder; all weights are trained"

    def __init__(self, config: RunConfig, catalog: Catalog, joined: Joined) -> None:
        super().__init__(config, catalog, joined)
        self._counted: dict[tuple[int, str], Array] = {}

    @property
    def masks(self) -> Masks:
        """The masks, with those that people drew before the round."""
        return masks_of(self.config.data, self.catalog)

    def targets(self) -> MaskTargets:
        """The masks of the images."""
        from alray.train.targets import MaskTargets

        return MaskTargets(self.masks)

    def start_features(self, rows: Rows, out: Store, stages: Stages) -> FeatureTable:
        """Embeddings by the configured weights."""
        with stages.stage("extract", f"embeddings of {len(rows):,} images by the starting weights"):
            return self._features(rows, None, out, stages)

    def trial_rows(self, rows: Rows) -> Rows:
        """Those that have a mask, in the source or from people."""
        masks = self.masks
        drawn = np.array([key in masks.drawn for key in self.catalog.keys(rows).to_pylist()], bool)
        return rows[drawn | (mask_sizes(masks, self.catalog)[rows] >= 0)] if masks.in_source else rows[drawn]

    def trial_measure(self) -> Measure | None:
        """Embeddings and uncertainties."""
        return SegmentationFeatures(self._source(None), self.config.transform, self.config.features)

    def embed(self, number: int, rows: Rows, out: Store, stages: Stages) -> FeatureTable | None:
        """Pooled embeddings and uncertainties by this round's model."""
        if not len(rows):
            return None
        with stages.stage("extract", f"embeddings and uncertainties of {len(rows):,} images"):
            return self._features(rows, out.child(CHECKPOINT).at(MODEL), out, stages)

    def head(self, out: Store) -> Head | None:
        """None: the network has no head for whole images."""
        return None

    def predict(self, table: FeatureTable | None, rows: Rows, out: Store) -> tuple[Array | None, Array | None]:
        """None and None: an image has many classes."""
        return None, None

    def evaluate(self, table: FeatureTable | None, rows: Rows, labels: Array, out: Store, stages: Stages) -> Any:
        """Pixel accuracy, mean accuracy of the classes, and intersection over union."""
        weights = out.child(CHECKPOINT).at(MODEL)
        measure = Confusions(self._source(weights), self.config.transform, self.config.features, self.masks)
        found = self._measured(extraction_of(measure, self.catalog, rows), out.at("test"), stages)
        return segmentation_metrics(total_confusion(found, rows), len(rows), self.masks.names)

    def class_counts(self, pool: Pool) -> Array:
        """Pixels of every class in the labeled images, (c,) int64."""
        masks, labeled = self.masks, pool.labeled
        drawn = [masks.drawn.get(key, "") for key in self.catalog.keys(labeled).to_pylist()] if masks.drawn else []
        marks = list(zip(labeled.tolist(), drawn or [""] * len(labeled), strict=True))
        mark_of = dict(marks)
        new = np.array([mark[0] for mark in marks if mark not in self._counted], np.int64)
        for start in range(0, len(new), _ROWS):
            references: pa.Table = self.catalog.references(new[start : start + _ROWS])
            rows, keys = references["row"].to_pylist(), references["key"].to_pylist()
            for row, key, data in zip(rows, keys, masks.fetch(references), strict=True):
                mask = masks.decode(data, key)
                self._counted[row, mark_of[row]] = np.bincount(mask[mask != VOID], minlength=masks.num_classes)
        return np.asarray(np.sum([self._counted[mark] for mark in marks], axis=0, dtype=np.int64))

    def _features(self, rows: Rows, weights: str | None, out: Store, stages: Stages) -> FeatureTable:
        measure = SegmentationFeatures(self._source(weights), self.config.transform, self.config.features)
        return self._measured(extraction_of(measure, self.catalog, rows), out.at(FEATURES_DIR), stages)

    def _source(self, weights: str | None) -> ModelSource:
        return replace(model_source(self.config, self.catalog, weights), num_classes=self.masks.num_classes)

    def _measured(self, extraction: Extraction, folder: str, stages: Stages) -> FeatureTable:
        return measure_images(extraction, folder, self.joined, stages)


def as_stored(counts: Array) -> Array:
    """Counts (n, w) as (n, 2 * w): first the quotients by _LOW, then the remainders."""
    return np.concatenate(np.divmod(counts, _LOW), axis=1)


def total_confusion(table: FeatureTable, rows: Rows) -> Array:
    """The sum (c, c) of the confusion matrices of some rows; the table is read in blocks."""
    total = np.zeros(int(table.manifest["columns"][CONFUSION]["width"]))
    for block in table.source(rows, (CONFUSION,)).open().blocks(_ROWS):
        total += block[CONFUSION].sum(axis=0, dtype=np.float64)
    high, low = np.split(total, 2)
    side = round(len(low) ** 0.5)
    return np.asarray(high * _LOW + low).reshape(side, side)


def extraction_of(measure: SegmentationFeatures | Confusions, catalog: Catalog, rows: Rows) -> Extraction:
    """An extraction of these rows."""
    return Extraction(catalog, rows, measure, measure.features.part_rows)
