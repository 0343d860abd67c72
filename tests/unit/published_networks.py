"""Small networks with the module names of published code, written out as references for loaded weights.

Each has the names and the order of computations of its paper's code; widths and depths are small. Letters: b images,
t tokens, d width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torchvision
from torch import nn
from torch.nn import functional as F

WIDTH, DEPTH, HEADS, SIDE = 48, 2, 3, 64


def randomised(module: nn.Module, seed: int) -> nn.Module:
    """The module in evaluation mode with random parameters and statistics; a variance is positive."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2)
                if name.endswith(("running_var", "norm1.weight", "norm2.weight", "bn1.weight")):
                    tensor.abs_().add_(0.5)
    return module.eval()


class ResNet(torchvision.models.ResNet):
    """torchvision's ResNet with one block a layer, without its head. bottleneck: as in a ResNet-50."""

    def __init__(self, bottleneck: bool = False) -> None:
        block: Any = torchvision.models.resnet.Bottleneck if bottleneck else torchvision.models.resnet.BasicBlock
        super().__init__(block, [1, 1, 1, 1])
        self.inplanes = 64
        for number, width in enumerate((16, 32, 64, 128), 1):
            setattr(self, f"layer{number}", self._make_layer(block, width, 1, 1 if number == 1 else 2))
        self.fc: nn.Module = nn.Identity()  # type: ignore[assignment]


class SwavResNet(ResNet):
    """SwAV pads the images and then convolves with padding 2."""

    def __init__(self) -> None:
        super().__init__()
        self.padding, self.conv1.padding = nn.ConstantPad2d(1, 0.0), (2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (b, 3, h, w) -> (b, 128)."""
        return super().forward(self.padding(x))


class PatchEmbed(nn.Module):
    def __init__(self, patch: int, width: int = WIDTH) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (b, 3, h, w) -> (b, t, d)."""
        return self.proj(x).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor] | None = None) -> torch.Tensor:
        """x (b, t, d) -> (b, t, d). rope: sine and cosine of the last tokens' positions."""
        b, t, d = x.shape
        q, k, v = self.qkv(x).reshape(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        if rope is not None:
            q, k = turned(q, *rope), turned(k, *rope)
        weights = (q @ k.transpose(-2, -1) / math.sqrt(d // self.heads)).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, t, d))


def turned(x: torch.Tensor, sin: torch.Tensor, cos: torch.Tensor) -> torch.Tensor:
    before = x.shape[2] - len(sin)
    first, second = x[:, :, before:].chunk(2, -1)
    return torch.cat([x[:, :, :before], x[:, :, before:] * cos + torch.cat([-second, first], -1) * sin], 2)


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gamma


class Block(nn.Module):
    def __init__(self, heads: int = HEADS, scale: bool = False, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, eps), nn.LayerNorm(WIDTH, eps)
        self.attn, self.mlp = Attention(heads), Mlp()
        self.ls1, self.ls2 = (LayerScale(), LayerScale()) if scale else (nn.Identity(), nn.Identity())

    def forward(self, x: torch.Tensor, rope: Any = None) -> torch.Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), rope))
        return x + self.ls2(self.mlp(self.norm2(x)))


class Vit(nn.Module):
    """The ViT of DINO, MoCo v3 (12 heads), MAE's encoder and iBOT: class token, learned positions."""

    def __init__(self, patch: int = 16, heads: int = HEADS, scale: bool = False) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, (SIDE // patch) ** 2 + 1, WIDTH))
        self.patch_embed = PatchEmbed(patch)
        self.blocks = nn.ModuleList(Block(heads, scale) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH, 1e-6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (b, 3, h, w) -> (b, d): the class token."""
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), self.patch_embed(x)], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]


class Ijepa(nn.Module):
    """I-JEPA's encoder has no class token; its patches are averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, (SIDE // 16) ** 2, WIDTH))
        self.patch_embed = PatchEmbed(16)
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH, 1e-6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(x) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x).mean(1)


class Dinov2(Vit):
    """DINOv2: layer scale, a mask token that is not used, and perhaps registers after the class token."""

    def __init__(self, registers: int = 0) -> None:
        super().__init__(16, scale=True)
        self.mask_token = nn.Parameter(torch.zeros(1, WIDTH))
        if registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, registers, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), self.patch_embed(x)], 1) + self.pos_embed
        if hasattr(self, "register_tokens"):
            x = torch.cat([x[:, :1], self.register_tokens.expand(len(x), -1, -1), x[:, 1:]], 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]


class Dinov3(nn.Module):
    """DINOv3: rotary positions, storage tokens, layer scale; keys have no bias. bias: of queries and values."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.bias = bias
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.storage_tokens = nn.Parameter(torch.zeros(1, 4, WIDTH))
        self.mask_token = nn.Parameter(torch.zeros(1, WIDTH))
        self.patch_embed = PatchEmbed(16)
        self.rope_embed = nn.Module()
        size = WIDTH // HEADS
        self.rope_embed.register_buffer("periods", torch.empty(size // 4))
        self.blocks = nn.ModuleList(Block(scale=True, eps=1e-5) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH, 1e-5)
        for block in self.blocks:
            block.attn.qkv.register_buffer("bias_mask", torch.empty(3 * WIDTH))  # type: ignore[union-attr, operator]

    def finished(self) -> Dinov3:
        """Set what is not trained: the periods, and the biases that are zero."""
        size = WIDTH // HEADS
        self.rope_embed.periods.copy_(100 ** (2 * torch.arange(size // 4) / (size // 2)))  # type: ignore[operator, union-attr]
        with torch.no_grad():
            for block in self.blocks:
                qkv: Any = block.attn.qkv  # type: ignore[union-attr]
                qkv.bias_mask.fill_(1)[WIDTH : 2 * WIDTH] = 0
                qkv.bias.mul_(qkv.bias_mask * self.bias)
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (b, 3, s, s) -> (b, d): the class token."""
        x = self.patch_embed(x)
        side = math.isqrt(x.shape[1])
        steps = (torch.arange(side) + 0.5) / side * 2 - 1
        where = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1).flatten(0, 1)
        angles = (2 * math.pi * where[:, :, None] / self.rope_embed.periods).flatten(1).tile(2)  # type: ignore[operator]
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), self.storage_tokens.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x, (angles.sin(), angles.cos()))
        return self.norm(x)[:, 0]


class QuickGelu(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


class ClipBlock(nn.Module):
    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, HEADS)
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential()
        for name, layer in (
            ("c_fc", nn.Linear(WIDTH, 4 * WIDTH)),
            ("gelu", act),
            ("c_proj", nn.Linear(4 * WIDTH, WIDTH)),
        ):
            self.mlp.add_module(name, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (t, b, d)."""
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class ClipVisual(nn.Module):
    """The image tower of CLIP before its projection."""

    def __init__(self, quick: bool) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.zeros(WIDTH))
        self.positional_embedding = nn.Parameter(torch.zeros((SIDE // 32) ** 2 + 1, WIDTH))
        self.proj = nn.Parameter(torch.zeros(WIDTH, 16))
        self.conv1 = nn.Conv2d(3, WIDTH, 32, 32, bias=False)
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.Sequential(
            *(ClipBlock(QuickGelu() if quick else nn.GELU()) for _ in range(DEPTH))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (b, 3, s, s) -> (b, d)."""
        x = self.conv1(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        x = self.transformer.resblocks(self.ln_pre(x).transpose(0, 1))  # type: ignore[operator]
        return self.ln_post(x[0])
