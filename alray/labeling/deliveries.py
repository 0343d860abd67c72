"""Read the answers of people from the files that labeling tools write.

A delivery is one file or folder: CSV, JSON lines, an export of Label Studio, COCO or CVAT, or a folder with one
directory per class. Reading finds what each line says; `alray.labeling.check` compares it with what was asked.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

from alray.data.oracle import Status
from alray.data.sources.text_files import decoded, separator
from alray.reasons import not_utf8
from alray.store import StoreError, is_remote, read_bytes

_KEYS = ("key", "image", "path", "file", "filename", "file_name", "uri", "url")
_LABELS = ("label", "class", "category", "choice", "class_name")
_STATUS, _ANNOTATOR = "status", "annotator"
_WORDS = {"": Status.LABEL, "label": Status.LABEL, "skip": Status.SKIP, "unusable": Status.UNUSABLE}
UNUSABLE, NEW_CLASS = "unusable", "new_class"  # controls of alray's labeling interface in Label Studio


class LabelError(ValueError):
    """A delivery of labels cannot be read or used. The message names the file, the line and what was expected."""


@dataclass(frozen=True)
class Delivered:
    """One answer as people gave it.

    where: the file and line, for messages; key: the key, the URI or the file name of the image; label: name of the
    class as it was written, or the name of the mask's file in the run, empty for other answers; annotator: who gave
    it, empty if the file does not say; problem: why the line cannot be used, empty if it can.
    """

    where: str
    key: str
    status: Status
    label: str
    annotator: str = ""
    problem: str = ""


def read(path: str, answers: Sequence[str] = _LABELS) -> list[Delivered]:
    """Read a delivery of classes. The kind is recognised by the name's extension and the content. answers: the names
    of the column that holds the answer.

    A line that cannot be used says so in its `problem`. Raises LabelError if the file does not exist or cannot be read
    as a whole.
    """
    if not is_remote(path) and Path(path).is_dir():
        return _read_folder(Path(path))
    table, lines = partial(_read_csv, answers=answers), partial(_read_lines, answers=answers)
    readers: Mapping[str, Callable[[str, str], list[Delivered]]] = {
        ".csv": table, ".tsv": table, ".txt": table, ".jsonl": lines, ".ndjson": lines, ".json": _read_json,
        ".xml": _read_cvat,
    }  # fmt: skip
    name = path.rstrip("/").rpartition("/")[2]
    reader = readers.get(Path(name).suffix.lower())
    if reader is None:
        raise LabelError(f"{path}: expected a folder or a file that ends with {', '.join(readers)}")
    return reader(name, text_of(path))


def text_of(path: str) -> str:
    """The text of a file, in UTF-8, or in UTF-16 with a byte order mark. Raises LabelError if it cannot be read."""
    try:
        return decoded(read_bytes(path))
    except FileNotFoundError:
        raise LabelError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise LabelError(f"{path}: {not_utf8(error)}") from None
    except (OSError, StoreError) as error:
        raise LabelError(f"{path}: cannot be read: {error}") from error


def _read_csv(name: str, text: str, answers: Sequence[str]) -> list[Delivered]:
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator(text))
    try:
        header = [cell.strip().casefold() for cell in next(lines, [])]
        columns = _columns(header, name, answers)
        found = []
        for cells in lines:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                found += bad(f"{name}:{lines.line_num}", f"expected {len(header)} cells, got {len(cells)}")
                continue
            record = {column: cells[at] for column, at in columns.items()}
            found += _answer(f"{name}:{lines.line_num}", record)
    except csv.Error as error:
        raise LabelError(f"{name}:{lines.line_num}: cannot be read as CSV: {error}") from None
    return found


def _columns(header: Sequence[str], name: str, answers: Sequence[str]) -> dict[str, int]:
    twice = [column for column, count in Counter(header).items() if count > 1 and column]
    if twice:
        raise LabelError(f"{name}:1: expected different column names, got {twice[0]!r} more than once")
    key = next((column for column in _KEYS if column in header), None)
    label = next((column for column in answers if column in header), None)
    if key is None or label is None:
        missing = f"key (or {', '.join(_KEYS[1:])})" if key is None else f"{answers[0]} (or {', '.join(answers[1:])})"
        got = f"{', '.join(header)}; the first line of a table names its columns" if header else "an empty file"
        raise LabelError(f"{name}:1: expected a column {missing}, got {got}")
    columns = {"key": header.index(key), "label": header.index(label)}
    return columns | {column: header.index(column) for column in (_STATUS, _ANNOTATOR) if column in header}


def _answer(where: str, record: Mapping[str, Any]) -> list[Delivered]:
    """The answer of one record; none if the record has neither a label nor a status."""
    key, label = (str(record.get(name) if record.get(name) is not None else "").strip() for name in ("key", "label"))
    word = str(record.get(_STATUS) or "").strip().casefold()
    if not key:
        return bad(where, "expected the key of an image, got none")
    if word not in _WORDS:
        return bad(where, f"expected the status label, skip or unusable, got {word!r}")
    status = _WORDS[word]
    if status != Status.LABEL and label:
        return bad(where, f"expected no label beside the status {word}, got {label!r}")
    if status == Status.LABEL and not label:
        return []  # nobody has looked at this image yet
    return [Delivered(where, key, status, label, str(record.get(_ANNOTATOR) or "").strip())]


def bad(where: str, problem: str) -> list[Delivered]:
    """A line that cannot be used, and why."""
    return [Delivered(where, "", Status.NOT_YET, "", problem=problem)]


def _read_lines(name: str, text: str, answers: Sequence[str]) -> list[Delivered]:
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            where = f"{name}:{number}"
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                found += bad(where, f"expected a JSON object, got something else: {error}")
                continue
            found += _record(where, record, answers)
    return found


def _record(where: str, record: Any, answers: Sequence[str] = _LABELS) -> list[Delivered]:
    """The answer of one JSON object; none if it has neither a label nor a status."""
    if not isinstance(record, dict):
        return bad(where, f"expected a JSON object with key and label, got {type(record).__name__}")
    given = {str(name).strip().casefold(): value for name, value in record.items()}
    key = next((given[name] for name in _KEYS if given.get(name) is not None), None)
    label = next((given[name] for name in answers if given.get(name) is not None), None)
    for value, what in ((key, "key"), (label, "label")):
        if not isinstance(value, str | int | None):
            return bad(where, f"expected text as {what}, got {json.dumps(value)[:60]}")
    named = {"key": key, "label": label, _STATUS: given.get(_STATUS), _ANNOTATOR: given.get(_ANNOTATOR)}
    return _answer(where, named)


def _read_json(name: str, text: str) -> list[Delivered]:
    try:
        tree = json.loads(text)
    except json.JSONDecodeError as error:
        raise LabelError(f"{name}:{error.lineno}: expected JSON, got something else: {error.msg}") from None
    if isinstance(tree, dict) and {"images", "annotations", "categories"} <= tree.keys():
        return list(_coco(name, tree))
    if isinstance(tree, list) and all(isinstance(task, dict) for task in tree):
        return [answer for at, task in enumerate(tree, 1) for answer in of_task(name, at, task)]
    raise LabelError(
        f"{name}: expected an export of Label Studio (a list of tasks) or COCO (images, annotations, categories), got "
        + (f"an object with {', '.join(sorted(map(str, tree))[:6])}" if isinstance(tree, dict) else "something else")
    )


def of_task(
    name: str, at: int, task: Mapping[str, Any],
    read: Callable[[Delivered, Mapping[str, Any]], Iterable[Delivered]] | None = None,
) -> Iterator[Delivered]:  # fmt: skip
    """The answers of one task of Label Studio: one per annotation that was submitted or cancelled. task: as in an
    export; name and at: the file and the number, for messages. read: makes answers of an annotation that somebody
    submitted, from an empty one of the same image and annotator; by default it reads a class."""
    where = f"{name}: task {task.get('id', at)}"
    if "annotations" not in task and read is None:  # the short export, JSON-MIN, has the choice beside the data
        yield from _record(where, task)
        return
    key = _key_of(task.get("data") or {})
    if not key:
        yield from bad(where, "expected the image in data.key or data.image, got neither")
        return
    if "annotations" not in task:
        yield from bad(where, "expected annotations, got none; export it as JSON")
        return
    for annotation in task["annotations"]:
        empty = Delivered(where, key, Status.NOT_YET, "", str(annotation.get("completed_by") or ""))
        if annotation.get("was_cancelled"):
            yield replace(empty, status=Status.SKIP)
        elif any(part.get("from_name") == UNUSABLE and _choices(part) for part in annotation.get("result", [])):
            yield replace(empty, status=Status.UNUSABLE)
        else:
            yield from (read or _chosen)(empty, annotation)


def _chosen(empty: Delivered, annotation: Mapping[str, Any]) -> list[Delivered]:
    """The class that an annotation gives. One that was typed goes before a choice, because the class that the model
    predicts is chosen when an annotator comes."""
    parts = annotation.get("result", [])
    texts = [part.get("value", {}).get("text", []) for part in parts if part.get("from_name") == NEW_CLASS]
    chosen = [text for typed in texts for text in typed] or [choice for part in parts for choice in _choices(part)]
    if len(chosen) > 1:
        return bad(empty.where, f"expected one choice, got {', '.join(map(str, chosen))}")
    return [replace(empty, status=Status.LABEL, label=str(choice).strip()) for choice in chosen]


def _choices(part: Mapping[str, Any]) -> list[str]:
    return list(part.get("value", {}).get("choices", []))


def _key_of(data: Mapping[str, Any]) -> str:
    if data.get("key"):
        return str(data["key"])
    image = str(data.get("image") or data.get("url") or "")
    local = image.partition("?d=")[2]  # Label Studio serves local files as /data/local-files/?d=path
    return unquote(local) if local else image


def _coco(name: str, tree: Mapping[str, Any]) -> Iterator[Delivered]:
    try:
        files = {image["id"]: str(image["file_name"]) for image in tree["images"]}
        classes = {category["id"]: str(category["name"]) for category in tree["categories"]}
        for at, annotation in enumerate(tree["annotations"], 1):
            where = f"{name}: annotation {annotation.get('id', at)}"
            if annotation["image_id"] not in files or annotation["category_id"] not in classes:
                raise LabelError(f"{where}: expected an image_id and a category_id of this file, got others")
            yield Delivered(where, files[annotation["image_id"]], Status.LABEL, classes[annotation["category_id"]])
    except (KeyError, TypeError) as error:
        raise LabelError(
            f"{name}: expected COCO's fields id, file_name, name, image_id, category_id: {error}"
        ) from None


def _read_cvat(name: str, text: str) -> list[Delivered]:
    """The tags of "CVAT for images 1.1"."""
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise LabelError(f"{name}:{error.position[0]}: expected CVAT's XML, got something else: {error}") from None
    images = list(root.iter("image"))
    if root.tag != "annotations" or not images:
        raise LabelError(f"{name}: expected CVAT's <annotations> with <image> elements, got <{root.tag}>")
    return [
        Delivered(f"{name}: image {image.get('id', '?')}", image.get("name", ""), Status.LABEL, tag.get("label", ""))
        for image in images
        for tag in image.iter("tag")
    ]


def _read_folder(folder: Path) -> list[Delivered]:
    """One directory per class; the key of an image is its name, or the end of its path inside the class directory."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    found = []
    for path in files:
        parts = path.relative_to(folder).parts
        if len(parts) < 2:
            raise LabelError(f"{path}: expected an image in the directory of its class, got one beside the directories")
        found.append(Delivered(str(path), "/".join(parts[1:]), Status.LABEL, parts[0]))
    if not found:
        raise LabelError(f"{folder}: expected images in directories that are named after their classes, got no file")
    return found
