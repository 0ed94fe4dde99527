"""Read training data from disks and servers that may fail temporarily, and cache it on the disk of this machine."""

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

FIRST_PAUSE_S = 1.0  # before the second attempt; each further pause is twice as long
TIMEOUT_S = 60.0  # longest time without any data from a server
NOT_THERE = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
BUSY = (408, 425, 429)  # the HTTP codes below 500 after which a later attempt may succeed


def is_transient(error: BaseException) -> bool:
    """Whether an error is transient (a disk or server failed), so that a retry may help; a bad file is not."""
    error = error.__cause__ or error
    if isinstance(error, urllib.error.HTTPError):
        return error.code >= 500 or error.code in BUSY
    if isinstance(error, urllib.error.URLError | http.client.HTTPException | TimeoutError | ConnectionError):
        return True
    # Decoders raise OSError too, but without an error number of the operating system.
    return isinstance(error, OSError) and error.errno is not None and error.errno not in NOT_THERE


def pause(attempt: int, what: str, error: BaseException) -> None:
    """Log an error and wait before the next attempt.

    Args:
        attempt: number of earlier failures; each pause is twice as long as the one before.
        what: name of the file, for the log.
    """
    seconds = FIRST_PAUSE_S * 2**attempt
    log.warning("%s: %s; trying again in %g s", without_secrets(what), describe(error), seconds)
    time.sleep(seconds)


def persistently(work: Callable[[], T], retries: int, what: str) -> T:
    """The result of `work`, which is called again up to `retries` times after transient errors."""
    for attempt in range(retries):
        try:
            return work()
        except Exception as error:
            if not is_transient(error):
                raise
            pause(attempt, what, error)
    return work()


def describe(error: BaseException) -> str:
    """The message of an error on one line, without secrets; the name of its type if it has no message."""
    text = str(error)
    if isinstance(error, urllib.error.URLError) and not isinstance(error, urllib.error.HTTPError):
        text, error = str(error.reason), error.reason if isinstance(error.reason, BaseException) else error
    return without_secrets(" ".join(text.split())) or type(error).__name__


def is_address(file: str) -> bool:
    """Whether a file is an http(s) address, and not a local path."""
    return file.startswith(("http://", "https://"))


class Storage:
    """Opens local and http(s) files for reading, from a copy on this machine's disk if there is one.

    Copies are shared by all processes of the machine. A file is copied when it is first opened. It is read directly if
    another process is copying it, its length is unknown, or there is no space. Copies are never removed: a training
    reads its files in turns, so a removed copy would be needed again before the others.

    Args:
        retries: number of further attempts after transient errors; used by the callers.
        cache_dir: the folder of the copies; None: no copies.
        cache_gb: size limit of all copies in GB (10^9 bytes); None: the free space of the disk.

    Raises:
        ArgumentError: a value out of its range, or a folder that cannot be written.
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
        """Whether files are copied."""
        return self._cache is not None

    def open(self, file: str, attempt: int = 0) -> BinaryIO:
        """Open a file as a stream.

        Args:
            file: a path or an http(s) address.
            attempt: number of earlier failures; above 0 the copy is not used, since it may be damaged.

        Raises:
            OSError: the file cannot be opened; reading from the stream may raise it, too.
        """
        if self._cache is None or attempt:
            return _open(file)[0]
        copy = self._cache / _name(file)
        if not copy.exists():
            source, length = _open(file)
            try:
                copied = self._copy(source, length, copy, self._cache)
            except BaseException:
                source.close()
                raise
            if not copied:
                return source
            source.close()
        return open(copy, "rb")

    def _copy(self, source: BinaryIO, length: int | None, copy: Path, cache: Path) -> bool:
        """Copy a stream of `length` bytes to the file `copy` in the folder `cache`.

        Returns:
            True if the copy exists now; False if it was not made, and nothing was read from the stream.

        Raises:
            OSError: reading or writing failed.
        """
        if length is None or not self._has_room(length, cache):
            return False
        lock = filelock.FileLock(copy.with_name(f"{copy.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except (OSError, NotImplementedError):  # another process has the lock, or the disk does not support locks
            return False
        part = copy.with_name(f"{copy.name}.part")  # may exist, if a process was killed
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

    def _has_room(self, length: int, cache: Path) -> bool:
        """Whether another `length` bytes fit into the limit and onto the disk."""
        used = 0
        for entry in os.scandir(cache):
            with suppress(FileNotFoundError):  # another process has just renamed the file
                used += entry.stat().st_size
        return used + length <= self._limit and length < shutil.disk_usage(cache).free


class _Download(io.RawIOBase):
    """The content of an http(s) address as a stream. It raises an error if the connection ends early, unlike the
    response of urllib."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        user, _, server = parts.netloc.rpartition("@")
        request = urllib.request.Request(urlunsplit(parts._replace(netloc=server)), headers={"User-Agent": "nstexp"})
        if user:  # urllib would treat it as a part of the server's name, and show it in error messages
            credentials = base64.b64encode(unquote(user).encode()).decode()
            request.add_unredirected_header("Authorization", f"Basic {credentials}")
        self._response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
        self.length: int | None = self._response.length
        self._left = self.length

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count: int = self._response.readinto(buffer)
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
    """Open a file; returns the stream and its length in bytes (None: unknown)."""
    if is_address(file):
        download = _Download(file)
        return io.BufferedReader(download, 1 << 16), download.length
    source = open(file, "rb")  # noqa: SIM115 - the caller closes it
    return source, os.fstat(source.fileno()).st_size


def _name(file: str) -> str:
    """The name of a file's copy. It differs between files, and changes when a local file changes."""
    identity, last = file, without_secrets(file).rsplit("/", 1)[-1].partition("?")[0]
    if not is_address(file):
        state = os.stat(file)
        identity = f"{os.path.realpath(file)} {state.st_size} {state.st_mtime_ns}"
    return f"{hashlib.sha256(identity.encode(errors='surrogateescape')).hexdigest()[:16]}-{last}"
