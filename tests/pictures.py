"""Pictures as tensors, the same for the same seed."""

import torch
from torch import Tensor
from torch.nn import functional


def smooth_picture(height: int, width: int, seed: int = 0) -> Tensor:
    """Random, but smooth enough to have structure at every scale: (1, 3, H, W) in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 6, generator=generator)
    fine = functional.interpolate(coarse, size=(height, width), mode="bicubic")
    return (fine + 0.1 * torch.rand(fine.shape, generator=generator)).clamp(0, 1)


def random_picture(height: int, width: int, seed: int = 0) -> Tensor:
    """Every number by itself: (1, 3, H, W) in [0, 1]."""
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))
