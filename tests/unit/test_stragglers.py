"""Who is waited for is told, but not while the work of all takes long."""

from __future__ import annotations

import time

import pytest

from alray.stragglers import Standstill, Stragglers

WHERE = ["10.0.0.2", "10.0.0.3", "10.0.0.4"]


def told(monkeypatch: pytest.MonkeyPatch, answers: list[float], missing: list[int], looks: list[float]) -> list[str]:
    """The lines that are said when some workers answer after so many seconds, and others are looked for after so
    many."""
    now, said = [1000.0], list[str]()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    late = Stragglers(said.append, "select", "shards")
    for after in answers:
        now[0] = 1000 + after
        late.answered()
    for after in looks:
        now[0] = 1000 + after
        late.waiting(missing, lambda: WHERE)
    return said


def test_one_that_is_late_is_named_and_told_again_when_the_wait_is_much_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    said = told(monkeypatch, [1, 2], [1], [5, 29, 31, 60, 123, 125])
    assert said == [
        "select · waiting for 1 of 3 shards for 31 s, on 10.0.0.3; the others answered in 2 s",
        "select · waiting for 1 of 3 shards for 125 s, on 10.0.0.3; the others answered in 2 s",
    ]


@pytest.mark.parametrize(
    ("answers", "missing", "looks"),
    [
        ([50.0, 50.0], [1], [60.0, 149.0]),  # the others took nearly a minute
        ([2.0], [0, 1], [60.0, 600.0]),  # most are at work
        ([], [0, 1, 2], [600.0]),
    ],
)
def test_nothing_is_said_while_the_work_takes_long(
    answers: list[float], missing: list[int], looks: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert told(monkeypatch, answers, missing, looks) == []


@pytest.mark.parametrize(
    ("steps", "looks", "expected"),
    [
        (
            [100, 103, 110],
            [169, 171, 300, 400],
            [f"{s} s, on 10.0.0.2, 10.0.0.3; before, 7 s passed at most" for s in (61, 290)],
        ),
        ([100, 150], [209, 211, 299, 301], ["151 s, on 10.0.0.2, 10.0.0.3; before, 50 s passed at most"]),
        ([100], [159, 161], ["61 s, on 10.0.0.2, 10.0.0.3"]),
        ([], [500], []),  # the start may take as long as it likes
    ],
)
def test_work_that_stands_still_is_told_with_its_nodes(
    steps: list[float], looks: list[float], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, said = [0.0], list[str]()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    still = Standstill(said.append, "train · no step was made")
    still.begin(lambda: ["10.0.0.3", "10.0.0.2", "10.0.0.3"])
    for kind, at in sorted([*(("moved", at) for at in steps), *(("waiting", at) for at in looks)], key=lambda e: e[1]):
        now[0] = at
        getattr(still, kind)()
    assert [line.removeprefix("train · no step was made for ") for line in said] == expected
