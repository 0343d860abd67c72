"""The families of published weights: how their files are recognised, which copy of the backbone is taken, and what
their shapes do not tell. `alray weights` prints this table.

Loading itself goes by names and shapes (`checkpoint`), so a file of no family loads, too. PyTorch is imported inside of
functions, because the table needs none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

# Copies of a backbone in one file. EMA weights come before plain ones, as in timm; a second copy comes last: DINO's
# student (the papers evaluate the teacher), and the slow encoder of MoCo, BYOL and I-JEPA.
_EMA = re.compile(r"(?:^|[/._])ema(?=[/._]|$)")
_SECOND = re.compile(r"student|encoder_k(?=[/._]|$)|momentum|target")
ORDER = "EMA before plain weights, a teacher before its student, an encoder before its momentum copy"


@dataclass(frozen=True)
class Family:
    """One family of files. marks: patterns of which each must be found among the names in a file, such as
    "state_dict/module.encoder_q.conv1.weight".

    wrong(backbone, content) is a sentence about why weights that fit by name and shape would compute something else,
    empty if nothing is wrong; note(backbone) is a sentence about what the user must know.
    """

    name: str
    looks: str
    takes: str
    marks: tuple[str, ...]
    wrong: Callable[[nn.Module, Mapping[str, Any]], str] = lambda backbone, content: ""
    note: Callable[[nn.Module], str] = lambda backbone: ""


def rank(place: str) -> int:
    """The place of a copy in the declared order, by its name in the file: the lowest is taken."""
    return 2 if _SECOND.search(place) else 0 if _EMA.search(place) else 1


def family_of(names: Iterable[str]) -> Family | None:
    """The first family whose marks are all among the names; None if there is none."""
    text = "\n".join(names)
    return next((one for one in FAMILIES if all(re.search(mark, text, re.M) for mark in one.marks)), None)


def _heads_of_moco(backbone: nn.Module, content: Mapping[str, Any]) -> str:
    """MoCo v3's ViT-S has 12 heads of 32 channels, where timm's has 6 of 64; the shapes are the same."""
    heads = getattr(getattr(_first_block(backbone), "attn", None), "num_heads", 12)
    if content.get("arch") != "vit_small" or heads == 12:
        return ""
    return (
        f"the vit_small of MoCo v3 has 12 attention heads, got a backbone with {heads}, which would compute something "
        """else from the same weights; set model.options '{"num_heads": 12}'"""
    )


def _gelu_of_clip(backbone: nn.Module, content: Mapping[str, Any]) -> str:
    """Only OpenAI's own state dicts have these entries, and all of its models use QuickGELU."""
    inside = content.get("state_dict", content)
    if "input_resolution" not in inside or "vocab_size" not in inside or _activation(backbone) in ("", "QuickGELU"):
        return ""
    return (
        f"OpenAI's CLIP uses QuickGELU, got a backbone with {_activation(backbone)}, which would compute something "
        "else from the same weights; take timm's model with clip_quickgelu in its name"
    )


def _note_on_clip(backbone: nn.Module) -> str:
    activation = _activation(backbone)
    if not activation:
        return ""
    return (
        f"The backbone uses {activation}. The names do not tell which activation the weights were trained with: "
        "OpenAI's use QuickGELU (timm: ..._clip_quickgelu_...), most of OpenCLIP's GELU (timm: ..._clip_...)"
    )


def _note_on_dinov3(backbone: nn.Module) -> str:
    pool = getattr(backbone, "global_pool", "token")
    if pool == "token":
        return ""
    return (
        f"The backbone pools with {pool!r}. DINOv3's paper takes the class token: model.options "
        """'{"global_pool": "token"}'"""
    )


def _first_block(backbone: nn.Module) -> Any:
    from torch import nn

    blocks: Any = getattr(backbone, "blocks", None)
    return blocks[0] if isinstance(blocks, nn.Sequential | nn.ModuleList) and len(blocks) else None


def _activation(backbone: nn.Module) -> str:
    from torch import nn

    act = getattr(getattr(_first_block(backbone), "mlp", None), "act", None)
    return type(act).__name__ if isinstance(act, nn.Module) else ""


FAMILIES: tuple[Family, ...] = (
    Family("VISSL (PIRL, SwAV, SimCLR ...)", "classy_state_dict/base_model/model/trunk: _feature_blocks.", "the trunk",
           (r"classy_state_dict/base_model/model/trunk/",)),
    Family("MoCo v1, v2", "state_dict: module.encoder_q., module.encoder_k., module.queue", "encoder_q",
           (r"[/.]encoder_q\.",)),
    Family("MoCo v3", "state_dict: module.base_encoder., module.momentum_encoder.", "base_encoder",
           (r"base_encoder\.", r"momentum_encoder\."), _heads_of_moco),
    Family("SwAV", "module. or none, with projection_head. and prototypes.", "the ResNet",
           (r"projection_head\.", r"prototypes")),
    Family("BYOL", "online_encoder. or online_network., target_encoder. or target_network.", "the online network",
           (r"online_(?:encoder|network|net)",)),
    Family("I-JEPA", "encoder, predictor and target_encoder, each module.", "encoder",
           (r"^encoder/", r"^target_encoder/")),
    Family("DINOv2 and DINOv3, training", "teacher: backbone., dino_head.", "teacher", (r"dino_head\.",)),
    Family("DINO, iBOT, MSN", "student and teacher: module.backbone. or backbone., head.", "teacher",
           (r"(?:^|[/.])student", r"(?:^|[/.])teacher")),
    Family("DINOv3", "names of timm's EVA with storage_tokens and rope_embed.periods", "the ViT",
           (r"storage_tokens$",), note=_note_on_dinov3),
    Family("DINOv2, with or without registers", "names of timm with mask_token and ls1.gamma", "the ViT",
           (r"mask_token$", r"blocks\.0\.(?:0\.)?ls1\.gamma$")),
    Family("MAE", "model: names of timm, decoder_blocks., mask_token", "the encoder",
           (r"decoder_blocks\.", r"mask_token$")),
    Family("OpenCLIP and SigLIP with towers of timm", "visual.trunk., text.", "the image tower", (r"visual\.trunk\.",)),
    Family("CLIP of OpenAI and OpenCLIP", "visual.class_embedding, visual.transformer.resblocks.", "the image tower",
           (r"class_embedding$|attnpool\.positional_embedding$",), _gelu_of_clip, _note_on_clip),
    Family("lightly (PyTorch Lightning)", "state_dict: backbone. (numbered or not), projection_head.",
           "backbone",
           (r"^state_dict/(?:\w+_)?backbone\.", r"(?:projection|prediction|student)_head\.")),
    Family("VICReg, Barlow Twins", "model: module.backbone., module.projector.", "backbone",
           (r"^model/(?:module\.)?backbone\.", r"projector\.")),
    Family("SimSiam", "state_dict: module.encoder., module.predictor.", "encoder",
           (r"module\.encoder\.", r"predictor\.")),
    Family("SimCLR", "encoder. or backbone. or f., with projector. or g.", "encoder",
           (r"(?:^|[/.])(?:encoder|backbone|convnet|f)\.", r"(?:^|[/.])(?:projector|projection_head|projection|g)\.")),
    Family("solo-learn, Lightly, mmselfsup and others", "state_dict: backbone.", "backbone",
           (r"^(?:state_dict|model)/(?:module\.)?backbone\.",)),
    Family("timm's training", "state_dict and state_dict_ema", "state_dict_ema", (r"^state_dict_ema/",)),
    Family("MoCo v3, linear probe", "state_dict: module. with arch vit_small", "the ViT",
           (r"^state_dict/module\.blocks\.", r"module\.head\."), _heads_of_moco),
    Family("a ViT of torchvision", "conv_proj., encoder.layers.encoder_layer_0.", "the ViT",
           (r"encoder\.layers\.encoder_layer_0\.",)),
    Family("numbered layers of a ResNet", "0., 1., 4.0.conv1., as of nn.Sequential(*resnet.children())", "all layers",
           (r"(?:^|[/.])4\.0\.conv1\.weight$",)),
    Family("plain, of timm or torchvision", "names of timm, with module., _orig_mod. or any prefix", "the backbone",
           (r"(?:^|[/.])(?:layer1\.0\.conv1|blocks\.0\.norm1|patch_embed\.proj|conv1|stem\.\w+)\.\w+",)),
)  # fmt: skip

_RESNETS: dict[tuple[int, ...], str] = {
    (2, 2, 2, 2, False): "resnet18", (3, 4, 6, 3, False): "resnet34", (3, 4, 6, 3, True): "resnet50",
    (3, 4, 23, 3, True): "resnet101", (3, 8, 36, 3, True): "resnet152",
}  # fmt: skip
_VITS = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge"}


def looks_like(tensors: Mapping[str, torch.Tensor]) -> str:
    """The name of the timm model that the names and shapes of a ResNet or plain ViT suggest; empty if none."""
    layers = [
        len({found[1] for key in tensors if (found := re.search(rf"layer{n}\.(\d+)\.conv1\.weight$", key))})
        for n in range(1, 5)
    ]
    deep = any(re.search(r"layer1\.0\.conv3\.weight$", key) for key in tensors)
    if name := _RESNETS.get((*layers, deep)):
        return name
    for key, tensor in tensors.items():
        if re.search(r"(?:patch_embed\.proj|conv_proj|visual\.conv1)\.weight$", key) and tensor.ndim == 4:
            size = _VITS.get(len(tensor))
            return f"vit_{size}_patch{tensor.shape[-1]}_224 or a relative of it" if size else ""
    return ""
