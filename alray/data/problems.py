"""Problems of images: a table with columns key, uri and reason. Counts, and the refusal of a source with problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.csv

from alray.config import IndexConfig
from alray.data.sources.scan import CatalogError, amount
from alray.data.sources.source import Source
from alray.reasons import terminal
from alray.store import Store

REFUSED = "problems.csv"  # in the directory of a catalog that was not made: all problems, for people to read
UNKNOWN_CLASS = "unknown class"  # the kind of problem, see `counts`
_SHOWN = 5  # problems in a message


def counts(problems: pa.Table) -> dict[str, int]:
    """The number of problems of each kind. The kind is the part of the reason before the first colon."""
    kinds = Counter(reason.partition(":")[0] for reason in problems["reason"].to_pylist())
    return dict(sorted(kinds.items()))


def in_words(found: Mapping[str, int]) -> str:
    """The kinds of problems with their numbers. found: `counts`."""
    return ", ".join(f"{name}: {number:,}" for name, number in found.items())


def first(problems: pa.Table) -> list[str]:
    """The first problems, a line each."""
    return [terminal(f"  {line['key']}: {line['reason']}") for line in problems.slice(0, _SHOWN).to_pylist()]


def other_labels(from_folders: bool) -> str:
    """What to pass where labels are none of the classes."""
    where = "folders are" if from_folders else "labels in the source are"
    return f"Pass --classes with the classes that are meant, or --label-column '' if the {where} no classes"


def lost(found: Mapping[str, int]) -> str:
    """How many images are lost without these. Nobody knows how many a damaged tar holds where it cannot be read. found:
    `counts`."""
    tars = sum(number for kind, number in found.items() if kind.endswith(" tar"))
    images, unread = sum(found.values()) - tars, f"what cannot be read of {amount(tars, 'tar')}"
    return unread if tars and not images else f"{images:,} and {unread}" if tars else f"{images:,}"


def left_by_refusal(store: Store) -> str:
    """What a refused source left in the directory of a catalog, in words; empty if there is nothing."""
    return f"the problems of a source that was refused, in {store.at(REFUSED)}" if store.has(REFUSED) else ""


def refuse_problems(
    problems: pa.Table, usable: int, config: IndexConfig, kind: Source, store: Store, looks_wrong: str, unopened: bool
) -> None:
    """Raise CatalogError if no image can be used, if there are problems and these are refused, or if the source looks
    wrong. The message has the first problems; if there are more, all are written to a file, else there is none.

    problems: those found so far; usable: number of other images; looks_wrong: `alray.data.understood`'s refusal;
    unopened: whether images will be opened, and were not yet.
    """
    refuse = config.on_problem == "refuse" or not kind.can_exclude
    good, listed = usable and not (refuse and len(problems)), Store(store.uri, sums="")
    if good and not looks_wrong:
        return
    if good or len(problems) <= _SHOWN:
        listed.delete(REFUSED)  # of an earlier refusal
    if good:
        raise CatalogError(looks_wrong)
    found = counts(problems)
    so_far = ", as far as is known before they are opened" if unopened and usable else ""
    rest = f"{amount(usable, 'image')} can be used{so_far}"
    lines = [f"{config.root}: {in_words(found) or 'no image was found'} ({rest})", *first(problems)]
    if len(problems) > _SHOWN:
        sink = pa.BufferOutputStream()
        pyarrow.csv.write_csv(problems, sink)
        listed.write_bytes(REFUSED, memoryview(sink.getvalue()))
        lines.append(f"All {len(problems):,} are listed with key, place and reason in {store.at(REFUSED)}.")
    if UNKNOWN_CLASS in found:
        lines.append(f"{other_labels(kind.by_folders)} (in a run --data.classes, --data.label-column).")
    if not usable:
        lines.append("No image can be used.")
    elif kind.can_exclude:
        lines.append(
            "Repair these images, or leave them out with --on-problem exclude (in a run --data.on-problem exclude): "
            f"that loses {lost(found)} and leaves {'at most ' if so_far else ''}{amount(usable, 'image')}."
        )
    raise CatalogError("\n".join([*lines, looks_wrong] if looks_wrong else lines))
