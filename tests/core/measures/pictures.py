"""Pictures whose measures are known, for the tests of measures."""

import torch
from torch import Tensor

from nstexp.core.resize import resize


def picture(height: int = 48, width: int = 64, seed: int = 0) -> Tensor:
    """Smooth shapes and some noise, (3, H, W) in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(3, 5, 5, generator=generator)
    return (0.9 * resize(coarse, (height, width)) + 0.1 * torch.rand(3, height, width, generator=generator)).clamp(0, 1)


def constant(*rgb: float, size: tuple[int, int] = (4, 6)) -> Tensor:
    return torch.tensor(rgb).view(3, 1, 1).expand(3, *size).clone()
