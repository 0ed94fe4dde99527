"""Pictures as 8-bit pixels, and back: the only rounding to gray levels in nstexp."""

import numpy as np
import torch
from torch import Tensor


def to_bytes(image: Tensor) -> Tensor:
    """[0, 1] -> uint8 of the same shape, rounded to the nearest of 256 levels; what is outside the range is clamped."""
    return (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)


def to_array(picture: Tensor) -> np.ndarray:
    """RGB (3, H, W) in [0, 1] -> uint8 (H, W, 3), contiguous, on the CPU: what encoders and image libraries take."""
    return to_bytes(picture).cpu().permute(1, 2, 0).contiguous().numpy()


def from_array(pixels: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) -> RGB float32 (3, H, W) in [0, 1], contiguous. Shares no memory with `pixels`."""
    writable = np.require(pixels, requirements=["C", "W"])  # PyTorch warns of others
    return torch.from_numpy(writable).permute(2, 0, 1).float().div_(255).contiguous()
