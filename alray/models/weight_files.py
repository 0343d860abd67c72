"""Read a file of weights: torch.save, safetensors or a NumPy archive. Any other file is refused by what it is.

Nothing in a file is run. `look` needs no torch: it reads the first bytes alone, before expensive work.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections import OrderedDict
from pathlib import PurePosixPath
from typing import Any

import pyarrow.fs as pafs

from alray.reasons import first_of
from alray.store import filesystem, read_checked

_HEAD = 512
_SHOWN = 5
_CONTROL = re.compile(r"\x1b\[[0-9;]*m|[\x00-\x1f\x7f-\x9f]+")


class CheckpointError(ValueError):
    """The weights cannot be read or do not fit the backbone. The message names tensors and shapes."""


class NumpyWeights(dict[str, Any]):
    """The arrays of a NumPy archive by name. data: the bytes of the file, which timm reads itself."""

    data: bytes


# What a file is by its first bytes (offset, bytes), and what to do about it.
OTHER_FILES: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"version https://git-lfs", "a Git LFS pointer instead of the weights", "fetch them with `git lfs pull`"),
    (0, b"/annex/objects", "a git-annex pointer instead of the weights", "fetch them with `git annex get`"),
    (0, b"<!doctype html", "a web page instead of the weights", "download the file itself"),
    (0, b"<html", "a web page instead of the weights", "download the file itself"),
    (0, b"<?xml", "an XML document instead of the weights", "download the file itself; is access refused?"),
    (0, b"\x1f\x8b", "a gzip archive", "unpack it and give the file inside"),
    (0, b"bzh", "a bzip2 archive", "unpack it and give the file inside"),
    (0, b"\xfd7zxz", "an xz archive", "unpack it and give the file inside"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it and give the file inside"),
    (257, b"ustar", "a tar archive", "unpack it and give the file inside"),
    (0, b"\x89hdf", "an HDF5 file of Keras or TensorFlow", "alray reads PyTorch's weights"),
    (4, b"tfl3", "a TensorFlow Lite model", "alray reads PyTorch's weights"),
    (0, b"gguf", "a GGUF file", "alray reads PyTorch's weights"),
    (0, b"\x93numpy", "a single NumPy array", "alray reads archives with named arrays (.npz)"),
)
# What a folder is by the names in it. The first that fits is taken.
_FOLDERS: tuple[tuple[str, str, str], ...] = (
    (r"zero_to_fp32\.py|latest|global_step\d+|mp_rank_\d+.*", "a DeepSpeed checkpoint",
     "run its zero_to_fp32.py, which writes one file"),
    (r"\.metadata|.*\.distcp", "a distributed checkpoint of PyTorch (FSDP)",
     "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE"),
    (r"saved_model\.pb|variables", "a TensorFlow SavedModel", "alray reads PyTorch's weights"),
    (r".*\.(safetensors|pth|pt|bin|ckpt|tar|npz)", "a folder with files of weights", "give the file itself"),
)  # fmt: skip

# Objects of these modules are values of a training's state, such as a best accuracy or an output directory. The names
# in the file are replaced with stand-ins, so that nothing of these modules is called.
_VALUES = {"numpy", "pathlib", "datetime", "omegaconf", "typing"}
_BUILTINS = {"list", "dict", "set", "tuple", "int", "float", "str", "bool", "complex", "slice", "range", "bytearray"}
_DICTIONARIES = {"defaultdict", "AttributeDict", "CfgNode", "EasyDict", "ConfigDict"}


class _Value:
    """Stands for an object that is not read. It accepts any arguments and any state."""

    def __new__(cls, *_: Any, **__: Any) -> _Value:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


class _Dictionary:
    """Stands for a class of dictionaries: its objects are read as plain ones."""

    def __new__(cls, *_: Any) -> Any:
        return OrderedDict()


def look(uri: str) -> None:
    """Check by its first bytes whether a file may hold weights. Raises CheckpointError that says what it is instead."""
    fs, path = filesystem(uri)
    info = fs.get_file_info(path)
    if info.type == pafs.FileType.NotFound:
        raise CheckpointError(f"{uri}: no such checkpoint file")
    if info.type == pafs.FileType.Directory:
        raise CheckpointError(f"{uri}: expected one file, got {_folder(fs, path)}")
    with fs.open_input_file(path) as file:
        head = bytes(file.read(_HEAD))
    _refuse_other_file(uri, head)


def read(uri: str) -> Any:
    """The content of a file: nested dictionaries with tensors, or NumpyWeights. Raises CheckpointError."""
    look(uri)
    data = read_checked(uri)
    if is_safetensors(data):
        return _safetensors(uri, data)
    if data[:2] == b"PK":
        return _zip(uri, data)
    return _torch(uri, data)


def is_safetensors(head: bytes) -> bool:
    """Whether these are the first bytes of a safetensors file: the length of a JSON header, and its brace."""
    return len(head) > 8 and head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") < 2**27


def plain(text: str) -> str:
    """One line without control characters, for a terminal. The text may come from a file or from torch."""
    return _CONTROL.sub(" ", text).strip()


def some(names: list[str] | tuple[str, ...]) -> str:
    """How many names there are, and the first of them."""
    return plain(f"{len(names)}: {first_of(names, most=_SHOWN)}")


def _folder(fs: pafs.FileSystem, path: str) -> str:
    names = sorted(info.base_name for info in fs.get_file_info(pafs.FileSelector(path)))
    for pattern, what, advice in _FOLDERS:
        if found := [name for name in names if re.fullmatch(pattern, name)]:
            return f"{what} ({', '.join(found[:_SHOWN])}); {advice}"
    return f"a folder with {some(names)}" if names else "an empty folder"


def _refuse_other_file(uri: str, head: bytes) -> None:
    if not head:
        raise CheckpointError(f"{uri}: expected a checkpoint, got an empty file")
    lower = head.lower()
    for start, mark, what, advice in OTHER_FILES:
        if lower.lstrip()[:64].startswith(mark) if start == 0 else lower[start:].startswith(mark):
            raise CheckpointError(f"{uri}: expected a checkpoint, got {what}; {advice}")
    if head.lstrip()[:1] == b"{":
        raise CheckpointError(f"{uri}: expected a checkpoint, got {_json(uri)}")
    if not head.startswith((b"PK", b"\x80")) and not is_safetensors(head):
        raise CheckpointError(
            f"{uri}: expected a file of torch.save, safetensors or NumPy (.npz), got something else that begins with "
            f"{head[:24]!r}"
        )


def _json(uri: str) -> str:
    if uri.endswith(".index.json"):
        return (
            "the index of weights that were cut into several files; join them into one: "
            "safetensors.torch.save_file({k: v for f in FILES for k, v in load_file(f).items()}, 'model.safetensors')"
        )
    return "JSON; give the file of weights beside it"


def _safetensors(uri: str, data: bytes) -> Any:
    import safetensors.torch
    from safetensors import SafetensorError

    try:
        return safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{uri}: expected a whole safetensors file, got one that cannot be read ({plain(str(error))}); was its "
            "download cut short?"
        ) from error


def _zip(uri: str, data: bytes) -> Any:
    try:
        names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    except zipfile.BadZipFile as error:
        raise CheckpointError(
            f"{uri}: expected a whole checkpoint, got a zip file without its end; was its download cut short?"
        ) from error
    inner = {PurePosixPath(name).name for name in names}
    if "constants.pkl" in inner or any("/code/" in name for name in names):
        raise CheckpointError(
            f"{uri}: expected a state dict, got a TorchScript archive, which is a program with weights; save its "
            "weights: torch.save(torch.jit.load(FILE, map_location='cpu').state_dict(), NEW_FILE)"
        )
    if names and all(name.endswith(".npy") for name in names):
        return _arrays(uri, data)
    if "data.pkl" in inner:
        return _torch(uri, data)
    raise CheckpointError(
        f"{uri}: expected a checkpoint, got a zip archive of other files ({some(names)}); unpack it and give the file "
        "inside"
    )


def _arrays(uri: str, data: bytes) -> NumpyWeights:
    import numpy as np

    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            found = NumpyWeights({name: archive[name] for name in archive.files})
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{uri}: expected an archive of arrays: {plain(str(error))}") from error
    found.data = data
    return found


def _torch(uri: str, data: bytes) -> Any:
    """Read what torch.save wrote. Names of harmless values get stand-ins; a file with other objects is refused."""
    import torch

    names: set[str] = set()
    if data[:2] == b"PK":  # the old format of torch.save tells its names one by one, in errors
        try:
            names = set(torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(data)))
        except Exception as error:
            raise _unreadable(uri, error) from error
    while True:
        _refuse_objects(uri, names)
        try:
            with torch.serialization.safe_globals([(_stand_in(name), name) for name in sorted(names)]):
                return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as error:  # a broken file can end in any error
            found = re.search(r"Unsupported global: GLOBAL (\S+) was not", str(error))
            name = found[1] if found else ""
            name = name if "." in name else f"builtins.{name}"
            if not found or name in names:
                raise _unreadable(uri, error) from error
            names.add(name)


def _stand_in(name: str) -> Any:
    import argparse

    if name == "argparse.Namespace":  # the options of a training: plain values
        return argparse.Namespace
    return _Dictionary if name.rpartition(".")[2] in _DICTIONARIES else _Value


def _refuse_objects(uri: str, names: set[str]) -> None:
    objects = sorted(name for name in names if not _harmless(name))
    if not objects:
        return
    if any(name.startswith(("torch.distributed.tensor", "torch.distributed._shard")) for name in objects):
        raise CheckpointError(
            f"{uri}: expected whole tensors, got parts of tensors from a distributed training ({some(objects)}); save "
            "a full state dict (torch.distributed.checkpoint.state_dict.get_model_state_dict with full_state_dict)"
        )
    raise CheckpointError(
        f"{uri}: expected tensors, got Python objects besides them, which can run code when loaded ({some(objects)}); "
        "where the model comes from, save its state dict: torch.save(model.state_dict(), FILE)"
    )


def _harmless(name: str) -> bool:
    module, _, last = name.rpartition(".")
    if module == "builtins":
        return last in _BUILTINS
    return name == "argparse.Namespace" or module.split(".")[0] in _VALUES or last in _DICTIONARIES


def _unreadable(uri: str, error: Exception) -> CheckpointError:
    """The error in one line, without torch's advice to let the file run code."""
    text = plain(str(error).rpartition("WeightsUnpickler error:")[2] or type(error).__name__)
    reason = re.split(r"Please |Check the documentation|This file can still", text)[0].strip()
    return CheckpointError(
        f"{uri}: expected a checkpoint of torch.save, safetensors or NumPy (.npz), got a file that cannot be read as "
        f"one ({reason[:200]})"
    )
