"""Training pairs from WebDataset shards: tar files of pictures that are read in sequence, from a disk or over HTTP."""

import logging
import random
import tarfile
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
import webdataset
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from webdataset.shardlists import expand_urls

from nstexp.core.errors import UserError, text, whole
from nstexp.core.runtime.memory import free_bytes
from nstexp.core.secrets import without_secrets
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
from nstexp.data.storage import Storage, describe, is_address, is_transient, pause
from nstexp.media.listing import digest_of_names, is_input, list_files
from nstexp.media.paths import READABLE, find_images, is_there

log = logging.getLogger(__name__)

Member = tuple[str, bytes]  # "shard.tar/name.jpg" and the file's bytes
LARGEST_MEMBER_BYTES = 2**30
BYTES_PER_PIXEL = 6.0  # of the largest files of pictures: three colors of 16 bits, not compressed
# Pictures are compressed already. What unpacks to a hundred times its size is made to fill the memory.
SMALL_BYTES, MOST_GROWTH, GZIP = 64 * 2**20, 100, b"\x1f\x8b"
LARGEST_HEADER_BYTES = 2**20
EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")


class ShardPairs(Pairs):
    """Pairs of a random content crop and a random style crop; batches are those of `FolderPairs`.

    In each epoch the shards are dealt to the readers (processes times workers), each in an order of its own, and
    shuffled within a buffer. Each reader goes from one epoch to the next by itself. A run that resumes with as many
    processes and workers continues with the same pairs: what was used already is read again, but not decoded.

    Args:
        content: shards: a tar file, a pattern such as `shards/coco-{000000..000031}.tar`, a folder of tar files, an
            http(s) address, or a list of these; None: see `expect`.
        style: the same; None: batches have none.
        cache_dir, cache_gb: copies of the shards on the disk of this machine, see `Storage`.
        shuffle_buffer: encoded pictures in memory, per worker and role, among which the next one is drawn.
        others: see `Pairs`. Pictures for validation are the first ones of the first shard, or files, not shards.

    Raises:
        ArgumentError: a bad value.
        UserError: from `setup`, shards missing; from `train_dataloader`, fewer shards than readers.
    """

    def __init__(
        self,
        content: Spec | None = None,
        style: Spec | None = None,
        shuffle_buffer: int = 1000,
        cache_dir: str | None = None,
        cache_gb: float | None = None,
        **others: Any,
    ) -> None:
        super().__init__(content, style, **others)
        if cache_dir is not None:
            text("cache_dir", cache_dir, "/tmp/shards")
        self.storage = Storage(self.retries, cache_dir, cache_gb)
        self.shuffle_buffer = whole("shuffle_buffer", shuffle_buffer, 1)
        self._shards: dict[str, list[str]] = {}

    def setup(self, stage: str | None = None) -> None:
        if self._shards:
            return
        shards = {role: find_shards(spec, f"data.{role}") for role, (spec, _) in self.specs.items()}
        for role, (_, val_spec) in self.specs.items():
            self._validation[role] = self._find_validation(role, shards[role], val_spec)
        self._shards = shards
        log.info("%s", counted(shards, "shards", self._validation))

    def order(self) -> dict[str, Any]:
        self.setup()
        shards = {f"data.{role}": f"{len(own)} shards, {digest_of_names(own)}" for role, own in self._shards.items()}
        return shards | {"processes times data.workers": position(self.trainer)[2] * max(1, self.workers)}

    def train_dataloader(self) -> Endless:
        self.setup()
        self._check_share()
        return self.endless(self._loader)

    def _loader(self, first_batch: int) -> DataLoader:
        _, rank, _ = position(self.trainer)
        return worker_loader(_Batches(self._readers, self.batch_size, rank, self.workers, first_batch), self.workers)

    def _readers(self, part: int) -> list["_Reader"]:
        parts = position(self.trainer)[2] * max(1, self.workers)
        return [
            _Reader(
                role,
                self._shards[role],
                held_out=self.val_pairs if val_spec is None else 0,
                part=part,
                parts=parts,
                shuffle_buffer=self.shuffle_buffer,
                seed=self.seed,
                cropping=self.cropping,
                storage=self.storage,
            )
            for role, (_, val_spec) in self.specs.items()
        ]

    def _check_share(self) -> None:
        _, _, ranks = position(self.trainer)
        readers = ranks * max(1, self.workers)
        for role, shards in self._shards.items():
            if len(shards) < readers:
                raise UserError(
                    f"data.{role}: {len(shards)} shards are fewer than {readers} readers ({ranks} processes times "
                    f"{max(1, self.workers)} workers): set data.workers lower or make more, smaller shards"
                )

    def _find_validation(self, role: str, shards: list[str], spec: Spec | None) -> list[NamedSource]:
        if self.val_pairs == 0:
            return []
        if spec is not None:
            return [(str(path), str(path)) for path in find_images(spec, f"data.val_{role}")][: self.val_pairs]
        problems: list[str] = []
        first = members(shards[0], problems, self.storage, largest_bytes(self.cropping))
        found = list(islice(first, self.val_pairs + 1))
        if problems and not found:
            raise UserError(f"data.{role}: {problems[0]}")
        if len(found) <= self.val_pairs:
            raise UserError(
                f"data.val_pairs={self.val_pairs}: the first shard of data.{role} has only {len(found)} pictures, and "
                "some of them must be left for training"
            )
        return found[: self.val_pairs]


def find_shards(spec: Spec, key: str) -> list[str]:
    """Paths and addresses of tar files, in a stable order.

    Raises:
        UserError: a bad pattern, a folder without tar files, or files that are not there.
    """
    if not spec:
        raise UserError(f"{key} is empty: give shards, such as {key}=shards/coco-{{000000..000031}}.tar")
    if not isinstance(spec, str | Path):
        return [shard for item in spec for shard in find_shards(item, key)]
    try:
        own_name = isinstance(spec, Path) or is_there(spec)  # whatever a pattern would make of it
        shards = [str(spec)] if own_name else expand_urls(spec)
    except (AssertionError, ValueError) as error:
        raise UserError(f"{key}={spec}: not a pattern of shards ({error})") from error
    found = [path for shard in shards for path in ([shard] if is_address(shard) else _local(shard, key))]
    missing = [path for path in found if not is_address(path) and not Path(path).is_file()]
    if missing:
        raise UserError(f"{key}={spec}: {len(missing)} of {len(found)} shards are not there, the first is {missing[0]}")
    return found


def members(
    shard: str, problems: list[str], storage: Storage, largest_bytes: float = LARGEST_MEMBER_BYTES
) -> Iterator[Member]:
    """Names and bytes of a shard's pictures, each once, however often reading has to begin again.

    A damaged shard, one that cannot be read, or one that unpacks to far more than it is, ends early and adds a "shard:
    reason" to `problems`. So does a member of more than `largest_bytes`, which is left out.
    """
    given, shown = 0, without_secrets(shard)
    for attempt in count():
        try:
            with storage.open(shard, attempt) as file:
                for name, data in islice(_pictures(file, shown, problems, largest_bytes), given, None):
                    given += 1
                    yield name, data
            return
        except Exception as error:  # of the tar format, its compression, the disk or the network
            again = is_transient(error) or (storage.copies and attempt == 0)
            if attempt == storage.retries or not again:
                problems.append(f"{shown}: the shard is damaged or cannot be read ({describe(error)})")
                return
            pause(attempt, shard, error)


def largest_bytes(cropping: Cropping) -> float:
    """Of the file of a picture that can be used; no more than an eighth of the memory that is free."""
    by_pixels = BYTES_PER_PIXEL * cropping.max_megapixels * 1e6 + 2**20
    return min(by_pixels, LARGEST_MEMBER_BYTES, free_bytes(torch.device("cpu")) / 8)


class _Header(tarfile.TarInfo):
    """A member's header. What tells of long names and the like is read in one piece, however large it says it is."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> "_Header":
        header = super().frombuf(buf, encoding, errors)
        if header.type in EXTENDED and header.size > LARGEST_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {header.size} bytes")
        return header


class _Counted:
    """A file that knows how many of its bytes were read."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.bytes = file, 0

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        self.bytes += len(data)
        return data


def _pictures(file: BinaryIO, shard: str, problems: list[str], largest_bytes: float) -> Iterator[Member]:
    """Names and bytes of a shard's pictures, one after the other; nothing is unpacked that a picture cannot be.

    Raises:
        tarfile.ReadError: no tar file, or one that unpacks to far more than it is.
        Exception: of the compression, the disk or the network.
    """
    packed = file.peek(len(GZIP))[: len(GZIP)] == GZIP
    counted = _Counted(file)
    with tarfile.open(fileobj=counted, mode="r|gz" if packed else "r|", tarinfo=_Header) as archive:
        for member in archive:
            archive.members = []  # it would keep them all
            _check_growth(member.offset_data, counted)
            if not member.isreg() or not _is_picture(member.name):
                continue
            if member.size > largest_bytes:
                reason = f"{member.size / 1e6:,.0f} MB are more than a picture of data.max_megapixels has"
                if (problem := f"{shard}/{member.name}: {reason}") not in problems:
                    problems.append(problem)
                continue
            parts, unpacked = [], 0
            content = archive.extractfile(member)
            while part := content.read(1 << 20):
                parts.append(part)
                unpacked += len(part)
                _check_growth(member.offset_data + unpacked, counted)
            yield f"{shard}/{member.name}", b"".join(parts)


def _check_growth(unpacked: int, read: _Counted) -> None:
    if unpacked > SMALL_BYTES + MOST_GROWTH * read.bytes:
        raise tarfile.ReadError(
            f"{read.bytes / 1e6:.1f} MB of it unpack to {unpacked / 1e6:,.0f} MB, which no pictures do"
        )


@dataclass
class _Reader:
    """One part of the pictures of one role, in the order in which that part is used."""

    role: str
    shards: Sequence[str]
    held_out: int  # pictures of the first shard that are not for training
    part: int
    parts: int
    shuffle_buffer: int
    seed: int
    cropping: Cropping
    storage: Storage
    _lengths: dict[str, int] = field(default_factory=dict)  # pictures of each shard that was read to its end
    _problems: list[str] = field(default_factory=list)  # not yet reported
    _without_pictures: int = 0  # shards in a row

    def crops(self, skip: int, skipped: list[str]) -> Iterator[Tensor]:
        """Endless crops, uint8 (3, crop_px, crop_px), from number `skip` on.

        A picture that cannot be used is replaced by a crop of one that comes later (which still has its own turn), so
        that the number of crops alone says how far the shards have been read.
        """
        pictures = self.pictures(skip)
        ahead: deque[Member] = deque()
        for number in count(skip):
            for attempt in range(ATTEMPTS):
                if attempt == len(ahead):
                    ahead.append(next(pictures))
                try:
                    crop = random_crop(ahead[attempt][1], self._rng("crop", self.part, number, attempt), self.cropping)
                    break
                except Unusable as reason:
                    skipped.append(f"{ahead[attempt][0]}: {reason}")
            else:
                raise UserError(none_usable(self.role, skipped))
            skipped.extend(self._problems)
            self._problems.clear()
            ahead.popleft()
            yield crop

    def pictures(self, skip: int = 0) -> Iterator[Member]:
        """Endless encoded pictures, epoch after epoch, without the first `skip`."""
        for epoch in count():
            # Reading the first epoch tells most lengths; later ones can then be skipped without reading them.
            if skip and self._lengths:
                length = sum(map(self._length, self._epoch_shards(epoch)))
                if length <= skip:
                    skip -= length
                    continue
            for picture in self._epoch(epoch):
                if skip:
                    skip -= 1
                else:
                    yield picture

    def _epoch(self, epoch: int) -> Iterator[Member]:
        order = random.Random(f"{self.role} shuffle {self.seed} {epoch} {self.part}")
        pictures = (picture for shard in self._epoch_shards(epoch) for picture in self._members(shard))
        return webdataset.shuffle(self.shuffle_buffer, initial=self.shuffle_buffer, rng=order)(pictures)

    def _epoch_shards(self, epoch: int) -> list[str]:
        order = self._rng("shards", epoch).permutation(len(self.shards))
        return [self.shards[i] for i in order[self.part :: self.parts]]

    def _members(self, shard: str) -> Iterator[Member]:
        kept_from_training = self.held_out if shard == self.shards[0] else 0
        number = 0
        found = members(shard, self._problems, self.storage, largest_bytes(self.cropping))
        for member in islice(found, kept_from_training, None):
            number += 1
            yield member
        if number:
            self._lengths[shard] = number
        self._without_pictures = 0 if number else self._without_pictures + 1
        if self._without_pictures > 10 * len(self.shards):  # a part may meet the same bad shard in several epochs
            reason = self._problems[-1] if self._problems else f"{shard} holds no picture"
            raise UserError(f"data.{self.role}: no picture in any shard; {reason}")

    def _length(self, shard: str) -> int:
        return self._lengths.get(shard) or sum(1 for _ in self._members(shard))

    def _rng(self, purpose: str, *numbers: int) -> np.random.Generator:
        return np.random.default_rng([*f"{self.role} {purpose}".encode(), self.seed, *numbers])


class _Batches(IterableDataset):
    """The batches of one process from number `first_batch` on; worker w makes those with number % workers == w."""

    def __init__(self, readers, batch_size: int, rank: int, workers: int, first_batch: int) -> None:
        self.batch_size, self.first_batch, self.workers = batch_size, first_batch, max(1, workers)
        self.readers = [readers(rank * self.workers + worker) for worker in range(self.workers)]

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        # The loader asks its workers in turn, beginning with 0: that one takes the first batch, whoever's it is.
        local, worker = divmod(self.first_batch + (info.id if info else 0), self.workers)
        skipped: list[str] = []
        crops = {r.role: r.crops(local * self.batch_size, skipped) for r in self.readers[worker]}

        def make(report: list[str]) -> Batch:
            skipped.clear()
            made = {role: torch.stack(list(islice(stream, self.batch_size))) for role, stream in crops.items()}
            report.extend(skipped)
            return made

        while True:
            batch = as_batch(make)
            yield batch
            if "error" in batch:
                return


def _local(path: str, key: str) -> list[str]:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return [str(folder)]
    found = sorted(map(str, list_files(folder, TAR_SUFFIXES)))
    if not found:
        raise UserError(f"{key}={path}: the folder holds no shard ({', '.join(TAR_SUFFIXES)})")
    return found


def _is_picture(name: str) -> bool:
    """Whether a member of a shard is one; archives made on a Mac hold a `._photo.jpg` beside each photo."""
    return name.lower().endswith(READABLE) and is_input(name)
