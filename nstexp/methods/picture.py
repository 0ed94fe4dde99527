"""The optimization of one picture (Gatys, Ecker & Bethge 2016), from the coarsest level to full size."""

import logging
import math
from collections.abc import Iterator
from functools import partial
from itertools import count, pairwise

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import IterableDataset

from nstexp.core.errors import Stopped
from nstexp.core.losses.loss_set import LossValues
from nstexp.core.losses.terms import Shapes
from nstexp.core.networks.encoder import IMAGE, Features
from nstexp.core.resize import resize
from nstexp.core.runtime.memory import release_freed
from nstexp.methods.base import Controls
from nstexp.methods.canvas import Level, PyramidImage, enlarge, schedule
from nstexp.methods.fitting import fit, smaller_rate
from nstexp.methods.targets import TargetMaker, features, layers_in_use, min_side_for_styles, trace_ratio

log = logging.getLogger(__name__)


class PictureOptimization(LightningModule):
    """Optimizes the pixels of one picture; `run_levels` is the whole procedure.

    Args:
        maker: what the picture has to match, and the settings.
        start: the image that the work begins with, (B, 3, H, W), of the canvas' size.
        controls: of the picture.
    """

    def __init__(self, maker: TargetMaker, start: Tensor, controls: Controls) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.maker, self.settings, self.canvas = maker, maker.settings, maker.canvas
        self.encoder, self.losses, self.styles, self.roles = maker.encoder, maker.losses, maker.styles, maker.roles
        self.name, self.log_prefix, self.watch = controls.name, controls.log_prefix, controls.watch
        # Of a picture that only prepares another one nothing is kept.
        self.recorded = controls.recorded and not self.roles
        self.weighs = not self.settings.normalize_gradients  # whether the weights are factors of the losses
        self.layers = layers_in_use(self.encoder, self.losses, self.styles, self.roles)
        self.levels = self._schedule()
        self.start = start
        self.image = self._parametrize(resize(start, self.levels[0].size))
        self.max_steps, self.steps_done = self.settings.max_steps, 0
        self.interrupted, self.failure = False, None
        self._best: tuple[float, Tensor | None] = (math.inf, None)  # loss and image of the whole canvas
        self._frozen: Features = {}
        self._last: dict[str, float] = {}

    def run_levels(self) -> Iterator[None]:
        """The whole optimization, which pauses after each iteration of the optimizer."""
        self._targets = self.maker.at(self.levels[0].size)
        for level, finer in pairwise((*self.levels, None)):
            while self._iterate(level):
                yield
            if finer is not None:
                self._hand_over(finer)
                yield

    def _iterate(self, level: Level) -> bool:
        """One iteration of the optimizer; False if the level's evaluations were used up before its end."""
        try:
            self.optimizers().step(closure=partial(self._closure, level))
        except _LevelFinished:
            return False
        return True

    def _closure(self, level: Level) -> Tensor:
        """One evaluation: the loss of the image as it is now, and its gradient."""
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
        live = [name for name in self.layers if name not in self._frozen]
        feats = self.encoder(image, live) | self._frozen
        return self.losses(feats, self._targets.goals, self.roles, self.settings.normalize_gradients)

    def _keep(self, image: Tensor, values: LossValues) -> None:
        """Remember the losses, and the image if it is the best one."""
        self._last = values.numbers()
        total = self._last["total"]
        if not math.isfinite(total):
            culprit = next((name for name in values.terms if not math.isfinite(self._last[name])), "total")
            raise _NonFinite(f"the loss '{culprit}' became {self._last[culprit]} at step {self.steps_done}")
        # With normalized gradients the total is not what falls: the newest picture counts.
        if total < self._best[0] or self.settings.normalize_gradients:
            self._best = (total, image.detach().clone())

    def _hand_over(self, level: Level) -> None:
        """Go on at a finer level: from the best image of the coarser one, enlarged, with the targets of that size."""
        coarse = self._best[1]
        frozen = self._negligible_layer(coarse) if level is self.levels[-1] and self.settings.freeze_share else None
        # Noise has no detail worth keeping: there the picture itself is enlarged.
        start = torch.zeros_like(self.start) if self.settings.init == "noise" else self.start
        self.image = self._parametrize(enlarge(coarse, start.to(coarse), level.size)).to(coarse.device)
        self._best = (math.inf, self.image().detach())
        self._targets = self.maker.at(level.size)
        self._frozen = self._only(self.image().detach(), frozen) if frozen else {}
        _restart(self.optimizers().optimizer, list(self.image.parameters()))
        release_freed()

    # ---------------------------------------------------------------------------------------- what Lightning asks for

    def configure_optimizers(self) -> Optimizer:
        return self.settings.make_optimizer(list(self.image.parameters()))

    def on_train_start(self) -> None:
        self._work = self.run_levels()

    def training_step(self, batch: int, batch_idx: int) -> dict[str, float]:
        """One iteration; returns the losses of its last evaluation."""
        self._last = {}
        try:
            next(self._work)
        except StopIteration:
            self.trainer.should_stop = True
        except _NonFinite as error:
            self.failure = f"{error}{self._advice()}"
            self.trainer.should_stop = True
        for group in self.optimizers().optimizer.param_groups if self.settings.lr_decay != 1 else ():
            group["lr"] *= self.settings.lr_decay
        if self.settings.clamp == "project":
            self.image.clamp_()
        if self.watch is not None and self._last:
            self.watch(self.steps_done, self.picture())
        return self._last

    # -------------------------------------------------------------------------------------------------------- results

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

        And `gram_trace_ratio`, see `targets.trace_ratio`. With several styles also each style term against each style
        alone, `gram_style1` and so on.
        """
        best = self._best[1]
        if best is None:
            return {}
        feats = self.encoder(best, self.layers)
        numbers = self.losses(feats, self._targets.goals, self.roles).numbers()
        several = self._targets.styles if len(self.styles) > 1 else ()
        for name in several[0].statistics if several else ():
            for number, own in enumerate(several, 1):
                alone = {name: [(1.0, own.statistics[name], *own.place)]}
                numbers[f"{name}_style{number}"] = float(self.losses.one(name, feats, alone))
        ratio = trace_ratio(self.losses, self.styles, self._targets, feats)
        return numbers if ratio is None else numbers | {"gram_trace_ratio": ratio}

    def shapes(self) -> Shapes:
        """Of all features at full size."""
        return {IMAGE: (3, *self.canvas.size)} | {
            layer: self.encoder.shape(layer, self.canvas.size) for layer in self.losses.layers()
        }

    # ---------------------------------------------------------------------------------------------------------- parts

    def _schedule(self) -> tuple[Level, ...]:
        """The levels of a picture whose every side is large enough for the layers, the losses and the styles."""
        of_layers = self.encoder.min_side_px(self.layers)
        smallest = max(of_layers, self.losses.min_side_px, min_side_for_styles(self.maker))
        s = self.settings
        return schedule(self.canvas.size, s.levels, s.coarse_steps, s.max_steps, smallest)

    def _parametrize(self, start: Tensor) -> PyramidImage:
        return PyramidImage(start, self.settings.pyramid_levels, self.settings.pyramid_gain)

    def _negligible_layer(self, image: Tensor) -> str | None:
        """The deepest layer, if the gradient hardly changes without it.

        Never one that a term needs: of a picture that starts from the photo the content loss has no gradient yet, and
        would never get one.
        """
        deepest = max(self.layers, key=self.encoder.depth)
        if self._is_needed(deepest):
            return None
        whole = self._image_gradient(image)
        self._frozen = self._only(image, deepest)
        without, self._frozen = self._image_gradient(image), {}
        share = float((whole - without).norm() / whole.norm())
        log.debug("%s has %.2g of the gradient at the end of the coarse levels", deepest, share)
        return deepest if share < self.settings.freeze_share else None

    def _is_needed(self, layer: str) -> bool:
        """Whether a term with a weight has no other layer than this one, or is no style term."""
        canonical = self.encoder.canonical
        for name, term in self.losses.terms.items():
            own = {canonical(each) for each in term.layers if each != IMAGE}
            alone = term.role != "style" or len(own) < 2
            if self.losses.weights[name] and canonical(layer) in own and alone:
                return True
        return False

    def _image_gradient(self, image: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = image.detach().requires_grad_()
            return torch.autograd.grad(self._evaluate(leaf).total, leaf)[0]

    def _advice(self) -> str:
        """What may help against losses that are not finite. L-BFGS chooses its steps by itself."""
        name, rate = self.settings.optimizer, self.optimizers().param_groups[0].get("lr")
        return "" if "lbfgs" in name or not rate else f": {smaller_rate(name, rate)} may help"

    def _only(self, image: Tensor, layer: str) -> Features:
        """The features of one layer."""
        return {layer: features(self.encoder, image, [layer])[layer]}


def optimized(picture: PictureOptimization, trainer: Trainer) -> Tensor:
    """The best picture (B, 3, H, W) after the whole optimization.

    Raises:
        Stopped: interrupted, or the loss became NaN; carries the best picture until then.
    """
    home = picture.encoder.device
    try:
        fit(trainer, picture, train_dataloaders=_Endless())
    except KeyboardInterrupt:
        picture.interrupted = True
    picture.encoder.to(home)  # from the CPU, where Lightning leaves it; other methods may share it
    if picture.failure:
        raise Stopped(picture.failure, picture.best_picture())
    if picture.interrupted:
        raise Stopped(f"interrupted at step {picture.steps_done}", picture.best_picture(), interrupted=True)
    return picture.best_picture()


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
