"""The cluster of a run: what the run takes of it is noted in its directory, and kept when the run goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from alray import node_check
from alray.cluster import Cluster, Joined
from alray.config import RunConfig
from alray.data.catalog import Catalog
from alray.data.pool import Rows
from alray.demand import COUNTED, Settled, most_workers
from alray.features.arrays import DISCRIMINATOR, EMBEDDING
from alray.prepare import Checked
from alray.rundir import RunDir


def join(found: Checked, run: RunDir | None = None) -> Joined:
    """The cluster of a run, which is joined at its first use. run: its directory; None if there is none yet."""
    config = found.config
    batches = [
        size
        for size, used in (
            (config.train.batch_size, not found.learner.trains_in_driver),
            (config.pretext.batch_size, found.trains_pretext),
            (config.vaal.batch_size, DISCRIMINATOR in found.measured),
        )
        if used
    ]

    def note(cluster: Cluster, taken: Settled) -> None:
        check_nodes(config, found.catalog, found.pool_rows)
        if run is not None:
            run.write_cluster({**asdict(cluster), **{name: getattr(taken, name) for name in COUNTED}})

    return _joined(config, run, note, most_workers(batches))


def rejoin(run: RunDir, config: RunConfig, catalog: Catalog, pool_rows: Rows) -> Joined:
    """The cluster for a command that uses the model of a run: it takes what the run has noted, and notes nothing. It
    writes to the run's directory only, which may have been moved."""
    here = config.model_copy(update={"root": "", "run_dir": run.uri})
    return _joined(config, run, lambda cluster, taken: check_nodes(here, catalog, pool_rows), 1)


def _joined(
    config: RunConfig, run: RunDir | None, told: Callable[[Cluster, Settled], None], most_workers: int
) -> Joined:
    noted = run.cluster() if run is not None else {}
    auto = [name for name in COUNTED if getattr(config.resources, name) == "auto"]
    kept = {name: noted.get(name, 1) for name in auto} if noted else {}  # earlier versions noted none, and took 1
    return Joined(config.resources.model_copy(update=kept), told, name=config.name, most_workers=most_workers)


def check_nodes(config: RunConfig, catalog: Catalog, pool_rows: Rows) -> None:
    """Raise ClusterError if a node of the cluster that was joined cannot work for the run (see `alray.node_check`)."""
    if not node_check.several():
        return
    written = {"root": config.root, "run_dir": config.run_dir}
    read = {"data.mask_root": config.data.mask_root, "model.checkpoint": config.model.checkpoint}
    if EMBEDDING not in catalog.provided_columns:  # else the driver reads them, and no node does
        read["data.root"] = catalog.references(pool_rows[:1])["uri"][0].as_py()
    node_check.check(*({name: place for name, place in places.items() if place} for places in (written, read)))
