"""The names that published weights have, and how they become the names of a timm backbone.

Most names are timm's own or become so by the conversion with which timm loads published files (position embeddings of
another resolution, DINOv2 and DINOv3, CLIP's image tower ...). The conversions here are those that timm has not.
PyTorch and timm are imported inside of functions: what the names look like can be told without them.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias
from unittest import mock

if TYPE_CHECKING:
    import torch
    from torch import nn

Tensors: TypeAlias = "dict[str, torch.Tensor]"
Filter: TypeAlias = "Callable[..., Mapping[str, torch.Tensor]]"

# Modules that training wraps around parts of a network. They leave a word in every name.
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_fpw_module"}

# Parts of a network that change its output. If a file has one and the backbone has not, they are different networks.
BODY = {
    "cls_token", "class_token", "pos_embed", "reg_token", "register_tokens", "storage_tokens", "dist_token", "norm_pre",
    "patch_embed", "pos_drop", "blocks", "layers", "stages", "stem", "conv1", "bn1", "layer1", "layer2", "layer3",
    "layer4",
}  # fmt: skip


@dataclass(frozen=True)
class Naming:
    """Names of one library or paper. anchor: a name that the others have not. convert gives timm's names, or names
    that timm's own conversion knows; None: there is no conversion, and `refusal` says why and what to do."""

    name: str
    anchor: re.Pattern[str]
    convert: Callable[[Tensors, nn.Module], Tensors] | None
    refusal: str = ""

    def prefixes(self, tensors: Tensors) -> set[str]:
        """What stands before the anchor in the names of these tensors."""
        return {key[: found.start("name")] for key in tensors if (found := self.anchor.search(key))}


def unwrapped(tensors: Tensors) -> Tensors:
    """The tensors under names without the words of wrappers."""
    return {".".join(part for part in key.split(".") if part not in _WRAPPERS): t for key, t in tensors.items()}


def classifiers(backbone: nn.Module) -> set[str]:
    """The modules that hold the classifiers of a timm model, such as "fc" or "head". They may hold a norm, too."""
    named = getattr(backbone, "pretrained_cfg", {}).get("classifier") or ()
    return {name.split(".")[0] for name in ([named] if isinstance(named, str) else named)}


def own_filter(backbone: nn.Module) -> Filter | None:
    """The function with which timm converts published files for this model; None if it has none.

    timm hands it from a model's constructor to its loader and keeps it nowhere, so the loader is replaced while a
    second model is built, without memory for its weights.
    """
    import timm

    name = getattr(backbone, "pretrained_cfg", {}).get("architecture", "")
    return _own_filter(name) if timm.is_model(name) else None


@lru_cache(maxsize=32)
def _own_filter(name: str) -> Filter | None:
    import timm
    import timm.models._builder
    import torch

    found: list[Filter | None] = [None]

    def keep(*_: Any, filter_fn: Filter | None = None, **__: Any) -> None:
        found[0] = filter_fn

    with (
        mock.patch.object(timm.models._builder, "load_pretrained", keep),
        torch.random.fork_rng(devices=[]),
        torch.device("meta"),
    ):
        timm.create_model(name, pretrained=True)
    return found[0]


def timm_names(tensors: Tensors, backbone: nn.Module) -> Tensors:
    """The tensors after timm's conversion for this backbone; as they are where it does not know their names."""
    convert = own_filter(backbone)
    if convert is None:
        return tensors
    arguments = (backbone,) if len(inspect.signature(convert).parameters) > 1 else ()  # some take the tensors alone
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # one of them prints
            return dict(convert(dict(tensors), *arguments))
    except Exception:  # a conversion expects the names of its own files, and other names end in any error
        return tensors


def _numbered(tensors: Tensors, backbone: nn.Module) -> Tensors:
    """`nn.Sequential(*resnet.children())`: the n-th numbered layer with weights is the n-th of the backbone's."""
    numbers = list(dict.fromkeys(key.split(".")[0] for key in tensors if key.split(".")[0].isdigit()))
    layers = [name for name, layer in backbone.named_children() if layer.state_dict()]
    names = dict(zip(sorted(numbers, key=int), layers, strict=False))
    parts = {key: key.partition(".") for key in tensors}
    return {names.get(first, first) + dot + rest: tensors[key] for key, (first, dot, rest) in parts.items()}


_TORCHVISION_VIT = (
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^class_token$", "cls_token"),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"^encoder\.ln\.", "norm."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(?:0|linear_1)\.", ".mlp.fc1."),
    (r"\.mlp\.(?:3|linear_2)\.", ".mlp.fc2."),
)


def _torchvision_vit(tensors: Tensors, _: nn.Module) -> Tensors:
    return {_replaced(key, _TORCHVISION_VIT): tensor for key, tensor in tensors.items()}


def _chunked(tensors: Tensors, _: nn.Module) -> Tensors:
    return {re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", key): tensor for key, tensor in tensors.items()}


def _clip(tensors: Tensors, _: nn.Module) -> Tensors:
    return {f"visual.{key}": tensor for key, tensor in tensors.items()}


def _replaced(key: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, new in rules:
        key = re.sub(pattern, new, key)
    return key


def _anchor(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?:^|\.)(?P<name>{pattern})$")


_OTHER_LIBRARY = (
    "alray's backbones are timm's; timm may have the same model (model.pretrained, or model.backbone hf-hub:OWNER/NAME)"
)
NAMINGS: tuple[Naming, ...] = (
    Naming("CLIP's image tower (OpenAI, OpenCLIP)", _anchor(r"class_embedding|attnpool\.positional_embedding"), _clip),
    Naming("a ViT of torchvision", _anchor(r"conv_proj\.weight"), _torchvision_vit),
    Naming("blocks in chunks (DINOv2's training)", _anchor(r"blocks\.0\.0\.norm1\.weight"), _chunked),
    Naming("numbered layers, as of nn.Sequential(*resnet.children())", _anchor(r"0\.weight"), _numbered),
    Naming(
        "Hugging Face transformers",
        _anchor(
            r"embeddings\.(?:patch_embeddings\.projection|patch_embedding|cls_token|class_embedding).*"
            r"|embedder\.embedder\.convolution\.weight|encoder\.layers?\.0\.(?:self_attn\.q_proj|attention\.\w+\.\w+)\.weight"
        ),
        None,
        _OTHER_LIBRARY,
    ),
    Naming(
        "a ViT of mmpretrain or mmselfsup",
        _anchor(r"layers\.0\.ln1\.weight|patch_embed\.projection\.weight"),
        None,
        _OTHER_LIBRARY,
    ),
    Naming(
        "SimCLR v2 converted from TensorFlow, whose ResNet has selective kernels and other layers",
        _anchor(r"net\.0\.0\.weight"),
        None,
        "timm has no such network",
    ),
    Naming("torchvision's numbered features", _anchor(r"features\.0\.(?:0\.)?weight"), None, _OTHER_LIBRARY),
    Naming(
        "flat parameters of FSDP or FairScale",
        _anchor(r"(?:_?flat_params?(?:_\d+)?)"),
        None,
        "save a full state dict where the model was trained (FSDP: StateDictType.FULL_STATE_DICT)",
    ),
)
