"""SimCLR (Chen et al. 2020): make two views of an image more similar to each other than to other images of the batch.

The training loss is NT-Xent over the global batch: the images of the other workers are negatives, too, and get
gradients. The loss for active learning leaves out the negatives, because they change with the batch. It is the
"alignment" part of NT-Xent: minus the cosine similarity of the two views, divided by the temperature.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch.nn import functional as F

from alray.config import PretextConfig
from alray.models.backbone import Classifier
from alray.pretext.task import PretextTask, projector

_PROJECTION = 128


class SimClr(PretextTask):
    """SimCLR with a projector of two layers to 128 numbers."""

    views: ClassVar[bool] = True
    even: ClassVar[bool] = True  # the views of all workers are gathered, so their number must be the same

    def __init__(self, classifier: Classifier, config: PretextConfig, size: int) -> None:
        super().__init__(classifier, config, size)
        self.projector = projector([self.width, self.width, _PROJECTION])

    def project(self, images: torch.Tensor) -> torch.Tensor:
        """Views (b, 2, s, s, 3) uint8 -> projections (b, 2, 128) float32 of length 1."""
        views = torch.cat(
            [self.normalised(images[:, view]) for view in (0, 1)]
        )  # BatchNorm gets both views in one batch
        z = F.normalize(self.full(self.projector, self.backbone(views)), dim=1)
        return torch.stack(z.chunk(2), 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Views (b, 2, s, s, 3) uint8 -> losses (b,). All workers must have the same number of images."""
        z = self.project(images)
        everybody: torch.Tensor = _Gather.apply(z)
        mine = len(z) * (dist.get_rank() if _together() else 0)
        with torch.autocast(z.device.type, enabled=False):
            return nt_xent(z, everybody, mine, self.config.temperature)

    def measure(self, images: torch.Tensor) -> torch.Tensor:
        """Views (b, 2, s, s, 3) uint8 -> (b,): minus the similarity of the two views, divided by the temperature."""
        z = self.project(images)
        return -(z[:, 0] * z[:, 1]).sum(1) / self.config.temperature


def nt_xent(z: torch.Tensor, everybody: torch.Tensor, first: int, temperature: float) -> torch.Tensor:
    """The NT-Xent losses (b,) of one worker's images: the mean over both views a of an image, b being the other, of

        -log exp(s(a, b)/T) / sum_{k != a} exp(s(a, k)/T)      (Chen et al. 2020, equation 1)

    z (b, 2, d): projections of length 1; everybody (n, 2, d): those of all workers, among which z is
    everybody[first : first + b]; s: cosine similarity; temperature: T.
    """
    b, n = len(z), len(everybody)
    similar = torch.einsum("bvd,kd->bvk", z, everybody.flatten(0, 1)) / temperature  # k = 2 image + view
    own = 2 * (first + torch.arange(b, device=z.device))[:, None] + torch.arange(2, device=z.device)
    similar = similar.masked_fill(F.one_hot(own, 2 * n).bool(), float("-inf"))
    losses = F.cross_entropy(similar.flatten(0, 1), own.flip(1).flatten(), reduction="none")
    return losses.view(b, 2).mean(1)


class _Gather(torch.autograd.Function):
    """Gathers the projections of all workers, in order of rank. The backward pass sums the gradients over the workers
    and returns those of this worker's images."""

    @staticmethod
    def forward(ctx: Any, z: torch.Tensor) -> torch.Tensor:
        ctx.size = len(z)
        if not _together():
            return z.clone()
        parts = [torch.empty_like(z) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, z.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        (gradient,) = gradients
        if not _together():
            return gradient
        total = gradient.contiguous()
        dist.all_reduce(total)
        start = ctx.size * dist.get_rank()
        return total[start : start + ctx.size]


def _together() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
