"""Per-image optimization (Gatys, Ecker & Bethge 2016): the pixels are the parameters, a Lightning module their trainer."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils.data import IterableDataset

from nstexp.core import optimize
from nstexp.core.errors import Stopped, UserError
from nstexp.core.features import VGG, Features
from nstexp.core.images import resize, size_for_pixels
from nstexp.core.losses import LossSet, LossValues
from nstexp.methods.base import Combine, Controls, Style

log = logging.getLogger(__name__)


class Gatys:
    """Redraws one picture at a time by optimizing its pixels.

    Args:
        encoder: feature network; owns preprocessing and precision.
        losses: terms and weights.
        trainer: makes a fresh Lightning trainer for each picture.
        max_steps: evaluations of the loss (one forward and one backward pass each), over all levels.
        init: `content`, `recolored`, `noise`, `style`, `gray`, or the path of a picture; see `starting_image`.
        noise_std: of init=noise, in units of the [0, 1] range.
        optimizer: a key of `optimizers`.
        optimizers: name -> factory that takes the parameters.
        lr_decay: the optimizer's learning rate is multiplied by this after every iteration.
        levels: coarse-to-fine stages; each is half as large as the next. 1 works at full size throughout.
        coarse_share: share of `max_steps` that all coarser levels get together.
        pyramid_levels: depth of the pyramid the image is parametrized by (1: plain pixels).
        pyramid_gain: see `PyramidImage`.
        style_scale: resizes the style pictures relative to their default, which is the result's number of pixels.
        style_resize: `area` keeps their aspect; `squash` makes them as high and wide as the result; `none` keeps
            their own size.
    """

    def __init__(
        self,
        encoder: VGG,
        losses: LossSet,
        trainer: Callable[[], Trainer],
        max_steps: int,
        init: str,
        optimizer: str,
        optimizers: Mapping[str, Callable[..., Optimizer]],
        noise_std: float = 0.25,
        lr_decay: float = 1.0,
        levels: int = 1,
        coarse_share: float = 0.5,
        pyramid_levels: int = 7,
        pyramid_gain: float = 0.7,
        style_scale: float = 1.0,
        style_resize: str = "area",
    ) -> None:
        if optimizer not in optimizers:
            raise UserError(f"method.optimizer={optimizer} is unknown, choose one of {', '.join(optimizers)}")
        if max_steps < 1 or levels < 1:
            raise UserError(f"method.max_steps={max_steps} and method.levels={levels} must be 1 or larger")
        self.encoder, self.losses, self.trainer = encoder, losses, trainer
        self.make_optimizer = optimizers[optimizer]
        self.max_steps, self.init, self.noise_std, self.lr_decay = max_steps, init, noise_std, lr_decay
        self.levels, self.coarse_share = levels, coarse_share
        self.pyramid_levels, self.pyramid_gain = pyramid_levels, pyramid_gain
        self.style_scale, self.style_resize = style_scale, style_resize

    def stylize(self, content: Tensor, styles: Sequence[Style], controls: Controls) -> Tensor:
        """Redraw `content` (1, 3, H, W) in the manner of `styles`.

        Raises:
            Stopped: interrupted, or the loss became NaN; carries the best picture until then.
            UserError: a picture too small for the encoder's deepest layer.
        """
        problem = PictureOptimization(self, content, styles, controls)
        self.trainer().fit(problem, train_dataloaders=_Endless())
        problem.cpu()
        if problem.failure:
            raise Stopped(problem.failure, problem.best_picture())
        if problem.interrupted:
            raise Stopped(f"interrupted at step {problem.steps_done}", problem.best_picture(), interrupted=True)
        return problem.best_picture()


class PictureOptimization(LightningModule):
    """The optimization of one picture, through every level."""

    def __init__(self, settings: Gatys, content: Tensor, styles: Sequence[Style], controls: Controls) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.settings, self.styles, self.controls = settings, styles, controls
        self.encoder, self.losses = settings.encoder, settings.losses
        self.content = content
        self.name, self.log_prefix = controls.name, ""
        self.max_steps, self.steps_done = settings.max_steps, 0
        self.interrupted, self.failure = False, None
        self.best_losses: dict[str, float] = {}
        self._best: tuple[float, Tensor | None] = (math.inf, None)
        self.schedule = _schedule(content.shape[-2:], settings, self._min_side_px())
        self._check_sizes()
        self._level_index = 0
        self.start = optimize.starting_image(
            settings.init,
            content,
            [style.image for style in styles],
            [style.share for style in styles],
            settings.noise_std,
            controls.seed,
        )
        self.image = self._parametrize(resize(self.start, self.schedule[0].size))
        self._targets: dict[str, Any] | None = None

    def configure_optimizers(self) -> Optimizer:
        return self.settings.make_optimizer(list(self.image.parameters()))

    def on_train_start(self) -> None:
        self._targets = self._make_targets()

    def training_step(self, batch: int, batch_idx: int) -> dict[str, float]:
        optimizer = self.optimizers()
        self._last: dict[str, float] = {}
        try:
            optimizer.step(closure=self._closure)
        except _BudgetSpent:
            self._next_level(optimizer.optimizer)
        except _NonFinite as error:
            self.failure = str(error)
            self.trainer.should_stop = True
        if self.settings.lr_decay != 1.0:
            for group in optimizer.optimizer.param_groups:
                group["lr"] *= self.settings.lr_decay
        return self._last

    def picture(self) -> Tensor:
        """The image as it is now, (B, 3, H, W), clamped to [0, 1]."""
        with torch.no_grad():
            return self.image().clamp(0, 1)

    def best_picture(self) -> Tensor | None:
        """The image with the lowest loss at full size (at the current level when that was not reached)."""
        best = self._best[1]
        if best is None:
            return None
        return resize(best.float().cpu(), self.content.shape[-2:]).clamp(0, 1)

    def _closure(self) -> Tensor:
        if self.steps_done >= self._level_end():
            raise _BudgetSpent
        for parameter in self.image.parameters():
            parameter.grad = None
        image = self.image()
        values = self._evaluate(image)
        self.steps_done += 1
        self._keep(image, values)
        self.manual_backward(values.total)
        return values.total.detach()

    def _evaluate(self, image: Tensor) -> LossValues:
        return self.losses(self.encoder(image, self.losses.layers()), self._targets)

    def _keep(self, image: Tensor, values: LossValues) -> None:
        total = float(values.total.detach())
        numbers = {"total": total} | {name: float(value.detach()) for name, value in values.terms.items()}
        self._last = numbers
        if not math.isfinite(total):
            culprit = values.first_non_finite() or "the weighted sum"
            raise _NonFinite(f"the loss term '{culprit}' became {numbers.get(culprit, total)} at step {self.steps_done}")
        if total < self._best[0]:
            self._best = (total, image.detach().clone())
            self.best_losses = numbers

    # ------------------------------------------------------------------------------------------------------- levels

    def _level_end(self) -> int:
        return sum(level.max_steps for level in self.schedule[: self._level_index + 1])

    def _next_level(self, optimizer: Optimizer) -> None:
        if self._level_index + 1 == len(self.schedule):
            self.trainer.should_stop = True
            return
        finished = self._best[1]
        self._level_index += 1
        self._best = (math.inf, None)
        self.image = self._parametrize(self._enlarge(finished)).to(self.device)
        self._targets = self._make_targets()
        _restart(optimizer, list(self.image.parameters()))

    def _enlarge(self, coarse: Tensor) -> Tensor:
        """To the current level's size. What was added to the start is enlarged, the start's own detail is kept.

        Noise has no detail worth keeping: there the picture itself is enlarged.
        """
        size = self.schedule[self._level_index].size
        if self.settings.init == "noise":
            return resize(coarse, size)
        start = self.start.to(coarse)
        added = F.interpolate(coarse - resize(start, coarse.shape[-2:]), size=size, mode="bicubic", align_corners=False)
        return resize(start, size) + added

    def _parametrize(self, start: Tensor) -> optimize.PyramidImage:
        return optimize.PyramidImage(start, self.settings.pyramid_levels, self.settings.pyramid_gain)

    # ------------------------------------------------------------------------------------------------------ targets

    def _make_targets(self) -> dict[str, list[tuple[float, Any]]]:
        size = self.schedule[self._level_index].size
        content = resize(self.content, size).to(self.device)
        found = {
            name: [(1.0, target)] for name, target in self.losses.targets("content", self._features(content, "content")).items()
        }
        per_style = [
            (style.share, self.losses.targets("style", self._features(self._style_at(style, size), "style")))
            for style in self.styles
        ]
        for name in per_style[0][1] if per_style else ():
            found[name] = _combined([(share, targets[name]) for share, targets in per_style], self.controls.combine)
        return found

    @torch.no_grad()
    def _features(self, image: Tensor, role: str) -> Features:
        return self.encoder(image, self.losses.layers(role))

    def _style_at(self, style: Style, size: tuple[int, int]) -> Tensor:
        return resize(style.image[None], self._style_size(style, size)).to(self.device)

    def _style_size(self, style: Style, size: tuple[int, int]) -> tuple[int, int]:
        own = tuple(style.image.shape[-2:])
        scale = self.settings.style_scale
        if self.settings.style_resize == "squash":
            return tuple(max(1, round(side * scale)) for side in size)
        if self.settings.style_resize == "none":
            shrink = scale * size[0] / self.content.shape[-2]
            return tuple(max(1, round(side * shrink)) for side in own)
        return size_for_pixels(own, size[0] * size[1] * scale**2)

    # ------------------------------------------------------------------------------------------------------- checks

    def _min_side_px(self) -> int:
        return self.encoder.min_side_px(self.losses.layers())

    def _check_sizes(self) -> None:
        smallest = self._min_side_px()
        deepest = max(self.losses.layers(), key=self.encoder.stride, default="the image")
        full = self.schedule[-1].size
        if min(full) < smallest:
            raise UserError(
                f"{self.name}: the picture is {full[1]}x{full[0]} px, but {deepest} needs at least {smallest} px on "
                "the shorter side: set image_px larger, or layers.* to shallower layers"
            )
        for style in self.styles:
            size = self._style_size(style, full)
            if min(size) < smallest:
                raise UserError(
                    f"style: at the result's scale the style picture is {size[1]}x{size[0]} px, but {deepest} needs at "
                    f"least {smallest} px on the shorter side: use a less elongated picture or a larger image_px"
                )


class _BudgetSpent(Exception):
    pass


class _NonFinite(Exception):
    pass


class _Endless(IterableDataset):
    """Lightning's loop needs something to iterate over; the module itself says when it is done."""

    def __iter__(self) -> Iterator[int]:
        return count()


def _schedule(size: tuple[int, int], settings: Gatys, smallest: int) -> list[optimize.Level]:
    """Sizes and steps of the levels, coarsest first; levels too small for the encoder are left out."""
    sizes = [(max(1, round(size[0] / 2**k)), max(1, round(size[1] / 2**k))) for k in range(settings.levels)]
    sizes = [s for k, s in enumerate(sizes) if k == 0 or min(s) >= smallest]
    coarse = len(sizes) - 1
    each = round(settings.max_steps * settings.coarse_share / coarse) if coarse else 0
    if not each:
        return [optimize.Level(tuple(size), settings.max_steps)]
    steps = [settings.max_steps - each * coarse] + [each] * coarse
    return [optimize.Level(s, n) for s, n in zip(reversed(sizes), reversed(steps), strict=True)]


def _restart(optimizer: Optimizer, params: list[torch.nn.Parameter]) -> None:
    """Give an optimizer other parameters: what it learned about the old ones does not hold."""
    if isinstance(optimizer, optimize.LBFGS):
        optimizer.restart(params)
    else:
        optimizer.state.clear()
        optimizer.param_groups[0]["params"] = params


def _combined(targets: list[tuple[float, Any]], combine: Combine) -> list[tuple[float, Any]]:
    """Targets of several styles as pairs of (share, target): kept apart, or merged into one Gram matrix."""
    if combine == "weighted_loss" or len(targets) == 1:
        return targets
    scale = 1.0 if combine == "sum_gram" else 1 / sum(share for share, _ in targets)
    names = targets[0][1]
    return [(1.0, {name: sum(scale * share * target[name] for share, target in targets) for name in names})]
