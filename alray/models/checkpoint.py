"""Read self-supervised or other weights into a backbone, and refuse files that do not fit.

There is no loader for each family. The file is searched for the dictionary and prefix under which it has the backbone's
names, after the conversions of timm and of `weight_names`.
"""

from __future__ import annotations

import copy
import io
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from alray.models.families import ORDER, family_of, looks_like, rank
from alray.models.weight_files import CheckpointError, NumpyWeights, plain, read, some
from alray.models.weight_fit import Entries, Fit, Place, entries_of, fits_of
from alray.models.weight_names import NAMINGS

__all__ = ["CheckpointError", "LoadReport", "load_backbone"]


@dataclass(frozen=True)
class LoadReport:
    """Which tensors of a file were loaded, and what was done to them."""

    uri: str
    prefix: str  # dictionaries and prefix of the backbone's names: "state_dict/module.encoder_q."
    family: str  # of published weights; empty if unknown
    loaded: tuple[str, ...]  # names in the backbone
    missing: tuple[str, ...] = ()  # names in the backbone; only BatchNorm's counters of batches may be missing
    changed: tuple[str, ...] = ()  # in words: other names, resampled embeddings, another precision
    unexpected: tuple[str, ...] = ()  # names in the file: others with the same prefix, such as heads and projectors
    skipped: tuple[str, ...] = ()  # names in the file: tensors elsewhere, such as other encoders and queues
    others: tuple[str, ...] = ()  # places of other copies that would have fitted
    note: str = ""

    def __str__(self) -> str:
        kind = f" ({self.family})" if self.family else ""
        lines = [f"{self.uri}: {len(self.loaded)} tensors loaded from {self.prefix or 'the top level'!r}{kind}"]
        done = [*self.changed, *([f"missing {some(self.missing)}"] if self.missing else [])]
        left = _groups(self.prefix, (*self.unexpected, *self.skipped))
        lines += [f"  {'; '.join(done)}"] if done else []
        lines += [f"  left out: {left}"] if left else []
        if self.others:
            lines.append(
                f"  other copies of the backbone: {', '.join(self.others)}. The order is {ORDER}; "
                "model.checkpoint_part takes another"
            )
        return _printable([*lines, *([f"  {self.note}"] if self.note else [])])


def load_backbone(backbone: nn.Module, uri: str, part: str = "") -> LoadReport:
    """Copy the weights of a file (torch.save, safetensors or .npz; path or URI) into the backbone, in place.

    part: which copy to take from a file that has several, by a word of its place ("state_dict_ema", "student"); empty
    takes the first in the declared order (`families.ORDER`). Raises CheckpointError if the file is missing or holds no
    weights, if a parameter or BatchNorm statistic of the backbone is missing or has another shape, if the file has
    parts of a network that the backbone has not, and if the backbone is known to compute something else.
    """
    content = read(uri)
    if isinstance(content, NumpyWeights):
        return _load_arrays(backbone, uri, content)
    entries = entries_of(content)
    if not entries:
        raise CheckpointError(f"{uri}: expected tensors with names, got none{_instead(content)}")
    best, others = _best(uri, fits_of(entries, backbone), part)
    names = ["/".join([*path, name]) for path, tensors in entries for name in tensors]
    family = family_of(names)
    wanted = backbone.state_dict()
    if best is None or best.problems:
        raise CheckpointError(_printable(_refusal(uri, best, len(wanted), entries)))
    if family and (wrong := family.wrong(backbone, content)):
        raise CheckpointError(f"{uri}: the backbone did not load: {wrong}")
    backbone.load_state_dict(best.found, strict=False)
    return LoadReport(
        uri=uri,
        prefix=str(best.place),
        family=family.name if family else "",
        loaded=tuple(best.found),
        missing=tuple(name for name in wanted if name not in best.found),
        changed=best.changed,
        unexpected=best.beside,
        skipped=tuple(_elsewhere(entries, best.place)),
        others=others,
        note=family.note(backbone) if family else "",
    )


def _best(uri: str, fits: list[Fit], part: str) -> tuple[Fit | None, tuple[str, ...]]:
    """The fit to load, or else the one whose problems are told; and the places of the other copies that fit."""
    if part:
        named = [fit for fit in fits if _is_part(str(fit.place), part)]
        if not named:
            most = max((fit.fitting for fit in fits), default=0)
            places = sorted({str(fit.place) or "the top level" for fit in fits if 2 * fit.fitting >= most > 0})
            raise CheckpointError(
                f"{uri}: model.checkpoint_part: expected a word of one of {some(places)}, got {part!r}"
            )
        fits = named
    good = [fit for fit in fits if not fit.problems]
    if not good:
        return max(fits, key=lambda fit: fit.fitting, default=None), ()
    first, *others = sorted(good, key=lambda fit: (rank(str(fit.place)), len(fit.place.prefix)))
    return first, tuple(str(fit.place) or "the top level" for fit in others)


def _is_part(place: str, part: str) -> bool:
    """Whether the words of `part` are among those of the place, in one piece."""
    words, asked = (f".{text.replace('/', '.').strip('.')}." for text in (place, part))
    return asked in words


def _refusal(uri: str, best: Fit | None, wanted: int, entries: Entries) -> list[str]:
    fitting = best.fitting if best else 0
    lines = [f"{uri}: the backbone did not load ({fitting} of {wanted} tensors fit)"]
    if 2 * fitting < wanted and (foreign := _foreign(entries)):
        return [*lines, f"  {foreign}"]
    lines += best.problems if best else []
    if best and best.only_stem:
        lines.append("  does model.small_stem fit this checkpoint?")
    likely = next(filter(None, (looks_like(tensors) for _, tensors in entries)), "")
    return [*lines, f"  by its names and shapes the file is {likely}"] if likely and 2 * fitting < wanted else lines


def _foreign(entries: Entries) -> str:
    """What is wrong with names that have no conversion; empty if none of them is known."""
    for naming in NAMINGS:
        if naming.convert is None and any(naming.prefixes(tensors) for _, tensors in entries):
            return f"the names are those of {naming.name}; {naming.refusal}"
    return ""


def _instead(content: Any) -> str:
    if isinstance(content, torch.Tensor):
        return f"; the file is one tensor of shape {tuple(content.shape)}"
    return f"; the file has {some([str(key) for key in content])}" if isinstance(content, Mapping) and content else ""


def _elsewhere(entries: Entries, place: Place) -> Iterator[str]:
    for path, tensors in entries:
        for name in tensors:
            if path != place.path or not name.startswith(place.prefix):
                yield "/".join([*path, name])


def _groups(prefix: str, names: tuple[str, ...]) -> str:
    """Names that were left out, by the first word that is not in the prefix, with their numbers."""
    ours = prefix.replace("/", ".").split(".")
    counts: Counter[str] = Counter()
    for name in names:
        words = name.replace("/", ".").split(".")
        same = next((at for at, word in enumerate(words) if at >= len(ours) or word != ours[at]), 0)
        counts[words[same]] += 1
    return ", ".join(f"{word} ({count})" for word, count in counts.most_common(8)) + (
        f" and {len(counts) - 8} more" if len(counts) > 8 else ""
    )


def _load_arrays(backbone: nn.Module, uri: str, content: NumpyWeights) -> LoadReport:
    """Load a NumPy archive of Google's JAX code through timm's own function, which some of its models have."""
    load = getattr(backbone, "load_pretrained", None)
    if load is None:
        raise CheckpointError(
            f"{uri}: expected PyTorch's weights, got NumPy arrays ({some(list(content))}); timm reads such files for "
            "ViT, Mixer and BiT alone"
        )
    tried = copy.deepcopy(backbone)
    with torch.no_grad():
        for parameter in tried.parameters():
            parameter.fill_(torch.nan)  # what stays so was not in the file
    try:
        tried.load_pretrained(io.BytesIO(content.data))  # type: ignore[operator]
    except Exception as error:  # timm checks neither names nor shapes before it copies
        raise CheckpointError(
            f"{uri}: the backbone did not load: timm cannot read these arrays into it ({plain(str(error))[:300]})"
        ) from error
    state = tried.state_dict()
    if missing := [name for name, tensor in state.items() if tensor.is_floating_point() and tensor.isnan().any()]:
        raise CheckpointError(f"{uri}: the backbone did not load\n  missing in the file: {some(missing)}")
    backbone.load_state_dict(state)
    return LoadReport(uri, "", "NumPy arrays of Google's JAX code, read by timm", tuple(state))


def _printable(lines: list[str]) -> str:
    """A message without control characters from names in the file."""
    return "\n".join(line[: len(line) - len(line.lstrip())] + plain(line) for line in lines)
