"""Training pairs from folders of pictures, in an order that depends on the seed and the step alone."""

import logging
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from nstexp.core.errors import UserError, text
from nstexp.data.batches import (
    ATTEMPTS,
    Batch,
    Endless,
    NamedSource,
    Pairs,
    Spec,
    as_batch,
    counted,
    none_usable,
    position,
    worker_loader,
)
from nstexp.data.pictures import Cropping, Unusable, random_crop
from nstexp.data.storage import persistently
from nstexp.media.listing import digest_of_names
from nstexp.media.paths import find_images

log = logging.getLogger(__name__)


class FolderPairs(Pairs):
    """Pairs of a random content crop and a random style crop from picture files.

    The samples of a training are numbered. Every epoch has a new permutation of the N photos; sample n is photo n mod N
    of the permutation of its epoch, a style picture chosen in the same way, and crops with the seed n. With batch size
    B and W processes, step k uses the samples from k B W up to (k+1) B W, B per process. The samples therefore depend
    neither on workers nor on interruptions, and two processes with half the batch size see the same samples as one
    process.

    A batch is a dict of `content` and `style`, uint8 (B, 3, crop_px, crop_px), and `skipped`, a list of "path: reason"
    for pictures that could not be used and were replaced by others.

    Args:
        content: a picture, a folder (searched recursively), or a list of these; None: see `expect`.
        style: the same; None: batches contain no style pictures.
        file_lists: folder in which lists of the files in large folders are cached, see `list_files`; None: no cache.
        others: see `Pairs`. Validation pictures are evenly spaced over each list.

    Raises:
        ArgumentError: a value out of its range.
        UserError: from `setup`: missing pictures, or too few.
    """

    def __init__(
        self, content: Spec | None = None, style: Spec | None = None, file_lists: str | None = None, **others: Any
    ) -> None:
        super().__init__(content, style, **others)
        self.file_lists = None if file_lists is None else text("file_lists", file_lists, "~/.cache/nstexp")
        self._training: dict[str, list[str]] = {}
        self._order: dict[str, str] = {}

    def setup(self, stage: str | None = None) -> None:
        if self._training:
            return
        training: dict[str, list[str]] = {}
        validation: dict[str, list[NamedSource]] = {}
        for role, (spec, val_spec) in self.specs.items():
            training[role], held_out = self._find(role, spec, val_spec)
            validation[role] = [(path, path) for path in held_out]
        self._training, self._validation = training, validation
        log.info("%s", counted(training, "pictures", validation))

    def order(self) -> dict[str, Any]:
        self.setup()
        if not self._order:
            self._order = {
                f"data.{role}": f"{len(paths)} pictures, {digest_of_names(paths)}"
                for role, paths in self._training.items()
            }
        return self._order

    def train_dataloader(self) -> Endless:
        self.setup()
        return self.endless(self._loader)

    def _loader(self, first_batch: int) -> DataLoader[Batch]:
        _, rank, ranks = position(self.trainer)
        streams = [_Stream(role, self._training[role], self.seed, self.cropping, self.retries) for role in self.specs]
        return worker_loader(_Batches(streams, self.batch_size, rank, ranks), self.workers, count(first_batch))

    def _find(self, role: str, spec: Spec | None, val_spec: Spec | None) -> tuple[list[str], list[str]]:
        """The paths for training and for validation.

        Raises:
            UserError: missing pictures, or too few.
        """
        paths = [str(path) for path in find_images("" if spec is None else spec, f"data.{role}", self.file_lists)]
        if val_spec is None:
            if self.val_pairs >= len(paths):
                raise UserError(
                    f"data.val_pairs={self.val_pairs}: data.{role} has only {len(paths)} pictures, and some of them "
                    "must be left for training"
                )
            held_out = _evenly_spaced(paths, self.val_pairs)
            taken = set(held_out)
            paths = [path for path in paths if path not in taken]
        else:
            val_paths = [str(path) for path in find_images(val_spec, f"data.val_{role}", self.file_lists)]
            held_out = _evenly_spaced(val_paths, min(self.val_pairs, len(val_paths)))
        if len(paths) < self.batch_size:
            raise UserError(
                f"data.{role}: {len(paths)} pictures for training are fewer than one batch of "
                f"data.batch_size={self.batch_size}"
            )
        return paths, held_out


@dataclass
class _Stream:
    """The numbered samples of one role (content or style)."""

    role: str
    paths: Sequence[str]
    seed: int
    cropping: Cropping
    retries: int
    _epoch: int = -1  # the epoch of `_order`
    _order: np.ndarray = field(default_factory=lambda: np.arange(0))

    def draw(self, number: int, skipped: list[str]) -> Tensor:
        """The crop of the sample `number`, uint8 (3, crop_px, crop_px), independent of earlier calls."""
        for attempt in range(ATTEMPTS):
            rng = self._rng("crop", number, attempt)
            path = self.paths[self._index(number) if attempt == 0 else int(rng.integers(len(self.paths)))]
            try:
                return persistently(partial(self._crop, path, rng), self.retries, path)
            except Unusable as reason:
                skipped.append(f"{path}: {reason}")
        raise UserError(none_usable(self.role, skipped))

    def _crop(self, path: str, rng: np.random.Generator) -> Tensor:
        return random_crop(path, deepcopy(rng), self.cropping)  # a copy, so that further attempts give the same crop

    def _index(self, number: int) -> int:
        """The index in `paths` of the sample `number`."""
        epoch, place = divmod(number, len(self.paths))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._rng("order", epoch, 0).permutation(len(self.paths))
        return int(self._order[place])

    def _rng(self, purpose: str, number: int, attempt: int) -> np.random.Generator:
        return np.random.default_rng([*f"{self.role} {purpose}".encode(), self.seed, number, attempt])


@dataclass
class _Batches:
    """The batches of one process as a dataset; item k is the batch of step k."""

    streams: Sequence[_Stream]
    batch_size: int
    rank: int
    ranks: int

    def __getitem__(self, number: int) -> Batch:
        first = (number * self.ranks + self.rank) * self.batch_size
        draws = range(first, first + self.batch_size)
        return as_batch(
            lambda skipped: {
                stream.role: torch.stack([stream.draw(n, skipped) for n in draws]) for stream in self.streams
            }
        )


def _evenly_spaced(paths: list[str], number: int) -> list[str]:
    """Choose `number` paths at even distances."""
    return [paths[(2 * i + 1) * len(paths) // (2 * number)] for i in range(number)]
