"""One answer from the annotations of several people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from alray.data.oracle import OracleError, Status
from alray.labeling.check import majority
from alray.labeling.deliveries import Delivered

How = Literal["majority", "dawid_skene"]


@dataclass
class Agreed:
    """settled: one answer for every image on which people agree, its annotators joined by commas; open: a sentence on
    every image that has enough annotations and no answer."""

    settled: list[Delivered] = field(default_factory=list)
    open: list[str] = field(default_factory=list)


def agreed(
    votes: Mapping[str, Sequence[Delivered]], enough: int, how: How,
    together: Callable[[Sequence[Delivered]], Sequence[Delivered]] = list,
) -> Agreed:  # fmt: skip
    """Settle the images that at least `enough` people looked at.

    votes: annotations by key; of one person the last counts. Who skipped an image has no say if somebody answered;
    if all skipped it, the answer is "skip". majority: the most frequent answer; a tie stays open until one more person
    decides it. dawid_skene: the most probable answer (Dawid & Skene 1979), which weighs people by how often they
    confuse which answers, as estimated from all votes. together: makes one of what people gave for an image where it
    need not be equal, such as masks. Raises OracleError if crowd-kit is not installed.
    """
    found = Agreed()
    last = {key: list({line.annotator: line for line in lines}.values()) for key, lines in votes.items()}
    said: dict[str, Sequence[Delivered]]
    said = {key: [line for line in lines if line.status != Status.SKIP] or lines for key, lines in last.items()}
    ready = [key for key, lines in last.items() if len(lines) >= enough]
    said |= {key: together(said[key]) for key in ready}
    disputed = [key for key in ready if len({_answer(line) for line in said[key]}) > 1]
    weighed = _dawid_skene(said) if how == "dawid_skene" and disputed else {}
    for key in ready:
        answer = weighed[key] if key in weighed else majority(said[key])
        if answer is None:
            names = ", ".join(f"{_word(line)} (annotator {line.annotator})" for line in said[key])
            found.open.append(f"{key}: people disagree, {names}; one more annotation decides")
        else:
            found.settled.append(replace(answer, annotator=", ".join(line.annotator for line in last[key])))
    return found


def _answer(line: Delivered) -> tuple[Status, str]:
    return line.status, line.label


def _word(line: Delivered) -> str:
    return line.label if line.status == Status.LABEL else line.status.name.lower()


def _dawid_skene(said: Mapping[str, Sequence[Delivered]]) -> dict[str, Delivered]:
    """The most probable answer for every image that somebody did not skip."""
    try:
        import pandas as pd
        from crowdkit.aggregation import DawidSkene
    except ImportError as error:
        raise OracleError(
            f"labels.agreement dawid_skene needs crowd-kit ({error}): pip install 'alray[label-studio]'"
        ) from None
    lines = [(key, line) for key in said for line in said[key] if line.status != Status.SKIP]
    table = pd.DataFrame({
        "task": [key for key, _ in lines], "worker": [line.annotator for _, line in lines],
        "label": [f"{int(line.status)} {line.label}" for _, line in lines],
    })  # fmt: skip
    probable = DawidSkene(n_iter=100).fit_predict(table)
    by_answer = {(key, f"{int(line.status)} {line.label}"): line for key, line in lines}
    some = {f"{int(line.status)} {line.label}": line for _, line in lines}
    return {
        key: by_answer.get((key, text)) or replace(some[text], key=key, where=said[key][0].where)
        for key, text in probable.items()
    }
