"""Loss terms: a function with the mathematics, a thin module with the settings, and the LossSet that weighs them.

A term never sees the encoder. It is given features (layer name -> (B, C, H, W)), among them the image itself under
the name `image`, computes from the reference picture's features what to match (`target`), and later compares
(`forward`). The scalar it returns is unweighted; LossSet is the only code that multiplies by a weight.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nstexp.core.errors import UserError
from nstexp.core.features import IMAGE, Features
from nstexp.core.stats import gram, moments

ContentForm = Literal["mse", "half_sum", "sum"]
GramForm = Literal["gatys", "mse_hw", "mse_chw", "keras"]
TVForm = Literal["jc", "sq", "mean", "keras", "l1", "pystiche"]
Role = Literal["content", "style", "image", "identity"]
ROLE_WEIGHTS = {"content": "alpha", "style": "beta"}


class LossTerm(Protocol):
    """What LossSet asks of a term (an nn.Module in practice)."""

    layers: Sequence[str]  # features it reads; empty when it needs the image only
    # Whose features are the target; also which of alpha and beta is its weight. `identity`: the picture itself, for
    # what a network makes of a picture that it should reproduce.
    role: Role

    def target(self, feats: Features) -> Any: ...

    def forward(self, feats: Features, target: Any) -> Tensor: ...


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

    def __init__(self, layers: Sequence[str], form: ContentForm = "mse") -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.form = _known(form, ("mse", "half_sum", "sum"), "loss.content.form")

    def target(self, feats: Features) -> Features:
        return {name: feats[name].detach() for name in self.layers}

    def forward(self, feats: Features, target: Features) -> Tensor:
        return _total([content_loss(feats[name], target[name], self.form) for name in self.layers])


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

    def __init__(
        self,
        layers: Sequence[str],
        form: GramForm = "mse_chw",
        layer_weights: Sequence[float] | None = None,
        reduction: Literal["sum", "mean"] = "sum",
    ) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.form = _known(form, ("gatys", "mse_hw", "mse_chw", "keras"), "loss.gram.form")
        self.factors = _layer_factors(self.layers, layer_weights, reduction, "loss.gram")

    def target(self, feats: Features) -> Features:
        return {name: gram(feats[name].detach(), "hw") for name in self.layers}

    def forward(self, feats: Features, target: Features) -> Tensor:
        image_px = feats[IMAGE].shape[-2] * feats[IMAGE].shape[-1]
        return _total([
            factor * gram_loss(feats[name], target[name], self.form, image_px)
            for name, factor in zip(self.layers, self.factors, strict=True)
        ])


def moments_loss(
    x: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor], reduction: Literal["mean", "sum"] = "mean"
) -> Tensor:
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

    def __init__(
        self,
        layers: Sequence[str],
        style_reduction: Literal["mean", "sum"] = "mean",
        layer_weights: Sequence[float] | None = None,
        eps: float = 1e-5,
        unbiased: bool = False,
    ) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.reduction = _known(style_reduction, ("mean", "sum"), "loss.moments.style_reduction")
        self.factors = _layer_factors(self.layers, layer_weights, "sum", "loss.moments")
        self.eps, self.unbiased = eps, unbiased

    def target(self, feats: Features) -> dict[str, tuple[Tensor, Tensor]]:
        return {name: moments(feats[name].detach(), self.eps, self.unbiased) for name in self.layers}

    def forward(self, feats: Features, target: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
        return _total([
            factor * moments_loss(moments(feats[name], self.eps, self.unbiased), target[name], self.reduction)
            for name, factor in zip(self.layers, self.factors, strict=True)
        ])


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
        return _total([self.pixels * content_loss(feats[IMAGE], target[IMAGE]), *of_features])


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

    def target(self, feats: Features) -> None:
        return None

    def forward(self, feats: Features, target: None) -> Tensor:
        return out_of_range(feats[IMAGE]) * self.pixel_scale**2


# ---------------------------------------------------------------------------------------------------------- the whole


@dataclass
class LossValues:
    """One evaluation: the weighted `total` that is optimized and every term, unweighted, by name (scalars)."""

    total: Tensor
    terms: dict[str, Tensor]

    def __add__(self, other: "LossValues") -> "LossValues":
        return LossValues(self.total + other.total, self.terms | other.terms)

    def detached(self) -> "LossValues":
        """The same values without their graphs."""
        return LossValues(self.total.detach(), {name: value.detach() for name, value in self.terms.items()})

    def numbers(self) -> dict[str, float]:
        """`total` and every term as floats, fetched from the device at once."""
        named = {"total": self.total, **self.terms}
        return dict(zip(named, torch.stack([value.detach().float() for value in named.values()]).tolist(), strict=True))


class LossSet(nn.Module):
    """Named terms and the numbers that multiply them.

    A term's weight is the key of its own name if there is one, else `alpha` for a content term and `beta` for a
    style term. Weight 0 means: compute and log, do not optimize.

    Args:
        terms: name -> loss term.
        weights: key -> number.

    Raises:
        UserError: a term without a weight, a weight that no term uses, or one that is negative or not finite.
    """

    def __init__(self, terms: Mapping[str, nn.Module], weights: Mapping[str, float]) -> None:
        super().__init__()
        if not terms:
            raise UserError("loss is empty: name at least one term, such as 'loss=[content,gram]'")
        self.terms = nn.ModuleDict(dict(terms))
        self.weights = {name: self._weight_of(name, term.role, weights) for name, term in terms.items()}
        if not any(self.weights[name] for name, term in terms.items() if term.role != "image"):
            raise UserError(
                "no content or style term has a weight above 0, so there is nothing to optimize: set weights.alpha "
                "or weights.beta"
            )
        unused = set(weights) - set(terms) - set(ROLE_WEIGHTS.values())
        if unused:
            raise UserError(
                f"weights.{sorted(unused)[0]} multiplies nothing: the terms are {', '.join(terms)}; correct the key "
                "or add the term to loss=[...]"
            )

    @staticmethod
    def _weight_of(name: str, role: Role, weights: Mapping[str, float]) -> float:
        key = name if name in weights else ROLE_WEIGHTS.get(role, name)
        if key not in weights:
            raise UserError(f"the loss term '{name}' has no weight: set weights.{key}")
        value = weights[key]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"weights.{key}={value} is not a number")
        if not math.isfinite(value) or value < 0:
            raise UserError(f"weights.{key}={value}: a weight is a finite number, 0 or larger")
        return float(value)

    def layers(self, *roles: Role) -> tuple[str, ...]:
        """Every layer that terms of these roles (none given: of all roles) read, each once; without the image."""
        wanted = [name for t in self.terms.values() if not roles or t.role in roles for name in t.layers]
        return tuple(name for name in dict.fromkeys(wanted) if name != IMAGE)

    def has(self, role: Role) -> bool:
        """Whether any term is of this role."""
        return any(term.role == role for term in self.terms.values())

    def targets(self, role: Role, feats: Features) -> dict[str, Any]:
        """What the terms of one role have to match, from the features of their picture."""
        with torch.no_grad():
            return {name: term.target(feats) for name, term in self.terms.items() if term.role == role}

    def forward(
        self, feats: Features, targets: Mapping[str, Sequence[tuple[float, Any]]], roles: Sequence[Role] = ()
    ) -> LossValues:
        """Evaluate every term, or those of some roles.

        Args:
            feats: features of the picture that is being made, and the picture itself under `image`.
            targets: term name -> pairs of (share, target); a term's value is the sum of share times loss. Image terms
                need none.
            roles: which terms; none given: all.
        """
        values = {}
        chosen = {name: term for name, term in self.terms.items() if not roles or term.role in roles}
        for name, term in chosen.items():
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.weights[name] > 0):
                pairs = targets.get(name) or [(1.0, None)]
                values[name] = _total([share * term(feats, target) for share, target in pairs])
        total = _total([self.weights[name] * value for name, value in values.items() if self.weights[name] > 0])
        total = total.to(feats[IMAGE].device)
        return LossValues(total, values)


def _accumulator(x: Tensor) -> torch.dtype:
    return x.dtype if x.dtype == torch.float64 else torch.float32


def _total(values: Sequence[Tensor]) -> Tensor:
    return torch.stack([torch.as_tensor(v) for v in values]).sum() if values else torch.zeros(())


def _known(value: str, known: Sequence[str], key: str) -> str:
    if value not in known:
        raise UserError(f"{key}={value} is unknown, choose one of {', '.join(known)}")
    return value


def _layer_factors(
    layers: Sequence[str], layer_weights: Sequence[float] | None, reduction: str, key: str
) -> tuple[float, ...]:
    _known(reduction, ("sum", "mean"), f"{key}.reduction")
    factors = [1.0] * len(layers) if layer_weights is None else [float(w) for w in layer_weights]
    if len(factors) != len(layers):
        raise UserError(f"{key}.layer_weights has {len(factors)} numbers for the {len(layers)} layers {list(layers)}")
    if any(not math.isfinite(f) or f < 0 for f in factors):
        raise UserError(f"{key}.layer_weights={factors}: each is a finite number, 0 or larger")
    return tuple(f / len(layers) for f in factors) if reduction == "mean" else tuple(factors)
