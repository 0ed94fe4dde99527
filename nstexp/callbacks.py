"""Lightning callbacks: what a person sees while a picture is made, and how it is stopped."""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from tqdm import tqdm

from nstexp import loggers
from nstexp.outputs import RunFolder


class ProgressBar(Callback):
    """One tqdm line on stderr with the loss and the time left, counted in evaluations of the loss."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seconds = 0.5 if sys.stderr.isatty() else 10.0  # a log file wants few lines
        self._bar = tqdm(
            total=pl_module.max_steps, desc=pl_module.name, unit="step", file=sys.stderr, mininterval=seconds
        )

    def on_train_batch_end(self, trainer, pl_module, outputs: Mapping[str, Any], batch, batch_idx) -> None:
        if outputs:
            self._bar.set_postfix_str(f"loss {outputs['total']:.4g}", refresh=False)
        self._bar.update(pl_module.steps_done - self._bar.n)

    def teardown(self, trainer, pl_module, stage: str) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class LossLog(Callback):
    """Every N steps, the unweighted terms go to the loggers and to losses.csv in the run folder."""

    def __init__(self, folder: RunFolder, every_n_steps: int) -> None:
        self.folder, self.every_n_steps = folder, every_n_steps
        self._next = 0
        self._started = 0.0

    def on_fit_start(self, trainer, pl_module) -> None:
        self._next, self._started = 0, time.perf_counter()

    def on_train_batch_end(self, trainer, pl_module, outputs: Mapping[str, Any], batch, batch_idx) -> None:
        if outputs and pl_module.steps_done >= self._next:
            self._next = pl_module.steps_done + self.every_n_steps
            self._write(trainer, pl_module, outputs)

    def on_train_end(self, trainer, pl_module) -> None:
        self.folder.record_metrics(pl_module.name, {**pl_module.final_losses(), "steps": pl_module.steps_done})

    def _write(self, trainer, pl_module, outputs: Mapping[str, Any]) -> None:
        seconds = round(time.perf_counter() - self._started, 3)
        step = pl_module.steps_done
        self.folder.append_losses({"image": pl_module.name, "step": step, **outputs, "seconds": seconds})
        named = {f"{pl_module.log_prefix}loss/{key}": value for key, value in outputs.items()}
        loggers.log_numbers(trainer.loggers, named, step=pl_module.steps_done)


class PicturePanels(Callback):
    """Every N steps, the picture goes to the loggers and to images/ in the run folder (0: never); at the end the
    best one goes to the loggers."""

    def __init__(self, folder: RunFolder, every_n_steps: int) -> None:
        self.folder, self.every_n_steps = folder, every_n_steps
        self._next = 0

    def on_fit_start(self, trainer, pl_module) -> None:
        self._next = self.every_n_steps

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if self.every_n_steps and pl_module.steps_done >= self._next:
            self._next += self.every_n_steps
            picture = pl_module.picture()[0]
            self.folder.save_progress(picture, pl_module.name, pl_module.steps_done)
            loggers.log_picture(trainer.loggers, f"{pl_module.log_prefix}picture", picture, pl_module.steps_done)


    def on_train_end(self, trainer, pl_module) -> None:
        best = pl_module.best_picture()
        if best is not None:
            loggers.log_picture(trainer.loggers, f"{pl_module.log_prefix}result", best[0], pl_module.steps_done)


class StopOnInterrupt(Callback):
    """The first Ctrl-C (or SIGTERM) ends the optimization after the current step, so that its best picture is kept.

    A second one ends the program at once. Lightning's own handler would exit without a picture.
    """

    def __init__(self) -> None:
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer, pl_module) -> None:  # later than Lightning installs its own
        def stop(signum, frame) -> None:
            self._restore()
            pl_module.interrupted = True
            trainer.should_stop = True

        if threading.current_thread() is threading.main_thread():
            self._previous = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}

    def teardown(self, trainer, pl_module, stage: str) -> None:
        self._restore()

    def _restore(self) -> None:
        for signum, handler in self._previous.items():
            with contextlib.suppress(TypeError):  # a handler that was not installed from Python reads as None
                signal.signal(signum, handler)
        self._previous = {}
