"""Where training data lies: disks and servers that fail now and then, and copies on the disk of this machine."""

import base64
import errno
import hashlib
import http.client
import io
import logging
import math
import os
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

import filelock

from nstexp.core.errors import ArgumentError, is_number, whole
from nstexp.core.secrets import without_secrets

T = TypeVar("T")
log = logging.getLogger(__name__)

FIRST_PAUSE_S = 1.0  # before a second try; each further pause is twice as long
TIMEOUT_S = 60.0  # for a server to send something
NOT_THERE = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
BUSY = (408, 425, 429)  # of the HTTP codes below 500, those that mean: later


def is_transient(error: BaseException) -> bool:
    """Whether the same reading may succeed a little later: a disk's or server's failure, not a file that is no good."""
    error = error.__cause__ or error
    if isinstance(error, urllib.error.HTTPError):
        return error.code >= 500 or error.code in BUSY
    if isinstance(error, urllib.error.URLError | http.client.HTTPException | TimeoutError | ConnectionError):
        return True
    # Decoders raise OSError too, but without a number of the system's.
    return isinstance(error, OSError) and error.errno is not None and error.errno not in NOT_THERE


def pause(attempt: int, what: str, error: BaseException) -> None:
    """Wait before trying again what has failed `attempt` + 1 times."""
    seconds = FIRST_PAUSE_S * 2**attempt
    log.warning("%s: %s; trying again in %g s", without_secrets(what), describe(error), seconds)
    time.sleep(seconds)


def persistently(work: Callable[[], T], retries: int, what: str) -> T:
    """The result of `work`, which is called up to `retries` times again while its failure may pass."""
    for attempt in range(retries):
        try:
            return work()
        except Exception as error:
            if not is_transient(error):
                raise
            pause(attempt, what, error)
    return work()


def describe(error: BaseException) -> str:
    """The reason on one line."""
    if isinstance(error, urllib.error.URLError) and not isinstance(error, urllib.error.HTTPError):
        error = error.reason  # in its own words it is in angle brackets
    return without_secrets(" ".join(str(error).split())) or type(error).__name__


def is_address(file: str) -> bool:
    return file.startswith(("http://", "https://"))


class Storage:
    """Opens files for reading, local or http(s), from a copy on this machine's disk where there is one.

    Copies are shared by all processes of the machine. A file is copied when it is first opened, unless another process
    is copying it, its length is not known, or there is no room: then it is read from where it is. Nothing is ever
    removed from the copies, for a training goes through its files in turn, and whatever were removed would be wanted
    again before what is kept.

    Args:
        retries: how often reading is tried again.
        cache_dir: the folder of the copies; None: no copies.
        cache_gb: how much the copies may take, in GB; None: what the disk has.

    Raises:
        ArgumentError: a bad value.
    """

    def __init__(self, retries: int = 5, cache_dir: str | Path | None = None, cache_gb: float | None = None) -> None:
        self.retries = whole("retries", retries)
        if cache_gb is not None and not (is_number(cache_gb) and cache_gb >= 0):
            raise ArgumentError("cache_gb", f"={cache_gb}: give a number of GB, or null for no limit")
        self._cache = None if cache_dir is None else Path(str(cache_dir)).expanduser()
        if self._cache is not None:
            try:
                self._cache.mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=self._cache).close()
            except OSError as error:
                raise ArgumentError("cache_dir", f"={cache_dir}: cannot be written ({error.strerror})") from error
        self._limit = math.inf if cache_gb is None else cache_gb * 1e9

    @property
    def copies(self) -> bool:
        """Whether files are read from copies."""
        return self._cache is not None

    def open(self, file: str, attempt: int = 0) -> BinaryIO:
        """A file as a stream; a second attempt goes past its copy, which may be what is wrong.

        Raises:
            OSError: it cannot be opened; reading may raise it too.
        """
        if self._cache is None or attempt:
            return _open(file)[0]
        copy = self._cache / _name(file)
        if not copy.exists():
            source, length = _open(file)
            try:
                copied = self._copy(source, length, copy)
            except BaseException:
                source.close()
                raise
            if not copied:
                return source
            source.close()
        return open(copy, "rb")

    def _copy(self, source: BinaryIO, length: int | None, copy: Path) -> bool:
        """False: there is no copy, and nothing was read from the source."""
        if length is None or not self._has_room(length):
            return False
        lock = filelock.FileLock(copy.with_name(f"{copy.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except (OSError, NotImplementedError):  # taken, or a disk that knows no locks
            return False
        part = copy.with_name(f"{copy.name}.part")  # that of a process that was killed is written over
        try:
            if not copy.exists():
                with open(part, "wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
                    if target.tell() != length:
                        raise ConnectionError(f"{target.tell()} bytes came instead of {length}")
                os.replace(part, copy)
            return True
        finally:
            part.unlink(missing_ok=True)
            lock.release()

    def _has_room(self, length: int) -> bool:
        taken = 0
        for entry in os.scandir(self._cache):
            with suppress(FileNotFoundError):  # what another process was writing has its name now
                taken += entry.stat().st_size
        return taken + length <= self._limit and length < shutil.disk_usage(self._cache).free


class _Download(io.RawIOBase):
    """What an address holds; unlike Python's own response it notices a connection that ends early."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        user, _, server = parts.netloc.rpartition("@")
        request = urllib.request.Request(urlunsplit(parts._replace(netloc=server)), headers={"User-Agent": "nstexp"})
        if user:  # urllib would take it for a part of the server's name, and show it in its errors
            word = base64.b64encode(unquote(user).encode()).decode()
            request.add_unredirected_header("Authorization", f"Basic {word}")
        self._response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
        self.length: int | None = self._response.length
        self._left = self.length

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._response.readinto(buffer)
        if self._left is not None:
            self._left -= count
            if count == 0 and self._left and len(buffer):
                raise ConnectionError(f"the connection ended {self._left} bytes before the end")
        return count

    def close(self) -> None:
        if not self.closed:
            self._response.close()
        super().close()


def _open(file: str) -> tuple[BinaryIO, int | None]:
    """A stream and its length in bytes, where that is known."""
    if is_address(file):
        download = _Download(file)
        return io.BufferedReader(download, 1 << 16), download.length
    source = open(file, "rb")  # noqa: SIM115 - the caller closes it
    return source, os.fstat(source.fileno()).st_size


def _name(file: str) -> str:
    """Of the copy: other names for other files, and for a local file that has changed."""
    which, last = file, without_secrets(file).rsplit("/", 1)[-1].partition("?")[0]
    if not is_address(file):
        state = os.stat(file)
        which = f"{os.path.realpath(file)} {state.st_size} {state.st_mtime_ns}"
    return f"{hashlib.sha256(which.encode(errors='surrogateescape')).hexdigest()[:16]}-{last}"
