"""Weights in 8 bits: a quarter of the size in a file, and float32 again once they are read."""

from collections.abc import Mapping

import torch
from torch import Tensor

SCALE = ".scale"  # follows the name of a tensor that is in 8 bits


def packed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices and kernels as int8 with one float32 scale for each row, the rest as float32.

    A row is what belongs to one output channel; its largest value becomes 127. The error of a value is at most half of
    its row's scale.

    Examples:
        >>> packed({"a": torch.tensor([[1.0, -127.0], [0.0, 2.54]])})["a"]
        tensor([[   1, -127],
                [   0,  127]], dtype=torch.int8)
    """
    small: dict[str, Tensor] = {}
    for name, value in state.items():
        value = value.detach().float().cpu()
        if value.dim() < 2:
            small[name] = value.contiguous()
            continue
        rows = value.flatten(1)
        scale = rows.abs().amax(1).clamp(min=1e-12) / 127
        small[name] = (rows / scale[:, None]).round().to(torch.int8).view(value.shape).contiguous()
        small[name + SCALE] = scale
    return small


def unpacked(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The float32 tensors that `packed` was given, rounded; tensors that are not in 8 bits stay as they are.

    Examples:
        >>> unpacked(packed({"a": torch.tensor([[127.0, 63.4]])}))["a"]
        tensor([[127.,  63.]])
    """
    whole = {}
    for name, value in state.items():
        if name.endswith(SCALE):
            continue
        scale = state.get(name + SCALE)
        whole[name] = value if scale is None else value.float() * scale.view(-1, *[1] * (value.dim() - 1))
    return whole
