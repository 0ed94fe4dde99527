"""The number format of the encoder."""

from typing import get_args

import torch

from nstexp.core.errors import choice
from nstexp.core.names import Precision


def encoder_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype of features and filters for a setting of `precision`.

    The image, Gram matrices and losses are float32 in any case.

    Args:
        precision: `fp32`, `bf16`, or `auto`: bfloat16 on hardware that multiplies it natively, else float32.
        device: the device of the encoder.

    Raises:
        ArgumentError: unknown precision.

    Examples:
        >>> encoder_dtype("fp32", torch.device("cpu")), encoder_dtype("bf16", torch.device("cpu"))
        (torch.float32, torch.bfloat16)
    """
    choice("precision", precision, get_args(Precision))
    if precision == "fp32":
        return torch.float32
    if precision == "bf16" or _has_fast_bf16(device):
        return torch.bfloat16
    return torch.float32


def _has_fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # older GPUs emulate it
    if device.type == "cpu":
        # torch has only private functions for this; if they are missing, float32 works but is slower.
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, probe, bool)() for probe in probes)
    return False
