"""Pretext tasks, which a network can learn from images without labels (Yi et al. 2022).

Each task has one module: rotation, colorization, simsiam, simclr. A task is a torch module that returns one loss per
image. In evaluation mode the loss depends on that image alone. The higher it is, the harder the image is for the task.
"""

from __future__ import annotations

from functools import partial

import torch

from alray.config import ModelConfig, PretextConfig
from alray.keyed import stream_key
from alray.models.backbone import ModelError, create, freeze_untouched, random_state
from alray.pretext.colorization import Colorization
from alray.pretext.rotation import Rotation
from alray.pretext.simclr import SimClr
from alray.pretext.simsiam import SimSiam
from alray.pretext.task import PretextTask

TASKS: dict[str, type[PretextTask]] = {
    "rotation": Rotation,
    "colorization": Colorization,
    "simsiam": SimSiam,
    "simclr": SimClr,
}


def check(config: PretextConfig, model: ModelConfig, size: int) -> None:
    """Check that the backbone fits the task. size: side of the images in pixels. Raises ModelError."""
    task = build(config, model, 0, size)
    untouched = [
        name
        for name in freeze_untouched(task, partial(_blank_losses, task, size))
        if name.startswith("backbone.") and task.get_parameter(name).ndim > 1  # an untrained norm is the identity
    ]
    if config.as_backbone and untouched:
        raise ModelError(
            f"pretext.as_backbone: expected a task that trains all weights of {model.backbone}, got {config.task}, "
            f"which does not train {untouched[0].removeprefix('backbone.')} ...; choose another task, or a backbone "
            "that ends in its feature map, as resnet50 does"
        )


def _blank_losses(task: PretextTask, size: int) -> torch.Tensor:
    images = torch.zeros(2, *((2,) if task.views else ()), size, size, 3, dtype=torch.uint8)
    return task.measure(images)


def build(config: PretextConfig, model: ModelConfig, seed: int, size: int) -> PretextTask:
    """Build the task's network around the configured backbone. Its fresh weights depend on the arguments alone.

    size: side of the images in pixels. Raises ModelError if the backbone does not fit the task.
    """
    fresh = model.without_weights()
    encoder = create(fresh, 1, seed, size)
    with random_state(stream_key(seed, f"pretext/{config.task}")):
        return TASKS[config.task](encoder, config, size)
