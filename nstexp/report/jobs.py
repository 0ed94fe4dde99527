"""Finds the run folders of sweeps and reads them into jobs."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from natsort import natsorted

from nstexp.console import bar
from nstexp.core.errors import UserError
from nstexp.media.listing import is_input
from nstexp.report.evaluations import is_evaluation
from nstexp.report.job import SWEEP, Job
from nstexp.report.records import has_record, read_job
from nstexp.report.texts import unique


def job_folders(folder: Path) -> list[Path]:
    """The run folders of a sweep, at any depth, in natural order (2 before 10), without those of sweeps inside it."""
    entries = list(_folders_in(folder))
    runs = [entry for entry in entries if (entry / ".hydra").is_dir() or has_record(entry)]
    parents = {parent for entry in runs for parent in entry.parents}
    # A numbered folder is a job that died before it wrote any file, unless it contains jobs and is named after a value.
    runs += [e for e in entries if e.parent == folder and e.name.isdecimal() and e not in parents and e not in runs]
    return natsorted(runs, key=lambda entry: entry.relative_to(folder).as_posix())


def _folders_in(folder: Path) -> Iterator[Path]:
    """All folders inside a folder, at any depth, without the folders inside links and inside other sweeps."""
    with os.scandir(folder) as entries:
        folders = [Path(entry.path) for entry in entries if is_input(entry.name) and entry.is_dir()]
    for entry in folders:
        yield entry
        if not entry.is_symlink() and not (entry / "multirun.yaml").is_file():
            with suppress(OSError):  # a folder without permission to read it
                yield from _folders_in(entry)


def read_sweep(folder: str | Path) -> list[Job]:
    """The jobs of a sweep, ordered by number.

    Raises:
        UserError: the folder does not exist or contains no runs.
    """
    folder = existing(folder)
    paths = job_folders(folder)
    if not paths:
        raise UserError(f"{folder}: no runs in this folder{_nearby(folder)}")
    with_bar = bar(paths, desc="runs", unit="run", delay=2, leave=False)
    jobs = [read_job(path, position, path.relative_to(folder).as_posix()) for position, path in enumerate(with_bar)]
    if len({job.number for job in jobs}) < len(jobs):  # jobs of several sweeps, or without numbers
        for position, job in enumerate(jobs):
            job.number = position
    return sorted(jobs, key=lambda job: job.number)


def read_run(folder: str | Path) -> Job:
    """The job of a single run.

    Raises:
        UserError: the folder does not exist.
    """
    folder = existing(folder)
    return read_job(folder, 0, folder.name)


def read_sweeps(folders: Sequence[str | Path]) -> list[Job]:
    """The jobs of several sweeps, with the name of the sweep as the first override, SWEEP.

    The folder of a single run counts as a sweep of one job. For a single folder this is the same as `read_sweep`,
    unless it is that of an evaluation, which has many pictures.

    Raises:
        UserError: a folder does not exist or contains no runs.
    """
    sweeps = unique(existing(folder).resolve() for folder in folders)
    if len(sweeps) == 1:
        return [read_run(sweeps[0])] if is_evaluation(sweeps[0]) else read_sweep(sweeps[0])
    jobs = []
    for folder, name in zip(sweeps, _names(sweeps), strict=True):
        is_run = has_record(folder) and not job_folders(folder)
        for job in [read_run(folder)] if is_run else read_sweep(folder):
            job.overrides = {SWEEP: name, **{key: value for key, value in job.overrides.items() if key != SWEEP}}
            jobs.append(job)
    return jobs


def existing(folder: str | Path) -> Path:
    """The path of a folder; raises a UserError if it does not exist."""
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    return folder


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' names, with as many parent folders as are needed to tell them apart."""
    deepest = max(len(folder.parts) for folder in folders)
    for depth in range(1, deepest + 1):
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len({*names}) == len(names):
            break
    return names


def _nearby(folder: Path) -> str:
    """The end of the error message for a folder without runs: a folder that the user may have meant."""
    if has_record(folder):
        return f": it is itself one run; give the sweep's folder, {folder.parent}"
    sweeps = sorted(entry for entry in folder.iterdir() if entry.is_dir() and job_folders(entry))
    return f"; did you mean {sweeps[-1]}?" if sweeps else ": give the folder of a sweep, such as multirun/nstexp/DATE"
