"""Where a file has a backbone, and how its tensors fit."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alray.models.weight_files import some
from alray.models.weight_names import BODY, NAMINGS, Naming, Tensors, classifiers, timm_names, unwrapped

if TYPE_CHECKING:
    import torch
    from torch import nn

Entries = list[tuple[tuple[str, ...], Tensors]]  # the dictionaries of a file: the path of each, and its tensors

_DEPTH = 4  # the most nested dictionaries, as in classy_state_dict -> base_model -> model -> trunk
_CANDIDATES = 8  # the most prefixes that are tried


@dataclass(frozen=True)
class Place:
    """Where a file may have the backbone: dictionaries, prefix, and the naming of what follows (None: timm's)."""

    path: tuple[str, ...]
    tensors: Tensors
    prefix: str
    naming: Naming | None = None

    def __str__(self) -> str:
        return "/".join([*self.path, self.prefix])


@dataclass(frozen=True)
class Fit:
    """What the backbone finds at a place. found has the backbone's names; problems are lines about why it does not
    load."""

    place: Place
    found: Tensors
    fitting: int  # tensors with the right name and shape
    beside: tuple[str, ...]  # names in the file that are not used
    changed: tuple[str, ...]  # what was done to tensors, in words
    problems: tuple[str, ...]
    only_stem: bool  # nothing but the first convolution of a ResNet has another shape


def entries_of(content: Any) -> Entries:
    """Every dictionary of a file that holds tensors, without the words of wrappers in their names."""
    return [(path, unwrapped(tensors)) for path, tensors in _dictionaries(content) if tensors]


def fits_of(entries: Entries, backbone: nn.Module) -> list[Fit]:
    """How the tensors fit at every place that may be the backbone. Other libraries' names are tried last."""
    wanted = backbone.state_dict()
    fits = [_fit(place, wanted, backbone) for place in _timm_places(entries, wanted)]
    if any(not fit.problems for fit in fits):
        return fits
    return fits + [_fit(place, wanted, backbone) for place in _foreign_places(entries)]


def _dictionaries(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Tensors]]:
    """Yield every nested dictionary: its path, and the tensors directly in it."""
    import torch

    if not isinstance(value, Mapping) or len(path) > _DEPTH:
        return
    yield path, {key: item for key, item in value.items() if isinstance(key, str) and isinstance(item, torch.Tensor)}
    for key, item in value.items():
        if isinstance(key, str):
            yield from _dictionaries(item, (*path, key))


def _timm_places(entries: Entries, wanted: Mapping[str, torch.Tensor]) -> list[Place]:
    """The places with most of the backbone's names; there may be several copies."""
    counted = [
        (count, Place(path, tensors, prefix))
        for path, tensors in entries
        for prefix, count in _prefixes(tensors, wanted).items()
    ]
    most = max((count for count, _ in counted), default=0)
    good = sorted((item for item in counted if 2 * item[0] >= most), key=lambda item: -item[0])
    return [place for _, place in good[:_CANDIDATES]]


def _prefixes(tensors: Tensors, wanted: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """For every prefix before names of the backbone: the number of such names."""
    counts: dict[str, int] = defaultdict(int)
    for key in tensors:
        parts = key.split(".")
        for start in range(len(parts)):
            name = ".".join(parts[start:])
            if name in wanted:
                counts[key[: len(key) - len(name)]] += 1
    return counts


def _foreign_places(entries: Entries) -> list[Place]:
    """The places with names of other libraries, for which there is a conversion; those with most tensors first."""
    found = [
        (sum(key.startswith(prefix) for key in tensors), Place(path, tensors, prefix, naming))
        for path, tensors in entries
        for naming in NAMINGS
        if naming.convert is not None
        for prefix in naming.prefixes(tensors)
    ]
    return [place for _, place in sorted(found, key=lambda item: -item[0])[: 2 * _CANDIDATES]]


def _fit(place: Place, wanted: Mapping[str, torch.Tensor], backbone: nn.Module) -> Fit:
    native = {key[len(place.prefix) :]: t for key, t in place.tensors.items() if key.startswith(place.prefix)}
    named = place.naming.convert(native, backbone) if place.naming and place.naming.convert else native
    converted = timm_names(named, backbone)
    found = {name: converted[name] for name in wanted if name in converted}
    missing = [name for name in wanted if name not in found and not name.endswith("num_batches_tracked")]
    mismatched = [text for name in found if (text := _mismatch(name, found[name], wanted[name]))]
    modules = ({name.split(".")[0] for name in wanted} | BODY) - classifiers(backbone)
    surplus = [name for name in converted if name not in wanted and name.split(".")[0] in modules]
    dropped = [
        name
        for name, t in native.items()
        if name not in converted and name.split(".")[0] in modules and _matters(name, t, converted)
    ]
    broken = [name for name in found if found[name].is_floating_point() and not found[name].isfinite().all()]
    lines = {
        "missing in the file": missing,
        "other shape": mismatched,
        "layers that the backbone does not have": [place.prefix + name if name in native else name for name in surplus],
        "not zero in the file, and the backbone has no such parameters": dropped,
        "values that are not finite": broken,
    }
    used = {tensor.data_ptr() for tensor in found.values()}
    return Fit(
        place=place,
        found=found,
        fitting=len(found) - len(mismatched),
        beside=tuple(f"{place}{name}" for name, t in native.items() if t.data_ptr() not in used and name not in found),
        changed=tuple(_changes(native, named, found, place.naming)),
        problems=tuple(f"  {word}: {some(names)}" for word, names in lines.items() if names),
        only_stem=not (missing or surplus) and [text.split()[0] for text in mismatched] == ["conv1.weight"],
    )


def _mismatch(name: str, got: torch.Tensor, want: torch.Tensor) -> str:
    if got.shape != want.shape:
        return f"{name} is {tuple(got.shape)} in the file and {tuple(want.shape)} in the backbone"
    if want.is_floating_point() and not got.is_floating_point():
        return f"{name} is {got.dtype} in the file (quantised weights?) and {want.dtype} in the backbone"
    return ""


def _matters(name: str, tensor: torch.Tensor, converted: Tensors) -> bool:
    """Whether a tensor that timm's conversion dropped changes what the network computes. A zero bias does not."""
    parameter = name.endswith((".weight", ".bias")) and tensor.is_floating_point()
    return parameter and tensor.data_ptr() not in {t.data_ptr() for t in converted.values()} and bool(tensor.any())


def _changes(native: Tensors, named: Tensors, found: Tensors, naming: Naming | None) -> Iterator[str]:
    """What was done to the tensors of the file, in words. native: as in the file; named: after our own conversion."""
    if naming:
        yield f"read as {naming.name}"
    elif renamed := [name for name in found if name not in native]:
        yield f"named by timm's conversion: {some(renamed)}"
    kept, computed = {tensor.data_ptr() for tensor in native.values()}, []
    for name, tensor in found.items():
        if tensor.data_ptr() in kept:
            continue
        if name in named and named[name].shape != tensor.shape:
            yield f"{name} resampled from {tuple(named[name].shape)} to {tuple(tensor.shape)}"
        else:
            computed.append(name)
    if computed:
        yield f"computed by timm's conversion: {some(computed)}"
    kinds = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in found.values() if tensor.is_floating_point())
    yield from (f"{count} tensors stored as {kind}" for kind, count in kinds.items() if kind != "float32")
