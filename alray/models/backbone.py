"""A timm backbone with a linear head: uint8 images in, (embedding, logits) out (Emam et al. 2021, section 4).

Letters: b images, h x w pixels, d width of the embedding, c classes.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import timm
import timm.data
import timm.models
import torch
from torch import nn

from alray.config import ModelConfig
from alray.keyed import stream_key
from alray.models.checkpoint import LoadReport, load_backbone
from alray.models.head import Head, initial_head
from alray.models.layout import guarded, network_input
from alray.models.weight_files import plain

_AMP = {"fp16": torch.float16, "bf16": torch.bfloat16}


class ModelError(ValueError):
    """The model cannot be built from the configuration. The message names the field."""


class Classifier(nn.Module):
    """Normalisation, backbone and head in one module. Its input is images that are not normalised."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        backbone: nn.Module,
        head: Head,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        report: LoadReport | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        c, d = head.weight.shape
        self.head = nn.Linear(d, c, device="meta").to_empty(device="cpu")  # draws nothing from the global random state
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(head.weight))
            self.head.bias.copy_(torch.from_numpy(head.bias))
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self.report = report  # about the checkpoint that was loaded into the backbone

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """images (b, h, w, 3) uint8 -> embedding (b, d) float32, logits (b, c) float32.

        The head computes in float32 even under mixed precision, so that logits depend on embedding and head alone.
        """
        assert images.dtype == torch.uint8, images.dtype
        assert images.shape[3:] == (3,), images.shape
        embedding = self.backbone(network_input(images, self.mean, self.std, self.backbone)).float()
        with torch.autocast(images.device.type, enabled=False):
            logits = self.head(embedding)
        return embedding, logits


def create(config: ModelConfig, num_classes: int, seed: int, image_size: int = 0) -> Classifier:
    """Build the model. Its weights depend on (config, c, seed) alone, not on the global random state.

    image_size: side of the square images in pixels; 0 takes the default size of the timm model. The size matters only
    to models of fixed input size, such as ViTs. Raises ModelError for an unknown name or options that do not fit,
    CheckpointError for weights that do not fit.
    """
    with random_state(stream_key(seed, "model")):
        backbone = timm_model(config, image_size)
        if config.small_stem:
            _small_stem(backbone, config.backbone)
    data = timm.data.resolve_model_data_config(backbone)
    dim = _width(backbone, image_size or data["input_size"][-1], config.backbone)
    report = load_backbone(backbone, config.checkpoint, config.checkpoint_part) if config.checkpoint else None
    mean, std = config.mean or data["mean"], config.std or data["std"]
    guarded(backbone)
    return Classifier(backbone, initial_head(num_classes, dim, seed), tuple(mean), tuple(std), report)


def set_training(model: nn.Module, freeze_bn: bool) -> None:
    """Set the model to training mode.

    freeze_bn: BatchNorm layers use their running statistics and do not change them; scale and shift are still trained.
    """
    model.train()
    if freeze_bn:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def freeze_unused(model: nn.Module, image_size: int) -> list[str]:
    """`freeze_untouched` for a model that returns (embedding, logits) of images."""
    images = torch.zeros(1, image_size, image_size, 3, dtype=torch.uint8)
    return freeze_untouched(model, lambda: model(images)[1])


def freeze_untouched(model: nn.Module, output: Callable[[], torch.Tensor]) -> list[str]:
    """Exclude parameters that get no gradient from training: DistributedDataParallel would wait for their gradients.

    output: computes a tensor that depends on all other parameters. Returns the names of the excluded parameters. The
    model must be on the CPU; afterwards it is in evaluation mode.
    """
    model.eval()
    torch.autograd.backward(output().sum())
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    for name in unused:
        model.get_parameter(name).requires_grad_(False)
    model.zero_grad(set_to_none=True)
    return unused


def autocast(device: torch.device, amp: str) -> torch.autocast:
    """Context manager for mixed precision. amp: "none", "fp16" or "bf16"."""
    return torch.autocast(device.type, _AMP.get(amp), enabled=amp in _AMP)


def embed_images(
    model: nn.Module, images: npt.NDArray[np.uint8], batch_size: int, device: torch.device, amp: str = "none"
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """images (n, h, w, 3) uint8 -> embedding (n, d), logits (n, c), both float32, with the model in evaluation mode.

    Afterwards every module is in its former mode. The model must be on the device. n must not be 0.
    """
    embeddings, logits = [], []
    with evaluating(model), autocast(device, amp):
        for start in range(0, len(images), batch_size):
            batch = torch.tensor(images[start : start + batch_size])  # a copy: Ray's arrays are read-only
            outputs = model(batch.to(device, non_blocking=True))
            embeddings.append(outputs[0].cpu().numpy())
            logits.append(outputs[1].cpu().numpy())
    return np.concatenate(embeddings), np.concatenate(logits)


def one_number_each(
    network: Callable[[torch.Tensor], torch.Tensor], images: npt.NDArray[np.uint8], at_once: int, device: torch.device
) -> npt.NDArray[np.float32]:
    """images (n, ...) uint8 -> one number per image, (n, 1) float32. network: makes (b,) of (b, ...).

    Every forward pass has the same shape, because an image's number must not depend on the number of other images.
    """
    numbers = np.empty((len(images), 1), np.float32)
    filled = torch.zeros(at_once, *images.shape[1:], dtype=torch.uint8)
    with torch.no_grad():
        for start in range(0, len(images), at_once):
            part = torch.tensor(images[start : start + at_once])
            filled[: len(part)] = part
            numbers[start : start + len(part), 0] = network(filled.to(device)).cpu().numpy()[: len(part)]
    return numbers


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Context manager: evaluation mode without gradients. At the end every module is in its former mode."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    with torch.no_grad():
        yield
    for module, training in modes.items():
        module.training = training


@contextmanager
def random_state(key: int) -> Iterator[None]:
    """Context manager: seeds torch's CPU generator, from which weights are initialised, and restores its state at the
    end."""
    generator = torch.default_generator
    before = generator.get_state()
    generator.manual_seed(key % 2**63)
    try:
        yield
    finally:
        generator.set_state(before)


def timm_options(config: ModelConfig, image_size: int) -> dict[str, Any]:
    """The keyword arguments of `timm.create_model` for this size of images. Raises ModelError."""
    name = config.backbone
    options: dict[str, Any] = dict(config.options)
    if forbidden := {"num_classes", "pretrained", "checkpoint_path"} & options.keys():
        raise ModelError(
            f"model.options: expected options that alray does not set, got {', '.join(sorted(forbidden))}; use the "
            "fields of ModelConfig"
        )
    fixed = _hub_model_has_fixed_size(name) if config.on_hub else _model_has_fixed_size(name)
    if image_size and fixed:
        options.setdefault("img_size", image_size)
    return options


def timm_model(config: ModelConfig, image_size: int, num_classes: int = 0) -> Any:
    """A model of timm, with timm's own classifier unless num_classes is 0. Raises ModelError."""
    name, options = config.backbone, timm_options(config, image_size)
    try:
        model = timm.create_model(name, pretrained=config.pretrained, num_classes=num_classes, **options)
    except (TypeError, AssertionError) as error:
        raise ModelError(f"model.backbone={name!r} with options {options}: {error}") from error
    except Exception as error:
        if config.pretrained or config.on_hub:
            raise _not_downloaded(name, "model and weights", error) from error
        if isinstance(error, ValueError):
            raise ModelError(f"model.backbone={name!r} with options {options}: {error}") from error
        raise
    return model


def _model_has_fixed_size(name: str) -> bool:
    """Whether a model of timm is built for one size of images. Raises ModelError if timm has no such model."""
    if name.startswith("local-dir:"):
        raise ModelError(
            f"model.backbone: expected a model's name, got {name!r}; give the architecture that its config.json names, "
            "and the file of weights in that folder as model.checkpoint"
        )
    if not timm.is_model(name):
        close = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=5)
        raise ModelError(
            f"model.backbone: expected a model of timm {timm.__version__}, got {name!r}; similar names: "
            f"{', '.join(close) or 'none'}"
        )
    own = timm.get_pretrained_cfg(name)
    return own is not None and bool(own.fixed_input_size)


def _hub_model_has_fixed_size(name: str) -> bool:
    """The same for a model of the Hugging Face Hub. timm downloads its configuration or finds it in the Hub's cache."""
    try:
        own, _, _ = timm.models.load_model_config_from_hf(name.partition(":")[2])
    except Exception as error:  # of the Hub's client, of its HTTP library, or of a strange configuration
        raise _not_downloaded(name, "configuration", error) from error
    return bool(own.get("fixed_input_size"))


def _not_downloaded(name: str, what: str, error: Exception) -> ModelError:
    reason = plain(str(error) or type(error).__name__)
    return ModelError(
        f"model.backbone={name!r}: timm could not get its {what}: {reason}. A download needs the package "
        "huggingface_hub and either network or the file in the Hub's cache (HF_HOME)"
    )


def _small_stem(backbone: nn.Module, name: str) -> None:
    """The stem for images of about 32 pixels (code of Emam et al. 2021): 3x3 stride 1, no max-pool."""
    conv, pool = getattr(backbone, "conv1", None), getattr(backbone, "maxpool", None)
    if not isinstance(conv, nn.Conv2d) or not isinstance(pool, nn.Module):
        raise ModelError(
            f"model.small_stem: expected a backbone that starts with one convolution 'conv1' and has a 'maxpool' "
            f"(resnet18, resnet50 ...), got {name!r}"
        )
    small = nn.Conv2d(conv.in_channels, conv.out_channels, kernel_size=3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(small.weight, mode="fan_out", nonlinearity="relu")
    backbone.conv1, backbone.maxpool = small, nn.Identity()


def _width(backbone: nn.Module, image_size: int, name: str) -> int:
    """The width of the embedding, found with one image, because timm's `num_features` is wrong for some models."""
    try:
        with evaluating(backbone):
            features = backbone(torch.zeros(1, 3, image_size, image_size))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ModelError(
            f"model.backbone={name!r} cannot take images of {image_size} x {image_size} pixels: {error}"
        ) from error
    if features.ndim != 2:
        raise ModelError(f"model.backbone={name!r}: expected pooled features (1, d), got shape {tuple(features.shape)}")
    return int(features.shape[1])
