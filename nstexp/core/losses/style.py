"""Loss terms: for each a function with the mathematics and a thin module with the settings.

A term never sees the encoder. It is given features (layer name -> (B, C, H, W)), among them the image itself under
the name `image`, computes from the reference picture's features what to match (`target`), and later compares
(`forward`). The scalar it returns is unweighted; `loss_set.LossSet` is the only code that multiplies by a weight.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nstexp.core.errors import UserError, check_integers, is_whole
from nstexp.core.losses.loss_set import Role, Shapes, total_of
from nstexp.core.losses.stats import gram, mean_square, moments, region_moments
from nstexp.core.losses.transport import Mode, Tie, directions, hist_match, quantiles
from nstexp.core.networks.encoder import BEFORE, IMAGE, TRUST, Features

ContentForm = Literal["mse", "half_sum", "sum"]
GramForm = Literal["gatys", "mse_hw", "mse_chw", "keras"]
TVForm = Literal["jc", "sq", "mean", "keras", "l1", "pystiche"]
Reduction = Literal["sum", "mean"]
Moments = tuple[Tensor, Tensor]
Guides = Mapping[str, Tensor]  # layer name -> (H, W), mean square 1


# ------------------------------------------------------------------------------------------------------------ content


def content_loss(x: Tensor, target: Tensor, form: ContentForm = "mse") -> Tensor:
    """Squared distance of two feature maps (B, C, H, W) -> scalar, a mean over the batch.

    half_sum is Gatys et al. 2016, Eq. 1; mse and sum are what most code calls content loss (`half_sum` is
    C*H*W/2 times `mse`).
    """
    mse = F.mse_loss(x.float() if x.dtype != torch.float64 else x, target.to(_accumulator(x)))
    return mse * {"mse": 1.0, "half_sum": 0.5, "sum": 1.0}[form] * (1 if form == "mse" else x[0].numel())


class ContentLoss(nn.Module):
    """`content_loss` summed over layers."""

    role: Role = "content"
    unit = "mean (F - P)^2"

    def __init__(self, layers: Sequence[str], form: ContentForm = "mse") -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.form = _known(form, ("mse", "half_sum", "sum"), "loss.content.form")

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
            raise UserError(f"loss.laplacian.pool_px={pool_px}: give a list of whole numbers of pixels, such as [4,16]")
        self.pool_px = tuple(pool_px)
        self.factors = _factors(self.pool_px, pool_weights, "loss.laplacian.pool_weights", "entries of pool_px")
        self.pixel_scale = pixel_scale
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


# -------------------------------------------------------------------------------------------------------------- style


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
        self.layers = tuple(layers)
        self.form = _known(form, ("gatys", "mse_hw", "mse_chw", "keras"), "loss.gram.form")
        self.factors = _layer_factors(self.layers, layer_weights, reduction, "loss.gram")

    def target(self, feats: Features) -> Features:
        return {name: gram(feats[name].detach(), "hw") for name in self.layers if name in feats}

    def forward(self, feats: Features, target: Features, guides: Guides | None = None) -> Tensor:
        image_px = feats[IMAGE].shape[-2] * feats[IMAGE].shape[-1]
        return total_of(
            [
                factor * gram_loss(_guided(feats, name, guides), target[name], self.form, image_px)
                for name, factor in _used(self, target)
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
        self.layers = tuple(layers)
        self.reduction = _known(style_reduction, ("mean", "sum"), "loss.moments.style_reduction")
        self.factors = _layer_factors(self.layers, layer_weights, "sum", "loss.moments")
        self.eps, self.unbiased = eps, unbiased

    def target(self, feats: Features) -> dict[str, Moments]:
        return {name: moments(feats[name].detach(), self.eps, self.unbiased) for name in self.layers if name in feats}

    def forward(self, feats: Features, target: Mapping[str, Moments], guides: Guides | None = None) -> Tensor:
        return total_of(
            [
                factor * moments_loss(self._moments(feats[name], name, guides), target[name], self.reduction)
                for name, factor in _used(self, target)
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
        self.layers = tuple(layers)
        self.factors = _layer_factors(self.layers, layer_weights, "sum", "loss.cov")

    def target(self, feats: Features) -> dict[str, Moments]:
        return {name: covariance(feats[name].detach()) for name in self.layers if name in feats}

    def forward(self, feats: Features, target: Mapping[str, Moments], guides: Guides | None = None) -> Tensor:
        guides = guides or {}
        return total_of(
            [
                factor * covariance_loss(covariance(feats[name], guides.get(name)), target[name])
                for name, factor in _used(self, target)
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
        self.layers = tuple(layers)
        self.factors = _layer_factors(self.layers, layer_weights, "sum", "loss.histogram")
        self.reduction = _known(reduction, ("mean", "sum"), "loss.histogram.reduction")
        check_integers("loss.histogram", 2, bins=bins)
        self.how = {
            "mode": _known(mode, get_args(Mode), "loss.histogram.mode"),
            "tie": _known(tie, get_args(Tie), "loss.histogram.tie"),
            "bins": bins,
            "seed": seed,
        }

    def target(self, feats: Features) -> Features:
        return {name: feats[name].detach().flatten(2).sort(-1).values for name in self.layers if name in feats}

    def forward(self, feats: Features, target: Features, guides: Guides | None = None) -> Tensor:
        guides = guides or {}
        return total_of(
            [
                factor * histogram_loss(feats[name], target[name], self.reduction, guides.get(name), **self.how)
                for name, factor in _used(self, target)
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
        self.layers = tuple(layers)
        self.factors = _layer_factors(self.layers, layer_weights, "sum", "loss.swd")
        if directions is not None:
            check_integers("loss.swd", 1, directions=directions)
        self.directions, self.seed = directions, seed

    def target(self, feats: Features) -> Features:
        names = [name for name in self.layers if name in feats]
        return {name: project(feats[name].detach(), self.onto(name, feats)).sort(-1).values for name in names}

    def forward(self, feats: Features, target: Features, guides: Guides | None = None) -> Tensor:
        guides = guides or {}
        return total_of(
            [
                factor * sliced_wasserstein_loss(feats[name], target[name], self.onto(name, feats), guides.get(name))
                for name, factor in _used(self, target)
            ]
        )

    def onto(self, name: str, feats: Features) -> Tensor:
        """The directions (C, D) at a layer, always the same for as many channels."""
        channels = feats[name].shape[1]
        return directions(channels, self.directions or channels, self.seed)

    blend = staticmethod(HistogramLoss.blend)

    def coefficients(self, shapes: Shapes) -> dict[str, float]:
        return dict(zip(self.layers, self.factors, strict=True))


# ----------------------------------------------------------------------------------------------------------- identity


class IdentityLoss(nn.Module):
    """What a network loses of a picture that it is given to reproduce: mean squared error of pixels and features.

    Args:
        layers: names of the feature layers.
        pixels: factor on the mean squared error of the pixels.
    """

    role: Role = "identity"

    def __init__(self, layers: Sequence[str], pixels: float = 10.0) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.pixels = pixels

    def target(self, feats: Features) -> Features:
        return {name: feats[name].detach() for name in (IMAGE, *self.layers)}

    def forward(self, feats: Features, target: Features) -> Tensor:
        of_features = [content_loss(feats[name], target[name]) for name in self.layers]
        return total_of([self.pixels * content_loss(feats[IMAGE], target[IMAGE]), *of_features])


# -------------------------------------------------------------------------------------------------------------- image


def total_variation(x: Tensor, form: TVForm = "mean") -> Tensor:
    """Roughness of an image (B, C, H, W) -> scalar, a mean over the batch. Six definitions are in use:

    * jc: half the sum of dx^2 + dy^2 without the last row and column (neural-style, in gradient form there);
    * sq: sum of dx^2 plus sum of dy^2 (AdaIN-style);
    * mean: half the mean of dx^2 plus half the mean of dy^2 (Magenta); the default, it knows no image size;
    * keras: sum of (dx^2 + dy^2)^1.25 without the last row and column (the Keras example);
    * l1: sum of |dx| plus sum of |dy| (neural-style-pt);
    * pystiche: sum of dx^2 + dy^2 without the last row and column.
    """
    dx = x[..., :, 1:] - x[..., :, :-1]
    dy = x[..., 1:, :] - x[..., :-1, :]
    if form == "mean":
        return dx.square().mean() / 2 + dy.square().mean() / 2
    if form == "sq":
        total = dx.square().sum() + dy.square().sum()
    elif form == "l1":
        total = dx.abs().sum() + dy.abs().sum()
    else:
        squares = dx[..., :-1, :].square() + dy[..., :, :-1].square()
        total = squares.pow(1.25).sum() if form == "keras" else squares.sum() * (0.5 if form == "jc" else 1)
    return total / x.shape[0]


class TotalVariation(nn.Module):
    """`total_variation` of the image.

    Args:
        form: see `total_variation`.
        pixel_scale: 1 takes pixels in [0, 1]; 255 is the scale of the codes that work on 0-255 images.
    """

    role: Role = "image"
    layers: Sequence[str] = ()

    def __init__(self, form: TVForm = "mean", pixel_scale: float = 1.0) -> None:
        super().__init__()
        self.form = _known(form, ("jc", "sq", "mean", "keras", "l1", "pystiche"), "loss.tv.form")
        self.pixel_scale = pixel_scale
        self.unit = f"total variation ({form}) of 0-{pixel_scale:g} pixels"

    def target(self, feats: Features) -> None:
        return None

    def forward(self, feats: Features, target: None) -> Tensor:
        return total_variation(feats[IMAGE] * self.pixel_scale, self.form)


def out_of_range(x: Tensor) -> Tensor:
    """Mean squared distance of pixels (B, 3, H, W) to the interval [0, 1] -> scalar."""
    return (x - x.detach().clamp(0, 1)).square().mean()


class OutOfRange(nn.Module):
    """`out_of_range` of the image: a picture is clipped when it is saved, and what clipping takes away was optimized
    for nothing. A small weight makes the saved picture as good as the one in memory.

    Args:
        pixel_scale: 1 takes pixels in [0, 1]; 255 measures the distance in gray levels.
    """

    role: Role = "image"
    layers: Sequence[str] = ()

    def __init__(self, pixel_scale: float = 1.0) -> None:
        super().__init__()
        self.pixel_scale = pixel_scale
        self.unit = f"mean squared distance of 0-{pixel_scale:g} pixels to their range"

    def target(self, feats: Features) -> None:
        return None

    def forward(self, feats: Features, target: None) -> Tensor:
        return out_of_range(feats[IMAGE]) * self.pixel_scale**2


def temporal_loss(x: Tensor, before: Tensor, trust: Tensor) -> Tensor:
    """(1 / D) sum of c (x - w)^2 over the D values of x (Ruder et al. 2016, Eq. 7) -> scalar.

    Args:
        x: the frame that is being made, (B, 3, H, W).
        before: w, the stylized frame before, warped to this one; likewise.
        trust: c, (B, 1, H, W) in [0, 1], where w belongs to this frame.
    """
    return (trust * (x - before).square()).mean()


class TemporalLoss(nn.Module):
    """`temporal_loss` of a frame of a clip; 0 for a picture, and for a frame that begins a scene.

    Args:
        pixel_scale: 1 takes pixels in [0, 1]; 255 is the scale of the paper's code.
    """

    role: Role = "before"
    layers: Sequence[str] = ()

    def __init__(self, pixel_scale: float = 1.0) -> None:
        super().__init__()
        self.pixel_scale = pixel_scale
        self.unit = f"mean squared difference of 0-{pixel_scale:g} pixels to the frame before"

    def target(self, feats: Features) -> tuple[Tensor, Tensor]:
        return feats[BEFORE], feats[TRUST]

    def forward(self, feats: Features, target: tuple[Tensor, Tensor] | None) -> Tensor:
        if target is None:
            return feats[IMAGE].new_zeros(())
        return temporal_loss(feats[IMAGE], *target) * self.pixel_scale**2


# ---------------------------------------------------------------------------------------------------------- diversity


def julesz(pictures: Tensor, squared: bool = False, eps: float = 1e-6, per_dim: bool = False) -> Tensor:
    """How alike several pictures of one kind are -> scalar; less is more diverse.

    Ulyanov et al. 2017, section 3: the negative entropy of what a generator makes of noise, by the estimate of
    Kozachenko and Leonenko, -(D / N) sum_i ln(distance of picture i to its nearest neighbor). Twice the distances are
    D ln 2 less.

    Args:
        pictures: (N, D), or (groups, N, D): each compared with its own group only, and the mean over the groups.
        squared: of the distances, as the authors' code.
        eps: shortest distance, so that equal pictures have a finite value and gradient.
        per_dim: without the factor D, so that the value does not depend on the pictures' size.

    Raises:
        UserError: one picture, which has no neighbor.
    """
    count, dim = pictures.shape[-2:]
    if count < 2:
        raise UserError("the diversity term compares pictures: it needs 2 or more of a kind")
    kind = torch.promote_types(pictures.dtype, torch.float32)
    x = pictures.to(kind)
    # Not by matrix products, in which distances of pictures much alike would be lost to rounding.
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    own = torch.eye(count, dtype=torch.bool, device=x.device)
    nearest = distance.masked_fill(own, math.inf).min(-1).values.clamp(min=eps)
    log_distance = nearest.log() * (2 if squared else 1)
    return -log_distance.mean() * (1 if per_dim else dim)


# ------------------------------------------------------------------------------------------------------------ helpers


def _accumulator(x: Tensor) -> torch.dtype:
    return x.dtype if x.dtype == torch.float64 else torch.float32


def _known(value: str, known: Sequence[str], key: str) -> str:
    if value not in known:
        raise UserError(f"{key}={value} is unknown, choose one of {', '.join(known)}")
    return value


def _layer_factors(
    layers: Sequence[str], layer_weights: Sequence[float] | None, reduction: str, key: str
) -> tuple[float, ...]:
    _known(reduction, ("sum", "mean"), f"{key}.reduction")
    factors = _factors(layers, layer_weights, f"{key}.layer_weights", f"layers {list(layers)}")
    return tuple(f / len(layers) for f in factors) if reduction == "mean" else factors


def _factors(of: Sequence[Any], given: Sequence[float] | None, key: str, what: str) -> tuple[float, ...]:
    factors = [1.0] * len(of) if given is None else [float(w) for w in given]
    if len(factors) != len(of):
        raise UserError(f"{key} has {len(factors)} numbers for the {len(of)} {what}")
    if any(not math.isfinite(f) or f < 0 for f in factors):
        raise UserError(f"{key}={factors}: each is a finite number, 0 or larger")
    return tuple(factors)


def _used(term: nn.Module, target: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The term's layers that the target has a statistic of, and their factors."""
    return [(name, factor) for name, factor in zip(term.layers, term.factors, strict=True) if name in target]


def _guided(feats: Features, name: str, guides: Guides | None) -> Tensor:
    return feats[name] if guides is None else feats[name] * guides[name].to(feats[name])
