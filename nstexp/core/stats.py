"""Statistics of feature maps: pure functions of (B, C, H, W) tensors. Sums accumulate in float32 whatever comes in."""

from typing import Literal

import torch
from torch import Tensor

GramDivisor = Literal["none", "hw", "chw"]

# Positions per partial product of a low-precision Gram matrix. Each product is rounded to bfloat16 once, so short
# chunks keep the sum exact to about 1e-3 while the features are never copied to float32.
CHUNK = 2048


def gram(features: Tensor, divisor: GramDivisor = "hw") -> Tensor:
    """Channel co-occurrence of a feature map: (B, C, H, W) -> (B, C, C), float32 or float64.

    Gatys et al. 2016, Eq. 3. `divisor` none: the paper's plain sum; hw: per position, so that the value does not
    depend on the image's size; chw: per position and channel (neural-style).
    """
    _, c, h, w = features.shape
    if features.dtype == torch.bfloat16:
        product = _LowPrecisionGram.apply(features)
    else:
        f = features.flatten(2)  # (B, C, HW)
        if f.dtype == torch.float16:  # its range ends at 65504, which a single product of VGG features passes
            f = f.float()
        product = f @ f.transpose(1, 2)
    return product / {"none": 1, "hw": h * w, "chw": c * h * w}[divisor]


class _LowPrecisionGram(torch.autograd.Function):
    """Un-normalized Gram matrix of bfloat16 features with float32 sums, and the gradient F (G' + G'^T) in bfloat16.

    A cast of the features to float32 would cost more than the product itself.
    """

    @staticmethod
    def forward(ctx, features: Tensor) -> Tensor:
        b, c, h, w = features.shape
        f = features.permute(0, 2, 3, 1).reshape(b, h * w, c)  # no copy in channels_last
        ctx.save_for_backward(f)
        ctx.shape = features.shape
        whole = h * w // CHUNK * CHUNK
        total = torch.zeros(b, c, c, dtype=torch.float32, device=f.device)
        for sample in range(b):
            if whole:
                chunks = f[sample, :whole].view(-1, CHUNK, c)
                total[sample] += torch.bmm(chunks.transpose(1, 2), chunks).float().sum(0)
            if whole < h * w:
                rest = f[sample, whole:]
                total[sample] += (rest.T @ rest).float()
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (f,) = ctx.saved_tensors
        b, c, h, w = ctx.shape
        symmetric = (grad + grad.transpose(1, 2)).to(f.dtype)
        return torch.bmm(f, symmetric).reshape(b, h, w, c).permute(0, 3, 1, 2)
