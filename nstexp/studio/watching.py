"""Finds the runs and sweeps below a folder and says how far they are, from their files alone.

Nothing here talks to a process, so that runs of other terminals, of other servers and of a cluster that writes into the
same folder look the same. A folder is read again only after it changed: every file that a run replaces is renamed into
place, which changes the time of its folder. A thousand runs cost two looks at the disk each.
"""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from natsort import natsorted

from nstexp.core.errors import UserError
from nstexp.core.runtime.files import finite
from nstexp.core.secrets import without_secrets
from nstexp.media.listing import is_input
from nstexp.ownership import LOCK, SWEEP_LOCK
from nstexp.studio import launching
from nstexp.studio.progress import last_message, newest_picture, progress_of
from nstexp.studio.reading import (
    Found,
    Run,
    command_of,
    has_log,
    is_locked,
    planned_by,
    read_run,
    report_of,
    rows_of,
    seconds_of,
)
from nstexp.studio.sessions import HOME
from nstexp.studio.summing import (
    GOING,
    State,
    about,
    overall,
    shown_first,
    values_in_order,
    varying,
    version_of,
    waiting_jobs,
)

LEAST_S = 1.0  # a second look within this time gets the result of the first
YOUNG_NS = 2 * 10**9  # a folder that changed this shortly before it was read may change again with the same time
QUIET_S = 60.0  # the lock of a running run is tried when it wrote nothing for so long
ASK_EVERY_S = 30.0  # between two trials of the lock
BARREN_S = 60.0  # a folder without runs below it is searched again after so long
MOST_FOLDERS, MOST_DEPTH, MOST_SUBDIRS = 20_000, 8, 4
MARKS = {
    "summary.json", "multirun.yaml", "report.html", "metrics.json", launching.RECORD, launching.LOG, "nstexp.log",
    LOCK, SWEEP_LOCK,
}  # fmt: skip
LOST = "no end is recorded, and nothing was written for a while: its process was killed, or its machine went away"
NOT_BEGUN = "it has no record: it was refused or killed before its first step"


@dataclass(frozen=True)
class Listing:
    """What is in a folder: its folders in natural order, and which of the files in MARKS."""

    changed_ns: int
    young: bool
    folders: tuple[str, ...]
    files: frozenset[str]


class Watcher:
    """Reads a folder again and again, and remembers what did not change.

    Args:
        folder: the folder of the studio, absolute.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._listings: dict[str, Listing] = {}
        self._runs: dict[str, tuple[Any, Run]] = {}
        self._barren: dict[str, float] = {}
        self._asked: dict[str, tuple[float, bool]] = {}
        self._entries: dict[str, tuple[Any, dict[str, Any]]] = {}
        self._plans: dict[str, tuple[Any, list[dict[str, str]], int | None]] = {}
        self._records: dict[str, tuple[int, launching.Record | None]] = {}
        self._answer: tuple[float, dict[str, Any]] | None = None
        self._visited, self._cut = 0, False

    # ------------------------------------------------------------------------------------------------- all experiments

    def all(self, again: bool = False) -> dict[str, Any]:
        """All sweeps and runs, the newest first.

        Args:
            again: whether to search folders, too, in which there was no run a short while ago.

        Returns:
            version: changes when anything else here does; folder: name of the folder; running: whether anything runs;
            notice: what was left out, or null; entries: see `_entry`.
        """
        with self._lock:
            if self._answer is not None and not again and time.monotonic() - self._answer[0] < LEAST_S:
                return self._answer[1]
            if again:
                self._barren.clear()
            self._visited, self._cut = 0, False
            entries = [self._entry(found) for found in self._search(self.folder, 0)]
            entries.sort(key=lambda entry: (entry["started"] or 0, entry["id"]), reverse=True)
            notice = f"only the first {MOST_FOLDERS} folders were searched: give the studio a smaller one"
            answer = {
                "folder": str(self.folder),
                "running": any(entry["running"] for entry in entries),
                "notice": notice if self._cut else None,
                "entries": entries,
            }
            answer["version"] = version_of(answer)
            self._answer = (time.monotonic(), answer)
            return answer

    def forget(self) -> None:
        """Look at everything again at the next question, because this server has just changed something."""
        with self._lock:
            self._answer = None
            self._barren.clear()

    def _search(self, path: Path, depth: int) -> list[Found]:
        listing = self._list(path)
        if listing is None:
            return []
        if self._is_sweep(path, listing):
            return [Found(path, True)]
        if self._is_run(listing):
            return [Found(path, False)]
        name = str(path)
        if depth == MOST_DEPTH or (depth and time.monotonic() < self._barren.get(name, 0.0)):
            return []
        first = {"multirun": 0, "runs": 1}
        children = sorted(listing.folders, key=lambda child: first.get(child, 2)) if depth == 0 else listing.folders
        found = [one for child in children if depth or child != HOME for one in self._search(path / child, depth + 1)]
        if found:
            self._barren.pop(name, None)
        else:
            self._barren[name] = time.monotonic() + BARREN_S
        return found

    def _is_sweep(self, path: Path, listing: Listing) -> bool:
        if "multirun.yaml" in listing.files:
            return True
        if launching.RECORD in listing.files:
            record = self._record(path)
            return record is not None and record.sweep
        numbered = [name for name in listing.folders if name.isdecimal()]
        return bool(numbered) and os.path.isdir(path / numbered[0] / ".hydra")

    def _is_run(self, listing: Listing) -> bool:
        return bool({"summary.json", launching.RECORD} & listing.files) or ".hydra" in listing.folders

    def _list(self, path: Path) -> Listing | None:
        """The content of a folder, read again only if it changed; None if it cannot be read."""
        name = str(path)
        kept = self._listings.get(name)
        try:
            changed = os.stat(path).st_mtime_ns
            if kept is not None and kept.changed_ns == changed and not kept.young:
                return kept
            if kept is None and self._visited >= MOST_FOLDERS:
                self._cut = True
                return None
            self._visited += kept is None
            read_at = time.time_ns()
            folders, files = [], []
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.name in MARKS:
                        files.append(entry.name)
                    elif (entry.name == ".hydra" or is_input(entry.name)) and entry.is_dir(follow_symlinks=False):
                        folders.append(entry.name)
        except OSError:
            self._listings.pop(name, None)
            return None
        listing = Listing(changed, read_at - changed < YOUNG_NS, tuple(natsorted(folders)), frozenset(files))
        self._listings[name] = listing
        return listing

    def _jobs(self, sweep: Path, depth: int = 0) -> Iterator[Path]:
        """The folders of the jobs of a sweep, in natural order."""
        listing = self._list(sweep)
        for name in listing.folders if listing else ():
            if name == ".hydra":
                continue
            inner = self._list(sweep / name)
            if inner is None or "multirun.yaml" in inner.files:
                continue
            if "summary.json" in inner.files or ".hydra" in inner.folders:
                yield sweep / name
            elif depth < MOST_SUBDIRS:
                deeper = list(self._jobs(sweep / name, depth + 1))
                yield from deeper or ([sweep / name] if depth == 0 and name.isdecimal() else [])

    # ----------------------------------------------------------------------------------------------------- single runs

    def _run(self, path: Path) -> Run:
        """A run folder, read again only if it changed."""
        name = str(path)
        listing = self._list(path)
        file = path / "summary.json"
        try:
            status = file.stat()
            stamp = (status.st_mtime_ns, status.st_size, listing.changed_ns if listing else 0)
        except OSError:
            stamp = (0, 0, listing.changed_ns if listing else 0)
        kept = self._runs.get(name)
        if kept is not None and kept[0] == stamp and not (listing and listing.young):
            return kept[1]
        run = read_run(path)
        run.changed = max(stamp[0], stamp[2]) / 1e9
        self._runs[name] = (stamp, run)
        return run

    def _status(self, run: Run, process: bool | None, on_cluster: bool) -> State:
        """The status of a run and its sentence.

        Args:
            run: the run.
            process: whether the process that a studio started for it runs; None: nobody knows.
            on_cluster: whether it may run elsewhere.
        """
        if run.status not in (None, "running"):
            return str(run.status), run.error
        gone = process is False and not on_cluster
        locked = os.path.exists(run.path / LOCK)
        if not gone and (locked or run.status == "running") and self._works(run):
            return ("running" if run.status else "starting"), None
        if run.status == "running":
            return "lost", LOST
        return "no record", NOT_BEGUN

    def _works(self, run: Run) -> bool:
        """Whether a run without an end shows signs of life."""
        newest = run.changed
        for name in ("losses.csv", "frames.csv", "nstexp.log", "images"):
            with suppress(OSError):
                newest = max(newest, (run.path / name).stat().st_mtime)
        now = time.time()
        if now - newest < QUIET_S:
            return True
        key = str(run.path)
        asked, answer = self._asked.get(key, (0.0, False))
        if now - asked > ASK_EVERY_S:
            answer = is_locked(run.path / LOCK)
            self._asked[key] = (now, answer)
        return answer

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix() if path != self.folder else "."

    def _picture(self, run: Run, going: bool) -> dict[str, str] | None:
        """The first picture of a run, or the newest on the way: {file, url, full}."""
        file = None if going else next(iter(run.pictures.values()), None)
        file = file or newest_picture(run.path) or next(iter(run.pictures.values()), None)
        return None if file is None else self.picture(run.path / file)

    def newest(self, run: Run) -> dict[str, str] | None:
        """The newest unfinished picture of a run."""
        file = newest_picture(run.path)
        return None if file is None else self.picture(run.path / file)

    def picture(self, file: Path) -> dict[str, str] | None:
        """The addresses of a picture: {url (small), full}; None if it is gone."""
        try:
            changed = file.stat().st_mtime_ns
        except OSError:
            return None
        place = quote(self._name(file))
        return {
            "url": f"/api/experiments/thumbs/{place}?v={changed:x}",
            "full": f"/api/experiments/files/{place}?v={changed:x}",
        }

    # -------------------------------------------------------------------------------------------------- one experiment

    def _members(self, found: Found) -> tuple[list[Run], launching.Record | None, bool | None, bool]:
        """The runs of an experiment, its record, whether its process runs, and whether the sweep is locked."""
        record = self._record(found.path) if self._has(found.path, launching.RECORD) else None
        alive = launching.is_alive(record) if record is not None else None
        paths = list(self._jobs(found.path)) if found.is_sweep else [found.path]
        return [self._run(path) for path in paths], record, alive, self._has(found.path, SWEEP_LOCK)

    def _record(self, path: Path) -> launching.Record | None:
        """The record of a studio in a folder, read again only if it changed."""
        try:
            changed = (path / launching.RECORD).stat().st_mtime_ns
        except OSError:
            return None
        kept = self._records.get(str(path))
        if kept is None or kept[0] != changed or time.time_ns() - changed < YOUNG_NS:
            kept = self._records[str(path)] = (changed, launching.read_record(path))
        return kept[1]

    def _has(self, path: Path, name: str) -> bool:
        listing = self._list(path)
        return listing is not None and name in listing.files

    def _states(self, runs: Sequence[Run], record: launching.Record | None, alive: bool | None) -> list[State]:
        process = alive if record is not None else None
        on_cluster = record is not None and record.on_cluster
        states = [self._status(run, process, on_cluster) for run in runs]
        if alive:  # a job that its process has just begun has no record yet
            states = [("starting", None) if state == "no record" else (state, why) for state, why in states]
        return states

    def _entry(self, found: Found) -> dict[str, Any]:
        """One line of the list.

        Returns:
            id: the path relative to the studio's folder; kind: sweep or run; status; statuses: {status: count};
            waiting: jobs that have not begun, or null; running; started: seconds since 1970, or null; seconds; keys:
            [[key, number of values]]; error; picture; progress: 0 to 1, or null; about: of a run, what was asked for;
            method; task; started_here; stopping.
        """
        runs, record, alive, locked = self._members(found)
        states = self._states(runs, record, alive)
        going = alive is True or any(state in GOING for state, _ in states)
        key = str(found.path)
        stamp = (*(run.serial for run in runs), *states, alive, locked, record and (record.time, record.stopping))
        kept = self._entries.get(key)
        if kept is not None and kept[0] == stamp and not going:
            return kept[1]
        planned, total = self._planned(found, record)
        waiting = max(0, total - len(runs)) if total is not None and found.is_sweep else None
        statuses: dict[str, int] = {}
        for state, _ in states:
            statuses[state] = statuses.get(state, 0) + 1
        error = next((why for state, why in states if why and state not in ("pruned", "interrupted")), None)
        if found.is_sweep and not runs and not going and record is not None:
            error = last_message(found.path / launching.LOG) or "it ended before its first job"
        elif not found.is_sweep and states[0][0] == "no record" and record is not None and not going:
            error = last_message(found.path / launching.LOG) or error
        starts = [run.started for run in runs if run.started is not None]
        if not starts and record is not None:
            starts = [] if (begun := seconds_of(record.time)) is None else [begun]
        shown = shown_first(runs, states)
        seconds = [run.seconds for run in runs if run.seconds is not None]
        entry = {
            "id": self._name(found.path),
            "kind": "sweep" if found.is_sweep else "run",
            "status": overall(statuses, going, waiting, record),
            "statuses": statuses,
            "waiting": waiting,
            "running": going,
            "started": min(starts, default=max((run.changed for run in runs), default=None)),
            "seconds": sum(seconds) if seconds else None,
            "keys": varying(runs, planned),
            "error": without_secrets(error) if error else None,
            "picture": None if shown is None else self._picture(shown, states[runs.index(shown)][0] in GOING),
            "progress": self._progress(runs, states, total) if going else None,
            "about": about(runs[0]) if not found.is_sweep else "",
            "method": next((run.method for run in runs if run.method), None),
            "task": next((run.task for run in runs if run.task), None),
            "started_here": record is not None,
            "stopping": bool(record and record.stopping) if alive else False,
        }  # fmt: skip
        self._entries[key] = (stamp, entry)
        return entry

    def _progress(
        self, runs: Sequence[Run], states: Sequence[tuple[str, str | None]], total: int | None
    ) -> float | None:
        """The share of the work that is done, from 0 to 1."""
        done = 0.0
        for run, (state, _) in zip(runs, states, strict=True):
            if state in GOING:
                found = progress_of(run.path)
                done += found["step"] / found["of"] if found.get("of") else 0.0
            else:
                done += 1
        count = total or len(runs)
        return round(min(1.0, done / count), 4) if count else None

    def _planned(self, found: Found, record: launching.Record | None) -> tuple[list[dict[str, str]], int | None]:
        """The values of the jobs of a sweep, also of those that have not begun, and their number."""
        if not found.is_sweep:
            return [], None
        if record is not None and (record.jobs or record.total is not None):
            return record.jobs, record.total
        file = found.path / "multirun.yaml"
        try:
            stamp = file.stat().st_mtime_ns
        except OSError:
            return [], None
        kept = self._plans.get(str(file))
        if kept is None or kept[0] != stamp:
            kept = self._plans[str(file)] = (stamp, *planned_by(file))
        return kept[1], kept[2]

    def one(self, place: Path) -> dict[str, Any]:
        """A sweep with its jobs, or a run.

        Args:
            place: its folder.

        Returns:
            The fields of `_entry`, and path; command; rows: [{key, value}] of the command; report: the address of
            report.html, or null; fresh: whether the report is newer than all runs; can: what the page may do with it
            (stop, continue, report); axes: the keys that vary with their values; jobs: see `_job`; log: whether it
            has a log; version.
        """
        with self._lock:
            listing = self._list(place)
            is_sweep = listing is not None and self._is_sweep(place, listing)
            if listing is None or not (is_sweep or self._is_run(listing)):
                raise UserError(f"{self._name(place)}: there is no sweep and no run in this folder any more")
            found = Found(place, is_sweep)
            entry = self._entry(found)
            runs, record, alive, locked = self._members(found)
            states = self._states(runs, record, alive)
            planned, _ = self._planned(found, record)
            keys = [key for key, _ in entry["keys"]]
            jobs = [self._job(found, run, state, keys) for run, state in zip(runs, states, strict=True)]
            if is_sweep:
                jobs += waiting_jobs(jobs, planned, entry["running"])
            report = report_of(place)
            newest = max((run.changed for run in runs), default=0.0)
            fresh = report is not None and report.stat().st_mtime >= newest - 1
            answer: dict[str, Any] = {
                **entry,
                "path": str(place),
                "command": command_of(found, runs, record),
                "rows": rows_of(found, runs, record),
                "jobs": jobs,
                "axes": [{"key": key, "values": values_in_order(jobs, key)} for key in keys],
                "log": has_log(place),
                "report": None if report is None else f"/api/experiments/files/{quote(self._name(report))}",
                "fresh": fresh,
                "can": {
                    "stop": alive is True,
                    "continue": not (entry["running"] or entry["status"] == "completed" or (locked and alive is None)),
                    "report": bool(runs) and (is_sweep or entry["task"] == "evaluate"),
                },
            }  # fmt: skip
            answer["version"] = version_of(answer)
            return answer

    def _job(self, found: Found, run: Run, state: State, keys: Sequence[str]) -> dict[str, Any]:
        """A job: name, id, status, error, values {key: text}, picture, pictures {name: addresses}, metrics {picture:
        {name: number}}, seconds, progress."""
        going = state[0] in GOING
        name = run.path.relative_to(found.path).as_posix() if found.is_sweep else run.path.name
        return {
            "name": name,
            "id": self._name(run.path),
            "status": state[0],
            "error": without_secrets(state[1]) if state[1] else None,
            "values": {key: run.overrides.get(key) for key in keys},
            "picture": self._picture(run, going),
            "pictures": len(run.pictures),
            "metrics": finite(run.metrics),
            "seconds": run.seconds,
            "progress": progress_of(run.path) if going or state[0] in ("lost", "interrupted") else {},
        }
