"""What both data modules hand to Lightning: endless training batches, and a few fixed validation batches."""

import logging
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from pytorch_lightning import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from nstexp.core.errors import UserError, multiples_of_8, wholes
from nstexp.data.pictures import Cropping, Unusable, center_crop
from nstexp.data.storage import persistently

Batch = dict[str, Any]  # content and style: uint8 (B, 3, px, px); skipped: list of "path: reason"
Spec = str | list[str]
NamedSource = tuple[str, str | bytes]  # what the log calls a picture, and its path or its file's bytes
log = logging.getLogger(__name__)
VAL_BATCH = 4
ATTEMPTS = 100


class Pairs(LightningDataModule):
    """What the data modules have in common: their settings.

    Args:
        content: where the photos are; None: `expect` says.
        style: where the style pictures are; None: batches have none.
        batch_size: pairs per process and step.
        crop_px: side of the crops, a multiple of 8.
        resize_px: see `Cropping`.
        resize: see `Cropping`.
        flip: see `Cropping`.
        workers: processes that read and decode; 0: none but the trainer's own.
        val_content: pictures for validation; None: held out of `content`.
        val_style: the same for `style`.
        val_pairs: how many pairs validation has; 0: no validation.
        val_px: side of the validation pictures: short side resized to this, center cropped.
        max_megapixels: larger pictures are skipped.
        retries: how often reading is tried again where a disk or a server fails, after 1, 2, 4, ... seconds.
        seed: of order and crops.

    Raises:
        ArgumentError: a bad value.
    """

    def __init__(
        self,
        content: Spec | None,
        style: Spec | None = None,
        batch_size: int = 8,
        crop_px: int = 256,
        resize_px: int | list[int] = 512,
        resize: str = "short_side",
        flip: bool = False,
        workers: int = 2,
        val_content: Spec | None = None,
        val_style: Spec | None = None,
        val_pairs: int = 8,
        val_px: int = 256,
        max_megapixels: float = 200,
        retries: int = 5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.cropping = Cropping(crop_px, resize_px, resize, flip, max_megapixels)
        wholes(1, 2**20, batch_size=batch_size)
        wholes(0, 4096, workers=workers, retries=retries)
        wholes(0, val_pairs=val_pairs, seed=seed)
        multiples_of_8(val_px=val_px)
        self.specs = {"content": (content, val_content)}
        if style is not None:
            self.specs["style"] = (style, val_style)
        self.batch_size, self.workers, self.seed = batch_size, workers, seed
        self.val_pairs, self.val_px = val_pairs, val_px
        self.retries = retries
        self._validation: dict[str, list[NamedSource]] = {}  # of every role, once `setup` has found them

    def order(self) -> dict[str, Any]:
        """What the order of the pictures depends on, besides the seed."""
        raise NotImplementedError

    def endless(self, loader: Callable[[int], Iterable[Batch]]) -> "Endless":
        """The training batches of a loader, from where training stands."""
        return Endless(loader, lambda: position(self.trainer)[0])

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return self.order()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Say what is not as it was when the checkpoint was written; training goes on with what there is."""
        for key, value in self.order().items():
            if key in state and state[key] != value:
                log.warning("%s is not what it was before (%s, now %s): other pictures follow", key, state[key], value)

    def val_dataloader(self) -> "Fixed":
        """The same batches in every process; decoded anew at each call."""
        self.setup()
        return fixed_batches(self._validation, self.val_px, self.cropping.max_megapixels, self.retries)

    def expect(self, min_side_px: int, multiple: int, pairs: bool, content: Spec | None = None) -> None:
        """Check that the batches are what a training needs.

        Args:
            min_side_px: shortest side of its pictures.
            multiple: what their sides have to be multiples of.
            pairs: whether it wants style pictures in them.
            content: the photos it takes if the user named none.

        Raises:
            UserError: they are not.
        """
        for key, side_px in {"crop_px": self.cropping.crop_px, "val_px": self.val_px}.items():
            if side_px < min_side_px:
                raise UserError(f"data.{key}={side_px}: the losses and their layers need {min_side_px} px or more")
            if side_px % multiple:
                raise UserError(f"data.{key}={side_px}: this generator needs a multiple of {multiple} px")
        if self.specs["content"][0] is None:
            if content is None:
                raise UserError(
                    "data.content has no value yet: give it one with data.content=photos/, a folder of pictures"
                )
            log.info("data.content=%s, as in the training before", content)
            self.specs["content"] = (content, self.specs["content"][1])
        if pairs and "style" not in self.specs:
            raise UserError("data.style has no value yet: give it one with data.style=paintings/, a folder of pictures")
        if not pairs and "style" in self.specs:
            raise UserError(
                "data.style: this method takes no pairs, the pictures of its styles are style=...; leave data.style out"
            )


def counted(training: Mapping[str, Sequence[Any]], what: str, validation: Mapping[str, Sequence[Any]]) -> str:
    """What there is, for the log."""
    pairs = max(map(len, validation.values())) if all(validation.values()) else 0
    kinds = " and ".join(f"{len(own)} {role}" for role, own in training.items())
    return f"{kinds} {what} for training, {pairs} {'pairs' if len(training) > 1 else 'pictures'} for validation"


class Endless:
    """Training batches without end or length; `max_steps` of the trainer stops them.

    Not a DataLoader, so that Lightning neither replaces the sampler under several processes nor asks for a length.
    Each iteration begins where training stands at that moment, so that shorter epochs and a resumed run go on.

    Args:
        loader: makes the loader that begins with the batch of this number.
        first_batch: the number of the batch that is next.
    """

    def __init__(self, loader: Callable[[int], Iterable[Batch]], first_batch: Callable[[], int]) -> None:
        self.loader, self.first_batch = loader, first_batch

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.loader(self.first_batch()):
            if "error" in batch:  # raised in a worker it would arrive as a page of traceback
                raise UserError(batch["error"])
            yield batch


class Fixed:
    """Validation batches, always the same. (Of a plain list Lightning would take every item for a loader.)"""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


def worker_loader(dataset: Any, workers: int, sampler: Iterable[int] | None = None) -> DataLoader:
    """A loader of a dataset whose items are whole batches."""
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=sampler,
        num_workers=workers,
        multiprocessing_context=_way_to_start_workers() if workers else None,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_quiet_worker,
        generator=torch.Generator(),  # else each iteration draws from torch's global state
    )


def _way_to_start_workers() -> str | None:
    """None: Python's usual one. joblib's processes have a way of their own, which torch's workers lack."""
    known = multiprocessing.get_all_start_methods()
    return None if multiprocessing.get_start_method() in known else known[0]


def position(trainer: Trainer | None) -> tuple[int, int, int]:
    """(number of the next batch, rank, number of ranks)."""
    if trainer is None:
        return 0, 0, 1
    return trainer.global_step * trainer.accumulate_grad_batches, trainer.global_rank, trainer.world_size


def as_batch(make: Callable[[list[str]], Batch]) -> Batch:
    """Call `make(skipped)`; an error of the user's becomes a batch too, for `Endless` to raise."""
    skipped: list[str] = []
    try:
        return {**make(skipped), "skipped": skipped}
    except UserError as error:
        return {"error": str(error)}


def none_usable(role: str, skipped: Sequence[str]) -> str:
    return f"data.{role}: none of {ATTEMPTS} pictures in a row can be used, the last one was {skipped[-1]}"


def fixed_batches(
    sources: Mapping[str, Sequence[NamedSource]], side_px: int, max_megapixels: float, retries: int = 0
) -> Fixed:
    """Center crops of the i-th picture of every role together, in batches of up to four; shorter lists start over.

    Args:
        sources: role -> its pictures.
        side_px: side of the crops.
        max_megapixels: of `random_crop`.
        retries: see `Pairs`.

    Raises:
        UserError: no pair can be read.
    """
    rows: list[list[Tensor]] = []
    skipped: list[str] = []
    for index in range(max(map(len, sources.values())) if all(sources.values()) else 0):
        crops = []
        for name, source in (own[index % len(own)] for own in sources.values()):
            try:
                read = partial(center_crop, source, side_px, max_megapixels)
                crops.append(persistently(read, retries, name))
            except Unusable as reason:
                skipped.append(f"{name}: {reason}")
        if len(crops) == len(sources):
            rows.append(crops)
    if skipped and not rows:
        raise UserError(f"data.val_pairs: no pair of validation pictures can be read, such as {skipped[0]}")
    batches = []
    for start in range(0, len(rows), VAL_BATCH):
        kinds = zip(*rows[start : start + VAL_BATCH], strict=True)
        pictures = {role: torch.stack(crops) for role, crops in zip(sources, kinds, strict=True)}
        batches.append({**pictures, "skipped": skipped if start == 0 else []})
    return Fixed(batches)


def _quiet_worker(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer; workers end with it
