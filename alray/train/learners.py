"""Learners for images that have one class each: a head on a frozen backbone, or end-to-end fine-tuning.

Ray, PyTorch and timm are imported inside of functions: a run that is refused needs none of them, and runs on a user's
own embeddings start faster without Ray and timm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from alray.cluster import Joined
from alray.config import ConfigError, RunConfig
from alray.data.catalog import Catalog
from alray.data.pool import Pool, Rows
from alray.features.arrays import EMBEDDING, LOGITS, Array
from alray.features.measures import Features
from alray.features.table import FeatureTable
from alray.models.head import Head
from alray.progress import Stages
from alray.rundir import CHECKPOINT, FEATURES_DIR, MODEL, SUMMARY, Shared
from alray.store import Store
from alray.train.evaluate import evaluate_blocks
from alray.train.learner import Learner
from alray.train.measure import (
    bring_in,
    embeddings,
    extract_images,
    measure_images,
    measured,
    model_seed,
    model_source,
    watched,
)
from alray.train.summary import TrainSummary

if TYPE_CHECKING:
    from alray.features.measures import Measure
    from alray.train.objective import Recipe
    from alray.train.targets import Targets

_LOGITS = 1 << 26  # numbers in memory at a time


class ClassLearner(Learner):
    """The common part of the learners for images that have one class each."""

    @classmethod
    def without_images(cls) -> type[Learner]:
        """The learner for the user's own embeddings. Raises ConfigError if this kind of learning needs images."""
        raise ConfigError(
            "train.mode: expected linear, because embeddings have no images to fine-tune on, got finetune"
        )

    def head(self, out: Store) -> Head | None:
        """The round's head."""
        return Head.load(out.child(CHECKPOINT))

    def evaluate(
        self, table: FeatureTable | None, rows: Rows, labels: Array, out: Store, stages: Stages
    ) -> dict[str, Any]:
        """Accuracies (`classification_metrics`), from blocks of rows: the logits of all rows need not fit in memory."""
        assert table is not None
        head = Head.load(out.child(CHECKPOINT))
        blocks = ((self.logits(table, rows[cut], head), labels[cut]) for cut in self.cuts(len(rows)))
        return evaluate_blocks(blocks, classes=self.catalog.classes, top_k=self.config.top_k)

    def predict(self, table: FeatureTable | None, rows: Rows, out: Store) -> tuple[Array | None, Array | None]:
        """Class and softmax probability of the largest logit; None and None if `table` lacks a row."""
        if table is None or not np.isin(rows, table.rows).all():
            return None, None
        order, head = np.argsort(rows), Head.load(out.child(CHECKPOINT))
        predicted, probability = np.empty(len(rows), np.int32), np.empty(len(rows))
        for cut in self.cuts(len(rows)):
            at = order[cut]
            predicted[at], probability[at] = _most_likely(self.logits(table, rows[at], head))
        return predicted, probability

    def cuts(self, rows: int) -> list[slice]:
        """Blocks of so many rows, whose logits take up to 256 MB. Tests of the usual sizes are one block, such as
        50,000 images of 1,000 classes: in another block a matrix product may round its last bit otherwise."""
        step = max(1, _LOGITS // len(self.catalog.classes))
        return [slice(start, start + step) for start in range(0, rows, step)]

    def class_counts(self, pool: Pool) -> Array:
        """Images of every class."""
        return np.asarray(pool.counts())

    def logits(self, table: FeatureTable, rows: Rows, head: Head) -> Array:
        """Logits of the given rows, (k, c) float32: stored ones if the table has them, else embedding times head."""
        if LOGITS in table.columns:
            return table.read(rows, LOGITS).astype(np.float32, copy=False)
        logits = np.asarray(table.embedding(rows) @ head.weight.T)
        logits += head.bias
        return logits


def backbone(config: RunConfig) -> str:
    """The name of the backbone and where its weights come from."""
    model = config.model
    if model.checkpoint:
        return f"{model.backbone} with the weights of {model.checkpoint.rsplit('/', 1)[-1]}"
    if config.pretext.as_backbone:
        return f"{model.backbone} with the weights of a pretext task ({config.pretext.task})"
    return f"{model.backbone}, {'pretrained' if model.pretrained else 'from random weights'}"


def _most_likely(logits: Array) -> tuple[Array, Array]:
    """(k,) each: the class of the largest logit, and its softmax probability."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    predicted = shifted.argmax(axis=1)
    return predicted, 1 / np.exp(shifted, out=shifted).sum(axis=1)


class LinearLearner(ClassLearner):
    """Trains a head on cached embeddings of a frozen backbone: one extraction serves every round, strategy and run."""

    frozen: ClassVar[bool] = True
    needs_cluster: ClassVar[bool] = False
    trains_in_driver: ClassVar[bool] = True

    def __init__(self, config: RunConfig, catalog: Catalog, joined: Joined) -> None:
        super().__init__(config, catalog, joined)
        self.table: FeatureTable | None = None

    @classmethod
    def refuse(cls, config: RunConfig) -> None:
        """A frozen backbone must have weights."""
        if not (config.model.checkpoint or config.model.pretrained or config.pretext.as_backbone):
            raise ConfigError(
                "model.checkpoint: linear evaluation needs a pretrained backbone (self-supervised weights), got none; "
                "give model.checkpoint, model.pretrained, pretext.as_backbone, or train.mode finetune"
            )

    @classmethod
    def loaded(cls, config: RunConfig, catalog: Catalog, build: Callable[[], str]) -> str:
        """If all images are embedded already, the network is not built: building takes seconds and imports timm."""
        known = measured(embeddings(config, catalog), Shared(config.root).features)
        return f"embeddings of {len(catalog):,} images: {known.uri}" if known else build()

    @classmethod
    def described(cls, config: RunConfig) -> str:
        """The backbone, with a linear head."""
        return f"{backbone(config)}; frozen, a linear head is trained"

    @classmethod
    def without_images(cls) -> type[Learner]:
        """The learner that trains a head on the user's own embeddings."""
        return EmbeddingsLearner

    def begin(self, stages: Stages) -> None:
        """Have the embeddings of the whole catalog, made once for all runs under this root."""
        with stages.stage("extract", f"embeddings of {len(self.catalog):,} images, once for all rounds"):
            self.table = self.features(Shared(self.config.root).features, stages)

    def features(self, folder: str, stages: Stages) -> FeatureTable:
        """Extract the embeddings, or find them extracted."""
        extraction = embeddings(self.config, self.catalog)
        return measure_images(extraction, folder, self.joined, stages)

    def trial_measure(self) -> Measure | None:
        """The embeddings of the frozen backbone."""
        return embeddings(self.config, self.catalog).measure

    def head_seconds(self, labels: int) -> float:
        """Seconds of `train`."""
        from alray.train.head_speed import head_seconds  # imports torch

        return head_seconds(self.config.train, self.width(), max(len(self.catalog.classes), 2), labels)

    def start_features(self, rows: Rows, out: Store, stages: Stages) -> FeatureTable:
        """The cached table."""
        assert self.table is not None
        return self.table

    def train(self, number: int, pool: Pool, out: Store, start: Store | None, stages: Stages) -> TrainSummary:
        """Fit the head."""
        from alray.train.linear import fit_head  # imports torch

        assert self.table is not None
        store = out.child(CHECKPOINT)
        if store.has(SUMMARY):
            return TrainSummary.from_json(store.read_json(SUMMARY))
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
            store.write_json(SUMMARY, summary.to_json(), last=True)
        return summary

    def embed(self, number: int, rows: Rows, out: Store, stages: Stages) -> FeatureTable | None:
        """The cached table."""
        assert self.table is not None
        return self.table


class EmbeddingsLearner(LinearLearner):
    """Trains a head on the user's own embeddings, without images and without a network."""

    @classmethod
    def refuse(cls, config: RunConfig) -> None:
        """There must be no weights, which would be ignored."""
        if config.model.checkpoint or config.model.pretrained:
            raise ConfigError(
                "model: expected no weights, because the data are embeddings and no network is built; got "
                f"checkpoint {config.model.checkpoint or 'none'}, pretrained {config.model.pretrained}"
            )

    @classmethod
    def loaded(cls, config: RunConfig, catalog: Catalog, build: Callable[[], str]) -> str:
        """Nothing is loaded."""
        return ""

    @classmethod
    def described(cls, config: RunConfig) -> str:
        """A head alone."""
        return "linear head on the embeddings of the source"

    def trial_measure(self) -> Measure | None:
        """None: nothing is measured."""
        return None

    def width(self) -> int:
        """The second axis of the array."""
        return int(self.catalog.embedding().shape[1])

    def features(self, folder: str, stages: Stages) -> FeatureTable:
        """The embeddings as a table."""
        return bring_in(self.catalog, folder)


class FinetuneLearner(ClassLearner):
    """Trains all weights with Ray Train; embeddings and logits are extracted again in every round."""

    @classmethod
    def described(cls, config: RunConfig) -> str:
        """The backbone, with all of its weights."""
        return f"{backbone(config)}; all weights are trained"

    def targets(self) -> Targets:
        """What the network is trained on."""
        from alray.train.targets import ClassTargets

        return ClassTargets(len(self.catalog.classes))

    def begin(self, stages: Stages) -> None:
        """No-op: rounds share nothing."""

    def trial(self, rows: Rows, out: Store) -> Recipe | None:
        """A fine-tuning on these rows."""
        from alray.train.supervised import supervised_recipe

        nothing, label = rows[:0], np.zeros(len(rows), np.int64)
        return supervised_recipe(
            self.config, self.targets(), labeled=(rows, label), held_out=(nothing, nothing), round=0,
            seed=model_seed(self.config), start=None, out=out,
        )  # fmt: skip

    def trial_measure(self) -> Measure | None:
        """Embeddings and logits."""
        config = self.config
        return Features(model_source(config, self.catalog, None), config.transform, config.features, with_logits=True)

    def start_features(self, rows: Rows, out: Store, stages: Stages) -> FeatureTable:
        """Embeddings by the configured weights."""
        with stages.stage("extract", f"embeddings of {len(rows):,} images by the starting weights"):
            return extract_images(
                self.config, self.catalog, self.joined, rows, None, out.at(FEATURES_DIR), stages, with_logits=False
            )

    def train(self, number: int, pool: Pool, out: Store, start: Store | None, stages: Stages) -> TrainSummary:
        """Fine-tune from the configured checkpoint, or from the round `start` (warm start)."""
        from alray.train.driver import train
        from alray.train.supervised import supervised_recipe

        store = out.child(CHECKPOINT)
        if store.has(SUMMARY):
            return TrainSummary.from_json(store.read_json(SUMMARY))
        recipe = supervised_recipe(
            self.config,
            self.targets(),
            labeled=(pool.labeled, pool.labels(pool.labeled)),
            held_out=(pool.held_out, pool.labels(pool.held_out)),
            round=number,
            seed=model_seed(self.config),
            start=start.child(CHECKPOINT).at(MODEL) if start else None,
            out=store,
        )
        workers, epochs = self.joined.resources.train_workers, self.config.train.epochs
        what = f"{len(pool.labeled):,} labels, {workers} worker{'s' if workers > 1 else ''}"
        with watched(stages, "train", epochs, what) as progress:
            return train(
                recipe,
                self.catalog,
                self.joined,
                what=f"training of round {number}",
                progress=progress,
                stages=stages,
            )

    def embed(self, number: int, rows: Rows, out: Store, stages: Stages) -> FeatureTable | None:
        """Embeddings and logits by this round's model."""
        if not len(rows):
            return None
        with stages.stage("extract", f"embeddings and logits of {len(rows):,} images"):
            weights = out.child(CHECKPOINT).at(MODEL)
            return extract_images(
                self.config, self.catalog, self.joined, rows, weights, out.at(FEATURES_DIR), stages, with_logits=True
            )


LEARNERS: dict[str, type[ClassLearner]] = {"linear": LinearLearner, "finetune": FinetuneLearner}


def learner_kind(config: RunConfig, catalog: Catalog) -> type[Learner]:
    """The learner that `train.mode` names, or its form without images if the catalog holds embeddings. Raises
    ConfigError."""
    kind = LEARNERS[config.train.mode]
    return kind.without_images() if catalog.provided_columns else kind
