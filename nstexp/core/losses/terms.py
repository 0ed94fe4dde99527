"""What a loss term is, and what several of them share."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from nstexp.core.errors import ArgumentError, choice, is_number
from nstexp.core.networks.encoder import Features

Role = Literal["content", "style", "image", "before", "identity"]
Reduction = Literal["sum", "mean"]
Shapes = Mapping[str, tuple[int, int, int]]  # layer name -> channels, height, width
Guides = Mapping[str, Tensor]  # layer name -> (H, W), mean square 1


class LossTerm(Protocol):
    """What LossSet asks of a term (an nn.Module in practice).

    Beyond this a term may have
        blend(parts, strength): the statistic of one layer that several (share, statistic) amount to, of shares that sum
            to 1, for features `strength` times as strong; for style_combine;
        coefficients(shapes) and unit: layer -> what the term multiplies a quantity by that other codes share, and what
            that quantity is, so that weights compare;
        as_published(shapes): another unit, and layer -> how many of it make the first;
        min_side_px: the smallest picture it can be computed for.
    """

    layers: Sequence[str]  # features it reads; empty when it needs the image only
    # Whose features are the target; also which of alpha and beta is its weight. `before`: the result for the frame
    # before, of a clip. `identity`: the picture itself, for what a network makes of a picture that it should reproduce.
    role: Role

    def target(self, feats: Features) -> Any:
        """What to match. Of a style term: layer name -> statistic, of those of its layers that `feats` has; `forward`
        uses the layers that it finds there."""

    def forward(self, feats: Features, target: Any) -> Tensor:
        """The unweighted loss, a scalar. A style term with a third argument, `guides`, works by regions: layer name ->
        (H, W), the factor that features have at each position, whose mean square is 1 (Gatys et al. 2017, Eq. 5)."""


LARGEST_SCALE = 65_535  # of pixels: 16 bits


def total_of(values: Sequence[Tensor]) -> Tensor:
    """Sum of scalars; 0 of none."""
    return torch.stack([torch.as_tensor(v) for v in values]).sum() if values else torch.zeros(())


def accumulator(x: Tensor) -> torch.dtype:
    """In which sums over features are taken."""
    return x.dtype if x.dtype == torch.float64 else torch.float32


def layer_factors(
    layers: Sequence[str], layer_weights: Sequence[float] | None, reduction: Reduction = "sum"
) -> tuple[float, ...]:
    """What each layer's loss is multiplied by, of arguments with these names.

    Raises:
        ArgumentError: not one number per layer, one that is negative or not finite, or an unknown reduction.
    """
    choice("reduction", reduction, get_args(Reduction))
    factors = factors_of("layer_weights", layer_weights, layers, f"layers {list(layers)}")
    return tuple(f / len(layers) for f in factors) if reduction == "mean" else factors


def factors_of(argument: str, given: Sequence[float] | None, of: Sequence[Any], what: str) -> tuple[float, ...]:
    """One factor for each entry of `of`, which are `what`; None: 1 each.

    Raises:
        ArgumentError: not one number for each, or one that is negative or not finite.
    """
    if given is None:
        return (1.0,) * len(of)
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ArgumentError(argument, f"={given}: give a list with one number for each of the {len(of)} {what}")
    if len(given) != len(of):
        raise ArgumentError(argument, f" has {len(given)} numbers for the {len(of)} {what}")
    if not all(is_number(factor) and factor >= 0 for factor in given):
        raise ArgumentError(argument, f"={list(given)}: each is a finite number, 0 or larger")
    return tuple(map(float, given))


def used(term: nn.Module, target: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The term's layers that the target has a statistic of, and their factors."""
    return [(name, factor) for name, factor in zip(term.layers, term.factors, strict=True) if name in target]


def guided(feats: Features, name: str, guides: Guides | None) -> Tensor:
    """Features at a layer, times the guide there."""
    return feats[name] if guides is None else feats[name] * guides[name].to(feats[name])
