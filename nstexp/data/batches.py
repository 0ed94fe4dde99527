"""What both data modules hand to Lightning: endless training batches, and a few fixed validation batches."""

import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from pytorch_lightning import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from nstexp.core.errors import UserError
from nstexp.data.pictures import Unusable, center_crop

Batch = dict[str, Any]  # content and style: uint8 (B, 3, px, px); skipped: list of "path: reason"
VAL_BATCH = 4
ATTEMPTS = 100


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
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_quiet_worker,
        generator=torch.Generator(),  # else each iteration draws from torch's global state
    )


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
    content: Sequence[tuple[str, str | bytes]],
    style: Sequence[tuple[str, str | bytes]],
    side_px: int,
    max_megapixels: float,
) -> Fixed:
    """Center crops of the i-th content with the i-th style, in batches of up to four; the shorter list starts over.

    Args:
        content: pairs of (name, path or bytes).
        style: the same.
        side_px: side of the crops.
        max_megapixels: of `random_crop`.

    Raises:
        UserError: no pair can be read.
    """
    pairs: list[tuple[Tensor, Tensor]] = []
    skipped: list[str] = []
    for index in range(max(len(content), len(style)) if content and style else 0):
        crops = []
        for name, source in (content[index % len(content)], style[index % len(style)]):
            try:
                crops.append(center_crop(source, side_px, max_megapixels))
            except Unusable as reason:
                skipped.append(f"{name}: {reason}")
        if len(crops) == 2:
            pairs.append((crops[0], crops[1]))
    if skipped and not pairs:
        raise UserError(f"data.val_pairs: no pair of validation pictures can be read, such as {skipped[0]}")
    batches = []
    for start in range(0, len(pairs), VAL_BATCH):
        chosen = pairs[start : start + VAL_BATCH]
        contents, styles = (torch.stack(crops) for crops in zip(*chosen, strict=True))
        batches.append({"content": contents, "style": styles, "skipped": skipped if start == 0 else []})
    return Fixed(batches)


def _quiet_worker(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer; workers end with it
