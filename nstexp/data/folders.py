"""Training pairs from folders of pictures, in an order that depends on nothing but the seed and the step."""

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
    """Pairs of a random content crop and a random style crop.

    Training draws are numbered: draw n is content number n mod N of a permutation of its own per epoch, a style found
    the same way, and crops seeded by n. Batch k is draws k B W to (k+1) B W, of which each of the W processes takes
    its B. So neither workers nor an interruption change what is seen, and two processes with half the batch size see
    together what one sees.

    A batch is a dict of `content` and `style`, uint8 (B, 3, crop_px, crop_px), and `skipped`, a list of
    "path: reason" of pictures that could not be used and were replaced by others.

    Args:
        content: a picture, a folder (searched recursively), or a list of these; None: see `expect`.
        style: the same; None: batches have none.
        file_lists: where lists of the files of large folders are kept, see `list_files`; None: nowhere.
        others: see `Pairs`. The pictures for validation are evenly spaced over each list.

    Raises:
        ArgumentError: a bad value.
        UserError: from `setup`, pictures missing or too few.
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
        training, validation = {}, {}
        for role, (spec, val_spec) in self.specs.items():
            training[role], held_out = self._find(role, spec, val_spec)
            validation[role] = [(path, path) for path in held_out]
        self._training, self._validation = training, validation
        log.info("%s", counted(training, "pictures", validation))

    def order(self) -> dict[str, Any]:
        self.setup()
        if not self._order:
            found = self._training.items()
            self._order = {f"data.{role}": f"{len(paths)} pictures, {digest_of_names(paths)}" for role, paths in found}
        return self._order

    def train_dataloader(self) -> Endless:
        self.setup()
        return self.endless(self._loader)

    def _loader(self, first_batch: int) -> DataLoader:
        _, rank, ranks = position(self.trainer)
        streams = [_Stream(role, self._training[role], self.seed, self.cropping, self.retries) for role in self.specs]
        return worker_loader(_Batches(streams, self.batch_size, rank, ranks), self.workers, count(first_batch))

    def _find(self, role: str, spec: Spec, val_spec: Spec | None) -> tuple[list[str], list[str]]:
        """Paths for training and for validation."""
        paths = [str(path) for path in find_images(spec, f"data.{role}", self.file_lists)]
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
            own = [str(path) for path in find_images(val_spec, f"data.val_{role}", self.file_lists)]
            held_out = _evenly_spaced(own, min(self.val_pairs, len(own)))
        if len(paths) < self.batch_size:
            raise UserError(
                f"data.{role}: {len(paths)} pictures for training are fewer than one batch of "
                f"data.batch_size={self.batch_size}"
            )
        return paths, held_out


@dataclass
class _Stream:
    """The numbered draws of one role."""

    role: str
    paths: Sequence[str]
    seed: int
    cropping: Cropping
    retries: int
    _epoch: int = -1  # of which `_order` is
    _order: np.ndarray = field(default_factory=lambda: np.arange(0))

    def draw(self, number: int, skipped: list[str]) -> Tensor:
        """uint8 (3, crop_px, crop_px); the same for the same number, whatever was drawn before."""
        for attempt in range(ATTEMPTS):
            rng = self._rng("crop", number, attempt)
            path = self.paths[self._index(number) if attempt == 0 else int(rng.integers(len(self.paths)))]
            try:
                return persistently(partial(self._crop, path, rng), self.retries, path)
            except Unusable as reason:
                skipped.append(f"{path}: {reason}")
        raise UserError(none_usable(self.role, skipped))

    def _crop(self, path: str, rng: np.random.Generator) -> Tensor:
        return random_crop(path, deepcopy(rng), self.cropping)  # each try takes the same numbers

    def _index(self, number: int) -> int:
        epoch, place = divmod(number, len(self.paths))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._rng("order", epoch, 0).permutation(len(self.paths))
        return int(self._order[place])

    def _rng(self, purpose: str, number: int, attempt: int) -> np.random.Generator:
        return np.random.default_rng([*f"{self.role} {purpose}".encode(), self.seed, number, attempt])


@dataclass
class _Batches:
    """Batch k of one process, as item k."""

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
    return [paths[(2 * i + 1) * len(paths) // (2 * number)] for i in range(number)]
