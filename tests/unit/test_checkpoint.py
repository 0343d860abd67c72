"""Checkpoints of every kind load into the backbone they belong to, and into no other."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import nn

from alray.config import ModelConfig
from alray.models.backbone import create
from alray.models.checkpoint import CheckpointError, load_backbone

NAME = "test_resnet"


def backbone(seed: int, name: str = NAME, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    model: nn.Module = timm.create_model(name, num_classes=0, **options)
    return model


def prefixed(prefix: str, model: nn.Module) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in model.state_dict().items()}


def head(prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}.0.weight": torch.ones(3, 3), f"{prefix}.0.bias": torch.ones(3)}


def checkpoint(kind: str, right: nn.Module, other: nn.Module) -> Any:
    """What the published code of each method saves; `right` is the encoder it publishes, `other` its second copy."""
    return {
        "moco": {
            "epoch": 800,
            "arch": "resnet50",
            "state_dict": {
                **prefixed("module.encoder_k.", other),
                **prefixed("module.encoder_q.", right),
                **head("module.encoder_q.fc"),
                "module.queue": torch.ones(4, 4),
            },
            "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]},
        },
        "simclr": {"state_dict": {**prefixed("encoder.", right), **head("projector")}, "epoch": 3},
        "simclr_backbone": {"state_dict": {**prefixed("backbone.", right), **head("backbone.fc")}},
        "simsiam": {
            "state_dict": {
                **prefixed("module.encoder.", right), **head("module.encoder.fc"), **head("module.predictor"),
            },
        },
        "dino": {
            "student": {**prefixed("module.backbone.", other), **head("module.head.mlp")},
            "teacher": {**prefixed("backbone.", right), **head("head.mlp")},
            "args": argparse.Namespace(arch="vit_small"),
            "epoch": 100,
        },
        "plain": right.state_dict(),
        "torchvision": {**right.state_dict(), "fc.weight": torch.ones(10, 3), "fc.bias": torch.ones(10)},
        "timm_ddp": {"state_dict": prefixed("module.", right), "state_dict_ema": None},
        "model": {"model": {k: v for k, v in right.state_dict().items() if not k.endswith("num_batches_tracked")}},
    }[kind]  # fmt: skip


PREFIX = {
    "moco": "state_dict/module.encoder_q.",
    "simclr": "state_dict/encoder.",
    "simclr_backbone": "state_dict/backbone.",
    "simsiam": "state_dict/module.encoder.",
    "dino": "teacher/backbone.",
    "plain": "",
    "torchvision": "",
    "timm_ddp": "state_dict/module.",
    "model": "model/",
}


@pytest.mark.parametrize("kind", PREFIX)
def test_every_kind_loads(kind: str, tmp_path: Path) -> None:
    right, other, target = backbone(1), backbone(2), backbone(3)
    path = tmp_path / "weights.pth"
    torch.save(checkpoint(kind, right, other), path)
    report = load_backbone(target, str(path))
    for name, parameter in right.named_parameters():
        assert torch.equal(target.get_parameter(name), parameter), name
    assert report.prefix == PREFIX[kind]
    assert len(report.loaded) + len(report.missing) == len(target.state_dict())
    assert all(name.endswith("num_batches_tracked") for name in report.missing)
    assert bool(report.missing) == (kind == "model")
    if kind == "moco":
        assert set(report.unexpected) == set(head("state_dict/module.encoder_q.fc"))
        assert "state_dict/module.queue" in report.skipped
    assert len(str(report).splitlines()) <= 4 and f"{len(report.loaded)} tensors loaded" in str(report)


def test_safetensors(tmp_path: Path) -> None:
    right, target = backbone(1), backbone(2)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(safetensors.torch.save(prefixed("encoder.", right)))
    assert load_backbone(target, f"file://{path}").prefix == "encoder."
    assert torch.equal(target.get_parameter("layer1.0.conv1.weight"), right.get_parameter("layer1.0.conv1.weight"))


def refused(target: nn.Module, content: Any, tmp_path: Path) -> str:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load_backbone(target, str(path))
    assert all(torch.equal(before[name], tensor) for name, tensor in target.state_dict().items())
    assert str(path) in str(error.value)
    return str(error.value)


def test_one_missing_tensor_is_refused(tmp_path: Path) -> None:
    state = backbone(1).state_dict()
    del state["layer2.0.bn1.running_var"]
    text = refused(backbone(2), state, tmp_path)
    assert "did not load" in text and "layer2.0.bn1.running_var" in text


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    text = refused(backbone(1, "test_vit"), backbone(2).state_dict(), tmp_path)
    assert "0 of" in text and "missing in the file" in text and "and" in text


def test_a_wider_model_is_refused_with_its_shapes(tmp_path: Path) -> None:
    text = refused(backbone(1), backbone(2, stem_width=64).state_dict(), tmp_path)
    assert "in the file and" in text and "in the backbone" in text


def test_a_deeper_model_is_refused(tmp_path: Path) -> None:
    """Every name of the shallow model is in the deep one, with the same shape."""
    shallow, deep = backbone(1, layers=(1, 1, 1, 1)), backbone(2, layers=(1, 2, 1, 1))
    text = refused(shallow, {"state_dict": prefixed("module.", deep)}, tmp_path)
    assert "layers that the backbone does not have" in text and "module.layer2.1.conv1.weight" in text


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], {"state_dict": {"a": 1}}])
def test_no_tensors(content: Any, tmp_path: Path) -> None:
    assert "expected tensors with names" in refused(backbone(1), content, tmp_path)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("data", [b"", b"not a checkpoint at all", b"PK\x03\x04broken zip"])
def test_a_file_that_is_no_checkpoint(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=r"expected a (whole )?(checkpoint|file of torch.save)"):
        load_backbone(backbone(1), str(tmp_path / name))


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('code in a checkpoint ran')",))


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"state_dict": {}, "bad": Evil()}, buffer)
    (tmp_path / "weights.pth").write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError, match=r"expected tensors, got Python objects (.|\n)*builtins.exec"):
        load_backbone(backbone(1), str(tmp_path / "weights.pth"))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_backbone(backbone(1), str(tmp_path / "nothing.pth"))


def test_small_stem_and_large_stem_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "resnet18.pth"
    torch.save(backbone(1, "resnet18").state_dict(), path)
    with pytest.raises(CheckpointError, match=r"conv1.weight is \(64, 3, 7, 7\)(.|\n)*small_stem"):
        create(ModelConfig(backbone="resnet18", small_stem=True, checkpoint=str(path)), 10, 0, 32)
    model = create(ModelConfig(backbone="resnet18", checkpoint=str(path)), 10, 0, 32)
    assert model.report is not None and len(model.report.loaded) == 120
