"""One round's model and the features it gives: end-to-end fine-tuning, or a head on a frozen backbone.

Both train on the labeled rows of a pool, give features for any rows and give the head; `alray.rounds` does not know
which of the two it drives. Ray and torch are imported where images are, so that a run on brought-in embeddings starts
at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from alray import keyed
from alray.cluster import Cluster
from alray.config import Dtype, ResourceConfig, RunConfig
from alray.data.catalog import Catalog
from alray.data.pool import Pool, Rows
from alray.features.arrays import EMBEDDING, LOGITS, Array
from alray.features.table import MANIFEST, FeatureTable, write_arrays
from alray.models.head import Head
from alray.progress import Stages
from alray.store import Store, absolute, filesystem, join, read_bytes
from alray.train.evaluate import classification_metrics
from alray.train.lease import lease
from alray.train.linear import fit_head
from alray.train.summary import TrainSummary

if TYPE_CHECKING:
    from alray.features.extract import Extraction, ModelSource

CHECKPOINT, FEATURES = "checkpoint", "features"


class Learner(Protocol):
    """What a round needs of training."""

    def begin(self, stages: Stages) -> None:
        """Whatever is done once for all rounds."""
        ...

    def start_features(self, rows: Rows, out: Store, stages: Stages) -> FeatureTable:
        """Embeddings of (at least) the given ascending rows by the model as it is before the first round."""
        ...

    def train(self, number: int, pool: Pool, out: Store, start: Store | None, stages: Stages) -> TrainSummary:
        """Train on what is labeled; nothing happens when `out` has this round's checkpoint already."""
        ...

    def embed(self, number: int, rows: Rows, out: Store, stages: Stages) -> FeatureTable | None:
        """Features of (at least) the given ascending rows by this round's model; None of no rows."""
        ...

    def head(self, out: Store) -> Head | None:
        """The head of this round's model, where it classifies images."""
        ...

    def evaluate(
        self, table: FeatureTable | None, rows: Rows, labels: Array, out: Store, stages: Stages
    ) -> dict[str, Any]:
        """Metrics of this round's model on the test rows."""
        ...

    def class_counts(self, pool: Pool) -> Array:
        """What is labeled so far of every class, (c,) int64."""
        ...


def learner(config: RunConfig, catalog: Catalog, cluster: Cluster | None) -> Learner:
    """The learner of a configuration."""
    if config.train.mode == "linear":
        return Linear(config, catalog, cluster)
    assert cluster is not None  # rounds start one for every run with images
    if config.task == "segmentation":
        from alray.train.segment import Segment

        return Segment(config, catalog, cluster)
    return Finetune(config, catalog, cluster)


def model_seed(config: RunConfig) -> int:
    """Seed of fresh weights: the same for every round and strategy of a seed."""
    return keyed.stream_key(config.seed, "weights") % 2**31


class Classifying:
    """What learners of images with one class have in common."""

    config: RunConfig
    catalog: Catalog

    def head(self, out: Store) -> Head | None:
        """The round's head."""
        return Head.load(out.child(CHECKPOINT))

    def evaluate(
        self, table: FeatureTable | None, rows: Rows, labels: Array, out: Store, stages: Stages
    ) -> dict[str, Any]:
        """Accuracies."""
        assert table is not None
        logits = self.logits(table, rows, Head.load(out.child(CHECKPOINT)))
        return classification_metrics(logits, labels, classes=self.catalog.classes, top_k=self.config.top_k)

    def class_counts(self, pool: Pool) -> Array:
        """Images of every class."""
        return np.asarray(pool.counts())

    def logits(self, table: FeatureTable, rows: Rows, head: Head) -> Array:
        """Logits of the given rows, (k, c) float32: as extracted, else embedding times head."""
        if LOGITS in table.columns:
            return table.read(rows, LOGITS).astype(np.float32)
        embedding = table.read(rows, EMBEDDING).astype(np.float32)
        return np.asarray(embedding @ head.weight.T + head.bias)


class Linear(Classifying):
    """A head trained on cached embeddings of a frozen backbone: one extraction serves every round, strategy and run."""

    def __init__(self, config: RunConfig, catalog: Catalog, cluster: Cluster | None) -> None:
        self.config, self.catalog, self.cluster = config, catalog, cluster
        self.table: FeatureTable | None = None

    def begin(self, stages: Stages) -> None:
        """Extract (or bring in) the embeddings of the whole catalog, once for all runs under this root."""
        with stages.stage("extract", f"embeddings of {len(self.catalog):,} images, once for all rounds"):
            folder = join(absolute(self.config.root), "features")
            if self.catalog.format == "embeddings":
                self.table = bring_in(self.catalog, folder)
            else:
                assert self.cluster is not None
                rows = np.arange(len(self.catalog), dtype=np.int64)
                self.table = extract_images(
                    self.config, self.catalog, self.cluster, rows, None, folder, stages, with_logits=False
                )

    def start_features(self, rows: Rows, out: Store, stages: Stages) -> FeatureTable:
        """The cached table."""
        assert self.table is not None
        return self.table

    def train(self, number: int, pool: Pool, out: Store, start: Store | None, stages: Stages) -> TrainSummary:
        """Fit the head."""
        assert self.table is not None
        store = out.child(CHECKPOINT)
        if store.has("train.json"):
            return TrainSummary.from_json(store.read_json("train.json"))
        with stages.stage("train", f"linear head on {len(pool.labeled):,} labels"):
            head, summary = fit_head(
                self.config.train,
                seed=model_seed(self.config),
                num_classes=len(self.catalog.classes),
                embedding=self.table.read(pool.labeled, EMBEDDING),
                labels=pool.labels(pool.labeled),
                val_embedding=self.table.read(pool.held_out, EMBEDDING) if len(pool.held_out) else None,
                val_labels=pool.labels(pool.held_out) if len(pool.held_out) else None,
                start=Head.load(start.child(CHECKPOINT)) if start else None,
            )
            head.save(store)
            store.write_json("train.json", summary.to_json())
        return summary

    def embed(self, number: int, rows: Rows, out: Store, stages: Stages) -> FeatureTable | None:
        """The cached table: nothing is computed."""
        assert self.table is not None
        return self.table


class Finetune(Classifying):
    """All weights trained with Ray Train; embeddings and logits extracted again every round."""

    def __init__(self, config: RunConfig, catalog: Catalog, cluster: Cluster) -> None:
        self.config, self.catalog, self.cluster = config, catalog, cluster

    def begin(self, stages: Stages) -> None:
        """Nothing is shared between rounds."""

    def start_features(self, rows: Rows, out: Store, stages: Stages) -> FeatureTable:
        """Embeddings by the configured weights."""
        with stages.stage("extract", f"embeddings of {len(rows):,} images by the starting weights"):
            return extract_images(
                self.config, self.catalog, self.cluster, rows, None, out.at(FEATURES), stages, with_logits=False
            )

    def train(self, number: int, pool: Pool, out: Store, start: Store | None, stages: Stages) -> TrainSummary:
        """Fine-tune from the configured checkpoint, or from the round `start` (warm start)."""
        from alray.train.finetune import finetune

        store = out.child(CHECKPOINT)
        if store.has("train.json"):
            return TrainSummary.from_json(store.read_json("train.json"))
        workers, epochs = self.config.resources.train_workers, self.config.train.epochs
        what = f"{len(pool.labeled):,} labels, {workers} worker{'s' if workers > 1 else ''}"
        with watched(stages, "train", epochs, what) as progress:
            return finetune(
                self.config,
                self.catalog,
                labeled=(pool.labeled, pool.labels(pool.labeled)),
                held_out=(pool.held_out, pool.labels(pool.held_out)),
                round=number,
                out=store,
                start=start.child(CHECKPOINT).at("model.pt") if start else None,
                num_classes=len(self.catalog.classes),
                use_gpu=self.cluster.use_gpu,
                progress=progress,
            )

    def embed(self, number: int, rows: Rows, out: Store, stages: Stages) -> FeatureTable | None:
        """Embeddings and logits by this round's model."""
        if not len(rows):
            return None
        with stages.stage("extract", f"embeddings and logits of {len(rows):,} images"):
            weights = out.child(CHECKPOINT).at("model.pt")
            return extract_images(
                self.config, self.catalog, self.cluster, rows, weights, out.at(FEATURES), stages, with_logits=True
            )


@contextmanager
def watched(stages: Stages, name: str, epochs: int, detail: str) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A stage of training with a bar of its epochs; yields what a training tells its progress to."""
    with (
        stages.stage(name, f"{detail} · starting up (Ray takes some seconds)"),
        stages.bar(name, epochs, "epochs") as bar,
    ):
        seen = 0

        def progress(state: dict[str, Any]) -> None:
            nonlocal seen
            epoch = int(str(state.get("epoch", 0)))
            bar(max(0, epoch - seen), _note(state))
            seen = max(seen, epoch)

        yield progress


def _note(state: dict[str, Any]) -> str:
    accuracy, loss = state.get("val_accuracy"), state.get("loss")
    if isinstance(accuracy, float):
        return f"validation {accuracy:.3f}"
    return f"loss {loss:.3f}" if isinstance(loss, float) else ""


def bring_in(catalog: Catalog, folder: str) -> FeatureTable:
    """Embeddings from a user's .npz as a feature table, in the type they came in (float16 or float32)."""
    store = Store(join(folder, catalog.fingerprint))
    if store.has(MANIFEST):
        return FeatureTable.open(store.uri)
    embedding = catalog.embedding()
    dtype: Dtype = "float16" if embedding.dtype == np.float16 else "float32"
    rows = np.arange(len(catalog), dtype=np.int64)
    return write_arrays(store, rows, embedding, dtype, catalog.fingerprint)


def extract_images(
    config: RunConfig,
    catalog: Catalog,
    cluster: Cluster,
    rows: Rows,
    weights: str | None,
    folder: str,
    stages: Stages,
    with_logits: bool,
) -> FeatureTable:
    """Embed rows with the model of the configuration, or with a round's own weights, into folder/<fingerprint>."""
    from alray.features.extract import Extraction, Features

    measure = Features(model_source(config, catalog, weights), config.transform, config.features, with_logits)
    return measure_images(
        Extraction(catalog, rows, measure, config.features.part_rows), folder, config.resources, cluster, stages
    )


def model_source(config: RunConfig, catalog: Catalog, weights: str | None) -> ModelSource:
    """The model of the configuration, or one with a round's own weights, as actors load it."""
    from alray.features.extract import ModelSource

    checkpoint = config.model.checkpoint and absolute(config.model.checkpoint)  # actors run in other directories
    return ModelSource(
        config.model.model_copy(update={"checkpoint": checkpoint}),
        len(catalog.classes),
        model_seed(config) if weights else 0,  # of a frozen backbone nothing is fresh: one extraction for all seeds
        weights or "",
        weights_id=weights_fingerprint(weights or config.model.checkpoint),
        image_size=config.transform.size,
    )


def measure_images(
    extraction: Extraction, folder: str, resources: ResourceConfig, cluster: Cluster, stages: Stages
) -> FeatureTable:
    """Measure into folder/<fingerprint>; of two runs that want the same, the second waits for the first."""
    from alray.features.extract import extract

    out = Store(join(folder, extraction.fingerprint))
    if out.has(MANIFEST):
        return FeatureTable.open(out.uri)

    def waiting(holder: str) -> None:
        stages.say(f"extract · {holder} measures these images: waiting for it")

    with lease(out, waiting), stages.bar("extract", len(extraction.rows), "images") as bar:
        return extract(
            extraction,
            out,
            actors=resources.extract_actors,
            decode_cpus=resources.decode_cpus,
            use_gpu=cluster.use_gpu,
            advance=bar,
        )


def weights_fingerprint(uri: str) -> str:
    """Of the content of a weights file, wherever it lies; "fresh" for none. A process reads the same file once."""
    if not uri:
        return "fresh"
    fs, path = filesystem(uri)
    info = fs.get_file_info(path)
    read = _content if info.mtime_ns else _content.__wrapped__  # without a time nothing tells two files apart
    return read(uri, info.size, info.mtime_ns)


@lru_cache(maxsize=256)
def _content(uri: str, size: int | None, changed: int | None) -> str:
    return hashlib.blake2b(read_bytes(uri), digest_size=8).hexdigest()
