"""Lightning callbacks: progress bars, logs, validation and checkpoints, and how a run is stopped."""

# Each callback is used with modules of one protocol, which is narrower than Lightning's signatures.
# mypy: disable-error-code="override"

import logging
import math
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from nstexp import interrupts, loggers
from nstexp.console import progress
from nstexp.core.losses.loss_set import LossSet
from nstexp.core.losses.terms import Shapes
from nstexp.core.text import printable
from nstexp.interrupts import ENDINGS, SignalHandlers
from nstexp.outputs import RunFolder

log = logging.getLogger(__name__)


class PictureModule(Protocol):
    """The Lightning module of a picture's optimization, as the callbacks use it.

    Attributes:
        name: of the picture, for the progress bar.
        log_prefix: in front of all names in the loggers.
        max_steps, steps_done: evaluations of the loss.
        seconds_before: seconds that earlier runs spent on the picture, if it goes on from a checkpoint.
        recorded: whether losses and pictures go to the run folder and the loggers.
        weighs: whether the weights multiply the losses.
        interrupted: set by callbacks in order to stop.
        failure: why the work failed; None if it did not.
    """

    name: str
    log_prefix: str
    max_steps: int
    steps_done: int
    seconds_before: float
    recorded: bool
    weighs: bool
    losses: LossSet
    interrupted: bool
    failure: str | None

    def shapes(self) -> Shapes: ...  # shapes of the features, for the coefficients

    def picture(self) -> Tensor: ...  # the current picture (1, 3, H, W) in [0, 1]

    def best_picture(self) -> Tensor | None: ...  # the one with the lowest loss

    def final_losses(self) -> dict[str, float]: ...


class TrainingModule(Protocol):
    """The Lightning module of a training, as the callbacks use it.

    A training step returns `values` (`LossValues`) and `count`, the number of pictures in it. A validation step returns
    `values` and `pictures`, (N, 3, 3, H, W): content, style and result of N pairs.

    Attributes:
        name: for the progress bar and the tables.
        max_steps, steps_done: optimizer steps.
        interrupted: set by callbacks in order to stop.
        requeue: set by callbacks if the training is to continue later.
        failure: why the training failed; None if it did not.
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
    """A tqdm line on stderr with the loss and the time left, counted in evaluations of the loss."""

    _bar: Any = None

    def on_fit_start(self, trainer: Trainer, pl_module: PictureModule) -> None:
        done, leave = pl_module.steps_done, pl_module.recorded
        self._bar = progress(pl_module.max_steps, pl_module.name, "step", initial=done, leave=leave)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: PictureModule, outputs: Mapping[str, Any], batch: Any, batch_idx: int
    ) -> None:
        if outputs:
            self._bar.set_postfix_str(f"loss {outputs['total']:.4g}", refresh=False)
        self._bar.update(pl_module.steps_done - self._bar.n)

    def on_exception(self, trainer: Trainer, pl_module: PictureModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")  # before the error message is printed

    def teardown(self, trainer: Trainer, pl_module: PictureModule, stage: str) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class LossLog(Callback):
    """Logs the unweighted loss terms every N steps, to the loggers and to losses.csv, and once the coefficients.

    Args:
        folder: the run folder.
        every_n_steps: evaluations of the loss between two rows.
    """

    def __init__(self, folder: RunFolder, every_n_steps: int) -> None:
        self.folder, self.every_n_steps = folder, every_n_steps
        self._next = 0
        self._started = 0.0
        self._unwritten: Mapping[str, Any] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: PictureModule) -> None:
        done = pl_module.steps_done  # above 0 if the picture goes on from a checkpoint
        self._next, self._unwritten = done + self.every_n_steps if done else 0, {}
        self._started = time.perf_counter() - pl_module.seconds_before
        if pl_module.recorded and pl_module.weighs:
            _say_coefficients(self.folder, pl_module.losses, pl_module.shapes())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: PictureModule, outputs: Mapping[str, Any], batch: Any, batch_idx: int
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
        if pl_module.recorded and pl_module.steps_done:  # quickly, without measuring the picture again
            self._write(trainer, pl_module)
            self.folder.record_metrics(pl_module.name, {"steps": pl_module.steps_done})

    def _write(self, trainer: Trainer, pl_module: PictureModule) -> None:
        """Write the last step, unless it is written already."""
        row, self._unwritten = self._unwritten, {}
        if row:
            self.folder.append_losses({"image": pl_module.name, **row})
            values = {key: value for key, value in row.items() if key not in ("step", "seconds")}
            named = {f"{pl_module.log_prefix}loss/{key}": value for key, value in values.items()}
            loggers.log_numbers(trainer.loggers, named, step=row["step"])


def _say_coefficients(folder: RunFolder, losses: LossSet, shapes: Shapes) -> None:
    """Record and log the factor of every loss term, in units in which the weights of other codes can be compared."""
    coefficients = losses.coefficients(shapes)
    if coefficients != folder.summary.coefficients:
        folder.summary.coefficients = coefficients
        for line in losses.describe(shapes):
            log.info("loss: %s", line)


class TrainingProgress(Callback):
    """A tqdm line on stderr with the total loss, counted in optimizer steps; a resumed run continues the count."""

    _bar: Any = None

    def __init__(self) -> None:
        self._next = 0.0  # time of the next update of the loss

    def on_train_start(self, trainer: Trainer, pl_module: TrainingModule) -> None:
        self._bar = progress(
            pl_module.max_steps,
            pl_module.name,
            "step",
            seconds_in_a_log=30.0,
            initial=pl_module.steps_done,
            disable=not trainer.is_global_zero,
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: TrainingModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if time.perf_counter() >= self._next:  # seldom, because reading the loss makes a GPU wait
            self._next = time.perf_counter() + 0.5
            self._bar.set_postfix_str(f"loss {float(outputs['values'].total):.4g}", refresh=False)
        self._bar.update(pl_module.steps_done - self._bar.n)

    def on_exception(self, trainer: Trainer, pl_module: TrainingModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")  # before the error message is printed

    def teardown(self, trainer: Trainer, pl_module: TrainingModule, stage: str) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class TrainingLog(Callback):
    """Logs a training every N steps, to the loggers and to losses.csv; skipped pictures go to skipped.txt.

    Logged are the unweighted loss terms of the step (mean over its accumulated batches and all processes), the
    throughput in pictures per second, and the share of time spent waiting for data. A loss that is not finite stops the
    training.

    Args:
        folder: the run folder.
        every_n_steps: optimizer steps between two rows.
    """

    def __init__(self, folder: RunFolder, every_n_steps: int) -> None:
        self.folder, self.every_n_steps = folder, every_n_steps
        self.skipped: dict[str, None] = {}

    def on_train_start(self, trainer: Trainer, pl_module: TrainingModule) -> None:
        self.folder.continue_losses(pl_module.steps_done)
        self.skipped = dict.fromkeys(self.folder.read_skipped())
        self._listed = len(self.skipped)
        self._step = pl_module.steps_done
        self._parts: list[Any] = []  # loss values of the batches of this step
        self._restart()

    def _restart(self) -> None:
        """Start to measure the throughput again."""
        self._since = self._idle_since = time.perf_counter()
        self._waited, self._pictures = 0.0, 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: TrainingModule, batch: Any, batch_idx: int) -> None:
        self._waited += time.perf_counter() - self._idle_since
        if not self.folder.summary.coefficients:
            _say_coefficients(self.folder, pl_module.losses, pl_module.shapes(tuple(batch["content"].shape[-2:])))
        self._rate = trainer.optimizers[0].param_groups[0]["lr"]  # read here, because it changes during the step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: TrainingModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._pictures += outputs["count"] * trainer.world_size
        self.skipped |= dict.fromkeys(printable(line, one_line=True) for line in batch.get("skipped", ()))
        step = pl_module.steps_done
        self._parts.append(outputs["values"])
        if step > self._step:  # not within an accumulated batch
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
        self,
        trainer: Trainer,
        pl_module: TrainingModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.skipped |= dict.fromkeys(printable(line, one_line=True) for line in batch.get("skipped", ()))

    def on_train_end(self, trainer: Trainer, pl_module: TrainingModule) -> None:
        self._write_skipped(trainer)

    def _write_skipped(self, trainer: Trainer) -> None:
        if trainer.world_size > 1:
            everywhere: list[list[str]] = [[] for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(everywhere, list(self.skipped))
            self.skipped = dict.fromkeys(line for lines in everywhere for line in lines)
        if len(self.skipped) > self._listed:
            self._listed = len(self.skipped)
            self.folder.write_skipped(self.skipped)


class Validation(Callback):
    """Logs the mean losses of each validation, to the loggers and to validation.csv, and a grid of pictures.

    The grid shows content, style and result; it goes to the loggers and to images/, with the step in its name.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.last: dict[str, float] = {}

    def on_validation_start(self, trainer: Trainer, pl_module: TrainingModule) -> None:
        self._rows: list[dict[str, float]] = []
        self._pictures: list[Tensor] = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: TrainingModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._rows += [outputs["values"].numbers()] * len(batch["content"])
        self._pictures.append(outputs["pictures"].float().cpu())

    def on_validation_end(self, trainer: Trainer, pl_module: TrainingModule) -> None:
        if pl_module.interrupted or not self._rows:  # Lightning runs a last validation when it stops
            return
        self.last = {key: sum(row[key] for row in self._rows) / len(self._rows) for key in self._rows[0]}
        step = pl_module.steps_done
        if not trainer.is_global_zero:
            return
        pairs = torch.cat(self._pictures)  # (N, 3, 3, H, W): content, style, result
        # One row each of contents, styles and results.
        grid = pairs.permute(1, 2, 3, 0, 4).flatten(3).permute(1, 0, 2, 3).flatten(1, 2)
        self.folder.append_validation({"step": step, **self.last})
        self.folder.save_progress(grid, "validation", step)
        loggers.log_numbers(trainer.loggers, {f"validation/{k}": v for k, v in self.last.items()}, step=step)
        loggers.log_picture(trainer.loggers, "validation/pictures", grid, step)


class Checkpoints(Callback):
    """Saves checkpoints/last.ckpt every N steps, at the end and on interruption, and checkpoints/best.ckpt.

    The best checkpoint is replaced whenever the total loss of a validation is the lowest so far. Files are replaced by
    a rename, so that they are always complete.

    Args:
        folder: the run folder.
        every_n_steps: optimizer steps between two checkpoints.
        validation: the callback that measures the validation losses.
    """

    def __init__(self, folder: RunFolder, every_n_steps: int, validation: Validation) -> None:
        self.folder, self.every_n_steps, self.validation = folder, every_n_steps, validation
        self.best: float | None = None
        self._saved = -1  # step of the last checkpoint

    def on_train_start(self, trainer: Trainer, pl_module: TrainingModule) -> None:
        self._saved = pl_module.steps_done
        # Read from the table, because a checkpoint is written before the validation of its step.
        totals = [float(row["total"]) for row in self.folder.read_validation()]
        self.best = trainer.strategy.broadcast(min(filter(math.isfinite, totals), default=None))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: TrainingModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = pl_module.steps_done
        if step % self.every_n_steps == 0 and step != self._saved:
            self._save(trainer, pl_module, "last")

    def on_validation_end(self, trainer: Trainer, pl_module: TrainingModule) -> None:
        if pl_module.interrupted:
            return
        # One process decides for all, because rounding may differ and all processes must take part in saving.
        total = trainer.strategy.broadcast(self.validation.last.get("total", math.nan))
        if math.isfinite(total) and (self.best is None or total < self.best):
            self.best = total
            self._save(trainer, pl_module, "best")

    def on_train_end(self, trainer: Trainer, pl_module: TrainingModule) -> None:
        if pl_module.steps_done != self._saved and pl_module.failure is None:
            self._save(trainer, pl_module, "last")

    def _save(self, trainer: Trainer, pl_module: TrainingModule, name: str) -> None:
        if not all(bool(p.isfinite().all()) for p in pl_module.parameters()):
            return  # keep the previous good checkpoint; the next loss check stops the training
        if name == "last":
            self._saved = pl_module.steps_done
        with self.folder.new_checkpoint(name) as temporary:
            trainer.save_checkpoint(temporary)  # all processes take part, one writes


class PicturePanels(Callback):
    """Sends the picture to the loggers and to images/ every N steps, and the best picture to the loggers at the end.

    Args:
        folder: the run folder.
        every_n_steps: evaluations of the loss between two pictures; 0: none.
    """

    def __init__(self, folder: RunFolder, every_n_steps: int) -> None:
        self.folder, self.every_n_steps = folder, every_n_steps
        self._next = 0

    def on_fit_start(self, trainer: Trainer, pl_module: PictureModule) -> None:
        if self.every_n_steps:
            self._next = (pl_module.steps_done // self.every_n_steps + 1) * self.every_n_steps

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: PictureModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
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
    """Stops the work after the current step on the first Ctrl-C (or another of ENDINGS), so that its result is kept.

    A second signal does not wait for the step. Lightning's handler would exit without a picture.

    Args:
        warnings: signals by which a cluster warns that it will take the machine away. They, and then SIGTERM too, stop
            a training in the same way and mark it to be continued. They may come twice, so a repeated one has no
            further effect.
    """

    def __init__(self, warnings: Sequence[int] = ()) -> None:
        self.warnings = tuple(warnings)
        self._handlers = SignalHandlers()

    # Not earlier, because Lightning installs its handlers just before.
    def on_train_start(self, trainer: Trainer, pl_module: PictureModule | TrainingModule) -> None:
        def stop(signum: int, frame: Any) -> None:
            pl_module.interrupted = True
            if self.warnings and signum in (signal.SIGTERM, *self.warnings):
                pl_module.requeue = True  # type: ignore[union-attr]  # only trainings have warnings
            else:
                self._handlers.restore()

        pl_module.interrupted |= interrupts.asked()  # if a signal came during the preparation
        self._handlers.install(stop, (*ENDINGS, *self.warnings))

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: PictureModule | TrainingModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # in the middle of an optimizer step
        stop = pl_module.interrupted
        if trainer.world_size > 1:  # all processes must stop at the same step
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop:
            pl_module.interrupted = trainer.should_stop = True
        if stop and self.warnings and trainer.world_size > 1:
            requeue = pl_module.requeue  # type: ignore[union-attr]  # only trainings have warnings
            requeue = trainer.strategy.reduce_boolean_decision(requeue, all=False)
            pl_module.requeue = requeue  # type: ignore[union-attr]

    # Not in teardown: by then Lightning has restored its handlers, and installing them again would keep the trainer and
    # its picture in memory.
    def on_train_end(self, trainer: Trainer, pl_module: PictureModule | TrainingModule) -> None:
        self._handlers.restore()

    def on_exception(
        self, trainer: Trainer, pl_module: PictureModule | TrainingModule, exception: BaseException
    ) -> None:
        self._handlers.restore()
