"""Conversions between pictures and 8-bit pixels, the only rounding to gray levels in nstexp."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_bytes(image: Tensor) -> Tensor:
    """Clamp values to [0, 1] and round them to 256 levels -> uint8 of the same shape.

    Examples:
        >>> to_bytes(torch.tensor([-1.0, 0.5, 2.0])).tolist()
        [0, 128, 255]
    """
    return (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)


def to_array(picture: Tensor) -> NDArray[np.uint8]:
    """RGB (3, H, W) in [0, 1] -> uint8 (H, W, 3), contiguous, as image libraries and video encoders expect.

    Examples:
        >>> to_array(torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)).tolist()
        [[[255, 0, 0]]]
    """
    return to_bytes(picture).cpu().permute(1, 2, 0).contiguous().numpy()


def from_array(pixels: NDArray[Any]) -> Tensor:
    """uint8 (H, W, 3) -> RGB float32 (3, H, W) in [0, 1], contiguous, a copy.

    Examples:
        >>> from_array(np.array([[[255, 0, 51]]], dtype=np.uint8)).flatten().tolist()
        [1.0, 0.0, 0.20000000298023224]
    """
    writable = np.require(pixels, requirements=["C", "W"])  # PyTorch warns about other arrays
    return torch.from_numpy(writable).permute(2, 0, 1).float().div_(255).contiguous()
