"""Lightning callbacks: what a person sees while a picture is made, and how it is stopped."""

import logging
import math
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor
from tqdm import tqdm

from nstexp import interrupts, loggers
from nstexp.console import progress
from nstexp.core.losses.loss_set import LossSet
from nstexp.core.losses.terms import Shapes
from nstexp.core.text import printable
from nstexp.interrupts import ENDINGS, SignalHandlers
from nstexp.outputs import RunFolder

log = logging.getLogger(__name__)


class PictureModule(Protocol):
    """What the callbacks of a picture's optimization ask of its Lightning module.

    Attributes:
        name, log_prefix: of the picture, for the bar and the loggers.
        max_steps, steps_done: evaluations of the loss.
        recorded: whether losses and pictures go to the run folder and the loggers.
        weighs: whether the weights are factors of the losses.
        interrupted, failure: set from outside to stop; why the work failed.
    """

    name: str
    log_prefix: str
    max_steps: int
    steps_done: int
    recorded: bool
    weighs: bool
    losses: LossSet
    interrupted: bool
    failure: str | None

    def shapes(self) -> Shapes: ...

    def picture(self) -> Tensor: ...

    def best_picture(self) -> Tensor | None: ...

    def final_losses(self) -> dict[str, float]: ...


class TrainingModule(Protocol):
    """What the callbacks of a training ask of its Lightning module.

    A training step returns `values` (`LossValues`) and `count`, the pictures that it made; a validation step `values`
    and `pictures`, (N, 3, 3, H, W): content, style and result of each.

    Attributes:
        name: for the bar and the tables.
        max_steps, steps_done: optimizer steps.
        interrupted, requeue, failure: set from outside to stop, and to go on later; why the training failed.
    """

    name: str
    max_steps: int
    steps_done: int
    losses: LossSet
    interrupted: bool
    requeue: bool
    failure: str | None

    def shapes(self, size: tuple[int, int]) -> Shapes: ...

    def parameters(self) -> Iterator[Tensor]: ...


class ProgressBar(Callback):
    """One tqdm line on stderr with the loss and the time left, counted in evaluations of the loss."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: PictureModule) -> None:
        self._bar = progress(pl_module.max_steps, pl_module.name, "step", leave=pl_module.recorded)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: PictureModule, outputs: Mapping[str, Any], batch, batch_idx
    ) -> None:
        if outputs:
            self._bar.set_postfix_str(f"loss {outputs['total']:.4g}", refresh=False)
        self._bar.update(pl_module.steps_done - self._bar.n)

    def on_exception(self, trainer: Trainer, pl_module: PictureModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")  # before the sentence that the user is to read

    def teardown(self, trainer: Trainer, pl_module: PictureModule, stage: str) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class LossLog(Callback):
    """Every N steps, the unweighted terms go to the loggers and to losses.csv in the run folder; what multiplies them
    is said at the start."""

    def __init__(self, folder: RunFolder, every_n_steps: int) -> None:
        self.folder, self.every_n_steps = folder, every_n_steps
        self._next = 0
        self._started = 0.0
        self._unwritten: Mapping[str, Any] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: PictureModule) -> None:
        self._next, self._started, self._unwritten = 0, time.perf_counter(), {}
        if pl_module.recorded and pl_module.weighs:
            _say_coefficients(self.folder, pl_module.losses, pl_module.shapes())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: PictureModule, outputs: Mapping[str, Any], batch, batch_idx
    ) -> None:
        if outputs and pl_module.recorded:
            seconds = round(time.perf_counter() - self._started, 3)
            self._unwritten = {"step": pl_module.steps_done, **outputs, "seconds": seconds}
            if pl_module.steps_done >= self._next:
                self._next = pl_module.steps_done + self.every_n_steps
                self._write(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: PictureModule) -> None:
        if pl_module.recorded:
            self._write(trainer, pl_module)
            self.folder.record_metrics(pl_module.name, {**pl_module.final_losses(), "steps": pl_module.steps_done})

    def on_exception(self, trainer: Trainer, pl_module: PictureModule, exception: BaseException) -> None:
        if pl_module.recorded and pl_module.steps_done:  # in a hurry: without another look at the picture
            self._write(trainer, pl_module)
            self.folder.record_metrics(pl_module.name, {"steps": pl_module.steps_done})

    def _write(self, trainer: Trainer, pl_module: PictureModule) -> None:
        """The last step, unless it has been written."""
        row, self._unwritten = self._unwritten, {}
        if row:
            self.folder.append_losses({"image": pl_module.name, **row})
            values = {key: value for key, value in row.items() if key not in ("step", "seconds")}
            named = {f"{pl_module.log_prefix}loss/{key}": value for key, value in values.items()}
            loggers.log_numbers(trainer.loggers, named, step=row["step"])


def _say_coefficients(folder: RunFolder, losses: LossSet, shapes: Shapes) -> None:
    """What each term is multiplied by, in units in which the weights of different codes compare."""
    found = losses.coefficients(shapes)
    if found != folder.summary.coefficients:
        folder.summary.coefficients = found
        for line in losses.describe(shapes):
            log.info("loss: %s", line)


class TrainingProgress(Callback):
    """One tqdm line on stderr with the total loss, counted in optimizer steps; goes on where a resumed run stopped."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._next = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: TrainingModule) -> None:
        self._bar = progress(
            pl_module.max_steps,
            pl_module.name,
            "step",
            seconds_in_a_log=30.0,
            initial=pl_module.steps_done,
            disable=not trainer.is_global_zero,
        )

    def on_train_batch_end(self, trainer: Trainer, pl_module: TrainingModule, outputs, batch, batch_idx) -> None:
        if time.perf_counter() >= self._next:  # fetching the loss from a GPU makes it wait
            self._next = time.perf_counter() + 0.5
            self._bar.set_postfix_str(f"loss {float(outputs['values'].total):.4g}", refresh=False)
        self._bar.update(pl_module.steps_done - self._bar.n)

    def on_exception(self, trainer: Trainer, pl_module: TrainingModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")  # before the sentence that the user is to read

    def teardown(self, trainer: Trainer, pl_module: TrainingModule, stage: str) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class TrainingLog(Callback):
    """Every N steps, the unweighted terms of the step (their mean over its parts and all processes), the throughput and
    the share of time spent waiting for data go to the loggers and to losses.csv; skipped pictures go to skipped.txt.

    A loss that is not finite stops the training.
    """

    def __init__(self, folder: RunFolder, every_n_steps: int) -> None:
        self.folder, self.every_n_steps = folder, every_n_steps
        self.skipped: dict[str, None] = {}

    def on_train_start(self, trainer: Trainer, pl_module: TrainingModule) -> None:
        self.folder.continue_losses(pl_module.steps_done)
        self.skipped = dict.fromkeys(self.folder.read_skipped())
        self._listed = len(self.skipped)
        self._step, self._parts = pl_module.steps_done, []
        self._restart()

    def _restart(self) -> None:
        self._since = self._idle_since = time.perf_counter()
        self._waited, self._pictures = 0.0, 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: TrainingModule, batch, batch_idx) -> None:
        self._waited += time.perf_counter() - self._idle_since
        if not self.folder.summary.coefficients:
            _say_coefficients(self.folder, pl_module.losses, pl_module.shapes(tuple(batch["content"].shape[-2:])))
        self._rate = trainer.optimizers[0].param_groups[0]["lr"]  # of this step; at its end it is the next one's

    def on_train_batch_end(self, trainer: Trainer, pl_module: TrainingModule, outputs, batch, batch_idx) -> None:
        self._pictures += outputs["count"] * trainer.world_size
        self.skipped |= dict.fromkeys(printable(line, one_line=True) for line in batch.get("skipped", ()))
        step = pl_module.steps_done
        self._parts.append(outputs["values"])
        if step > self._step:  # and not only another part of an accumulated batch
            if step == 1 or step % self.every_n_steps == 0 or step == pl_module.max_steps:
                self._write(trainer, pl_module, step)
                self._restart()
            self._step, self._parts = step, []
        self._idle_since = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: TrainingModule) -> None:
        self._restart()

    def _write(self, trainer: Trainer, pl_module: TrainingModule, step: int) -> None:
        names = ("total", *self._parts[0].terms)
        mean = torch.stack([torch.stack([v.total, *v.terms.values()]) for v in self._parts]).mean(0)
        if trainer.world_size > 1:
            mean = trainer.strategy.reduce(mean, reduce_op="mean")
        numbers = dict(zip(names, mean.tolist(), strict=True))
        seconds = time.perf_counter() - self._since
        speed = {"images_per_second": self._pictures / seconds, "data_wait": self._waited / seconds}
        if trainer.is_global_zero:
            row = {"image": pl_module.name, "step": step, **numbers, "lr": self._rate}
            self.folder.append_losses(row | {key: round(value, 4) for key, value in speed.items()})
            named = {f"loss/{key}": value for key, value in numbers.items()}
            loggers.log_numbers(trainer.loggers, {**named, **speed, "lr": self._rate}, step=step)
        self._write_skipped(trainer)
        culprit = next((key for key in (*names[1:], "total") if not math.isfinite(numbers[key])), None)
        if culprit is not None:
            pl_module.failure = f"the loss '{culprit}' became {numbers[culprit]} at step {step}"
            trainer.should_stop = True

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: TrainingModule, outputs, batch, batch_idx, dataloader_idx=0
    ) -> None:
        self.skipped |= dict.fromkeys(printable(line, one_line=True) for line in batch.get("skipped", ()))

    def on_train_end(self, trainer: Trainer, pl_module: TrainingModule) -> None:
        self._write_skipped(trainer)

    def _write_skipped(self, trainer) -> None:
        if trainer.world_size > 1:
            everywhere: list[list[str]] = [[] for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(everywhere, list(self.skipped))
            self.skipped = dict.fromkeys(line for lines in everywhere for line in lines)
        if len(self.skipped) > self._listed:
            self._listed = len(self.skipped)
            self.folder.write_skipped(self.skipped)


class Validation(Callback):
    """After every validation: mean losses to the loggers and validation.csv, a grid of content, style and result to the
    loggers and to images/ (the step in its name)."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.last: dict[str, float] = {}

    def on_validation_start(self, trainer: Trainer, pl_module: TrainingModule) -> None:
        self._rows, self._pictures = [], []

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: TrainingModule, outputs, batch, batch_idx, dataloader_idx=0
    ) -> None:
        self._rows += [outputs["values"].numbers()] * len(batch["content"])
        self._pictures.append(outputs["pictures"].float().cpu())

    def on_validation_end(self, trainer: Trainer, pl_module: TrainingModule) -> None:
        if pl_module.interrupted or not self._rows:  # Lightning validates once more when it is told to stop
            return
        self.last = {key: sum(row[key] for row in self._rows) / len(self._rows) for key in self._rows[0]}
        step = pl_module.steps_done
        if not trainer.is_global_zero:
            return
        pairs = torch.cat(self._pictures)  # (N, 3, 3, H, W): content, style, result
        grid = pairs.permute(1, 2, 3, 0, 4).flatten(3).permute(1, 0, 2, 3).flatten(1, 2)  # kinds below each other
        self.folder.append_validation({"step": step, **self.last})
        self.folder.save_progress(grid, "validation", step)
        loggers.log_numbers(trainer.loggers, {f"validation/{k}": v for k, v in self.last.items()}, step=step)
        loggers.log_picture(trainer.loggers, "validation/pictures", grid, step)


class Checkpoints(Callback):
    """checkpoints/last.ckpt every N steps, when the training ends and when it is interrupted; checkpoints/best.ckpt
    whenever the validation's total was never lower. Each replaces the one before by a rename."""

    def __init__(self, folder: RunFolder, every_n_steps: int, validation: Validation) -> None:
        self.folder, self.every_n_steps, self.validation = folder, every_n_steps, validation
        self.best: float | None = None
        self._saved = -1

    def on_train_start(self, trainer: Trainer, pl_module: TrainingModule) -> None:
        self._saved = pl_module.steps_done
        # Not kept in the checkpoint, which is written before the validation at its step.
        totals = [float(row["total"]) for row in self.folder.read_validation()]
        self.best = trainer.strategy.broadcast(min(filter(math.isfinite, totals), default=None))

    def on_train_batch_end(self, trainer: Trainer, pl_module: TrainingModule, outputs, batch, batch_idx) -> None:
        step = pl_module.steps_done
        if step % self.every_n_steps == 0 and step != self._saved:
            self._save(trainer, pl_module, "last")

    def on_validation_end(self, trainer: Trainer, pl_module: TrainingModule) -> None:
        if pl_module.interrupted:
            return
        # One process decides for all: rounding may differ, and all take part in saving.
        total = trainer.strategy.broadcast(self.validation.last.get("total", math.nan))
        if math.isfinite(total) and (self.best is None or total < self.best):
            self.best = total
            self._save(trainer, pl_module, "best")

    def on_train_end(self, trainer: Trainer, pl_module: TrainingModule) -> None:
        if pl_module.steps_done != self._saved and pl_module.failure is None:
            self._save(trainer, pl_module, "last")

    def _save(self, trainer: Trainer, pl_module: TrainingModule, name: str) -> None:
        if not all(bool(p.isfinite().all()) for p in pl_module.parameters()):
            return  # the checkpoint before is good, and the next look at the loss stops the training
        if name == "last":
            self._saved = pl_module.steps_done
        with self.folder.new_checkpoint(name) as temporary:
            trainer.save_checkpoint(temporary)  # all processes take part, one writes


class PicturePanels(Callback):
    """Every N steps, the picture goes to the loggers and to images/ in the run folder (0: never); at the end the
    best one goes to the loggers."""

    def __init__(self, folder: RunFolder, every_n_steps: int) -> None:
        self.folder, self.every_n_steps = folder, every_n_steps
        self._next = 0

    def on_fit_start(self, trainer: Trainer, pl_module: PictureModule) -> None:
        self._next = self.every_n_steps

    def on_train_batch_end(self, trainer: Trainer, pl_module: PictureModule, outputs, batch, batch_idx) -> None:
        if self.every_n_steps and pl_module.recorded and pl_module.steps_done >= self._next:
            self._next += self.every_n_steps
            picture = pl_module.picture()[0]
            self.folder.save_progress(picture, pl_module.name, pl_module.steps_done)
            loggers.log_picture(trainer.loggers, f"{pl_module.log_prefix}picture", picture, pl_module.steps_done)

    def on_train_end(self, trainer: Trainer, pl_module: PictureModule) -> None:
        best = pl_module.best_picture()
        if best is not None and pl_module.recorded:
            loggers.log_picture(trainer.loggers, f"{pl_module.log_prefix}result", best[0], pl_module.steps_done)


class StopOnInterrupt(Callback):
    """The first Ctrl-C (or another of ENDINGS) ends the work after the current step, so that what it made is kept.

    A second one does not wait for the step. Lightning's own handler would exit without a picture.

    Args:
        warnings: signals by which a cluster announces that it will take the machine away. They, and then SIGTERM too,
            end a training in the same way, and mark it as one to go on with. They come in twos, so that a second one
            ends nothing sooner.
    """

    def __init__(self, warnings: Sequence[int] = ()) -> None:
        self.warnings = tuple(warnings)
        self._handlers = SignalHandlers()

    # Later than Lightning installs its own.
    def on_train_start(self, trainer: Trainer, pl_module: PictureModule | TrainingModule) -> None:
        def stop(signum, frame) -> None:
            pl_module.interrupted = True
            if self.warnings and signum in (signal.SIGTERM, *self.warnings):
                pl_module.requeue = True
            else:
                self._handlers.restore()

        pl_module.interrupted |= interrupts.asked()  # while all this was prepared
        self._handlers.install(stop, (*ENDINGS, *self.warnings))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: PictureModule | TrainingModule, outputs, batch, batch_idx
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # in the middle of an optimizer step
        stop = pl_module.interrupted
        if trainer.world_size > 1:  # all have to stop at the same step
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop:
            pl_module.interrupted = trainer.should_stop = True
        if stop and self.warnings and trainer.world_size > 1:
            pl_module.requeue = trainer.strategy.reduce_boolean_decision(pl_module.requeue, all=False)

    # Not in teardown: Lightning has taken its own handlers back by then, and to install them again would keep the
    # trainer and its picture alive.
    def on_train_end(self, trainer: Trainer, pl_module: PictureModule | TrainingModule) -> None:
        self._handlers.restore()

    def on_exception(
        self, trainer: Trainer, pl_module: PictureModule | TrainingModule, exception: BaseException
    ) -> None:
        self._handlers.restore()
