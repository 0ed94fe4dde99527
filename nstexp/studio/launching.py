"""Start a sweep or a run from the page as a process of its own, stop it, and continue it.

The process does not belong to the server: it has its own session and a log, so that it goes on when the page is closed
and when the server ends. What it is called and which process it is lies in `studio.json` in its folder. Every server on
the folder reads that file, so that all of them show and stop the same processes. A process is known by its number and
the moment of its start, because the number alone may belong to another program by now.
"""

import json
import os
import shlex
import signal
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from nstexp.core.errors import UserError
from nstexp.core.runtime.files import Claim, json_text, write_atomically
from nstexp.ownership import SWEEP_LOCK
from nstexp.studio.checking import python
from nstexp.sweeps.slurm import cancel_jobs

RECORD, LOG, LOCK = "studio.json", "studio.log", ".nstexp-studio.lock"
SWEEPS, RUNS = "multirun/nstexp", "runs/nstexp"  # as in conf


@dataclass
class Record:
    """What is known about a process that a studio started.

    Args:
        words: of the command line, `key=value`, without the one that names the folder.
        sweep: whether the command has -m.
        cwd: the folder in which it was started.
        total: number of jobs; None: a search decides.
        keys: the keys with several values.
        jobs: key -> value of the first jobs.
        host: the machine.
        pid: number of the process; None until it runs.
        started: tells it from another process of the same number, see `identity`.
        time: when it was started last, ISO 8601.
        stopping: when somebody asked it to stop, ISO 8601.
    """

    words: list[str]
    sweep: bool
    cwd: str
    total: int | None = None
    keys: list[str] = field(default_factory=list)
    jobs: list[dict[str, str]] = field(default_factory=list)
    host: str = ""
    pid: int | None = None
    started: str | None = None
    time: str = ""
    stopping: str | None = None

    @property
    def on_cluster(self) -> bool:
        """Whether the jobs run elsewhere, so that they may outlive the process."""
        return any(word.startswith(("hydra/launcher=slurm", "hydra/launcher=submitit")) for word in self.words)


def read_record(folder: Path) -> Record | None:
    """The record in the folder of a sweep or a run; None if there is none, or it cannot be read."""
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        found = Record(**{key: value for key, value in content.items() if key in Record.__dataclass_fields__})
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    right = isinstance(found.words, list) and all(isinstance(word, str) for word in found.words)
    return found if right and isinstance(found.pid, int | None) and isinstance(found.jobs, list) else None


def _write(folder: Path, record: Record) -> None:
    text = json_text(asdict(record), indent=1)
    write_atomically(folder / RECORD, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))


def identity(pid: int) -> str | None:
    """Tells a process from any other that has had, or will have, its number; None if no such process runs."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        if not psutil.LINUX:
            return f"{process.create_time():.3f}"
        # The start in ticks since the machine was switched on is exact, while a time of day may be corrected.
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            ticks = file.read().rpartition(")")[2].split()[19]
        with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
            return f"{file.read().strip()} {ticks}"
    except (psutil.Error, OSError, IndexError, ValueError):
        return None


def is_alive(record: Record | None) -> bool | None:
    """Whether the process of a record runs; None if it was started on another machine, so that nobody here can know."""
    if record is None or record.pid is None or record.started is None:
        return False
    if record.host != socket.gethostname():
        return None
    return identity(record.pid) == record.started


def _is_ours(pid: int, word: str) -> bool:
    """Whether a process is the command that has this word; the record lies in a folder that others may write to."""
    try:
        return word in psutil.Process(pid).cmdline()
    except psutil.Error:
        return False


def command_of(record: Record, folder: Path) -> list[str]:
    """The words of the whole command behind `nstexp`."""
    place = Path(os.path.relpath(folder, record.cwd)).as_posix()
    return [
        *(["-m"] if record.sweep else []),
        *record.words,
        f"{'hydra.sweep.dir' if record.sweep else 'run_dir'}={place}",
    ]


def shown_command(record: Record, folder: Path) -> str:
    """The command as a person can type it in the folder of the studio."""
    return shlex.join(["nstexp", *command_of(record, folder)])


def start(folder: Path, words: Sequence[str], plan: Mapping[str, Any]) -> Path:
    """Start a sweep or a run in the background.

    Args:
        folder: of the studio.
        words: of the command line, checked.
        plan: the result of `checking.examine`.

    Returns:
        The folder of the sweep or run.

    Raises:
        UserError: the folder cannot be made, or the process cannot be started.
    """
    sweep = bool(plan["sweep"])
    place = folder / (SWEEPS if sweep else RUNS) / datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
    try:
        place.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{place}: the folder cannot be made ({error.strerror})") from error
    record = Record(list(words), sweep, str(folder), plan["total"], list(plan["keys"]), list(plan["jobs"]))
    _launch(place, record)
    return place


def go_on(place: Path, words: Sequence[str], plan: Mapping[str, Any], folder: Path) -> None:
    """Start the command of a sweep or run again, in the same folder: finished jobs are kept.

    Args:
        place: the folder of the sweep or run.
        words: of its command, checked.
        plan: the result of `checking.examine`.
        folder: of the studio.

    Raises:
        UserError: it still runs, another server continues it at this moment, or the process cannot be started.
    """
    with claimed(place):
        check_idle(place)
        sweep = bool(plan["sweep"])
        _launch(place, Record(list(words), sweep, str(folder), plan["total"], list(plan["keys"]), list(plan["jobs"])))


def check_idle(place: Path) -> None:
    """Raise a UserError if a process works on a sweep or run."""
    record = read_record(place)
    alive = is_alive(record)
    if alive:
        raise UserError(f"{place.name} still runs: wait for its end, or stop it first")
    if alive is None and record is not None and (place / SWEEP_LOCK).exists():
        raise UserError(f"{place.name} was started on {record.host} and may still run: continue it there")


class claimed:
    """Context manager: only one server at a time starts or stops the process of a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __enter__(self) -> None:
        busy = f"{self.place.name}: another page starts or stops it at this moment"
        try:
            self._claim = Claim(self.place / LOCK, busy)
        except OSError as error:
            raise UserError(f"{self.place}: the folder cannot be written ({error.strerror})") from error

    def __exit__(self, *error: object) -> None:
        self._claim.release()


def _launch(place: Path, record: Record) -> None:
    """Start the process of a record, and write the record."""
    record.host, record.time = socket.gethostname(), datetime.now().astimezone().isoformat(timespec="seconds")
    record.pid = record.started = record.stopping = None
    _write(place, record)
    command = [*python(), "-m", "nstexp", *command_of(record, place)]
    try:
        with (place / LOG).open("ab") as log:
            log.write(f"$ {shown_command(record, place)}\n".encode("utf-8", "backslashreplace"))
            log.flush()
            process = subprocess.Popen(
                command,
                cwd=record.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # the end of a terminal, or Ctrl-C at the server, does not reach it
                close_fds=True,
            )
    except OSError as error:
        raise UserError(f"{place}: the command cannot be started ({error.strerror})") from error
    record.pid, record.started = process.pid, identity(process.pid)
    # Without someone who waits for it, an ended process keeps its number until the server ends.
    threading.Thread(target=process.wait, daemon=True).start()
    _write(place, record)


def stop(place: Path) -> str:
    """Do what Ctrl-C does to the process of a sweep or run, and to its helpers; end its jobs on Slurm, too.

    Args:
        place: the folder of the sweep or run.

    Returns:
        A sentence about what happens now.

    Raises:
        UserError: it does not run, or not on this machine, or no studio started it.
    """
    with claimed(place):
        record = read_record(place)
        alive = is_alive(record)
        if record is None:
            raise UserError(f"{place.name} was not started from this page: press Ctrl-C where it was started")
        if alive is None:
            raise UserError(f"{place.name} was started on {record.host}: stop it in a studio on that machine")
        if not alive or record.pid is None:
            raise UserError(f"{place.name} does not run any more")
        if not _is_ours(record.pid, command_of(record, place)[-1]):
            raise UserError(f"{place / RECORD} names a process that is another program: nothing was stopped")
        if not hasattr(os, "killpg"):
            raise UserError("this system cannot send Ctrl-C to a process in the background: end it in its task manager")
        try:
            os.killpg(record.pid, signal.SIGINT)  # its session's first process, so that its group has its number
        except (ProcessLookupError, PermissionError) as error:
            raise UserError(f"{place.name} cannot be stopped ({error.strerror})") from error
        record.stopping = datetime.now().astimezone().isoformat(timespec="seconds")
        _write(place, record)
    if record.on_cluster:
        problem = cancel_jobs(place, Path(record.cwd))
        if problem is None:
            return f"{place.name} and its jobs on Slurm stop; Continue makes those again that are not finished"
        return f"{place.name} waits no longer for its jobs on Slurm, but they go on: {problem}; end them with scancel"
    return f"{place.name} stops at the end of its step"
