"""Style terms: for each a function with the mathematics and a thin module with the settings."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nstexp.core.errors import choice, flag, name_list, number, whole
from nstexp.core.losses.stats import Moments, gram, mean_square, moments, region_moments
from nstexp.core.losses.terms import Guides, Reduction, Role, Shapes, guided, layer_factors, total_of, used
from nstexp.core.losses.transport import Mode, Tie, directions, hist_match, quantiles
from nstexp.core.networks.encoder import IMAGE, Features

GramForm = Literal["gatys", "mse_hw", "mse_chw", "keras"]


def gram_loss(x: Tensor, target: Tensor, form: GramForm = "mse_chw", image_px: int | None = None) -> Tensor:
    """Features (B, C, H, W) against a Gram matrix per position (B or 1, C, C) -> scalar, a mean over the batch.

    With g the Gram matrix of `x` divided by its own H*W, so that pictures of different sizes compare:

    * gatys: sum (g - target)^2 / (4 C^2), Gatys et al. 2016, Eq. 4 where both pictures have the same size;
    * mse_hw: mean (g - target)^2 = 4 times that (leongatys/PytorchNeuralStyleTransfer);
    * mse_chw: mean ((g - target) / C)^2 = 4 / C^2 times that (neural-style; the default);
    * keras: sum (H W (g - target))^2 / (36 image_px^2), the Keras example, which takes the area of the *image* and
      3 channels at every layer.

    Args:
        image_px: height times width of the image, needed by the form keras.
    """
    _, c, h, w = x.shape
    mse = F.mse_loss(gram(x, "hw"), target.expand(x.shape[0], -1, -1))
    if form == "gatys":
        return mse / 4
    if form == "mse_chw":
        return mse / c**2
    if form == "keras":
        return mse * c**2 * (h * w / image_px) ** 2 / 36
    return mse


class GramLoss(nn.Module):
    """Style term: `gram_loss` weighed over layers.

    Args:
        layers: names of the style layers.
        form: see `gram_loss`.
        layer_weights: one factor per layer; null: 1 each.
        reduction: `sum` over the layers, or their `mean` (the papers' w_l = 1 / number of layers).
    """

    role: Role = "style"
    unit = "E_l"

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

    def target(self, feats: Features) -> Features:
        return {name: gram(feats[name].detach(), "hw") for name in self.layers if name in feats}

    def forward(self, feats: Features, target: Features, guides: Guides | None = None) -> Tensor:
        image_px = feats[IMAGE].shape[-2] * feats[IMAGE].shape[-1]
        return total_of(
            [
                factor * gram_loss(guided(feats, name, guides), target[name], self.form, image_px)
                for name, factor in used(self, target)
            ]
        )

    @staticmethod
    def blend(parts: Sequence[tuple[float, Tensor]], strength: float = 1.0) -> Tensor:
        return strength**2 * sum(share * statistic for share, statistic in parts)

    def coefficients(self, shapes: Shapes) -> dict[str, float]:
        _, height, width = shapes[IMAGE]

        def times_e_l(channels: int, h: int, w: int) -> float:
            of_keras = (channels * h * w) ** 2 / (9 * (height * width) ** 2)
            return {"gatys": 1.0, "mse_hw": 4.0, "mse_chw": 4 / channels**2, "keras": of_keras}[self.form]

        layers = zip(self.layers, self.factors, strict=True)
        return {name: factor * times_e_l(*shapes[name]) for name, factor in layers}


def moments_loss(x: Moments, target: Moments, reduction: Reduction = "mean") -> Tensor:
    """Channel means and standard deviations, two of (B, C, 1, 1), against a target's -> scalar, a mean over the batch.

    Squared differences of the means plus those of the standard deviations (Huang & Belongie 2017, Eq. 13), their
    `mean` or `sum` over the channels.
    """
    squares = (x[0] - target[0]).square() + (x[1] - target[1]).square()
    return squares.mean() * (squares.shape[1] if reduction == "sum" else 1)


class MomentsLoss(nn.Module):
    """Style term of AdaIN: `moments_loss` weighed over layers.

    Args:
        layers: names of the layers; `image` is the picture itself, whose moments are a palette.
        style_reduction: `mean` over the channels, or their `sum`, which favors deep layers by their width (the
            authors' own code).
        layer_weights: one factor per layer; null: 1 each.
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

    def target(self, feats: Features) -> dict[str, Moments]:
        return {name: moments(feats[name].detach(), self.eps, self.unbiased) for name in self.layers if name in feats}

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
        if self.unbiased:
            n = x.shape[-2] * x.shape[-1]
            std = ((std.square() - self.eps) * (n / max(n - 1, 1)) + self.eps).sqrt()
        return mean[:, 0, :, None, None], std[:, 0, :, None, None]

    @staticmethod
    def blend(parts: Sequence[tuple[float, Moments]], strength: float = 1.0) -> Moments:
        mean = sum(share * mean for share, (mean, _) in parts)
        std = sum(share * std for share, (_, std) in parts)
        return strength * mean, strength * std

    def coefficients(self, shapes: Shapes) -> dict[str, float]:
        layers = zip(self.layers, self.factors, strict=True)
        return {n: factor * (shapes[n][0] if self.reduction == "sum" else 1.0) for n, factor in layers}


def covariance(x: Tensor, guide: Tensor | None = None) -> Moments:
    """Mean (B, C, 1) and covariance (B, C, C), divided by H W, of the channels of (B, C, H, W) features.

    Args:
        guide: (H, W), see `LossTerm.forward`: the moments inside its region.
    """
    if guide is None:
        mean = moments(x)[0].flatten(2)
        return mean, gram(x, "hw") - mean @ mean.transpose(1, 2)
    mean = region_moments(x, guide.square()[None])[0].transpose(1, 2)
    return mean, gram(x * guide.to(x), "hw") - mean @ mean.transpose(1, 2)


def covariance_loss(x: Moments, target: Moments) -> Tensor:
    """Means (B, C, 1) and covariances (B, C, C) against a target's -> scalar, a mean over the batch.

    The mean over entries of (cov - cov')^2 plus that of (mu mu^T - mu' mu'^T)^2, divided by C^2: in the units of
    `gram_loss`'s form mse_chw, whose Gram matrix is the sum of the two.
    """
    (mean, cov), (to_mean, to_cov) = x, target
    squares = (cov - to_cov).square().mean() + (mean @ mean.mT - to_mean @ to_mean.mT).square().mean()
    return squares / cov.shape[-1] ** 2


class CovarianceLoss(nn.Module):
    """Style term: `covariance_loss` weighed over layers. Unlike a Gram matrix it tells how strong a channel is on
    average from how much it varies.

    Args:
        layers: names of the style layers.
        layer_weights: one factor per layer; null: 1 each.
    """

    role: Role = "style"
    unit = "mean ((cov - cov') / C)^2 + mean ((mu mu^T - mu' mu'^T) / C)^2"

    def __init__(self, layers: Sequence[str], layer_weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.layers = name_list("layers", layers, "relu4_1")
        self.factors = layer_factors(self.layers, layer_weights)

    def target(self, feats: Features) -> dict[str, Moments]:
        return {name: covariance(feats[name].detach()) for name in self.layers if name in feats}

    def forward(self, feats: Features, target: Mapping[str, Moments], guides: Guides | None = None) -> Tensor:
        guides = guides or {}
        return total_of(
            [
                factor * covariance_loss(covariance(feats[name], guides.get(name)), target[name])
                for name, factor in used(self, target)
            ]
        )

    @staticmethod
    def blend(parts: Sequence[tuple[float, Moments]], strength: float = 1.0) -> Moments:
        mean = sum(share * mean for share, (mean, _) in parts)
        cov = sum(share * cov for share, (_, cov) in parts)
        return strength * mean, strength**2 * cov

    def coefficients(self, shapes: Shapes) -> dict[str, float]:
        return dict(zip(self.layers, self.factors, strict=True))


def histogram_loss(
    x: Tensor, reference: Tensor, reduction: Reduction = "mean", guide: Tensor | None = None, **how: Any
) -> Tensor:
    """Squared distance of features to themselves with the histogram of a reference -> scalar, a mean over the batch.

    Risser, Wilmot & Barnes 2017: ||O - R(O)||^2 per channel, R(O) treated as constant: the squared Wasserstein distance
    of the two histograms, and its gradient 2 (O - R).

    Args:
        x: (B, C, H, W).
        reference: (B or 1, C, M), sorted: see `transport.hist_match`, which also takes the other arguments.
        reduction: `mean` over channels and positions, or their `sum`.
        guide: (H, W), see `LossTerm.forward`: only the region's values count.
    """
    weights = None if guide is None else guide.square()
    flat = None if weights is None else weights.flatten()
    matched = hist_match(x.flatten(2), reference, weights=flat, **how).view(x.shape)
    if x.is_contiguous(memory_format=torch.channels_last):
        matched = matched.contiguous(memory_format=torch.channels_last)
    return mean_square(x, matched, weights) * (x[0].numel() if reduction == "sum" else 1)


class HistogramLoss(nn.Module):
    """Style term: `histogram_loss` weighed over layers. Many distributions share a Gram matrix; few share their
    histograms as well, which Risser et al. 2017 find to be more stable.

    Differs from the paper in fixed weights, as in its authors' later code; the paper tunes them by the gradients.

    Args:
        layers: names of the layers.
        layer_weights: one factor per layer; null: 1 each.
        reduction: over channels and positions of a layer, `mean` or `sum` (the paper's).
        mode, tie, bins: see `transport.hist_match`.
        seed: of the random order of equal values, the same in every evaluation.
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
        self.how = {
            "mode": choice("mode", mode, get_args(Mode)),
            "tie": choice("tie", tie, get_args(Tie)),
            "bins": whole("bins", bins, 2, 2**20),
            "seed": whole("seed", seed),
        }

    def target(self, feats: Features) -> Features:
        return {name: feats[name].detach().flatten(2).sort(-1).values for name in self.layers if name in feats}

    def forward(self, feats: Features, target: Features, guides: Guides | None = None) -> Tensor:
        guides = guides or {}
        return total_of(
            [
                factor * histogram_loss(feats[name], target[name], self.reduction, guides.get(name), **self.how)
                for name, factor in used(self, target)
            ]
        )

    @staticmethod
    def blend(parts: Sequence[tuple[float, Tensor]], strength: float = 1.0) -> Tensor:
        """Averaged quantiles: the Wasserstein barycenter of each channel's values."""
        count = max(reference.shape[-1] for _, reference in parts)
        return strength * sum(share * quantiles(reference, count) for share, reference in parts)

    def coefficients(self, shapes: Shapes) -> dict[str, float]:
        layers = zip(self.layers, self.factors, strict=True)
        return {n: factor * (math.prod(shapes[n]) if self.reduction == "sum" else 1.0) for n, factor in layers}


def project(x: Tensor, onto: Tensor) -> Tensor:
    """Features (B, C, H, W) along unit vectors (C, D) -> (B, D, H W), in float32 or float64.

    In bfloat16 the rounding of a projection would be larger than what two similar distributions differ by.
    """
    kind = torch.promote_types(x.dtype, torch.float32)
    return onto.to(x.device, kind).T @ x.flatten(2).to(kind)


def sliced_wasserstein_loss(x: Tensor, reference: Tensor, onto: Tensor, guide: Tensor | None = None) -> Tensor:
    """Squared distance of the two distributions of feature vectors, seen along unit vectors -> scalar.

    Heitz et al. 2021: along each direction the values are sorted on both sides and compared; the mean over ranks,
    directions and the batch.

    Args:
        x: (B, C, H, W).
        reference: (B or 1, D, M), the other picture's `project`ed features, sorted.
        onto: (C, D).
        guide: (H, W), see `LossTerm.forward`.
    """
    return histogram_loss(project(x, onto)[..., None], reference, guide=None if guide is None else guide.reshape(-1, 1))


class SlicedWassersteinLoss(nn.Module):
    """Style term: `sliced_wasserstein_loss` summed over layers; the whole distribution of the feature vectors counts.

    Differs from the paper in directions that stay the same, because L-BFGS needs one and the same loss at every step,
    and that are orthogonal to each other, so that as many as there are channels leave no direction out.

    Args:
        layers: names of the style layers.
        directions: how many; null: as many as the layer has channels.
        layer_weights: one factor per layer; null: 1 each.
        seed: of the directions.
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

    def target(self, feats: Features) -> Features:
        names = [name for name in self.layers if name in feats]
        return {name: project(feats[name].detach(), self.onto(name, feats)).sort(-1).values for name in names}

    def forward(self, feats: Features, target: Features, guides: Guides | None = None) -> Tensor:
        guides = guides or {}
        return total_of(
            [
                factor * sliced_wasserstein_loss(feats[name], target[name], self.onto(name, feats), guides.get(name))
                for name, factor in used(self, target)
            ]
        )

    def onto(self, name: str, feats: Features) -> Tensor:
        """The directions (C, D) at a layer, always the same for as many channels."""
        channels = feats[name].shape[1]
        return directions(channels, self.directions or channels, self.seed)

    blend = staticmethod(HistogramLoss.blend)

    def coefficients(self, shapes: Shapes) -> dict[str, float]:
        return dict(zip(self.layers, self.factors, strict=True))
