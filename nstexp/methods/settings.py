"""The numbers and choices of each method, as frozen dataclasses: the keys of the config group `method`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from nstexp.core.errors import ArgumentError, choice, flag, flags, is_number, name_list, number, text, whole, wholes
from nstexp.core.names import Norm, Propagation
from nstexp.weights import ADAIN_DECODER

if TYPE_CHECKING:  # a wrong value is refused before torch is imported
    from torch import Tensor
    from torch.optim import Optimizer

StyleResize = Literal["area", "squash", "none"]
Clamp = Literal["on_save", "project"]
LEAST_SCALE, MOST_SCALE = 1 / 16, 16  # of style pictures
MOST_MARGIN_PX = 1024
LARGEST_PX = 65_535  # of a picture's side: what a JPEG can have
LAYER_KEY = "layers.content"  # where users set the layer at which AdaIN exchanges statistics


@dataclass(frozen=True)
class Recipe:
    """How a network is optimized.

    Args:
        max_steps: optimizer steps.
        optimizer, optimizers: a key, and name -> factory that takes the parameters.
        schedule, schedules: a key, and name -> function of the step that multiplies the learning rate.

    Raises:
        ArgumentError: an unknown key, or a number of steps that is none.
    """

    max_steps: int
    optimizer: str = "adam"
    optimizers: "Mapping[str, Callable[..., Optimizer]]" = field(default_factory=dict)
    schedule: str = "constant"
    schedules: Mapping[str, Callable[[int], float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wholes(1, max_steps=self.max_steps)
        # A method that only stylizes has no optimizers to choose from.
        choice("optimizer", self.optimizer, self.optimizers or [self.optimizer])
        choice("schedule", self.schedule, self.schedules or [self.schedule])

    def make_optimizer(self, parameters: "Sequence[Tensor]") -> "Optimizer":
        return self.optimizers[self.optimizer](parameters)

    def lr_factor(self, step: int) -> float:
        return self.schedules[self.schedule](step)


@dataclass(frozen=True)
class GatysSettings:
    """Of method=gatys.

    Args:
        optimizers: name -> factory that takes the parameters.
        max_steps: evaluations of the loss (one forward and one backward pass each), over all levels.
        init: `content`, `recolored`, `noise`, `style`, `gray`, or the path of a picture: see `starting_image`; or
            `adain`, the picture that the method of that name makes.
        noise_std: of init=noise, in units of the [0, 1] range.
        optimizer: a key of `optimizers`.
        lr_decay: the optimizer's learning rate is multiplied by this after every iteration.
        levels: coarse-to-fine stages; each is half as large as the next. 1 works at full size throughout.
        coarse_steps: steps of each coarser level, at most an equal share of `max_steps`; or a list of one number per
            coarser level, from coarse to fine, together less than `max_steps`.
        pyramid_levels: depth of the pyramid the image is parametrized by (1: plain pixels).
        pyramid_gain: see `PyramidImage`.
        margin_px: see `Canvas`.
        freeze_share: at full size the deepest layer keeps the features it has when that level begins, if it is one of
            several style layers and its share of the gradient is below this (0: never). With the default weights
            relu5_1 has 0.1 to 2 % of the gradient and a quarter of the arithmetic.
        style_resize: `area` gives style pictures as many pixels as the result and keeps their aspect; `squash` makes
            them as high and wide as the result; `none` keeps their own size.
        style_scale: resizes the style pictures further: 2 makes strokes twice as large.
        guide: what a mask becomes at deeper layers: `simple`, `inside` or `all`, see `masks.guides`.
        next_steps: evaluations of a frame of a clip that starts from the frame before (Ruder et al. 2016).
        fine_layers, fine_steps: of a style's fine strokes (`Style.fine`): the layers at which they are put onto the
            style picture, and the evaluations that it takes (Gatys et al. 2017, section 6).
        clamp: `on_save` clips the result; `project` also the picture after every step, for optimizers that do not
            remember the loss as L-BFGS does.
        normalize_gradients: see `LossSet.forward`; for optimizers other than L-BFGS.

    Raises:
        ArgumentError: a value that it cannot have.
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

    def __post_init__(self) -> None:
        choice("optimizer", self.optimizer, self.optimizers)
        choice("style_resize", self.style_resize, get_args(StyleResize))
        choice("guide", self.guide, get_args(Propagation))
        choice("clamp", self.clamp, get_args(Clamp))
        if "lbfgs" in self.optimizer:
            self._refuse_what_lbfgs_cannot_see()
        text("init", self.init, "content")
        flag("normalize_gradients", self.normalize_gradients)
        wholes(1, max_steps=self.max_steps, fine_steps=self.fine_steps, next_steps=self.next_steps)
        wholes(1, 16, levels=self.levels, pyramid_levels=self.pyramid_levels)  # 2^15 px, halved as often, are one
        whole("margin_px", self.margin_px, 0, MOST_MARGIN_PX)
        number("noise_std", self.noise_std, 0, 10)
        number("lr_decay", self.lr_decay, above=0, high=1)
        number("pyramid_gain", self.pyramid_gain, above=0, high=10)
        number("freeze_share", self.freeze_share, 0, 1)
        number("style_scale", self.style_scale, LEAST_SCALE, MOST_SCALE)
        name_list("fine_layers", self.fine_layers, "relu1_1")
        _check_coarse_steps(self.coarse_steps, self.levels, self.max_steps)

    def _refuse_what_lbfgs_cannot_see(self) -> None:
        for argument, value, wanted in (
            ("clamp", "project", self.clamp == "project"),
            ("normalize_gradients", "true", self.normalize_gradients),
        ):
            if wanted:
                raise ArgumentError(
                    argument,
                    f"={value}: L-BFGS has to see the loss and gradient that it steps by, use method.optimizer=adam",
                )

    def make_optimizer(self, parameters: "Sequence[Tensor]") -> "Optimizer":
        return self.optimizers[self.optimizer](parameters)

    def style_size(self, style: "Tensor", picture_size: tuple[int, int], scale: float = 1.0) -> tuple[int, int]:
        """(height, width) of a style picture (..., H, W) for a result of this size, times `scale` at coarser levels."""
        from nstexp.core.resize import size_for_pixels

        own = tuple(style.shape[-2:])
        pixels = picture_size[0] * picture_size[1]
        sizes = {"squash": picture_size, "none": own, "area": size_for_pixels(own, pixels)}
        return tuple(max(1, round(side * scale * self.style_scale)) for side in sizes[self.style_resize])

    def at_full_size(self, max_steps: int) -> "GatysSettings":
        """The same without coarser levels."""
        return replace(self, levels=1, coarse_steps=0, max_steps=max_steps)

    def for_fine_strokes(self) -> "GatysSettings":
        """The same for putting fine strokes onto a style picture, which has its final size already."""
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
            f"{given} has {len(coarse_steps)} numbers for the {levels - 1} coarser of method.levels={levels}",
        )
    if sum(coarse_steps) >= max_steps:
        raise ArgumentError("coarse_steps", f"{given} leaves nothing of method.max_steps={max_steps}")


@dataclass(frozen=True)
class AdaINSettings:
    """Of method=adain.

    Args:
        layer: where the statistics are exchanged; the decoder starts there.
        decoder: `bundled`, or a file: see `model_files.load_decoder`.
        alpha: 1: the style's statistics; 0: the photo's own (which the decoder does not give back exactly).
        style_px: shorter side that style pictures are resized to; None keeps their size.
        tile_px: larger pictures pass through the networks in tiles of this side, with the whole picture's statistics.
        eps, unbiased: see `stats.moments`.
        max_steps, optimizer, optimizers, schedule, schedules: see `Recipe`.
        init: what a training starts from: `ridge` (`ridge.fit_decoder`), `default` (PyTorch's), `bundled`, or a
            decoder file.
        init_pictures: how many pictures of each kind `ridge` sees.
        styles_per_content: the batch is cut into groups of so many pairs, and within each every content picture is
            trained with every style: the pictures of a group are encoded once for so many times the pairs.
        compile: run the decoder through torch.compile.

    Raises:
        ArgumentError: a value that it cannot have.
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
    """Of method=texture_net and method=cin.

    Args:
        generator: makes the network from norm, styles and noise_channels; a method that only draws with the network
            of a file needs none.
        norm: `conditional` learns many styles; `instance` or `batch` one.
        model: the network to stylize with: `bundled`, a file (`model_files.load_generator`), or `untrained`, which
            makes noise as fast as a trained one makes pictures.
        noise: whether the network takes noise beside the photo; None: if `diversity` asks for it.
        diversity: weight of the Julesz term (Ulyanov et al. 2017, section 3): pictures of one photo with other noise
            are to differ.
        noise_draws: how many pictures with other noise are made of each photo of a batch for that term.
        style_px: shorter side that the style pictures of a training are resized to; None keeps their size.
        balance: give every style's loss a factor, so that those of quiet paintings count as much as those of loud ones:
            see `balanced`.
        max_steps, optimizer, optimizers, schedule, schedules: see `Recipe`.
        compile: run the generator of a training through torch.compile.

    Raises:
        ArgumentError: a value that it cannot have.
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
                "noise", f"={self.noise}: give true, false, or null, which is what method.diversity needs"
            )
        if self.diversity and self.noise is False:
            raise ArgumentError(
                "diversity", f"={self.diversity} needs noise to tell pictures apart: leave method.noise out"
            )
        whole("noise_draws", self.noise_draws, 1, 64)
        if self.diversity and self.noise_draws < 2:
            raise ArgumentError(
                "noise_draws",
                f"={self.noise_draws}: a single picture has nothing to differ from; method.diversity="
                f"{self.diversity} needs 2 or more of each photo",
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
        """Channels of noise beside the photo."""
        return 3 if (bool(self.diversity) if self.noise is None else self.noise) else 0

    @property
    def recipe(self) -> Recipe:
        return Recipe(self.max_steps, self.optimizer, self.optimizers, self.schedule, self.schedules)
