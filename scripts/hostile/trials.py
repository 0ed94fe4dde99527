"""A trial runs one command in a folder with a user's files, and checks what must be true when the command has ended."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

SMALL = ("image_px=64", "logger=none")
INSTANT = ("method=cin", "style=irises", *SMALL)  # the fastest way to stylize a photo
LONGEST_SENTENCE, MOST_LINES = 700, 3  # limits for the message of a refused command, in characters and lines
LIMIT_S = 420.0  # a command that takes longer hangs
PROGRESS = re.compile(r"\d+%\||; configuration in |^picture \d+ of |^\[sweep\] |^loss: ")  # lines that are no messages

Check = Callable[["Outcome"], "str | None"]


@dataclass(frozen=True)
class Trial:
    """One command.

    Args:
        kind: the row of the table that the trial counts in.
        name: of the trial in the list of failures.
        words: the arguments behind `python -m nstexp`.
        check: returns what is wrong with the outcome, or None. `wrong_with` is applied to every trial before.
        prepare: creates the files of the trial in the folder that it is given.
        env: environment variables to set; None removes a variable.
        shell: a command line for bash instead of `words`; "$NSTEXP" stands for `python -m nstexp`.
        file: whether the trial tests a file instead of a command.
        may_change: names of user's files that the command may replace, because it names them as its output.
    """

    kind: str
    name: str
    words: Sequence[str]
    check: Check
    prepare: Callable[[Path], object] = lambda folder: None
    env: Mapping[str, str | None] = field(default_factory=dict)
    shell: str | None = None
    file: bool = False
    may_change: Sequence[str] = ()


@dataclass(frozen=True)
class Outcome:
    """The result of a command.

    Args:
        folder: where the command ran.
        code: the exit code; a negative number is the signal that ended the command.
        out, err: the text on stdout and stderr.
        seconds: wall time.
        peak_mb: peak memory of the process in megabytes.
        before, after: name -> digest of all files in the folder, before and after the command.
    """

    folder: Path
    code: int
    out: str
    err: str
    seconds: float
    peak_mb: float
    before: Mapping[str, str]
    after: Mapping[str, str]

    @property
    def sentences(self) -> list[str]:
        """The lines on stderr without progress lines."""
        lines = re.split(r"[\r\n]", self.err.replace("\x1b[A", ""))
        return [line for line in lines if line.strip() and not PROGRESS.search(line)]

    @property
    def result(self) -> Path | None:
        """The path on the last line of stdout."""
        lines = [line for line in self.out.splitlines() if line.strip()]
        return self.folder / lines[-1] if lines else None

    @property
    def new(self) -> list[str]:
        """Names of the files that the command created."""
        return sorted(set(self.after) - set(self.before))


def attempt(trial: Trial, keep: Path | None = None) -> tuple[Outcome, str | None]:
    """Run a trial in a new folder.

    Args:
        trial: the trial.
        keep: folder that keeps the folder of the trial; None: it is removed.

    Returns:
        The outcome, and what is wrong with it, or None.
    """
    folder = Path(tempfile.mkdtemp(dir=keep))
    try:
        trial.prepare(folder)
        outcome = run(trial, folder)
        try:
            return outcome, wrong_with(trial, outcome) or trial.check(outcome)
        except OSError as error:  # the check cannot read a file
            return outcome, f"{type(error).__name__}: {error}"
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)


def run(trial: Trial, folder: Path) -> Outcome:
    """Run a trial's command in a folder and wait for its end."""
    before = digests(folder)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.monotonic()
        process = subprocess.Popen(
            command(trial), cwd=folder, env=environment(folder, trial.env), stdin=subprocess.DEVNULL,
            stdout=out, stderr=err, start_new_session=True,
        )  # fmt: skip
        code, peak = _wait(process, started)
        seconds = time.monotonic() - started
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode("utf-8", "backslashreplace"))
    return Outcome(folder, code, *texts, seconds, peak, before, digests(folder))


def command(trial: Trial) -> list[str]:
    """The command line of a trial."""
    if trial.shell is None:
        return [sys.executable, "-m", "nstexp", *trial.words]
    return ["bash", "-c", f'NSTEXP="{sys.executable} -m nstexp"; {trial.shell}']


def environment(folder: Path, changes: Mapping[str, str | None]) -> dict[str, str]:
    """The environment of a command: one thread, and the trial's folder as the user's home."""
    names = {**os.environ, "OMP_NUM_THREADS": "1", "HOME": str(folder), "WANDB_MODE": "offline", **changes}
    return {name: value for name, value in names.items() if value is not None}


def _wait(process: subprocess.Popen, started: float) -> tuple[int, float]:
    """Exit code and peak memory (MB) of a process; it is killed if it exceeds the time limit."""
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, usage.ru_maxrss / 2**10
        if time.monotonic() - started > LIMIT_S:
            process.kill()
        time.sleep(0.02)


def digests(folder: Path) -> dict[str, str]:
    """Name -> digest of everything in a folder; for a link its target, for a folder only that it exists."""
    found: dict[str, str] = {}
    for path in folder.rglob("*"):
        name = os.fsencode(path.relative_to(folder)).decode("utf-8", "backslashreplace")
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
        elif path.is_dir():
            found[name] = "folder"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = "neither file nor folder"
    return found


def wrong_with(trial: Trial, outcome: Outcome) -> str | None:
    """Describe what no command may do, a traceback, a hang, or a changed file of the user; None if it did not."""
    if "Traceback (most recent call last)" in outcome.err + outcome.out:
        return f"a traceback: {outcome.err.strip().splitlines()[-1]}"
    if outcome.seconds > LIMIT_S:
        return "it hangs"
    for name, digest in outcome.before.items():
        if name not in outcome.after:
            return f"the user's file {name} is gone"
        if outcome.after[name] != digest and name not in trial.may_change:
            return f"the user's file {name} has changed"
    return None


def refused(*says: str, leaves: Sequence[str] = (), lines: int = MOST_LINES) -> Check:
    """A check that a command ends with one short message, exit code 1 or 2, and no new file.

    Args:
        says: words that the message must contain, in any case.
        leaves: prefixes of files that may remain; a sweep, for instance, keeps the record of a refused job.
        lines: most lines of the message.
    """

    def check(outcome: Outcome) -> str | None:
        text = "\n".join(outcome.sentences)
        if outcome.code not in (1, 2):
            return f"exit code {outcome.code}: {text[-200:]}"
        if not text or len(outcome.sentences) > lines or len(text) > LONGEST_SENTENCE:
            return f"{len(outcome.sentences)} lines, {len(text)} characters: {text[:300]!r}"
        if missing := [word for word in says if word.lower() not in text.lower()]:
            return f"'{missing[0]}' is not named: {text[:300]!r}"
        if left := [name for name in outcome.new if not name.startswith(tuple(leaves))]:
            return f"{left[0]} is left behind"
        return None

    return check


def made(*also: Check, flat: bool = False, says: Sequence[str] = ()) -> Check:
    """A check that a command ends with code 0 and a result that can be read.

    Args:
        also: further checks.
        flat: whether the picture may have only one color.
        says: words that stderr must contain, in any case.
    """

    def check(outcome: Outcome) -> str | None:
        if outcome.code != 0:
            return f"exit code {outcome.code}: {' / '.join(outcome.sentences)[-300:]}"
        result = outcome.result
        if result is None or not result.exists():
            return f"the last line on stdout is not an existing file: {outcome.out[-200:]!r}"
        if missing := [word for word in says if word.lower() not in outcome.err.lower()]:
            return f"'{missing[0]}' is not in the messages: {' / '.join(outcome.sentences)[:300]!r}"
        if result.suffix in (".png", ".jpg") and not flat and is_flat(result):
            return "the picture is of one color"
        return next(filter(None, (check(outcome) for check in also)), None)

    return check


def either(*checks: Check) -> Check:
    """A check that passes if one of several checks passes."""

    def check(outcome: Outcome) -> str | None:
        wrong = [check(outcome) for check in checks]
        return None if None in wrong else "; or ".join(filter(None, wrong))

    return check


def memory_below(megabytes: float) -> Check:
    """A check that the peak memory of the process was below a limit."""

    def check(outcome: Outcome) -> str | None:
        return f"{outcome.peak_mb:.0f} MB of memory" if outcome.peak_mb > megabytes else None

    return check


def both(*checks: Check) -> Check:
    """A check that passes if all of several checks pass."""
    return lambda outcome: next(filter(None, (check(outcome) for check in checks)), None)


def size(width: int, height: int) -> Check:
    """A check that the picture has this size in pixels."""

    def check(outcome: Outcome) -> str | None:
        with Image.open(outcome.result) as image:
            return None if image.size == (width, height) else f"{image.size[0]} x {image.size[1]} pixels"

    return check


def nearer(first: str, second: str, third: str, share: float = 0.5) -> Check:
    """A check that the first two of three pictures differ by at most this share of what the last two differ by."""

    def check(outcome: Outcome) -> str | None:
        files = [outcome.result / f"{name}.png" for name in (first, second, third)]
        one, two, three = [np.asarray(Image.open(file).convert("RGB"), float) for file in files]
        if not one.shape == two.shape == three.shape:
            return "the pictures have different sizes"
        near, far = np.abs(one - two).mean(), np.abs(two - three).mean()
        return (
            None if near <= share * far else f"{first} and {second} differ by {near:.1f} of 255, {third} by {far:.1f}"
        )

    return check


def record(outcome: Outcome) -> dict:
    """The newest record that the run left; {} if there is none."""
    files = sorted(outcome.folder.rglob("summary.json"), key=lambda path: path.stat().st_mtime)
    return json.loads(files[-1].read_text(encoding="utf-8"), parse_constant=_no_constant) if files else {}


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def is_flat(path: Path) -> bool:
    """Whether all pixels of a picture have the same color."""
    with Image.open(path) as image:
        return all(low == high for low, high in image.convert("RGB").getextrema())
