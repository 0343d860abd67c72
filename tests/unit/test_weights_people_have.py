"""Published weights load and compute what their own code computes, or are refused by what is wrong with them.

Names and shapes are those of the published code, values are random, networks are small.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import published_networks as published
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from published_networks import DEPTH, HEADS, SIDE, WIDTH, randomised
from torch import nn

from alray.commands.weights import Weights
from alray.config import ModelConfig
from alray.models import describe
from alray.models.backbone import create
from alray.models.checkpoint import CheckpointError, LoadReport
from alray.models.families import FAMILIES, rank
from alray.models.weight_files import read

State = dict[str, torch.Tensor]

RESNET = ("resnet18", {"layers": [1, 1, 1, 1], "channels": [16, 32, 64, 128]})
VIT_SIZE = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "img_size": SIDE}
VIT = ("vit_small_patch16_224", VIT_SIZE)


def state(module: nn.Module, prefix: str = "") -> State:
    return {prefix + name: tensor for name, tensor in module.state_dict().items()}


def extra(*names: str) -> State:
    """Heads, projectors and queues: what else the file holds."""
    return {name: torch.ones(3, 3) for name in names}


def resnet(seed: int) -> nn.Module:
    return randomised(published.ResNet(), seed)


def vit(seed: int, **options: Any) -> nn.Module:
    return randomised(published.Vit(**options), seed)


def numbered(module: nn.Module) -> nn.Module:
    return nn.Sequential(*list(module.children())[:-1])


class Case:
    """A file of a family: its content, the network whose weights must be loaded, and the backbone to load into."""

    def __init__(
        self, family: str, content: Any, right: nn.Module, backbone: tuple[str, dict[str, Any]], prefix: str, *left: str
    ) -> None:
        self.family, self.content, self.right, self.backbone = family, content, right, backbone
        self.prefix, self.left = prefix, left


def moco_v2() -> Case:
    q, k = resnet(1), resnet(2)
    content = {
        "epoch": 200,
        "arch": "resnet50",
        "state_dict": {
            **state(q, "module.encoder_q."), **extra("module.encoder_q.fc.0.weight", "module.encoder_q.fc.2.weight"),
            **state(k, "module.encoder_k."), **extra("module.encoder_k.fc.0.weight", "module.queue"),
            "module.queue_ptr": torch.zeros(1, dtype=torch.long),
        },
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.03}]},
    }  # fmt: skip
    return Case("MoCo v1, v2", content, q, RESNET, "state_dict/module.encoder_q.", "encoder_k (", "fc (2)", "queue (1)")


def moco_v3(network: Callable[..., nn.Module], backbone: tuple[str, dict[str, Any]], arch: str, head: str) -> Case:
    base, momentum = network(1), network(2)
    content = {
        "epoch": 300,
        "arch": arch,
        "state_dict": {
            **state(base, "module.base_encoder."), **state(momentum, "module.momentum_encoder."),
            **extra(f"module.base_encoder.{head}.0.weight", "module.predictor.0.weight"),
        },
        "optimizer": {"param_groups": []},
        "scaler": {"scale": 65536.0},
    }  # fmt: skip
    return Case("MoCo v3", content, base, backbone, "state_dict/module.base_encoder.", f"{head} (1)", "predictor (1)")


def moco_v3_vit() -> Case:
    backbone = ("vit_small_patch16_224", {**VIT_SIZE, "num_heads": 12})
    return moco_v3(lambda seed: vit(seed, heads=12), backbone, "vit_small", "head")


def moco_v3_probe() -> Case:
    right = vit(1, heads=12)
    content = {"arch": "vit_small", "state_dict": {**state(right, "module."), **extra("module.head.weight")}}
    backbone = ("vit_small_patch16_224", {**VIT_SIZE, "num_heads": 12})
    return Case("MoCo v3, linear probe", content, right, backbone, "state_dict/module.", "head (1)")


def simclr() -> Case:
    right = resnet(1)
    content = {**state(right, "encoder."), **extra("projector.0.weight", "projector.2.weight")}
    return Case("SimCLR", content, right, RESNET, "encoder.", "projector (2)")


def simclr_on_cifar() -> Case:
    """Numbered as in code that builds `f` of the children without max-pool, with the small stem."""
    right = published.ResNet()
    right.conv1, right.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()  # type: ignore[assignment]
    randomised(right, 1)
    layers = [child for child in right.children() if not isinstance(child, nn.Identity)]
    content = {**state(nn.Sequential(*layers), "f."), **extra("g.0.weight", "g.3.weight")}
    return Case("SimCLR", content, right, ("resnet18", {**RESNET[1], "small_stem": True}), "f.", "g (2)")


def byol() -> Case:
    online, target = resnet(1), resnet(2)
    content = {
        "online_network_state_dict": {**state(online, "encoder."), **extra("projection.net.0.weight")},
        "target_network_state_dict": {**state(target, "encoder."), **extra("projection.net.0.weight")},
    }
    return Case("BYOL", content, online, RESNET, "online_network_state_dict/encoder.", "target_network_state_dict (")


def simsiam() -> Case:
    right = resnet(1)
    content = {"state_dict": {**state(right, "module.encoder."), **extra("module.encoder.fc.0.weight",
               "module.predictor.0.weight")}, "arch": "resnet50"}  # fmt: skip
    return Case("SimSiam", content, right, RESNET, "state_dict/module.encoder.", "predictor (1)")


def vicreg() -> Case:
    right = randomised(published.ResNet(bottleneck=True), 1)
    content = {"epoch": 1000, "model": {**state(right, "module.backbone."), **extra("module.projector.0.weight")},
               "optimizer": {"state": {}}}  # fmt: skip
    backbone = ("resnet50", RESNET[1])
    return Case("VICReg, Barlow Twins", content, right, backbone, "model/module.backbone.", "projector (1)")


def vicreg_backbone() -> Case:
    """With the published widths and depths."""
    right: Any = torchvision.models.resnet50()
    right.fc = nn.Identity()
    randomised(right, 1)
    return Case("plain, of timm or torchvision", state(right), right, ("resnet50", {}), "")


def swav() -> Case:
    right = randomised(published.SwavResNet(), 1)
    content = {**state(right, "module."), **extra("module.projection_head.0.weight", "module.prototypes.weight")}
    return Case("SwAV", content, right, RESNET, "module.", "projection_head (1)", "prototypes (1)")


def vissl() -> Case:
    right = resnet(1)
    trunk = {**state(right, "_feature_blocks."), **extra("_feature_blocks.fc.weight")}
    model = {"trunk": trunk, "heads": extra("0.clf.0.weight")}
    content = {"phase_idx": 9, "classy_state_dict": {"base_model": {"model": model, "meta": {}}, "losses": {}}}
    prefix = "classy_state_dict/base_model/model/trunk/_feature_blocks."
    return Case("VISSL (PIRL, SwAV, SimCLR ...)", content, right, RESNET, prefix, "fc (1)")


def dino() -> Case:
    student, teacher = vit(2), vit(1)
    content = {
        "student": {**state(student, "module.backbone."), **extra("module.head.mlp.0.weight")},
        "teacher": {**state(teacher, "backbone."), **extra("head.mlp.0.weight", "head.last_layer.weight_v")},
        "optimizer": {"state": {}},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small", output_dir=Path("out")),
        "dino_loss": extra("center"),
    }
    return Case("DINO, iBOT, MSN", content, teacher, VIT, "teacher/backbone.", "student (", "head (2)", "dino_loss (1)")


def dino_backbone() -> Case:
    right = vit(1)
    return Case("plain, of timm or torchvision", state(right), right, VIT, "")


def dinov2(registers: int, name: str) -> Case:
    right = randomised(published.Dinov2(registers), 1)
    backbone = (name, {**VIT_SIZE, "patch_size": 16})
    return Case("DINOv2, with or without registers", state(right), right, backbone, "", "mask_token (1)")


def dinov2_training() -> Case:
    """A teacher of DINOv2's training: the blocks are in chunks that count on."""
    right = randomised(published.Dinov2(), 1)
    teacher = {key.replace("blocks.0.", "blocks.0.0.").replace("blocks.1.", "blocks.1.1."): tensor
               for key, tensor in state(right, "backbone.").items()}  # fmt: skip
    content = {"teacher": {**teacher, **extra("dino_head.mlp.0.weight", "ibot_head.mlp.0.weight")}}
    backbone = ("vit_small_patch14_dinov2", {**VIT_SIZE, "patch_size": 16})
    return Case("DINOv2 and DINOv3, training", content, right, backbone, "teacher/backbone.", "dino_head (1)")


def dinov3(bias: bool, name: str) -> Case:
    right = published.Dinov3(bias)
    randomised(right, 1)
    options = {**VIT_SIZE, "global_pool": "token"}
    return Case("DINOv3", state(right.finished()), right, (name, options), "")


def mae() -> Case:
    right = vit(1)
    decoder = extra("mask_token", "decoder_pos_embed", "decoder_embed.weight", "decoder_blocks.0.norm1.weight",
                    "decoder_norm.weight", "decoder_pred.weight")  # fmt: skip
    content = {"model": {**state(right), **decoder}, "optimizer": {}, "args": argparse.Namespace(lr=1e-3)}
    return Case("MAE", content, right, VIT, "model/", "mask_token (1)", "decoder_blocks (1)")


def mae_encoder() -> Case:
    right = vit(1)
    return Case("plain, of timm or torchvision", {"model": state(right)}, right, VIT, "model/")


def ijepa() -> Case:
    encoder, target = randomised(published.Ijepa(), 1), randomised(published.Ijepa(), 2)
    content = {
        "encoder": state(encoder, "module."),
        "predictor": extra("module.mask_token"),
        "target_encoder": state(target, "module."),
        "opt": {"state": {}},
        "epoch": 300,
    }
    backbone = ("vit_small_patch16_224", {**VIT_SIZE, "class_token": False, "global_pool": "avg", "fc_norm": False})
    return Case("I-JEPA", content, encoder, backbone, "encoder/module.", "target_encoder (", "predictor (1)")


TEXT = ("token_embedding.weight", "positional_embedding", "transformer.resblocks.0.ln_1.weight", "ln_final.weight",
        "text_projection")  # fmt: skip


def clip(quick: bool, prefix: str, more: Mapping[str, torch.Tensor], half: bool = False) -> Case:
    right = randomised(published.ClipVisual(quick), 1)
    if half:
        right = right.half().float()
    content = {**state(right, f"{prefix}visual."), **extra(*(prefix + name for name in TEXT)), **more}
    if half:
        content = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in content.items()}
    name = f"vit_base_patch32_clip_{'quickgelu_' if quick else ''}224"
    return Case("CLIP of OpenAI and OpenCLIP", content, right, (name, VIT_SIZE), f"{prefix}visual.", "text_projection")


def openai_clip() -> Case:
    """The state dict of OpenAI's archive: half precision, and three numbers."""
    numbers = {name: torch.tensor(7) for name in ("input_resolution", "context_length", "vocab_size")}
    return clip(True, "", numbers, half=True)


def open_clip() -> Case:
    case = clip(False, "module.", {"module.logit_scale": torch.tensor(1.0)})
    case.content, case.prefix = {"epoch": 3, "name": "run", "state_dict": case.content}, "state_dict/module.visual."
    return case


def siglip() -> Case:
    """OpenCLIP around timm's own tower; timm is the reference."""
    options = {**VIT_SIZE, "num_classes": 0}
    right = randomised(timm.create_model("vit_base_patch16_siglip_224", **options), 1)
    content = {**state(right, "visual.trunk."), **extra("text.transformer.resblocks.0.ln_1.weight", "logit_bias")}
    backbone = ("vit_base_patch16_siglip_224", VIT_SIZE)
    return Case("OpenCLIP and SigLIP with towers of timm", content, right, backbone, "visual.trunk.", "text (1)")


def lightly() -> Case:
    right, momentum = resnet(1), resnet(2)
    content = {
        "epoch": 9,
        "pytorch-lightning_version": "2.1.0",
        "state_dict": {
            **state(numbered(right), "backbone."), **state(numbered(momentum), "backbone_momentum."),
            **extra("projection_head.layers.0.weight", "projection_head_momentum.layers.0.weight"),
        },
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": None, "dirpath": "checkpoints"}},
        "loops": {}, "optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(2)}}}],
        "hyper_parameters": collections.defaultdict(list, {"lr": np.float64(0.1)}),
    }  # fmt: skip
    return Case("lightly (PyTorch Lightning)", content, right, RESNET, "state_dict/backbone.", "backbone_momentum (",
                "projection_head (1)")  # fmt: skip


def lightly_dino() -> Case:
    student, teacher = resnet(2), resnet(1)
    content = {
        "state_dict": {
            **state(numbered(student), "student_backbone."), **extra("student_head.layers.0.weight"),
            **state(numbered(teacher), "teacher_backbone."), **extra("teacher_head.layers.0.weight"),
        }
    }  # fmt: skip
    return Case("DINO, iBOT, MSN", content, teacher, RESNET, "state_dict/teacher_backbone.", "student_backbone (")


def solo_learn() -> Case:
    right = resnet(1)
    content = {"state_dict": {**state(right, "backbone."), **extra("classifier.weight")}}
    family = "solo-learn, Lightly, mmselfsup and others"
    return Case(family, content, right, RESNET, "state_dict/backbone.", "classifier (1)")


def timm_training() -> Case:
    plain, ema = resnet(2), resnet(1)
    content = {
        "epoch": 5, "arch": "resnet18", "version": 2, "args": argparse.Namespace(lr=0.1),
        "state_dict": {**state(plain), **extra("fc.weight")},
        "state_dict_ema": {**state(ema), **extra("fc.weight")},
        "optimizer": {"state": {}}, "metric": np.float64(71.2),
    }  # fmt: skip
    return Case("timm's training", content, ema, RESNET, "state_dict_ema/", "state_dict (", "fc (1)")


def compiled() -> Case:
    """torch.compile and FSDP leave words at any depth."""
    right = resnet(1)
    words = {key.replace("layer1.", "layer1._orig_mod.").replace("layer2.0.", "layer2.0._fsdp_wrapped_module."): tensor
             for key, tensor in state(right, "_orig_mod.module.").items()}  # fmt: skip
    return Case("plain, of timm or torchvision", words, right, RESNET, "module.")


def torchvision_vit() -> Case:
    right = torchvision.models.VisionTransformer(SIDE, 16, DEPTH, HEADS, WIDTH, 4 * WIDTH)
    right.heads = nn.Identity()  # type: ignore[assignment]
    randomised(right, 1)
    content = {**state(right), **extra("heads.head.weight")}
    return Case("a ViT of torchvision", content, right, VIT, "", "heads (1)")


def numbered_resnet() -> Case:
    right = resnet(1)
    return Case("numbered layers of a ResNet", state(numbered(right)), right, RESNET, "")


CASES: dict[str, Callable[[], Case]] = {
    function.__name__: function
    for function in (
        moco_v2, moco_v3_vit, moco_v3_probe, simclr, simclr_on_cifar, byol, simsiam, vicreg, vicreg_backbone, swav,
        vissl, dino, dino_backbone, dinov2_training, mae, mae_encoder, ijepa, openai_clip, open_clip, siglip, lightly,
        lightly_dino, solo_learn, timm_training, compiled, torchvision_vit, numbered_resnet,
    )
}  # fmt: skip
CASES["moco_v3_resnet"] = lambda: moco_v3(resnet, RESNET, "resnet50", "fc")
CASES["dinov2"] = lambda: dinov2(0, "vit_small_patch14_dinov2")
CASES["dinov2_registers"] = lambda: dinov2(4, "vit_small_patch14_reg4_dinov2")
CASES["dinov3"] = lambda: dinov3(False, "vit_small_patch16_dinov3")
CASES["dinov3_bias"] = lambda: dinov3(True, "vit_small_patch16_dinov3_qkvb")


def images(side: int = SIDE) -> torch.Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def load(
    path: Path, backbone: tuple[str, dict[str, Any]], part: str = "", side: int = SIDE
) -> tuple[nn.Module, LoadReport]:
    """Build as a run does. Backbones here have the size of the images."""
    name, options = backbone
    options = {key: value for key, value in options.items() if key not in ("img_size", "small_stem")}
    config = ModelConfig(
        backbone=name, options=options, checkpoint=str(path), checkpoint_part=part,
        small_stem=backbone[1].get("small_stem", False),
    )  # fmt: skip
    model = create(config, 2, 0, side)
    assert model.report is not None
    return model.backbone.eval(), model.report


def saved(content: Any, folder: Path, name: str = "weights.pth") -> Path:
    path = folder / name
    if name.endswith(".safetensors"):
        path.write_bytes(safetensors.torch.save(content, {"format": "pt"}))
    else:
        torch.save(content, path)
    return path


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_a_family_loads_and_computes_what_its_own_code_computes(name: str, tmp_path: Path) -> None:
    case = CASES[name]()
    backbone, report = load(saved(case.content, tmp_path), case.backbone)
    expected, got = case.right(images()), backbone(images())
    assert expected.shape == got.shape and expected.std() > 1e-3
    near = 0 if type(case.right) is published.ResNet else 1e-4  # other networks add in another order
    torch.testing.assert_close(got, expected, rtol=near, atol=near)
    assert (report.prefix, report.family) == (case.prefix, case.family)
    assert all(word in str(report) for word in case.left), str(report)
    assert set(report.loaded) | set(report.missing) == set(backbone.state_dict())


def test_every_family_has_a_file_here() -> None:
    """The test above compares the family of each file with the one that is reported."""
    text = Path(__file__).read_text()
    assert [family.name for family in FAMILIES if f'"{family.name}"' not in text] == []


# Other resolutions: what timm itself makes of the same file.


@pytest.mark.parametrize("patch", [16, 32])
@torch.no_grad()
def test_position_embeddings_are_resampled_as_in_timm(patch: int, tmp_path: Path) -> None:
    """224 to 384 pixels, and patches of another size; the report says what was resampled."""
    options = {"embed_dim": WIDTH, "depth": 1, "num_heads": HEADS}
    right = randomised(timm.create_model("vit_small_patch16_224", num_classes=0, **options), 1)
    name = f"vit_small_patch{patch}_384"
    kwargs = {**options, "num_classes": 0, "img_size": 384, "pretrained_cfg_overlay": {"state_dict": state(right)}}
    expected = timm.create_model(name, pretrained=True, **kwargs).eval()
    backbone, report = load(saved(state(right, "module."), tmp_path), (name, options), side=384)
    assert all(torch.equal(tensor, expected.state_dict()[key]) for key, tensor in backbone.state_dict().items())
    assert torch.equal(backbone(images(384)), expected(images(384)))
    tokens = (384 // patch) ** 2 + 1
    assert f"pos_embed resampled from (1, 197, {WIDTH}) to (1, {tokens}, {WIDTH})" in str(report)
    assert ("patch_embed.proj.weight resampled" in str(report)) == (patch == 32)


@pytest.mark.parametrize("name", ["deit3_small_patch16_224", "flexivit_small"])
def test_the_conversion_is_the_one_that_timm_gives_this_model(name: str, tmp_path: Path) -> None:
    """DeiT III renames its scales, FlexiViT resamples in another way: one function, with other arguments."""
    options = {"embed_dim": WIDTH, "depth": 1, "num_heads": HEADS}
    right = randomised(timm.create_model(name, num_classes=0, img_size=96, **options), 1)
    names = state(right)
    if name.startswith("deit3"):
        names = {key.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): t for key, t in names.items()}
    kwargs = {**options, "num_classes": 0, "img_size": SIDE, "pretrained_cfg_overlay": {"state_dict": names}}
    expected = timm.create_model(name, pretrained=True, **kwargs).state_dict()
    backbone, _ = load(saved({"model": names}, tmp_path), (name, options))
    assert all(torch.equal(tensor, expected[key]) for key, tensor in backbone.state_dict().items())
    assert "ls1.gamma" in "".join(expected) or name == "flexivit_small"


@pytest.mark.parametrize("name", ["test_convnext", "test_mambaout", "efficientvit_b0", "test_efficientnet", "test_vit"])
def test_a_whole_classifier_of_timm_loads(name: str, tmp_path: Path) -> None:
    """Where a norm of the backbone and the classifier share the module `head`, the classifier is left out."""
    whole = randomised(timm.create_model(name), 1)
    backbone, report = load(saved({"state_dict": state(whole)}, tmp_path), (name, {}), side=160)
    assert all(torch.equal(tensor, whole.state_dict()[key]) for key, tensor in backbone.state_dict().items())
    assert {key.split(".")[0] for key in report.unexpected} <= {"state_dict/head", "state_dict/classifier"}
    assert report.unexpected


def jax_arrays(width: int, depth: int, heads: int) -> dict[str, np.ndarray[Any, Any]]:
    """The names and shapes of Google's ViT checkpoints (.npz)."""
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "embedding/kernel": (16, 16, 3, width), "embedding/bias": (width,), "cls": (1, 1, width),
        "Transformer/posembed_input/pos_embedding": (1, 197, width),
        "Transformer/encoder_norm/scale": (width,), "Transformer/encoder_norm/bias": (width,),
    }  # fmt: skip
    size = width // heads
    for n in range(depth):
        block, attention = f"Transformer/encoderblock_{n}/", "MultiHeadDotProductAttention_1/"
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            shapes.update({f"{block}{norm}/scale": (width,), f"{block}{norm}/bias": (width,)})
        for part in ("query", "key", "value"):
            shapes[f"{block}{attention}{part}/kernel"] = (width, heads, size)
            shapes[f"{block}{attention}{part}/bias"] = (heads, size)
        shapes[f"{block}{attention}out/kernel"], shapes[f"{block}{attention}out/bias"] = (heads, size, width), (width,)
        for layer, (rows, columns) in enumerate([(width, 4 * width), (4 * width, width)]):
            shapes[f"{block}MlpBlock_3/Dense_{layer}/kernel"] = (rows, columns)
            shapes[f"{block}MlpBlock_3/Dense_{layer}/bias"] = (columns,)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def test_arrays_of_jax_load_as_timm_loads_them(tmp_path: Path) -> None:
    path = tmp_path / "augreg.npz"
    np.savez(path, **jax_arrays(WIDTH, DEPTH, HEADS))
    expected = timm.create_model("vit_small_patch16_224", num_classes=0, **VIT_SIZE)
    expected.load_pretrained(str(path))
    backbone, report = load(path, VIT)
    assert all(torch.equal(tensor, expected.state_dict()[key]) for key, tensor in backbone.state_dict().items())
    assert "JAX" in report.family and "timm reads them" in describe.described(str(path), read(str(path)))


# Which copy.


@pytest.mark.parametrize(
    ("name", "part", "other"),
    [
        ("timm_training", "state_dict", 2),
        ("dino", "student", 2),
        ("moco_v2", "encoder_k", 2),
        ("byol", "target_network_state_dict", 2),
        ("lightly", "backbone_momentum", 2),
        ("dino", "teacher/backbone", 1),
    ],
)
def test_another_copy_can_be_chosen(name: str, part: str, other: int, tmp_path: Path) -> None:
    case = CASES[name]()
    path = saved(case.content, tmp_path)
    backbone, report = load(path, case.backbone, part)
    network = (resnet if case.backbone is RESNET else vit)(other)
    key = "layer1.0.bn1.weight" if case.backbone is RESNET else "norm.weight"
    assert torch.equal(backbone.state_dict()[key], network.state_dict()[key])
    _, taken = load(path, case.backbone)
    assert taken.prefix == case.prefix and len(taken.others) == 1 and taken.others[0] in str(taken)
    assert "model.checkpoint_part takes another" in str(taken) and not report.others
    with pytest.raises(CheckpointError, match=r"model.checkpoint_part: expected a word of one of 2: (.|\n)*'nonsense'"):
        load(path, case.backbone, "nonsense")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("state_dict_ema/", "state_dict/"),
        ("model_ema/module.", "model/module."),
        ("ema.", "net."),
        ("teacher/module.backbone.", "student/module.backbone."),
        ("state_dict/teacher_backbone.", "state_dict/student_backbone."),
        ("teacher_ema/", "student/"),
        ("module.encoder_q.", "module.encoder_k."),
        ("module.base_encoder.", "module.momentum_encoder."),
        ("online_network.", "target_network_ema."),
        ("backbone.", "backbone_momentum."),
        ("encoder/module.", "target_encoder/module."),
        ("schema/net.", "schema/student."),
    ],
)
def test_the_order_of_copies(first: str, second: str) -> None:
    assert rank(first) < rank(second)


def test_a_teacher_that_does_not_fit_gives_way_to_the_student(tmp_path: Path) -> None:
    content = {"student": state(vit(2), "backbone."), "teacher": state(vit(1), "backbone.")}
    del content["teacher"]["backbone.norm.weight"]
    _, report = load(saved(content, tmp_path), VIT)
    assert report.prefix == "student/backbone." and "teacher (" in str(report)


# Files with more than tensors.


def test_values_of_a_training_do_not_matter(tmp_path: Path) -> None:
    values = {
        "best": np.float32(0.7), "count": np.int64(3), "flag": np.bool_(True), "kind": np.dtype("float32"),
        "history": np.ones(3), "generator": np.random.RandomState(0).get_state(), "out": Path("runs") / "a",
        "when": datetime.datetime(2024, 1, 2), "took": datetime.timedelta(seconds=3),
        "meters": collections.defaultdict(list, {"loss": [1.0]}), "args": argparse.Namespace(out=Path("x")),
    }  # fmt: skip
    content = {"state_dict": state(resnet(1)), **values}
    for new in (True, False):
        torch.save(content, tmp_path / "weights.pth", _use_new_zipfile_serialization=new)
        backbone, _ = load(tmp_path / "weights.pth", RESNET)
        assert torch.equal(backbone.state_dict()["bn1.weight"], content["state_dict"]["bn1.weight"])


def test_safetensors_with_metadata_and_any_name(tmp_path: Path) -> None:
    right = resnet(1)
    path = saved(state(right, "backbone."), tmp_path, "model.safetensors")
    assert load(path, RESNET)[1].prefix == "backbone."
    assert load(path.rename(tmp_path / "weights.bin"), RESNET)[1].prefix == "backbone."


def test_half_precision_is_said(tmp_path: Path) -> None:
    _, report = load(saved({key: t.half() for key, t in state(vit(1)).items()}, tmp_path), VIT)
    assert f"{len(report.loaded)} tensors stored as float16" in str(report)


# The command.


def test_the_command_lists_every_family(capsys: pytest.CaptureFixture[str]) -> None:
    Weights.start([])
    text = capsys.readouterr().out
    assert all(f"  {family.name} " in text and family.takes in text for family in FAMILIES)
    assert "Hugging Face transformers" in text and "TorchScript" in text and "Git LFS" in text


@pytest.mark.parametrize("name", ["moco_v2", "dino", "lightly", "openai_clip"])
def test_the_command_says_what_is_in_a_file(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = CASES[name]()
    Weights.start([str(saved(case.content, tmp_path))])
    text = capsys.readouterr().out
    assert f"family: {case.family}" in text
    assert case.prefix in text and "M values" in text and ("float16" in text) == (name == "openai_clip")


def test_the_command_tries_a_backbone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(state(vit(1), "module."), tmp_path)
    size = f'{{"embed_dim": {WIDTH}, "depth": {DEPTH}, "num_heads": {HEADS}}}'
    Weights.start([str(path), "--backbone", "vit_small_patch16_224", "--options", size, "--image-size", "96"])
    assert "tensors loaded from 'module.'" in (text := capsys.readouterr().out) and "pos_embed resampled" in text
    with pytest.raises(CheckpointError, match="did not load"):
        Weights.start([str(path), "--backbone", "resnet18"])


def test_the_command_goes_on_after_a_file_that_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = saved(state(vit(1)), tmp_path)
    (tmp_path / "page.pth").write_text("<html>")
    with pytest.raises(CheckpointError, match="1 of 2 files were refused"):
        Weights.start([str(tmp_path / "page.pth"), str(good)])
    text = capsys.readouterr().out
    assert "refused: " in text and "a web page" in text and f"{good}: 30 tensors" in text


def test_control_characters_in_names_do_not_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved({**state(resnet(1)), "head\x1b[31m.weight": torch.ones(2), "\x07.x": torch.ones(1)}, tmp_path)
    Weights.start([str(path), "--backbone", "resnet18", "--options", json.dumps(RESNET[1])])
    assert not {"\x1b", "\x07"} & set(capsys.readouterr().out)
