"""What is in a file of weights, and which families of files are known, for people (`alray weights`)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from alray.models.families import FAMILIES, ORDER, family_of, looks_like
from alray.models.weight_files import OTHER_FILES, NumpyWeights, plain, some
from alray.models.weight_fit import entries_of
from alray.models.weight_names import BODY, NAMINGS, Tensors

_ROWS = 20
_JAX = re.compile(r"(?:^|/)(?:embedding/kernel|stem/kernel|root_block/|standardized_conv2d)")
_BODY = BODY | {"norm", "fc_norm", "ln_pre", "ln_post", "class_embedding", "transformer"}


def families() -> str:
    """The table of families: what their files look like and what is taken, and what is refused and why."""
    wide = max(len(family.name) for family in FAMILIES)
    rows = [f"  {family.name:{wide}}  {family.looks}  ->  {family.takes}" for family in FAMILIES]
    convertible = [f"  {naming.name}" for naming in NAMINGS if naming.convert]
    refused = [f"  {naming.name}: {naming.refusal}" for naming in NAMINGS if not naming.convert]
    files = dict.fromkeys(f"  {what}: {advice}" for _, _, what, advice in OTHER_FILES)
    return "\n".join(
        [
            "Weights are loaded by names and shapes. alray weights FILE --backbone NAME tries a file.",
            "Files of torch.save, safetensors, and NumPy archives (.npz) of Google's ViT, Mixer and BiT.",
            f"Of several copies in a file one is taken: {ORDER}.",
            "\nFamilies, what their files look like, and what is taken (heads, projectors, queues are left out):",
            *rows,
            "\nNames that are converted, besides those that timm converts (also position embeddings of another size):",
            *convertible,
            "\nNames that are refused:",
            *refused,
            "\nFiles that are refused:",
            "  TorchScript archives, whole pickled models and other Python objects: save the state dict instead",
            "  folders (DeepSpeed, FSDP) and weights cut into several files: join them into one file",
            *files,
        ]
    )


def described(uri: str, content: Any) -> str:
    """What is in a file: dictionaries and prefixes with their numbers of tensors, and the family. content: what
    `alray.models.weight_files.read` gave. Raises CheckpointError for a file without tensors."""
    if isinstance(content, NumpyWeights):
        whose = (
            "timm reads them into ViT, Mixer and BiT" if any(map(_JAX.search, content)) else "timm knows no such names"
        )
        return f"{uri}: a NumPy archive with {some(list(content))}; {whose}"
    entries = entries_of(content)
    lines = [f"{uri}: {sum(len(tensors) for _, tensors in entries):,} tensors"]
    for path, tensors in entries:
        lines += _rows("/".join(path), tensors)
    if len(lines) > _ROWS + 1:
        lines = [*lines[: _ROWS + 1], f"  and {len(lines) - _ROWS - 1} more"]
    family = family_of("/".join([*path, name]) for path, tensors in entries for name in tensors)
    lines.append(f"family: {family.name}; {family.takes} is taken" if family else "family: none that is known")
    foreign = [one for one in NAMINGS if not one.convert and any(one.prefixes(tensors) for _, tensors in entries)]
    lines += [f"names: those of {naming.name}; {naming.refusal}" for naming in foreign[:1]]
    if likely := next(filter(None, (looks_like(tensors) for _, tensors in entries)), ""):
        lines.append(f"network: {likely}, by its names and shapes")
    return "\n".join(line[: len(line) - len(line.lstrip())] + plain(line) for line in lines)


def _rows(place: str, tensors: Tensors) -> Iterator[str]:
    """A row for every prefix before parts of a network, and for every other first word."""
    groups: dict[str, list[str]] = {}
    for key in tensors:
        groups.setdefault(_group(key), []).append(key)
    for prefix, keys in groups.items():
        values = sum(tensors[key].numel() for key in keys)
        kinds = Counter(str(tensors[key].dtype).removeprefix("torch.") for key in keys)
        kind = ", ".join(kind for kind, _ in kinds.most_common(3))
        name = "/".join(filter(None, [place, prefix])) or "top level"
        yield f"  {name:44} {len(keys):6,} tensors {values / 1e6:9,.2f} M values  {kind}"


def _group(key: str) -> str:
    """The prefix of a name: what stands before a part of a network or a number, else its first word but `module`."""
    words = key.split(".")
    for at, word in enumerate(words):
        if word in _BODY or word.isdigit():
            return "".join(f"{before}." for before in words[:at])
    at = next((at for at, word in enumerate(words) if word != "module"), 0)
    return ".".join(words[: at + 1])
