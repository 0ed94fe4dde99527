"""The files below a folder, in a list that is kept, so that a shared disk with a million is not searched every time."""

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

LEAST_FILES = 10_000  # fewer are searched faster than their list is worth
FRESH_S = 2.0  # of a folder changed less than this before it was read, later changes may have the same time
WAIT_S = 600.0
UNREAD = 2**63  # later than any change, so that such a list is not kept
# What systems and programs leave beside the user's files, in lower case; they also use names that begin with a dot.
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
    """Whether what is found under this name in a folder or an archive can be meant as an input.

    What begins with a dot cannot, nor what systems leave beside the user's files (`CLUTTER`), nor anything below such a
    folder. What the user names is taken whatever its name.

    Args:
        name: of a file or a folder, or a path that begins where the user points to.
    """
    parts = name.replace("\\", "/").split("/")
    return not any((part[:1] == "." and part not in (".", "..")) or part.lower() in CLUTTER for part in parts)


def list_files(folder: Path, suffixes: Sequence[str], lists: str | Path | None = None) -> list[Path]:
    """Files with one of these suffixes in a folder and the folders below it, sorted; links to folders are not followed.

    Names that are no inputs (`is_input`) are left out.

    Args:
        folder: where to search.
        suffixes: lower case, with their dots; those of the files may be in any case.
        lists: the folder where lists of 10,000 files and more are kept. A list is used as long as every folder it
            covers has the time of change that it had (a file that comes, goes or gets another name changes that): a
            look at the folders is all it takes. Processes that start together wait for the first one's list.

    A folder that cannot be read is left out, with a warning; a list without it is not kept.
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
    """A short name for a list of files: the same for the same names in the same order, in whichever folders."""
    return _digest(map(os.path.basename, paths))


def _search(folder: Path, suffixes: Sequence[str]) -> tuple[list[Path], dict[str, int]]:
    """The files, and every folder's time of change (ns). Files that are not links are not looked at one by one."""
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
    """The kept list, unless it is damaged or a folder has changed."""
    try:
        kept = json.loads(place.read_text())
        if any(os.stat(folder / name).st_mtime_ns != changed for name, changed in kept["folders"].items()):
            return None
        if _digest(kept["files"]) != kept["digest"]:
            raise ValueError("its digest is another one")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s: the list of files cannot be used (%s), and is made anew", place, error)
        return None
    log.info("%s: %d files, as listed in %s", folder, len(kept["files"]), place)
    return [folder / name for name in kept["files"]]


def _write(place: Path, folder: Path, found: Sequence[Path], times: dict[str, int]) -> None:
    names = [os.path.relpath(path, folder) for path in found]
    kept = {"folder": os.path.realpath(folder), "digest": _digest(names), "folders": times, "files": names}
    try:
        write_atomically(place, lambda temporary: temporary.write_text(json.dumps(kept)))
        log.info("%s: %d files, listed in %s for the next time", folder, len(found), place)
    except UserError as error:
        log.warning("the list of files is not kept: %s", error)


@contextmanager
def _alone(lists: Path) -> Iterator[None]:
    """One process at a time; where disks know no locks, or another process takes too long, without waiting."""
    from filelock import FileLock  # few commands need it

    lock = FileLock(lists / ".lock")
    try:
        lists.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=WAIT_S)
    except (OSError, NotImplementedError) as error:  # filelock's own Timeout is an OSError
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
