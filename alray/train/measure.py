"""Measuring images: embeddings by the main model, other columns by other networks, with leases and progress bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from alray import keyed
from alray.cluster import Joined
from alray.config import Dtype, RunConfig
from alray.data.catalog import Catalog
from alray.data.pool import Rows
from alray.features.measures import Extraction, Features, ModelSource
from alray.features.table import MANIFEST, FeatureTable, write_arrays
from alray.lease import lease
from alray.progress import Stages
from alray.store import Store, join, weights_fingerprint


def model_seed(config: RunConfig) -> int:
    """Seed of fresh weights: the same for every round and strategy of a seed."""
    return keyed.stream_key(config.seed, "weights") % 2**31


@contextmanager
def watched(stages: Stages, name: str, epochs: int, detail: str) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Context manager: shows a training with a bar of its epochs; yields the callback for its progress messages."""
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
    """A user's embeddings (.npz) as a feature table, in their own type (float16 or float32)."""
    store = Store(join(folder, catalog.fingerprint))
    if store.has(MANIFEST):
        return FeatureTable.open(store.uri)
    embedding = catalog.embedding()
    dtype: Dtype = "float16" if embedding.dtype == np.float16 else "float32"
    rows = np.arange(len(catalog), dtype=np.int64)
    return write_arrays(store, rows, embedding, dtype, catalog.fingerprint)


def embeddings(config: RunConfig, catalog: Catalog) -> Extraction:
    """The embeddings of the whole catalog by the model of the configuration."""
    rows = np.arange(len(catalog), dtype=np.int64)
    measure = Features(model_source(config, catalog, None), config.transform, config.features, with_logits=False)
    return Extraction(catalog, rows, measure, config.features.part_rows)


def measured(extraction: Extraction, folder: str) -> FeatureTable | None:
    """What has been measured into folder/<fingerprint>; None where it has not, or not to the end."""
    out = Store(join(folder, extraction.fingerprint))
    return FeatureTable.open(out.uri) if out.has(MANIFEST) else None


def extract_images(
    config: RunConfig,
    catalog: Catalog,
    joined: Joined,
    rows: Rows,
    weights: str | None,
    folder: str,
    stages: Stages,
    with_logits: bool,
) -> FeatureTable:
    """Embed rows with the model of the configuration, or with a round's own weights, into folder/<fingerprint>."""
    measure = Features(model_source(config, catalog, weights), config.transform, config.features, with_logits)
    return measure_images(Extraction(catalog, rows, measure, config.features.part_rows), folder, joined, stages)


def model_source(config: RunConfig, catalog: Catalog, weights: str | None) -> ModelSource:
    """The model of the configuration, or one with a round's own weights, as actors load it."""
    return ModelSource(
        config.model,
        len(catalog.classes),
        model_seed(config) if weights else 0,  # a frozen backbone has no fresh weights: one extraction serves all seeds
        weights or "",
        weights_id=weights_fingerprint(weights or config.model.checkpoint),
        image_size=config.transform.size,
    )


def measure_images(extraction: Extraction, folder: str, joined: Joined, stages: Stages) -> FeatureTable:
    """Measure into folder/<fingerprint>. If another run is measuring the same images, wait for it.

    What has been measured already needs no cluster, and neither Ray nor torch.
    """
    if known := measured(extraction, folder):
        return known
    from alray.features.extract import Measurers, extract

    out = Store(join(folder, extraction.fingerprint))
    resources = joined.resources
    measurers = joined.keep("measurers", lambda cluster: Measurers(resources.extract_actors, cluster.use_gpu))

    def waiting(holder: str) -> None:
        stages.print_line(f"extract · {holder} measures these images: waiting for it")

    with lease(out, waiting), stages.bar("extract", len(extraction.rows), "images") as bar:
        return extract(
            extraction, out, measurers=measurers, decode_cpus=resources.decode_cpus,
            share=joined.share(stages.print_line), advance=bar,
        )  # fmt: skip
