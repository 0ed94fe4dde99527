"""The common part of all trainings: `Sources`, the base class `Training`, and helpers for batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from nstexp.core.errors import UserError
from nstexp.core.losses.loss_set import LossSet
from nstexp.core.losses.terms import Shapes
from nstexp.core.networks.encoder import IMAGE, Encoder
from nstexp.methods.settings import Recipe


@dataclass(frozen=True)
class Sources:
    """The inputs of a training besides its data set.

    Args:
        style: style pictures, for methods that learn a fixed set of styles: a file, folder or pattern, or a list.
        resume_from: the file of a network to start from.
        add_style: pictures of further styles for the network of `resume_from`, which keeps its present styles.
        style_names: names of the new styles, one per picture; None: the names of their files.
        max_input_megapixels: size limit of each of these pictures.
        seed: seed of all random numbers of the training.
    """

    style: str | Sequence[str] | None = None
    resume_from: str | None = None
    add_style: str | Sequence[str] | None = None
    style_names: Sequence[str] | None = None
    max_input_megapixels: float = 200.0
    seed: int = 0


class Training(LightningModule):
    """The training of one network; a step is one optimizer step on one batch.

    A batch is a mapping with `content` and, if `wants_pairs`, `style`: uint8 (B, 3, H, W).

    Args:
        encoder: the feature network of the losses.
        losses: loss terms and their weights.
        recipe: optimizer, schedule and number of steps.

    Attributes:
        file_name: name of the network's file in the run folder.
        wants_pairs: whether batches contain style pictures.
        multiple: height and width of the pictures must be multiples of this.
        init_pictures: number of photos, and of paintings, that `start` needs.
        content: the photos to use if the user names none.
        identity: name of the checkpoint's entry with `info()`.

    Raises:
        UserError: a loss term that only works on clips.
    """

    name, log_prefix = "train", ""
    file_name: str
    wants_pairs = True
    multiple = 8
    init_pictures = 0
    content: str | Sequence[str] | None = None
    identity: str

    def __init__(self, encoder: Encoder, losses: LossSet, recipe: Recipe) -> None:
        super().__init__()
        self.encoder, self.losses, self.recipe = encoder, losses, recipe
        self.max_steps = recipe.max_steps
        self.interrupted, self.requeue = False, False
        self.failure: str | None = None
        if losses.has("before"):
            raise UserError("the loss term 'temporal' is for clips with method=gatys: leave it out of loss=[...]")

    @property
    def network(self) -> torch.nn.Module:
        """The network that is trained."""
        raise NotImplementedError

    @property
    def min_side_px(self) -> int:
        """Shortest side of a picture, in pixels, that suffices for every loss term and every layer in use."""
        return max(self.losses.min_side_px, self.encoder.min_side_px(self.losses.layers()))

    def start(self, pictures: Tensor | None) -> None:
        """Set the network's initial weights.

        Args:
            pictures: photos and then paintings, RGB (2 init_pictures, 3, H, W) in [0, 1]; None if `init_pictures` is 0.
        """

    def info(self) -> Any:
        """The description that is stored in the network's file: a dataclass of plain values."""
        raise NotImplementedError

    def difference(self, made: Mapping[str, Any]) -> str | None:
        """How the training of a checkpoint differs from this one, for an error message; None if it may be continued.

        Args:
            made: the checkpoint's entry with `info()`.
        """
        raise NotImplementedError

    def save(self, path: Path) -> None:
        """Write the network's current weights to a safetensors file."""
        raise NotImplementedError

    @property
    def steps_done(self) -> int:
        """Number of optimizer steps so far."""
        return self.trainer.global_step if self._trainer is not None else 0

    def batch_number(self, batch_idx: int) -> int:
        """The number of a batch in the whole training, counted over all processes; an interruption does not change it.

        Args:
            batch_idx: the argument of `training_step`.
        """
        accumulated = self.trainer.accumulate_grad_batches
        number = self.trainer.global_step * accumulated + batch_idx % accumulated
        return number * self.trainer.world_size + self.trainer.global_rank

    @property
    def trained(self) -> list[Tensor]:
        """The parameters that are trained."""
        return [p for p in self.network.parameters() if p.requires_grad]

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = self.recipe.make_optimizer(self.trained)
        schedule = LambdaLR(optimizer, lambda step: self.recipe.lr_factor(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def shapes(self, size: tuple[int, int]) -> Shapes:
        """The shapes (C, H, W) of the image and all features, by layer, for a picture of `size` = (height, width)."""
        return {IMAGE: (3, *size)} | {layer: self.encoder.shape(layer, size) for layer in self.losses.layers()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Use the learning rate of this run's settings, if it differs from that of the checkpoint."""
        rate = self.recipe.make_optimizer(self.trained).param_groups[0]["lr"]
        for group in checkpoint["optimizer_states"][0]["param_groups"]:
            if group["initial_lr"] != rate:
                group["lr"] *= rate / group["initial_lr"]
                group["initial_lr"] = rate
        checkpoint["lr_schedulers"][0]["base_lrs"] = [rate]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[self.identity] = vars(self.info())


def to_unit_range(pixels: Tensor) -> Tensor:
    """uint8 pixels as float32 in [0, 1]; other tensors unchanged."""
    return pixels.float().div_(255) if pixels.dtype == torch.uint8 else pixels


def for_samples(target: Any, which: Tensor) -> Any:
    """Select samples of the batch in every tensor of a target.

    Args:
        target: a tensor (B, ...), or mappings, tuples and lists of tensors; other values are returned as they are.
        which: indices of the samples, (N,).

    Returns:
        The same structure, with tensors (N, ...).
    """
    if isinstance(target, Tensor):
        return target[which]
    if isinstance(target, Mapping):
        return {name: for_samples(value, which) for name, value in target.items()}
    if isinstance(target, tuple | list):
        return type(target)(for_samples(value, which) for value in target)
    return target
