"""The common part of both data modules: endless training batches, and a few fixed validation batches."""

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
NamedSource = tuple[str, str | bytes]  # a picture's name in the log, and its path or the bytes of its file
log = logging.getLogger(__name__)
VAL_BATCH = 4
ATTEMPTS = 100


class Pairs(LightningDataModule):
    """The base class of the data modules, with their common settings.

    Args:
        content: the files of the photos; None: the photos that `expect` sets.
        style: the files of the style pictures; None: batches contain no style pictures.
        batch_size: pairs per process and step.
        crop_px: side of the crops in pixels, a multiple of 8.
        resize_px, resize, flip: see `Cropping`.
        workers: number of additional processes that read and decode pictures; 0: the trainer's process does it.
        val_content: photos for validation; None: some photos of `content`, which are then not used for training.
        val_style: the same for style pictures.
        val_pairs: number of pairs for validation; 0: no validation.
        val_px: side of the validation pictures in pixels, a multiple of 8: the shorter side is resized to this, and the
            center is cropped.
        max_megapixels: larger pictures are skipped.
        retries: number of further attempts after a disk or a server fails, with pauses of 1, 2, 4, ... seconds.
        seed: seed of the order and the crops.

    Raises:
        ArgumentError: a value out of its range.
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
        self._validation: dict[str, list[NamedSource]] = {}  # role -> validation pictures; filled by `setup`

    def order(self) -> dict[str, Any]:
        """Everything besides the seed on which the order of the pictures depends: config key -> description."""
        raise NotImplementedError

    def endless(self, loader: Callable[[int], Iterable[Batch]]) -> "Endless":
        """The training batches of a loader, from the current step on."""
        return Endless(loader, lambda: position(self.trainer)[0])

    def state_dict(self) -> dict[str, Any]:
        """The entry for checkpoints, see `order`."""
        return self.order()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Warn about pictures that have changed since the checkpoint was written; the training still continues."""
        for key, value in self.order().items():
            if key in state and state[key] != value:
                log.warning(
                    "%s has changed (%s before, now %s): the training goes on with other pictures",
                    key,
                    state[key],
                    value,
                )

    def val_dataloader(self) -> "Fixed":
        """The validation batches, the same in every process; each call decodes them again."""
        self.setup("validate")
        return fixed_batches(self._validation, self.val_px, self.cropping.max_megapixels, self.retries)

    def expect(self, min_side_px: int, multiple: int, pairs: bool, content: Spec | None = None) -> None:
        """Check that the batches fit a training.

        Args:
            min_side_px: shortest side of a picture that the training can use.
            multiple: the sides of the pictures must be multiples of this.
            pairs: whether the training needs style pictures.
            content: the photos to use if the user named none.

        Raises:
            UserError: the batches do not fit, or a value is missing.
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
                "data.style: this method does not train on pairs, its style pictures are style=...; leave data.style "
                "out"
            )


def counted(training: Mapping[str, Sequence[Any]], unit: str, validation: Mapping[str, Sequence[Any]]) -> str:
    """The numbers of files, for the log.

    Args:
        training, validation: role -> files.
        unit: the word for the training files, such as "pictures".
    """
    pairs = max(map(len, validation.values())) if all(validation.values()) else 0
    counts = " and ".join(f"{len(files)} {role}" for role, files in training.items())
    return f"{counts} {unit} for training, {pairs} {'pairs' if len(training) > 1 else 'pictures'} for validation"


class Endless:
    """An endless iterable of training batches; the trainer's `max_steps` ends the training.

    This is not a DataLoader, so that Lightning does not replace its sampler in distributed training, or ask for its
    length. Each iteration begins at the current step, so that the batches continue after an epoch, and after a
    checkpoint is loaded.

    Args:
        loader: returns a loader whose first batch has the given number.
        first_batch: returns the number of the next batch.
    """

    def __init__(self, loader: Callable[[int], Iterable[Batch]], first_batch: Callable[[], int]) -> None:
        self.loader, self.first_batch = loader, first_batch

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.loader(self.first_batch()):
            if "error" in batch:  # an exception in a worker would arrive with a page of traceback
                raise UserError(batch["error"])
            yield batch


class Fixed:
    """Validation batches, always the same. (Lightning takes a plain list for a list of loaders.)"""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


def worker_loader(dataset: Any, workers: int, sampler: Iterable[int] | None = None) -> DataLoader[Batch]:
    """A loader for a dataset whose items are whole batches.

    Args:
        workers: number of worker processes; 0: none.
        sampler: the numbers of the batches, in order; None: the dataset is an iterable.
    """
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=sampler,
        num_workers=workers,
        multiprocessing_context=_start_method() if workers else None,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_ignore_interrupts,
        generator=torch.Generator(),  # else each iteration draws from torch's global state
    )


def _start_method() -> str | None:
    """The start method of worker processes; None: the current default of Python.

    Inside a process of joblib the default is joblib's start method, which the workers of torch cannot use.
    """
    known = multiprocessing.get_all_start_methods()
    return None if multiprocessing.get_start_method() in known else known[0]


def position(trainer: Trainer | None) -> tuple[int, int, int]:
    """(number of the next batch, rank of this process, number of processes)."""
    if trainer is None:
        return 0, 0, 1
    return trainer.global_step * trainer.accumulate_grad_batches, trainer.global_rank, trainer.world_size


def as_batch(make: Callable[[list[str]], Batch]) -> Batch:
    """The batch that `make(skipped)` returns; a UserError becomes a batch with an `error`, which `Endless` raises."""
    skipped: list[str] = []
    try:
        return {**make(skipped), "skipped": skipped}
    except UserError as error:
        return {"error": str(error)}


def none_usable(role: str, skipped: Sequence[str]) -> str:
    """The error message for a data set without usable pictures."""
    return f"data.{role}: none of {ATTEMPTS} pictures in a row can be used, the last one was {skipped[-1]}"


def fixed_batches(
    sources: Mapping[str, Sequence[NamedSource]], side_px: int, max_megapixels: float, retries: int = 0
) -> Fixed:
    """Validation batches of up to four center crops per role. Pair i has picture i of every role; shorter lists repeat.

    Args:
        sources: role -> pictures.
        side_px: side of the crops in pixels.
        max_megapixels: larger pictures are left out.
        retries: see `Pairs`.

    Raises:
        UserError: no pair can be read.
    """
    rows: list[list[Tensor]] = []
    skipped: list[str] = []
    for index in range(max(map(len, sources.values())) if all(sources.values()) else 0):
        crops = []
        for name, source in (pictures[index % len(pictures)] for pictures in sources.values()):
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
        by_role = zip(*rows[start : start + VAL_BATCH], strict=True)
        batch = {role: torch.stack(crops) for role, crops in zip(sources, by_role, strict=True)}
        batches.append({**batch, "skipped": skipped if start == 0 else []})
    return Fixed(batches)


def _ignore_interrupts(_: int) -> None:
    """Let only the parent process handle Ctrl-C; workers end together with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
