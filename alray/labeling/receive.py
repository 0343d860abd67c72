"""Take the answers of people into a run: read the files, check every line, and write one delivery."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from alray.config import LabelConfig
from alray.data.sources.scan import amount
from alray.labeling import state
from alray.labeling.check import Answer, Asked, Checked, Rules, check
from alray.labeling.deliveries import LabelError
from alray.labeling.kinds import Kind, kind_of
from alray.labeling.ledger import Ledger, whoami
from alray.reasons import some_classes
from alray.rundir import Missing, RunDir, RunError

_SHOWN = 20  # refused lines in an error message


@dataclass
class Received:
    """What became of a delivery. taken: number of answers written; refused: one sentence per line that was left out;
    notes: sentences about what was changed; open: of each batch that is out, the one that is needed first at the
    beginning, the images without an answer and all images."""

    taken: int = 0
    refused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    open: dict[str, tuple[int, int]] = field(default_factory=dict)


def receive(
    run: RunDir, paths: Sequence[str], *, take_good: bool = False, correct: bool = False, extra: bool = False
) -> Received:
    """Read files of answers and write those that are good into the run, as one delivery.

    take_good: take the good lines although others are refused, else nothing is written. correct: answers replace
    earlier ones, from the next round on. extra: labels of images that nobody asked for are taken, too. Raises
    LabelError with the refused lines; RunError if the run waits for nothing.
    """
    ledger, batches = Ledger(run.deliveries), state.open_batches(run)
    if not batches and not (correct or extra):
        raise RunError(
            f"{run.uri}: the run waits for no labels; --correct replaces a label that it has, --extra adds labels of "
            "images that it did not ask for"
        )
    kind = kind_of(run)
    nothing = pa.table({"key": pa.array([], pa.string()), "uri": pa.array([], pa.string())})
    table = pa.concat_tables([nothing, *(batch.requests.select(["key", "uri"]) for batch in batches)])
    answered = _answered(run, batches, ledger, need_all=correct or extra)
    asked = Asked(table["key"].to_pylist(), table["uri"].to_pylist(), answered, _catalog_keys(run))
    classes = state.classes(run)
    may_come, remedy = _new_classes(run)
    rules = Rules(classes, may_come, extra, correct, classes[len(state.numbered(run)) :], remedy)
    keys = (
        run.catalog().keys().to_pylist()
        if extra
        else list(dict.fromkeys([*asked.keys, *(answered if correct else ())]))
    )
    lines = [line for path in paths for line in kind.read(path, keys)]
    if not lines:
        raise LabelError(f"{', '.join(paths)}: expected answers, got no line with a label or a status")
    result = check(lines, asked, rules)
    if correct and not extra:
        _only_corrections(result, answered, set(asked.keys))
    _only_usable(result, kind)
    if result.refused and not (take_good and result.taken):
        raise LabelError(_refusal(result, take_good))
    what: Literal["correction", "extra", "answer"] = "correction" if correct else "extra" if extra else "answer"
    if result.taken:
        kind.store(result.taken, run.masks)
        said = state.without_image(run)
        ledger.deliver(result.taken, f"{', '.join(paths)} by {whoami() or 'unknown'}", what)
        result.notes += _emptied(run, classes, said)
    left = {batch.name: (len(batch.missing(ledger)), len(batch.requests)) for batch in batches}
    return Received(len(result.taken), result.refused, result.notes, left)


def close(run: RunDir, name: str = "") -> Received:
    """Close a batch: its images without an answer go back to the pool (those of a test do not). name: which one; empty:
    the one that the run needs first; where a test is open, too, there must be a name. Raises RunError if there is no
    such batch."""
    batches, ledger = {batch.name: batch for batch in state.open_batches(run)}, Ledger(run.deliveries)
    waited = [one for one in run.open_batches() if not run.batch(one).is_test]
    if not name and not any(batch.is_test for batch in batches.values()):
        name = next(iter(waited), "")
    elif len(batches) == 1:
        name = name or next(iter(batches))
    if ledger.closed(name):
        raise RunError(f"{run.uri}: the batch {name} is closed already; start the run's command again")
    if not batches:
        raise RunError(f"{run.uri}: the run waits for no labels, so there is no batch to close")
    if name not in batches:
        raise RunError(f"--batch: expected an open batch to close, one of {', '.join(batches)}; got {name or 'none'}")
    missing, asked = len(batches[name].missing(ledger)), len(batches[name].requests)
    ledger.deliver([], name, "close")
    return Received(open={name: (missing, asked)})


def _answered(run: RunDir, batches: Sequence[state.OpenBatch], ledger: Ledger, need_all: bool) -> dict[str, Answer]:
    """The answers that are there, by key. An image that was skipped and is asked for again has none.

    need_all: whether to raise RunError where the catalog is gone. Else there are then those of the open batches."""
    earlier: dict[str, Answer] = {}
    with nullcontext() if need_all else suppress(RunError):
        earlier = state.given(run)
    for batch in batches:
        for key in batch.requests["key"].to_pylist():
            earlier.pop(key, None)
        earlier |= batch.answers(ledger)
    return earlier


def _new_classes(run: RunDir) -> tuple[bool, str]:
    """Whether labels may add classes to a run, and what would let them, in words."""
    labels = LabelConfig(new_classes=run.config().get("labels", {}).get("new_classes", "refuse"))
    listed = run.listed_classes()
    return labels.lets_come(listed), labels.remedy(listed)


def _catalog_keys(run: RunDir) -> Callable[[str], str | None]:
    """A function that finds an image in the catalog by its key; the catalog is read when it is first asked."""
    keys: list[pa.Array] = []

    def find(name: str) -> str | None:
        if not keys:
            try:
                keys.append(run.catalog().keys())
            except Missing:
                keys.append(pa.array([], pa.string()))
        found = pc.index(keys[0], pa.scalar(name, keys[0].type)).as_py()
        return name if found >= 0 else None

    return find


def _only_corrections(result: Checked, answered: dict[str, Answer], asked: set[str]) -> None:
    """Refuse lines of a correction whose image has no label so far."""
    new = [line for line in result.taken if line.key not in answered and line.key not in asked]
    result.refused += [f"{line.where}: {line.key} has no label to correct; --extra adds one" for line in new]
    result.taken = [line for line in result.taken if line not in new]


def _only_usable(result: Checked, kind: Kind) -> None:
    """Refuse answers that fit what was asked and cannot be used all the same."""
    result.notes += kind.notes
    wrong = kind.problems(result.taken)
    result.refused += [f"{line.where}: {line.key}: {wrong[line]}" for line in result.taken if line in wrong]
    result.taken = [line for line in result.taken if line not in wrong]


def _emptied(run: RunDir, before: Sequence[str], said_before: str) -> list[str]:
    """Sentences on the classes whose last images a correction took: one that came with labels is none any more, unless
    labels were used with it. before, said_before: the classes, and `state.without_image`, before the correction."""
    held = {name.casefold() for name in state.classes(run)}
    gone = [name for name in before if name.casefold() not in held]  # one in another case is told as a new spelling
    leave = "it leaves" if len(gone) == 1 else "they leave"
    said = f"no image has the class {some_classes(gone)} any more; {leave} the list of classes" if gone else ""
    kept = state.without_image(run)
    return [*filter(None, [said, kept if kept != said_before else ""])]


def _refusal(result: Checked, take_good: bool) -> str:
    more = len(result.refused) - _SHOWN
    lines = [*result.refused[:_SHOWN], *([f"... and {more} more"] if more > 0 else [])]
    good = len(result.taken)
    advice = "" if take_good or not good else f"; --take-good takes {amount(good, 'good answer')} and leaves these out"
    what = amount(len(result.refused), "line")
    return "\n".join([f"{what} cannot be used, nothing was written{advice}:", *lines])
