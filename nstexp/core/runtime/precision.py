"""Which number format the encoder computes in."""

from typing import get_args

import torch

from nstexp.core.errors import choice
from nstexp.core.names import Precision


def encoder_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """`auto` takes bfloat16 where the hardware multiplies it natively, else float32.

    The image, the Gram sums and the loss stay float32 either way; only features and filters are bfloat16.

    Raises:
        ArgumentError: unknown name.
    """
    choice("precision", precision, get_args(Precision))
    if precision == "fp32":
        return torch.float32
    if precision == "bf16" or _has_fast_bf16(device):
        return torch.bfloat16
    return torch.float32


def _has_fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # older ones emulate it
    if device.type == "cpu":
        # torch tells this through private names only; without them float32 is right, if slower.
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, probe, bool)() for probe in probes)
    return False
