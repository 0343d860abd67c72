"""One reservation per stage: everything that the stage needs is one placement group of Ray's, granted as a whole.

Why runs that share a cluster cannot wait for each other without end: a group is granted with all its bundles or not at
all, a stage holds nothing while it waits for its group, and while it holds a group it waits for no other CPU or GPU:
its workers and the tasks that decode for it run inside the group. Whoever holds a group therefore comes to the end of
its stage and gives it back, after a failure and an interruption, too; Ray takes it back from a process that died. A
sweep keeps to the same rule: a trial is granted one group for its driver and for the largest of its stages, and its
stages run inside that group. Leases of files (`alray.lease`) are taken before a group is asked for, never after.

Ray grants what fits, so that a small demand passes a large one that waits. A stream of small ones would keep the large
one waiting without end. A stage therefore does not ask while another one has waited for ten minutes and would get what
it needs from stages that end: it lets that one go first, for at most ten minutes. It holds nothing meanwhile. Trials of
a sweep are started by Ray Tune and let nobody go first: a demand that needs what they hold waits for their end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from alray.cluster_state import (
    Returning,
    adds_nodes,
    alive,
    free_now,
    group_name,
    held_by,
    kept_waiting,
    nodes_of,
    state_of,
)  # fmt: skip
from alray.demand import Bundle, Demand, spoken, total
from alray.placement import Layout, loose, spread

_IN_PLACE = 20.0  # seconds in which another node may take the place of a lost one
PATIENCE = 5.0  # seconds before a wait is told
_APART = 8.0  # seconds for which a stage that is spread asks again if it did not get a part of every node
_GIVEN_BACK = 30.0  # seconds in which nodes give back what the stage before held, also on a busy machine
_SETTLE = 0.3  # seconds between
TURN = 10.0  # minutes after which who waits goes first, and for which others let it
_AGAIN = 60.0  # seconds until it is told again; then twice as many each time

_RETURNING = Returning()  # what the stage before held: a process has one stage at a time

log = logging.getLogger(__name__)


class ClusterError(RuntimeError):
    """A cluster cannot be joined, is too small for the run, or has had no room for it."""


class ClusterLost(ClusterError):  # noqa: N818  what happened
    """A cluster is gone, has lost what the run needs, or had no room in time: the same command goes on later, or on
    another cluster."""

    exit_code = 1


@dataclass(frozen=True)
class Share:
    """Who asks for a part of the cluster. name: of the run, for the messages of others. minutes: how long to wait.
    say: prints a line for the user."""

    name: str = "alray"
    minutes: float = 24 * 60
    say: Callable[[str], None] = log.warning


ANYBODY = Share()


@dataclass(frozen=True)
class Reservation:
    """A part of the cluster that belongs to one stage. group: a placement group of Ray's. bundles: the number of each
    worker's bundle. decoders: for how many there is room. own: whether the group has nothing but this stage."""

    group: Any
    bundles: tuple[int, ...]
    decoders: int
    own: bool = True

    @property
    def workers(self) -> int:
        """The number of workers."""
        return len(self.bundles)

    def worker(self, number: int) -> Any:
        """The scheduling strategy of a worker."""
        return _inside(self.group, self.bundles[number])

    def anywhere(self) -> Any:
        """The scheduling strategy of decoding tasks: wherever the group has CPUs left."""
        return _inside(self.group, -1)

    def nodes(self) -> list[str]:
        """The node of each worker, by its id in hexadecimal digits."""
        nodes = nodes_of(self.group)
        return [nodes[bundle] for bundle in self.bundles]

    def addresses(self) -> list[str]:
        """The address of each worker's node; "a lost node" where it is gone."""
        import ray

        found = {node["NodeID"]: str(node["NodeManagerAddress"]) for node in ray.nodes() if node["Alive"]}
        nodes = nodes_of(self.group)
        return [found.get(nodes.get(bundle, ""), "a lost node") for bundle in self.bundles]

    @property
    def whole(self) -> bool:
        """Whether no node of it is lost."""
        return state_of(self.group) == "CREATED"


@contextmanager
def reserve(share: Share, stage: str, demand: Demand) -> Iterator[Reservation]:
    """Context manager: waits until the cluster has room for the whole demand, and holds it while the body runs.

    In a trial of a sweep it is a part of what the trial holds. Raises ClusterError if the cluster can never have room
    for it (unless it adds nodes by itself), or has had none for so long that the share's minutes are over.
    """
    if (inside := part_of_trial(demand)) is not None:
        yield inside
        return
    nodes = alive()
    refuse_impossible(stage, [demand], nodes)
    _let_others_go_first(share, stage)
    asked = _Asked(share.name, stage, demand.filling(nodes), nodes)
    try:
        asked.wait(share)
        yield Reservation(asked.group, asked.layout.workers, asked.layout.decoders)
    finally:
        asked.end()


def _let_others_go_first(share: Share, stage: str) -> None:
    """Return when no other stage has waited for too long, or after some minutes."""
    began = enough = time.monotonic()
    told = ""
    while (others := kept_waiting(TURN)) and time.monotonic() - began < 60 * TURN:
        if served := [other for other, will_do in others if will_do]:
            enough = time.monotonic()
            if served[0] != told:
                told = served[0]
                share.say(f"{stage} · {told} has waited for more than {TURN:g} minutes: letting it go first")
        elif time.monotonic() - enough > _APART:  # longer than Ray needs to hear of what was given back
            return
        time.sleep(0.5)


class _Asked:
    """A placement group that was asked for and is waited for."""

    def __init__(self, run: str, stage: str, demand: Demand, nodes: Sequence[Bundle]) -> None:
        self._run, self._stage, self._demand = run, stage, demand
        self._since, self._too_few = time.time(), Lasting()
        self.group: Any = None
        self._ask(self._over(nodes) or loose(demand, demand.decoders))

    def _ask(self, layout: Layout) -> None:
        from ray.util import placement_group

        self.give_back()
        self.layout = layout
        self.group = placement_group(
            [dict(bundle) for bundle in layout.bundles],
            strategy=layout.strategy,
            name=group_name(self._run, self._stage, self._since, total(self._demand.least)),
        )

    def _over(self, nodes: Sequence[Mapping[str, float]]) -> Layout | None:
        """The layout with as many decoders as these nodes have room for; None if the stage cannot begin on them."""
        found = spread(self._demand, nodes)
        return found if found is None or self._demand.spread else loose(self._demand, found.decoders)

    def give_back(self) -> None:
        """Remove the group: what still runs in it ends."""
        import ray

        if self.group is not None and ray.is_initialized():
            ray.util.remove_placement_group(self.group)
        self.group = None

    def end(self) -> None:
        """Give back what the stage held."""
        import ray

        if self.group is not None and ray.is_initialized():
            _RETURNING.removing(self.group, _GIVEN_BACK)
        self.give_back()

    def wait(self, share: Share) -> None:
        """Wait until the group is granted. After some seconds what is free is asked for instead of the whole, if the
        stage can begin with it; but not while nodes still have to give back what a stage held that has ended."""
        waiting, began = Waiting(share, self._stage, total(self.layout.bundles)), time.monotonic()
        while True:
            granted = self.group.wait(1)
            if granted and (self._apart or (time.monotonic() - began > _APART and _RETURNING.done())):
                return
            if granted:  # the stage before has just ended, and Ray did not know yet that its nodes are free
                time.sleep(_SETTLE)
                self._ask(self.layout)
            elif waiting.on() and _RETURNING.done():
                self._refuse_lasting_loss()
                self._ask_for_less()

    def _refuse_lasting_loss(self) -> None:
        """Raise ClusterLost if nodes were lost while the stage waits, and those that are left can never do."""
        nodes = alive()
        if self._too_few.lasts(bool(self._demand.lacks(nodes))):
            with after_loss():
                refuse_impossible(self._stage, [self._demand], nodes)

    @property
    def _apart(self) -> bool:
        """Whether every node has its part, where that is wanted."""
        return not self.layout.apart or len({*nodes_of(self.group).values()}) == len(self.layout.bundles)

    def _ask_for_less(self) -> None:
        """Ask for what is free now. What is asked for stays if there is not enough for a beginning."""
        free = free_now()
        wanted = self._demand.fitting(total(free))
        if wanted is None:
            ways = [loose(self._demand, self._demand.decoders)]
        else:  # in turn: what Ray tells of the nodes may be old, and what is free may lie there in small pieces
            ways = [loose(self._demand, wanted), loose(self._demand, min(wanted, 1))]
            if (over := self._over(free)) is not None:
                ways.insert(0, over)
        ways = [way for at, way in enumerate(ways) if way not in ways[:at]]
        at = ways.index(self.layout) + 1 if self.layout in ways else 0
        if (following := ways[at % len(ways)]) != self.layout:
            self._ask(following)


class Lasting:
    """Whether a lack of nodes lasts, so that no other node has taken the place of a lost one in some seconds."""

    def __init__(self) -> None:
        self._since: float | None = None

    def lasts(self, lacking: bool) -> bool:
        """Call every few seconds. lacking: whether something is lacking now."""
        if not lacking:
            self._since = None
            return False
        self._since = self._since or time.monotonic()
        return time.monotonic() - self._since > _IN_PLACE


@contextmanager
def after_loss(lost: bool = True) -> Iterator[None]:
    """Context manager: where a node was lost, a cluster that is too small is no mistake of the user's: ClusterLost is
    raised instead of ClusterError."""
    try:
        yield
    except ClusterError as error:
        if not lost or isinstance(error, ClusterLost):
            raise
        raise ClusterLost(f"a node was lost, and the others are too few: {error}") from None


class Waiting:
    """Tells a wait after some seconds, and ends it after some minutes."""

    def __init__(self, share: Share, stage: str, wanted: Mapping[str, float]) -> None:
        self._share, self._stage, self._wanted = share, stage, wanted
        self._began = time.monotonic()
        self._tell, self._gap = self._began + PATIENCE, _AGAIN

    def on(self) -> bool:
        """Call about every second. Returns whether the wait is longer than a moment. Raises ClusterError."""
        now = time.monotonic()
        late = now - self._began > self._share.minutes * 60
        if now >= self._tell or late:
            text = f"waiting for {spoken(self._wanted)}: {held_by(self._wanted)}"
            if late:
                raise ClusterLost(
                    f"{self._stage}: {text}. That was so for {self._share.minutes:g} minutes "
                    "(resources.wait_minutes). Start it again when there is room, or let it need less "
                    "(resources.train_workers, extract_actors, select_shards)"
                )
            self._share.say(f"{self._stage} · {text}")
            self._tell, self._gap = now + self._gap, 2 * self._gap
        return now - self._began > PATIENCE


def refuse_impossible(stage: str, demands: Sequence[Demand], nodes: Sequence[Mapping[str, float]]) -> None:
    """Raise ClusterError if one of the demands can never be met: the cluster is too small and adds no nodes."""
    for demand in demands:
        if (lacking := demand.lacks(nodes)) and not adds_nodes():
            raise ClusterError(
                f"resources: {stage} {lacking} ({demand.told}). Let it need less (--resources.train-workers, "
                "--resources.extract-actors, --resources.select-shards, ...), or join a larger cluster"
            )


def in_trial() -> bool:
    """Whether this process is a trial of a sweep, which holds a group for all of its stages."""
    import ray

    return ray.util.get_current_placement_group() is not None


def part_of_trial(demand: Demand) -> Reservation | None:
    """The part of the trial's group that the demand can use; None outside of a trial, and where the group is not made
    for it. The first bundle is the driver's, unless the driver reserves nothing."""
    import ray

    group = ray.util.get_current_placement_group()
    if group is None:
        return None
    ahead = 1 if ray.get_runtime_context().get_assigned_resources() else 0
    bundles = group.bundle_specs[ahead:]
    if len(bundles) < len(demand.least) or not all(
        bundle.get(kind, 0.0) >= amount
        for needed, bundle in zip(demand.least, bundles, strict=False)
        for kind, amount in needed.items()
    ):
        return None
    first = tuple(range(ahead, ahead + len(demand.workers)))
    return Reservation(group, first, min(1, len(demand.least) - len(demand.workers)), own=False)


def _inside(group: Any, bundle: int) -> Any:
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    return PlacementGroupSchedulingStrategy(group, bundle)
