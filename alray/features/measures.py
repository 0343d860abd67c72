"""What is measured of images, and by which model: embeddings and logits (`Features`), or a `Measure` of another model.

These are descriptions: small, picklable and cheap to import. Whoever only asks whether an extraction has been made
needs neither Ray nor torch for it; `alray.features.extract` does the work.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from alray.config import Dtype, FeatureConfig, ModelConfig, TransformConfig, changed, fingerprint
from alray.data.augment import Transform, eval_transform
from alray.data.catalog import Catalog
from alray.data.fetch import block_rows
from alray.data.masks import Masks
from alray.data.views import Views
from alray.features.arrays import EMBEDDING, LOGITS, Array, Rows
from alray.store import read_bytes

if TYPE_CHECKING:
    import torch

Measured = Callable[[Mapping[str, Array]], dict[str, Array]]  # row, image (m, ...), mask -> columns (m, width)


class Measure(Protocol):
    """What is measured of an image, and by which model: small and picklable, loaded where the work is."""

    @property
    def columns(self) -> Mapping[str, Dtype]:
        """Storage type of every column."""
        ...

    @property
    def transform(self) -> Transform | Views:
        """What happens to an image before the model sees it."""
        ...

    @property
    def masks(self) -> Masks | None:
        """Where masks are, for a measure that compares with them."""
        ...

    def identity(self) -> dict[str, Any]:
        """Everything about model and transform that can change a stored number, as JSON."""
        ...

    def load(self, device: torch.device) -> Measured:
        """Build the model on the device. What it says of an image depends on that image alone."""
        ...


@dataclass(frozen=True)
class ModelSource:
    """How an actor gets the model: the configuration, the seed of fresh weights, and a state dict that replaces
    them."""

    config: ModelConfig
    num_classes: int
    seed: int
    weights: str  # path or URI of a state dict written by training; empty: the configuration's own checkpoint
    weights_id: str  # names the weights in the fingerprint
    image_size: int  # side in pixels; some backbones are built for it

    def load(self) -> torch.nn.Module:
        """Build the model and load its weights."""
        import torch

        from alray.models.backbone import create

        model = create(self.config, self.num_classes, self.seed, self.image_size)
        if self.weights:
            state = torch.load(io.BytesIO(read_bytes(self.weights)), map_location="cpu", weights_only=True)
            model.load_state_dict(state)
        return model.eval()


@dataclass(frozen=True)
class Features:
    """Embeddings, and logits where they are wanted, by a classifier."""

    model: ModelSource
    config: TransformConfig
    features: FeatureConfig
    with_logits: bool
    masks: Masks | None = None

    @property
    def columns(self) -> Mapping[str, Dtype]:
        """As configured."""
        embedding: dict[str, Dtype] = {EMBEDDING: self.features.dtype}
        return {**embedding, LOGITS: self.features.logits_dtype} if self.with_logits else embedding

    @property
    def transform(self) -> Transform:
        """Without augmentation."""
        return eval_transform(self.config)

    def identity(self) -> dict[str, Any]:
        """Model, weights and transform."""
        return {
            "model": changed(self.model.config),  # without the checkpoint, whose content is weights_id
            "seed": self.model.seed,
            "weights": self.model.weights_id,
            "transform": [self.config.size, self.config.resize],
        }

    def load(self, device: torch.device) -> Measured:
        """The classifier in evaluation mode."""
        from alray.models.backbone import embed_images

        model = self.model.load().to(device)

        def measure(batch: Mapping[str, Array]) -> dict[str, Array]:
            embedding, logits = embed_images(model, batch["image"], self.features.batch_size, device)
            return {EMBEDDING: embedding, LOGITS: logits} if self.with_logits else {EMBEDDING: embedding}

        return measure


@dataclass(frozen=True)
class Extraction:
    """What to measure; its fingerprint names the result."""

    catalog: Catalog
    rows: Rows  # (n,) int64 ascending
    measure: Measure
    part_rows: int = 0  # rows per part; 0: what makes a decoded block of about 32 MiB

    @property
    def fingerprint(self) -> str:
        """Of everything that can change a stored number: data, rows, weights, transform, storage type."""
        return fingerprint(
            {
                "catalog": self.catalog.fingerprint,
                "rows": hashlib.blake2b(self.rows.tobytes(), digest_size=8).hexdigest(),
                "measure": self.measure.identity(),
                "columns": dict(self.measure.columns),
                "part_rows": self.rows_per_part,
            }
        )

    @property
    def rows_per_part(self) -> int:
        """Rows of every part but the last."""
        return self.part_rows or block_rows(self.measure.transform.config.size)

    def parts(self) -> list[Rows]:
        """The rows of each part."""
        return [self.rows[start : start + self.rows_per_part] for start in range(0, len(self.rows), self.rows_per_part)]
