"""The model of a round as a timm model: safetensors with config.json, and ONNX.

A run's model is a timm backbone with a linear head on its pooled features. The exported one is the same network with
the head in the place of timm's own classifier, so `timm.create_model` loads it without alray.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save as safetensors_bytes
from torch import nn

from alray.config import RunConfig
from alray.export.labels import ExportError
from alray.features.measures import ModelSource
from alray.models.backbone import Classifier, create, evaluating, random_state, timm_model, timm_options
from alray.models.head import FILE as HEAD
from alray.models.head import Head
from alray.models.layout import network_input
from alray.rundir import MODEL, RunDir, Shared
from alray.store import Store, weights_fingerprint

WEIGHTS, CONFIG, ONNX = "model.safetensors", "config.json", "model.onnx"
_TOLERANCE = 1e-4  # of logits, between the run's model and the exported one


@dataclass(frozen=True)
class Exported:
    """A timm model (float images (b, 3, h, w), normalised -> logits (b, c)) and what is needed to use it."""

    model: nn.Module
    architecture: str
    options: Mapping[str, Any]
    classes: tuple[str, ...]
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def config(self) -> dict[str, Any]:
        """The content of config.json, in timm's form."""
        own = timm.get_pretrained_cfg(self.architecture)
        kept = {"interpolation": "bilinear", "crop_pct": own.crop_pct if own else 1.0}
        return {
            "architecture": self.architecture,
            "num_classes": len(self.classes),
            "model_args": dict(self.options),
            "pretrained_cfg": {
                "num_classes": len(self.classes), "input_size": [3, self.size, self.size], "fixed_input_size": False,
                "mean": list(self.mean), "std": list(self.std), "label_names": list(self.classes), **kept,
            },
        }  # fmt: skip


def rebuild(run: RunDir, number: int, classes: tuple[str, ...]) -> Classifier:
    """The model of a round with its weights. Raises ExportError if the weights do not exist any more, or were never
    alray's."""
    config, out = run.settings(), run.round(number).checkpoint
    if config.task != "classification":
        raise ExportError(f"expected a run of classification, got {config.task}: its network has no timm form")
    if out.has(MODEL):
        spec, weights = config.model.without_weights(), out.at(MODEL)
        return ModelSource(spec, len(classes), 0, weights, "", config.transform.size).load()
    if not out.has(HEAD):
        raise ExportError(f"{out.uri}: expected the weights of a model, got none: they were deleted")
    if run.catalog().provided_columns:
        raise ExportError("the run trained a head on your own embeddings, so there is no network to export")
    if config.pretext.as_backbone:
        config = _with_encoder(run, config)
    model = create(config.model, len(classes), 0, config.transform.size)
    head = Head.load(out)
    with torch.no_grad():
        model.head.weight.copy_(torch.from_numpy(head.weight))
        model.head.bias.copy_(torch.from_numpy(head.bias))
    return model


def _with_encoder(run: RunDir, config: RunConfig) -> RunConfig:
    """The configuration whose model starts from the encoder of the run's pretext task."""
    from alray.train.pretext import ENCODER

    wanted, tasks = run.pretext_weights(), Shared(config.root).pretext("")
    for name in tasks.names():
        folder = tasks.child(name)
        if folder.has(ENCODER) and folder.has(MODEL) and weights_fingerprint(folder.at(MODEL)) == wanted:
            model = config.model.model_copy(update={"checkpoint": folder.at(ENCODER)})
            return config.model_copy(update={"model": model})
    raise ExportError(f"{tasks.uri}: expected the pretext task whose encoder is the run's backbone, got others")


def as_timm(model: Classifier, config: RunConfig, classes: tuple[str, ...]) -> Exported:
    """The model as `timm.create_model` builds it. Raises ExportError if timm cannot build the same network."""
    if config.model.small_stem:
        raise ExportError(
            "model.small_stem replaces the first layers of the network, and timm.create_model cannot build that; "
            "--format onnx exports it"
        )
    name, size, spec = config.model.backbone, config.transform.size, config.model.without_weights()
    with random_state(0):
        made = timm_model(spec, size, len(classes))
    classifier = made.get_classifier()
    if not isinstance(classifier, nn.Linear) or classifier.weight.shape != model.head.weight.shape:
        raise ExportError(
            f"{name}: expected a timm model with a linear classifier of {model.head.weight.shape[1]} inputs"
        )
    made.load_state_dict(model.backbone.state_dict(), strict=False)
    with torch.no_grad():
        classifier.weight.copy_(model.head.weight)
        classifier.bias.copy_(model.head.bias)
    mean, std = (tuple(buffer.flatten().tolist()) for buffer in (model.mean, model.std))
    exported = Exported(made, name, timm_options(spec, size), classes, size, mean, std)
    _compare(model, exported)
    return exported


def _compare(model: Classifier, exported: Exported) -> None:
    """Raise ExportError unless both give the same logits for random images."""
    images = torch.randint(0, 256, (2, exported.size, exported.size, 3), generator=torch.Generator().manual_seed(0))
    images = images.to(torch.uint8)
    with evaluating(model), evaluating(exported.model):
        expected = model(images)[1]
        got = exported.model(network_input(images, model.mean, model.std, exported.model))
    if not torch.allclose(got, expected, rtol=_TOLERANCE, atol=_TOLERANCE * float(expected.abs().max())):
        raise ExportError(
            f"{exported.architecture}: the timm model gives other logits than the run's model (by "
            f"{float((got - expected).abs().max()):.3g}); --format onnx exports the run's own network"
        )


def write_timm(exported: Exported, store: Store) -> list[str]:
    """Write model.safetensors and config.json; returns their names."""
    tensors = {name: tensor.contiguous() for name, tensor in exported.model.state_dict().items()}
    store.write_bytes(WEIGHTS, safetensors_bytes(tensors, metadata={"format": "pt"}))
    store.write_json(CONFIG, exported.config())
    return [WEIGHTS, CONFIG]


class _Pixels(nn.Module):
    """Logits from images (b, 3, h, w) float32 in [0, 1]."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.backbone, self.head = model.backbone, model.head
        self.register_buffer("mean", model.mean.clone())
        self.register_buffer("std", model.std.clone())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone((images - self.mean) / self.std))  # type: ignore[no-any-return]


def write_onnx(model: Classifier, size: int, store: Store) -> list[str]:
    """Write model.onnx: input `images` (b, 3, h, w) float32 in [0, 1], output `logits` (b, c). Returns its name.

    Raises ExportError if the packages for ONNX are not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ExportError(
            f"ONNX needs the package {error.name}, which is not installed: pip install 'alray[export]', or leave it "
            "out with --format timm"
        ) from None
    example = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    pixels = _Pixels(model)
    with tempfile.TemporaryDirectory() as folder, evaluating(pixels):
        path = Path(folder) / ONNX
        torch.onnx.export(
            pixels, (example,), path, input_names=["images"], output_names=["logits"], dynamo=True, external_data=False,
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}}, verbose=False,
        )  # fmt: skip
        store.write_bytes(ONNX, path.read_bytes())
    return [ONNX]
