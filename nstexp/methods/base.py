"""The interface between tasks and methods: `Stylizer` for every method, `Trainable` and `Exportable` for some."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nstexp.core.names import Combine
from nstexp.media.learned import LearnedStyle

SMALLER_RESULT = "set image_px={px} or less"  # the advice for a picture that does not fit into memory
SMALLER_STYLE = "set method.style_px smaller"
Judge = Callable[[int, Mapping[str, float], Callable[[], Tensor]], str | None]  # see `Controls.judge`


@dataclass(frozen=True)
class Style:
    """One style of a picture, and its share among several styles.

    Args:
        image: the style picture (3, H, W), RGB in [0, 1]; None if the method has learned the style, knows it by its
            name, and the picture is not at hand.
        share: the weight among the styles of the picture, 0 or more.
        mask: (H, W) in [0, 1], of the same size as the content picture: where this style applies. Either all styles of
            a picture have a mask, and the masks sum to 1 at each pixel, or no style has one.
        layers: the style layers at which this style counts; None: all layers. Only for methods that optimize a picture.
        fine: a picture (3, H, W), RGB in [0, 1], whose small strokes are put onto the style picture first. Only for
            methods that optimize a picture.
        part: (h, w) in [0, 1], of the style picture's aspect ratio: how much each place of the style picture counts;
            None: all places alike. See `part_at`.
        name: the name of the file, or of a style that the method has learned.
    """

    image: Tensor | None
    share: float = 1.0
    mask: Tensor | None = None
    layers: tuple[str, ...] | None = None
    fine: Tensor | None = None
    name: str = ""
    part: Tensor | None = None

    @property
    def picture(self) -> Tensor:
        """`image`, for code that cannot do without it.

        Raises:
            ValueError: only the name of the style is known.
        """
        if self.image is None:
            raise ValueError(f"the style '{self.name}' has no picture")
        return self.image

    def part_at(self, size: tuple[int, int]) -> Tensor | None:
        """`part` at the (height, width) of the style picture, or of its features; None: all places count alike."""
        if self.part is None:
            return None
        return F.interpolate(self.part[None, None].float(), size=size, mode="area")[0, 0]


@dataclass
class Clip:
    """State that passes from one frame of a clip to the next. The task sets the fields; methods read them and store
    statistics with `smoothed`.

    Args:
        steadiness: how strongly statistics are averaged over time, from 0 (no averaging: each frame stands alone) to
            nearly 1 (statistics hardly change from frame to frame).
        warped: the method's result for the previous frame, warped along the motion to this frame: (1, 3, H, W), RGB in
            [0, 1]. None for the first frame of a scene.
        trust: how far `warped` may be trusted at each pixel: (1, 1, H, W), from 0 (newly visible) to 1.
    """

    steadiness: float = 0.0
    warped: Tensor | None = None
    trust: Tensor | None = None
    _averages: dict[str, Tensor] = field(default_factory=dict)

    def begin_scene(self) -> None:
        """Forget all earlier frames."""
        self.warped = self.trust = None
        self._averages.clear()

    def state(self) -> dict[str, Tensor]:
        """The running averages by name, for `restore`. The tensors are never changed in place."""
        return dict(self._averages)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue after the frame at which `state` was taken."""
        self._averages = dict(state)

    def smoothed(self, name: str, numbers: Tensor) -> Tensor:
        """Exponential moving average of statistics over the frames; a frame's weight falls as steadiness^age.

        Args:
            name: the name under which the average is stored for the next call.
            numbers: (B, ...), the statistics of B consecutive frames.

        Returns:
            The average at each of these frames, (B, ...).
        """
        averaged = []
        for current in numbers:
            before = self._averages.get(name, current).to(current.device)
            self._averages[name] = torch.lerp(current, before, self.steadiness)  # lerp of equal values is exact
            averaged.append(self._averages[name])
        return torch.stack(averaged)


class Unfinished(Protocol):
    """Keeps the state of a picture that a method works on in steps, so that a later run goes on from it.

    A state consists of tensors, numbers, texts, and lists and dicts of these.

    Attributes:
        seconds_before: seconds that earlier runs spent on the picture up to the state that `load` returns.
    """

    @property
    def seconds_before(self) -> float: ...

    def load(self) -> dict[str, Any] | None:
        """The state that was kept last, with tensors on the CPU; None: the picture begins anew."""
        ...

    def due(self) -> bool:
        """Whether it is time to keep the state."""
        ...

    def keep(self, state: Mapping[str, Any]) -> None:
        """Keep a state. It may be changed after the call."""
        ...


@dataclass(frozen=True)
class Controls:
    """Settings of one call of `Stylizer.stylize`, the same for every method.

    Args:
        name: the content picture's name, for logs and files.
        log_prefix: prefix of the picture's metrics in the loggers, for runs that make several pictures.
        seed: seed of all random numbers for this picture.
        combine: how several styles become one loss, for methods that offer the choice: see `LossSet.combined`.
        seamless: whether the result shall tile: opposite edges meet. The content's edges meet, too.
        texture: whether there is no photo: the content picture has the size of the result, and nothing else of it
            counts.
        recorded: whether the picture's losses and intermediate pictures go to the run folder and the loggers.
        watch: called with (step, picture (B, 3, H, W)) after every step, by methods that work in steps.
        judge: called with (step, losses, a function that returns the picture) after every step before the last, by
            methods that work in steps. If it returns a text, the method stops and raises `Stopped` with this text and
            `pruned`.
        unfinished: keeps the state of the picture, by methods that work in steps; None: nothing is kept.
        clip: for frames of a clip, given in their order: the state that passes from frame to frame. None: the pictures
            are no frames.
    """

    name: str = "output"
    log_prefix: str = ""
    seed: int = 0
    combine: Combine = "weighted_loss"
    seamless: bool = False
    texture: bool = False
    recorded: bool = True
    watch: Callable[[int, Tensor], None] | None = None
    judge: Judge | None = None
    unfinished: Unfinished | None = None
    clip: Clip | None = None


class Stylizer(Protocol):
    """The interface of every method. Tasks use these attributes and `stylize`, and nothing else of a method.

    A subclass inherits the defaults below and overrides those that differ.

    Attributes:
        accepts: the optional inputs that the method can use: `layers` (Style.layers), `fine` (Style.fine), `combine`
            (Controls.combine), `masks` (Style.mask), `style_masks` (Style.part), `seamless` (Controls.seamless) and
            `texture` (Controls.texture). A task refuses the others before the work starts.
        reasons: optional input -> why the method does not accept it, for the error message.
        optimizes: True if the method optimizes one picture at a time and starts from `Clip.warped` by itself. For other
            methods, the video task smooths the finished frames over time.
        styles: for a method that has learned its styles, name -> `LearnedStyle`; `Style.name` is then one of these
            names. None if the method takes any style picture.
        steps: for a method that works in steps and calls `Controls.watch` and `Controls.judge`, the number of the last
            step; else None.
    """

    accepts: frozenset[str] = frozenset()
    reasons: Mapping[str, str] = MappingProxyType({})
    optimizes: bool = False

    @property
    def styles(self) -> Mapping[str, LearnedStyle] | None:
        return None

    @property
    def steps(self) -> int | None:
        return None

    def frames_at_once(self, size: tuple[int, int]) -> int:
        """How many frames of (height, width) of a clip to stylize together on a CPU, because that is faster."""
        return 1

    def stylize(self, content: Tensor, styles: Sequence[Style], controls: Controls) -> Tensor:
        """The content pictures (B, 3, H, W), RGB in [0, 1], in the given styles; same shape and range."""
        ...


def learned_styles(method: Stylizer) -> Mapping[str, LearnedStyle] | None:
    """`Stylizer.styles`; None if the method's class does not inherit from `Stylizer` and has no such attribute."""
    styles: Mapping[str, LearnedStyle] | None = getattr(method, "styles", None)
    return styles


def size_of(image: Tensor) -> tuple[int, int]:
    """(height, width) of a tensor (..., H, W)."""
    height, width = image.shape[-2:]
    return height, width


@runtime_checkable
class Trainable(Protocol):
    """A method with a network that task=train can train."""

    recipe: Any  # `settings.Recipe`

    def trainer(self, **settings: Any) -> Any:
        """A Lightning trainer with these settings."""
        ...

    def training_module(self, sources: Any) -> Any:
        """The `training.Training` module for `training.Sources`."""
        ...


@runtime_checkable
class Exportable(Protocol):
    """A method that task=export can write as one network."""

    def exportable(self) -> "Export":
        """The method as one network, with examples of its inputs."""
        ...


@dataclass(frozen=True)
class Export:
    """A method as one network, for task=export; the return value of a method's `exportable()`.

    Args:
        module: the network, in evaluation mode. It takes the inputs as keyword arguments and returns RGB (B, 3, H, W)
            in [0, 1].
        inputs: name -> an example tensor; `content` is RGB (B, 3, H, W) in [0, 1]. The axes listed in `axes` must be
            longer than 1 here, since the exporter takes a length of 1 for a constant.
        axes: input name -> index of an axis -> its name. These axes can have any length; axes 2 and up (height and
            width) at least `smallest_side`.
        smallest_side: shortest side of a picture that the network can process, in pixels.
        checks: further inputs, of other sizes, on which the exported network is compared with `module`.
        described: input name -> a description for users of the file.
        metadata: further entries for the file's metadata, name -> text.
    """

    module: nn.Module
    inputs: Mapping[str, Tensor]
    axes: Mapping[str, Mapping[int, str]]
    smallest_side: int
    checks: Sequence[Mapping[str, Tensor]]
    described: Mapping[str, str]
    metadata: Mapping[str, str] = field(default_factory=dict)
