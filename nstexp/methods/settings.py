"""The settings of each method, as frozen dataclasses; their fields are the keys of the config group `method`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from nstexp.core.errors import ArgumentError, choice, flag, flags, is_number, name_list, number, text, whole, wholes
from nstexp.core.names import Norm, Propagation
from nstexp.weights import ADAIN_DECODER, SWIFT

if TYPE_CHECKING:  # torch is slow to import, and a wrong value should be refused before that
    from torch import Tensor
    from torch.optim import Optimizer

StyleResize = Literal["area", "squash", "none"]
Clamp = Literal["on_save", "project"]
LEAST_SCALE, MOST_SCALE = 1 / 16, 16  # the range of style_scale
LEAST_STYLE_PX = 64
MOST_MARGIN_PX = 1024
LARGEST_PX = 65_535  # the longest side that a JPEG file can have
LAYER_KEY = "layers.content"  # the config key of the layer at which AdaIN exchanges statistics


@dataclass(frozen=True)
class Recipe:
    """The optimizer, the learning-rate schedule and the length of a training.

    Args:
        max_steps: number of optimizer steps, 1 or more.
        optimizer: a key of `optimizers`.
        optimizers: name -> factory that takes the parameters and returns an optimizer.
        schedule: a key of `schedules`.
        schedules: name -> function from the step to a factor of the learning rate.

    Raises:
        ArgumentError: an unknown key, or a number of steps that is not a whole number of 1 or more.
    """

    max_steps: int
    optimizer: str = "adam"
    optimizers: "Mapping[str, Callable[..., Optimizer]]" = field(default_factory=dict)
    schedule: str = "constant"
    schedules: Mapping[str, Callable[[int], float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wholes(1, max_steps=self.max_steps)
        # The mappings are empty for a method that only stylizes.
        choice("optimizer", self.optimizer, self.optimizers or [self.optimizer])
        choice("schedule", self.schedule, self.schedules or [self.schedule])

    def make_optimizer(self, parameters: "Sequence[Tensor]") -> "Optimizer":
        return self.optimizers[self.optimizer](parameters)

    def lr_factor(self, step: int) -> float:
        return self.schedules[self.schedule](step)


@dataclass(frozen=True)
class GatysSettings:
    """The settings of method=gatys.

    Args:
        optimizers: name -> factory that takes the parameters and returns an optimizer.
        max_steps: evaluations of the loss (one forward and one backward pass each), summed over all levels.
        init: the starting image: `content`, `recolored`, `noise`, `style`, `gray`, or the path of a picture (see
            `starting_image`); or `adain`, the result of method=adain.
        noise_std: standard deviation of the noise for init=noise, in units of the [0, 1] range.
        optimizer: a key of `optimizers`.
        lr_decay: factor of the optimizer's learning rate after every iteration, in (0, 1].
        levels: number of coarse-to-fine levels, each with sides half as long as the next. 1: full size only.
        coarse_steps: evaluations at each coarser level, limited to an equal share of `max_steps`; or a list with one
            number per coarser level, from coarse to fine, whose sum is less than `max_steps`.
        pyramid_levels: number of levels of the pyramid that parametrizes the image, see `PyramidImage` (1: plain
            pixels).
        pyramid_gain: see `PyramidImage`.
        margin_px: see `Canvas`.
        freeze_share: a share of the gradient in [0, 1]. If the deepest layer is one of several style layers and
            contributes less than this, its features are frozen when full size begins (0: never). With the default
            weights, relu5_1 contributes 0.1 to 2 % of the gradient and takes a quarter of the arithmetic.
        style_resize: `area` gives style pictures as many pixels as the result and keeps their aspect ratio; `squash`
            resizes them to the height and width of the result; `none` keeps their size.
        style_scale: a further factor of the style pictures' size: 2 makes strokes twice as large.
        guide: how a mask is carried over to deeper layers: `simple`, `inside` or `all`, see `masks.guides`.
        fine_layers: the layers at which fine strokes (`Style.fine`) are put onto the style picture (Gatys et al. 2017,
            section 6).
        fine_steps: evaluations for putting the fine strokes onto the style picture.
        next_steps: evaluations for a frame of a clip that starts from the previous result (Ruder et al. 2016).
        clamp: `on_save` clips the finished picture to [0, 1]; `project` also clips it after every step. L-BFGS needs
            `on_save`, since it assumes that only its steps change the picture.
        normalize_gradients: see `LossSet.forward`; not for L-BFGS.
        tile_px: see `tiling.Tiling`.
        memory_gb: memory in 10^9 bytes that the process may take, by which tiles and the number of L-BFGS' pairs are
            chosen; None: what is free.

    Raises:
        ArgumentError: a value out of its range, or two that contradict each other.
    """

    optimizers: "Mapping[str, Callable[..., Optimizer]]"
    max_steps: int = 200
    init: str = "content"
    noise_std: float = 0.25
    optimizer: str = "lbfgs"
    lr_decay: float = 1.0
    levels: int = 3
    coarse_steps: int | Sequence[int] = 35
    pyramid_levels: int = 7
    pyramid_gain: float = 0.65
    margin_px: int = 16
    freeze_share: float = 0.05
    style_resize: StyleResize = "area"
    style_scale: float = 1.0
    guide: Propagation = "simple"
    fine_layers: Sequence[str] = ("relu1_1", "relu2_1")
    fine_steps: int = 100
    next_steps: int = 30
    clamp: Clamp = "on_save"
    normalize_gradients: bool = False
    tile_px: int | str | None = "auto"
    memory_gb: float | None = None

    def __post_init__(self) -> None:
        choice("optimizer", self.optimizer, self.optimizers)
        choice("style_resize", self.style_resize, get_args(StyleResize))
        choice("guide", self.guide, get_args(Propagation))
        choice("clamp", self.clamp, get_args(Clamp))
        if "lbfgs" in self.optimizer:
            self._check_lbfgs()
        text("init", self.init, "content")
        flag("normalize_gradients", self.normalize_gradients)
        wholes(1, max_steps=self.max_steps, fine_steps=self.fine_steps, next_steps=self.next_steps)
        wholes(1, 16, levels=self.levels, pyramid_levels=self.pyramid_levels)  # 15 halvings make 1 px of 32,768 px
        whole("margin_px", self.margin_px, 0, MOST_MARGIN_PX)
        number("noise_std", self.noise_std, 0, 10)
        number("lr_decay", self.lr_decay, above=0, high=1)
        number("pyramid_gain", self.pyramid_gain, above=0, high=10)
        number("freeze_share", self.freeze_share, 0, 1)
        number("style_scale", self.style_scale, LEAST_SCALE, MOST_SCALE)
        name_list("fine_layers", self.fine_layers, "relu1_1")
        _check_coarse_steps(self.coarse_steps, self.levels, self.max_steps)
        self._check_tiles()

    def _check_tiles(self) -> None:
        if self.tile_px != "auto" and self.tile_px is not None:
            if isinstance(self.tile_px, str):
                raise ArgumentError("tile_px", f"={self.tile_px}: give auto, null, or a number of pixels from 64 on")
            whole("tile_px", self.tile_px, 64, LARGEST_PX)
            if self.normalize_gradients:
                problem = f"={self.tile_px} does not work with method.normalize_gradients=true: leave one of them out"
                raise ArgumentError("tile_px", problem)
        if self.memory_gb is not None:
            number("memory_gb", self.memory_gb, above=0, example="6")

    def _check_lbfgs(self) -> None:
        """Refuse settings that change the picture or the gradient behind the back of L-BFGS."""
        for argument, value, chosen in (
            ("clamp", "project", self.clamp == "project"),
            ("normalize_gradients", "true", self.normalize_gradients),
        ):
            if chosen:
                raise ArgumentError(
                    argument,
                    f"={value} does not work with L-BFGS, which needs the true loss and gradient of every step: set "
                    "method.optimizer=adam",
                )

    def make_optimizer(self, parameters: "Sequence[Tensor]") -> "Optimizer":
        return self.optimizers[self.optimizer](parameters)

    def style_size(self, style: "Tensor", picture_size: tuple[int, int], scale: float = 1.0) -> tuple[int, int]:
        """The size to which a style picture is resized.

        Args:
            style: (..., H, W).
            picture_size: (height, width) of the result at full size.
            scale: the coarser level's size divided by the full size.

        Returns:
            (height, width), 1 px or more.
        """
        from nstexp.core.resize import size_for_pixels

        height, width = style.shape[-2:]
        pixels = picture_size[0] * picture_size[1]
        sizes = {
            "squash": picture_size,
            "none": (height, width),
            "area": size_for_pixels((height, width), pixels),
        }
        height, width = (max(1, round(side * scale * self.style_scale)) for side in sizes[self.style_resize])
        return height, width

    def at_full_size(self, max_steps: int) -> "GatysSettings":
        """The same settings without coarser levels, and with this number of steps."""
        return replace(self, levels=1, coarse_steps=0, max_steps=max_steps)

    def for_fine_strokes(self) -> "GatysSettings":
        """The same settings for putting fine strokes onto a style picture, which has its final size already."""
        levels = self if isinstance(self.coarse_steps, int) else self.at_full_size(self.fine_steps)
        return replace(levels, init="content", max_steps=self.fine_steps, style_resize="none", style_scale=1.0)


def _check_coarse_steps(coarse_steps: int | Sequence[int], levels: int, max_steps: int) -> None:
    if isinstance(coarse_steps, str) or not isinstance(coarse_steps, Sequence):
        whole("coarse_steps", coarse_steps)
        return
    wholes(0, **{f"coarse_steps[{index}]": steps for index, steps in enumerate(coarse_steps)})
    given = f"={list(coarse_steps)}"
    if len(coarse_steps) != levels - 1:
        raise ArgumentError(
            "coarse_steps",
            f"{given} has {len(coarse_steps)} numbers, but method.levels={levels} needs {levels - 1}, one per coarser "
            "level",
        )
    if sum(coarse_steps) >= max_steps:
        raise ArgumentError(
            "coarse_steps",
            f"{given} leaves no steps for full size: the sum must be below method.max_steps={max_steps}",
        )


@dataclass(frozen=True)
class AdaINSettings:
    """The settings of method=adain.

    Args:
        layer: the encoder layer at which statistics are exchanged; its features are the decoder's input.
        decoder: `bundled`, or a file: see `model_files.load_decoder`.
        alpha: strength in [0, 1]: 1 gives the features the style's statistics, 0 leaves the photo's features (which the
            decoder does not reproduce exactly).
        style_px: length to which the shorter side of style pictures is resized; None keeps their size.
        tile_px: side of the tiles in which larger pictures pass through the networks. The statistics are always those
            of the whole picture.
        eps, unbiased: see `stats.moments`.
        max_steps, optimizer, optimizers, schedule, schedules: see `Recipe`.
        init: the decoder's weights at the start of a training: `ridge` (`ridge.fit_decoder`), `default` (PyTorch's
            random weights), `bundled`, or a decoder file.
        init_pictures: number of photos, and of paintings, for init=ridge.
        styles_per_content: k. The batch is split into groups of k pairs, and within a group each photo is trained with
            each style: k times as many pairs for the same number of encoded pictures.
        compile: whether the decoder runs through torch.compile during training.

    Raises:
        ArgumentError: a value out of its range.
    """

    layer: str
    decoder: str = "bundled"
    alpha: float = 1.0
    style_px: int | None = 512
    tile_px: int = 1024
    eps: float = 1e-5
    unbiased: bool = False
    max_steps: int = 160_000
    init: str = "default"
    init_pictures: int = 64
    optimizer: str = "adam"
    optimizers: "Mapping[str, Callable[..., Optimizer]]" = field(default_factory=dict)
    schedule: str = "inverse_time"
    schedules: Mapping[str, Callable[[int], float]] = field(default_factory=dict)
    styles_per_content: int = 1
    compile: bool = False

    def __post_init__(self) -> None:
        text("layer", self.layer, "relu4_1")
        text("decoder", self.decoder, "bundled")
        text("init", self.init, "ridge")
        number("alpha", self.alpha, 0, 1)
        number("eps", self.eps, 0, 1)
        flags(unbiased=self.unbiased, compile=self.compile)
        wholes(1, init_pictures=self.init_pictures, styles_per_content=self.styles_per_content)
        whole("tile_px", self.tile_px, 64, LARGEST_PX)
        if self.style_px is not None:
            whole("style_px", self.style_px, 64, LARGEST_PX)
        _ = self.recipe

    @property
    def recipe(self) -> Recipe:
        return Recipe(self.max_steps, self.optimizer, self.optimizers, self.schedule, self.schedules)


def decoder_path(decoder: str) -> Path:
    """The file of a decoder: `bundled`, or a path as the user gave it."""
    return ADAIN_DECODER if decoder == "bundled" else Path(str(decoder)).expanduser()


@dataclass(frozen=True)
class FeedForwardSettings:
    """The settings of method=texture_net and method=cin.

    Args:
        generator: builds the network from norm, styles and noise_channels; not needed to stylize with a network file.
        norm: the normalization: `conditional` for many styles, `instance` or `batch` for one style.
        model: the network to stylize with: `bundled`, a file (`model_files.load_generator`), or `untrained`, a network
            with random weights for measuring speed.
        noise: whether the network has noise as a further input; None: only if `diversity` is above 0.
        diversity: weight of the Julesz term, 0 or more (Ulyanov et al. 2017, section 3), which rewards different
            results for the same photo with different noise.
        noise_draws: number of results per photo, each with different noise, for the Julesz term.
        style_px: length to which the shorter side of a training's style pictures is resized; None keeps their size.
        balance: multiply each style's loss by a factor, so that paintings of low contrast count as much as those of
            high contrast: see `balanced`.
        max_steps, optimizer, optimizers, schedule, schedules: see `Recipe`.
        compile: whether the generator runs through torch.compile during training.

    Raises:
        ArgumentError: a value out of its range, or two that contradict each other.
    """

    generator: Callable[..., Any] | None = None
    norm: Norm = "instance"
    model: str | None = None
    noise: bool | None = None
    diversity: float = 0
    noise_draws: int = 2
    style_px: int | None = 512
    balance: bool = False
    max_steps: int = 4000
    optimizer: str = "muon"
    optimizers: "Mapping[str, Callable[..., Optimizer]]" = field(default_factory=dict)
    schedule: str = "cosine"
    schedules: Mapping[str, Callable[[int], float]] = field(default_factory=dict)
    compile: bool = False

    def __post_init__(self) -> None:
        choice("norm", self.norm, get_args(Norm))
        if self.model is not None:
            text("model", self.model, "runs/mine/model.safetensors")
        if not is_number(self.diversity) or self.diversity < 0:
            raise ArgumentError("diversity", f"={self.diversity}: a weight is a finite number, 0 or larger")
        if not (self.noise is None or isinstance(self.noise, bool)):
            raise ArgumentError(
                "noise", f"={self.noise}: give true, false, or null (noise only if method.diversity is above 0)"
            )
        if self.diversity and self.noise is False:
            raise ArgumentError(
                "diversity", f"={self.diversity} needs a network with noise: leave method.noise=false out"
            )
        whole("noise_draws", self.noise_draws, 1, 64)
        if self.diversity and self.noise_draws < 2:
            raise ArgumentError(
                "noise_draws",
                f"={self.noise_draws}: method.diversity={self.diversity} compares several results of each photo, give "
                "2 or more",
            )
        if self.style_px is not None:
            whole("style_px", self.style_px, 64, LARGEST_PX)
        flags(balance=self.balance, compile=self.compile)
        _ = self.recipe

    @property
    def many(self) -> bool:
        """Whether the network learns many styles."""
        return self.norm == "conditional"

    @property
    def noise_channels(self) -> int:
        """Number of noise channels at the network's input: 3, or 0 without noise."""
        return 3 if (bool(self.diversity) if self.noise is None else self.noise) else 0

    @property
    def recipe(self) -> Recipe:
        return Recipe(self.max_steps, self.optimizer, self.optimizers, self.schedule, self.schedules)


@dataclass(frozen=True)
class SwiftSettings:
    """The settings of method=swift.

    Args:
        model: the network to stylize with: `bundled`, or a file of a training, see `model_files.load_swift`.
        alpha: 1: all style; 0: the photo. In between, pixels are mixed.
        tones: how far each color channel of a picture gets the distribution of the style picture's, from 0 to 1; clips
            stay as the network draws them, since it would amplify their flicker by a third.
        style_px: largest shorter side of a resized style picture at style_scale=1, see `style_size`; None: no limit.
        style_scale: size of the strokes, as a factor on the style picture's size.
        tile_px: larger pictures pass through the network in tiles of this side, with the whole picture's statistics.
        widths, groups, experts: of a network that is trained anew; see `swift.Swift`.
        recolor: share of the paintings of a training whose colors are changed at random: a network that saw few
            paintings learns palettes from them that no painting of the training has.
        balance: give every painting's loss a factor, so that quiet paintings count as much as loud ones; see
            `feedforward_training.balanced`.
        styles_per_content: see `AdaINSettings`.
        max_steps, optimizer, optimizers, schedule, schedules: see `Recipe`.
        compile: run the network of a training through torch.compile.

    Raises:
        ArgumentError: a value that it cannot have.
    """

    model: str = "bundled"
    alpha: float = 1.0
    tones: float = 0.75
    style_px: int | None = 512
    style_scale: float = 1.0
    tile_px: int = 2048
    widths: Sequence[int] = (24, 48, 96)
    groups: Sequence[int] = (8, 16, 16)
    experts: int = 3
    recolor: float = 0.5
    balance: bool = True
    styles_per_content: int = 2
    max_steps: int = 40_000
    optimizer: str = "muon"
    optimizers: "Mapping[str, Callable[..., Optimizer]]" = field(default_factory=dict)
    schedule: str = "cosine"
    schedules: Mapping[str, Callable[[int], float]] = field(default_factory=dict)
    compile: bool = False

    def __post_init__(self) -> None:
        text("model", self.model, "bundled")
        number("alpha", self.alpha, 0, 1)
        number("tones", self.tones, 0, 1)
        number("recolor", self.recolor, 0, 1)
        flags(balance=self.balance, compile=self.compile)
        wholes(1, styles_per_content=self.styles_per_content)
        whole("experts", self.experts, 1, 64)
        whole("tile_px", self.tile_px, 256, LARGEST_PX)
        if self.style_px is not None:
            whole("style_px", self.style_px, LEAST_STYLE_PX, LARGEST_PX)
        number("style_scale", self.style_scale, LEAST_SCALE, MOST_SCALE)
        for argument, numbers in (("widths", self.widths), ("groups", self.groups)):
            if isinstance(numbers, str) or not isinstance(numbers, Sequence) or len(numbers) != 3:
                raise ArgumentError(argument, f"={numbers}: give three whole numbers, such as [24,48,96]")
            wholes(1, **{f"{argument}[{place}]": value for place, value in enumerate(numbers)})
        for width, group in zip(self.widths, self.groups, strict=True):
            if width % group:
                raise ArgumentError("groups", f"={list(self.groups)}: {width} channels are no multiple of {group}")
        _ = self.recipe

    def style_size(self, style: tuple[int, int], pixels: int) -> tuple[int, int]:
        """The (height, width) at which a style picture is read, for a photo with so many pixels.

        It has as many pixels as the photo, so that its strokes are as large beside the photo as in the painting, and as
        the measures compare the two. In larger photos than the network was trained on, strokes stay smaller.

        Examples:
            >>> SwiftSettings().style_size((600, 800), 300 * 400)
            (300, 400)
            >>> SwiftSettings(style_scale=0.5).style_size((600, 800), 3000 * 4000)
            (256, 342)
        """
        from nstexp.core.resize import size_for_pixels, size_for_shorter_side  # torch is slow to import

        found = size_for_pixels(style, pixels)
        if self.style_px is not None and min(found) > self.style_px:
            found = size_for_shorter_side(style, self.style_px)
        if min(found) < LEAST_STYLE_PX:
            found = size_for_shorter_side(style, LEAST_STYLE_PX)
        height, width = (max(1, round(side * self.style_scale)) for side in found)
        return height, width

    @property
    def recipe(self) -> Recipe:
        return Recipe(self.max_steps, self.optimizer, self.optimizers, self.schedule, self.schedules)


def swift_path(model: str) -> Path:
    """The file of a network of method=swift: `bundled`, or a path as the user gave it."""
    return SWIFT if model == "bundled" else Path(str(model)).expanduser()
