"""What a measure is, and what stands for the things that it leaves out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from torch import Tensor, nn

from nstexp.core.errors import ArgumentError, choice
from nstexp.core.losses.terms import LossTerm
from nstexp.core.networks.encoder import IMAGE, Features

Role = Literal["content", "style", "image", "set"]


class Measure(Protocol):
    """What a Scorer asks of a measure of one picture. The loss terms of these roles are such measures as they are.

    Beyond this a measure may have the attributes of `About`.
    """

    role: Literal["content", "style", "image"]  # whose features are the target; `image`: there is none
    layers: Sequence[str]  # features that it reads; empty: the picture itself, under the name `image`

    def target(self, feats: Features) -> Any:
        """What to keep of the photo or of one painting: a tensor, or a list or dictionary of tensors."""

    def forward(self, feats: Features, target: Any) -> Tensor | float:
        """A number, of the features of the finished picture and what was kept (None for the role `image`)."""


class SetMeasure(Protocol):
    """What a SetScorer asks of a measure of a set of pictures, such as all results of one method.

    Beyond this it may have the attributes of `About`.
    """

    role: Literal["set"]

    def features(self, picture: Tensor) -> Any:
        """What to keep of one result or painting, (1, 3, H, W) in [0, 1], on whatever device."""

    def forward(self, results: Sequence[Any], styles: Sequence[Any], known: Mapping[str, float]) -> float:
        """A number, of what was kept of all results and paintings.

        Args:
            known: the measures that it `needs`: those of pictures as their mean over the results.
        """


@dataclass(frozen=True)
class About:
    """The attributes that a measure may have.

    Args:
        unit: what the number is, for the record.
        identity: the network of its own that computes it, for the record; None: the Scorer's encoder, or none.
        higher_is_better: the direction; False unless said.
        layers: features that it reads of the encoder, without the picture itself.
        min_side_px: the shortest side it can be computed for, apart from what the layers need.
        needs: of a measure of a set: the names of the measures that it is made from.
        min_pictures: of a measure of a set: the fewest results, and the fewest paintings, that it can be computed for.
    """

    unit: str = ""
    identity: str | None = None
    higher_is_better: bool = False
    layers: tuple[str, ...] = ()
    min_side_px: int = 1
    needs: tuple[str, ...] = ()
    min_pictures: int = 1


def about(measure: Measure | SetMeasure) -> About:
    """What a measure says of itself; its class's name where it says nothing of what it computes."""
    identity = getattr(measure, "identity", None)
    return About(
        unit=getattr(measure, "unit", "" if identity else type(measure).__name__),
        identity=identity,
        higher_is_better=bool(getattr(measure, "higher_is_better", False)),
        layers=tuple(layer for layer in getattr(measure, "layers", ()) if layer != IMAGE),
        min_side_px=getattr(measure, "min_side_px", 1),
        needs=tuple(getattr(measure, "needs", ())),
        min_pictures=getattr(measure, "min_pictures", 1),
    )


def check_measure(name: str, measure: Any) -> None:
    """Raise an ArgumentError for what is no measure."""
    if not hasattr(measure, "role") or not callable(getattr(measure, "forward", None)):
        raise ArgumentError(name, ": this is no measure, which has a role and computes a number (forward)")
    choice(f"{name}.role", measure.role, get_args(Role))
    first = {"content": "target", "style": "target", "set": "features"}.get(measure.role, "forward")
    if not callable(getattr(measure, first, None)):
        raise ArgumentError(name, f": a measure of the role {measure.role} has a method {first}")


class LossMeasure(nn.Module):
    """A loss term as a measure that says something else of itself.

    Args:
        term: a loss term of the role content, style or image.
        unit: what the number is, for the record; None: the term's own unit.
        higher_is_better: the direction.
    """

    def __init__(self, term: LossTerm, unit: str | None = None, higher_is_better: bool = False) -> None:
        super().__init__()
        own = about(term)
        self.term, self.role, self.layers = term, term.role, tuple(term.layers)
        self.unit = own.unit if unit is None else unit
        self.higher_is_better, self.min_side_px = higher_is_better, own.min_side_px

    def target(self, feats: Features) -> Any:
        return self.term.target(feats)

    def forward(self, feats: Features, target: Any) -> Tensor:
        return self.term(feats, target)
