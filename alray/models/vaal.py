"""The networks of VAAL (Sinha et al. 2019, Variational Adversarial Active Learning): a variational autoencoder, and a
discriminator that predicts from an image's latent code whether the image is labeled.

Letters: b images, s their side in pixels, z width of the latent code.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

_SHRINK = 16  # four convolutions of stride 2


@dataclass(frozen=True)
class Coded:
    """The autoencoder's output: reconstruction (b, 3, s, s), mean and log variance (b, z) of the latent Gaussian."""

    image: torch.Tensor
    mean: torch.Tensor
    log_variance: torch.Tensor

    def elbo(self, pixels: torch.Tensor) -> torch.Tensor:
        """The negative evidence lower bound of every image per pixel value, (b,): squared error plus KL divergence.

        pixels (b, 3, s, s). The published code adds the KL divergence *summed* over batch and code to the squared error
        *averaged* over pixels. That loss depends on the batch size, and the network learns to reconstruct nothing. Here
        both terms are per image.
        """
        error = (self.image - pixels).square().flatten(1).mean(1)
        divergence = 0.5 * (self.mean.square() + self.log_variance.exp() - 1 - self.log_variance).sum(1)
        return error + divergence / pixels[0].numel()


class Autoencoder(nn.Module):
    """Four convolutions (kernel 4, stride 2) to a latent Gaussian, and back."""

    def __init__(self, size: int, latent: int, width: int) -> None:
        super().__init__()
        assert size % _SHRINK == 0, size
        side, widths = size // _SHRINK, [width, 2 * width, 4 * width, 8 * width]
        self.encoder = nn.Sequential(*_layers(nn.Conv2d, [3, *widths]), nn.Flatten())
        self.mean = nn.Linear(widths[-1] * side**2, latent)
        self.log_variance = nn.Linear(widths[-1] * side**2, latent)
        back = [8 * width, 4 * width, 2 * width, width]
        self.decoder = nn.Sequential(
            nn.Linear(latent, 8 * width * (2 * side) ** 2),
            nn.Unflatten(1, (8 * width, 2 * side, 2 * side)),
            nn.BatchNorm2d(8 * width),
            nn.ReLU(),
            *_layers(nn.ConvTranspose2d, back),
            nn.ConvTranspose2d(width, 3, 1),
        )

    def encode(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """pixels (b, 3, s, s) float32 -> mean, log variance, both (b, z)."""
        features = self.encoder(pixels)
        return self.mean(features), self.log_variance(features)

    def forward(self, pixels: torch.Tensor, noise: torch.Tensor) -> Coded:
        """pixels (b, 3, s, s), noise (b, z) standard normal -> reconstruction, mean and log variance."""
        mean, log_variance = self.encode(pixels)
        return Coded(self.decoder(mean + noise * (0.5 * log_variance).exp()), mean, log_variance)


class Discriminator(nn.Module):
    """Predicts from a latent code whether the image is labeled."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(latent, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 1)
        )

    def forward(self, code: torch.Tensor) -> torch.Tensor:
        """code (b, z) -> logits of being labeled, (b,)."""
        logits: torch.Tensor = self.layers(code)[:, 0]
        return logits


class VaalNetworks(nn.Module):
    """Autoencoder and discriminator."""

    def __init__(self, size: int, latent: int, width: int) -> None:
        super().__init__()
        self.latent = latent
        self.autoencoder = Autoencoder(size, latent, width)
        self.discriminator = Discriminator(latent)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images (b, s, s, 3) uint8 -> logits of being labeled, (b,)."""
        logits: torch.Tensor = self.discriminator(self.autoencoder.encode(pixels(images))[0])
        return logits


def pixels(images: torch.Tensor) -> torch.Tensor:
    """images (b, s, s, 3) uint8 -> (b, 3, s, s) float32 in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def discrimination_losses(logits: torch.Tensor, labeled: torch.Tensor) -> torch.Tensor:
    """The binary cross-entropy of every image, (b,). logits (b,): of being labeled; labeled (b,): 0 or 1."""
    return F.binary_cross_entropy_with_logits(logits, labeled.float(), reduction="none")


def _layers(kind: type[nn.Conv2d] | type[nn.ConvTranspose2d], widths: list[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for inside, outside in pairwise(widths):
        layers += [kind(inside, outside, 4, 2, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]
    return layers
