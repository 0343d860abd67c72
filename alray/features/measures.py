"""Descriptions of what is measured of images, and by which model. `alray.features.extract` does the work.

`Features` measures embeddings and logits. Any other number per image has its own `Measure`. Descriptions are small and
picklable, and importing them imports neither Ray nor torch: a run that only checks whether an extraction exists needs
none of them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from alray.config import Dtype, FeatureConfig, ModelConfig, TransformConfig, changed, fingerprint
from alray.data.augment import Transform, eval_transform
from alray.data.catalog import Catalog
from alray.data.decode import DECODING
from alray.data.fetch import block_rows
from alray.data.masks import Masks
from alray.data.views import Views
from alray.features.arrays import EMBEDDING, LOGITS, Array, Rows
from alray.store import content_hash, read_checked

if TYPE_CHECKING:
    import torch

    from alray.models.backbone import Classifier

Measured = Callable[[Mapping[str, Array]], dict[str, Array]]  # row, image (m, ...), mask -> columns (m, width)


class Measure(Protocol):
    """Measures some numbers of every image with a model. The object is small and picklable; workers load the model."""

    @property
    def columns(self) -> Mapping[str, Dtype]:
        """The storage type of every column."""
        ...

    @property
    def transform(self) -> Transform | Views:
        """The transform of an image before it goes into the model."""
        ...

    @property
    def masks(self) -> Masks | None:
        """The masks that predictions are compared with; None if the measure needs none."""
        ...

    def identity(self) -> dict[str, Any]:
        """Everything about model and transform that can change a stored number, as a JSON tree."""
        ...

    def load(self, device: torch.device) -> Measured:
        """Build the model on the device. The numbers of an image must depend on that image alone."""
        ...


@dataclass(frozen=True)
class ModelSource:
    """Builds a model in an actor, from the configuration, the seed of fresh weights, and weights that replace them."""

    config: ModelConfig
    num_classes: int
    seed: int
    weights: str  # path or URI of a state dict written by training; empty: use the configuration's checkpoint
    weights_id: str  # names the weights in the fingerprint
    image_size: int  # side in pixels; some backbones are built for one size

    def load(self) -> Classifier:
        """Build the model with its weights, in evaluation mode."""
        import torch

        from alray.models.backbone import create

        model = create(self.config, self.num_classes, self.seed, self.image_size)
        if self.weights:
            state = torch.load(io.BytesIO(read_checked(self.weights)), map_location="cpu", weights_only=True)
            model.load_state_dict(state)
        return model.eval()


@dataclass(frozen=True)
class Features:
    """Measures embeddings with a classifier, and also logits if `with_logits`."""

    model: ModelSource
    config: TransformConfig
    features: FeatureConfig
    with_logits: bool
    masks: Masks | None = None

    @property
    def columns(self) -> Mapping[str, Dtype]:
        """The storage types of the configuration."""
        embedding: dict[str, Dtype] = {EMBEDDING: self.features.dtype}
        return {**embedding, LOGITS: self.features.logits_dtype} if self.with_logits else embedding

    @property
    def transform(self) -> Transform:
        """The transform for evaluation."""
        return eval_transform(self.config)

    def identity(self) -> dict[str, Any]:
        """Model, seed, weights and transform."""
        return {
            "model": changed(self.model.config),  # without the checkpoint, whose content is weights_id
            "seed": self.model.seed,
            "weights": self.model.weights_id,
            "transform": [self.config.size, self.config.resize],
        }

    def load(self, device: torch.device) -> Measured:
        """Build the classifier; returns the function that measures a batch."""
        from alray.models.backbone import embed_images

        model = self.model.load().to(device)

        def measure(batch: Mapping[str, Array]) -> dict[str, Array]:
            embedding, logits = embed_images(model, batch["image"], self.features.batch_size, device)
            return {EMBEDDING: embedding, LOGITS: logits} if self.with_logits else {EMBEDDING: embedding}

        return measure


@dataclass(frozen=True)
class Extraction:
    """The rows to measure and how. Equal extractions have equal fingerprints, which name the directory of the
    result."""

    catalog: Catalog
    rows: Rows  # (n,) int64 ascending
    measure: Measure
    part_rows: int = 0  # rows per part; 0: as many as make a decoded block of about 32 MiB

    @property
    def fingerprint(self) -> str:
        """A hash of everything that can change a stored number: data, decoding, rows, weights, transform and storage
        types."""
        return fingerprint(
            {
                "catalog": self.catalog.fingerprint,
                "decoding": DECODING,
                "rows": content_hash(self.rows.tobytes()),
                "measure": self.measure.identity(),
                "columns": dict(self.measure.columns),
                "part_rows": self.rows_per_part,
            }
        )

    @property
    def rows_per_part(self) -> int:
        """The number of rows of every part except the last."""
        return self.part_rows or block_rows(self.measure.transform.config.size)

    def parts(self) -> list[Rows]:
        """The rows of each part."""
        return [self.rows[start : start + self.rows_per_part] for start in range(0, len(self.rows), self.rows_per_part)]
