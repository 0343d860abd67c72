"""When a run ends: after its last round, or earlier, at a limit of labels or money, at a target accuracy, or when more
labels bring nothing.

The rules look at what a round knows once its model is trained, and at the rounds before it. That is in the files of the
run, so a run that was killed decides as an undisturbed one, and readers of a run find its end without asking the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alray.config import ConfigError, RunConfig
from alray.data.oracle import START
from alray.rundir import RunDir, RunError

_DUST = 1e-9  # a share of the price of a label: sums of decimal prices are not exact


@dataclass(frozen=True)
class Standing:
    """What the rules look at in a round. labels: size of the labeled set; paid: labels that were asked for so far, for
    any purpose; accuracy: on the validation set, a fraction, None without one."""

    labels: int
    paid: int
    accuracy: float | None

    @classmethod
    def of(cls, run: RunDir, number: int) -> Standing:
        """That of a committed round."""
        metrics = run.round(number).metrics()
        labels, validation = int(metrics["labels"]), metrics["validation"]
        return cls(labels, paid(run, labels, number), validation["top1"] if validation else None)


def paid(run: RunDir, labels: int, number: int) -> int:
    """How many labels a run has asked for by a round: the labeled set (of `labels` images) without those that the
    source gave, the validation set unless the source gave it, and all draws for tests that were made before the round
    chose its batch. Images that people skipped or called unusable count in tests only."""
    start = run.batch(START)
    asked = start.requests()["row"].to_numpy() if start.has_requests else []
    given = len(np.setdiff1d(run.seed()[0], asked))
    tests = sum(len(test.rows()) for test in run.tests() if test.first_round <= number)
    apart = np.concatenate([run.held_out()[0], run.asked_test()[0]])
    return labels - given + len(np.intersect1d(apart, asked)) + tests


@dataclass(frozen=True)
class Reason:
    """Why a run ended early. rule: the field; limit: its value; value: what was reached; words: a sentence;
    by_accuracy: whether the rule looks at accuracies, so that the runs that go on are a biased sample."""

    rule: str
    limit: float
    value: float
    words: str
    by_accuracy: bool = False


Rule = Callable[[Sequence[Standing]], Reason | None]


@dataclass(frozen=True)
class Stop:
    """The end of the runs of a configuration."""

    config: RunConfig

    def reason(self, rounds: Sequence[Standing]) -> Reason | None:
        """Why the run ends after the last of these rounds, which are all from the first on; None if no rule says so."""
        return next((found for rule in self._rules() if (found := rule(rounds))), None)

    def ends(self, rounds: Sequence[Standing]) -> bool:
        """Whether the run ends after the last of these rounds, by a rule or because it has no more rounds."""
        return len(rounds) >= self.config.rounds or self.reason(rounds) is not None

    def check_round(self, now: Standing) -> None:
        """Raise RunError if a rule looks at an accuracy that a round does not have."""
        stop = self.config.stop
        if now.accuracy is None and (stop.target or stop.flat_rounds):
            raise RunError(
                "stop.target, stop.flat_rounds: expected an accuracy on the validation set, got none: nobody labeled it"
            )

    def end(self, run: RunDir) -> int | None:
        """The number of the round with which a run ends; None if that round is not committed yet."""
        last = self.config.rounds - 1
        if next(self._rules(), None) is None:
            return last if run.round(last).committed else None
        rounds: list[Standing] = []
        while run.round(len(rounds)).committed:
            rounds.append(Standing.of(run, len(rounds)))
            if self.ends(rounds):
                return len(rounds) - 1
        return None

    def batch(self, now: Standing) -> int:
        """The number of labels that the next batch may have: the budget of a round, or what the limits leave."""
        return min(self.config.budget, *self._left(now.labels, now.paid))

    def check(self, pool: int, validation: int, seed_set: int, start: int) -> None:
        """Raise ConfigError if the pool (number of images with the validation set) or the limits are too small for
        what the run is going to ask for. start: how many labels it asks for before the first round."""
        config = self.config
        rounds = config.rounds - 1
        bought = rounds * config.budget
        left = dict(zip(("stop.labels", "stop.money"), self._left(seed_set, start), strict=True))
        for path, labels in left.items():
            if labels < 0:
                raise ConfigError(
                    f"{path}: the labels of the start alone are more than that: seed set {seed_set:,}, validation "
                    f"{validation:,}, of which {start:,} are bought"
                    + (f" at {config.labels.cost:g} each" if config.labels.cost else "")
                )
            bought = min(bought, int(labels))
        if (needed := validation + seed_set + bought) > pool:
            raise ConfigError(
                f"budget: the pool has {pool:,} images, but the run needs {needed:,}: validation {validation:,}, seed "
                f"set {seed_set:,}, and {self._to_buy(bought)} to buy"
            )

    def _to_buy(self, bought: int) -> str:
        rounds, budget = self.config.rounds - 1, self.config.budget
        return f"{rounds} x {budget:,}" if bought == rounds * budget else f"{bought:,} within stop.labels, stop.money"

    def _left(self, labels: int, paid: int) -> tuple[int, int]:
        """How many labels stop.labels and stop.money leave; many where a limit is off, below 0 where it is broken."""
        stop, cost, many = self.config.stop, self.config.labels.cost, 2**62
        by_money = int(np.floor((stop.money - paid * cost) / cost + _DUST)) if stop.money else many
        return stop.labels - labels if stop.labels else many, by_money

    def _rules(self) -> Iterator[Rule]:
        stop = self.config.stop
        rules: dict[Rule, float] = {
            self._labels: stop.labels, self._money: stop.money, self._target: stop.target, self._flat: stop.flat_rounds,
        }  # fmt: skip
        return (rule for rule, limit in rules.items() if limit)

    def _labels(self, rounds: Sequence[Standing]) -> Reason | None:
        limit, labels = self.config.stop.labels, rounds[-1].labels
        words = f"the labeled set has {labels:,} labels, and stop.labels allows {limit:,}"
        return Reason("stop.labels", limit, labels, words) if labels >= limit else None

    def _money(self, rounds: Sequence[Standing]) -> Reason | None:
        limit, cost, count = self.config.stop.money, self.config.labels.cost, rounds[-1].paid
        words = (
            f"{count:,} labels at {cost:g} each cost {count * cost:,.2f}, and stop.money={limit:,.2f} does not pay for "
            "one more"
        )
        left = self._left(rounds[-1].labels, count)[1]
        return Reason("stop.money", limit, count * cost, words) if left < 1 else None

    def _target(self, rounds: Sequence[Standing]) -> Reason | None:
        limit, reached = self.config.stop.target, rounds[-1].accuracy
        if reached is None or reached < limit:
            return None
        words = f"the validation accuracy is {reached:.4f}, and stop.target is {limit:g}"
        return Reason("stop.target", limit, reached, words, True)

    def _flat(self, rounds: Sequence[Standing]) -> Reason | None:
        stop, seen = self.config.stop, [one.accuracy for one in rounds if one.accuracy is not None]
        if len(seen) <= stop.flat_rounds:
            return None
        before, now = max(seen[: -stop.flat_rounds]), max(seen[-stop.flat_rounds :])
        words = (
            f"the best validation accuracy was {before:.4f} and is {now:.4f} in the last {stop.flat_rounds} rounds: no "
            f"gain above stop.flat_gain={stop.flat_gain:g}"
        )
        flat = now - before <= stop.flat_gain + _DUST
        return Reason("stop.flat_rounds", stop.flat_rounds, now - before, words, True) if flat else None


def ended(run: RunDir) -> bool:
    """Whether a run is at its end, under the configuration of its latest start. Raises ConfigError."""
    return run.exists and Stop(run.settings()).end(run) is not None


def why_stopped(metrics: dict[str, Any]) -> str:
    """Why the run ended early with the round of these metrics, in words; empty if it did not."""
    return str(metrics["stopped"]["words"]) if metrics.get("stopped") else ""
