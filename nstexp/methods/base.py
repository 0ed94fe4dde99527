"""What tasks ask of a method: `Stylizer`, the one interface between them, and `Export` of those that are networks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from nstexp.core.names import Combine

SMALLER_RESULT = "set image_px={px} or less"  # advice where a picture does not fit the memory


@dataclass(frozen=True)
class Style:
    """One style picture (3, H, W), RGB in [0, 1], and its share among several.

    Args:
        image: None, if a method knows the style by its name and the picture is not at hand.
        mask: (H, W) in [0, 1], of the content's size: where this style applies. Either every style of a picture has
            one, and they sum to 1 at each pixel, or none has.
        layers: the style layers at which this style counts; None: all. For methods that optimize a picture.
        fine: a picture (3, H, W) whose small strokes this style gets before it is used; likewise.
        name: of the file, or of a style that the method has learned.
    """

    image: Tensor | None
    share: float = 1.0
    mask: Tensor | None = None
    layers: tuple[str, ...] | None = None
    fine: Tensor | None = None
    name: str = ""


@dataclass(frozen=True)
class LearnedStyle:
    """A style that a network has learned.

    Args:
        source: its picture, as it was given to the training; '': unknown.
        digest: of that file, see `files.file_digest`; '': unknown.
    """

    source: str = ""
    digest: str = ""


@dataclass
class Clip:
    """What holds from one frame of a clip to the next. The task fills it in; methods read it and keep things in it.

    Args:
        steadiness: 0: every frame by itself; towards 1: less changes from frame to frame than in the clip.
        warped: (1, 3, H, W), the method's result for the frame before, moved to where this frame has it; None for a
            frame that begins a scene.
        trust: (1, 1, H, W) in [0, 1], where `warped` belongs to this frame.
    """

    steadiness: float = 0.0
    warped: Tensor | None = None
    trust: Tensor | None = None
    _kept: dict[str, Tensor] = field(default_factory=dict)

    def begin_scene(self) -> None:
        """Forget the frames until now."""
        self.warped = self.trust = None
        self._kept.clear()

    def state(self) -> dict[str, Tensor]:
        """What is kept of the frames until now; nothing changes these tensors later."""
        return dict(self._kept)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on behind the frames that `state` was kept of."""
        self._kept = dict(state)

    def smoothed(self, name: str, numbers: Tensor) -> Tensor:
        """Statistics of frames, (B, ...), averaged over time with weights steadiness^age; kept under a name."""
        averaged = []
        for own in numbers:
            before = self._kept.get(name, own).to(own.device)
            self._kept[name] = torch.lerp(own, before, self.steadiness)  # of equal ones the very same
            averaged.append(self._kept[name])
        return torch.stack(averaged)


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
        clip: if the pictures are frames of a clip, given in their order, what holds from one to the next.
    """

    name: str = "output"
    log_prefix: str = ""
    seed: int = 0
    combine: Combine = "weighted_loss"
    recorded: bool = True
    watch: Callable[[int, Tensor], None] | None = None
    clip: Clip | None = None


class Stylizer(Protocol):
    """Every method. `content` is (B, 3, H, W), RGB in [0, 1]; the result has the same shape and range.

    A class that inherits from this one has the defaults below, and says what it does otherwise. Tasks go by these
    attributes alone.

    Attributes:
        accepts: what the user may ask for beyond pictures and shares: `layers` (Style.layers), `fine` (Style.fine),
            `combine` (Controls.combine), `masks` (Style.mask). A task refuses the rest before the work starts.
        reasons: of what is not accepted, words for that refusal.
        optimizes: whether it optimizes each picture, one at a time, and makes use of `Clip.warped` by itself. What
            others make of the frames of a clip is steadied afterwards.
        styles: of a method that has learned its styles, name -> `LearnedStyle`; `Style.name` is then one of these
            names. None: it takes any picture.
    """

    accepts: frozenset[str] = frozenset()
    reasons: Mapping[str, str] = MappingProxyType({})
    optimizes: bool = False

    @property
    def styles(self) -> Mapping[str, LearnedStyle] | None:
        return None

    def stylize(self, content: Tensor, styles: Sequence[Style], controls: Controls) -> Tensor: ...


def learned_styles(method: Stylizer) -> Mapping[str, LearnedStyle] | None:
    """`Stylizer.styles`, also of a class that does not inherit from it."""
    return getattr(method, "styles", None)


@runtime_checkable
class Trainable(Protocol):
    """A method that is trained: it has Lightning's module (`training.Training`), and says how."""

    recipe: Any  # `settings.Recipe`

    def trainer(self, **settings: Any) -> Any: ...

    def training_module(self, sources: Any) -> Any: ...


@runtime_checkable
class Exportable(Protocol):
    """A method that can be one network."""

    def exportable(self) -> "Export": ...


@dataclass(frozen=True)
class Export:
    """A method as one network, for task=export. What a method's `exportable()` returns.

    Args:
        module: in evaluation mode. Called with the inputs by their names, it returns RGB (B, 3, H, W) in [0, 1].
        inputs: name -> an example; `content` is RGB (B, 3, H, W) in [0, 1]. No axis that is in `axes` has length 1
            there, which would be taken for a constant.
        axes: name of an input -> axis -> what the axis is called. These can have any length; H and W, and all others
            from the third on, `smallest_side` or more.
        smallest_side: of pictures, in pixels.
        checks: more inputs, of other sizes, to compare the exported network with.
        described: name of an input -> what it is, for users of the file.
        metadata: what else the file is to say, name -> text.
    """

    module: nn.Module
    inputs: Mapping[str, Tensor]
    axes: Mapping[str, Mapping[int, str]]
    smallest_side: int
    checks: Sequence[Mapping[str, Tensor]]
    described: Mapping[str, str]
    metadata: Mapping[str, str] = field(default_factory=dict)
