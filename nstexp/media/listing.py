"""List the files below a folder, and cache the list: searching a million files on a shared disk takes minutes."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nstexp import console
from nstexp.core.errors import UserError
from nstexp.core.runtime.files import write_atomically
from nstexp.core.text import printable

log = logging.getLogger(__name__)

LEAST_FILES = 10_000  # lists of fewer files are not cached, because searching is fast
FRESH_S = 2.0  # a folder that changed this shortly before it was read may change again with the same timestamp
WAIT_S = 600.0  # longest wait for another process to finish its list
UNREAD = 2**63  # a timestamp later than any change, so that a list with an unreadable folder is not cached
# Names (lower case) that operating systems and programs create beside the user's files; others begin with a dot.
CLUTTER = {
    "__macosx",
    "@eadir",
    "@tmp",
    "#recycle",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
}


def is_input(name: str) -> bool:
    """Whether a name in a folder or an archive can be an input file of the user.

    Names that begin with a dot are not inputs, nor are files of the operating system (`CLUTTER`), nor anything below a
    folder of such a name. A path that the user gives explicitly is not checked with this.

    Args:
        name: of a file or a folder, or a path relative to what the user gave.
    """
    parts = name.replace("\\", "/").split("/")
    return not any((part[:1] == "." and part not in (".", "..")) or part.lower() in CLUTTER for part in parts)


def list_files(folder: Path, suffixes: Sequence[str], lists: str | Path | None = None) -> list[Path]:
    """List the files with one of these suffixes in a folder and below it, sorted; links to folders are not followed.

    Names that are no inputs (`is_input`) are left out. A folder that cannot be read is left out with a warning, and the
    list is then not cached.

    Args:
        folder: where to search.
        suffixes: in lower case, with their dots; the case of the file names does not matter.
        lists: folder that caches lists of 10,000 files and more; None: no cache. A cached list is used while every
            folder below `folder` has the modification time that it had when it was listed. Adding, removing or renaming
            a file changes that time, so only the folders are checked. Processes that start together wait for the
            first one to write the list.
    """
    if lists is None:
        return _search(folder, suffixes)[0]
    place = Path(lists).expanduser() / f"{_digest([os.path.realpath(folder), *suffixes, *sorted(CLUTTER)])}.json"
    with _alone(place.parent):
        found = _read(place, folder)
        if found is None:
            begun = time.time()
            found, times = _search(folder, suffixes)
            if len(found) >= LEAST_FILES and max(times.values()) < (begun - FRESH_S) * 1e9:
                _write(place, folder, found, times)
    return found


def digest_of_names(paths: Iterable[str | Path]) -> str:
    """A short digest of a list of file names, in order, regardless of their folders."""
    return _digest(map(os.path.basename, paths))


def _search(folder: Path, suffixes: Sequence[str]) -> tuple[list[Path], dict[str, int]]:
    """The files, and the modification time (ns) of every folder. Only links need a system call for each file."""
    found: list[str] = []
    times: dict[str, int] = {}
    waiting = [str(folder)]
    bar = console.bar(desc=f"listing {printable(folder)}", unit="file", leave=False, delay=2.0)
    while waiting:
        here = waiting.pop()
        try:
            times[os.path.relpath(here, folder)] = os.stat(here).st_mtime_ns
            with os.scandir(here) as entries:
                for entry in entries:
                    if not is_input(entry.name):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif entry.name.lower().endswith(tuple(suffixes)) and entry.is_file():
                        found.append(entry.path)
        except OSError as error:
            log.warning("%s: the folder cannot be read (%s) and is left out", here, error.strerror)
            times[os.path.relpath(here, folder)] = UNREAD
        bar.update(len(found) - bar.n)
    bar.close()
    found.sort(key=lambda path: path.split(os.sep))
    return [Path(path) for path in found], times


def _read(place: Path, folder: Path) -> list[Path] | None:
    """The cached list; None if it is missing or damaged, or a folder has changed."""
    try:
        kept = json.loads(place.read_text())
        if any(os.stat(folder / name).st_mtime_ns != changed for name, changed in kept["folders"].items()):
            return None
        if _digest(kept["files"]) != kept["digest"]:
            raise ValueError("its digest does not match")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s: the list of files cannot be used (%s), and is made again", place, error)
        return None
    log.info("%s: %d files, as listed in %s", folder, len(kept["files"]), place)
    return [folder / name for name in kept["files"]]


def _write(place: Path, folder: Path, found: Sequence[Path], times: dict[str, int]) -> None:
    names = [os.path.relpath(path, folder) for path in found]
    kept = {"folder": os.path.realpath(folder), "digest": _digest(names), "folders": times, "files": names}
    try:
        write_atomically(place, lambda temporary: temporary.write_text(json.dumps(kept)))
        log.info("%s: %d files, listed in %s for later runs", folder, len(found), place)
    except UserError as error:
        log.warning("the list of files is not kept: %s", error)


@contextmanager
def _alone(lists: Path) -> Iterator[None]:
    """Let one process at a time in. Do not wait where the disk has no locks or another process takes too long."""
    from filelock import FileLock  # imported here because few commands need it

    lock = FileLock(lists / ".lock")
    try:
        lists.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=WAIT_S)
    except (OSError, NotImplementedError) as error:  # filelock.Timeout is an OSError
        log.debug("%s: no lock (%s)", lists, error)
    try:
        yield
    finally:
        lock.release()


def _digest(names: Iterable[str]) -> str:
    whole = hashlib.sha256()
    for name in names:
        whole.update(os.fsencode(name) + b"\0")
    return whole.hexdigest()[:16]
