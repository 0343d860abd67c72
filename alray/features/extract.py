"""Measure images with a pool of Ray Data actors, and write the numbers to disk (contract C3).

`Features` measures embeddings and logits. Any other number per image has its own `Measure`.

Images are decoded in CPU tasks anywhere in the cluster. The model is in actors, which load it once and use one GPU each
if there are GPUs. The unit of work is a part: its rows are decoded as one block, measured by one actor and written
atomically as one file. A part that is on disk is not computed again, so a killed extraction continues where it stopped.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch

from alray.config import Dtype, FeatureConfig, ModelConfig, TransformConfig, changed, fingerprint
from alray.data.augment import Transform, eval_transform
from alray.data.catalog import Catalog
from alray.data.images import block_rows, image_dataset, raise_first_cause
from alray.data.masks import Masks
from alray.data.views import Views
from alray.features.arrays import EMBEDDING, LOGITS, Array, Rows
from alray.features.table import MANIFEST, FeatureError, FeatureTable, commit, part_name, read_part, stored, write_part
from alray.models.backbone import create, embed_images
from alray.models.device import best_device
from alray.store import Store, content_hash, read_bytes

PART = "part"
Advance = Callable[[int, str], None]
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

    def load(self) -> torch.nn.Module:
        """Build the model with its weights, in evaluation mode."""
        model = create(self.config, self.num_classes, self.seed, self.image_size)
        if self.weights:
            state = torch.load(io.BytesIO(read_bytes(self.weights)), map_location="cpu", weights_only=True)
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
        """A hash of everything that can change a stored number: data, rows, weights, transform and storage types."""
        return fingerprint(
            {
                "catalog": self.catalog.fingerprint,
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


class Measurer:
    """The actor. It holds the model, measures a part, writes it, and returns only the number of rows."""

    def __init__(self, measure: Measure, out: Store, use_gpu: bool) -> None:
        # Ray does not hide the GPUs from an actor that requests none, so without use_gpu it must not take one.
        self.measured = measure.load(best_device() if use_gpu else torch.device("cpu"))
        self.columns, self.out = measure.columns, out

    def __call__(self, batch: dict[str, Array]) -> dict[str, Array]:
        """Measure one whole part."""
        (part,) = np.unique(batch[PART])  # a block with several parts would be written to a wrong file
        rows, found = batch["row"], self.measured(batch)
        columns = {name: stored(found[name], dtype, rows, name) for name, dtype in self.columns.items()}
        write_part(self.out, int(part), rows, columns)
        return {PART: np.array([part]), "rows": np.array([len(rows)])}


def extract(
    extraction: Extraction,
    out: Store,
    *,
    actors: int,
    decode_cpus: float,
    use_gpu: bool,
    advance: Advance = lambda rows, note: None,
) -> FeatureTable:
    """Measure all rows of the extraction into the directory `out`, or continue where a killed extraction stopped.

    advance: called with the number of rows of each part that is finished, and once with those finished before. Raises
    ImageError for an image that cannot be decoded, FeatureError for values that cannot be stored or if the directory
    has other features.
    """
    mark = extraction.fingerprint
    if out.has(MANIFEST):
        table = FeatureTable.open(out.uri)
        if table.manifest["fingerprint"] != mark:
            raise FeatureError(
                f"{out.uri}: expected features {mark}, got other features "
                f"{table.manifest['fingerprint']}; choose another directory"
            )
        return table
    parts = extraction.parts()
    present = set(out.names())
    missing = [number for number in range(len(parts)) if part_name(number) not in present]
    advance(sum(len(part) for number, part in enumerate(parts) if part_name(number) in present), "")
    if missing:
        _measure(extraction, out, {number: parts[number] for number in missing}, actors, decode_cpus, use_gpu, advance)
    first = read_part(out, 0)[1]
    widths = {name: (first[name].shape[1], dtype) for name, dtype in extraction.measure.columns.items()}
    return commit(out, parts, mark, widths)


def _measure(
    extraction: Extraction,
    out: Store,
    parts: dict[int, Rows],
    actors: int,
    decode_cpus: float,
    use_gpu: bool,
    advance: Advance,
) -> None:
    blocks = [pa.table({"row": rows, PART: np.full(len(rows), number, np.int32)}) for number, rows in parts.items()]
    rows = np.concatenate(list(parts.values()))
    measure = extraction.measure
    images = image_dataset(
        extraction.catalog, rows, blocks, measure.transform, num_cpus=decode_cpus, masks=measure.masks
    )
    measured = images.map_batches(
        Measurer,
        fn_constructor_args=(measure, out, use_gpu),
        # Ray needs a number if there are GPUs. It never joins or cuts blocks here, because a block is a part.
        batch_size=extraction.rows_per_part if use_gpu else None,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=min(actors, len(parts))),
        num_gpus=1 if use_gpu else None,
        num_cpus=None if use_gpu else 1,
    )
    try:
        for done in measured.iter_rows():
            advance(int(done["rows"]), "")
    except Exception as error:
        raise_first_cause(error)
