"""The optimization of one picture (Gatys, Ecker & Bethge 2016), from the coarsest level to full size."""

import logging
import math
from collections.abc import Iterator
from functools import partial
from itertools import count
from typing import Any, cast

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import IterableDataset

from nstexp.core.errors import Stopped, UserError
from nstexp.core.losses.loss_set import LossValues
from nstexp.core.losses.terms import Shapes
from nstexp.core.networks.encoder import IMAGE, Features
from nstexp.core.optim.lbfgs import LBFGS
from nstexp.core.runtime.memory import release_freed
from nstexp.methods.base import Controls
from nstexp.methods.canvas import Level, PyramidImage, enlarge, schedule
from nstexp.methods.fitting import fit, smaller_rate
from nstexp.methods.targets import (
    TargetMaker,
    energy,
    features,
    layers_in_use,
    min_side_for_styles,
    trace_ratio,
)
from nstexp.methods.tiled import Sums, TiledLosses

log = logging.getLogger(__name__)


class PictureOptimization(LightningModule):
    """Optimizes the pixels of one picture; `run_levels` is the whole procedure.

    Args:
        maker: computes the targets; it also holds the encoder, the loss terms, the settings and the canvas.
        start: the starting image, (B, 3, H, W), of the canvas' size.
        controls: the picture's name, prefix, seed and callbacks.
    """

    def __init__(self, maker: TargetMaker, start: Tensor, controls: Controls) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.maker, self.settings, self.canvas = maker, maker.settings, maker.canvas
        self.encoder, self.losses, self.styles, self.roles = maker.of_picture, maker.losses, maker.styles, maker.roles
        self.name, self.log_prefix = controls.name, controls.log_prefix
        self.watch, self.judge, self.unfinished = controls.watch, controls.judge, controls.unfinished
        # Restricted roles mean that this picture is only an input of another optimization, and not a result.
        self.recorded = controls.recorded and not self.roles
        self.weighs = not self.settings.normalize_gradients  # whether the total is the sum of weight times loss
        self.layers = layers_in_use(self.encoder, self.losses, self.styles, self.roles)
        self.levels = self._schedule()
        self.start = start
        self.image = self._parametrize(self.canvas.resize(start, self.levels[0].size))
        self._earlier = None if self.unfinished is None else self.unfinished.load()  # the state to go on from
        self.max_steps, self.steps_done = self.settings.max_steps, 0
        if self._earlier is not None:
            self.steps_done = self._earlier["steps_done"]
        self.seconds_before = 0.0 if self.unfinished is None else self.unfinished.seconds_before
        self.interrupted = False
        self.failure: str | None = None
        self.pruned: str | None = None  # why `judge` stopped the optimization
        self._best: tuple[float, Tensor | None] = (math.inf, None)  # loss and image of the whole canvas
        self._level = 0  # index of the current level
        self._frozen_layer: str | None = None
        self._frozen: Features = {}
        self._frozen_sums: dict[tuple[Any, ...], Sums] = {}  # the same for a picture in tiles
        self._tiles: TiledLosses | None = None
        self._last: dict[str, float] = {}

    def run_levels(self) -> Iterator[None]:
        """Run the whole optimization; yields after every iteration of the optimizer."""
        if self._earlier is None:
            self._start_reading(self.levels[0])
            self._limit_history(self._optimizer().optimizer)
        else:
            self._continue(self._earlier)
            self._earlier = None
        while True:
            while self._iterate(self.levels[self._level]):
                yield
            if self._level + 1 == len(self.levels):
                return
            self._level += 1
            self._start_level(self.levels[self._level])
            yield

    def state(self) -> dict[str, Any]:
        """Everything that `run_levels` needs to go on from here with the same result; see `Unfinished`. The tensors are
        not copied."""
        return {
            "steps_done": self.steps_done,
            "level": self._level,
            "image": self.image.state_dict(),
            "best": self._best,
            "frozen_layer": self._frozen_layer,
            "tiles": self.maker.plans(),
            "optimizer": self._optimizer().optimizer.state_dict(),
        }

    def _continue(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self._level = state["level"]
        device, level = self.start.device, self.levels[self._level]
        self.image = self._parametrize(state["image"]["start"]).to(device)
        self.maker.keep_plans(state["tiles"])
        self._start_reading(level)
        if state["frozen_layer"] is not None:
            self._freeze(self.image().detach(), state["frozen_layer"])  # the image with which the level began
        self.image.load_state_dict(state["image"])
        loss, best = state["best"]
        self._best = loss, best.to(device)
        self._restart_optimizer()
        optimizer = self._optimizer().optimizer
        self._limit_history(optimizer)
        optimizer.load_state_dict(state["optimizer"])
        log.info("%s goes on from step %d of %d", self.name, self.steps_done, self.max_steps)

    def _iterate(self, level: Level) -> bool:
        """One iteration of the optimizer; False if the level's evaluations were used up before the iteration ended."""
        try:
            self._optimizer().step(closure=partial(self._closure, level))
        except _LevelFinished:
            return False
        return True

    def _optimizer(self) -> Any:
        """Lightning's wrapper of the only optimizer."""
        return self.optimizers()

    def _closure(self, level: Level) -> Tensor:
        """One evaluation: the loss of the current image, and its gradient."""
        if self.steps_done >= level.last_step:
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
        if self._tiles is not None:
            return self._tiles.values(image, self._targets.goals, self.roles, self._frozen_sums)
        live = [name for name in self.layers if name not in self._frozen]
        feats = self.encoder(image, live) | self._frozen
        values: LossValues = self.losses(feats, self._targets.goals, self.roles, self.settings.normalize_gradients)
        return values

    def _keep(self, image: Tensor, values: LossValues) -> None:
        """Store the losses, and the image if it is the best so far.

        Raises:
            _NonFinite: a loss is infinite or NaN.
        """
        self._last = values.numbers()
        total = self._last["total"]
        if not math.isfinite(total):
            culprit = next((name for name in values.terms if not math.isfinite(self._last[name])), "total")
            raise _NonFinite(f"the loss '{culprit}' became {self._last[culprit]} at step {self.steps_done}")
        # With normalized gradients the optimizer does not minimize the total, so the newest picture counts as the best.
        if total < self._best[0] or self.settings.normalize_gradients:
            self._best = (total, image.detach().clone())

    def _start_level(self, level: Level) -> None:
        """Continue at a finer level: enlarge the best image of the coarser level, and compute the targets anew."""
        coarse = self._best[1]
        assert coarse is not None  # every level has at least one evaluation
        frozen = self._negligible_layer(coarse) if level is self.levels[-1] and self.settings.freeze_share else None
        # `enlarge` keeps the detail of the starting image, which noise has none of: enlarge the whole picture instead.
        start = torch.zeros_like(self.start) if self.settings.init == "noise" else self.start
        finer = enlarge(coarse, start.to(coarse), level.size, self.canvas.wraps)
        self.image = self._parametrize(finer).to(coarse.device)
        self._best = (math.inf, self.image().detach())
        self._start_reading(level)
        if frozen:
            self._freeze(self.image().detach(), frozen)
        self._restart_optimizer()
        self._limit_history(self._optimizer().optimizer)
        release_freed()

    def _start_reading(self, level: Level) -> None:
        """Compute the targets of a level, and decide whether its picture is computed in tiles."""
        self._targets = self.maker.at(level.size)
        self._tiles = self.maker.tiles("content", self.layers, level.size)
        if self._tiles is not None:
            plan, (height, width) = self._tiles.plan, level.size
            log.info("%dx%d px are computed in tiles of %d px", width, height, plan.tile_px)

    def _restart_optimizer(self) -> None:
        """A new optimizer for the image of a level: the memory of the old one belongs to an image of another size."""
        settings = {key: value for key, value in self._optimizer().param_groups[0].items() if key != "params"}
        optimizer = self.configure_optimizers()
        optimizer.param_groups[0].update(settings)  # such as a learning rate that has decayed
        self.trainer.strategy.optimizers = [optimizer]

    def _limit_history(self, optimizer: Optimizer) -> None:
        """Keep no more pairs of L-BFGS than fit into the memory."""
        pairs = None if self._tiles is None else self._tiles.plan.pairs
        if pairs is not None and isinstance(optimizer, LBFGS) and pairs < optimizer.history_size:
            log.info(
                "L-BFGS keeps %d of %d earlier steps, as many as fit into the memory", pairs, optimizer.history_size
            )
            optimizer.history_size = pairs

    # ------------------------------------------------------------------------------------------------ Lightning hooks

    def configure_optimizers(self) -> Optimizer:
        optimizer = self.settings.make_optimizer(list(self.image.parameters()))
        if self.settings.lr_decay != 1 and "lr" not in optimizer.param_groups[0]:
            name = self.settings.optimizer
            raise UserError(
                f"method.lr_decay={self.settings.lr_decay}: method.optimizer={name} has no learning rate: leave "
                "method.lr_decay=1, or take another optimizer such as adam"
            )
        return optimizer

    def on_train_start(self) -> None:
        self._work = self.run_levels()

    def training_step(self, batch: int, batch_idx: int) -> dict[str, float]:
        """One iteration of the optimizer; returns the losses of its last evaluation."""
        self._last = {}
        try:
            next(self._work)
        except StopIteration:
            self.trainer.should_stop = True
        except _NonFinite as error:
            self.failure = f"{error}{self._advice()}"
            self.trainer.should_stop = True
        for group in self._optimizer().optimizer.param_groups if self.settings.lr_decay != 1 else ():
            group["lr"] *= self.settings.lr_decay
        if self.settings.clamp == "project":
            self.image.clamp_()
        if self.watch is not None and self._last:
            self.watch(self.steps_done, self.picture())
        if self.judge is not None and self._last and self.failure is None and self.steps_done < self.max_steps:
            self.pruned = self.judge(self.steps_done, self._last, self.picture)
            self.trainer.should_stop |= self.pruned is not None
        return self._last

    def on_train_batch_end(self, outputs: Any, batch: int, batch_idx: int) -> None:
        """Keep the unfinished picture, after the callbacks have recorded the losses of the step."""
        going_on = self.failure is None and self.pruned is None and self.steps_done < self.max_steps
        if self.unfinished is not None and going_on and self._last and self.unfinished.due():
            self.unfinished.keep(self.state())

    # -------------------------------------------------------------------------------------------------------- results

    @torch.no_grad()
    def picture(self) -> Tensor:
        """The current picture, (B, 3, H, W), RGB in [0, 1]."""
        return self.canvas.crop(self.image())

    def best_picture(self) -> Tensor | None:
        """The picture with the lowest loss at the current level, (B, 3, H, W), on the CPU; None before the first
        evaluation."""
        best = self._best[1]
        return None if best is None else self.canvas.crop(best).cpu()

    @torch.no_grad()
    def final_losses(self) -> dict[str, float]:
        """The losses of the best picture: every term, unweighted, and the weighted `total`. No layer is frozen here.

        Also `gram_trace_ratio`, see `targets.trace_ratio`; and with several styles the value of each style term for
        each style alone, named `gram_style1` and so on. Empty before the first evaluation.
        """
        best = self._best[1]
        if best is None:
            return {}
        several = self._targets.styles if len(self.styles) > 1 else ()
        alone = {
            (f"{name}_style{number}", name): {name: [(1.0, style.statistics[name], *style.guides)]}
            for name in (several[0].statistics if several else ())
            for number, style in enumerate(several, 1)
        }
        of_styles = [layer for layer in self.losses.layers("style") if layer in self.layers]
        if self._tiles is not None:
            numbers = self._tiles.values(best, self._targets.goals, self.roles).numbers()
            seen = self._tiles.see(best, list(alone.values()), of_styles)
            numbers |= {label: float(seen.value(name, goals)) for (label, name), goals in alone.items()}
            energies = {layer: seen.energy(layer) for layer in of_styles}
        else:
            feats = self.encoder(best, self.layers)
            values: LossValues = self.losses(feats, self._targets.goals, self.roles)
            numbers = values.numbers()
            numbers |= {label: float(self.losses.one(name, feats, goals)) for (label, name), goals in alone.items()}
            energies = {layer: energy(feats[layer]) for layer in of_styles}
        ratio = trace_ratio(self.losses, self.styles, self._targets, energies)
        return numbers if ratio is None else numbers | {"gram_trace_ratio": ratio}

    def shapes(self) -> Shapes:
        """The shapes (C, H, W) of the image and all features at full size, by layer."""
        return {IMAGE: (3, *self.canvas.size)} | {
            layer: self.encoder.shape(layer, self.canvas.size) for layer in self.losses.layers()
        }

    # -------------------------------------------------------------------------------------------------------- helpers

    def _schedule(self) -> tuple[Level, ...]:
        """The levels, without those that are too small for the layers, the losses or the styles."""
        for_layers = self.encoder.min_side_px(self.layers)
        smallest = max(for_layers, self.losses.min_side_px, min_side_for_styles(self.maker))
        s = self.settings
        multiple = self.canvas.stride if self.canvas.wraps else 1
        return schedule(self.canvas.size, s.levels, s.coarse_steps, s.max_steps, smallest, multiple)

    def _parametrize(self, start: Tensor) -> PyramidImage:
        s = self.settings
        return PyramidImage(start, s.pyramid_levels, s.pyramid_gain, self.canvas.wraps)

    def _negligible_layer(self, image: Tensor) -> str | None:
        """The deepest layer, if the gradient hardly changes without it.

        None if a term depends on the layer, even if its gradient is zero now: the content loss of a picture that starts
        from the photo begins with a zero gradient, and a frozen layer would keep it so.
        """
        deepest = max(self.layers, key=self.encoder.depth)
        if self._is_needed(deepest):
            return None
        full_gradient = self._image_gradient(image)
        self._freeze(image, deepest)
        gradient_without = self._image_gradient(image)
        self._frozen, self._frozen_sums, self._frozen_layer = {}, {}, None
        share = float((full_gradient - gradient_without).norm() / full_gradient.norm())
        log.debug("%s contributes %.2g of the gradient at the end of the coarse levels", deepest, share)
        return deepest if share < self.settings.freeze_share else None

    def _is_needed(self, layer: str) -> bool:
        """Whether a term with a weight above 0 reads this layer and either is no style term or reads no other layer."""
        canonical = self.encoder.canonical
        for name, term in cast(dict[str, Any], self.losses.terms).items():
            read = {canonical(x) for x in term.layers if x != IMAGE}
            depends = term.role != "style" or len(read) < 2
            if self.losses.weights[name] and canonical(layer) in read and depends:
                return True
        return False

    def _image_gradient(self, image: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = image.detach().requires_grad_()
            return torch.autograd.grad(self._evaluate(leaf).total, leaf)[0]

    def _advice(self) -> str:
        """The end of the error message for infinite or NaN losses. Empty for L-BFGS, which chooses its step sizes."""
        name, rate = self.settings.optimizer, self._optimizer().param_groups[0].get("lr")
        return "" if "lbfgs" in name or not rate else f": {smaller_rate(name, rate)} may help"

    def _freeze(self, image: Tensor, layer: str) -> None:
        """Keep what the terms read from a layer as it is for this picture, without gradients."""
        self._frozen_layer = layer
        if self._tiles is not None:
            self._frozen_sums = self._tiles.sums_of_layer(image, self._targets.goals, layer)
        else:
            self._frozen = {layer: features(self.encoder, image, [layer])[layer]}


def optimized(picture: PictureOptimization, trainer: Trainer) -> Tensor:
    """Run the whole optimization and return the best picture, (B, 3, H, W), RGB in [0, 1].

    Raises:
        Stopped: interrupted, stopped by `Controls.judge`, or the loss became NaN; the exception has the best picture so
            far.
    """
    device = picture.encoder.device
    try:
        fit(trainer, picture, train_dataloaders=_Endless())
    except KeyboardInterrupt:
        picture.interrupted = True
    picture.encoder.to(device)  # Lightning leaves the encoder on the CPU, and other methods may share it
    if picture.failure:
        raise Stopped(picture.failure, picture.best_picture())
    if picture.interrupted:
        raise Stopped(f"interrupted at step {picture.steps_done}", picture.best_picture(), interrupted=True)
    if picture.pruned:
        raise Stopped(picture.pruned, picture.best_picture(), pruned=True)
    best = picture.best_picture()
    assert best is not None  # an optimization that ended regularly has made at least one evaluation
    return best


class _LevelFinished(Exception):
    """The evaluations of a level are used up."""


class _NonFinite(Exception):
    """A loss became infinite or NaN."""


class _Endless(IterableDataset[int]):
    """Endless dummy data for Lightning's loop; the module stops the training by itself."""

    def __iter__(self) -> Iterator[int]:
        return count()
