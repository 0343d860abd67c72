"""Embed images with a pool of Ray Data actors and write the features as they come (contract C3).

Decoding runs in CPU tasks anywhere in the cluster, the model in actors that load it once (one GPU each where there
are GPUs). The unit of work is a part: its rows are decoded as one block, embedded by one actor and written as one file,
atomically. A part that is on disk is not computed again, so a killed extraction goes on where it was.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch

from alray.config import FeatureConfig, ModelConfig, TransformConfig, fingerprint
from alray.data.augment import eval_transform
from alray.data.catalog import Catalog
from alray.data.images import block_rows, image_dataset, raise_first_cause
from alray.features.arrays import EMBEDDING, LOGITS, Array, Rows
from alray.features.table import MANIFEST, FeatureError, FeatureTable, commit, part_name, read_part, stored, write_part
from alray.models.backbone import create, embed_images
from alray.store import Store, read_bytes

PART = "part"
Advance = Callable[[int, str], None]


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
        model = create(self.config, self.num_classes, self.seed, self.image_size)
        if self.weights:
            state = torch.load(io.BytesIO(read_bytes(self.weights)), map_location="cpu", weights_only=True)
            model.load_state_dict(state)
        return model.eval()


@dataclass(frozen=True)
class Extraction:
    """What to embed and how; its fingerprint names the result."""

    catalog: Catalog
    rows: Rows  # (n,) int64 ascending
    model: ModelSource
    transform: TransformConfig
    features: FeatureConfig
    with_logits: bool

    @property
    def fingerprint(self) -> str:
        """Of everything that can change a stored number: data, rows, weights, transform, storage type."""
        model = self.model
        return fingerprint(
            {
                "catalog": self.catalog.fingerprint,
                "rows": hashlib.blake2b(self.rows.tobytes(), digest_size=8).hexdigest(),
                "model": model.config.model_dump(mode="json", exclude={"checkpoint"}),  # weights_id is its content
                "seed": model.seed,
                "weights": model.weights_id,
                "transform": [self.transform.size, self.transform.resize],
                "dtype": [self.features.dtype, self.features.logits_dtype if self.with_logits else None],
                "part_rows": self.part_rows,
            }
        )

    @property
    def part_rows(self) -> int:
        """Rows per part: as configured, else what makes a decoded block of about 32 MiB."""
        return self.features.part_rows or block_rows(self.transform.size)

    def parts(self) -> list[Rows]:
        """The rows of each part."""
        return [self.rows[start : start + self.part_rows] for start in range(0, len(self.rows), self.part_rows)]


class Embedder:
    """The actor: holds the model, embeds the part it is given, writes it, and answers only how many rows it wrote."""

    def __init__(self, extraction: Extraction, out: Store) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = extraction.model.load().to(self.device)
        self.config = extraction.features
        self.with_logits = extraction.with_logits
        self.out = out

    def __call__(self, batch: dict[str, Array]) -> dict[str, Array]:
        """Embed one whole part."""
        (part,) = np.unique(batch[PART])  # one block is one part; anything else would write a wrong file
        rows = batch["row"]
        embedding, logits = embed_images(self.model, batch["image"], self.config.batch_size, self.device)
        columns = {EMBEDDING: stored(embedding, self.config.dtype, rows, EMBEDDING)}
        if self.with_logits:
            columns[LOGITS] = stored(logits, self.config.logits_dtype, rows, LOGITS)
        write_part(self.out, int(part), rows, columns)
        return {
            PART: np.array([part]),
            "rows": np.array([len(rows)]),
            "dim": np.array([embedding.shape[1]]),
        }


def extract(
    extraction: Extraction,
    out: Store,
    *,
    actors: int,
    decode_cpus: float,
    use_gpu: bool,
    advance: Advance = lambda rows, note: None,
) -> FeatureTable:
    """Embed all rows of the extraction into the directory `out`, or go on where an earlier start was killed.

    `advance` is called with the number of rows of each part as it is finished (or found finished). Raises ImageError
    for an image that cannot be decoded, FeatureError for values that cannot be stored or a directory of other features.
    """
    mark = extraction.fingerprint
    if out.has(MANIFEST):
        table = FeatureTable.open(out.uri)
        if table.manifest["fingerprint"] != mark:
            raise FeatureError(
                f"{out.uri} holds other features ({table.manifest['fingerprint']}, not {mark}); choose another place"
            )
        return table
    parts = extraction.parts()
    present = set(out.names())
    missing = [number for number in range(len(parts)) if part_name(number) not in present]
    advance(sum(len(part) for number, part in enumerate(parts) if part_name(number) in present), "")
    if missing:
        _embed(extraction, out, {number: parts[number] for number in missing}, actors, decode_cpus, use_gpu, advance)
    widths: dict[str, Any] = {EMBEDDING: (_width(out, EMBEDDING), extraction.features.dtype)}
    if extraction.with_logits:
        widths[LOGITS] = (extraction.model.num_classes, extraction.features.logits_dtype)
    return commit(out, parts, mark, widths)


def _embed(
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
    images = image_dataset(extraction.catalog, rows, blocks, eval_transform(extraction.transform), num_cpus=decode_cpus)
    embedded = images.map_batches(
        Embedder,
        fn_constructor_args=(extraction, out),
        # Ray wants a number where there are GPUs; blocks are parts, so this never joins or cuts one.
        batch_size=extraction.part_rows if use_gpu else None,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=min(actors, len(parts))),
        num_gpus=1 if use_gpu else None,
        num_cpus=None if use_gpu else 1,
    )
    try:
        for done in embedded.iter_rows():
            advance(int(done["rows"]), "")
    except Exception as error:
        raise_first_cause(error)


def _width(out: Store, name: str) -> int:
    return int(read_part(out, 0)[1][name].shape[1])
