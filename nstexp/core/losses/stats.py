"""Statistics of feature maps: pure functions of (B, C, H, W) tensors. Sums are taken in float32 or float64."""

from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor

GramDivisor = Literal["none", "hw", "chw"]
Moments = tuple[Tensor, Tensor]  # means and standard deviations of the channels, or means and their covariance matrix

# Positions per partial product of a bfloat16 Gram matrix. Every partial product is rounded to bfloat16 once, so short
# chunks keep the relative error of the sum near 1e-3 without a float32 copy of the features.
CHUNK = 2048


def gram(features: Tensor, divisor: GramDivisor = "hw") -> Tensor:
    """Gram matrix of a feature map: (B, C, H, W) -> (B, C, C), float32 or float64 (Gatys et al. 2016, Eq. 3).

    Args:
        divisor: `none` keeps the paper's plain sum over positions; `hw` divides it by H W, so that it does not depend
            on the image's size; `chw` divides it by C H W (neural-style).

    Examples:
        >>> gram(torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)).tolist()
        [[[1.0, 2.0], [2.0, 4.0]]]
        >>> gram(torch.full((1, 1, 2, 2), 3.0), divisor="none").tolist()
        [[[36.0]]]
    """
    _, c, h, w = features.shape
    product: Tensor
    if features.dtype == torch.bfloat16:
        product = _LowPrecisionGram.apply(features)
    else:
        f = features.flatten(2)  # (B, C, HW)
        if f.dtype == torch.float16:  # one product of two VGG activations can exceed its maximum, 65504
            f = f.float()
        product = f @ f.transpose(1, 2)
    return product / {"none": 1, "hw": h * w, "chw": c * h * w}[divisor]


class _LowPrecisionGram(torch.autograd.Function):
    """Plain Gram matrix of bfloat16 features, summed in float32; its gradient F (G' + G'^T) is bfloat16.

    A cast of the features to float32 would take longer than the product.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
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
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (f,) = ctx.saved_tensors
        b, c, h, w = ctx.shape
        symmetric = (grad + grad.transpose(1, 2)).to(f.dtype)
        return torch.bmm(f, symmetric).reshape(b, h, w, c).permute(0, 3, 1, 2)


def moments(features: Tensor, eps: float = 1e-5, unbiased: bool = False) -> Moments:
    """Means and standard deviations of the channels: (B, C, H, W) -> two of (B, C, 1, 1), float32 or float64.

    Args:
        eps: added to the variance, because the gradient of the square root is infinite at 0.
        unbiased: divide the sum of squares by H W - 1, as some public AdaIN code does, instead of H W as in the paper
            (Huang & Belongie 2017, Eq. 5 and 6).

    Examples:
        >>> mean, std = moments(torch.tensor([[[[1.0, 5.0]]]]), eps=0.0)
        >>> mean.item(), std.item()
        (3.0, 2.0)
    """
    n = features.shape[-2] * features.shape[-1]
    mean, variance = _mean_and_variance(features)
    if unbiased:
        variance = variance * (n / max(n - 1, 1))
    return mean, (variance + eps).sqrt()


def _mean_and_variance(features: Tensor) -> tuple[Tensor, Tensor]:
    """Means and biased variances of the channels: (B, C, H, W) -> two of (B, C, 1, 1), float32 or float64."""
    if features.dtype == torch.bfloat16:
        return cast(tuple[Tensor, Tensor], _LowPrecisionMoments.apply(features))
    f = features.float() if features.dtype == torch.float16 else features
    variance, mean = torch.var_mean(f, (2, 3), correction=0, keepdim=True)
    return mean, variance


def power_sums(features: Tensor, guide: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Number of positions, and sums over them of the features and of their squares, float64.

    The sums of the parts of a map add up to those of the map. They come from means and variances, so that no digits are
    lost where the mean is large.

    Args:
        features: (B, C, H, W).
        guide: (H, W), factors on the features that restrict the sums to a region, see `LossTerm.forward`; a position
            counts as often as the square of its factor says.

    Returns:
        A scalar and two of (B, C, 1, 1).

    Examples:
        >>> count, first, second = power_sums(torch.tensor([[[[1.0, 5.0]]]]))
        >>> count.item(), first.item(), second.item()
        (2.0, 6.0, 26.0)
    """
    if guide is None:
        mean, variance = _mean_and_variance(features)
        count = torch.tensor(float(features.shape[-2] * features.shape[-1]), dtype=torch.float64)
    else:
        weights = guide.square()
        # The square root of 0 has an infinite gradient, so something far below rounding is added.
        mean, std = (x[:, 0, :, None, None] for x in region_moments(features, weights[None], eps=1e-12))
        variance, count = std.square(), weights.sum(dtype=torch.float64)
    mean, variance, count = mean.double(), variance.double(), count.to(features.device)
    return count, mean * count, (variance + mean.square()) * count


def moments_of_sums(sums: tuple[Tensor, Tensor, Tensor], eps: float) -> Moments:
    """`moments` from `power_sums` over all positions, float64.

    Examples:
        >>> mean, std = moments_of_sums(power_sums(torch.tensor([[[[1.0, 5.0]]]])), eps=0.0)
        >>> mean.item(), std.item()
        (3.0, 2.0)
    """
    count, first, second = sums
    mean = first / count.clamp(min=1e-12)
    return mean, ((second / count.clamp(min=1e-12) - mean.square()).clamp(min=0) + eps).sqrt()


class _LowPrecisionMoments(torch.autograd.Function):
    """Mean and biased variance of bfloat16 features, in float32.

    On a CPU, products with a vector of ones are ten times faster than a reduction over space.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> tuple[Tensor, Tensor]:
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
    def backward(ctx: Any, grad_mean: Tensor, grad_variance: Tensor) -> Tensor:
        f, mean = ctx.saved_tensors
        b, c, h, w = ctx.shape
        slope = grad_variance[:, None, :, 0, 0] * (2 / (h * w))
        offset = grad_mean[:, None, :, 0, 0] / (h * w) - slope * mean[:, None]
        grad = torch.addcmul(offset.to(f.dtype), f, slope.to(f.dtype))
        return grad.view(b, h, w, c).permute(0, 3, 1, 2)


def _sum_over_positions(f: Tensor) -> Tensor:
    """Sum over positions: (B, N, C) bfloat16 -> (B, C) float32.

    Every partial sum is rounded to bfloat16 once, so the chunks are short.
    """
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
    """Mean squared difference of two tensors (B, C, H, W) -> scalar. Only `x` gets a gradient.

    Args:
        weights: (H, W), weights of the positions, with mean 1.

    Examples:
        >>> mean_square(torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[0.0, 5.0]]]])).item()
        5.0
    """
    if x.dtype == torch.bfloat16 and weights is None:
        return cast(Tensor, _LowPrecisionMeanSquare.apply(x, fixed))
    dtype = torch.promote_types(x.dtype, torch.float32)
    squares = (x.to(dtype) - fixed.detach().to(dtype)).square()
    return squares.mean() if weights is None else (squares * weights.to(squares)).mean()


class _LowPrecisionMeanSquare(torch.autograd.Function):
    """`mean_square` of bfloat16 tensors, summed in float32 without float32 copies of the tensors."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, fixed: Tensor) -> Tensor:
        difference = x - fixed
        ctx.save_for_backward(difference)
        norm: Tensor = torch.linalg.vector_norm(difference, dtype=torch.float32)
        return norm.square() / x.numel()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (difference,) = ctx.saved_tensors
        return difference * (grad * 2 / difference.numel()).to(difference.dtype), None


def region_moments(features: Tensor, regions: Tensor, eps: float = 1e-5) -> Moments:
    """Means and biased standard deviations of the channels inside regions.

    Args:
        features: (B, C, H, W).
        regions: (K, H, W), 0 or larger: weights of the positions in K regions; a region's weights need not sum to 1.
        eps: added to the variance, as in `moments`.

    Returns:
        Means and standard deviations, two of (B, K, C), float32.

    Examples:
        >>> features = torch.tensor([[[[1.0, 5.0, 9.0]]]])
        >>> mean, std = region_moments(features, torch.tensor([[[1.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]]]), eps=0.0)
        >>> mean.tolist(), std.tolist()
        ([[[3.0], [9.0]]], [[[2.0], [0.0]]])
    """
    b, c, h, w = features.shape
    f = features.permute(0, 2, 3, 1).reshape(b, h * w, c)
    dtype = torch.promote_types(f.dtype, torch.float32)
    shares = regions.flatten(1).to(f.device, dtype)
    shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-12)

    def weighted_mean(function: Callable[[Tensor], Tensor]) -> Tensor:
        # In chunks, because a float32 copy of a large map takes gigabytes.
        starts = range(0, h * w, CHUNK)
        return cast(Tensor, sum(shares[:, i : i + CHUNK] @ function(f[:, i : i + CHUNK].to(dtype)) for i in starts))

    mean = weighted_mean(lambda part: part)
    center = mean.mean(1, keepdim=True)
    square = weighted_mean(lambda part: (part - center).square())
    return mean, ((square - (mean - center).square()).clamp(min=0) + eps).sqrt()


def adain(features: Tensor, content: Moments, style: Moments, alpha: float | Tensor | None = None) -> Tensor:
    """Adaptive instance normalization (Huang & Belongie 2017, Eq. 8) of features (B, C, H, W).

    Args:
        features: features of the photo.
        content: means and standard deviations of the features' channels, two of (B or 1, C, 1, 1); see `moments`.
        style: means and standard deviations of the result, same shapes. Learned values make this a conditional
            instance normalization (Dumoulin et al. 2016, Eq. 5).
        alpha: strength of the style, see `affine`.

    Examples:
        >>> features = torch.tensor([[[[1.0, 5.0]]]])
        >>> style = torch.tensor([[[[10.0]]]]), torch.tensor([[[[1.0]]]])
        >>> adain(features, moments(features, eps=0.0), style).tolist()
        [[[[9.0, 11.0]]]]
        >>> constant = torch.full((1, 1, 1, 2), 7.0)
        >>> adain(constant, moments(constant, eps=0.0), style).tolist()
        [[[[10.0, 10.0]]]]
    """
    return affine(features, *shift(above_rounding(content, features.dtype), style), alpha)


def above_rounding(statistics: Moments, dtype: torch.dtype) -> Moments:
    """Replace the standard deviation of a channel that is constant up to the rounding of `dtype` by infinity.

    Division by the tiny deviation of such a channel would amplify rounding errors hundreds of times, and again in the
    next normalization, up to infinities in a picture of one color. Division by infinity sets the channel to its new
    mean.

    Examples:
        >>> mean, std = above_rounding((torch.tensor([1.0, 1.0]), torch.tensor([0.5, 1e-9])), torch.float32)
        >>> mean.tolist(), std.tolist()
        ([1.0, 1.0], [0.5, inf])
    """
    mean, std = statistics
    return mean, std.masked_fill(std < mean.abs() * torch.finfo(dtype).eps, float("inf"))


def shift(before: Moments, after: Moments) -> tuple[Tensor, Tensor]:
    """Factor and offset of the `affine` map that changes the moments of features from `before` to `after`.

    Means and standard deviations may have any shapes that broadcast together.

    Examples:
        >>> one, two, five = torch.tensor([1.0, 2.0, 5.0])
        >>> factor, offset = shift((one, two), (five, one))
        >>> factor.item(), offset.item()
        (0.5, 4.5)
    """
    factor = after[1] / before[1]
    return factor, after[0] - factor * before[0]


def affine(features: Tensor, factor: Tensor, offset: Tensor, alpha: float | Tensor | None = None) -> Tensor:
    """factor * features + offset, in the dtype of the features.

    Args:
        features: (B, C, H, W).
        factor, offset: any shape that broadcasts to that of the features.
        alpha: interpolation from the unchanged features (0) to the result (1), Huang & Belongie 2017, Eq. 14; None: 1.

    Examples:
        >>> x, factor, offset = torch.tensor([1.0, 2.0]), torch.tensor(3.0), torch.tensor(1.0)
        >>> affine(x, factor, offset).tolist(), affine(x, factor, offset, alpha=0.5).tolist()
        ([4.0, 7.0], [2.5, 4.5])
    """
    if alpha is not None:
        factor, offset = alpha * factor + (1 - alpha), alpha * offset
    return torch.addcmul(offset.to(features.dtype), features, factor.to(features.dtype))
