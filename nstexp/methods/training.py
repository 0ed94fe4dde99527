"""What trainings of feed-forward methods share: `Sources`, `Training` and the batches' format."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from nstexp.core.errors import UserError
from nstexp.core.losses.loss_set import LossSet
from nstexp.core.losses.terms import Shapes
from nstexp.core.networks.encoder import IMAGE, Encoder
from nstexp.methods.settings import Recipe


@dataclass(frozen=True)
class Sources:
    """What a training is given beside its data.

    Args:
        style: pictures of the styles, of methods that learn a fixed number of them.
        resume_from: file of a network to start from.
        add_style: pictures of styles that network is to learn, without unlearning its own.
        style_names: what the new styles are called, one for each; None: as their files.
        max_input_megapixels: limit on one of these files.
        seed: of everything that the training draws.
    """

    style: str | Sequence[str] | None = None
    resume_from: str | None = None
    add_style: str | Sequence[str] | None = None
    style_names: Sequence[str] | None = None
    max_input_megapixels: float = 200.0
    seed: int = 0


class Training(LightningModule):
    """One network's training; a step is one optimizer step on one batch.

    A batch is a mapping with `content` and, of methods that want pairs, `style`: uint8 (B, 3, H, W).

    Attributes:
        file_name: of the result in the run folder.
        wants_pairs: whether batches have style pictures.
        multiple: sides of the pictures have to be multiples of this.
        init_pictures: how many pictures of each kind `start` wants.
        content: the photos to take if the user names none.
        identity: key of the checkpoint's entry that says what the network is.
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
        self.interrupted, self.requeue, self.failure = False, False, None
        if losses.has("before"):
            raise UserError("the loss term 'temporal' is for clips with method=gatys: leave it out of loss=[...]")

    @property
    def network(self) -> torch.nn.Module:
        """What is trained."""
        raise NotImplementedError

    @property
    def min_side_px(self) -> int:
        """Shortest side of the pictures that every loss term and every layer it reads can do with."""
        return max(self.losses.min_side_px, self.encoder.min_side_px(self.losses.layers()))

    def start(self, pictures: Tensor | None) -> None:
        """Give the network the weights that a new training starts from.

        Args:
            pictures: RGB (2 init_pictures, 3, H, W) in [0, 1], photos and paintings.
        """

    def info(self) -> Any:
        """What a file of the network says about itself: a dataclass of plain values."""
        raise NotImplementedError

    def difference(self, made: Mapping[str, Any]) -> str | None:
        """What a checkpoint's record has that this training has not; None: it is of such a training."""
        raise NotImplementedError

    def save(self, path: Path) -> None:
        """The network as it is now, as safetensors."""
        raise NotImplementedError

    @property
    def steps_done(self) -> int:
        return self.trainer.global_step if self._trainer is not None else 0

    @property
    def trained(self) -> list[Tensor]:
        return [p for p in self.network.parameters() if p.requires_grad]

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = self.recipe.make_optimizer(self.trained)
        schedule = LambdaLR(optimizer, lambda step: self.recipe.lr_factor(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def shapes(self, size: tuple[int, int]) -> Shapes:
        """Of all features of a picture of (height, width)."""
        return {IMAGE: (3, *size)} | {layer: self.encoder.shape(layer, size) for layer in self.losses.layers()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A learning rate that was changed since takes the place of the saved one."""
        rate = self.recipe.make_optimizer(self.trained).param_groups[0]["lr"]
        for group in checkpoint["optimizer_states"][0]["param_groups"]:
            if group["initial_lr"] != rate:
                group["lr"] *= rate / group["initial_lr"]
                group["initial_lr"] = rate
        checkpoint["lr_schedulers"][0]["base_lrs"] = [rate]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[self.identity] = vars(self.info())


def to_unit_range(pixels: Tensor) -> Tensor:
    return pixels.float().div_(255) if pixels.dtype == torch.uint8 else pixels


def for_samples(target: Any, which: Tensor) -> Any:
    """The same target for other samples of the batch, whatever it is made of."""
    if isinstance(target, Tensor):
        return target[which]
    if isinstance(target, Mapping):
        return {name: for_samples(value, which) for name, value in target.items()}
    if isinstance(target, tuple | list):
        return type(target)(for_samples(value, which) for value in target)
    return target
