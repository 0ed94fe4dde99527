"""Files with which an interrupted clip can be continued: the exact state of the method, and the rows of frames.csv.

They are `<output>.partial.safetensors` and `<output>.partial.csv`, next to the partial output.
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
SAVE_EVERY_SECONDS = 1.0  # not after every frame, since a state is as large as several uncompressed frames


@dataclass(frozen=True)
class State:
    """Everything besides the clip on which the next frame depends.

    Args:
        number: the number of the next frame.
        scene: the number of the first frame of its scene; None: the next frame begins a scene.
        tensors: results and statistics of earlier frames, by name. They are never changed in place.
    """

    number: int = 0
    scene: int | None = None
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


class Memory:
    """Stores the state from which the partial output can be continued, and the rows of frames.csv.

    The partial output on the disk always contains all frames before that state. It may contain later frames; these are
    computed again, with identical results.

    Args:
        output: the path of the complete output.
        identity: identifies the work; files of another work are ignored.
    """

    def __init__(self, output: Path, identity: str) -> None:
        self._states = output.with_name(f"{output.name}.partial.safetensors")
        self._table = output.with_name(f"{output.name}.partial.csv")
        self._identity = identity
        self._latest: State | None = None
        self._waiting: deque[State] = deque()  # states whose frames are not yet on the disk
        self._last_saved = time.monotonic()
        self._has_warned = False
        self._columns: list[str] = []

    def begin(self, done: int) -> State | None:
        """The state from which to continue, if `done` frames are on the disk; None if no usable state is left."""
        if not done:
            self.discard()
            self._save(State())
            return State()
        state = self._load()
        return state if state is not None and state.number <= done else None

    def rows(self, count: int) -> list[dict[str, str]]:
        """The rows of the first `count` frames. Later rows are deleted, since their frames are computed again."""
        rows: list[dict[str, str]] = []
        with suppress(OSError, csv.Error, UnicodeDecodeError), self._table.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if None in row.values() or not str(row.get("frame")).isdecimal():
                    break  # this row was not written completely
                rows += [row] if int(row["frame"]) < count else []
        self._columns = list(rows[0]) if rows else []
        self._replace_table(rows)
        return rows

    def add_row(self, row: Mapping[str, Any]) -> None:
        """Append the row of a frame; the first row determines the columns."""
        new = not self._columns
        self._columns = self._columns or list(row)
        with self._warned_once(), self._table.open("w" if new else "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, restval="", extrasaction="ignore")
            if new:
                writer.writeheader()
            writer.writerow(row)

    def add_state(self, state: State, done: int) -> None:
        """Register the state after the frame that was written last, and save the newest state that is safe to save.

        Args:
            done: number of frames that the writer has received.
        """
        self._latest = state
        if time.monotonic() - self._last_saved >= SAVE_EVERY_SECONDS:
            self._last_saved = time.monotonic()
            self._waiting.append(state)
        ready = None
        while self._waiting and self._waiting[0].number < done:  # the last frame may not be on the disk yet
            ready = self._waiting.popleft()
        if ready is not None:
            self._save(ready)

    def keep(self, done: int) -> None:
        """Save the latest state, since no more frames follow in this run and `done` frames are on the disk."""
        if self._latest is not None and self._latest.number <= done:
            self._save(self._latest)

    def discard(self) -> None:
        """Remove the files, since the output is complete or there is none."""
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
        # safetensors refuses tensors that share memory.
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
        """Log write errors once and go on, since the clip itself may still be written."""
        try:
            yield
        except (OSError, UserError) as error:
            if not self._has_warned:
                log.warning("%s; after an interruption, the next frames may differ slightly", error)
            self._has_warned = True
