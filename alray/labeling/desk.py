"""Asks the oracle of a run for labels, keeps every answer, and waits for people.

A batch is written down before the oracle is asked. Answers that the ledger has are not asked for again. A batch is
closed when every image has an answer, or when somebody closes it with `alray label --close`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alray.config import LabelConfig
from alray.data.oracle import Answers, Oracle, OracleError, Requests, Status, checked
from alray.data.pool import Labels, Rows
from alray.labeling.check import Answer
from alray.labeling.deliveries import Delivered
from alray.labeling.kinds import kind_of
from alray.labeling.ledger import Ledger, requests_of, requests_table
from alray.labeling.state import open_batches
from alray.reasons import did_you_mean, first_of, short, similar
from alray.rounddir import given_after
from alray.rundir import RoundDir, RunDir

NOTE = "note.txt"  # beside the files of a batch: what people have to do, as the oracle says it
_GO_ON = "When the labels are there, start the same command again: the run goes on."


class Waiting(Exception):  # noqa: N818  nothing is wrong: people have to act
    """The run stops because people have not yet given all labels of a batch. The message says what to do next."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h, "try again later"


@dataclass(frozen=True, eq=False)
class Closed:
    """A batch that is closed: its rows (k,), the status of each (LABEL, MASK, SKIP or UNUSABLE), and labels (k,),
    which are without meaning for SKIP and UNUSABLE."""

    rows: Rows
    status: npt.NDArray[np.uint8]
    labels: Labels

    @property
    def labeled(self) -> npt.NDArray[np.bool_]:
        """(k,) bool: which rows got a label or a mask."""
        return np.isin(self.status, (Status.LABEL, Status.MASK))

    @property
    def unusable(self) -> Rows:
        """The rows that people took out of the pool."""
        return np.asarray(self.rows[self.status == Status.UNUSABLE])

    @property
    def skipped(self) -> Rows:
        """The rows that stay in the pool without a label."""
        return np.asarray(self.rows[self.status == Status.SKIP])


def waits_here(wait: str) -> bool:
    """Whether this process looks again until people have answered. wait: the field `labels.wait`."""
    submitted = {"RAY_JOB_CONFIG_JSON_ENV_VAR", "SLURM_JOB_ID"} & os.environ.keys()
    return wait == "poll" or (wait == "auto" and bool(submitted))


class Desk:
    """Gets labels from an oracle.

    classes: the names with which the run began; others can come where the configuration allows new classes. poll:
    whether to wait in this process instead of raising Waiting. say: prints a line for the user. then: the last line of
    Waiting, on what to do when the labels are there.
    """

    def __init__(
        self, run: RunDir, oracle: Oracle, config: LabelConfig, classes: Sequence[str], poll: bool,
        say: Callable[[str], None] = lambda line: None, then: str = _GO_ON,
    ) -> None:  # fmt: skip
        self.run, self.oracle, self.config, self.poll, self.say = run, oracle, config, poll, say
        self.then = then
        self._first = tuple(classes)
        self.ledger = Ledger(run.deliveries)

    def classes(self, names: Sequence[str] | None = None) -> tuple[str, ...]:
        """The names of the classes by number. names: of the deliveries that count, all by default."""
        return self.ledger.classes((*self._first, *self.run.new_classes()), names)

    def _numbered(self, names: Sequence[str] | None = None) -> tuple[str, ...]:
        """The classes, whose numbers are from now on in use: a correction moves none of them."""
        classes = self.classes(names)
        if (new := classes[len(self._first) :]) != self.run.new_classes():
            self.run.write_new_classes(new)
        return classes

    def ask(
        self, requests: Requests, roles: Sequence[str], before_waiting: Callable[[], None] = lambda: None
    ) -> Closed:
        """Return the answers to a batch when it is closed. roles (k,): what each label is for, for people to read.
        before_waiting: called once before the run waits for people.

        Raises Waiting if people have not answered and this process should not wait; OracleError if answers cannot be
        used; LeaseLost before it asks if another start of the run goes on instead.
        """
        self._write(requests, roles)
        told, heard = "", list[str]()
        while True:
            known = self._known(requests)
            missing = [at for at, key in enumerate(requests.keys) if key not in known]
            note = self._request(requests, missing, known) if missing else ""
            missing = [at for at in missing if requests.keys[at] not in known]
            if not missing or self.ledger.closed(requests.batch):
                if told:
                    self.say(f"{requests.batch}: the batch is complete, and the run goes on.")
                return self._closed(requests, known)
            line = self._waiting(requests, len(missing))
            if not told:
                before_waiting()
            news = [one for one in note.splitlines() if one not in heard]
            if news or line != told:
                self.run.batch_files(requests.batch).write_bytes(NOTE, note.encode())
            if not self.poll:
                raise Waiting("\n".join(filter(None, [line, note, self.then])))
            if news or line != told:
                self.say("\n".join([line, *news, *([] if told else [self._polling])]))
                told, heard = line, note.splitlines()
            time.sleep(self.config.poll_seconds)
            self.run.check_guards()

    def hand_out(self, requests: Requests, roles: Sequence[str]) -> None:
        """Give a batch out, ahead of `ask`: write it down and ask the oracle once. Answers that come are kept."""
        self._write(requests, roles)
        known = self._known(requests)
        missing = [at for at, key in enumerate(requests.keys) if key not in known]
        if missing:
            note = self._request(requests, missing, known, keep=True)
            self.run.batch_files(requests.batch).write_bytes(NOTE, note.encode())

    def requests(self, number: int) -> Requests | None:
        """The batch of a round as it was written down; None if it was not."""
        name = f"round {number}"
        place = self.run.batch(name)
        return requests_of(place.requests(), self.classes(), name, number) if place.has_requests else None

    def _write(self, requests: Requests, roles: Sequence[str]) -> None:
        self.run.check_guards()  # a process that lost the lease buys nothing
        place = self.run.batch(requests.batch)
        if not place.has_requests:
            before = self.ledger.names()
            place.write_requests(requests_table(requests, self.classes(), roles), before[-1] if before else "")

    def _known(self, requests: Requests) -> dict[str, Answer]:
        here = set(requests.keys)
        answers = self.ledger.answers(after=given_after(self.run.batch(requests.batch).requests()))
        return {key: answer for key, answer in answers.items() if key in here}

    def _request(self, requests: Requests, missing: Sequence[int], known: dict[str, Answer], keep: bool = False) -> str:
        """Ask for the missing answers and add those that come to `known`. Returns the oracle's note.

        Answers are written to the ledger unless a program gives all at once and the caller writes them down, as labels
        (keep False).
        """
        asked = requests if len(missing) == len(requests) else requests.take(missing)
        answers, classes = checked(self.oracle, asked), self.classes()
        came = [
            Delivered(
                type(self.oracle).__name__,
                key,
                Status(status),
                self._name(answers, at, status, classes),
                answers.by[at] if answers.by else "",
            )
            for at, (key, status) in enumerate(zip(asked.keys, answers.status.tolist(), strict=True))
            if status != Status.NOT_YET
        ]
        new = {line.label for line in came if line.status == Status.LABEL} - set(classes)
        listed = self.run.listed_classes()
        if new and not self.config.lets_come(listed):
            got = first_of([f"{short(name)!r}{did_you_mean(similar(name, classes))}" for name in sorted(new)[:5]])
            declare = "" if listed else "declare the classes in data.classes; "
            raise OracleError(
                f"expected one of the {len(classes)} classes, got {got}; {declare}{self.config.remedy(listed)}"
            )
        masks = dict(zip(asked.keys, answers.masks or (), strict=False))
        came, wrong = self._stored(came, {key: data for key, data in masks.items() if data is not None})
        if came and (keep or new or masks or answers.names is not None or len(came) < len(requests)):
            self.ledger.deliver(came, type(self.oracle).__name__)
        known.update({line.key: (line.status, line.label) for line in came})
        return "\n".join(filter(None, [answers.note, *wrong]))

    def _stored(self, came: list[Delivered], masks: Mapping[str, bytes]) -> tuple[list[Delivered], list[str]]:
        """The answers that can be used, whose masks are now in the run's directory; and a sentence on each mask that
        cannot be used, so that its image still needs an answer. masks: those that came, by key."""
        if not masks:
            return came, []
        kind = kind_of(self.run)
        lines = [kind.drawn(line, masks[line.key]) if line.key in masks else line for line in came]
        wrong = kind.problems(lines)
        good = [line for line in lines if line not in wrong]
        kind.store(good, self.run.masks)
        return good, [f"{line.where}: {line.key}: {problem}" for line, problem in wrong.items()]

    def _name(self, answers: Answers, at: int, status: int, classes: Sequence[str]) -> str:
        if status != Status.LABEL:
            return ""
        if answers.names is not None:
            return str(answers.names[at])
        label = int(answers.labels[at])
        if not 0 <= label < len(classes):
            raise OracleError(
                f"{type(self.oracle).__name__}.answer: expected class numbers from 0 to {len(classes) - 1}, got {label}"
            )
        return classes[label]

    def _closed(self, requests: Requests, known: dict[str, Answer]) -> Closed:
        """The answers by row; images without an answer in a batch that somebody closed count as skipped."""
        answers = [known.get(key, (Status.SKIP, "")) for key in requests.keys]
        number = {name: at for at, name in enumerate(self._numbered())}
        labels = [number[name] if status == Status.LABEL else 0 for status, name in answers]
        status = np.array([status for status, _ in answers], np.uint8)
        return Closed(requests.rows, status, np.array(labels, np.int32))

    def begin(self, out: RoundDir) -> tuple[str, ...]:
        """Note which deliveries a round knows when it begins, so that it does the same if it is started again. Returns
        the classes that the round learns."""
        if not out.begun():
            names = self.ledger.names()
            out.write_begun({"classes": len(self._numbered(names)), "deliveries": names})
        return self.classes()[: out.begun()["classes"]]

    @property
    def _polling(self) -> str:
        return (
            f"The run looks again every {self.config.poll_seconds:g} s and goes on by itself. It can be stopped with "
            "Ctrl-C; the same command goes on."
        )

    def _waiting(self, requests: Requests, missing: int) -> str:
        done, here = len(requests) - missing, self.run.batch(requests.batch)
        others = [
            batch for batch in open_batches(self.run) if batch.name != requests.batch and batch.missing(self.ledger)
        ]
        later = {batch.name: "" if here.is_test or batch.is_test else ", but needed later" for batch in others}
        more = "".join(f" {name} is out, too{when}." for name, when in later.items())
        return f"waiting for labels, {requests.batch}: {done:,} of {len(requests):,} answers are there.{more}"
