"""What work on a clip that goes on later needs beside the frames: the exact state of the method, and the rows so far.

It lies in two files beside the partial output, `<output>.partial.safetensors` and `<output>.partial.csv`.
"""

import csv
import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from nstexp.core.errors import UserError
from nstexp.core.runtime.files import write_atomically

log = logging.getLogger(__name__)
SAVE_EVERY_SECONDS = 1.0  # a state is as large as several frames that are not compressed


@dataclass(frozen=True)
class State:
    """What a frame is made from besides the clip.

    Args:
        number: of that frame.
        scene: the number of the frame that begins its scene; None: it begins one.
        tensors: what is kept of the frames before, by name; nothing changes them later.
    """

    number: int = 0
    scene: int | None = None
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


class Memory:
    """Keeps the latest state from which the partial output can be gone on from, and the rows of frames.csv.

    The partial output on the disk always has the frames before that state, and perhaps some more, which are then made
    again, the very same.

    Args:
        output: what the partial output will be.
        identity: of the work; what other work has left is not taken.
    """

    def __init__(self, output: Path, identity: str) -> None:
        self._states = output.with_name(f"{output.name}.partial.safetensors")
        self._table = output.with_name(f"{output.name}.partial.csv")
        self._identity = identity
        self._latest: State | None = None
        self._waiting: deque[State] = deque()  # until their frames are on the disk
        self._taken = time.monotonic()
        self._complained = False
        self._columns: list[str] = []

    def begin(self, done: int) -> State | None:
        """The state to go on from where frames up to `done` are on the disk; None: it is lost."""
        if not done:
            self.discard()
            self._save(State())
            return State()
        state = self._load()
        return state if state is not None and state.number <= done else None

    def rows(self, count: int) -> list[dict[str, str]]:
        """The rows of the first `count` frames. Those of others are forgotten: they are made again."""
        rows: list[dict[str, str]] = []
        with suppress(OSError, csv.Error, UnicodeDecodeError), self._table.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if None in row.values() or not str(row.get("frame")).isdecimal():
                    break  # cut off in the middle of writing
                rows += [row] if int(row["frame"]) < count else []
        self._columns = list(rows[0]) if rows else []
        self._replace_table(rows)
        return rows

    def add_row(self, row: Mapping[str, Any]) -> None:
        """Append the row of a frame; the first one fixes the columns."""
        new = not self._columns
        self._columns = self._columns or list(row)
        with self._warned_once(), self._table.open("w" if new else "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, restval="", extrasaction="ignore")
            if new:
                writer.writeheader()
            writer.writerow(row)

    def add_state(self, state: State, done: int) -> None:
        """The state behind a frame that was just written; `done`: frames that the writer has taken until now."""
        self._latest = state
        if time.monotonic() - self._taken >= SAVE_EVERY_SECONDS:
            self._taken = time.monotonic()
            self._waiting.append(state)
        ready = None
        while self._waiting and self._waiting[0].number < done:  # the last frame may not be on the disk yet
            ready = self._waiting.popleft()
        if ready is not None:
            self._save(ready)

    def keep(self, done: int) -> None:
        """No more frames come, and `done` of them are on the disk."""
        if self._latest is not None and self._latest.number <= done:
            self._save(self._latest)

    def discard(self) -> None:
        """Remove the files: the output is complete, or there is none."""
        for file in (self._states, self._table):
            with suppress(OSError):
                file.unlink(missing_ok=True)
        self._columns = []

    def _load(self) -> State | None:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._states, "pt") as file:
                known = file.metadata() or {}
                if known.get("identity") != self._identity:
                    return None
                scene = int(known["scene"]) if known["scene"] else None
                return State(int(known["number"]), scene, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (no mapping)
        except (OSError, SafetensorError, KeyError, ValueError):
            return None

    def _save(self, state: State) -> None:
        from safetensors.torch import save_file

        scene = "" if state.scene is None else str(state.scene)
        known = {"identity": self._identity, "number": str(state.number), "scene": scene}
        # Each with memory of its own, which safetensors wants.
        tensors = {name: tensor.detach().cpu().clone() for name, tensor in state.tensors.items()}
        with self._warned_once():
            write_atomically(self._states, lambda file: save_file(tensors, file, known))

    def _replace_table(self, rows: list[dict[str, str]]) -> None:
        from nstexp.outputs import write_csv

        if rows:
            with self._warned_once():
                write_csv(self._table, rows)

    @contextmanager
    def _warned_once(self) -> Iterator[None]:
        """A disk that takes no state may still take the clip."""
        try:
            yield
        except (OSError, UserError) as error:
            if not self._complained:
                log.warning("%s; if this is interrupted, the frames behind may differ slightly", error)
            self._complained = True
