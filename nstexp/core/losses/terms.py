"""The interface of a loss term, and functions that several terms share."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, cast, get_args

import torch
from torch import Tensor

from nstexp.core.errors import ArgumentError, choice, is_number
from nstexp.core.networks.encoder import Features

Role = Literal["content", "style", "image", "before", "identity"]
Reduction = Literal["sum", "mean"]
Shapes = Mapping[str, tuple[int, int, int]]  # layer name -> channels, height, width
Guides = Mapping[str, Tensor]  # layer name -> (H, W), mean square 1


class LossTerm(Protocol):
    """The interface that LossSet needs from a term (an nn.Module in practice).

    A term may also have
        blend(parts, strength): combine the statistics of one layer from several styles, for style_combine. `parts` are
            pairs (share, statistic) whose shares sum to 1; the result is the statistic of features `strength` times
            as large;
        unit, and coefficients(shapes) -> {layer: factor}: `unit` names a quantity that other implementations use, too,
            and the factors express the term in it, so that weights of different implementations can be compared;
        as_published(shapes) -> (unit, {layer: factor}): a second unit, and its amount in one `unit` at each layer;
        min_side_px: the shortest image side for which the term can be computed;
        sums, of_sums and distance, see `SummedStyleTerm` and `SummedContentTerm`: then the term works on large
            pictures, whose features are computed tile by tile.
    """

    @property
    def layers(self) -> Sequence[str]:
        """The feature layers that the term reads; empty if it needs only the image."""

    @property
    def role(self) -> Role:
        """The picture whose features are the target; it also decides whether alpha or beta is the term's weight.

        before: the result for the previous frame of a clip. identity: the input of a network that should return it
        unchanged.
        """

    def target(self, feats: Features) -> Any:
        """The statistic to match, from the features of a reference picture.

        For style terms: layer name -> statistic, for the term's layers that are in `feats`. `forward` then compares
        these layers only. A style term whose `target` has a second argument, `guides`, can take the statistic from a
        part of the reference picture; the guides are those of `forward`.
        """

    def forward(self, feats: Features, target: Any) -> Tensor:
        """The unweighted loss, a scalar.

        A style term whose `forward` has a third argument, `guides`, can be restricted to regions: layer name -> (H, W),
        factors on the features at each position, with mean square 1 (Gatys et al. 2017, Eq. 5).
        """


class SummedStyleTerm(Protocol):
    """The members of a style term whose statistics are sums over positions, so that tiles of a picture suffice.

    `sums(x, guide)`: sums over the positions of features (1, C, H, W), or of a part of them; those of all parts add up
    to those of the whole. `guide` (H, W) is that of `LossTerm.forward`, for the same part.
    `of_sums(sums, positions)`: the statistic of the layer, as `target` returns it, from the sums over all positions.
    `distance(statistic, target, size, image_px)`: the layer's loss, without the layer's factor; (height, width) of the
    layer and the number of pixels of the picture are given.
    """

    @property
    def layers(self) -> Sequence[str]: ...

    @property
    def factors(self) -> Sequence[float]: ...

    def sums(self, x: Tensor, guide: Tensor | None = None) -> tuple[Tensor, ...]: ...

    def of_sums(self, sums: tuple[Tensor, ...], positions: int) -> Any: ...

    def distance(self, found: Any, target: Any, size: tuple[int, int], image_px: int) -> Tensor: ...


class SummedContentTerm(Protocol):
    """The members of a content term that compares features position by position; its target is layer -> features.

    `sums(x, reference)`: sums over the positions of features (1, C, H, W), or of a part of them, given the same part of
    the target. `distance(sums, shape)`: the layer's loss from the sums over all positions, for a layer of (C, H, W).
    """

    @property
    def layers(self) -> Sequence[str]: ...

    def sums(self, x: Tensor, reference: Tensor) -> tuple[Tensor, ...]: ...

    def distance(self, sums: tuple[Tensor, ...], shape: tuple[int, int, int]) -> Tensor: ...


def works_in_tiles(term: Any) -> bool:
    """Whether a term can be computed from tiles of a picture: it reads pixels only, or it has `sums`."""
    return not any(term.layers) or hasattr(term, "sums")


class _WeighedTerm(Protocol):
    """A term with one factor per layer."""

    @property
    def layers(self) -> Sequence[str]: ...

    @property
    def factors(self) -> Sequence[float]: ...


LARGEST_SCALE = 65_535  # the largest pixel_scale: pixels of 16 bits


def total_of(values: Sequence[Tensor]) -> Tensor:
    """Sum of scalars; 0 for an empty sequence.

    Examples:
        >>> total_of([torch.tensor(1.0), torch.tensor(2.5)]).item(), total_of([]).item()
        (3.5, 0.0)
    """
    return torch.stack([torch.as_tensor(v) for v in values]).sum() if values else torch.zeros(())


def weighted_sum(parts: Iterable[tuple[float, Tensor]]) -> Tensor:
    """Sum of share times statistic over pairs (share, statistic), at least one.

    Examples:
        >>> weighted_sum([(0.25, torch.tensor([4.0])), (0.75, torch.tensor([8.0]))]).tolist()
        [7.0]
    """
    return cast(Tensor, sum(share * statistic for share, statistic in parts))


def accumulator(x: Tensor) -> torch.dtype:
    """The dtype in which sums over features are taken: float64 for float64 features, else float32.

    Examples:
        >>> accumulator(torch.zeros(1, dtype=torch.bfloat16))
        torch.float32
    """
    return x.dtype if x.dtype == torch.float64 else torch.float32


def layer_factors(
    layers: Sequence[str], layer_weights: Sequence[float] | None, reduction: Reduction = "sum"
) -> tuple[float, ...]:
    """Factors on the losses of the layers, from constructor arguments of these names.

    Args:
        layer_weights: one number per layer, finite, 0 or larger; None: 1 for every layer.
        reduction: `mean` divides the factors by the number of layers.

    Raises:
        ArgumentError: invalid layer_weights, or an unknown reduction.

    Examples:
        >>> layer_factors(["relu1_1", "relu2_1"], None, "mean")
        (0.5, 0.5)
    """
    choice("reduction", reduction, get_args(Reduction))
    factors = factors_of("layer_weights", layer_weights, layers, f"layers {list(layers)}")
    return tuple(f / len(layers) for f in factors) if reduction == "mean" else factors


def factors_of(
    argument: str, factors: Sequence[float] | None, entries: Sequence[Any], description: str
) -> tuple[float, ...]:
    """Check a list of one factor per entry of another list.

    Args:
        argument: name of the argument, for the error message.
        factors: the list to check; None: 1 for every entry.
        entries: the other list.
        description: what the entries are, for the error message.

    Raises:
        ArgumentError: another number of factors than entries, or a factor that is negative or not finite.

    Examples:
        >>> factors_of("layer_weights", [1, 2], ["relu1_1", "relu2_1"], "layers")
        (1.0, 2.0)
    """
    if factors is None:
        return (1.0,) * len(entries)
    if isinstance(factors, str) or not isinstance(factors, Sequence):
        problem = f"={factors}: give a list with one number for each of the {len(entries)} {description}"
        raise ArgumentError(argument, problem)
    if len(factors) != len(entries):
        raise ArgumentError(argument, f" has {len(factors)} numbers for the {len(entries)} {description}")
    if not all(is_number(factor) and factor >= 0 for factor in factors):
        raise ArgumentError(argument, f"={list(factors)}: give finite numbers, 0 or larger")
    return tuple(map(float, factors))


def used(term: _WeighedTerm, target: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The term's layers for which the target has a statistic, with their factors."""
    return [(name, factor) for name, factor in zip(term.layers, term.factors, strict=True) if name in target]


def guided(feats: Features, name: str, guides: Guides | None) -> Tensor:
    """The features of a layer, multiplied by the layer's guide if there are guides."""
    return feats[name] if guides is None else feats[name] * guides[name].to(feats[name])
