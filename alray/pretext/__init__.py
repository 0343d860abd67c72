"""Pretext tasks: what a network can learn from images without labels, and how much of it an image resists.

One module each: rotation, colorization, simsiam, simclr. A task is a module that gives one loss per image; in
evaluation mode the loss depends on that image alone, and the higher it is, the harder the image (Yi et al. 2022).
"""

from __future__ import annotations

from alray.config import ModelConfig, PretextConfig
from alray.keyed import stream_key
from alray.models.backbone import create, random_state
from alray.pretext.colorization import Colorization
from alray.pretext.rotation import Rotation
from alray.pretext.simclr import SimClr
from alray.pretext.simsiam import SimSiam
from alray.pretext.task import Task

TASKS: dict[str, type[Task]] = {
    "rotation": Rotation,
    "colorization": Colorization,
    "simsiam": SimSiam,
    "simclr": SimClr,
}


def build(config: PretextConfig, model: ModelConfig, seed: int, size: int) -> Task:
    """The task's network around the configured backbone with fresh weights, the same for the same seed.

    size: side of the images in pixels. Raises ModelError where the backbone does not fit the task.
    """
    fresh = model.model_copy(update={"checkpoint": "", "pretrained": False})
    encoder = create(fresh, 1, seed, size)
    with random_state(stream_key(seed, f"pretext/{config.task}")):
        return TASKS[config.task](encoder, config, size)
