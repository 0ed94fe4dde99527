"""Training pairs from folders of pictures, in an order that depends on nothing but the seed and the step."""

import logging
from collections.abc import Sequence
from itertools import count

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from nstexp.core.errors import UserError, check_integers
from nstexp.core.images import find_images
from nstexp.data.batches import (
    ATTEMPTS,
    Batch,
    Endless,
    Fixed,
    as_batch,
    fixed_batches,
    none_usable,
    position,
    worker_loader,
)
from nstexp.data.pictures import Cropping, Unusable, check_multiple_of_8, random_crop

log = logging.getLogger(__name__)

Spec = str | list[str]


class FolderPairs(LightningDataModule):
    """Pairs of a random content crop and a random style crop.

    Training draws are numbered: draw n is content number n mod N of a permutation of its own per epoch, a style found
    the same way, and crops seeded by n. Batch k is draws k B W to (k+1) B W, of which each of the W processes takes
    its B. So neither workers nor an interruption change what is seen, and two processes with half the batch size see
    together what one sees.

    A batch is a dict of `content` and `style`, uint8 (B, 3, crop_px, crop_px), and `skipped`, a list of
    "path: reason" of pictures that could not be used and were replaced by others.

    Args:
        content: a picture, a folder (searched recursively), or a list of these.
        style: the same.
        batch_size: pairs per process and step.
        crop_px: side of the crops, a multiple of 8.
        resize_px: see `Cropping`.
        resize: see `Cropping`.
        flip: see `Cropping`.
        workers: processes that decode; 0: none but the trainer's own.
        val_content: pictures for validation; None: held out of `content`.
        val_style: the same for `style`.
        val_pairs: how many pairs validation has, evenly spaced over each list; 0: no validation.
        val_px: side of the validation pictures: short side resized to this, center cropped.
        max_megapixels: larger files are skipped.
        seed: of order and crops.

    Raises:
        UserError: a bad value; from `setup`, pictures missing or too few.
    """

    def __init__(
        self,
        content: Spec,
        style: Spec,
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
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.cropping = Cropping(crop_px, resize_px, resize, flip, max_megapixels)
        check_integers("data", 1, batch_size=batch_size)
        check_integers("data", 0, workers=workers, val_pairs=val_pairs, seed=seed)
        check_multiple_of_8(val_px=val_px)
        self.specs = {"content": (content, val_content), "style": (style, val_style)}
        self.batch_size, self.workers, self.seed = batch_size, workers, seed
        self.val_pairs, self.val_px = val_pairs, val_px
        self._training: dict[str, list[str]] = {}
        self._validation: dict[str, list[str]] = {}

    def setup(self, stage: str | None = None) -> None:
        if self._training:
            return
        training, validation = {}, {}
        for role, (spec, val_spec) in self.specs.items():
            training[role], validation[role] = self._find(role, spec, val_spec)
        self._training, self._validation = training, validation
        pairs = max(map(len, validation.values())) if all(validation.values()) else 0
        log.info(
            "%d content and %d style pictures for training, %d pairs for validation",
            len(training["content"]),
            len(training["style"]),
            pairs,
        )

    def train_dataloader(self) -> Endless:
        def loader(first_batch: int):
            _, rank, ranks = position(self.trainer)
            streams = [_Stream(role, self._training[role], self.seed, self.cropping) for role in self.specs]
            return worker_loader(_Batches(streams, self.batch_size, rank, ranks), self.workers, count(first_batch))

        self.setup()
        return Endless(loader, lambda: position(self.trainer)[0])

    def val_dataloader(self) -> Fixed:
        """The same batches in every process; decoded anew at each call."""
        self.setup()
        content, style = ([(path, path) for path in self._validation[role]] for role in self.specs)
        return fixed_batches(content, style, self.val_px, self.cropping.max_megapixels)

    def _find(self, role: str, spec: Spec, val_spec: Spec | None) -> tuple[list[str], list[str]]:
        """Paths for training and for validation."""
        paths = [str(path) for path in find_images(spec, f"data.{role}")]
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
            own = [str(path) for path in find_images(val_spec, f"data.val_{role}")]
            held_out = _evenly_spaced(own, min(self.val_pairs, len(own)))
        if len(paths) < self.batch_size:
            raise UserError(
                f"data.{role}: {len(paths)} pictures for training are fewer than one batch of "
                f"data.batch_size={self.batch_size}"
            )
        return paths, held_out


class _Stream:
    """The numbered draws of one role."""

    def __init__(self, role: str, paths: Sequence[str], seed: int, cropping: Cropping) -> None:
        self.role, self.paths, self.seed, self.cropping = role, paths, seed, cropping
        self._epoch, self._order = -1, np.arange(0)

    def draw(self, number: int, skipped: list[str]) -> Tensor:
        """uint8 (3, crop_px, crop_px); the same for the same number, whatever was drawn before."""
        for attempt in range(ATTEMPTS):
            rng = self._rng("crop", number, attempt)
            path = self.paths[self._index(number) if attempt == 0 else int(rng.integers(len(self.paths)))]
            try:
                return random_crop(path, rng, self.cropping)
            except Unusable as reason:
                skipped.append(f"{path}: {reason}")
        raise UserError(none_usable(self.role, skipped))

    def _index(self, number: int) -> int:
        epoch, place = divmod(number, len(self.paths))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._rng("order", epoch, 0).permutation(len(self.paths))
        return int(self._order[place])

    def _rng(self, purpose: str, number: int, attempt: int) -> np.random.Generator:
        return np.random.default_rng([*f"{self.role} {purpose}".encode(), self.seed, number, attempt])


class _Batches:
    """Batch k of one process, as item k."""

    def __init__(self, streams: Sequence[_Stream], batch_size: int, rank: int, ranks: int) -> None:
        self.streams, self.batch_size, self.rank, self.ranks = streams, batch_size, rank, ranks

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
