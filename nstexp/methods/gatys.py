"""Per-image optimization (Gatys, Ecker & Bethge 2016): the pixels are the parameters of a Lightning module."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import IterableDataset

from nstexp.core import optimize
from nstexp.core.errors import Stopped, UserError, check_integers
from nstexp.core.features import VGG, Features
from nstexp.core.images import resize, size_for_pixels
from nstexp.core.losses import LossSet, LossValues
from nstexp.core.memory import check_memory, release_freed
from nstexp.methods.base import Combine, Controls, Style, Stylizer

log = logging.getLogger(__name__)


class Gatys:
    """Redraws one picture at a time by optimizing its pixels.

    Args:
        encoder: feature network; owns preprocessing and precision.
        losses: terms and weights.
        trainer: makes a fresh Lightning trainer for each picture.
        max_steps: evaluations of the loss (one forward and one backward pass each), over all levels.
        init: `content`, `recolored`, `noise`, `style`, `gray`, or the path of a picture: see `starting_image`; or
            `adain`, the picture that the method of that name makes.
        adain: makes that method, given a number format.
        optimizer: a key of `optimizers`.
        optimizers: name -> factory that takes the parameters.
        noise_std: of init=noise, in units of the [0, 1] range.
        lr_decay: the optimizer's learning rate is multiplied by this after every iteration.
        levels: coarse-to-fine stages; each is half as large as the next. 1 works at full size throughout.
        coarse_steps: steps of each coarser level, at most an equal share of `max_steps`.
        pyramid_levels: depth of the pyramid the image is parametrized by (1: plain pixels).
        pyramid_gain: see `PyramidImage`.
        margin_px: see `Canvas`.
        freeze_share: at full size the deepest layer keeps the features it has when that level begins, if its share of
            the gradient is below this (0: never). With the default weights relu5_1 has 0.1 to 2 % of the gradient
            and a quarter of the arithmetic.
        style_resize: `area` gives style pictures as many pixels as the result and keeps their aspect; `squash` makes
            them as high and wide as the result; `none` keeps their own size.
        style_scale: resizes the style pictures further: 2 makes strokes twice as large.
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
        levels: int = 3,
        coarse_steps: int = 35,
        pyramid_levels: int = 7,
        pyramid_gain: float = 0.65,
        margin_px: int = 16,
        freeze_share: float = 0.05,
        style_resize: str = "area",
        style_scale: float = 1.0,
        adain: Callable[[torch.dtype], Stylizer] | None = None,
    ) -> None:
        if optimizer not in optimizers:
            raise UserError(f"method.optimizer={optimizer} is unknown, choose one of {', '.join(optimizers)}")
        if losses.has("identity"):
            raise UserError("the loss term 'identity' is for training (task=train): leave it out of loss=[...]")
        if style_resize not in ("area", "squash", "none"):
            raise UserError(f"method.style_resize={style_resize} is unknown, choose one of area, squash, none")
        check_integers("method", 1, max_steps=max_steps, levels=levels, pyramid_levels=pyramid_levels)
        check_integers("method", 0, coarse_steps=coarse_steps, margin_px=margin_px)
        if not isinstance(style_scale, int | float) or not 0 < style_scale < math.inf:
            raise UserError(f"method.style_scale={style_scale} must be a number larger than 0")
        self.encoder, self.losses, self.trainer = encoder, losses, trainer
        self.max_steps, self.init, self.noise_std = max_steps, init, noise_std
        self.make_optimizer, self.lr_decay = optimizers[optimizer], lr_decay
        self.levels, self.coarse_steps = levels, coarse_steps
        self.pyramid_levels, self.pyramid_gain = pyramid_levels, pyramid_gain
        self.margin_px, self.freeze_share = margin_px, freeze_share
        self.style_resize, self.style_scale, self.adain = style_resize, style_scale, adain
        # Lightning moves the encoder back to the CPU behind every picture.
        self._device, self._drafter = next(encoder.buffers()).device, None

    def stylize(self, content: Tensor, styles: Sequence[Style], controls: Controls) -> Tensor:
        """Redraw `content` (1, 3, H, W) in the manner of `styles`.

        Raises:
            Stopped: interrupted, or the loss became NaN; carries the best picture until then.
            UserError: a picture too small for the encoder's deepest layer, or too large for the memory; masks.
        """
        if any(style.mask is not None for style in styles):
            raise UserError("masks=...: method=gatys does not work by regions, use method=adain or leave masks out")
        self._check_sizes(content, styles)
        picture = PictureOptimization(self, content, styles, controls)
        self.trainer().fit(picture, train_dataloaders=_Endless())
        if picture.failure:
            raise Stopped(picture.failure, picture.best_picture())
        if picture.interrupted:
            raise Stopped(f"interrupted at step {picture.steps_done}", picture.best_picture(), interrupted=True)
        return picture.best_picture()

    def start(self, canvas: optimize.Canvas, styles: Sequence[Style], controls: Controls) -> Tensor:
        """The image that the optimization begins with, of the canvas' size."""
        if self.init == "adain" and self.adain is not None:
            sized = [resize(style.image, self.style_size(style.image, canvas.picture_size)) for style in styles]
            drafts = [replace(style, image=image) for style, image in zip(styles, sized, strict=True)]
            if self._drafter is None:
                self._drafter = self.adain(self.encoder.dtype).to(self._device)
            draft = self._drafter.stylize(canvas.content, drafts, controls)
            return draft.to(canvas.content).clone()  # made without gradients, which a clone may have
        images, shares = [style.image for style in styles], [style.share for style in styles]
        return optimize.starting_image(self.init, canvas.content, images, shares, self.noise_std, controls.seed)

    def style_size(self, style: Tensor, picture_size: tuple[int, int], scale: float = 1.0) -> tuple[int, int]:
        """(height, width) of a style picture for a result of this size, times `scale` at coarser levels."""
        own = tuple(style.shape[-2:])
        pixels = picture_size[0] * picture_size[1]
        sizes = {"squash": picture_size, "none": own, "area": size_for_pixels(own, pixels)}
        return tuple(max(1, round(side * scale * self.style_scale)) for side in sizes[self.style_resize])

    def _check_sizes(self, content: Tensor, styles: Sequence[Style]) -> None:
        layers = self.losses.layers()
        smallest = self.encoder.min_side_px(layers)
        deepest = max(layers, key=self.encoder.depth, default="the image")
        size = tuple(content.shape[-2:])
        if min(size) < smallest:
            raise UserError(
                f"content: the picture is {size[1]}x{size[0]} px, but {deepest} needs at least {smallest} px on the "
                "shorter side: set image_px larger, or layers.* to shallower layers"
            )
        for style in styles:
            height, width = self.style_size(style.image, size)
            if min(height, width) < smallest:
                raise UserError(
                    f"style: at the result's scale the style picture is {width}x{height} px, but {deepest} needs at "
                    f"least {smallest} px on the shorter side: take a less elongated picture or a larger image_px"
                )
        check_memory(self.encoder.activation_bytes(size, layers), size)


class PictureOptimization(LightningModule):
    """The optimization of one picture through every level; a training step is one iteration of the optimizer."""

    def __init__(self, settings: Gatys, content: Tensor, styles: Sequence[Style], controls: Controls) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.settings, self.styles, self.combine = settings, styles, controls.combine
        self.name, self.log_prefix = controls.name, controls.log_prefix
        self.encoder, self.losses = settings.encoder, settings.losses
        layers = self.losses.layers()
        self.canvas = optimize.Canvas(content, settings.margin_px, max(map(self.encoder.stride, layers), default=1))
        self.levels = optimize.schedule(
            self.canvas.size,
            settings.levels,
            settings.coarse_steps,
            settings.max_steps,
            self.encoder.min_side_px(layers),
        )
        self.start = settings.start(self.canvas, styles, controls)
        self.max_steps, self.steps_done, self.level_index = settings.max_steps, 0, 0
        self.image = self._parametrize(resize(self.start, self.levels[0].size))
        self.interrupted, self.failure = False, None
        self._best: tuple[float, Tensor | None] = (math.inf, None)  # loss and image of the whole canvas
        self._frozen: Features = {}

    def configure_optimizers(self) -> Optimizer:
        return self.settings.make_optimizer(list(self.image.parameters()))

    def on_train_start(self) -> None:
        self._targets = self._make_targets()

    def training_step(self, batch: int, batch_idx: int) -> dict[str, float]:
        """One iteration; returns the losses of its last evaluation."""
        optimizer = self.optimizers()
        self._last: dict[str, float] = {}
        try:
            optimizer.step(closure=self._closure)
        except _LevelFinished:
            self._next_level(optimizer.optimizer)
        except _NonFinite as error:
            self.failure = str(error)
            self.trainer.should_stop = True
        for group in optimizer.optimizer.param_groups if self.settings.lr_decay != 1 else ():
            group["lr"] *= self.settings.lr_decay
        return self._last

    @torch.no_grad()
    def picture(self) -> Tensor:
        """The picture as it is now, (B, 3, H, W) in [0, 1]."""
        return self.canvas.crop(self.image())

    def best_picture(self) -> Tensor | None:
        """The picture with the lowest loss (of the level that was reached), on the CPU; None before the first."""
        best = self._best[1]
        return None if best is None else self.canvas.crop(best).cpu()

    @torch.no_grad()
    def final_losses(self) -> dict[str, float]:
        """Every term of the best picture, unweighted, and the weighted total; no layer is left out."""
        best = self._best[1]
        if best is None:
            return {}
        return self.losses(self.encoder(best, self.losses.layers()), self._targets).numbers()

    def _closure(self) -> Tensor:
        if self.steps_done >= self.levels[self.level_index].last_step:
            raise _LevelFinished
        for parameter in self.image.parameters():
            parameter.grad = None
        image = self.image()
        values = self._evaluate(image)
        self.steps_done += 1
        self._keep(image, values)
        self.manual_backward(values.total)
        return values.total.detach()

    def _evaluate(self, image: Tensor) -> LossValues:
        live = [name for name in self.losses.layers() if name not in self._frozen]
        return self.losses(self.encoder(image, live) | self._frozen, self._targets)

    def _keep(self, image: Tensor, values: LossValues) -> None:
        self._last = values.numbers()
        total = self._last["total"]
        if not math.isfinite(total):
            culprit = next((name for name in values.terms if not math.isfinite(self._last[name])), "total")
            raise _NonFinite(f"the loss '{culprit}' became {self._last[culprit]} at step {self.steps_done}")
        if total < self._best[0]:
            self._best = (total, image.detach().clone())

    # ------------------------------------------------------------------------------------------------------- levels

    def _next_level(self, optimizer: Optimizer) -> None:
        if self.level_index + 1 == len(self.levels):
            self.trainer.should_stop = True
            return
        coarse = self._best[1]
        to_full_size = self.level_index + 2 == len(self.levels)
        frozen = self._negligible_layer(coarse) if to_full_size and self.settings.freeze_share else None
        self.level_index += 1
        size = self.levels[self.level_index].size
        # Noise has no detail worth keeping: there the picture itself is enlarged.
        start = torch.zeros_like(self.start) if self.settings.init == "noise" else self.start
        self.image = self._parametrize(optimize.enlarge(coarse, start.to(coarse), size)).to(coarse.device)
        self._best = (math.inf, None)
        self._targets = self._make_targets()
        self._frozen = {frozen: self._features(self.image().detach(), frozen)[frozen]} if frozen else {}
        _restart(optimizer, list(self.image.parameters()))
        release_freed()

    def _parametrize(self, start: Tensor) -> optimize.PyramidImage:
        return optimize.PyramidImage(start, self.settings.pyramid_levels, self.settings.pyramid_gain)

    def _negligible_layer(self, image: Tensor) -> str | None:
        """The deepest layer, if the gradient hardly changes without it."""
        deepest = max(self.losses.layers(), key=self.encoder.depth)
        if len(self.losses.layers()) < 2:
            return None
        whole = self._image_gradient(image)
        self._frozen = {deepest: self._features(image, deepest)[deepest]}
        without, self._frozen = self._image_gradient(image), {}
        share = float((whole - without).norm() / whole.norm())
        log.debug("%s has %.2g of the gradient at the end of the coarse levels", deepest, share)
        return deepest if share < self.settings.freeze_share else None

    def _image_gradient(self, image: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = image.detach().requires_grad_()
            return torch.autograd.grad(self._evaluate(leaf).total, leaf)[0]

    # ------------------------------------------------------------------------------------------------------ targets

    def _make_targets(self) -> dict[str, list[tuple[float, Any]]]:
        """What the terms have to match at the current level: term -> pairs of (share, target)."""
        size = self.levels[self.level_index].size
        scale = size[0] / self.canvas.size[0]
        content = self._targets_of("content", resize(self.canvas.content, size))
        found = {name: [(1.0, target)] for name, target in content.items()}
        per_style = []
        for style in self.styles:
            style_size = self.settings.style_size(style.image, self.canvas.picture_size, scale)
            per_style.append((style.share, self._targets_of("style", resize(style.image[None], style_size))))
        for name in per_style[0][1] if per_style else ():
            found[name] = _combined([(share, targets[name]) for share, targets in per_style], self.combine)
        return found

    def _targets_of(self, role: str, image: Tensor) -> dict[str, Any]:
        return self.losses.targets(role, self._features(image.to(self.device), *self.losses.layers(role)))

    @torch.no_grad()
    def _features(self, image: Tensor, *layers: str) -> Features:
        return self.encoder(image, layers)


class _LevelFinished(Exception):
    pass


class _NonFinite(Exception):
    pass


class _Endless(IterableDataset):
    """Lightning's loop needs something to iterate over; the module itself says when it is done."""

    def __iter__(self) -> Iterator[int]:
        return count()


def _restart(optimizer: Optimizer, params: list[torch.nn.Parameter]) -> None:
    """Give an optimizer other parameters; what it learned about the old ones does not hold for them."""
    optimizer.param_groups[0]["params"] = params
    optimizer.state.clear()


def _combined(targets: list[tuple[float, Any]], combine: Combine) -> list[tuple[float, Any]]:
    """Targets of several styles as pairs of (share, target): kept apart, or merged into one Gram matrix."""
    if combine == "weighted_loss" or len(targets) == 1:
        return targets
    scale = 1.0 if combine == "sum_gram" else 1 / sum(share for share, _ in targets)
    names = targets[0][1]
    return [(1.0, {name: sum(scale * share * target[name] for share, target in targets) for name in names})]
