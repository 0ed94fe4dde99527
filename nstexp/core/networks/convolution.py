"""A convolution for networks that shrink pictures by strides: PyTorch's, and where PyTorch's is wrong, a detour."""

import torch
import torch.nn.functional as F
from torch import Tensor


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0, groups: int = 1
) -> Tensor:
    """`torch.nn.functional.conv2d`, with its arguments.

    In bfloat16 on a CPU, oneDNN reads memory that is not the map's where a stride above 1 leaves one column: the result
    is wrong, and often not finite. Such a map is narrow, so that float32 costs nothing.
    """
    is_column = stride > 1 and x.shape[-1] + 2 * padding < weight.shape[-1] + stride
    if is_column and x.dtype == torch.bfloat16 and x.device.type == "cpu":
        exact = F.conv2d(x.float(), weight.float(), None if bias is None else bias.float(), stride, padding, 1, groups)
        return exact.to(x.dtype)
    return F.conv2d(x, weight, bias, stride, padding, 1, groups)
