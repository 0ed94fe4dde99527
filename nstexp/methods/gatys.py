"""Per-image optimization (Gatys, Ecker & Bethge 2016): the pixels are the parameters of a Lightning module."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from inspect import signature
from itertools import count
from typing import Any, get_args

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import IterableDataset

from nstexp.core.errors import Stopped, UserError, check_integers
from nstexp.core.losses.loss_set import LossSet, LossValues
from nstexp.core.losses.terms import Role, Shapes
from nstexp.core.masks import Propagation, guides
from nstexp.core.networks.encoder import BEFORE, IMAGE, TRUST, Encoder, Features
from nstexp.core.resize import resize, size_for_pixels
from nstexp.core.runtime.cache import digest
from nstexp.core.runtime.memory import check_memory, release_freed
from nstexp.methods import canvas as optimize
from nstexp.methods.base import Controls, Style, Stylizer

log = logging.getLogger(__name__)


class Gatys:
    """Redraws one picture at a time by optimizing its pixels; a frame of a clip begins with the frame before.

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
        normalize_gradients: see `LossSet.forward`; for `adam` and `sgd`.
    """

    optimizes = True

    def __init__(
        self,
        encoder: Encoder,
        losses: LossSet,
        trainer: Callable[[], Trainer],
        max_steps: int,
        init: str,
        optimizer: str,
        optimizers: Mapping[str, Callable[..., Optimizer]],
        noise_std: float = 0.25,
        lr_decay: float = 1.0,
        levels: int = 3,
        coarse_steps: int | Sequence[int] = 35,
        pyramid_levels: int = 7,
        pyramid_gain: float = 0.65,
        margin_px: int = 16,
        freeze_share: float = 0.05,
        style_resize: str = "area",
        style_scale: float = 1.0,
        adain: Callable[[torch.dtype], Stylizer] | None = None,
        guide: Propagation = "simple",
        fine_layers: Sequence[str] = ("relu1_1", "relu2_1"),
        fine_steps: int = 100,
        next_steps: int = 30,
        clamp: str = "on_save",
        normalize_gradients: bool = False,
    ) -> None:
        if optimizer not in optimizers:
            raise UserError(f"method.optimizer={optimizer} is unknown, choose one of {', '.join(optimizers)}")
        if losses.has("identity"):
            raise UserError("the loss term 'identity' is for training (task=train): leave it out of loss=[...]")
        if style_resize not in ("area", "squash", "none"):
            raise UserError(f"method.style_resize={style_resize} is unknown, choose one of area, squash, none")
        if guide not in get_args(Propagation):
            raise UserError(f"method.guide={guide} is unknown, choose one of {', '.join(get_args(Propagation))}")
        if clamp not in ("on_save", "project"):
            raise UserError(f"method.clamp={clamp} is unknown, choose one of on_save, project")
        for key, wanted in (("clamp=project", clamp == "project"), ("normalize_gradients=true", normalize_gradients)):
            if wanted and "lbfgs" in optimizer:
                raise UserError(
                    f"method.{key}: L-BFGS has to see the loss and gradient that it steps by, use method.optimizer=adam"
                )
        check_integers("method", 1, max_steps=max_steps, levels=levels, pyramid_levels=pyramid_levels)
        check_integers("method", 1, fine_steps=fine_steps, next_steps=next_steps)
        if isinstance(fine_layers, str) or not isinstance(fine_layers, Sequence):
            raise UserError(f"method.fine_layers={fine_layers}: give a list of layers, such as [relu1_1,relu2_1]")
        check_integers("method", 0, margin_px=margin_px)
        _check_coarse_steps(coarse_steps, levels, max_steps)
        if not isinstance(style_scale, int | float) or not 0 < style_scale < math.inf:
            raise UserError(f"method.style_scale={style_scale} must be a number larger than 0")
        self.encoder, self.losses, self.trainer = encoder, losses, trainer
        self.max_steps, self.init, self.noise_std = max_steps, init, noise_std
        self.make_optimizer, self.lr_decay = optimizers[optimizer], lr_decay
        self.levels, self.coarse_steps = levels, coarse_steps
        self.pyramid_levels, self.pyramid_gain = pyramid_levels, pyramid_gain
        self.margin_px, self.freeze_share = margin_px, freeze_share
        self.style_resize, self.style_scale, self.adain = style_resize, style_scale, adain
        self.guide, self.clamp, self.normalize_gradients = guide, clamp, normalize_gradients
        self.fine_layers, self.fine_steps, self.next_steps = tuple(fine_layers), fine_steps, next_steps
        self._device, self._drafter = encoder.device, None
        self._stroked: list[tuple[Tensor, Tensor, tuple[int, int], Tensor]] = []  # style, fine, size, result

    def stylize(self, content: Tensor, styles: Sequence[Style], controls: Controls) -> Tensor:
        """Redraw `content` (1, 3, H, W) in the manner of `styles`.

        Raises:
            Stopped: interrupted, or the loss became NaN; carries the best picture until then.
            UserError: a picture too small for the encoder's deepest layer, or too large for the memory; loss terms that
                do not work with several styles, or by regions, in the way that is asked for.
        """
        release_freed()  # of the picture before
        self._check_styles(styles, controls)
        self._check_sizes(content, styles)
        size = tuple(content.shape[-2:])
        styles = [style if style.fine is None else self._with_fine_strokes(style, size, controls) for style in styles]
        follows = controls.clip is not None and controls.clip.warped is not None
        settings = self._at_full_size(self.next_steps) if follows else self
        return self._optimize(PictureOptimization(settings, content, styles, controls))

    def _optimize(self, picture: "PictureOptimization") -> Tensor:
        self.trainer().fit(picture, train_dataloaders=_Endless())
        self.encoder.to(self._device)  # from the CPU, where Lightning leaves it; other methods may share it
        if picture.failure:
            raise Stopped(picture.failure, picture.best_picture())
        if picture.interrupted:
            raise Stopped(f"interrupted at step {picture.steps_done}", picture.best_picture(), interrupted=True)
        return picture.best_picture()

    def _with_fine_strokes(self, style: Style, size: tuple[int, int], controls: Controls) -> Style:
        """The style with the statistics of its `fine` picture at shallow layers (Gatys et al. 2017, section 6.1)."""
        coarse, fine = style.image, style.fine
        for image, strokes, at, mixed in self._stroked:  # the same for every content picture of this size
            if image is coarse and strokes is fine and at == size:
                return replace(style, image=mixed, fine=None)
        log.info("putting the fine strokes onto the style picture")
        if self.style_resize != "none":  # else both are scaled when the style is used
            coarse, fine = (resize(image, self.style_size(image, size)) for image in (coarse, fine))
        check_memory(self.encoder.activation_bytes(own := tuple(coarse.shape[-2:]), self.fine_layers), own, "style")
        settings = copy(self) if isinstance(self.coarse_steps, int) else self._at_full_size(self.fine_steps)
        settings.init, settings.max_steps = "content", self.fine_steps
        settings.style_resize, settings.style_scale = "none", 1.0
        named = replace(controls, name="fine strokes", watch=None, clip=None)
        strokes = Style(fine, layers=self.fine_layers)
        picture = PictureOptimization(settings, coarse[None], [strokes], named, roles=("style", "image"))
        try:
            mixed = self._optimize(picture)
        except Stopped as stop:
            raise Stopped(f"{stop} of the fine strokes", None, stop.interrupted) from None
        self._stroked = [*self._stroked[-3:], (style.image, style.fine, size, mixed[0])]
        return replace(style, image=mixed[0], fine=None)

    def _at_full_size(self, max_steps: int) -> "Gatys":
        """The same settings without coarser levels."""
        settings = copy(self)
        settings.levels, settings.coarse_steps, settings.max_steps = 1, 0, max_steps
        return settings

    def _check_styles(self, styles: Sequence[Style], controls: Controls) -> None:
        terms = {name: term for name, term in self.losses.terms.items() if term.role == "style"}
        for style in styles:
            if style.layers is not None:
                self._check_style_layers("style_layers", style.layers)
        if any(style.fine is not None for style in styles):
            self._check_style_layers("method.fine_layers", self.fine_layers)
            if not any(self.losses.weights[name] and self._meets(terms[name], self.fine_layers) for name in terms):
                raise UserError("fine_style: no style term that could make strokes has a weight above 0, see weights.*")
        for name, term in terms.items():
            if self.losses.weights[name] and not any(self._meets(term, style.layers) for style in styles):
                raise UserError(f"style_layers: the loss term '{name}' has none of these layers, leave it out of loss")
        if styles[0].mask is None:
            return
        if controls.combine != "weighted_loss":
            raise UserError(
                f"style_combine={controls.combine}: with masks each style has a place of its own, leave it out"
            )
        for name, term in terms.items():
            if "guides" not in signature(term.forward).parameters:
                raise UserError(f"masks=...: the loss term '{name}' does not work by regions")

    def _meets(self, term: torch.nn.Module, layers: Sequence[str] | None) -> bool:
        own = self.encoder.canonical
        return layers is None or any(x == IMAGE or own(x) in map(own, layers) for x in term.layers)

    def _check_style_layers(self, key: str, layers: Sequence[str]) -> None:
        known = [self.encoder.canonical(layer) for layer in self.losses.layers("style")]
        try:
            fits = bool(layers) and all(self.encoder.canonical(layer) in known for layer in layers)
        except UserError:  # no layer of the network
            fits = False
        if not fits:
            raise UserError(f"{key}={list(layers)}: give some of the style layers {', '.join(known)}")

    def start(self, canvas: optimize.Canvas, styles: Sequence[Style], controls: Controls) -> Tensor:
        """The image that the optimization begins with, of the canvas' size."""
        if self.init == "adain" and self.adain is not None:
            sized = [resize(style.image, self.style_size(style.image, canvas.picture_size)) for style in styles]
            drafts = [replace(style, image=image, layers=None) for style, image in zip(styles, sized, strict=True)]
            if self._drafter is None:
                self._drafter = self.adain(self.encoder.dtype).to(self._device)
            draft = self._drafter.stylize(canvas.content, drafts, replace(controls, combine="weighted_loss"))
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
        if min(size) < self.losses.min_side_px:
            raise UserError(
                f"content: the picture is {size[1]}x{size[0]} px, but a loss needs {self.losses.min_side_px} px on "
                "the shorter side: set image_px larger, or loss.laplacian.pool_px smaller"
            )
        if min(size) < smallest:
            raise UserError(
                f"content: the picture is {size[1]}x{size[0]} px, but {deepest} needs at least {smallest} px on the "
                "shorter side: set image_px larger, or layers.* to shallower layers"
            )
        images = [("style", style.image) for style in styles]
        images += [("fine_style", style.fine) for style in styles if style.fine is not None]
        for key, image in images:
            height, width = self.style_size(image, size)
            if self.style_resize == "none":  # the size at which fine strokes are made
                height, width = min((height, width), tuple(image.shape[-2:]))
            if min(height, width) < smallest:
                raise UserError(
                    f"{key}: at the result's scale the style picture is {width}x{height} px, but {deepest} needs at "
                    f"least {smallest} px on the shorter side: take a less elongated picture or a larger image_px"
                )
        check_memory(self.encoder.activation_bytes(size, layers), size)


class PictureOptimization(LightningModule):
    """The optimization of one picture through every level; a training step is one iteration of the optimizer."""

    def __init__(
        self,
        settings: Gatys,
        content: Tensor,
        styles: Sequence[Style],
        controls: Controls,
        roles: Sequence[Role] = (),
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.settings, self.combine, self.roles = settings, controls.combine, roles
        self.name, self.log_prefix = controls.name, controls.log_prefix
        self.watch, self.clip = controls.watch, controls.clip
        self.encoder, self.losses = settings.encoder, settings.losses
        self.layers = self._layers_in_use(styles)
        self.canvas = optimize.Canvas(
            content, settings.margin_px, max(map(self.encoder.stride, self.layers), default=1)
        )
        self.styles = [style if style.mask is None else self._on_canvas(style) for style in styles]
        self.levels = optimize.schedule(
            self.canvas.size,
            settings.levels,
            settings.coarse_steps,
            settings.max_steps,
            max(self.encoder.min_side_px(self.layers), self.losses.min_side_px, self._min_side_for_styles()),
        )
        self.start = self._start_from_before() if self._before() else settings.start(self.canvas, self.styles, controls)
        self.max_steps, self.steps_done, self.level_index = settings.max_steps, 0, 0
        self.image = self._parametrize(resize(self.start, self.levels[0].size))
        self.recorded = controls.recorded and not roles  # of a picture that only prepares another one nothing is kept
        self.weighs = not settings.normalize_gradients  # whether the weights are factors of the losses
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
        if self.settings.clamp == "project":
            self.image.clamp_()
        if self.watch is not None and self._last:
            self.watch(self.steps_done, self.picture())
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
        """Every term of the best picture, unweighted, and the weighted total; no layer is left out.

        And `gram_trace_ratio`: how much energy the features at the style layers have for each unit that the styles have
        (the traces of the Gram matrices, the styles' averaged by their shares; the mean over the layers; not with
        masks). With several styles also each style term against each style alone, `gram_style1` and so on.
        """
        best = self._best[1]
        if best is None:
            return {}
        feats = self.encoder(best, self.layers)
        numbers = self.losses(feats, self._targets, self.roles).numbers()
        for name in self._of_styles[0] if len(self.styles) > 1 else ():
            for number, (targets, place) in enumerate(zip(self._of_styles, self._places, strict=True), 1):
                alone = {name: [(1.0, targets[name], *place)]}
                numbers[f"{name}_style{number}"] = float(self.losses.one(name, feats, alone))
        return numbers | self._trace_ratio(feats)

    def _trace_ratio(self, feats: Features) -> dict[str, float]:
        if any(self._places):
            return {}  # the styles' energies belong to their regions
        ratios = []
        for layer in (layer for layer in self.losses.layers("style") if layer in self.layers):
            having = [(s.share, e[layer]) for s, e in zip(self.styles, self._energy, strict=True) if layer in e]
            if total := sum(share for share, _ in having):
                energy = sum(share / total * own for share, own in having)
                ratios.append(_energy(feats[layer]) / max(energy, 1e-12))
        return {"gram_trace_ratio": sum(ratios) / len(ratios)} if ratios else {}

    def shapes(self) -> Shapes:
        """Of all features at full size."""
        return {IMAGE: (3, *self.canvas.size)} | {
            layer: self.encoder.shape(layer, self.canvas.size) for layer in self.losses.layers()
        }

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
        live = [name for name in self.layers if name not in self._frozen]
        feats = self.encoder(image, live) | self._frozen
        return self.losses(feats, self._targets, self.roles, self.settings.normalize_gradients)

    def _keep(self, image: Tensor, values: LossValues) -> None:
        self._last = values.numbers()
        total = self._last["total"]
        if not math.isfinite(total):
            culprit = next((name for name in values.terms if not math.isfinite(self._last[name])), "total")
            raise _NonFinite(f"the loss '{culprit}' became {self._last[culprit]} at step {self.steps_done}")
        # With normalized gradients the total is not what falls: the newest picture counts.
        if total < self._best[0] or self.settings.normalize_gradients:
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
        """The deepest layer, if the gradient hardly changes without it.

        Never one that a term needs: of a picture that starts from the photo the content loss has no gradient yet, and
        would never get one.
        """
        deepest = max(self.layers, key=self.encoder.depth)
        for name, term in self.losses.terms.items():
            own = [self.encoder.canonical(layer) for layer in term.layers if layer != IMAGE]
            needed = term.role != "style" or len(set(own)) < 2
            if self.losses.weights[name] and self.encoder.canonical(deepest) in own and needed:
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

    def _before(self) -> Features:
        """Of a frame of a clip: the result before it, on the canvas, and where that belongs; empty of any other."""
        if self.clip is None or self.clip.warped is None:
            return {}
        return {
            name: self.canvas.extend(known.float()).to(self.device)
            for name, known in ((BEFORE, self.clip.warped), (TRUST, self.clip.trust))
        }

    def _start_from_before(self) -> Tensor:
        """What the result before has of this frame, and elsewhere the frame itself in the styles' colors.

        The paper starts from the result before (`prevWarped`) everywhere, which takes many more steps to put right
        where something else has come into sight; and the plain frame keeps its colors there for as long.
        """
        images, shares = [style.image for style in self.styles], [style.share for style in self.styles]
        fresh = optimize.starting_image("recolored", self.canvas.content, images, shares, 0.0, 0)
        known = self._before()
        return torch.lerp(fresh, known[BEFORE].to(fresh), known[TRUST].to(fresh))

    def _make_targets(self) -> dict[str, list[tuple[Any, ...]]]:
        """What the terms have to match at the current level, as `LossSet.forward` takes it."""
        size = self.levels[self.level_index].size
        found = {}
        if not self.roles or "content" in self.roles:
            of_content, _ = self._statistics("content", self.canvas.content, size, self.losses.layers("content"))
            found = {name: [(1.0, target)] for name, target in of_content.items()}
        if before := self._before():
            size_of = {name: resize(known, size) for name, known in before.items()}
            found |= {name: [(1.0, target)] for name, target in self.losses.targets("before", size_of).items()}
        self._places = [self._guides(style) for style in self.styles]
        self._of_styles, self._energy = [], []
        for style, place in zip(self.styles, self._places, strict=True):
            self._add_style(style, place, size[0] / self.canvas.size[0])
        for name in self._of_styles[0]:
            pairs = [(s.share, targets[name]) for s, targets in zip(self.styles, self._of_styles, strict=True)]
            combined = self.losses.combined(name, pairs, self.combine)
            found[name] = [(*goal, *place) for goal, place in zip(combined, self._places, strict=False)]
        return found

    def _add_style(self, style: Style, place: tuple[Mapping[str, Tensor], ...], scale: float) -> None:
        """The statistics and the energy of one style's features at its layers, at the scale of the current level."""
        size = self.settings.style_size(style.image, self.canvas.picture_size, scale)
        wanted = [layer for layer in self.losses.layers("style") if self._counts(style, place, layer)]
        targets, energy = self._statistics("style", style.image[None], size, wanted)
        self._of_styles.append(
            {
                name: {layer: part for layer, part in target.items() if self._counts(style, place, layer)}
                for name, target in targets.items()
            }
        )
        self._energy.append(energy)

    def _statistics(
        self, role: Role, image: Tensor, size: tuple[int, int], layers: Sequence[str]
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """What the terms of a role have to match in a picture at a size, and of its features the energy; the next run
        of this process that asks for the same gets it from the encoder's memory."""

        def make() -> tuple[dict[str, Any], dict[str, float]]:
            feats = self._features(resize(image, size), *layers)
            energy = {layer: _energy(x) for layer, x in feats.items() if layer != IMAGE and role == "style"}
            return self.losses.targets(role, feats), energy

        if self.losses.identity is None:
            return make()
        key = (self.losses.identity, role, size, tuple(layers), str(self.device), digest(image))
        return self.encoder.memory.get(key, make)

    def _counts(self, style: Style, place: tuple[Mapping[str, Tensor], ...], layer: str) -> bool:
        """Whether a style counts at a layer: it is among the style's own, and in reach of its region."""
        if place and layer not in place[0]:
            return False
        if style.layers is None:
            return True
        # The picture's own colors are no stroke; styles with layers of their own still have them.
        own = self.encoder.canonical
        return not self.roles if layer == IMAGE else own(layer) in map(own, style.layers)

    def _guides(self, style: Style) -> tuple[dict[str, Tensor], ...]:
        """The style's guides at the current level; empty where it applies everywhere."""
        if style.mask is None:
            return ()
        mask = resize(style.mask[None, None], self.levels[self.level_index].size)[0, 0]
        found = guides(mask, self.encoder, self.losses.layers("style"), self.settings.guide)
        return ({name: guide.to(self.device) for name, guide in found.items()},)

    def _on_canvas(self, style: Style) -> Style:
        mask = self.canvas.extend(style.mask[None, None])[0, 0]
        return replace(style, mask=mask)

    def _min_side_for_styles(self) -> int:
        """The shorter side of the canvas below which a style picture is too small for its deepest layer."""
        sides = [1]
        for style in self.styles:
            layers = [layer for layer in self.losses.layers("style") if self._counts(style, (), layer)]
            side = min(self.settings.style_size(style.image, self.canvas.picture_size))
            sides.append(math.ceil(self.encoder.min_side_px(layers) * min(self.canvas.size) / side))
        return max(sides)

    def _layers_in_use(self, styles: Sequence[Style]) -> tuple[str, ...]:
        """Those that terms of the roles read and, of the style layers, those that any style counts at."""
        roles = self.roles or ("content", "style", "image")
        others = self.losses.layers(*(role for role in roles if role != "style"))
        counting = [x for x in self.losses.layers("style") if any(self._counts(style, (), x) for style in styles)]
        return tuple(dict.fromkeys([*others, *counting]))

    @torch.no_grad()
    def _features(self, image: Tensor, *layers: str) -> Features:
        return self.encoder(image.to(self.device), layers)


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


def _energy(features: Tensor) -> float:
    """Trace of the Gram matrix per position of (1, C, H, W) features: the mean of their squared length."""
    kind = torch.promote_types(features.dtype, torch.float32)
    return float(torch.linalg.vector_norm(features, dtype=kind)) ** 2 / features[0, 0].numel()


def _check_coarse_steps(coarse_steps: int | Sequence[int], levels: int, max_steps: int) -> None:
    if isinstance(coarse_steps, str) or not isinstance(coarse_steps, Sequence):
        check_integers("method", 0, coarse_steps=coarse_steps)
        return
    check_integers("method", 0, **{f"coarse_steps[{index}]": steps for index, steps in enumerate(coarse_steps)})
    if len(coarse_steps) != levels - 1:
        raise UserError(
            f"method.coarse_steps={list(coarse_steps)} has {len(coarse_steps)} numbers for the {levels - 1} coarser of "
            f"method.levels={levels}"
        )
    if sum(coarse_steps) >= max_steps:
        raise UserError(f"method.coarse_steps={list(coarse_steps)} leaves nothing of method.max_steps={max_steps}")
