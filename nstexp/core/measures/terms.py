"""The interfaces of measures, and the defaults of their optional attributes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast, get_args

from torch import Tensor, nn

from nstexp.core.errors import ArgumentError, choice
from nstexp.core.losses.terms import LossTerm
from nstexp.core.networks.encoder import IMAGE, Features

Role = Literal["content", "style", "image", "set"]
PictureRole = Literal["content", "style", "image"]
SetRole = Literal["set"]


class Measure(Protocol):
    """The interface that a Scorer needs from a measure of one picture; loss terms of these roles have it, too.

    A measure may also have the attributes of `About`.
    """

    @property
    def role(self) -> PictureRole:
        """The reference picture: the photo, a painting, or none for the role `image`."""

    @property
    def layers(self) -> Sequence[str]:
        """The feature layers that the measure reads; the picture itself is always there, under the name `image`."""

    def target(self, feats: Features) -> Any:
        """The statistic of a photo or painting: a tensor, or a list or dictionary of tensors."""

    def forward(self, feats: Features, target: Any) -> Tensor | float:
        """The value, from the features of the finished picture and the target (None for the role `image`)."""


class SetMeasure(Protocol):
    """The interface that a SetScorer needs from a measure of a set of pictures, such as all results of a method.

    A measure may also have the attributes of `About`, and a method `resampled`, from which intervals are computed (see
    `FID.resampled`).
    """

    @property
    def role(self) -> SetRole:
        """Always `set`."""

    def features(self, picture: Tensor) -> Any:
        """Features of one result or painting, (1, 3, H, W) in [0, 1], on any device."""

    def forward(self, results: Sequence[Any], styles: Sequence[Any], known: Mapping[str, float]) -> float:
        """The value, from the features of all results and of all paintings.

        Args:
            known: values of the measures that this one `needs`; for measures of pictures, the mean over the results.
        """


@dataclass(frozen=True)
class About:
    """The optional attributes of a measure.

    Args:
        unit: description of the value, for the record.
        identity: name of the network if the measure has one, for the record; None: it uses the Scorer's encoder or no
            network.
        higher_is_better: the direction.
        layers: the encoder's layers that the measure reads, without the picture itself.
        min_side_px: the shortest image side for which the measure can be computed; the layers have a limit besides.
        needs: names of the measures from which a set measure is computed.
        min_pictures: the number of results, and of paintings, that a set measure requires.
    """

    unit: str = ""
    identity: str | None = None
    higher_is_better: bool = False
    layers: tuple[str, ...] = ()
    min_side_px: int = 1
    needs: tuple[str, ...] = ()
    min_pictures: int = 1


def about(measure: Measure | SetMeasure | LossTerm) -> About:
    """The optional attributes of a measure, with defaults; a measure without unit and identity gets its class name as
    unit."""
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
    """Check that an object has the interface of a measure.

    Raises:
        ArgumentError: it has not.
    """
    if not hasattr(measure, "role") or not callable(getattr(measure, "forward", None)):
        raise ArgumentError(name, ": this is not a measure; a measure has a role and a method forward")
    choice(f"{name}.role", measure.role, get_args(Role))
    method = {"content": "target", "style": "target", "set": "features"}.get(measure.role, "forward")
    if not callable(getattr(measure, method, None)):
        raise ArgumentError(name, f": a measure of the role {measure.role} needs a method {method}")


class LossMeasure(nn.Module):
    """A loss term as a measure, with another description.

    Args:
        term: a loss term of the role content, style or image.
        unit: description of the value, for the record; None: the unit of the term.
        higher_is_better: the direction.
    """

    def __init__(self, term: LossTerm, unit: str | None = None, higher_is_better: bool = False) -> None:
        super().__init__()
        facts = about(term)
        self.term, self.layers = term, tuple(term.layers)
        self.role = cast(PictureRole, term.role)
        self.unit = facts.unit if unit is None else unit
        self.higher_is_better, self.min_side_px = higher_is_better, facts.min_side_px

    def target(self, feats: Features) -> Any:
        return self.term.target(feats)

    def forward(self, feats: Features, target: Any) -> Tensor:
        return self.term.forward(feats, target)
