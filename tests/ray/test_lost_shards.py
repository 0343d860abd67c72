"""A selection actor that dies or stands still, at every message of every strategy: the picks of one process."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import pytest
from test_selection_actors import CONTEXT, CPUS, STRATEGIES, inputs, sources

from alray.features.arrays import Shard
from alray.reservation import Share
from alray.selection.in_process import InProcess
from alray.selection.protocol import Context, Picks, Strategy
from alray.selection.select import select_from
from alray.selection.shards import RayActors

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.timeout(600)]
SHARDS, BUDGET = 2, 30
FAST = {"base", "k_center", "badge"}
AT = ("before the work", "before the answer", "between two messages")


class Order(TypedDict):
    """What happens to the actor of the shard with this first row when it gets the message: nothing if the mark is there
    already, so that the actor that is started in its place lives. stop: seconds for which it stands still; 0: it dies.
    A plain dictionary, because actors cannot import this file."""

    row: int
    mark: str
    at: str
    stop: float


def disturbed() -> Strategy:
    """All strategies at once, each on the shard with the columns it is asked for; it obeys an `Order`. Local classes
    travel by value."""
    strategies = STRATEGIES

    def obey(order: Order) -> None:
        try:
            open(order["mark"], "x").close()
        except FileExistsError:
            return
        again = f"sleep {order['stop']}; kill -CONT {os.getpid()}"
        if order["stop"]:
            subprocess.Popen(["sh", "-c", again], start_new_session=True)
        os.kill(os.getpid(), signal.SIGSTOP if order["stop"] else signal.SIGKILL)
        time.sleep(0.5 if order["stop"] else 60)  # the signal may come a moment later

    class State:
        def __init__(self, shard: Shard, context: Context) -> None:
            self.shard, self.context, self.states = shard, context, dict[str, Any]()

        def call(self, name: str, columns: tuple[str, ...], order: Order | None, method: str, *args: Any) -> Any:
            if name not in self.states:
                kept = [type(s)(s.rows, s.positions, {c: s.columns[c] for c in columns}) for s in self.shard.segments]
                self.states[name] = strategies[name].open(Shard(kept), self.context)
            at = order["at"] if order and self.shard.rows()[0] == order["row"] else ""
            if order and at == "before the work":
                obey(order)
            answer = getattr(self.states[name], method)(*args)
            if order and at == "before the answer":
                obey(order)
            return answer

    class Disturbed(Strategy):
        def open(self, shard: Shard, context: Context) -> State:
            return State(shard, context)

        def select(self, shards: object, budget: int, context: Context) -> Picks:
            raise NotImplementedError

    return Disturbed()


@pytest.fixture(scope="module")
def actors() -> Iterator[RayActors]:
    """One set for all tests: starting them is what costs."""
    with RayActors(sources(SHARDS), disturbed(), CONTEXT, CPUS) as found:
        yield found


@dataclass
class Recorded:
    """The shards of one strategy; it writes down which messages they get, and may disturb some of them.

    disturb: called with the number of the message before it is sent; returns an order for an actor.
    """

    send: Callable[..., list[Any]]
    disturb: Callable[[int], Order | None] = lambda number: None
    messages: list[str] = field(default_factory=list)

    def map(self, method: str, *args: Any) -> list[Any]:
        order = self.disturb(len(self.messages))
        self.messages.append(method)
        return self.send(order, method, *args)

    def report_progress(self, picks: int) -> None:
        pass


def messages(name: str, columns: tuple[str, ...]) -> list[str]:
    """The messages of an undisturbed selection."""
    with InProcess(sources(SHARDS, *columns), STRATEGIES[name], CONTEXT) as shards:
        recorded = Recorded(lambda order, method, *args: shards.map(method, *args))
        STRATEGIES[name].select(recorded, BUDGET, CONTEXT)
    return recorded.messages


def phases(sent: list[str]) -> list[int]:
    """The first and the last message of each kind, by its number."""
    first = {method: number for number, method in reversed(list(enumerate(sent)))}
    last = {method: number for number, method in enumerate(sent)}
    return sorted({*first.values(), *last.values()})


def case(name: str, at: str) -> Any:
    fast = (at == AT[1] and name in FAST) or (at == AT[2] and name == "k_center")
    return pytest.param(name, at, id=f"{name} {at}", marks=[] if fast else [pytest.mark.slow])


@pytest.mark.parametrize(("name", "at"), [case(name, at) for at in AT for name in STRATEGIES])
def test_an_actor_dies_in_every_phase(name: str, at: str, actors: RayActors, tmp_path: Path) -> None:
    """Another shard each time. A strategy that kept anything in its actors but what it can compute again would pick
    something else."""
    columns = inputs(name)[0]
    expected = select_from(sources(1, *columns), STRATEGIES[name], BUDGET, CONTEXT)
    deadly = phases(messages(name, columns))
    rows = [int(source.rows[0]) for source in sources(SHARDS)]
    killed: list[int] = []

    def disturb(number: int) -> Order | None:
        if number not in deadly:
            return None
        shard = deadly.index(number) % SHARDS
        killed.append(actors.pids()[shard])
        if at == "between two messages":
            os.kill(killed[-1], signal.SIGKILL)
            return None
        return {"row": rows[shard], "mark": str(tmp_path / str(number)), "at": at, "stop": 0}

    shards = Recorded(lambda order, *call: actors.map("call", name, columns, order, *call), disturb)
    assert STRATEGIES[name].select(shards, BUDGET, CONTEXT) == expected
    assert phases(shards.messages) == deadly
    assert len(set(killed)) == len(deadly) and not {*killed} & {*actors.pids()}
    assert at == "between two messages" or len(list(tmp_path.iterdir())) == len(deadly)


@pytest.mark.parametrize("seconds", [7, pytest.param(60, marks=pytest.mark.slow)])
def test_an_actor_that_stands_still_is_waited_for_and_named(seconds: float, tmp_path: Path) -> None:
    """Nothing is started again: the same process answers in the end."""
    name, said = "k_center", list[str]()
    columns = inputs(name)[0]
    expected = select_from(sources(1, *columns), STRATEGIES[name], BUDGET, CONTEXT)
    row, mark = int(sources(SHARDS)[1].rows[0]), str(tmp_path / "mark")
    order: Order = {"row": row, "mark": mark, "at": "before the answer", "stop": seconds}
    with RayActors(sources(SHARDS), disturbed(), CONTEXT, CPUS, Share("x", 3, said.append)) as actors:
        before, began = actors.pids(), time.monotonic()
        shards = Recorded(
            lambda order, *call: actors.map("call", name, columns, order, *call),
            lambda number: order if number == 1 else None,
        )
        assert STRATEGIES[name].select(shards, BUDGET, CONTEXT) == expected
        assert time.monotonic() - began > seconds
        assert actors.pids() == before
    late = [line for line in said if line.startswith("select · waiting for 1 of 2 shards for 3")]
    assert said == late and len(late) == (seconds > 30)
