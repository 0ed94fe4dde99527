"""Style terms. Every term is a function with the mathematics, and a thin module with the settings."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nstexp.core.errors import choice, flag, name_list, number, whole
from nstexp.core.losses.stats import (
    Moments,
    gram,
    mean_square,
    moments,
    moments_of_sums,
    power_sums,
    region_moments,
)
from nstexp.core.losses.terms import (
    Guides,
    Reduction,
    Role,
    Shapes,
    guided,
    layer_factors,
    total_of,
    used,
    weighted_sum,
)
from nstexp.core.losses.transport import Mode, Tie, directions, hist_match, quantiles, sorted_values
from nstexp.core.networks.encoder import IMAGE, Features

GramForm = Literal["gatys", "mse_hw", "mse_chw", "keras"]


def gram_loss(x: Tensor, target: Tensor, form: GramForm = "mse_chw", image_px: int | None = None) -> Tensor:
    """Distance of the Gram matrix of features to a target -> scalar, averaged over the batch.

    g is the Gram matrix of `x` divided by H W, so that pictures of different sizes can be compared:

    * gatys: sum (g - target)^2 / (4 C^2), which is Gatys et al. 2016, Eq. 4, for pictures of equal size;
    * mse_hw: mean (g - target)^2, 4 times gatys (leongatys/PytorchNeuralStyleTransfer);
    * mse_chw: mean ((g - target) / C)^2, 4 / C^2 times gatys (neural-style; the default);
    * keras: sum (H W (g - target))^2 / (36 image_px^2), as in the Keras example, which uses the area of the image and
      3 channels at every layer.

    Args:
        x: features (B, C, H, W).
        target: Gram matrix (B or 1, C, C) divided by the number of positions, see `gram`.
        image_px: height times width of the image; only form keras needs it.

    Examples:
        >>> x, target = torch.ones(1, 2, 1, 1), torch.zeros(1, 2, 2)
        >>> [gram_loss(x, target, form, image_px=1).item() for form in ("gatys", "mse_hw", "mse_chw")]
        [0.25, 1.0, 0.25]
    """
    return gram_distance(gram(x, "hw"), target, form, (x.shape[-2], x.shape[-1]), image_px)


def gram_distance(
    found: Tensor, target: Tensor, form: GramForm, size: tuple[int, int], image_px: int | None = None
) -> Tensor:
    """`gram_loss` of a Gram matrix (B, C, C) that is divided by the number of positions.

    Args:
        size: height and width of the features; only form keras needs it.
    """
    c, (h, w) = found.shape[-1], size
    mse = F.mse_loss(found, target.to(found).expand(found.shape[0], -1, -1))
    if form == "gatys":
        return mse / 4
    if form == "mse_chw":
        return mse / c**2
    if form == "keras":
        if image_px is None:
            raise ValueError("the form keras needs the area of the image")
        return mse * c**2 * (h * w / image_px) ** 2 / 36
    return mse


class GramLoss(nn.Module):
    """Style term: weighted sum of `gram_loss` over layers.

    Args:
        layers: names of the style layers.
        form: see `gram_loss`.
        layer_weights: one factor per layer; null: 1 for every layer.
        reduction: `sum` or `mean` over the layers (the papers' w_l = 1 / number of layers).
    """

    role: Role = "style"
    unit = "E_l"  # Gatys et al. 2016, Eq. 4

    def __init__(
        self,
        layers: Sequence[str],
        form: GramForm = "mse_chw",
        layer_weights: Sequence[float] | None = None,
        reduction: Reduction = "sum",
    ) -> None:
        super().__init__()
        self.layers = name_list("layers", layers, "relu4_1")
        self.form = choice("form", form, get_args(GramForm))
        self.factors = layer_factors(self.layers, layer_weights, reduction)

    def target(self, feats: Features, guides: Guides | None = None) -> Features:
        names = [name for name in self.layers if name in feats]
        return {name: gram(guided(feats, name, guides).detach(), "hw") for name in names}

    def forward(self, feats: Features, target: Features, guides: Guides | None = None) -> Tensor:
        image_px = feats[IMAGE].shape[-2] * feats[IMAGE].shape[-1]
        return total_of(
            [
                factor * gram_loss(guided(feats, name, guides), target[name], self.form, image_px)
                for name, factor in used(self, target)
            ]
        )

    @staticmethod
    def sums(x: Tensor, guide: Tensor | None = None) -> tuple[Tensor, ...]:
        return (gram(x if guide is None else x * guide.to(x), "none"),)

    @staticmethod
    def of_sums(sums: tuple[Tensor, ...], positions: int) -> Tensor:
        return sums[0] / positions

    def distance(self, found: Tensor, target: Tensor, size: tuple[int, int], image_px: int) -> Tensor:
        return gram_distance(found, target, self.form, size, image_px)

    @staticmethod
    def blend(parts: Sequence[tuple[float, Tensor]], strength: float = 1.0) -> Tensor:
        return strength**2 * weighted_sum(parts)

    def coefficients(self, shapes: Shapes) -> dict[str, float]:
        _, height, width = shapes[IMAGE]

        def in_unit(channels: int, h: int, w: int) -> float:
            keras = (channels * h * w) ** 2 / (9 * (height * width) ** 2)
            return {"gatys": 1.0, "mse_hw": 4.0, "mse_chw": 4 / channels**2, "keras": keras}[self.form]

        layers = zip(self.layers, self.factors, strict=True)
        return {name: factor * in_unit(*shapes[name]) for name, factor in layers}


def moments_loss(x: Moments, target: Moments, reduction: Reduction = "mean") -> Tensor:
    """Squared distance of means and standard deviations -> scalar, averaged over the batch.

    The squared difference of the means plus that of the standard deviations (Huang & Belongie 2017, Eq. 13).

    Args:
        x, target: means and standard deviations of the channels, two of (B, C, 1, 1), see `moments`.
        reduction: `mean` or `sum` over the channels.

    Examples:
        >>> x, target = (torch.zeros(1, 2, 1, 1),) * 2, (torch.ones(1, 2, 1, 1),) * 2
        >>> moments_loss(x, target).item(), moments_loss(x, target, "sum").item()
        (2.0, 4.0)
    """
    squares = (x[0] - target[0]).square() + (x[1] - target[1]).square()
    return squares.mean() * (squares.shape[1] if reduction == "sum" else 1)


class MomentsLoss(nn.Module):
    """Style term of AdaIN: weighted sum of `moments_loss` over layers.

    Args:
        layers: names of the layers; `image` compares the colors of the pictures themselves.
        style_reduction: `mean` or `sum` over the channels; `sum` (the authors' code) gives wide, deep layers more
            weight.
        layer_weights: one factor per layer; null: 1 for every layer.
        eps, unbiased: see `stats.moments`.
    """

    role: Role = "style"
    unit = "channel mean of (mean difference)^2 + (std difference)^2"

    def __init__(
        self,
        layers: Sequence[str],
        style_reduction: Reduction = "mean",
        layer_weights: Sequence[float] | None = None,
        eps: float = 1e-5,
        unbiased: bool = False,
    ) -> None:
        super().__init__()
        self.layers = name_list("layers", layers, "relu4_1")
        self.reduction = choice("style_reduction", style_reduction, get_args(Reduction))
        self.factors = layer_factors(self.layers, layer_weights)
        self.eps, self.unbiased = number("eps", eps, 0, 1), flag("unbiased", unbiased)

    def target(self, feats: Features, guides: Guides | None = None) -> dict[str, Moments]:
        return {name: self._moments(feats[name].detach(), name, guides) for name in self.layers if name in feats}

    def forward(self, feats: Features, target: Mapping[str, Moments], guides: Guides | None = None) -> Tensor:
        return total_of(
            [
                factor * moments_loss(self._moments(feats[name], name, guides), target[name], self.reduction)
                for name, factor in used(self, target)
            ]
        )

    def _moments(self, x: Tensor, name: str, guides: Guides | None) -> Moments:
        if guides is None:
            return moments(x, self.eps, self.unbiased)
        mean, std = region_moments(x, guides[name].square()[None], self.eps)  # (B, 1, C)
        std = self._unbiased(std, x.shape[-2] * x.shape[-1]) if self.unbiased else std
        return mean[:, 0, :, None, None], std[:, 0, :, None, None]

    def _unbiased(self, std: Tensor, positions: int) -> Tensor:
        return ((std.square() - self.eps) * (positions / max(positions - 1, 1)) + self.eps).sqrt()

    @staticmethod
    def sums(x: Tensor, guide: Tensor | None = None) -> tuple[Tensor, ...]:
        return power_sums(x, guide)

    def of_sums(self, sums: tuple[Tensor, Tensor, Tensor], positions: int) -> Moments:
        mean, std = moments_of_sums(sums, self.eps)
        return mean, self._unbiased(std, positions) if self.unbiased else std

    def distance(self, found: Moments, target: Moments, size: tuple[int, int], image_px: int) -> Tensor:
        return moments_loss(found, target, self.reduction)

    @staticmethod
    def blend(parts: Sequence[tuple[float, Moments]], strength: float = 1.0) -> Moments:
        mean = weighted_sum((share, mean) for share, (mean, _) in parts)
        std = weighted_sum((share, std) for share, (_, std) in parts)
        return strength * mean, strength * std

    def coefficients(self, shapes: Shapes) -> dict[str, float]:
        layers = zip(self.layers, self.factors, strict=True)
        return {n: factor * (shapes[n][0] if self.reduction == "sum" else 1.0) for n, factor in layers}


def covariance(x: Tensor, guide: Tensor | None = None) -> Moments:
    """Means (B, C, 1) and biased covariance matrix (B, C, C) of the channels of features (B, C, H, W).

    Args:
        guide: (H, W), restricts the statistics to a region, see `LossTerm.forward`.

    Examples:
        >>> mean, cov = covariance(torch.tensor([[[[1.0, 5.0]]]]))
        >>> mean.tolist(), cov.tolist()
        ([[[3.0]]], [[[4.0]]])
    """
    if guide is None:
        mean = moments(x)[0].flatten(2)
        return mean, gram(x, "hw") - mean @ mean.transpose(1, 2)
    mean = region_moments(x, guide.square()[None])[0].transpose(1, 2)
    return mean, gram(x * guide.to(x), "hw") - mean @ mean.transpose(1, 2)


def covariance_loss(x: Moments, target: Moments) -> Tensor:
    """Squared distance of means and covariances -> scalar, averaged over the batch.

    The mean of (cov - cov')^2 over the matrix plus that of (mu mu^T - mu' mu'^T)^2, both divided by C^2. The Gram
    matrix is cov + mu mu^T, so the unit is that of `gram_loss` in form mse_chw.

    Args:
        x, target: means (B, C, 1) and covariances (B, C, C), see `covariance`.

    Examples:
        >>> x = torch.ones(1, 1, 1), torch.full((1, 1, 1), 3.0)
        >>> covariance_loss(x, (torch.zeros(1, 1, 1), torch.ones(1, 1, 1))).item()
        5.0
    """
    (mean, cov), (to_mean, to_cov) = x, target
    squares = (cov - to_cov).square().mean() + (mean @ mean.mT - to_mean @ to_mean.mT).square().mean()
    return squares / cov.shape[-1] ** 2


class CovarianceLoss(nn.Module):
    """Style term: weighted sum of `covariance_loss` over layers. A Gram matrix mixes the mean activation of a channel
    with its variation; this term separates them.

    Args:
        layers: names of the style layers.
        layer_weights: one factor per layer; null: 1 for every layer.
    """

    role: Role = "style"
    unit = "mean ((cov - cov') / C)^2 + mean ((mu mu^T - mu' mu'^T) / C)^2"

    def __init__(self, layers: Sequence[str], layer_weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.layers = name_list("layers", layers, "relu4_1")
        self.factors = layer_factors(self.layers, layer_weights)

    def target(self, feats: Features, guides: Guides | None = None) -> dict[str, Moments]:
        guides = guides or {}
        return {name: covariance(feats[name].detach(), guides.get(name)) for name in self.layers if name in feats}

    def forward(self, feats: Features, target: Mapping[str, Moments], guides: Guides | None = None) -> Tensor:
        guides = guides or {}
        return total_of(
            [
                factor * covariance_loss(covariance(feats[name], guides.get(name)), target[name])
                for name, factor in used(self, target)
            ]
        )

    @staticmethod
    def sums(x: Tensor, guide: Tensor | None = None) -> tuple[Tensor, ...]:
        count, first, _ = power_sums(x, guide)
        return count, first, gram(x if guide is None else x * guide.to(x), "none")

    @staticmethod
    def of_sums(sums: tuple[Tensor, Tensor, Tensor], positions: int) -> Moments:
        mean = (sums[1] / sums[0].clamp(min=1e-12)).flatten(2)
        return mean, sums[2].double() / positions - mean @ mean.mT

    @staticmethod
    def distance(found: Moments, target: Moments, size: tuple[int, int], image_px: int) -> Tensor:
        return covariance_loss(found, target)

    @staticmethod
    def blend(parts: Sequence[tuple[float, Moments]], strength: float = 1.0) -> Moments:
        mean = weighted_sum((share, mean) for share, (mean, _) in parts)
        cov = weighted_sum((share, cov) for share, (_, cov) in parts)
        return strength * mean, strength**2 * cov

    def coefficients(self, shapes: Shapes) -> dict[str, float]:
        return dict(zip(self.layers, self.factors, strict=True))


def histogram_loss(
    x: Tensor, reference: Tensor, reduction: Reduction = "mean", guide: Tensor | None = None, **options: Any
) -> Tensor:
    """Squared distance of features to the same features with the reference's histograms -> scalar, averaged over the
    batch.

    Risser, Wilmot & Barnes 2017: ||O - R(O)||^2 per channel with R(O) treated as constant, which is the squared
    Wasserstein distance of the histograms; its gradient is 2 (O - R).

    Args:
        x: features O, (B, C, H, W).
        reference: sorted values of the channels, (B or 1, C, M), see `transport.hist_match`.
        reduction: `mean` or `sum` over channels and positions.
        guide: (H, W), restricts the loss to a region, see `LossTerm.forward`.
        options: other arguments of `transport.hist_match`.

    Raises:
        UserError: an unknown mode or tie.

    Examples:
        >>> x, reference = torch.tensor([[[[3.0, 1.0]]]]), torch.tensor([[[1.0, 5.0]]])
        >>> histogram_loss(x, reference).item(), histogram_loss(x, reference, "sum").item()
        (2.0, 4.0)
    """
    weights = None if guide is None else guide.square()
    flat = None if weights is None else weights.flatten()
    matched = hist_match(x.flatten(2), reference, weights=flat, **options).view(x.shape)
    if x.is_contiguous(memory_format=torch.channels_last):
        matched = matched.contiguous(memory_format=torch.channels_last)
    return mean_square(x, matched, weights) * (x[0].numel() if reduction == "sum" else 1)


class HistogramLoss(nn.Module):
    """Style term: weighted sum of `histogram_loss` over layers. Many feature distributions have the same Gram matrix;
    Risser et al. 2017 add histograms to make texture synthesis stable.

    The weights are fixed, as in the authors' later code; the paper tunes them by the gradients.

    Args:
        layers: names of the layers.
        layer_weights: one factor per layer; null: 1 for every layer.
        reduction: `mean` or `sum` (the paper's) over channels and positions of a layer.
        mode, tie, bins: see `transport.hist_match`.
        seed: seed of the random order of equal values, which is the same in every evaluation.
    """

    role: Role = "style"
    unit = "mean (O - R(O))^2"

    def __init__(
        self,
        layers: Sequence[str],
        layer_weights: Sequence[float] | None = None,
        reduction: Reduction = "mean",
        mode: Mode = "sort",
        tie: Tie = "random",
        bins: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.layers = name_list("layers", layers, "relu4_1")
        self.factors = layer_factors(self.layers, layer_weights)
        self.reduction = choice("reduction", reduction, get_args(Reduction))
        self.options = {
            "mode": choice("mode", mode, get_args(Mode)),
            "tie": choice("tie", tie, get_args(Tie)),
            "bins": whole("bins", bins, 2, 2**20),
            "seed": whole("seed", seed),
        }

    def target(self, feats: Features, guides: Guides | None = None) -> Features:
        guides = guides or {}
        names = [name for name in self.layers if name in feats]
        return {name: sorted_values(feats[name].detach().flatten(2), _weights(guides.get(name))) for name in names}

    def forward(self, feats: Features, target: Features, guides: Guides | None = None) -> Tensor:
        guides = guides or {}
        return total_of(
            [
                factor * histogram_loss(feats[name], target[name], self.reduction, guides.get(name), **self.options)
                for name, factor in used(self, target)
            ]
        )

    @staticmethod
    def blend(parts: Sequence[tuple[float, Tensor]], strength: float = 1.0) -> Tensor:
        """Averaged quantiles, which are the Wasserstein barycenter of the values of a channel."""
        count = max(reference.shape[-1] for _, reference in parts)
        return strength * weighted_sum((share, quantiles(reference, count)) for share, reference in parts)

    def coefficients(self, shapes: Shapes) -> dict[str, float]:
        layers = zip(self.layers, self.factors, strict=True)
        return {n: factor * (math.prod(shapes[n]) if self.reduction == "sum" else 1.0) for n, factor in layers}


def _weights(guide: Tensor | None) -> Tensor | None:
    """The weights of the positions (N,) that a guide (H, W) stands for."""
    return None if guide is None else guide.square().flatten()


def project(x: Tensor, onto: Tensor) -> Tensor:
    """Project features (B, C, H, W) onto unit vectors (C, D) -> (B, D, H W), float32 or float64.

    In bfloat16, the rounding error of a projection would exceed the distance of two similar distributions.

    Examples:
        >>> project(torch.tensor([3.0, 4.0]).view(1, 2, 1, 1), torch.tensor([[0.0], [1.0]])).tolist()
        [[[4.0]]]
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    return onto.to(x.device, dtype).T @ x.flatten(2).to(dtype)


def sliced_wasserstein_loss(x: Tensor, reference: Tensor, onto: Tensor, guide: Tensor | None = None) -> Tensor:
    """Sliced Wasserstein distance of two distributions of feature vectors (Heitz et al. 2021) -> scalar.

    For every direction, the projected values of both pictures are sorted and compared; the loss is the mean squared
    difference over ranks, directions and the batch.

    Args:
        x: features (B, C, H, W).
        reference: `project`ed features of the other picture, sorted along the last dimension, (B or 1, D, M).
        onto: the directions, unit vectors (C, D).
        guide: (H, W), restricts the loss to a region, see `LossTerm.forward`.

    Examples:
        >>> x, reference = torch.tensor([[[[3.0, 1.0]]]]), torch.tensor([[[1.0, 5.0]]])
        >>> sliced_wasserstein_loss(x, reference, onto=torch.ones(1, 1)).item()
        2.0
    """
    projected = project(x, onto)
    if guide is None and not torch.is_grad_enabled():  # of a measure: without a gradient, nothing needs the ranks
        return (sorted_values(projected) - quantiles(reference, projected.shape[-1])).square().mean()
    return histogram_loss(projected[..., None], reference, guide=None if guide is None else guide.reshape(-1, 1))


class SlicedWassersteinLoss(nn.Module):
    """Style term: weighted sum of `sliced_wasserstein_loss` over layers. It compares the whole distribution of the
    feature vectors.

    Two differences from the paper: the directions are fixed, because L-BFGS needs the same loss at every step, and
    they are orthogonal, so that as many directions as channels span the whole space.

    Args:
        layers: names of the style layers.
        directions: number of directions; null: the layer's number of channels.
        layer_weights: one factor per layer; null: 1 for every layer.
        seed: seed of the random directions.
    """

    role: Role = "style"
    unit = "mean squared distance of projected features"

    def __init__(
        self,
        layers: Sequence[str],
        directions: int | None = None,
        layer_weights: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.layers = name_list("layers", layers, "relu4_1")
        self.factors = layer_factors(self.layers, layer_weights)
        if directions is not None:
            whole("directions", directions, 1, 2**16)
        self.directions, self.seed = directions, whole("seed", seed)

    def target(self, feats: Features, guides: Guides | None = None) -> Features:
        guides = guides or {}
        names = [name for name in self.layers if name in feats]
        projected = {name: project(feats[name].detach(), self.onto(name, feats)) for name in names}
        return {name: sorted_values(x, _weights(guides.get(name))) for name, x in projected.items()}

    def forward(self, feats: Features, target: Features, guides: Guides | None = None) -> Tensor:
        guides = guides or {}
        return total_of(
            [
                factor * sliced_wasserstein_loss(feats[name], target[name], self.onto(name, feats), guides.get(name))
                for name, factor in used(self, target)
            ]
        )

    def onto(self, name: str, feats: Features) -> Tensor:
        """The directions (C, D) for a layer; equal for layers with equally many channels."""
        channels = feats[name].shape[1]
        return directions(channels, self.directions or channels, self.seed)

    blend = staticmethod(HistogramLoss.blend)

    def coefficients(self, shapes: Shapes) -> dict[str, float]:
        return dict(zip(self.layers, self.factors, strict=True))
