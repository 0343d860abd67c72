"""Compare a delivery with what was asked: every line is taken, or refused with the reason."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from alray.config import LabelConfig
from alray.data.oracle import Status
from alray.data.sources.label_text import are_names, tidy
from alray.data.sources.scan import amount
from alray.labeling.deliveries import Delivered
from alray.reasons import did_you_mean, first_of, near, short, similar, some_classes
from alray.spelling import apart, by_end, spellings

_SUGGESTED = 20  # lines of a delivery for which similar keys are looked for: as many as a message shows
_FILE = re.compile(r"\.(png|jpe?g|tiff?|bmp|webp|gif|npy)$", re.IGNORECASE)

Answer = tuple[Status, str]  # the status and the name of the class, empty unless the status is LABEL


@dataclass
class Checked:
    """The lines of a delivery that can be used, with the keys and classes of the run; one sentence per line that
    cannot; sentences about what was changed or left out; and the answers that are there already."""

    taken: list[Delivered] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    known: list[Delivered] = field(default_factory=list)


@dataclass(frozen=True)
class Asked:
    """The images that a delivery may answer: keys and URIs of the batches that are out, and the answers that are
    already there, by key, also those of earlier batches. elsewhere: the key in the catalog of an image that is not
    asked for now, None if the catalog has no such image."""

    keys: Sequence[str]
    uris: Sequence[str]
    answered: Mapping[str, Answer]
    elsewhere: Callable[[str], str | None] = lambda name: None


@dataclass(frozen=True)
class Rules:
    """What is allowed. classes: their names; new_classes: others may come; extra: images that nobody asked for may be
    labeled; correct: answers may replace earlier ones. renamable: the classes that came with labels and whose
    numbers are not in use yet, so that a correction may spell them otherwise. remedy: what would let new classes come,
    in words."""

    classes: Sequence[str]
    new_classes: bool = False
    extra: bool = False
    correct: bool = False
    renamable: Sequence[str] = ()
    remedy: str = LabelConfig().remedy(())


def check(delivered: Iterable[Delivered], asked: Asked, rules: Rules) -> Checked:
    """Check every line of a delivery. Nothing is written.

    A line is refused if its image was not asked for, if it has no class of the run, if it contradicts another line, or
    if the image has another answer already. Class names are compared after trimming and Unicode normalisation (NFC);
    where no class has the name, a class that differs only in case is meant.
    """
    result, changed = Checked(), Counter[str]()
    spelled: dict[str, Counter[str]] = defaultdict(Counter)
    find, delivered = _finder(asked), list(delivered)
    renamed = _renamed(delivered, asked, rules, find)
    rules = replace(rules, classes=[renamed.get(name, name) for name in rules.classes])
    name_of = _namer(rules)
    result.notes += [f"the class {short(old)!r} is now spelled {short(new)!r}" for old, new in renamed.items()]
    good: dict[str, list[Delivered]] = defaultdict(list)
    for line in delivered:
        if line.problem:
            result.refused.append(f"{line.where}: {line.problem}")
            continue
        key, problem = find(line.key, rules.extra or rules.correct)
        if key is None:
            result.refused.append(f"{line.where}: {problem}")
            continue
        label = name_of(line.label) if line.status == Status.LABEL else line.label
        if label is None:
            result.refused.append(f"{line.where}: {_unknown_class(line.label, rules)}")
            continue
        spelled[label][tidy(line.label)] += 1
        rename = f"; give all images of {short(label)!r} again to rename it" * (
            rules.correct and label in rules.renamable
        )
        said, taken = apart([repr(short(line.label)), repr(short(label))])
        changed[f"{said} was read as the class {taken}{rename}"] += label != line.label
        good[key].append(replace(line, key=key, label=label))
    for key, lines in good.items():
        _settle(key, lines, asked.answered.get(key), rules, result)
    result.notes += _known(result.known)
    result.notes += [f"{what} ({amount(count, 'time')})" for what, count in sorted(changed.items()) if count]
    result.notes[:0] = _new_classes(result.taken, rules.classes, spelled)
    return result


def _renamed(
    delivered: Sequence[Delivered], asked: Asked, rules: Rules, find: Callable[[str, bool], tuple[str | None, str]]
) -> dict[str, str]:
    """The new spelling by the old one, of each class of which a correction spells all images anew."""
    if not (rules.correct and rules.new_classes):
        return {}
    given: dict[str, dict[str, set[str]]] = {name: defaultdict(set) for name in rules.renamable}
    folded = {tidy(name).casefold(): name for name in rules.renamable}
    for line in delivered:
        text = tidy(line.label)
        old = folded.get(text.casefold())
        if old is not None and text != old:
            given[old][text].add(find(line.key, True)[0] or "")
    images: dict[str, set[str]] = defaultdict(set)
    for key, (_, label) in asked.answered.items():
        images[label].add(key)
    return {old: text for old, by_text in given.items() for text, keys in by_text.items() if keys >= images[old]}


def _new_classes(taken: Sequence[Delivered], classes: Sequence[str], spelled: Mapping[str, Counter[str]]) -> list[str]:
    """A sentence on every class that did not exist before: it may be a slip for one that did, or for another new one of
    more images. spelled: how often each class was written in which way."""
    new = Counter(line.label for line in taken if line.status == Status.LABEL and line.label not in set(classes))
    notes = []
    for name, count in new.items():
        ways = spelled[name]
        several = f". It was written {_counted(ways)}: the first spelling is the class" if len(ways) > 1 else ""
        others = [*classes, *(other for other, images in new.items() if images > count)]
        slip = did_you_mean(similar(name, others))
        notes.append(
            f"NEW CLASS {short(name)!r}, with {amount(count, 'image')}{slip}{several}. If it is a slip, give these "
            "images again with --correct"
        )
    return notes


def _counted(spellings: Counter[str]) -> str:
    return ", ".join(f"{short(text)!r} ({amount(count, 'time')})" for text, count in spellings.items())


def _settle(key: str, lines: list[Delivered], before: Answer | None, rules: Rules, result: Checked) -> None:
    """Take one answer for the image, or refuse its lines."""
    answer = majority(lines)
    if answer is None:
        said = ", ".join(f"{_said(line.status, line.label)} ({line.where})" for line in lines)
        result.refused += [f"{line.where}: {key} has contradicting answers: {said}" for line in lines]
        return
    if len(lines) > 1:
        result.notes.append(f"{key}: {len(lines)} answers were taken as one, {_said(answer.status, answer.label)}")
    now = answer.status, answer.label
    if before == now:
        result.known.append(answer)
    elif before is not None and not rules.correct:
        was = _said(*before)
        result.refused.append(f"{answer.where}: {key} was answered with {was}; --correct replaces an answer")
    else:
        result.taken.append(answer)


def _known(lines: Sequence[Delivered]) -> list[str]:
    """One sentence on the answers that are there already."""
    if len(lines) == 1:
        return [f"{lines[0].where}: {lines[0].key} has this answer already"]
    keys = first_of([line.key for line in lines])
    return [f"{len(lines):,} images have the given answer already: {keys}"] if lines else []


def _said(status: Status, label: str) -> str:
    return short(label) if status == Status.LABEL else status.name.lower()


def majority(lines: Sequence[Delivered]) -> Delivered | None:
    """The answer that most annotators gave. None if two are equally frequent, or if one person (or nobody known) gave
    different answers."""
    votes = Counter((line.status, line.label) for line in lines)
    (first, most), *others = votes.most_common(2)
    people = {line.annotator for line in lines}
    apart = len(people) == len(lines) and "" not in people
    if others and (not apart or others[0][1] == most):
        return None
    return next(line for line in lines if (line.status, line.label) == first)


def _finder(asked: Asked) -> Callable[[str, bool], tuple[str | None, str]]:
    """A function that finds the key that a line means, or tells why there is none."""
    exact = {key: key for key in asked.keys} | dict(zip(asked.uris, asked.keys, strict=True))
    fitting_keys = by_end(asked.keys)
    ordered, suggested = sorted(asked.keys), iter(range(_SUGGESTED))

    def find(name: str, elsewhere: bool) -> tuple[str | None, str]:
        if name in exact:
            return exact[name], ""
        fitting = fitting_keys(name)
        if len(fitting) == 1:
            return fitting[0], ""
        if len(fitting) > 1:
            return None, f"{name!r} fits several images, {' and '.join(apart(fitting[:2]))}; give the whole key"
        found = next(filter(None, map(asked.elsewhere, spellings(name))), None)
        if found is not None and (elsewhere or found in asked.answered):
            return found, ""
        if found is not None:
            return None, f"{name!r} is not an image that is asked for now; --extra takes labels that nobody asked for"
        nearby = near(name, len(ordered), ordered.__getitem__) if next(suggested, None) is not None else []
        return None, f"{name!r} is not an image of this run{did_you_mean(similar(name, nearby))}"

    return find


def _namer(rules: Rules) -> Callable[[str], str | None]:
    """A function that gives the class that a label means; None if there is none. A number is the number of a class, as
    in a source, unless classes have numbers as names. The name of an image file is no new class."""
    known = {tidy(name): name for name in rules.classes}
    numbered = bool(rules.classes) and are_names(rules.classes)
    folded: dict[str, set[str]] = defaultdict(set)
    for name in rules.classes:
        folded[tidy(name).casefold()].add(name)

    def name_of(label: str) -> str | None:
        text = tidy(label)
        if text in known:
            return known[text]
        if numbered and text.isdecimal():
            return rules.classes[int(text)] if int(text) < len(rules.classes) else None
        similar = folded.get(text.casefold(), set())
        if len(similar) == 1:
            return next(iter(similar))
        if not rules.new_classes or similar or not text or _FILE.search(text):
            return None
        known[text] = text
        folded[text.casefold()].add(text)  # of two new spellings the first is the class
        return text

    return name_of


def _unknown_class(label: str, rules: Rules) -> str:
    classes = rules.classes
    why = "a number or a file is no new class" if rules.new_classes else rules.remedy
    few = some_classes(classes, most=8) or "none"
    return f"{short(label)!r} is not a class{did_you_mean(similar(label, classes))}; expected one of {few} ({why})"
