"""Content term that keeps a photograph a photograph: each neighborhood is an affine function of the photo's colors."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nstexp.core.errors import number
from nstexp.core.losses.terms import Role, Shapes, accumulator
from nstexp.core.networks.encoder import IMAGE, WRAPS, Features
from nstexp.core.torus import wrapped

SIDE_PX = 3  # side of a window
AREA = SIDE_PX**2
# The pixels of a window that are a later neighbor of another one, as (rows, columns) from it to them. The matrix is
# symmetric, and these 12 differences are half of the entries of a row beside the diagonal.
OFFSETS = ((0, 1), (0, 2), *((row, column) for row in (1, 2) for column in range(-2, 3)))
STRIP_PIXELS = 2**15  # windows whose float64 values are in memory at once, few enough for a CPU's cache
BLOCK_PIXELS = 2**16  # pixels that a CPU multiplies by all weights before it goes on, few enough for its cache


def matting_weights(image: Tensor, eps: float = 1e-7) -> Tensor:
    """The matting Laplacian of a photo (B, 3, H, W) in [0, 1], as weights between neighbors -> (B, 12, H, W).

    Levin, Lischinski & Weiss 2008, Eq. 12, for windows of 3x3 pixels inside the picture. The matrix L has the entry
    -w at the row of one pixel and the column of another one with weight w between them, and its rows sum to 0. Entry
    k of the result is the weight between each pixel and the one at `OFFSETS[k]` from it; 0 where this lies outside.

    Args:
        eps: penalty on the slopes of the affine functions, larger than 0; larger values bind flat areas more.

    Returns:
        The weights in float64 if the photo is float64, else in float32; they are computed in float64.

    Examples:
        >>> weights = matting_weights(torch.zeros(1, 3, 3, 3))  # one window, without colors
        >>> weights.shape, round(float(weights.sum()), 6)  # 36 pairs of its nine pixels, each with the weight 1/9
        (torch.Size([1, 12, 3, 3]), 4.0)
    """
    batch, _, height, width = image.shape
    weights = image.new_zeros((batch, len(OFFSETS), height, width), dtype=accumulator(image))
    rows = max(1, STRIP_PIXELS // (batch * width))
    for top in range(0, height - SIDE_PX + 1, rows):
        strip = image[:, :, top : top + rows + SIDE_PX - 1]
        weights[:, :, top : top + strip.shape[2]] += _weights_of_strip(strip.double(), eps).to(weights)
    return weights


def _weights_of_strip(image: Tensor, eps: float) -> Tensor:
    """`matting_weights` of a float64 image (B, 3, H, W), in float64."""
    batch, _, height, width = image.shape
    rows, columns = height - SIDE_PX + 1, width - SIDE_PX + 1
    weights = image.new_zeros((batch, len(OFFSETS), height, width))
    places = [(row, column) for row in range(SIDE_PX) for column in range(SIDE_PX)]
    pixels = [image[:, :, row : row + rows, column : column + columns] for row, column in places]
    mean = torch.stack(pixels).mean(0)
    whitened = _whitened([pixel - mean for pixel in pixels], eps)
    for (one, a), (other, b) in combinations(zip(places, whitened, strict=True), 2):
        offset = OFFSETS.index((other[0] - one[0], other[1] - one[1]))
        place = weights[:, offset, one[0] : one[0] + rows, one[1] : one[1] + columns]
        place += (1 + (a * b).sum(1)) / AREA
    return weights


def _whitened(pixels: list[Tensor], eps: float) -> list[Tensor]:
    """Nine centered pixels of every window, whitened: their inner products are x' (Sigma + eps / 9)^-1 y.

    Args:
        pixels: the windows' first to ninth pixels less the windows' means, each (B, 3, h, w).
        eps: see `matting_weights`.
    """
    # A factorization L D L' of each 3x3 matrix, by hand: batched solvers take twenty times as long for small ones.
    channels = torch.stack(pixels, 2).unbind(1)  # three times (B, 9, h, w)
    red, green, blue = channels

    def covariance(x: Tensor, y: Tensor) -> Tensor:  # (B, h, w)
        return (x * y).mean(1)

    of_red = covariance(red, red) + eps / AREA
    green_on_red, blue_on_red = covariance(green, red) / of_red, covariance(blue, red) / of_red
    green = green - green_on_red[:, None] * red
    blue = blue - blue_on_red[:, None] * red
    # Residuals of a ridge regression are no orthogonal parts: the penalty of the slopes counts as well.
    of_green = covariance(green, green) + eps / AREA * (1 + green_on_red.square())
    blue_on_green = (covariance(blue, green) + eps / AREA * green_on_red * blue_on_red) / of_green
    blue = blue - blue_on_green[:, None] * green
    slope = blue_on_red - blue_on_green * green_on_red
    of_blue = covariance(blue, blue) + eps / AREA * (1 + blue_on_green.square() + slope.square())
    parts = [x / variance.sqrt()[:, None] for x, variance in ((red, of_red), (green, of_green), (blue, of_blue))]
    return list(torch.stack(parts, 2).unbind(1))


def matting_loss(x: Tensor, weights: Tensor) -> Tensor:
    """How far an image is from an affine function of the photo's colors in every window -> scalar.

    The sum over channels c of x_c' L x_c, divided by the number of pixels and averaged over the batch. It equals the
    sum over all windows of the squared residuals of the best affine functions, plus eps times their squared slopes.

    Args:
        x: image (B, 3, H, W) in [0, 1].
        weights: `matting_weights` of the photo, (B or 1, 12, H, W).

    Examples:
        >>> photo = torch.rand(1, 3, 8, 8)
        >>> weights = matting_weights(photo)
        >>> bool(matting_loss(1 - 0.5 * photo.flip(1), weights) < 1e-5 < matting_loss(torch.rand(1, 3, 8, 8), weights))
        True
    """
    loss: Tensor = _MattingEnergy.apply(x.to(accumulator(x)), weights)
    return loss


class MattingLoss(nn.Module):
    """`matting_loss`, which keeps the photo's edges and surfaces free of strokes (Luan, Paris, Shechtman & Bala 2017).

    Luan et al. sum over pixels with the weight 1e4; the loss here is a mean, so that it does not depend on the size.

    Args:
        eps: see `matting_weights`.
    """

    role: Role = "content"
    layers: Sequence[str] = ()
    unit = "mean over pixels of V' L V of 0-1 pixels"
    min_side_px = SIDE_PX

    def __init__(self, eps: float = 1e-7) -> None:
        super().__init__()
        self.eps = number("eps", eps, above=0, high=1)

    def target(self, feats: Features) -> Tensor:
        return matting_weights(_with_all_windows(feats).detach(), self.eps)

    def forward(self, feats: Features, target: Tensor) -> Tensor:
        image = _with_all_windows(feats)
        larger = image.shape[-2:].numel() / feats[IMAGE].shape[-2:].numel()
        return matting_loss(image, target) * larger  # a mean over the pixels of the picture

    def as_published(self, shapes: Shapes) -> tuple[str, dict[str, float]]:
        _, height, width = shapes[IMAGE]
        return "sum of V' L V", {"": 1 / (height * width)}


def _with_all_windows(feats: Features) -> Tensor:
    """The image; if its opposite edges meet, with the rows and columns beyond them that windows reach."""
    image = feats[IMAGE]
    return wrapped(image, 1, 1, 1, 1) if WRAPS in feats else image


class _MattingEnergy(torch.autograd.Function):
    """`matting_loss`, whose gradient 2 L x is a by-product of the value: the matrix is symmetric."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor) -> Tensor:
        flat, weights = x.flatten(2), weights.flatten(2)[:, :, None]  # (B, C, HW), (B, 12, 1, HW)
        product = torch.zeros_like(flat)
        steps = [row * x.shape[-1] + column for row, column in OFFSETS]
        pixels = flat.shape[-1]
        block = BLOCK_PIXELS if x.device.type == "cpu" else pixels
        # Differences of neighbors keep the digits that x itself would lose. The last pixels of a row get neighbors in
        # the next row here, which do not matter: their weights are 0.
        for begin in range(0, pixels, block):
            for number_of_step, step in enumerate(steps):
                end = max(begin, min(begin + block, pixels - step))
                one, other = slice(begin, end), slice(begin + step, end + step)
                difference = flat[..., one] - flat[..., other]
                product[..., one].addcmul_(weights[:, number_of_step, :, one], difference)
                product[..., other].addcmul_(weights[:, number_of_step, :, one], difference, value=-1)
        ctx.scale = 1 / (len(x) * pixels)
        ctx.save_for_backward(product.view_as(x))
        energy: Tensor = torch.dot(product.flatten(), flat.flatten()) * ctx.scale
        return energy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (product,) = ctx.saved_tensors
        return product * (grad * 2 * ctx.scale), None
