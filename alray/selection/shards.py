"""The places where the shards of a selection live: this process, or one Ray actor per shard (contract C5).

A shard's state is made in the worker from the shard's source on the first call, and made again when the worker is lost.
A dead actor costs time and changes no pick. Ray is imported only where actors are asked for.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np

from alray import cluster, demand
from alray.cluster_state import alive
from alray.config import ResourceConfig
from alray.features.arrays import ArraySource, ShardSource
from alray.features.table import FeatureError
from alray.lost_nodes import LOOK, Loss
from alray.lost_workers import told_losses
from alray.models.no_gpu import for_workers
from alray.reservation import ANYBODY, Reservation, Share, after_loss, in_trial, part_of_trial, reserve
from alray.selection.in_process import InProcess, ShardWorker
from alray.selection.labeled_rows import dealt, joined, read
from alray.selection.one_thread import OneThread
from alray.selection.protocol import Context, SelectionError, Strategy
from alray.store import StoreError
from alray.stragglers import Stragglers

_ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
_OURS = (SelectionError, FeatureError, StoreError)
WORKERS = ("process", "ray")
_LARGE = 1 << 16  # bytes: larger arguments go through the object store, once for all actors


class RayActors:
    """One actor per shard, spread over the nodes. Dead actors are restarted; all are released when the context ends.

    All actors are in one reservation. Each has a share of a GPU where the run and the strategy use GPUs and there is
    room for all; an actor without one uses none. If one of the nodes is lost and no other node has room at once,
    everything is given back, waited for and started again: actors that hold CPUs never wait for more of them.
    """

    def __init__(
        self,
        sources: Sequence[ShardSource],
        strategy: Strategy,
        context: Context,
        num_cpus: float = 1,
        share: Share = ANYBODY,
        use_gpu: bool = False,
    ) -> None:
        self._given, self.context = (sources, strategy), context
        self._cpus, self._share, self._use_gpu = num_cpus, share, use_gpu and strategy.uses_gpu
        self._held = ExitStack()  # until the actors end
        self._whole, self._one = ExitStack(), OneThread()  # until the context ends
        self._reservation: Reservation | None = None
        self._actors: list[Any] = []

    def __enter__(self) -> RayActors:
        import ray

        sources, strategy = self._given
        try:
            self._start()
            self._sources = [ray.put(source) for source in sources]
            self.context = replace(self.context, labeled=self._labeled())
            self._shared = ray.put((strategy, replace(self.context, peek=None, pretext=None)))
        except BaseException:
            self._end()
            raise
        self._whole.enter_context(self._one)
        return self

    def _labeled(self) -> ShardSource | None:
        """The labeled rows as arrays, read by the shards in whose files they are, else by this process."""
        sources, strategy = self._given
        if self.context.labeled is None:
            return None
        pieces = dealt(self.context.labeled, sources)
        if not pieces:
            return read(self.context.labeled, strategy)
        return joined(self._ask_each(lambda at, actor: actor.read.remote(pieces[at], strategy)))

    def _start(self) -> None:
        import ray

        needed = self._needed()
        gpus = needed.workers[0].get("GPU", 0.0)
        self._held.enter_context(told_losses("select", self._share.say))
        self._reservation = self._held.enter_context(reserve(self._share, "select", needed))
        self._actors = [
            ray.remote(_Actor)
            .options(
                num_cpus=self._cpus,
                num_gpus=gpus,
                scheduling_strategy=self._reservation.worker(number),
                max_restarts=-1,
                max_task_retries=-1,
                runtime_env={"env_vars": {**_ONE_THREAD, **for_workers(gpus)}},
            )
            .remote()
            for number in range(self._reservation.workers)
        ]

    def _needed(self) -> demand.Demand:
        """What the actors need of the nodes that are alive, or of what a trial of a sweep holds already."""
        shards = len(self._given[0])
        without = demand.selection(shards, self._cpus)
        if not self._use_gpu:
            return without
        if in_trial():  # its training workers had a GPU each; another one would be waited for outside of the trial
            inside = demand.selection(shards, self._cpus, gpus=1.0)
            return without if part_of_trial(inside) is None else inside
        return demand.selection(shards, self._cpus, demand.gpus_per_shard(alive(), shards, self._cpus))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        self._whole.close()
        self._sources, self._shared = [], None

    def _end(self) -> None:
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
        self._held.close()

    def map(self, method: str, *args: Any) -> list[Any]:
        """One answer per shard. An error of alray that was raised in an actor is raised again with its own type."""
        answers = self._ask("call", method, *args)
        self._one.here()
        return answers

    def report_progress(self, picks: int) -> None:
        """No-op: `Metered` reports progress."""

    def sizes(self) -> list[int]:
        """Rows per shard."""
        return self._ask("size")

    def accounts(self) -> list[dict[str, float]]:
        """The account of each shard's work, see `ShardWorker.account`."""
        return self._ask("account")

    def pids(self) -> list[int]:
        """Process id of each actor."""
        return self._ask("pid")

    def _ask(self, name: str, *args: Any) -> list[Any]:
        import ray

        args = tuple(ray.put(value) if _large(value) else value for value in args)  # stored once for all actors
        return self._ask_each(lambda at, actor: actor.ask.remote(self._shared, self._sources[at], name, *args))

    def _ask_each(self, call: Callable[[int, Any], Any]) -> list[Any]:
        """One answer per shard. call: begins the call of one actor, by its number."""
        from ray.exceptions import RayTaskError

        answers: dict[int, Any] = {}
        try:
            while len(answers) < len(self._actors):
                left = [number for number in range(len(self._actors)) if number not in answers]
                self._collect({call(at, self._actors[at]): at for at in left}, answers)
            return [answers[number] for number in range(len(answers))]
        except RayTaskError as error:
            if isinstance(error.cause, _OURS):
                raise error.cause from None  # the message is enough; Ray's traceback would hide it
            raise

    def _collect(self, waiting: dict[Any, int], answers: dict[int, Any]) -> None:
        """Fetch answers while other shards still work. Ends early if the actors were started again."""
        import ray

        assert self._reservation is not None
        loss, late = Loss(self._reservation), Stragglers(self._share.say, "select", "shards")
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=LOOK)
            if ready:
                answers[waiting.pop(ready[0])] = ray.get(ready[0])
                late.answered()
            elif loss.lasts():
                self._share.say("select · a node with shards is gone, and no other has room for them: starting again")
                self._end()
                with after_loss():
                    self._start()
                return
            else:
                late.waiting(list(waiting.values()), self._reservation.addresses)


class _Actor:
    """A worker in a process of its own. Every call carries (by reference) what a restarted process needs to begin."""

    def __init__(self) -> None:
        self._worker: ShardWorker | None = None

    def read(self, piece: ShardSource, strategy: Strategy) -> ArraySource:
        return read(piece, strategy)

    def ask(self, shared: tuple[Strategy, Context], source: ShardSource, name: str, *args: Any) -> Any:
        if self._worker is None:
            self._worker = ShardWorker(source, *shared)
        return getattr(self._worker, name)(*args)


def _large(value: Any) -> bool:
    columns = [value] if isinstance(value, np.ndarray) else getattr(value, "columns", {}).values()
    return sum(column.nbytes for column in columns) > _LARGE


def share_of_cpus(shards: int) -> float:
    """CPUs per actor with which so many actors fit the cluster: 1, 1/2, 1/3, ... Starts Ray where it is not running."""
    import ray

    if not ray.is_initialized():
        cluster.start(ResourceConfig())
    cpus = [node.get("CPU", 0.0) for node in alive()]
    on_one = next((n for n in range(1, 10_000) if sum(int(n * each) for each in cpus) >= shards), 10_000)
    return (10_000 // on_one) / 10_000  # Ray counts in steps of 1e-4


class Metered:
    """Shards with an account of the exchanges with them, and with a callback for progress."""

    def __init__(self, shards: InProcess | RayActors, watch: Callable[[int], None]) -> None:
        self._shards, self._watch = shards, watch
        self._start, self._driver = time.perf_counter(), time.process_time()
        self._exchanges, self._waited, self._here = 0, 0.0, 0.0

    def map(self, method: str, *args: Any) -> list[Any]:
        """One answer per shard."""
        start, cpu = time.perf_counter(), time.process_time()
        answers = self._shards.map(method, *args)
        self._exchanges += 1
        self._waited += time.perf_counter() - start
        self._here += time.process_time() - cpu
        return answers

    def report_progress(self, picks: int) -> None:
        """Forward the number of picks to the callback."""
        self._watch(picks)

    def account(self) -> dict[str, Any]:
        """The number of exchanges; wall seconds of the whole selection and of the exchanges (with the shards' work in
        them); CPU seconds of the driver's own decisions and of all shards; peak memory in bytes of the driver and of
        each shard; rows and bytes that the shards read, a row that is read twice counted twice; the sums of their other
        counters."""
        shards = self._shards.accounts()
        counted = sorted({name for shard in shards for name in shard} - {"cpu_seconds", "peak_bytes"})
        return {
            "exchanges": self._exchanges,
            "wall_seconds": round(time.perf_counter() - self._start, 3),
            "exchange_seconds": round(self._waited, 3),
            "merge_cpu_seconds": round(time.process_time() - self._driver - self._here, 3),
            "arithmetic_cpu_seconds": round(sum(shard["cpu_seconds"] for shard in shards), 3),
            "driver_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "shard_peak_bytes": [int(shard["peak_bytes"]) for shard in shards],
            **{name: int(sum(shard.get(name, 0) for shard in shards)) for name in counted},
        }


def open_shards(
    workers: str,
    sources: Sequence[ShardSource],
    strategy: Strategy,
    context: Context,
    num_cpus: float = 1,
    share: Share = ANYBODY,
    use_gpu: bool = False,
) -> InProcess | RayActors:
    """The shards in this process ("process") or on actors ("ray"), with GPUs if the strategy and the run use them."""
    assert workers in WORKERS
    if workers == "ray":
        return RayActors(sources, strategy, context, num_cpus, share, use_gpu)
    return InProcess(sources, strategy, context)
