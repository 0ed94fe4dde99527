"""Training pairs from WebDataset shards: tar files of pictures, read sequentially from a disk or over HTTP."""

import logging
import random
import tarfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
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
BYTES_PER_PIXEL = 6.0  # of the largest picture files: three uncompressed channels of 16 bits
# Pictures hardly shrink under further compression, so a shard that unpacks to a hundred times its size is an attack on
# the memory.
SMALL_BYTES, MOST_GROWTH, GZIP = 64 * 2**20, 100, b"\x1f\x8b"
LARGEST_HEADER_BYTES = 2**20
# Types of members that describe the next member, such as long names. tarfile reads them in one piece.
EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")


class ShardPairs(Pairs):
    """Pairs of a random content crop and a random style crop from shards; batches have the format of `FolderPairs`.

    In each epoch, the shards are put into a new random order and distributed among the readers (one per process and
    worker). Each reader shuffles its pictures within a buffer, and starts its next epoch independently of the others. A
    run that is resumed with the same numbers of processes and workers continues with the same pairs; for this, the
    pictures already used are read again, but not decoded.

    Args:
        content: shards: a tar file, a pattern such as `shards/coco-{000000..000031}.tar`, a folder of tar files, an
            http(s) address, or a list of these; None: see `expect`.
        style: the same; None: batches contain no style pictures.
        shuffle_buffer: number of encoded pictures in memory, per worker and role, from which the next one is drawn.
        cache_dir, cache_gb: copies of the shards on the disk of this machine, see `Storage`.
        others: see `Pairs`. Validation uses the first pictures of the first shard; `val_content` and `val_style` name
            picture files, and not shards.

    Raises:
        ArgumentError: a value out of its range.
        UserError: from `setup`: missing shards; from `train_dataloader`: fewer shards than readers.
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
        shards = {
            f"data.{role}": f"{len(paths)} shards, {digest_of_names(paths)}" for role, paths in self._shards.items()
        }
        return shards | {"processes times data.workers": position(self.trainer)[2] * max(1, self.workers)}

    def train_dataloader(self) -> Endless:
        self.setup()
        self._check_number_of_shards()
        return self.endless(self._loader)

    def _loader(self, first_batch: int) -> DataLoader[Batch]:
        _, rank, _ = position(self.trainer)
        return worker_loader(_Batches(self._readers, self.batch_size, rank, self.workers, first_batch), self.workers)

    def _readers(self, part: int) -> list["_Reader"]:
        """One reader per role for a process's worker; `part` counts the workers of all processes."""
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

    def _check_number_of_shards(self) -> None:
        """Raise a UserError if some readers would get no shard."""
        _, _, ranks = position(self.trainer)
        readers = ranks * max(1, self.workers)
        for role, shards in self._shards.items():
            if len(shards) < readers:
                raise UserError(
                    f"data.{role}: {len(shards)} shards are fewer than {readers} readers ({ranks} processes times "
                    f"{max(1, self.workers)} workers): set data.workers lower or make more, smaller shards"
                )

    def _find_validation(self, role: str, shards: list[str], spec: Spec | None) -> list[NamedSource]:
        """The validation pictures of a role: files of `spec`, or the first pictures of the first shard.

        Raises:
            UserError: no such files, or the shard is damaged or has too few pictures.
        """
        if self.val_pairs == 0:
            return []
        if spec is not None:
            paths = map(str, find_images(spec, f"data.val_{role}")[: self.val_pairs])
            return [(path, path) for path in paths]
        problems: list[str] = []
        in_shard = members(shards[0], problems, self.storage, largest_bytes(self.cropping))
        first: list[NamedSource] = list(islice(in_shard, self.val_pairs + 1))
        if problems and not first:
            raise UserError(f"data.{role}: {problems[0]}")
        if len(first) <= self.val_pairs:
            raise UserError(
                f"data.val_pairs={self.val_pairs}: the first shard of data.{role} has only {len(first)} pictures, and "
                "some of them must be left for training"
            )
        return first[: self.val_pairs]


def find_shards(spec: Spec | None, key: str) -> list[str]:
    """Paths and addresses of tar files, in a stable order.

    Args:
        spec: see `ShardPairs`.
        key: the config key of `spec`, for error messages.

    Raises:
        UserError: no shards, an invalid pattern, a folder without tar files, or missing files.
    """
    if not spec:
        raise UserError(f"{key} is empty: give shards, such as {key}=shards/coco-{{000000..000031}}.tar")
    if not isinstance(spec, str | Path):
        return [shard for item in spec for shard in find_shards(item, key)]
    try:
        is_file_name = isinstance(spec, Path) or is_there(spec)  # an existing file may contain characters of a pattern
        shards = [str(spec)] if is_file_name else expand_urls(spec)
    except (AssertionError, ValueError) as error:
        raise UserError(f"{key}={spec}: not a pattern of shards ({error})") from error
    paths = [path for shard in shards for path in ([shard] if is_address(shard) else _local(shard, key))]
    missing = [path for path in paths if not is_address(path) and not Path(path).is_file()]
    if missing:
        raise UserError(f"{key}={spec}: {len(missing)} of {len(paths)} shards are not there, the first is {missing[0]}")
    return paths


def members(
    shard: str, problems: list[str], storage: Storage, largest_bytes: float = LARGEST_MEMBER_BYTES
) -> Iterator[Member]:
    """Names and bytes of a shard's pictures. Every picture comes once, even if reading is started again after an error.

    Args:
        shard: path or address of the shard.
        problems: gets an entry "shard: reason" if the shard is damaged, cannot be read, or unpacks to far more than its
            size; the shard then ends early. Also gets an entry for each picture that is left out.
        storage: opens the shard.
        largest_bytes: larger members are left out.
    """
    done, name_in_log = 0, without_secrets(shard)
    for attempt in count():
        try:
            with storage.open(shard, attempt) as file:
                for name, data in islice(_pictures(file, name_in_log, problems, largest_bytes), done, None):
                    done += 1
                    yield name, data
            return
        except Exception as error:  # from the tar format, its compression, the disk or the network
            again = is_transient(error) or (storage.copies and attempt == 0)
            if attempt == storage.retries or not again:
                problems.append(f"{name_in_log}: the shard is damaged or cannot be read ({describe(error)})")
                return
            pause(attempt, shard, error)


def largest_bytes(cropping: Cropping) -> float:
    """The largest file of a picture that can be used, in bytes, and at most an eighth of the free memory."""
    by_pixels = BYTES_PER_PIXEL * cropping.max_megapixels * 1e6 + 2**20
    return min(by_pixels, LARGEST_MEMBER_BYTES, free_bytes(torch.device("cpu")) / 8)


class _Header(tarfile.TarInfo):
    """A member's header that refuses extended headers of extreme size, since tarfile reads them in one piece."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        header = super().frombuf(buf, encoding, errors)
        if header.type in EXTENDED and header.size > LARGEST_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {header.size} bytes")
        return header


class _Counted:
    """A file that counts the bytes read from it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.bytes = file, 0

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        self.bytes += len(data)
        return data


def _pictures(file: BinaryIO, shard: str, problems: list[str], largest_bytes: float) -> Iterator[Member]:
    """Names and bytes of a shard's pictures, in order; members that are no usable pictures are not unpacked.

    Raises:
        tarfile.ReadError: not a tar file, or it unpacks to far more than its size.
        Exception: an error of the compression, the disk or the network.
    """
    buffered: Any = file  # `Storage.open` returns buffered files
    packed = buffered.peek(len(GZIP))[: len(GZIP)] == GZIP
    counter = _Counted(file)
    stream: Any = counter  # in a stream mode, tarfile only calls `read`
    with tarfile.open(fileobj=stream, mode="r|gz" if packed else "r|", tarinfo=_Header) as archive:
        for member in archive:
            archive.members = []  # type: ignore[attr-defined]  # tarfile would keep every member in memory
            _check_growth(member.offset_data, counter)
            if not member.isreg() or not _is_picture(member.name):
                continue
            if member.size > largest_bytes:
                reason = f"{member.size / 1e6:,.0f} MB are too much for a picture of data.max_megapixels"
                if (problem := f"{shard}/{member.name}: {reason}") not in problems:
                    problems.append(problem)
                continue
            parts, unpacked = [], 0
            content = archive.extractfile(member)
            assert content is not None  # the member is a regular file
            while part := content.read(1 << 20):
                parts.append(part)
                unpacked += len(part)
                _check_growth(member.offset_data + unpacked, counter)
            yield f"{shard}/{member.name}", b"".join(parts)


def _check_growth(unpacked: int, read: _Counted) -> None:
    """Raise a ReadError if `unpacked` bytes are far more than were read from the compressed file."""
    if unpacked > SMALL_BYTES + MOST_GROWTH * read.bytes:
        raise tarfile.ReadError(
            f"its first {read.bytes / 1e6:.1f} MB unpack to {unpacked / 1e6:,.0f} MB, too much for pictures"
        )


@dataclass
class _Reader:
    """Reads the pictures of one role for one worker, in the order in which they are used."""

    role: str
    shards: Sequence[str]
    held_out: int  # number of pictures of the first shard that are used for validation
    part: int  # number of the worker among those of all processes
    parts: int  # number of workers of all processes
    shuffle_buffer: int
    seed: int
    cropping: Cropping
    storage: Storage
    _lengths: dict[str, int] = field(default_factory=dict)  # number of pictures in each shard that was read completely
    _problems: list[str] = field(default_factory=list)  # not yet reported
    _without_pictures: int = 0  # number of shards in a row without pictures

    def crops(self, skip: int, skipped: list[str]) -> Iterator[Tensor]:
        """Endless crops, uint8 (3, crop_px, crop_px), from number `skip` on.

        A picture that cannot be used is replaced by a further crop of a later picture, which is still used in its turn.
        The number of crops is therefore always the number of pictures that were taken from the shards.

        Args:
            skipped: gets an entry "path: reason" for each picture that cannot be used.

        Raises:
            UserError: no picture can be used.
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
            # After the first epoch most lengths are known, and later epochs can be skipped without reading them.
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
        """The pictures of one epoch, shuffled within the buffer."""
        order = random.Random(f"{self.role} shuffle {self.seed} {epoch} {self.part}")
        pictures = (picture for shard in self._epoch_shards(epoch) for picture in self._members(shard))
        shuffled: Iterator[Member] = webdataset.shuffle(self.shuffle_buffer, initial=self.shuffle_buffer, rng=order)(
            pictures
        )
        return shuffled

    def _epoch_shards(self, epoch: int) -> list[str]:
        """The shards that this worker reads in an epoch."""
        order = self._rng("shards", epoch).permutation(len(self.shards))
        return [self.shards[i] for i in order[self.part :: self.parts]]

    def _members(self, shard: str) -> Iterator[Member]:
        """The pictures of a shard that are used for training.

        Raises:
            UserError: too many shards in a row have no picture.
        """
        held_out = self.held_out if shard == self.shards[0] else 0
        number = 0
        in_shard = members(shard, self._problems, self.storage, largest_bytes(self.cropping))
        for member in islice(in_shard, held_out, None):
            number += 1
            yield member
        if number:
            self._lengths[shard] = number
        self._without_pictures = 0 if number else self._without_pictures + 1
        if self._without_pictures > 10 * len(self.shards):  # a worker may get the same bad shard in several epochs
            reason = self._problems[-1] if self._problems else f"{shard} holds no picture"
            raise UserError(f"data.{self.role}: no picture in any shard; {reason}")

    def _length(self, shard: str) -> int:
        """The number of pictures in a shard; it is read if the number is unknown."""
        return self._lengths.get(shard) or sum(1 for _ in self._members(shard))

    def _rng(self, purpose: str, *numbers: int) -> np.random.Generator:
        return np.random.default_rng([*f"{self.role} {purpose}".encode(), self.seed, *numbers])


class _Batches(IterableDataset[Batch]):
    """The batches of one process from number `first_batch` on; worker w makes those with number % workers == w.

    Args:
        readers: function from the number of a worker (counted over all processes) to its readers, one per role.
        rank: number of this process.
        workers: workers per process; 0 counts as one.
    """

    def __init__(
        self, readers: Callable[[int], list[_Reader]], batch_size: int, rank: int, workers: int, first_batch: int
    ) -> None:
        self.batch_size, self.first_batch, self.workers = batch_size, first_batch, max(1, workers)
        self.readers = [readers(rank * self.workers + worker) for worker in range(self.workers)]

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        # The loader asks its workers in turn, starting with worker 0. So worker 0 must produce `first_batch`, with the
        # readers of the worker that is responsible for it.
        local, worker = divmod(self.first_batch + (info.id if info else 0), self.workers)
        skipped: list[str] = []
        crops = {r.role: r.crops(local * self.batch_size, skipped) for r in self.readers[worker]}

        def make(report: list[str]) -> Batch:
            skipped.clear()
            batch = {role: torch.stack(list(islice(stream, self.batch_size))) for role, stream in crops.items()}
            report.extend(skipped)
            return batch

        while True:
            batch = as_batch(make)
            yield batch
            if "error" in batch:
                return


def _local(path: str, key: str) -> list[str]:
    """The shards in a folder; a path that is no folder is returned as it is."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return [str(folder)]
    shards = sorted(map(str, list_files(folder, TAR_SUFFIXES)))
    if not shards:
        raise UserError(f"{key}={path}: the folder holds no shard ({', '.join(TAR_SUFFIXES)})")
    return shards


def _is_picture(name: str) -> bool:
    """Whether a member of a shard is a picture. Archives from a Mac contain a `._photo.jpg` next to each photo."""
    return name.lower().endswith(READABLE) and is_input(name)
