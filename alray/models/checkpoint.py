"""Read self-supervised or other weights into a backbone, and refuse files that do not fit.

MoCo, SimCLR, SimSiam, DINO, timm and torchvision store the same backbone in different dictionaries and under different
prefixes. There is no code for each of them: the file is searched for the dictionary and prefix with most of the
backbone's names.
"""

from __future__ import annotations

import argparse
import io
import pickle
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from alray.store import read_checked

Tensors = dict[str, torch.Tensor]

_DEPTH = 4  # the most nested dictionaries, as in checkpoint -> teacher -> state_dict
_SECOND_CHOICE = ("student", "encoder_k", "momentum")  # copies of the backbone that are used only if there is no other
_SHOWN = 5


class CheckpointError(ValueError):
    """The weights cannot be read or do not fit the backbone. The message names tensors and shapes."""


@dataclass(frozen=True)
class LoadReport:
    """Which tensors of a file were loaded. The names are those in the file; those of `missing` are the backbone's."""

    uri: str
    prefix: str  # dictionaries and prefix of the backbone's names: "state_dict/module.encoder_q."
    loaded: tuple[str, ...]
    missing: tuple[str, ...]  # only BatchNorm's counters of batches may be missing
    unexpected: tuple[str, ...]  # other tensors with the same prefix, such as heads and projectors
    skipped: tuple[str, ...]  # tensors elsewhere in the file, such as other encoders and queues

    def __str__(self) -> str:
        lines = [f"{self.uri}: {len(self.loaded)} tensors loaded from {self.prefix or 'the top level'!r}"]
        for word, names in (("missing", self.missing), ("not used", self.unexpected), ("elsewhere", self.skipped)):
            if names:
                lines.append(f"  {word}: {_some(names)}")
        return "\n".join(lines)


def load_backbone(backbone: nn.Module, uri: str) -> LoadReport:
    """Copy the weights of a file (.safetensors or torch.save; path or URI) into the backbone, in place.

    Raises CheckpointError if the file is missing or not a checkpoint, if a parameter or BatchNorm statistic of the
    backbone is missing or has another shape, and if the file has more layers than the backbone (another architecture).
    """
    entries = [(path, tensors) for path, tensors in _dictionaries(_read(uri)) if tensors]
    if not entries:
        raise CheckpointError(f"{uri}: expected tensors with names, got none")
    wanted = backbone.state_dict()
    place, prefix = _best_place(entries, wanted)
    tensors = entries[place][1]
    found = {name: tensors[prefix + name] for name in wanted if prefix + name in tensors}
    beside = [name for name in tensors if name.startswith(prefix) and name[len(prefix) :] not in wanted]
    _refuse_other_architecture(uri, prefix, wanted, found, beside)
    backbone.load_state_dict(found, strict=False)
    return LoadReport(
        uri=uri,
        prefix="/".join([*entries[place][0], prefix]),
        loaded=tuple(prefix + name for name in found),
        missing=tuple(name for name in wanted if name not in found),
        unexpected=tuple(beside),
        skipped=tuple(_elsewhere(entries, place, prefix)),
    )


def _read(uri: str) -> Any:
    try:
        data = read_checked(uri)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise CheckpointError(f"{uri}: no such checkpoint file") from error
    try:
        if uri.endswith(".safetensors"):
            return safetensors.torch.load(data)
        with torch.serialization.safe_globals([argparse.Namespace]):  # DINO stores its command line beside the weights
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise CheckpointError(f"{uri}: expected a checkpoint that can be read safely: {_first_line(error)}") from error


def _dictionaries(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Tensors]]:
    """Yield every nested dictionary: its path, and the tensors directly in it."""
    if not isinstance(value, Mapping) or len(path) > _DEPTH:
        return
    yield path, {key: item for key, item in value.items() if isinstance(key, str) and isinstance(item, torch.Tensor)}
    for key, item in value.items():
        if isinstance(key, str):
            yield from _dictionaries(item, (*path, key))


def _best_place(entries: list[tuple[tuple[str, ...], Tensors]], wanted: Mapping[str, torch.Tensor]) -> tuple[int, str]:
    """The number of the entry, and the prefix, with the most names and shapes of the backbone."""
    scores: dict[tuple[int, str], list[int]] = {}
    for place, (_, tensors) in enumerate(entries):
        for prefix, (names, shapes) in _prefixes(tensors, wanted).items():
            scores[place, prefix] = [shapes, names]
    if not scores:
        return 0, ""

    def preference(key: tuple[int, str]) -> tuple[Any, ...]:
        where = "/".join([*entries[key[0]][0], key[1]])
        return (*(-score for score in scores[key]), any(word in where for word in _SECOND_CHOICE), len(key[1]), key)

    return min(scores, key=preference)


def _prefixes(tensors: Tensors, wanted: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, int]]:
    """For every prefix before names of the backbone: the number of such names, and of those with the right shape."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for key, tensor in tensors.items():
        parts = key.split(".")
        for start in range(len(parts)):
            name = ".".join(parts[start:])
            if name in wanted:
                count = counts[key[: len(key) - len(name)]]
                count[0] += 1
                count[1] += tensor.shape == wanted[name].shape
    return {prefix: (names, shapes) for prefix, (names, shapes) in counts.items()}


def _refuse_other_architecture(
    uri: str, prefix: str, wanted: Mapping[str, torch.Tensor], found: Tensors, beside: list[str]
) -> None:
    missing = [name for name in wanted if name not in found and not name.endswith("num_batches_tracked")]
    mismatched = [
        f"{name} is {tuple(found[name].shape)} in the file and {tuple(wanted[name].shape)} in the backbone"
        for name in found
        if found[name].shape != wanted[name].shape
    ]
    modules = {name.split(".")[0] for name in wanted}
    surplus = [name for name in beside if name[len(prefix) :].split(".")[0] in modules]
    if not missing and not mismatched and not surplus:
        return
    lines = [f"{uri}: the backbone did not load ({len(found) - len(mismatched)} of {len(wanted)} tensors fit)"]
    lines += [f"  missing in the file: {_some(missing)}"] if missing else []
    lines += [f"  other shape: {_some(mismatched)}"] if mismatched else []
    lines += [f"  layers that the backbone does not have: {_some(surplus)}"] if surplus else []
    if any(line.startswith("conv1.weight ") for line in mismatched):
        lines.append("  does model.small_stem fit this checkpoint?")
    raise CheckpointError("\n".join(lines))


def _elsewhere(entries: list[tuple[tuple[str, ...], Tensors]], place: int, prefix: str) -> Iterator[str]:
    for number, (path, tensors) in enumerate(entries):
        for name in tensors:
            if number != place or not name.startswith(prefix):
                yield "/".join([*path, name])


def _some(names: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)}: {', '.join(names[:_SHOWN])}{more}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
