"""The image models of `images_keras.py` for PyTorch; they return logits, with classes last."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def module_of(kind: str, channels: int, classes: int) -> nn.Module:
    """The model of a kind, for inputs (n, channels, *space)."""
    if kind == "resnet":
        return ResNet(channels, classes)
    if kind == "unet":
        return UNet(channels, classes)
    if kind == "conv1d":
        parts = [nn.Conv1d(channels, 32, 9, padding=4), nn.ReLU(), nn.Conv1d(32, 64, 9, padding=4), nn.ReLU()]
        return nn.Sequential(*parts, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, classes))
    return nn.Sequential(*_autoencoder(channels, classes) if kind == "autoencoder" else _mobilenet(channels, classes))


def _normed(channels: int, filters: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    padding = size // 2
    convolution = nn.Conv2d(channels, filters, size, stride, padding, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(filters, eps=1e-3, momentum=0.01))


class Block(nn.Module):
    """Two convolutions and the inputs added."""

    def __init__(self, channels: int, filters: int, stride: int):
        super().__init__()
        self.first, self.second = _normed(channels, filters, 3, stride), _normed(filters, filters, 3)
        self.skip = nn.Identity() if stride == 1 else _normed(channels, filters, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + self.skip(x))


class ResNet(nn.Module):
    """ResNet-14."""

    def __init__(self, channels: int, classes: int):
        super().__init__()
        sizes = [(16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)]
        self.start = _normed(channels, 16, 3)
        self.blocks = nn.Sequential(*(Block(*size) for size in sizes))
        self.end = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.blocks(F.relu(self.start(x))).mean((2, 3)))


class UNet(nn.Module):
    """A U-Net of three levels."""

    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.down = nn.ModuleList(_twice(*size) for size in ((channels, 16), (16, 32), (32, 64)))
        self.up = nn.ModuleList(_twice(*size) for size in ((96, 32), (48, 16)))
        self.end = nn.Conv2d(16, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down[0](x)
        second = self.down[1](F.max_pool2d(first, 2))
        h = self.down[2](F.max_pool2d(second, 2))
        h = self.up[0](torch.cat([F.interpolate(h, scale_factor=2.0), second], 1))
        h = self.up[1](torch.cat([F.interpolate(h, scale_factor=2.0), first], 1))
        return self.end(h).movedim(1, -1)


def _twice(channels: int, filters: int) -> nn.Sequential:
    first, second = nn.Conv2d(channels, filters, 3, padding=1), nn.Conv2d(filters, filters, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())


class Last(nn.Module):
    """Channels last."""

    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(1, -1)


def _autoencoder(channels: int, classes: int) -> list[nn.Module]:
    down = [nn.Conv2d(channels, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()]
    up = [nn.ConvTranspose2d(32, 32, 3, 2, 1, 1), nn.ReLU(), nn.ConvTranspose2d(32, 16, 3, 2, 1, 1), nn.ReLU()]
    return [*down, *up, nn.Conv2d(16, classes, 3, padding=1), Last()]


def _mobilenet(channels: int, classes: int) -> list[nn.Module]:
    parts: list[nn.Module] = [_normed(channels, 16, 3), nn.ReLU()]
    before = 16
    for filters, stride in ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1)):
        parts += [_normed(before, before, 3, stride, before), nn.ReLU(), _normed(before, filters, 1), nn.ReLU()]
        before = filters
    return [*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes)]
