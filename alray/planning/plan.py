"""The plan of a run: amounts from its configuration and catalog, times from a probe of some seconds.

Times are of a run that stops no training early and finds nothing done by another run. A stage takes as long as the
slowest of its parts: the replicas of the model, the tasks that decode, and, without GPUs, the processor that they
share.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

import numpy as np
import pyarrow.compute as pc

from alray.cluster import Cluster, Joined, driver_takes_no_gpu, logical_cpus, named
from alray.data.pool import Rows
from alray.demand import Settled
from alray.durations import duration
from alray.features.arrays import DISCRIMINATOR, EXTRACTED
from alray.joining import join
from alray.labeling.state import masks
from alray.planning.epochs import passes
from alray.planning.probe import Probe, Speed, Start
from alray.planning.result import Plan
from alray.planning.room import lacking
from alray.planning.selecting import select_seconds
from alray.planning.starts import CLUSTER, EXTRACT, EXTRACT_AGAIN, SELECT, TRAIN, Starts, report_seconds
from alray.prepare import Checked
from alray.reasons import in_bytes
from alray.rundir import PLAN, RunDir
from alray.selection.protocol import LABELED, Context
from alray.stop import Standing, Stop
from alray.store import Store
from alray.train.objective import Recipe

_DRIVER_ROW_BYTES = 16
_BUSY = 2.0  # a start that takes so many times its CPU seconds tells that the machine does other work
_DTYPES = {"float16": 2, "bfloat16": 2, "float32": 4}


def plan(found: Checked, joined: Joined | None = None, start: float | None = None) -> Plan:
    """Probe a checked configuration and plan its run.

    joined: the cluster of the run; it is joined only if resources.address or RAY_ADDRESS names one. start: CPU seconds
    of starting a worker; None: they are measured. Raises ImageError and what building the network raises.
    """
    return _Planner(found, joined or join(found), start).plan()


def plan_once(found: Checked, run: RunDir, say: Callable[[str], None]) -> None:
    """Plan a run that begins, say it in a line, and keep it in the run's directory. A run goes on without a plan where
    the probe meets what only the run itself can judge, such as a damaged image. Training is measured on
    masks that people drew so far, too."""
    if run.noted(PLAN) is not None:
        return
    try:
        made = plan(replace(found, catalog=replace(found.catalog, masks=masks(run))))
    except ValueError as error:
        say(f"plan: none was made: {error}")
        return
    run.note(PLAN, made.to_json())
    stages = ", ".join(f"{name} {duration(sum(values))}" for name, values in made.seconds.items())
    say(f"plan: about {duration(made.total)} ({stages}), {in_bytes(made.feature_bytes)} of features on disk")
    for line in (*made.unknown, *made.problems):
        say(f"plan: {line}")


class _Planner:
    def __init__(self, found: Checked, joined: Joined, start: float | None) -> None:
        self.found, self.config, self.catalog = found, found.config, found.catalog
        self.learner = found.learner(found.config, found.catalog, joined)
        self.cluster, resources = _cluster(joined, found)
        self.train_workers, self.actors = resources.train_workers, resources.extract_actors
        self.shards = resources.select_shards
        self.cores = self.cluster.cpus if _named_cluster(found) else float(os.cpu_count() or 1)
        threads = int(resources.cpus_per_train_worker)
        on_gpu = self.cluster.use_gpu and not driver_takes_no_gpu(self.config.resources)
        self.probe = Probe(found.catalog, found.pool_rows, on_gpu, threads)
        self.measuring = Probe(found.catalog, found.pool_rows, on_gpu, 1)
        self.starting = Start() if start is None and self._on_ray() else None
        self._start = start or 0.0
        self.read, self.unknown = 0.0, list[str]()
        self.rounds = self._rounds()
        self.offered = [*map(self._window, range(self.rounds - 1)), 0]  # the last round chooses none

    def plan(self) -> Plan:
        found, rounds = self.found, range(self.rounds)
        measure = self.learner.trial_measure()
        embed = None if measure is None else self.measuring.measuring(measure)
        width = self.learner.width()
        embedded = [self._embedded(number) for number in rounds]
        seconds: dict[str, list[float]] = {}
        seconds["pretext"] = self._once(self._pretext())
        if embed is not None:
            often = [len(self.catalog)] + [0] * (len(rounds) - 1) if found.learner.frozen else embedded
            seconds["extract"] = [self._extract(embed, count, number > 0) for number, count in enumerate(often)]
        seconds["train"] = self._train(embed)
        seconds["vaal"] = self._vaal()
        seconds["select"] = [self._select(number, width) for number in rounds]
        if embed is not None and not len(found.task.embedded_test(found.test_rows)):
            seconds["evaluate"] = [self._extract(embed, len(found.test_rows), True) for _ in rounds]
        first = seconds[self._first_on_ray(seconds)]
        if first[0] and self._on_ray() and not _named_cluster(found):
            first[0] += self._begin(CLUSTER, 1)
        features = max([len(self.catalog)] if found.learner.frozen else embedded, default=0)
        bytes_of_row = self._bytes_of_row(width)
        shard = -(-max(embedded) // self.shards) * bytes_of_row if embedded else 0
        made = Plan(
            {"pool": len(found.pool_rows), "test": len(found.test_rows), "catalog": len(self.catalog)},
            int(self.read), features * bytes_of_row if embed is not None else 0, shard,
            _DRIVER_ROW_BYTES * len(self.catalog), 0 if embed is None else embed.device_bytes,
            {name: [round(value, 2) for value in values] for name, values in seconds.items() if any(values)},
            gpus=self.cluster.gpus if self.cluster.use_gpu else 0,
        )  # fmt: skip
        root = self.config.run_dir or self.config.root
        made.problems.extend(lacking(made, root, not _named_cluster(found)))
        made.unknown.extend(self.unknown)
        if self.cluster.use_gpu and self.probe.device.type == "cpu" and self._on_ray():
            made.unknown.append(
                "the models and the selection were measured on this machine's processor, because this process uses no "
                "GPU; the run uses GPUs of the cluster and takes less time"
            )
        if self.starting is not None and self.starting.slower > _BUSY:
            made.unknown.append(
                f"this machine does other work now: to start a process took {self.starting.slower:.1f} times its CPU "
                "seconds. The times are those of a machine that does nothing else"
            )
        return made

    def _first_on_ray(self, seconds: dict[str, list[float]]) -> str:
        """The stage that joins the cluster."""
        if seconds["pretext"][0]:
            return "pretext"
        learner = self.found.learner
        if not learner.trains_in_driver:
            return "train"
        return "extract" if "extract" in seconds else "select"

    def _on_ray(self) -> bool:
        """Whether the run starts processes of Ray's."""
        learner, resources = self.found.learner, self.config.resources
        in_driver = learner.trains_in_driver and self.learner.trial_measure() is None
        return not in_driver or resources.select_workers == "ray"

    @property
    def start(self) -> float:
        """CPU seconds of starting a worker."""
        return self._start if self.starting is None else self.starting.seconds

    def _rounds(self) -> int:
        """The number of rounds, as far as limits of labels and money tell. A target or a flat gain may end the run
        earlier."""
        seen: list[Standing] = []
        while not seen or not Stop(self.config).ends(seen):
            labels = self._labels(len(seen))
            seen.append(Standing(labels, labels + self.found.val_size, None))
        return len(seen)

    def _labels(self, number: int) -> int:
        labels, limit = self.found.seed_set.size + number * self.config.budget, self.config.stop.labels
        return min(labels, limit) if limit else labels

    def _unlabeled(self, number: int) -> Rows:
        count = len(self.found.pool_rows) - self.found.val_size - self._labels(number)
        if self.config.subset_unlabeled:
            count = min(count, self.config.subset_unlabeled)
        return np.arange(max(count, 0), dtype=np.int64)

    def _window(self, number: int) -> int:
        rows, strategy = self._unlabeled(number), self.found.strategy
        context = Context(0, self.found.seed_set.round_of(number), pretext=(rows, np.linspace(0, 1, len(rows))))
        return len(strategy.window(context, rows, self.config.budget))

    def _embedded(self, number: int) -> int:
        """Images that a round embeds."""
        test, needs = len(self.found.task.embedded_test(self.found.test_rows)), self._needs(number)
        if not needs & EXTRACTED:
            return test
        return self.offered[number] + test + (self._labels(number) if LABELED in needs else 0)

    def _needs(self, number: int) -> frozenset[str]:
        """What the selection of a round reads; the last round has none."""
        last = number == self.rounds - 1
        return frozenset() if last else self.found.strategy.needs_in(self.found.seed_set.round_of(number))

    def _stage(self, images: float, speed: Speed, replicas: int, read: bool = True) -> float:
        """Seconds of a stage over so many images. read: whether they are read from storage."""
        parts = [speed.compute / replicas, speed.decode / min(self._decoders(replicas), self.cores)]
        if not self.cluster.use_gpu:
            parts.append((speed.compute + speed.decode) / self.cores)
        self.read += images * self._bytes_of_image if read else 0.0
        return images * max(parts)

    def _epochs(self, speed: Speed, images: float, epochs: int, rows: float) -> float:
        """Seconds of all epochs of a training, of so many images each; rows: how many images it has in all."""
        workers, kept = self.train_workers, self.config.resources.kept_mib * 2**20
        parts = passes(
            speed, images, epochs, workers=workers, kept_bytes=kept, rows=rows, decoded=lambda: self.probe.decoded
        )
        return sum(self._stage(part.images, part.speed, workers, part.read) for part in parts)

    def _extract(self, speed: Speed, images: int, again: bool) -> float:
        if not images:
            return 0.0
        workers = self.actors + self._decoders(self.actors)
        return self._begin(EXTRACT_AGAIN if again else EXTRACT, workers) + self._stage(images, speed, self.actors)

    def _begin(self, starts: Starts, workers: float) -> float:
        """Seconds until the workers of a stage have started."""
        return self.start * starts.of(workers, self.cores)

    def _training(self, epochs: int, checkpoint_every: int) -> float:
        """Seconds of a training beside its images: until its workers have started, and while they report."""
        workers = self.train_workers + self._decoders(self.train_workers)
        reports = (epochs - 1) // checkpoint_every
        return self._begin(TRAIN, workers) + reports * report_seconds(not _named_cluster(self.found))

    def _decoders(self, replicas: int) -> float:
        """How many tasks decode at a time beside the replicas of a model."""
        return max(1.0, self.cluster.cpus - (0 if self.cluster.use_gpu else replicas))

    def _train(self, embed: Speed | None) -> list[float]:
        config, learner = self.config, self.learner
        numbers = range(self.rounds)
        if self.found.learner.trains_in_driver:
            most = self._labels(self.rounds - 1)
            one = learner.head_seconds(most) / most
            return [one * self._labels(number) for number in numbers]
        rows = learner.trial_rows(self.found.pool_rows)
        if not len(rows):
            self.unknown.append("the time of training is not in the plan: no image has a mask yet to measure it on")
            return [0.0 for _ in numbers]
        speed = replace(self.probe, rows=rows).training(self._trial)
        validation = 0.0
        if self.found.val_size and embed is not None:
            validation = self._stage(self.found.val_size, embed, self.train_workers)
        return [
            self._training(config.train.epochs, config.train.checkpoint_every)
            + self._epochs(speed, self._labels(number), config.train.epochs, self._labels(number))
            + config.train.epochs * validation
            for number in numbers
        ]

    def _trial(self, rows: Rows, out: Store) -> Recipe:
        recipe = self.learner.trial(rows, out)
        assert recipe is not None  # it trains on Ray, so on images
        return recipe

    def _pretext(self) -> float:
        if not self.found.trains_pretext:
            return 0.0
        from alray.train.pretext import PretextRecipe

        config, pool = self.config, len(self.found.pool_rows)
        speed = self.probe.training(
            lambda rows, out: PretextRecipe(config.pretext, config.model, config.transform, 0, rows, out)
        )
        once = Speed(speed.decode, speed.compute / 3)  # a measurement has no backward pass
        epochs = self._epochs(speed, pool, config.pretext.epochs, pool)
        begin = self._training(config.pretext.epochs, config.pretext.checkpoint_every)
        return begin + epochs + self._extract(once, pool, False)

    def _vaal(self) -> list[float]:
        config, rounds = self.config, self.rounds
        if DISCRIMINATOR not in self.found.strategy.needs:
            return [0.0] * rounds
        from alray.train.vaal import VaalRecipe

        def recipe(rows: Rows, out: Store) -> VaalRecipe:
            half = max(1, len(rows) // 2)
            return VaalRecipe(config.vaal, 0, 0, rows[:half], rows[half:], out)

        speed = self.probe.training(recipe)
        return [
            self._training(config.vaal.epochs, config.vaal.checkpoint_every)
            + self._epochs(speed, 2 * self._labels(number), config.vaal.epochs, len(self.found.pool_rows))
            + self._extract(Speed(speed.decode, speed.compute / 6), len(self._unlabeled(number)), True)
            for number in range(rounds - 1)
        ] + [0.0]

    def _select(self, number: int, width: int) -> float:
        if number == self.rounds - 1:
            return 0.0
        offered, budget = self.offered[number], min(self.config.budget, self.offered[number])
        classes = max(2, len(self.catalog.classes))
        took = select_seconds(self.found.strategy, offered, self._labels(number), budget, width, classes)
        on_ray = self.config.resources.select_workers == "ray"
        parts = min(self.shards, self.cores) if on_ray else 1
        return took / parts + (self._begin(SELECT, self.shards) if on_ray else 0.0)

    def _once(self, seconds: float) -> list[float]:
        return [seconds] + [0.0] * (self.rounds - 1)

    @cached_property
    def _bytes_of_image(self) -> float:
        sizes = pc.mean(self.catalog.references(self.found.pool_rows[:10_000])["size"]).as_py()
        return float(sizes or 0.0)

    def _bytes_of_row(self, width: int) -> int:
        features = self.config.features
        logits = 0 if self.found.learner.frozen else len(self.catalog.classes) * _DTYPES[features.logits_dtype]
        return width * _DTYPES[features.dtype] + logits


def _named_cluster(found: Checked) -> bool:
    return named(found.config.resources) != "local"


def _cluster(joined: Joined, found: Checked) -> tuple[Cluster, Settled]:
    """The cluster that the run names, or what one that is started here would have; and what the run takes of it."""
    if _named_cluster(found):
        return joined.cluster, joined.resources
    import torch

    resources = found.config.resources
    gpus, cpus = torch.cuda.device_count() if resources.use_gpu != "no" else 0, float(logical_cpus(resources))
    here = Cluster(cpus, gpus, gpus > 0)
    return here, joined.taken([{"CPU": cpus, "GPU": float(gpus)}], here.use_gpu)
