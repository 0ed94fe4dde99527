"""Statistics of feature maps: pure functions of (B, C, H, W) tensors. Sums accumulate in float32 whatever comes in."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

GramDivisor = Literal["none", "hw", "chw"]
Moments = tuple[Tensor, Tensor]  # of every channel: the mean, and the standard deviation or the covariance

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


def moments(features: Tensor, eps: float = 1e-5, unbiased: bool = False) -> Moments:
    """Mean and standard deviation of every channel over space: (B, C, H, W) -> two of (B, C, 1, 1), float32 or float64.

    Args:
        eps: added to the variance inside the root, whose gradient at 0 is infinite otherwise.
        unbiased: divide the squares by H*W - 1 (some public AdaIN code), not by H*W (the paper's own).
    """
    n = features.shape[-2] * features.shape[-1]
    if features.dtype == torch.bfloat16:
        mean, variance = _LowPrecisionMoments.apply(features)
    else:
        f = features.float() if features.dtype == torch.float16 else features
        variance, mean = torch.var_mean(f, (2, 3), correction=0, keepdim=True)
    if unbiased:
        variance = variance * (n / max(n - 1, 1))
    return mean, (variance + eps).sqrt()


class _LowPrecisionMoments(torch.autograd.Function):
    """Mean and biased variance of bfloat16 features with float32 results.

    As products with a vector of ones they run ten times faster on a CPU than a reduction over space.
    """

    @staticmethod
    def forward(ctx, features: Tensor) -> tuple[Tensor, Tensor]:
        b, c, h, w = features.shape
        f = features.permute(0, 2, 3, 1).reshape(b, h * w, c)  # no copy in channels_last
        mean = _sum_over_positions(f) / (h * w)
        rounded = mean.to(f.dtype)
        centered = f - rounded[:, None]
        variance = _sum_over_positions(centered.square()) / (h * w) - (mean - rounded.float()).square()
        ctx.save_for_backward(f, mean)
        ctx.shape = features.shape
        return mean[:, :, None, None], variance.clamp(min=0)[:, :, None, None]

    @staticmethod
    def backward(ctx, grad_mean: Tensor, grad_variance: Tensor) -> Tensor:
        f, mean = ctx.saved_tensors
        b, c, h, w = ctx.shape
        slope = grad_variance[:, None, :, 0, 0] * (2 / (h * w))
        offset = grad_mean[:, None, :, 0, 0] / (h * w) - slope * mean[:, None]
        grad = torch.addcmul(offset.to(f.dtype), f, slope.to(f.dtype))
        return grad.view(b, h, w, c).permute(0, 3, 1, 2)


def _sum_over_positions(f: Tensor) -> Tensor:
    """(B, N, C) bfloat16 -> (B, C) float32. A partial sum is rounded to bfloat16 once, so there are many of them."""
    b, n, c = f.shape
    chunk = 256
    whole = n // chunk * chunk
    total = f[:, whole:].float().sum(1)
    if whole:
        ones = f.new_ones(1, 1, chunk).expand(b * (whole // chunk), 1, chunk)
        parts = torch.bmm(ones, f[:, :whole].reshape(-1, chunk, c))
        total = total + parts.view(b, -1, c).float().sum(1)
    return total


def mean_square(x: Tensor, fixed: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean squared difference to a tensor of the same shape (B, C, H, W), which gets no gradient -> scalar.

    Args:
        weights: (H, W), of mean 1: how much each position counts.
    """
    if x.dtype == torch.bfloat16 and weights is None:
        return _LowPrecisionMeanSquare.apply(x, fixed)
    kind = torch.promote_types(x.dtype, torch.float32)
    squares = (x.to(kind) - fixed.detach().to(kind)).square()
    return squares.mean() if weights is None else (squares * weights.to(squares)).mean()


class _LowPrecisionMeanSquare(torch.autograd.Function):
    """Of bfloat16 tensors, summed in float32 without float32 copies of them."""

    @staticmethod
    def forward(ctx, x: Tensor, fixed: Tensor) -> Tensor:
        difference = x - fixed
        ctx.save_for_backward(difference)
        return torch.linalg.vector_norm(difference, dtype=torch.float32).square() / x.numel()

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (difference,) = ctx.saved_tensors
        return difference * (grad * 2 / difference.numel()).to(difference.dtype), None


def region_moments(features: Tensor, regions: Tensor, eps: float = 1e-5) -> Moments:
    """Mean and biased standard deviation of every channel inside each region.

    Args:
        features: (B, C, H, W).
        regions: (K, H, W), how much each position belongs to each region.

    Returns:
        Two of (B, K, C), float32.
    """
    b, c, h, w = features.shape
    f = features.permute(0, 2, 3, 1).reshape(b, h * w, c)
    shares = regions.flatten(1).float().to(f.device)
    shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-12)

    def weighted(of: Callable[[Tensor], Tensor]) -> Tensor:  # in chunks: float32 copies of large maps are gigabytes
        return sum(shares[:, i : i + CHUNK] @ of(f[:, i : i + CHUNK].float()) for i in range(0, h * w, CHUNK))

    mean = weighted(lambda part: part)
    center = mean.mean(1, keepdim=True)
    square = weighted(lambda part: (part - center).square())
    return mean, ((square - (mean - center).square()).clamp(min=0) + eps).sqrt()


def adain(features: Tensor, own: Moments, wanted: Moments, alpha: float | Tensor | None = None) -> Tensor:
    """Adaptive instance normalization (Huang & Belongie 2017, Eq. 8): features (B, C, H, W) with other moments.

    Args:
        features: of the photo.
        own: its channels' means and standard deviations, two of (B or 1, C, 1, 1), see `moments`.
        wanted: those of the style, likewise; learned ones make it conditional instance normalization (Dumoulin et al.
            2016, Eq. 5).
        alpha: see `affine`.
    """
    return affine(features, *shift(above_rounding(own, features.dtype), wanted), alpha)


def above_rounding(own: Moments, dtype: torch.dtype) -> Moments:
    """Moments of features in `dtype`; a channel that is flat but for what rounding does gets an infinite deviation.

    Divided by its own deviation such a channel would be rounding errors, hundreds of times as large, and the next
    normalization would do that again: a picture of one color ended in infinities. So it becomes its new mean.
    """
    mean, std = own
    return mean, std.masked_fill(std < mean.abs() * torch.finfo(dtype).eps, float("inf"))


def shift(own: Moments, wanted: Moments) -> tuple[Tensor, Tensor]:
    """The factor and the offset (`affine`) that give features with the moments `own` those that are `wanted`.

    Means and standard deviations are of any shapes that broadcast to each other, and so are the results.
    """
    factor = wanted[1] / own[1]
    return factor, wanted[0] - factor * own[0]


def affine(features: Tensor, factor: Tensor, offset: Tensor, alpha: float | Tensor | None = None) -> Tensor:
    """factor * features + offset in the features' own dtype.

    Args:
        alpha: how far towards that, from 0, the features as they are, to 1 (Huang & Belongie 2017, Eq. 14); None: 1.
    """
    if alpha is not None:
        factor, offset = alpha * factor + (1 - alpha), alpha * offset
    return torch.addcmul(offset.to(features.dtype), features, factor.to(features.dtype))
