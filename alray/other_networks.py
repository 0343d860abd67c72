"""Check what a run needs of networks besides the main one: a pretext task, VAAL, and embeddings before any training."""

from __future__ import annotations

from alray.cold_start import SeedSet
from alray.config import ConfigError, RunConfig
from alray.data.catalog import Catalog
from alray.features.arrays import EMBEDDING, PRETEXT_LOSS
from alray.selection.protocol import Strategy
from alray.train.columns import MEASURED


def check_networks(config: RunConfig, catalog: Catalog, strategy: Strategy, seed_set: SeedSet) -> bool:
    """Check that networks besides the main one have images, and that a needed pretext task is configured. Returns
    whether the run needs the network of a pretext task. Raises ConfigError. It needs no PyTorch."""
    task, needs = config.pretext.task, (strategy.needs | seed_set.needs) & MEASURED
    if config.pretext.as_backbone:
        needs = needs | {PRETEXT_LOSS}
    if catalog.provided_columns:
        _check_without_images(config, catalog, needs)
        return False
    if PRETEXT_LOSS in needs and task == "none":
        raise ConfigError(
            f"pretext.task: strategy {config.strategy}, seed set {seed_set.how}, as_backbone "
            f"{config.pretext.as_backbone} need a pretext task, got none; expected rotation, colorization, simsiam or "
            "simclr"
        )
    if config.pretext.as_backbone and (config.model.checkpoint or config.model.pretrained):
        raise ConfigError(
            "pretext.as_backbone: expected a model without weights, got model.checkpoint or model.pretrained"
        )
    weights = config.model.checkpoint or config.model.pretrained or config.pretext.as_backbone
    if EMBEDDING in seed_set.needs and not weights:
        raise ConfigError(
            f"split.seed_set_how: {seed_set.how} reads embeddings before any training, expected a model with weights, "
            "got none; set model.checkpoint, model.pretrained or pretext.as_backbone"
        )
    if PRETEXT_LOSS in needs:
        _check_batch(config)
    return PRETEXT_LOSS in needs


def _check_batch(config: RunConfig) -> None:
    """BatchNorm needs more than one image of a worker's part of a batch."""
    size, workers = config.pretext.batch_size, config.resources.train_workers
    least = 1 if workers == "auto" else workers
    if size < 2 * least:
        raise ConfigError(
            f"pretext.batch_size: expected at least 2 images for each of {least} training workers, got {size}"
        )


def _check_without_images(config: RunConfig, catalog: Catalog, needs: frozenset[str]) -> None:
    """Check a run on the user's own embeddings: nothing can be measured, but they may come with pretext losses."""
    if config.pretext.task != "none" or config.pretext.as_backbone:
        raise ConfigError(
            "pretext: a task needs images, but the source has only embeddings (and possibly losses): expected task "
            f"none and as_backbone False, got task {config.pretext.task}, as_backbone {config.pretext.as_backbone}"
        )
    if needs <= catalog.provided_columns:
        return
    raise ConfigError(
        f"strategy {config.strategy}, seed set {config.split.seed_set_how}: {', '.join(sorted(needs))} is measured on "
        "images, but the source has only embeddings; expected images (or, for pt4al, an array pretext_loss)"
    )
