"""Ctrl-C and kill -9 at moments spread over whole runs; check what is left, and whether the work can continue."""

import csv
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import av

from hostile.commands import user
from hostile.files import TRAINING, clip, pictures
from hostile.trials import LIMIT_S, Outcome, Trial, command, digests, environment, is_flat, record, wrong_with

INTERRUPTED = 130
LEVELS = ("content=photo.jpg", "style=painting.jpg", "backbone=random", "image_px=256", "method.levels=4",
          "method.max_steps=60", "method.coarse_steps=12", "logger=none", "picture_every_n_steps=5",
          "run_dir=out")  # fmt: skip
SWEEP = ("-m", "experiment=smoke_gatys", "content=photo.jpg", "image_px=128", "method.max_steps=20", "seed=1,2,3",
         "hydra.sweep.dir=out")  # fmt: skip
LEARN = (*TRAINING, "run_dir=out", "method.max_steps=24")
FRAMES = ("task=video", "method=cin", "style=irises", "content=clip.mp4", "image_px=128", "logger=none", "run_dir=out",
          "output=out.mkv", "video.codec=ffv1")  # fmt: skip


@dataclass(frozen=True)
class Ending:
    """A command that is ended by a signal.

    Args:
        kind: the row of the table that it counts in.
        words: the arguments of the command.
        prepare: creates its files in the folder that it is given.
        moments: when the signals are sent, as shares of the time of an undisturbed run.
        sign: the signal.
        check: returns what is wrong with the files that are left, or None.
        goes_on: whether the same command then continues and must end with the bytes of an undisturbed run.
    """

    kind: str
    words: Sequence[str]
    prepare: Callable[[Path], object]
    moments: Sequence[float]
    sign: signal.Signals
    check: Callable[[Outcome], str | None] = lambda outcome: None
    goes_on: bool = False


def endings() -> Iterator[Ending]:
    """Yield 24 interruptions and 20 kills."""

    def spread(count: int) -> list[float]:
        return [(number + 0.5) / count for number in range(count)]

    def one_clip(folder: Path) -> None:
        clip(folder / "clip.mp4", 40)

    yield Ending("interrupts", LEVELS, user, spread(12), signal.SIGINT, _has_picture)
    yield Ending("interrupts", SWEEP, user, spread(4), signal.SIGINT)
    yield Ending("interrupts", LEARN, pictures, spread(4), signal.SIGINT, goes_on=True)
    yield Ending("interrupts", FRAMES, one_clip, spread(4), signal.SIGINT, goes_on=True)
    yield Ending("kills", LEARN, pictures, spread(10), signal.SIGKILL, goes_on=True)
    yield Ending("kills", FRAMES, one_clip, spread(10), signal.SIGKILL, goes_on=True)


def attempts(ending: Ending, keep: Path | None = None) -> Iterator[tuple[str, str | None]]:
    """End the command at every moment; yield a name and what is wrong (or None) each time.

    Args:
        ending: the command.
        keep: folder that keeps the folders of all runs; None: they are removed.
    """
    trial = Trial(ending.kind, " ".join(ending.words), ending.words, lambda outcome: None)
    with tempfile.TemporaryDirectory() as name:
        ending.prepare(Path(name))
        yield from _attempts(ending, trial, Path(name), keep)


def _attempts(ending: Ending, trial: Trial, files: Path, keep: Path | None) -> Iterator[tuple[str, str | None]]:
    """Like `attempts`, with a copy of the folder `files` for every run, because two encodings of a clip may differ."""
    with tempfile.TemporaryDirectory() as name:
        shutil.copytree(files, name, dirs_exist_ok=True)
        started = time.monotonic()
        whole = _ended(trial, Path(name), None, None)
        seconds, expected = time.monotonic() - started, _results(Path(name))
        if whole.code != 0:
            yield f"{trial.name} undisturbed", whole.err[-300:]
            return
    for moment in ending.moments:
        named = f"{ending.sign.name} at {moment:.0%} of: {trial.name}"
        folder = Path(tempfile.mkdtemp(dir=keep))
        shutil.copytree(files, folder, dirs_exist_ok=True)
        outcome = _ended(trial, folder, ending.sign, moment * seconds)
        yield named, _wrong(ending, trial, outcome, expected)
        if keep is None:
            shutil.rmtree(folder)


def _ended(trial: Trial, folder: Path, sign: signal.Signals | None, after: float | None) -> Outcome:
    """Run a command, send it a signal after this many seconds, and wait for its end."""
    before, started = digests(folder), time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(command(trial), cwd=folder, env=environment(folder, {}), stdin=subprocess.DEVNULL,
                                   stdout=out, stderr=err, start_new_session=True)  # fmt: skip
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            # To all processes of the command, as a terminal does with Ctrl-C.
            os.killpg(process.pid, sign or signal.SIGKILL)
        process.wait(LIMIT_S)
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode("utf-8", "backslashreplace"))
    seconds = time.monotonic() - started
    return Outcome(folder, process.returncode, *texts, seconds, 0.0, before, digests(folder))


def _wrong(ending: Ending, trial: Trial, outcome: Outcome, expected: dict[str, str]) -> str | None:
    """Describe what is wrong after the signal, or after the command has continued; None if nothing is."""
    if wrong := wrong_with(trial, outcome):
        return wrong
    if ending.sign == signal.SIGINT and (wrong := _wrong_interrupt(outcome) or ending.check(outcome)):
        return wrong
    if not ending.goes_on:
        return None
    again = replace(_ended(trial, outcome.folder, None, None), before=outcome.before)  # the user's files
    if wrong := wrong_with(trial, again):
        return f"going on: {wrong}"
    if again.code != 0:
        return f"going on: exit code {again.code}: {again.err[-200:]}"
    found = _results(outcome.folder)
    different = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    return f"{different[0]} is not that of an undisturbed run" if different else None


def _wrong_interrupt(outcome: Outcome) -> str | None:
    """Describe what is wrong with the exit code, the messages or the record after Ctrl-C; None if nothing is."""
    if outcome.code not in (0, INTERRUPTED):
        return f"exit code {outcome.code}: {outcome.err[-200:]}"
    if outcome.code == INTERRUPTED and not outcome.sentences:
        return "no message is printed"
    status = record(outcome).get("status")
    if status not in (None, "completed", "interrupted"):
        return f"the record says {status}: {record(outcome).get('error')}"
    return None


def _has_picture(outcome: Outcome) -> str | None:
    """Check that after the first step a picture exists, and that losses.csv has rows."""
    losses = outcome.folder / "out" / "losses.csv"
    if outcome.code == 0 or not losses.exists():
        return None
    picture = outcome.folder / "out" / "output.png"
    if not picture.exists():
        return f"the picture is lost: {outcome.sentences[-1:]}"
    if is_flat(picture):
        return "the picture is of one color"
    with losses.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return None if rows else "losses.csv is empty"


def _results(folder: Path) -> dict[str, str]:
    """Name -> digest of the networks and clips that a run made, and the number of rows in frames.csv."""
    files = [path for path in folder.rglob("*") if path.suffix in (".safetensors", ".mkv") and path.is_file()]
    found = {str(path.relative_to(folder)): hashlib.sha256(_content(path)).hexdigest() for path in files}
    table = folder / "out" / "frames.csv"
    if table.exists():
        found["rows of frames.csv"] = str(len(table.read_text(encoding="utf-8").splitlines()))
    return found


def _content(path: Path) -> bytes:
    """The bytes of a file; of a clip, its frames and times, because the container holds a random number."""
    if path.suffix != ".mkv":
        return path.read_bytes()
    with av.open(str(path)) as container:
        return b"".join(frame.to_ndarray().tobytes() + str(frame.pts).encode() for frame in container.decode(video=0))
