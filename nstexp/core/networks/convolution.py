"""PyTorch's convolution with a workaround for a wrong result in bfloat16."""

import torch
import torch.nn.functional as F
from torch import Tensor


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0, groups: int = 1
) -> Tensor:
    """`torch.nn.functional.conv2d`, with the same arguments.

    In bfloat16 on a CPU, if a stride above 1 leaves one column, oneDNN reads memory outside the map, and the result is
    wrong and often not finite. Such a map is narrow, so a float32 convolution costs nothing.

    Examples:
        >>> x, weight = torch.ones(1, 1, 3, 2, dtype=torch.bfloat16), torch.ones(1, 1, 3, 3, dtype=torch.bfloat16)
        >>> conv2d(x, weight, stride=2, padding=1).flatten().tolist()
        [4.0, 4.0]
    """
    one_column = stride > 1 and x.shape[-1] + 2 * padding < weight.shape[-1] + stride
    if one_column and x.dtype == torch.bfloat16 and x.device.type == "cpu":
        exact = F.conv2d(x.float(), weight.float(), None if bias is None else bias.float(), stride, padding, 1, groups)
        return exact.to(x.dtype)
    return F.conv2d(x, weight, bias, stride, padding, 1, groups)
