"""The same few real images written out as every kind of source."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CLASSES = ("bird", "cat", "dög")
TEMPLATE = "{split}/{class}/{filename}"


@dataclass(frozen=True)
class Item:
    split: str
    label: str
    filename: str
    data: bytes

    @property
    def key(self) -> str:
        return "/".join(part for part in (self.split, self.label, self.filename) if part)


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, kind)
    return sink.getvalue()


def items(each: int = 4) -> list[Item]:
    """Images of 12 x 10 pixels, JPEG and PNG, in an order that is not that of their keys."""
    rng = np.random.default_rng(0)
    made = [
        Item(split, label, f"{label[0]}.{i}.{kind.lower()}", encoded(rng.integers(0, 255, (10, 12, 3), np.uint8), kind))
        for i in range(each)
        for split in ("train", "test")
        for label in CLASSES
        for kind in (("PNG", "JPEG")[i % 2],)
    ]
    return [made[i] for i in rng.permutation(len(made))]


def folder(found: list[Item], place: Path) -> str:
    for item in found:
        (place / item.key).parent.mkdir(parents=True, exist_ok=True)
        (place / item.key).write_bytes(item.data)
    (place / "README.txt").write_text("no image")
    return str(place)


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def tars_by_directory(found: list[Item], place: Path) -> str:
    place.mkdir()
    for number in range(2):
        with tarfile.open(place / f"shard-{number}.tar", "w") as tar:
            for item in found[number::2]:
                add(tar, f"./{item.key}", item.data)
    return str(place)


def tars_by_sidecar(found: list[Item], place: Path) -> str:
    """Labels by .cls number and by .json name; classes in alray-classes.txt."""
    place.mkdir()
    (place / "alray-classes.txt").write_text("\n".join(CLASSES))
    for number in range(2):
        with tarfile.open(place / f"shard-{number}.tar", "w") as tar:
            for item in found[number::2]:
                stem = item.key.rpartition(".")[0]
                if number:
                    add(tar, f"{stem}.json", json.dumps({"label": item.label}).encode())
                add(tar, item.key, item.data)
                if not number:
                    add(tar, f"{stem}.cls", str(CLASSES.index(item.label)).encode())
    return str(place / "*.tar")


def parquet(found: list[Item], place: Path) -> str:
    """Numbered labels named by the schema's metadata, the split in the file's name, small row groups."""
    place.mkdir()
    schema = pa.schema(
        [("label", pa.int8()), ("filename", pa.string()), ("image", pa.binary())],
        metadata={"classes": ",".join(CLASSES)},
    )
    for split in ("train", "test"):
        mine = [item for item in found if item.split == split]
        columns = {
            "label": [CLASSES.index(item.label) for item in mine],
            "filename": [item.filename for item in mine],
            "image": [item.data for item in mine],
        }
        pq.write_table(pa.table(columns, schema=schema), place / f"images_{split}_00-of-01.parquet", row_group_size=5)
    return str(place)


def saved_to_disk(found: list[Item], place: Path) -> str:
    """A DatasetDict as `datasets` saves it: streams of small batches, and the features beside them."""
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(CLASSES)}}
    splits = list(dict.fromkeys(item.split for item in found))
    place.mkdir()
    (place / "dataset_dict.json").write_text(json.dumps({"splits": splits}))
    for split in splits:
        mine = [item for item in found if item.split == split]
        columns = {
            "image": [{"bytes": item.data, "path": item.filename} for item in mine],
            "label": pa.array([CLASSES.index(item.label) for item in mine], pa.int64()),
            "filename": [item.filename for item in mine],
        }
        folder, table = place / split, pa.table(columns)
        folder.mkdir()
        with pa.ipc.new_stream(folder / "data-00000-of-00001.arrow", table.schema) as writer:
            writer.write_table(table, max_chunksize=3)
        (folder / "dataset_info.json").write_text(
            json.dumps({"features": {**features, "filename": {"_type": "Value"}}})
        )
        (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    return str(place)


def hugging_face(found: list[Item], place: Path) -> str:
    """An image struct, a split column, and the classes as ClassLabel."""
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(CLASSES)}}
    columns = {
        "image": [{"bytes": item.data, "path": item.filename} for item in found],
        "label": [CLASSES.index(item.label) for item in found],
        "filename": [item.filename for item in found],
        "split": [item.split for item in found],
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    (place / "data").mkdir(parents=True)
    pq.write_table(
        pa.table(columns).replace_schema_metadata(metadata), place / "data" / "all.parquet", row_group_size=7
    )
    return str(place)


def csv(found: list[Item], place: Path) -> str:
    folder(found, place)
    lines = ["path,key,label,split", *(f"{i.key},{i.key},{i.label},{i.split}" for i in found)]
    (place / "list.csv").write_text("\n".join(lines))
    return str(place / "list.csv")


def jsonl(found: list[Item], place: Path) -> str:
    folder(found, place)
    (place / "alray-classes.txt").write_text("\n".join(CLASSES))
    lines = [
        json.dumps(
            {"uri": str(place / i.key), "filename": i.filename, "label": CLASSES.index(i.label), "split": i.split}
        )
        for i in found
    ]
    (place / "list.jsonl").write_text("\n".join(lines))
    return str(place / "list.jsonl")


# How each is written, and the key that names its images alike.
SOURCES: dict[str, tuple[Callable[[list[Item], Path], str], str]] = {
    "folder": (folder, ""),
    "tars by directory": (tars_by_directory, ""),
    "tars by sidecar": (tars_by_sidecar, ""),
    "parquet": (parquet, TEMPLATE),
    "hugging face": (hugging_face, TEMPLATE),
    "saved to disk": (saved_to_disk, TEMPLATE),
    "csv": (csv, ""),
    "jsonl": (jsonl, TEMPLATE),
}
