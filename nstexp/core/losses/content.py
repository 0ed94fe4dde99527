"""Loss terms that preserve content: the photo's features, its edges, and the picture itself."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nstexp.core.errors import ArgumentError, choice, is_whole, name_list, number
from nstexp.core.losses.stats import mean_square
from nstexp.core.losses.terms import LARGEST_SCALE, Role, Shapes, accumulator, factors_of, total_of
from nstexp.core.networks.encoder import IMAGE, WRAPS, Features
from nstexp.core.torus import wrapped

ContentForm = Literal["mse", "half_sum", "sum"]


def content_loss(x: Tensor, target: Tensor, form: ContentForm = "mse") -> Tensor:
    """Squared distance of two feature maps (B, C, H, W) -> scalar, averaged over the batch.

    Args:
        form: `half_sum` is half the sum of squares (Gatys et al. 2016, Eq. 1); `sum` is the sum and `mse` the mean of
            squares, as most other code has it. half_sum = C H W / 2 times mse.

    Examples:
        >>> x, target = torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 3.0]]]])
        >>> [content_loss(x, target, form).item() for form in ("mse", "half_sum", "sum")]
        [5.0, 5.0, 10.0]
    """
    mse = F.mse_loss(x.float() if x.dtype != torch.float64 else x, target.to(accumulator(x)))
    return mse * {"mse": 1.0, "half_sum": 0.5, "sum": 1.0}[form] * (1 if form == "mse" else x[0].numel())


class ContentLoss(nn.Module):
    """`content_loss` summed over layers."""

    role: Role = "content"
    unit = "mean (F - P)^2"

    def __init__(self, layers: Sequence[str], form: ContentForm = "mse") -> None:
        super().__init__()
        self.layers = name_list("layers", layers, "relu4_1")
        self.form = choice("form", form, get_args(ContentForm))

    def target(self, feats: Features) -> Features:
        return {name: feats[name].detach() for name in self.layers}

    def forward(self, feats: Features, target: Features) -> Tensor:
        return total_of([content_loss(feats[name], target[name], self.form) for name in self.layers])

    @staticmethod
    def sums(x: Tensor, reference: Tensor) -> tuple[Tensor, ...]:
        return (mean_square(x, reference).double() * x.numel(),)

    def distance(self, sums: tuple[Tensor, ...], shape: tuple[int, int, int]) -> Tensor:
        """The loss of a layer of this shape (C, H, W), averaged over the batch of one."""
        numel = math.prod(shape)
        return sums[0] / numel * {"mse": 1.0, "half_sum": numel / 2, "sum": float(numel)}[self.form]

    def coefficients(self, shapes: Shapes) -> dict[str, float]:
        sizes = {name: math.prod(shapes[name]) for name in self.layers}
        return {n: {"mse": 1.0, "half_sum": size / 2, "sum": float(size)}[self.form] for n, size in sizes.items()}

    def as_published(self, shapes: Shapes) -> tuple[str, dict[str, float]]:
        return "half sum (F - P)^2", {name: 2 / math.prod(shapes[name]) for name in self.layers}


def laplacian(image: Tensor, wraps: bool = False) -> Tensor:
    """Laplacian of an image (B, 3, H, W), summed over the channels -> (B, 1, H - 2, W - 2).

    The filter is [[0, -1, 0], [-1, 4, -1], [0, -1, 0]] (Li et al. 2017), without padding. With `wraps`, opposite edges
    meet, and the result is (B, 1, H, W).

    Examples:
        >>> image = torch.zeros(1, 3, 3, 3)
        >>> image[..., 1, 1] = 1
        >>> laplacian(image).tolist()
        [[[[12.0]]]]
    """
    x = image.sum(1, keepdim=True)
    x = wrapped(x, 1, 1, 1, 1) if wraps else x
    around = x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:]
    return 4 * x[..., 1:-1, 1:-1] - around


def laplacian_loss(x: Tensor, target: Tensor, pool_px: int, wraps: bool = False) -> Tensor:
    """Mean squared distance of an image's Laplacian to a target Laplacian -> scalar.

    Args:
        x: image (B, 3, H, W); it is averaged over squares of `pool_px` pixels before the filter.
        target: `laplacian` of the reference image after the same averaging.
        wraps: see `laplacian`.

    Examples:
        >>> image = torch.ones(1, 3, 6, 6)
        >>> laplacian_loss(image, torch.full((1, 1, 1, 1), 2.0), pool_px=2).item()
        4.0
    """
    return F.mse_loss(laplacian(F.avg_pool2d(x, pool_px), wraps), target)


class LaplacianLoss(nn.Module):
    """Preserves the photo's edges and fine structure (Lapstyle; Li, Xu, Nie & Chua 2017).

    The loss is a mean over pixels, as in the authors' code; the paper writes a sum.

    Args:
        pool_px: sides of the squares over which the picture is averaged before the filter; one Laplacian per entry.
        pool_weights: one factor per entry of `pool_px`; null: 1 for every entry.
        pixel_scale: factor on the pixels before the loss; 255 is the scale of the authors' code.
    """

    role: Role = "content"
    layers: Sequence[str] = ()
    unit = "mean square of the Laplacian of 0-255 pixels"

    def __init__(
        self, pool_px: Sequence[int] = (4,), pool_weights: Sequence[float] | None = None, pixel_scale: float = 255.0
    ) -> None:
        super().__init__()
        sides = pool_px if isinstance(pool_px, Sequence) and not isinstance(pool_px, str) else ()
        if not sides or not all(is_whole(side) and side >= 1 for side in sides):
            raise ArgumentError("pool_px", f"={pool_px}: give a list of whole numbers of pixels, such as [4,16]")
        self.pool_px = tuple(pool_px)
        self.factors = factors_of("pool_weights", pool_weights, self.pool_px, "entries of pool_px")
        self.pixel_scale = number("pixel_scale", pixel_scale, above=0, high=LARGEST_SCALE)
        self.min_side_px = 3 * max(self.pool_px)

    def target(self, feats: Features) -> list[Tensor]:
        image = feats[IMAGE].detach() * self.pixel_scale
        return [laplacian(F.avg_pool2d(image, side), WRAPS in feats) for side in self.pool_px]

    def forward(self, feats: Features, target: Sequence[Tensor]) -> Tensor:
        image, wraps = feats[IMAGE] * self.pixel_scale, WRAPS in feats
        terms = zip(self.pool_px, self.factors, target, strict=True)
        return total_of([factor * laplacian_loss(image, reference, side, wraps) for side, factor, reference in terms])

    def coefficients(self, shapes: Shapes) -> dict[str, float]:
        scale = (self.pixel_scale / 255) ** 2
        return {f"{side} px": scale * factor for side, factor in zip(self.pool_px, self.factors, strict=True)}


class IdentityLoss(nn.Module):
    """Reconstruction error of a network that should return its input: mean squared error of features and pixels.

    Args:
        layers: names of the feature layers.
        pixels: factor on the mean squared error of the pixels.
    """

    role: Role = "identity"

    def __init__(self, layers: Sequence[str], pixels: float = 10.0) -> None:
        super().__init__()
        self.layers = name_list("layers", layers, "relu4_1")
        self.pixels = number("pixels", pixels, 0)

    def target(self, feats: Features) -> Features:
        return {name: feats[name].detach() for name in (IMAGE, *self.layers)}

    def forward(self, feats: Features, target: Features) -> Tensor:
        feature_losses = [content_loss(feats[name], target[name]) for name in self.layers]
        return total_of([self.pixels * content_loss(feats[IMAGE], target[IMAGE]), *feature_losses])
