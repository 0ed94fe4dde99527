"""How far a run is, read from the files that it writes: its newest loss, its newest picture, the end of its log."""

import csv
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from nstexp.core.secrets import without_secrets
from nstexp.ownership import LOG

END_BYTES = 8192  # read from the end of losses.csv
LOG_BYTES = 24_000  # read from the end of a log
LOG_LINES = 60
COLORS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
MOMENT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")  # begins a message in a run's log
BAR = re.compile(r"\d+%\|")  # a progress bar of tqdm
# Lines of the command line that are no message: progress, the names of results, the configuration.
NO_MESSAGE = re.compile(r"\d+%\||; configuration in |^\[sweep\] |^loss: |^\$ |^job +status|^Error executing job")
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def tail(path: Path, size: int) -> bytes:
    """The last bytes of a file; empty if it cannot be read."""
    with suppress(OSError), path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        start = max(0, file.tell() - size)
        file.seek(start)
        content = file.read(size)
        return content if start == 0 else content.partition(b"\n")[2]
    return b""


def log_lines(path: Path, most: int = LOG_LINES) -> list[str]:
    """The last lines of a log; of a progress bar, which is drawn again and again in one line, the last state."""
    text = COLORS.sub("", tail(path, LOG_BYTES).decode("utf-8", "replace"))
    lines: list[str] = []
    given = text.split("\n")
    for line in _without_configuration(given) if path.name == LOG else given:
        states = [state for state in line.split("\r") if state.strip()]
        bars = [state for state in states if BAR.search(state)]
        lines += [*(state for state in states if state not in bars), *bars[-1:]]
    return [without_secrets(line.rstrip()) for line in lines if line.strip()][-most:]


def _without_configuration(lines: Iterable[str]) -> Iterator[str]:
    """The lines of a run's log without the configuration in it, which has a hundred lines and a file of its own."""
    inside = True  # the beginning of the lines may be in the middle of the configuration
    for line in lines:
        if MOMENT.match(line):
            inside = line.endswith("configuration:")
        if not inside:
            yield line


def last_message(path: Path) -> str | None:
    """The last line of a log that is a message and not progress; None if there is none."""
    found = [line for line in log_lines(path) if not NO_MESSAGE.search(line)]
    return found[-1].strip() if found else None


def progress_of(run: Path) -> dict[str, Any]:
    """How far a run is.

    Returns:
        step, seconds, loss, picture: of the newest row of losses.csv, as far as they are there; of: the number of
        steps; frames: of a clip, how many are done. Empty if the run has no row yet.
    """
    rows = _last_row(run / "losses.csv")
    if rows is None:
        frames = _last_row(run / "frames.csv")
        number = _number((frames or {}).get("frame"))
        return {} if number is None else {"frames": int(number) + 1}
    step, seconds, loss = (_number(rows.get(name)) for name in ("step", "seconds", "total"))
    if step is None:
        return {}
    found: dict[str, Any] = {"step": int(step), "seconds": seconds, "loss": loss, "picture": rows.get("image")}
    if (steps := _max_steps(run)) is not None and steps >= step:
        found["of"] = steps
    return found


def _last_row(path: Path) -> dict[str, str] | None:
    """The last complete row of a CSV file."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            columns = next(csv.reader([file.readline()]), [])
    except OSError:
        return None
    lines = tail(path, END_BYTES).decode("utf-8", "replace").splitlines()
    for values in reversed(list(csv.reader(line.replace("\0", "") for line in lines))):
        if len(values) == len(columns) and values != columns:
            return dict(zip(columns, values, strict=True))
    return None


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if number == number and abs(number) != float("inf") else None


_steps: dict[tuple[str, int], int | None] = {}


def _max_steps(run: Path) -> int | None:
    """method.max_steps of a run; the configuration is read once."""
    file = run / "config.yaml"
    try:
        key = (str(file), file.stat().st_mtime_ns)
        if key not in _steps:
            config = yaml.load(file.read_text(encoding="utf-8"), LOADER)
            method = config.get("method") if isinstance(config, Mapping) else None
            steps = method.get("max_steps") if isinstance(method, Mapping) else None
            if len(_steps) > 1000:
                _steps.clear()
            _steps[key] = steps if isinstance(steps, int) and not isinstance(steps, bool) else None
        return _steps[key]
    except (OSError, ValueError, yaml.YAMLError):
        return None


def newest_picture(run: Path) -> str | None:
    """The newest unfinished picture of a run, relative to its folder; None if there is none."""
    newest: tuple[int, str] | None = None
    with suppress(OSError), os.scandir(run / "images") as entries:
        for entry in entries:
            stem, ending = os.path.splitext(entry.name)
            step = stem.rpartition("_")[2]
            if ending == ".jpg" and step.isdecimal() and not entry.name.startswith("."):
                with suppress(OSError):
                    candidate = (entry.stat().st_mtime_ns, f"images/{entry.name}")
                    newest = candidate if newest is None or candidate > newest else newest
    return None if newest is None else newest[1]
