"""Loss terms that keep the content: features of the photo, its fine structure, and the picture itself."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nstexp.core.errors import ArgumentError, choice, is_whole, name_list, number
from nstexp.core.losses.terms import LARGEST_SCALE, Role, Shapes, accumulator, factors_of, total_of
from nstexp.core.networks.encoder import IMAGE, Features

ContentForm = Literal["mse", "half_sum", "sum"]


def content_loss(x: Tensor, target: Tensor, form: ContentForm = "mse") -> Tensor:
    """Squared distance of two feature maps (B, C, H, W) -> scalar, a mean over the batch.

    half_sum is Gatys et al. 2016, Eq. 1; mse and sum are what most code calls content loss (`half_sum` is
    C*H*W/2 times `mse`).
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

    def coefficients(self, shapes: Shapes) -> dict[str, float]:
        factors = {"mse": lambda n: 1.0, "half_sum": lambda n: n / 2, "sum": float}
        return {name: factors[self.form](math.prod(shapes[name])) for name in self.layers}

    def as_published(self, shapes: Shapes) -> tuple[str, dict[str, float]]:
        return "half sum (F - P)^2", {name: 2 / math.prod(shapes[name]) for name in self.layers}


def laplacian(image: Tensor) -> Tensor:
    """Second differences of an image (B, 3, H, W), summed over its channels -> (B, 1, H - 2, W - 2).

    The filter [[0, -1, 0], [-1, 4, -1], [0, -1, 0]] (Li et al. 2017).
    """
    x = image.sum(1, keepdim=True)
    around = x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:]
    return 4 * x[..., 1:-1, 1:-1] - around


def laplacian_loss(x: Tensor, target: Tensor, pool_px: int) -> Tensor:
    """Mean squared distance of the `laplacian` of an image (B, 3, H, W), averaged over squares of `pool_px`, to a
    target's -> scalar."""
    return F.mse_loss(laplacian(F.avg_pool2d(x, pool_px)), target)


class LaplacianLoss(nn.Module):
    """Keeps the photo's edges and fine structure (Lapstyle; Li, Xu, Nie & Chua 2017).

    Differs from the paper in being a mean over pixels, as in its authors' code, where the paper writes a sum.

    Args:
        pool_px: sides of the squares over which the picture is averaged first, one Laplacian for each.
        pool_weights: one factor for each; null: 1 each.
        pixel_scale: 255 is the scale of the authors' code, which works on 0-255 images.
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
        return [laplacian(F.avg_pool2d(image, side)) for side in self.pool_px]

    def forward(self, feats: Features, target: Sequence[Tensor]) -> Tensor:
        image = feats[IMAGE] * self.pixel_scale
        terms = zip(self.pool_px, self.factors, target, strict=True)
        return total_of([factor * laplacian_loss(image, wanted, side) for side, factor, wanted in terms])

    def coefficients(self, shapes: Shapes) -> dict[str, float]:
        scale = (self.pixel_scale / 255) ** 2
        return {f"{side} px": scale * factor for side, factor in zip(self.pool_px, self.factors, strict=True)}


class IdentityLoss(nn.Module):
    """What a network loses of a picture that it is given to reproduce: mean squared error of pixels and features.

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
        of_features = [content_loss(feats[name], target[name]) for name in self.layers]
        return total_of([self.pixels * content_loss(feats[IMAGE], target[IMAGE]), *of_features])
