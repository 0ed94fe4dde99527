"""What tasks ask of a method: `Stylizer`, the one interface between them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from nstexp.core.loss_set import Combine


@dataclass(frozen=True)
class Style:
    """One style picture (3, H, W), RGB in [0, 1], and its share among several.

    Args:
        mask: (H, W) in [0, 1], of the content's size: where this style applies. Either every style of a picture has
            one, and they sum to 1 at each pixel, or none has.
        layers: the style layers at which this style counts; None: all. For methods that optimize a picture.
        fine: a picture (3, H, W) whose small strokes this style gets before it is used; likewise.
    """

    image: Tensor
    share: float = 1.0
    mask: Tensor | None = None
    layers: tuple[str, ...] | None = None
    fine: Tensor | None = None


@dataclass(frozen=True)
class Controls:
    """What the user may steer in every method.

    Args:
        name: the content picture's name, for logs and files.
        log_prefix: of the picture's numbers in the loggers, where a run makes several.
        seed: of everything random in making this picture.
        combine: how several styles become one loss, where a method has the choice: see `LossSet.combined`.
        recorded: whether the picture's losses and stages go to the run folder and the loggers.
        watch: called with (step, picture (B, 3, H, W)) after every step by methods that make a picture step by step.
    """

    name: str = "output"
    log_prefix: str = ""
    seed: int = 0
    combine: Combine = "weighted_loss"
    recorded: bool = True
    watch: Callable[[int, Tensor], None] | None = None


class Stylizer(Protocol):
    """Every method. `content` is (B, 3, H, W), RGB in [0, 1]; the result has the same shape and range."""

    def stylize(self, content: Tensor, styles: Sequence[Style], controls: Controls) -> Tensor: ...
