"""Which names of folders, shards and splits mean a split, and which split.

There is one table. A name in a folder's path counts as a whole; in the name of a shard one whole word counts, at its
start or at its end; the name of an image never counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

SYNONYMS = {
    "train": ("train", "training", "trainval"),
    "val": ("val", "valid", "validation", "dev", "eval", "evaluation"),
    "test": ("test", "testing"),
}
# Images for validation are test images here, unless the user says that they are the validation set.
VALIDATION = "validation"
ROLES = ("train", "test", VALIDATION)  # what images of a catalog are for
SPLITS = {name: "train" if kind == "train" else "test" for kind, names in SYNONYMS.items() for name in names}

# For `alray formats`.
MEANING = (
    "In the path of a folder the first level at which all (else some) folders have these names, in any case, also as "
    "train2017 or test_images; in the name of a tar or Parquet file its first or last word; in lists and Parquet the "
    "column split. "
    + "; ".join(f"{', '.join(names)}: {SPLITS[names[0]]} images" for names in SYNONYMS.values())
    + ". alray holds out its own validation set. --split NAME train|test|validation|ignore|class says otherwise, "
    "--test-root is a test set in another place, and without names all images are training images."
)

_ALL = "|".join(sorted(SPLITS, key=len, reverse=True))
_DATA = r"images?|imgs?|data|set|split"
# Train, val2017, Final_Training, train_images, seg_test. Not: train_station, crash_test.
_FOLDER = re.compile(rf"(?:(?:final|seg|{_DATA})[ _.-]?)?({_ALL})(?:[ _.-]?(?:{_DATA}|\d{{1,4}}))?")
# Words in the name of a shard that name nothing.
_BESIDE = {"of", "shard", "shards", "part", "parts", "file", "batch"}
_BESIDE |= {"images", "image", "imgs", "img", "data", "set", "split"}
_HASH = re.compile(r"(?=.*\d)[0-9a-f]{6,}")


def kind_of_split(name: str) -> str | None:
    """train, val or test, where a folder or split has a usual name for it, in any case; else None."""
    found = _FOLDER.fullmatch(name.casefold())
    return next(kind for kind, names in SYNONYMS.items() if found[1] in names) if found else None


def split_role(name: str, given: Mapping[str, str]) -> str | None:
    """How images under this name are used: one of ROLES or ignore; None where it does not name a split.

    given: what the user says about names, which goes before the table; "class" there means that it names no split.
    """
    if name in given:
        return None if given[name] == "class" else given[name]
    kind = kind_of_split(name)
    return None if kind is None else "train" if kind == "train" else "test"


def split_of_file(path: str, given: Mapping[str, str]) -> str | None:
    """The name of the split that the path of a shard shows, as it is written there; None if it shows none.

    The nearest folder that names a split counts (default/train/0000.parquet). Else a word of the file's name does, if
    it is its first or last word besides numbers, hashes and words as "shard" (test-00000.tar,
    cifar10_train_00-of-03.parquet), and if no other word names another split. Neither latest-0.tar nor
    crash_test_dummies.tar shows one.
    """
    *folders, name = path.split("/")
    for folder in reversed(folders):
        if split_role(folder, given):
            return folder
    texts = [text for text in re.split(r"[-_. ]+", name.rpartition(".")[0] or name) if text]
    texts = [text for text in texts if text in given or not _HASH.fullmatch(text.casefold())]
    words = [text if text in given else text.rstrip("0123456789") for text in texts]
    words = [word for word in words if word and word.casefold() not in _BESIDE]
    named = [word for word in words if word in given or word.casefold() in SPLITS]
    at_an_end = [word for word in named if word in (words[0], words[-1])]
    if not at_an_end or len({word.casefold() for word in named}) > 1 or not split_role(at_an_end[0], given):
        return None
    return at_an_end[0]
