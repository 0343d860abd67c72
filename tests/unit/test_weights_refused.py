"""Files that cannot be loaded are refused by what is wrong with them, before anything is trained."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import timm.models
import torch
from published_networks import WIDTH, randomised
from test_weights_people_have import (
    CASES,
    RESNET,
    VIT,
    VIT_SIZE,
    dinov3,
    extra,
    load,
    numbered,
    resnet,
    saved,
    state,
    vit,
)
from torch import nn

from alray.config import ModelConfig
from alray.models.backbone import ModelError, create
from alray.models.checkpoint import CheckpointError
from alray.models.weight_files import look

Backbone = tuple[str, dict[str, Any]]


def refusal(path: Path, backbone: Backbone = RESNET) -> str:
    """The message, which names the file, has no terminal codes, and does not advise to run code from the file."""
    with pytest.raises(CheckpointError) as error:
        load(path, backbone)
    text = str(error.value)
    assert str(path) in text and "\x1b" not in text and "weights_only" not in text
    return text


# What a file is.


def packed(write: Any) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def tar(buffer: io.BytesIO) -> None:
    with tarfile.open(fileobj=buffer, mode="w") as file:
        file.addfile(tarfile.TarInfo("weights.pth"))


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in names:
            file.writestr(name, b"x")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "got an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html><title>Sign in</title>", "a web page"),
        (b"\n<HTML>", "a web page"),
        (gzip.compress(b"weights"), "a gzip archive"),
        (packed(tar), "a tar archive"),
        (b"\x89HDF\r\n\x1a\n" + bytes(60), "an HDF5 file"),
        (b"\x1c\0\0\0TFL3" + bytes(60), "a TensorFlow Lite model"),
        (packed(lambda buffer: np.save(buffer, np.ones(3))), "a single NumPy array"),
        (zipped("readme.txt"), "a zip archive of other files (1: readme.txt)"),
        (zipped("archive/data.pkl")[:60], "download cut short"),
        (safetensors.torch.save({"a": torch.ones(9)})[:-4], "download cut short"),
        (b'{"weight_map": {}}', "got JSON"),
        (b"epoch,loss\n1,2\n", "begins with b'epoch,loss"),
        (b"\x80\x02garbage", "cannot be read"),
        (packed(lambda buffer: torch.save({"a": torch.ones(1)}, buffer, pickle_protocol=4)), "cannot be read"),
        (packed(lambda buffer: torch.save(torch.ones(2, 3), buffer)), "the file is one tensor of shape (2, 3)"),
        (packed(lambda buffer: torch.save({"epoch": 3}, buffer)), "the file has 1: epoch"),
    ],
    ids=lambda value: value if isinstance(value, str) else "file",  # some archives hold the time
)
def test_other_files(data: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(data)
    assert words in refusal(path)


def test_the_index_of_weights_in_several_files(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text('{"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}')
    assert "cut into several files; join them" in refusal(path)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("latest", "zero_to_fp32.py", "global_step5"), "a DeepSpeed checkpoint"),
        ((".metadata", "__0_0.distcp"), "a distributed checkpoint of PyTorch"),
        (("config.json", "model.safetensors"), "files of weights (model.safetensors); give the file itself"),
        (("notes.txt",), "a folder with 1: notes.txt"),
        ((), "an empty folder"),
    ],
)
def test_folders(names: tuple[str, ...], words: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).write_text("x")
    assert words in refusal(tmp_path)
    with pytest.raises(CheckpointError):
        look(str(tmp_path))


def test_a_program_is_refused(tmp_path: Path) -> None:
    """OpenAI publishes CLIP so."""
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), str(tmp_path / "ViT-B-32.pt"))
    text = refusal(tmp_path / "ViT-B-32.pt")
    assert "a TorchScript archive, which is a program with weights" in text and "state_dict()" in text


@pytest.mark.parametrize("new", [True, False])
def test_a_whole_model_is_refused(new: bool, tmp_path: Path) -> None:
    content = {"epoch": 1, "model": resnet(1)}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=new)
    text = refusal(tmp_path / "w.pth")
    assert "Python objects besides them, which can run code when loaded" in text
    assert "torch.save(model.state_dict(), FILE)" in text and "published_networks.ResNet" in text


class Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return (getattr, (1, "real"))


def test_a_call_in_a_file_is_refused_by_its_name(tmp_path: Path) -> None:
    assert "1: builtins.getattr" in refusal(saved({"state_dict": state(resnet(1)), "hook": Runs()}, tmp_path))


# What the names are.


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("vit.embeddings.patch_embeddings.projection.weight", "vit.encoder.layer.0.attention.attention.query.weight"),
         "Hugging Face transformers"),
        (("resnet.embedder.embedder.convolution.weight",), "Hugging Face transformers"),
        (("vision_model.embeddings.class_embedding", "vision_model.encoder.layers.0.self_attn.q_proj.weight"),
         "Hugging Face transformers"),
        (("backbone.patch_embed.projection.weight", "backbone.layers.0.ln1.weight"), "a ViT of mmpretrain"),
        (("features.0.0.weight", "features.1.0.weight"), "torchvision's numbered features"),
        (("net.0.0.weight", "net.1.blocks.0.net.0.weight"), "SimCLR v2 converted from TensorFlow"),
        (("_fsdp_wrapped_module.flat_param", "_fpw_module.layer1.flat_param_0"), "flat parameters of FSDP"),
    ],
)  # fmt: skip
def test_names_of_other_libraries(names: tuple[str, ...], words: str, tmp_path: Path) -> None:
    text = refusal(saved(extra(*names), tmp_path), VIT)
    assert f"the names are those of {words}" in text and "small_stem" not in text


def test_numbered_layers_that_do_not_fit_give_no_hint_at_the_stem(tmp_path: Path) -> None:
    deep = randomised(timm.create_model("resnet18", num_classes=0, **{**RESNET[1], "layers": [1, 2, 1, 1]}), 1)
    text = refusal(saved(state(numbered(deep)), tmp_path))
    assert "layers that the backbone does not have" in text and "small_stem" not in text


def test_the_likely_network_is_named(tmp_path: Path) -> None:
    model = timm.create_model("resnet34", num_classes=0)
    assert "by its names and shapes the file is resnet34" in refusal(saved(state(model), tmp_path), VIT)


# Weights that fit by name and shape, and would compute something else.


def test_moco_v3_has_twelve_heads(tmp_path: Path) -> None:
    for name in ("moco_v3_vit", "moco_v3_probe"):
        case = CASES[name]()
        text = refusal(saved(case.content, tmp_path), VIT)
        assert "12 attention heads, got a backbone with 3" in text and "'{\"num_heads\": 12}'" in text


def test_openai_clip_needs_quick_gelu(tmp_path: Path) -> None:
    case = CASES["openai_clip"]()
    text = refusal(saved(case.content, tmp_path), ("vit_base_patch32_clip_224", VIT_SIZE))
    assert "uses QuickGELU, got a backbone with GELU" in text and "clip_quickgelu" in text
    _, report = load(saved(CASES["open_clip"]().content, tmp_path), ("vit_base_patch32_clip_224", VIT_SIZE))
    assert "The backbone uses GELU" in str(report)


def test_biases_that_the_backbone_has_not(tmp_path: Path) -> None:
    """timm drops them without a word; where they are zero that is right."""
    path = saved(dinov3(True, "").content, tmp_path)
    text = refusal(path, ("vit_small_patch16_dinov3", {**VIT_SIZE, "global_pool": "token"}))
    assert "not zero in the file, and the backbone has no such parameters: 2: blocks.0.attn.qkv.bias" in text


def test_averaged_patches_of_dinov3_are_said(tmp_path: Path) -> None:
    _, report = load(saved(dinov3(False, "").content, tmp_path), ("vit_small_patch16_dinov3", VIT_SIZE))
    assert "global_pool" in str(report)


@pytest.mark.parametrize("token", ["dist_token", "register_tokens", "reg_token", "norm_pre.weight"])
def test_parts_of_the_network_that_the_backbone_has_not(token: str, tmp_path: Path) -> None:
    path = saved({**state(vit(1)), token: torch.ones(1, 1, WIDTH)}, tmp_path)
    assert f"layers that the backbone does not have: 1: {token}" in refusal(path, VIT)


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    weights = state(resnet(1))
    weights["layer1.0.conv1.weight"].view(-1)[3] = torch.nan
    assert "values that are not finite: 1: layer1.0.conv1.weight" in refusal(saved(weights, tmp_path))


def test_quantised_weights(tmp_path: Path) -> None:
    weights = {**state(resnet(1)), "conv1.weight": torch.ones(64, 3, 7, 7, dtype=torch.int8)}
    assert "conv1.weight is torch.int8 in the file (quantised weights?)" in refusal(saved(weights, tmp_path))


def test_arrays_that_timm_does_not_know(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", a=np.ones(2))
    assert "timm reads such files for ViT, Mixer and BiT alone" in refusal(tmp_path / "w.npz")
    assert "timm cannot read these arrays" in refusal(tmp_path / "w.npz", VIT)


# Models of the Hugging Face Hub.


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub, without network."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


@pytest.mark.parametrize(("name", "pretrained"), [("hf-hub:timm/tiny", False), ("test_resnet", True)])
def test_a_model_that_cannot_be_downloaded(name: str, pretrained: bool, hub: Path) -> None:
    with pytest.raises(ModelError, match=r"timm could not get its (.|\n)*network or the file in the Hub's cache"):
        create(ModelConfig(backbone=name, pretrained=pretrained), 2, 0)


def test_a_model_in_the_cache_of_the_hub(hub: Path) -> None:
    right = randomised(timm.create_model("test_vit", num_classes=0), 1)
    revision = "0" * 40
    folder = hub / "models--timm--tiny"
    snapshot = folder / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(revision)
    cfg = '{"input_size": [3, 160, 160], "fixed_input_size": true, "num_classes": 0}'
    (snapshot / "config.json").write_text(f'{{"architecture": "test_vit", "num_classes": 0, "pretrained_cfg": {cfg}}}')
    saved(state(right), snapshot, "model.safetensors")
    model = create(ModelConfig(backbone="hf-hub:timm/tiny", pretrained=True), 2, 0, 160)
    assert torch.equal(model.backbone.state_dict()["norm.weight"], right.state_dict()["norm.weight"])


def test_a_local_folder_is_not_a_name() -> None:
    with pytest.raises(ModelError, match="as model.checkpoint"):
        create(ModelConfig(backbone="local-dir:/models/vit"), 2, 0)


def test_the_package_of_the_hub_is_named(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm.models._hub, "_has_hf_hub", False)
    with pytest.raises(ModelError, match="needs the package huggingface_hub"):
        create(ModelConfig(backbone="hf-hub:timm/tiny"), 2, 0)
