"""The samples of WebDataset tars: which member of a sample is its image, and which one names its class.

Members whose names are equal up to the suffix are one sample. The suffix begins after the first dot of the file's name
that no number follows: in a.left.png it is left.png, in img.0001.png it is png.
"""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from alray.data.sources.folder_names import is_mask_member
from alray.data.sources.label_text import scalar_text
from alray.data.sources.scan import CatalogError, amount

# The members that may name the class of a sample. Where several do, the first of these kinds counts, whatever their
# order in the tar; with a label column of the user's choice, .json counts first.
LABEL_KINDS = (".cls", ".cls.txt", ".json")
_DEFAULT_COLUMNS = ("", "label")
_DEFAULT_IMAGE = "image"
_PLAIN = ("image", "img", "rgb", "input")  # of several images in a sample, the first of these is the image
_MOST_SUFFIXES = 16  # more than that are no suffixes: dots belong to the names of the images

UNSAID = "\0"  # no member names the class: no member could hold this text

Labels = Mapping[str, Mapping[str, str | None]]  # by kind and by the member's name without it


@dataclass(frozen=True)
class Chosen:
    """The suffixes of the members that are images (None: all are), and sentences as in `Scan`."""

    suffixes: frozenset[str] | None
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


def sample_of(name: str) -> tuple[str, str]:
    """The name of the sample that a member belongs to, and the member's suffix."""
    place, slash, base = name.rpartition("/")
    fields = base.split(".")
    at = 1
    while at < len(fields) - 1 and fields[at].isdecimal():
        at += 1
    return place + slash + ".".join(fields[:at]), ".".join(fields[at:])


def choose_images(tars: Iterable[Sequence[str]], wanted: str) -> Chosen:
    """Which of the members with image extensions are the images.

    tars: the names of these members in each tar; wanted: `IndexConfig.image_column`. Raises CatalogError if no member
    has the suffix that the user wants.
    """
    together = Counter[frozenset[str]]()  # the suffixes in one sample -> number of samples
    for names in tars:
        if (suffix := _only_suffix(names)) and len(set(names)) == len(names):  # most tars: each image is a sample
            together[frozenset((suffix[1:],))] += len(names)
            continue
        samples: dict[str, set[str]] = defaultdict(set)
        for name in names:
            sample, suffix = sample_of(name)
            samples[sample].add(suffix)
        together.update(map(frozenset, samples.values()))
    found = Counter[str]()
    for kinds, number in together.items():
        found.update(dict.fromkeys(kinds, number))
    asked = frozenset(suffix for suffix in found if wanted in (suffix, suffix.rpartition(".")[0]))
    if wanted != _DEFAULT_IMAGE and found and not asked:
        raise CatalogError(f"image_column: expected the suffix of image members, {_counted(found)}, got {wanted!r}")
    several = any(len(kinds) > 1 for kinds in together)
    if wanted != _DEFAULT_IMAGE or (asked and several):
        return _only(asked, found, "image_column does not name")
    if not several or len(found) > _MOST_SUFFIXES:
        return Chosen(None)
    images = frozenset(suffix for suffix in found if not is_mask_member(suffix)) or frozenset(found)
    if any(len(kinds & images) > 1 for kinds in together):
        plain = next((name for name in _PLAIN if any(suffix.rpartition(".")[0] == name for suffix in images)), None)
        if plain is None:
            return _ambiguous(images, found, together)
        images = frozenset(suffix for suffix in images if suffix.rpartition(".")[0] == plain)
    return _only(images, found, "are masks or other pictures of samples that have an image")


def _only_suffix(names: Sequence[str]) -> str:
    """The suffix of all names, as .jpg, if there is no other dot in any of them; else an empty text."""
    text = "\0".join((*names, ""))
    suffix = names[0][names[0].rfind(".") :] if names else ""
    return suffix if text.count(f"{suffix}\0") == text.count(".") == len(names) else ""


def _only(images: frozenset[str], found: Counter[str], why: str) -> Chosen:
    others = Counter({suffix: number for suffix, number in found.items() if suffix not in images})
    if not others:
        return Chosen(None)
    return Chosen(images, (f"left out: {amount(others.total(), 'member')}, {_counted(others)}, which {why}",))


def _ambiguous(images: frozenset[str], found: Counter[str], together: Counter[frozenset[str]]) -> Chosen:
    samples = sum(number for kinds, number in together.items() if len(kinds & images) > 1)
    kinds = Counter({suffix: found[suffix] for suffix in images})
    doubt = (
        f"{amount(samples, 'sample')} with several images: {_counted(kinds)}. Pass --image-column {min(kinds)} or "
        "another of these suffixes to choose one; --yes makes each of them an image of its own"
    )
    masks = _only(images, found, "are masks of samples that have an image")
    return Chosen(masks.suffixes, masks.notes, (doubt,))


def _counted(suffixes: Counter[str]) -> str:
    return ", ".join(f".{suffix} ({number:,})" for suffix, number in sorted(suffixes.items()))


def read_label(name: str, data: bytes, column: str) -> tuple[str, str, str | None] | None:
    """The kind of a label member, its name without the kind, and the class that it names: None if unknown.

    Returns None for a .json without the column. Raises ValueError if the member cannot be read.
    """
    kind, stem = kind_and_stem(name)
    if kind != ".json":
        return kind, stem, class_texts([data])[0]
    content = json.loads(data)
    if not isinstance(content, dict) or column not in content:
        return None
    return kind, stem, scalar_text(content[column])


def kind_and_stem(name: str) -> tuple[str, str]:
    """The kind of a label member, and its name without the kind."""
    suffix = name[name.rindex(".") :].lower()
    kind = ".cls.txt" if suffix == ".txt" else suffix
    return kind, name[: -len(kind)]


def class_texts(data: Sequence[bytes]) -> list[str]:
    """The classes that the bytes of .cls or .cls.txt members name. Raises ValueError if one is not text in UTF-8."""
    together = b"\0".join(data)
    if together.count(b"\0") == len(data) - 1 and BOM_UTF8 not in together:
        return [text.strip() for text in together.decode().split("\0")]
    return [text.removeprefix(BOM_UTF8).decode().strip() for text in data]


def is_label_member(name: str) -> bool:
    """Whether the member may name the class of its sample."""
    return name.lower().endswith(LABEL_KINDS)


@dataclass
class Classes:
    """Looks up the classes of images in the label members of their tars, and counts members that disagree."""

    column: str  # `ScanOptions.label_column`
    disagree: int = 0
    first: str = ""

    def of_all(self, names: Sequence[str], labels: Labels) -> list[str | None]:
        """The class of each image of a tar: None if its members say that it is unknown, UNSAID if no member names
        it."""
        suffix = _only_suffix(names)
        if suffix and len(labels) == 1:  # most tars are like this
            (only,) = labels.values()
            try:
                return [only[name[: -len(suffix)]] for name in names]
            except KeyError:
                pass
        return [self.of(name, labels) for name in names]

    def of(self, name: str, labels: Labels) -> str | None:
        """The class of one image."""
        stem = name.rpartition(".")[0]
        if len(labels) == 1 and stem in (only := next(iter(labels.values()))):
            return only[stem]
        stems = dict.fromkeys((stem, sample_of(name)[0], _first_dot(name)))
        found = [
            (kind, by_stem[stem])
            for kind in self._order
            if (by_stem := labels.get(kind))
            for stem in stems
            if stem in by_stem
        ]
        if not found:
            return UNSAID
        others = [(kind, label) for kind, label in found if label != found[0][1]]
        if others:
            self.disagree += 1
            self.first = self.first or f"{name}: {found[0][1]} in {found[0][0]}, {others[0][1]} in {others[0][0]}"
        return found[0][1]

    @property
    def _order(self) -> tuple[str, ...]:
        return LABEL_KINDS if self.column in _DEFAULT_COLUMNS else (".json", ".cls", ".cls.txt")

    def notes(self) -> list[str]:
        """A sentence on members of one sample that name different classes."""
        if not self.disagree:
            return []
        return [
            f"{amount(self.disagree, 'sample')} with members that name different classes; of {', '.join(self._order)} "
            f"the first counts (as in {self.first})"
        ]


def _first_dot(name: str) -> str:
    """The name up to the first dot of its last part, by which WebDataset itself groups members."""
    place, slash, base = name.rpartition("/")
    return place + slash + base.partition(".")[0]
