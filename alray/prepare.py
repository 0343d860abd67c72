"""Everything about a run that can be refused, refused before anything expensive starts.

From a configuration to a `Prepared` run: catalog opened, strategy built, sizes checked, model built once, run directory
opened (or refused, because it belongs to another configuration), splits drawn and written down.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow as pa

from alray.config import ConfigError, RunConfig, fingerprint, identity
from alray.data import splits
from alray.data.catalog import Catalog, ensure_catalog
from alray.data.masks import check_masks, masks_of
from alray.data.oracle import HiddenLabels, Oracle
from alray.data.pool import Labels, Pool, Rows
from alray.features.arrays import PRETEXT_LOSS
from alray.selection.pixels import build_for_segmentation
from alray.selection.protocol import Strategy
from alray.selection.select import check_round, check_strategy
from alray.selection.strategies import build
from alray.store import Store, absolute, join, read_bytes
from alray.train.columns import MEASURED
from alray.train.learner import model_seed, weights_fingerprint

SPLITS, SEED_SET, CONFIG, RUN = "splits.parquet", "seed_set.parquet", "config.json", "run.json"


class RunError(ValueError):
    """A run that cannot start or go on; the message says why and what to do."""


@dataclass(frozen=True)
class Prepared:
    """A run that can start."""

    config: RunConfig
    catalog: Catalog
    strategy: Strategy
    start: Strategy | None  # what chooses the seed set, where that needs a network
    oracle: Oracle
    run: Store
    pool_rows: Rows  # (n,) int64 ascending: held out, labeled or not
    pool: Pool  # validation set held out, seed set labeled (unless `start` is still to choose it)
    pool_counts: list[int] | None  # images per class of the whole pool, where the source knows
    test_rows: Rows
    test_labels: Labels
    notes: str  # what a person should read before the run: which weights were loaded

    @property
    def needs_pretext(self) -> bool:
        """Whether pretext losses are needed, by the strategy or for the seed set."""
        return any(PRETEXT_LOSS in kind.needs for kind in (self.strategy, self.start) if kind is not None)


def prepare(config: RunConfig, oracle: Oracle | None = None, strategy: Strategy | None = None) -> Prepared:
    """Check and open everything. Raises ConfigError, CatalogError, SplitError, RunError, SelectionError, StoreError."""
    strategy = strategy or _build(config, config.strategy, config.strategy_options)
    start = _start(config)
    Store(absolute(config.run_dir or config.root)).check_writable()
    catalog = _open_catalog(config)
    _check_networks(config, catalog, strategy)
    notes = _check_model(config, catalog)
    test_rows, candidates = _test_and_pool_rows(config, catalog)
    _check_sizes(config, len(candidates))
    if config.rounds > 1:
        check_strategy(strategy, config.budget, len(candidates) - config.split.val_size - config.split.seed_set_size)
        check_round(strategy, config.rounds - 2 + (config.split.seed_set_how == "pretext"))
    run = _open_run(config, catalog)
    masks = config.task == "segmentation"
    oracle = oracle or HiddenLabels(np.zeros(len(catalog), np.int32) if masks else catalog.labels())
    if masks:
        check_masks(masks_of(config.data, catalog), catalog, np.union1d(candidates, test_rows))
    pool = _split(config, catalog, candidates, oracle, run)
    hidden = catalog.labels()
    in_pool = hidden[candidates]
    counts = None if (in_pool < 0).any() else np.bincount(in_pool, minlength=len(catalog.classes)).tolist()
    return Prepared(
        config, catalog, strategy, start, oracle, run, candidates, pool, counts, test_rows, hidden[test_rows], notes
    )


def _build(config: RunConfig, name: str, options: Mapping[str, Any]) -> Strategy:
    return (build_for_segmentation if config.task == "segmentation" else build)(name, options)


def _start(config: RunConfig) -> Strategy | None:
    """What chooses a seed set that is not drawn at random: PT4AL's first round with its options, or k-means."""
    if config.split.seed_set_how == "pretext":
        return _build(config, "pt4al", config.strategy_options if config.strategy == "pt4al" else {})
    return build("k_means") if config.split.seed_set_how == "k_means" else None


def _check_networks(config: RunConfig, catalog: Catalog, strategy: Strategy) -> None:
    """Networks beside the main one: that there are images for them, and a task that was asked for."""
    how, task = config.split.seed_set_how, config.pretext.task
    needs = (strategy.needs & MEASURED) | ({PRETEXT_LOSS} if how == "pretext" else set())
    if config.pretext.as_backbone:
        needs = needs | {PRETEXT_LOSS}
    if catalog.format == "embeddings":
        _check_brought(config, catalog, needs)
        return
    if PRETEXT_LOSS in needs and task == "none":
        raise ConfigError(
            f"pretext.task: strategy {config.strategy}, seed set {how}, as_backbone {config.pretext.as_backbone} need "
            "a pretext task, got none; expected rotation, colorization, simsiam or simclr"
        )
    if config.pretext.as_backbone and (config.model.checkpoint or config.model.pretrained):
        raise ConfigError(
            "pretext.as_backbone: the model has weights already: expected no model.checkpoint, no pretrained"
        )
    weights = config.model.checkpoint or config.model.pretrained or config.pretext.as_backbone
    if how == "k_means" and catalog.format != "embeddings" and not weights:
        raise ConfigError(
            "split.seed_set_how: k_means clusters the starting weights' embeddings, got a model without weights; give "
            "model.checkpoint, model.pretrained or pretext.as_backbone"
        )
    if PRETEXT_LOSS in needs:
        from alray.pretext import build as pretext

        pretext(config.pretext, config.model, 0, config.transform.size)


def _check_brought(config: RunConfig, catalog: Catalog, needs: frozenset[str]) -> None:
    """Embeddings without images: nothing can be measured of them, but pretext losses may have been brought, too."""
    if needs <= ({PRETEXT_LOSS} if catalog.has_pretext_loss else frozenset()):
        if needs and (config.pretext.task != "none" or config.pretext.as_backbone):
            raise ConfigError(
                f"pretext: the source brings its own pretext losses, expected task none and no backbone of it, got "
                f"task {config.pretext.task}, as_backbone {config.pretext.as_backbone}"
            )
        return
    raise ConfigError(
        f"strategy {config.strategy}, seed set {config.split.seed_set_how}: {', '.join(sorted(needs))} is measured of "
        "images, but the source has only embeddings; expected images (or, for pt4al, an array pretext_loss)"
    )


def _open_catalog(config: RunConfig) -> Catalog:
    data = config.data
    what = data.model_dump(
        include={"root", "test_root", "format", "key", "label_column", "image_column", "on_problem", "classes"}
    )
    default = join(absolute(config.root), "catalogs", f"{config.name}-{fingerprint(what)}")
    catalog = ensure_catalog(data, default)
    if not catalog.classes:
        raise RunError(
            f"{catalog.uri}: the catalog has no classes, and a run needs to know which there are; name them in "
            "data.classes (and index again, where there is a catalog already)"
        )
    return catalog


def _check_model(config: RunConfig, catalog: Catalog) -> str:
    """Build the model once, here: a wrong name or checkpoint is found before any worker starts. Returns what was
    loaded."""
    if catalog.format == "embeddings" and config.train.mode != "linear":
        raise ConfigError(
            "train.mode: brought-in embeddings have no images to fine-tune on; expected linear, got finetune"
        )
    if (
        config.train.mode == "linear"
        and catalog.format != "embeddings"
        and not (config.model.checkpoint or config.model.pretrained or config.pretext.as_backbone)
    ):
        raise ConfigError(
            "model.checkpoint: linear evaluation needs a pretrained backbone (self-supervised weights), got none; "
            "give model.checkpoint, model.pretrained, pretext.as_backbone, or train.mode finetune"
        )
    if catalog.format == "embeddings":
        return ""
    # torch and timm take seconds to import: only where images are
    from alray.models.backbone import create
    from alray.models.segmenter import create_segmenter

    make = create_segmenter if config.task == "segmentation" else create
    report = make(config.model, len(catalog.classes), model_seed(config), config.transform.size).report
    return str(report) if report else ""


def _test_and_pool_rows(config: RunConfig, catalog: Catalog) -> tuple[Rows, Rows]:
    labels, is_test = catalog.labels(), catalog.is_test()
    if config.split.test_share and is_test.any():
        raise ConfigError(
            f"split.test_share: the source has a test split of {int(is_test.sum())} images already, expected 0, "
            f"got {config.split.test_share}"
        )
    test = np.flatnonzero(is_test)
    rows = np.flatnonzero(~is_test)
    if config.split.test_share:
        # Fixed for the data, not for the seed: all runs on this source report on the same images.
        test = splits.draw_random(rows, round(len(rows) * config.split.test_share), 0, "test")
        rows = np.setdiff1d(rows, test, assume_unique=True)
    if config.data.train_list:
        lines = read_bytes(absolute(config.data.train_list)).decode().splitlines()
        rows = np.intersect1d(rows, splits.from_list(catalog.keys(), lines, config.data.train_list))
    shape = config.data.imbalance
    if shape.kind != "none":
        rows = splits.imbalance(rows, labels[rows], shape.kind, shape.factor, config.seed, len(catalog.classes))
    known = np.full(len(test), config.task == "segmentation") | (labels[test] >= 0)
    return test[known], rows


def _check_sizes(config: RunConfig, pool: int) -> None:
    bought = (config.rounds - 1) * config.budget
    needed = config.split.val_size + config.split.seed_set_size + bought
    if needed > pool:
        raise ConfigError(
            f"budget: the pool has {pool:,} images, but the run needs {needed:,}: validation "
            f"{config.split.val_size:,}, seed set {config.split.seed_set_size:,}, and {config.rounds - 1} x "
            f"{config.budget:,} to buy"
        )


def _open_run(config: RunConfig, catalog: Catalog) -> Store:
    mine = identity(config, catalog.fingerprint, weights_fingerprint(config.model.checkpoint))
    mark = fingerprint(mine)
    uri = config.run_dir or join(config.root, f"{config.name}-{mark}")
    run = Store(absolute(uri))
    if run.has(RUN):
        theirs = run.read_json(RUN)["identity"]
        if theirs != mine:
            raise RunError(
                f"{run.uri} belongs to another configuration:\n" + "\n".join(differences(theirs, mine)) + "\n"
                "Use another run_dir (or none), or remove the directory."
            )
    else:
        run.check_writable()
    run.write_bytes(CONFIG, config.to_json().encode())
    if not run.has(RUN):
        run.write_json(
            RUN,
            {
                "name": config.name,
                "fingerprint": mark,
                "classes": list(catalog.classes),
                "catalog": catalog.uri,
                "identity": mine,
                "versions": {name: version(name) for name in ("ray", "torch", "timm", "numpy", "pyarrow")},
                "machine": {
                    "python": platform.python_version(),
                    "system": platform.system(),
                    "cpu": platform.machine(),
                },
            },
        )
    return run


def differences(there: Any, here: Any, path: str = "") -> list[str]:
    """The fields in which two JSON trees differ, a line each."""
    if isinstance(there, dict) and isinstance(here, dict):
        names = sorted(there.keys() | here.keys())
        return [line for n in names for line in differences(there.get(n), here.get(n), f"{path}.{n}" if path else n)]
    return [] if there == here else [f"  {path}: {there!r} there, {here!r} here"]


def _split(config: RunConfig, catalog: Catalog, candidates: Rows, oracle: Oracle, run: Store) -> Pool:
    """The pool with its validation and seed set: read if they were written down, else drawn, asked for and written."""
    if not run.has(SPLITS):
        held_out, seed_set = _draw(config, catalog, candidates)
        rows = np.concatenate([held_out, seed_set])
        role = ["held_out"] * len(held_out) + ["seed"] * len(seed_set)
        run.write_table(
            SPLITS, pa.table({"row": rows, "role": pa.array(role, pa.string()), "label": oracle.answer(rows)})
        )
    table = run.read_table(SPLITS)
    rows, labels = table["row"].to_numpy(), table["label"].to_numpy()
    seed = np.asarray(table["role"].to_pylist()) == "seed"
    # A mask is one fact: "labeled" is the only class that an image of many classes can have.
    pool = Pool.of(len(catalog), candidates, 1 if config.task == "segmentation" else len(catalog.classes))
    pool = pool.hold_out(rows[~seed], labels[~seed]).label(rows[seed], labels[seed])
    if not run.has(SEED_SET):
        return pool
    chosen = run.read_table(SEED_SET)
    return pool.label(chosen["row"].to_numpy(), chosen["label"].to_numpy())


def _draw(config: RunConfig, catalog: Catalog, candidates: Rows) -> tuple[Rows, Rows]:
    split, seed, classes = config.split, config.seed, len(catalog.classes)
    labels = catalog.labels()
    if split.val_how == "balanced" and split.val_size:
        held_out = splits.draw_balanced(
            candidates, labels[candidates], split.val_size, seed, "val", classes, split.val_max_class_share
        )
    else:
        held_out = splits.draw_random(candidates, split.val_size, seed, "val")
    rest = np.setdiff1d(candidates, held_out, assume_unique=True)
    if split.seed_set_how in ("pretext", "k_means"):
        return held_out, rest[:0]  # chosen when there is a network
    if split.seed_set_how == "balanced":
        return held_out, splits.draw_balanced(rest, labels[rest], split.seed_set_size, seed, "seed_set", classes)
    return held_out, splits.draw_random(rest, split.seed_set_size, seed, "seed_set")
