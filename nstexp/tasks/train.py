"""`task=train`: train the network of a method."""

import logging
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule, Trainer
from torch import Tensor

from nstexp import callbacks, interrupts
from nstexp.core.errors import Stopped, UserError, whole
from nstexp.core.networks.tensor_files import check_numbers, read_tensors
from nstexp.methods.base import Trainable
from nstexp.methods.fitting import fit, smaller_rate
from nstexp.methods.training import Sources, Training
from nstexp.outputs import RunFolder
from nstexp.sweeps import cluster
from nstexp.tasks.request import Request

log = logging.getLogger(__name__)
LAST = "checkpoints/last.ckpt"
WRITTEN = ("losses.csv", "validation.csv", "skipped.txt", "checkpoints/best.ckpt")


def train(
    method: Trainable,
    folder: RunFolder,
    request: Request,
    data: LightningDataModule,
    log_every_n_steps: int = 10,
    checkpoint_every_n_steps: int = 500,
    validate_every_n_steps: int = 500,
    resume_from: str | None = None,
    add_style: str | Sequence[str] | None = None,
    style_names: Sequence[str] | None = None,
) -> Path:
    """Train a network, or continue the training in the same run folder; returns the path of the network's file.

    Args:
        method: the method whose network is trained.
        folder: the run folder; the training continues from its checkpoints/last.ckpt, if there is one.
        request: the styles, for methods that learn a fixed set of styles; and the seed.
        data: batches of `content` and, for methods that train on pairs, `style`.
        log_every_n_steps, checkpoint_every_n_steps: optimizer steps between two log entries and two checkpoints.
        validate_every_n_steps: optimizer steps between two validations; 0: no validation.
        resume_from, add_style, style_names: see `Sources`.

    Raises:
        UserError: invalid data or settings, or a checkpoint of another training.
        Stopped: interrupted, or the loss became NaN.
    """
    if not isinstance(method, Trainable):
        raise UserError(f"task=train: method={folder.summary.method} has nothing to train")
    whole("task.checkpoint_every_n_steps", checkpoint_every_n_steps, 1)
    whole("task.validate_every_n_steps", validate_every_n_steps)
    limit = request.max_input_megapixels
    module: Training = method.training_module(
        Sources(request.style, resume_from, add_style, style_names, limit, request.seed)
    )
    folder.check(*WRITTEN, module.file_name)
    pictures: Any = data  # every data source of nstexp has this method, see `data.batches`
    pictures.expect(module.min_side_px, module.multiple, module.wants_pairs, module.content)
    data.setup("fit")
    last = folder.last_checkpoint
    if last.exists():
        done = _check_checkpoint(last, module)
        folder.place.known.add(LAST)  # a checkpoint may be replaced even if the user has copied it here
        folder.check(LAST)
        if done >= module.max_steps:
            log.info("%s is at step %d already: set method.max_steps larger to go on", last, done)
        else:
            log.info("going on at step %d of %d, from %s", done, module.max_steps, last)
    elif folder.writes:  # only in the first process, which sends its weights to the others
        module.start(_pictures(data, module.init_pictures) if module.init_pictures else None)
    trainer, validation = _make_trainer(
        method, folder, log_every_n_steps, checkpoint_every_n_steps, validate_every_n_steps
    )
    _fit(trainer, module, data, last)
    if module.failure:
        rate = module.recipe.make_optimizer(module.trained).param_groups[0]["lr"]
        advice = _how_to_continue(last)
        raise Stopped(f"{module.failure}: {smaller_rate(module.recipe.optimizer, rate)} may help; {advice}")
    if module.interrupted:
        why = "warned that this machine is taken away" if module.requeue else "interrupted"
        message = f"{why} at step {module.steps_done}; {_how_to_continue(last)}"
        raise Stopped(message, interrupted=True, requeue=module.requeue)
    result = folder.path / module.file_name
    if trainer.is_global_zero:
        module.save(folder.claim(module.file_name))
        folder.summary.outputs.append(str(result))
        folder.record_metrics("train", {**validation.last, "steps": module.steps_done})
        if skipped := folder.read_skipped():
            log.warning("%d pictures could not be used, see %s", len(skipped), folder.path / "skipped.txt")
    return result


def _fit(trainer: Trainer, module: Training, data: LightningDataModule, last: Path) -> None:
    try:
        fit(trainer, module, datamodule=data, ckpt_path=str(last) if last.exists() else None, weights_only=True)
    except BaseException as error:
        # The other processes that Lightning started would wait for this one forever; only SIGKILL ends them for sure.
        launcher: Any = trainer.strategy.launcher
        if hasattr(launcher, "kill"):
            launcher.kill(getattr(signal, "SIGKILL", signal.SIGTERM))
        if interrupts.caused(error) and not isinstance(error, UserError):
            raise Stopped(f"interrupted; {_how_to_continue(last)}", interrupted=True) from None
        raise


def _make_trainer(
    method: Trainable, folder: RunFolder, log_every: int, save_every: int, validate_every: int
) -> tuple[Trainer, callbacks.Validation]:
    """The trainer, and the callback with the results of the last validation."""
    validation = callbacks.Validation(folder)
    watchers = [
        callbacks.TrainingProgress(),
        callbacks.TrainingLog(folder, log_every),
        validation,
        callbacks.Checkpoints(folder, save_every, validation),
        callbacks.StopOnInterrupt(cluster.warnings()),
    ]
    trainer: Trainer = method.trainer(
        callbacks=watchers,
        max_steps=method.recipe.max_steps,
        max_epochs=-1,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # the data sources split the data between processes by themselves
        check_val_every_n_epoch=None,
    )
    if validate_every:
        trainer.val_check_interval = validate_every * trainer.accumulate_grad_batches
    else:
        trainer.limit_val_batches = 0
    return trainer, validation


def _pictures(data: LightningDataModule, count: int) -> Tensor:
    """The first `count` photos of the training and as many paintings, RGB (2 count, 3, H, W) in [0, 1]."""
    parts: list[Tensor] = []
    for batch in data.train_dataloader():
        parts += [torch.cat([batch["content"], batch["style"]])]
        if sum(len(part) for part in parts) >= 2 * count:
            break
    return torch.cat(parts)[: 2 * count].float() / 255


def _check_checkpoint(path: Path, module: Training) -> int:
    """The step at which a checkpoint was written.

    Raises:
        UserError: the file is damaged, or belongs to another method, network or optimizer.
    """
    try:
        checkpoint, _ = read_tensors(path)
        step, state = int(checkpoint["global_step"]), checkpoint["state_dict"]
    except UserError:
        raise
    except Exception as error:  # damaged files raise many types of exceptions
        raise UserError(
            f"{path}: not a checkpoint of this training ({type(error).__name__}); delete it to begin again"
        ) from error
    check_numbers({"state_dict": state}, f"{path} (delete it to begin again)")
    if module.identity not in checkpoint:
        raise UserError(f"{path} belongs to a training of another method: choose another run_dir")
    saved, current = (
        set(group) - {"initial_lr"}
        for group in (
            checkpoint["optimizer_states"][0]["param_groups"][0],
            module.recipe.make_optimizer(module.trained).param_groups[0],
        )
    )
    if saved != current:
        raise UserError(f"{path} was trained with another method.optimizer: choose that one, or another run_dir")
    difference = module.difference(checkpoint[module.identity])
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    if difference is None and {name: tuple(value.shape) for name, value in state.items()} != expected:
        difference = "layers of other sizes"
    if difference is not None:
        raise UserError(f"{path} belongs to a training with {difference}: choose another run_dir")
    return step


def _how_to_continue(last: Path) -> str:
    """The end of a message about a training that stopped early."""
    if last.exists():
        return f"the same command with run_dir={last.parent.parent} goes on from {last}"
    return "there is no checkpoint yet"
