"""The unfinished pictures of a run, kept in checkpoints/unfinished.ckpt, so that the same command goes on from them."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from nstexp.core.errors import UserError, number
from nstexp.core.networks.tensor_files import read_tensors
from nstexp.outputs import RunFolder

log = logging.getLogger(__name__)

NAME = "unfinished"
MOST_TIME = 0.05  # share of the time that writing may take; a state that takes long is kept less often


class UnfinishedRun:
    """Keeps the state of the picture that a run works on, and which of its pictures are finished.

    It is the `methods.base.Unfinished` of each picture in turn, see `begin`. A run that takes less time than `minutes`
    writes nothing, and the file is removed when all pictures are done.

    Args:
        folder: the run folder.
        made_of: a digest of everything on which the pictures depend. A file with another digest is not used.
        minutes: between two savings, above 0.
        clock: returns seconds.

    Raises:
        UserError: a file that no run of nstexp wrote is in the way.
        ArgumentError: a number out of its range.
    """

    def __init__(
        self, folder: RunFolder, made_of: str, minutes: float = 5.0, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        number("task.checkpoint_minutes", minutes, above=0, example="5, or null for no savings")
        folder.check(f"checkpoints/{NAME}.ckpt")
        self.folder, self.made_of, self.clock = folder, made_of, clock
        self.path = folder.path / "checkpoints" / f"{NAME}.ckpt"
        self._pause = self._shortest_pause = 60 * minutes
        self._finished: dict[str, dict[str, Any]] = {}  # picture -> its entries in the record
        self._picture, self._stamp, self._seconds_before = "", "", 0.0
        self._has_state = False  # whether the file has a state of the picture that the run works on
        self._earlier = self._read()
        self._is_of_this_run = bool(self._earlier)  # whether the file holds these pictures
        self._begun = self._kept = clock()

    def _read(self) -> dict[str, Any]:
        """The content of the file; empty if it is missing, damaged, or of other pictures."""
        if not self.path.exists():
            return {}
        try:
            content, _ = read_tensors(self.path)
            if content["made_of"] == self.made_of:
                return dict(content)
        except Exception as error:  # damaged files raise many types of exceptions
            log.warning("%s cannot be read (%s): the run begins anew", self.path, type(error).__name__)
            return {}
        log.info("%s belongs to other settings or pictures: the run begins anew", self.path)
        return {}

    def restore(self, results: Mapping[str, Path], inputs: Mapping[str, Iterable[Path]] | None = None) -> set[str]:
        """Restore the records of the pictures that are finished, and the losses up to the kept step.

        Args:
            results: picture -> file of its result, for all pictures of the run.
            inputs: picture -> the files from which it is made. A picture is not restored if one of them has changed.

        Returns:
            The finished pictures.
        """
        if not self._earlier:
            return set()
        known, inputs = self._earlier["finished"], inputs or {}
        self._finished = {
            name: known[name]
            for name, path in results.items()
            if name in known and path.exists() and known[name]["stamp"] == _stamp(inputs.get(name, ()))
        }
        for name, entries in self._finished.items():
            self.folder.summary.outputs.append(str(results[name]))
            self.folder.record_metrics(name, entries["metrics"])
            if entries["references"]:
                self.folder.record_references(name, entries["references"], entries["measured_with"])
        self.folder.continue_losses(self._earlier["steps_done"], self._earlier["picture"], self._finished)
        return set(self._finished)

    def more_of(self, picture: str) -> dict[str, Any]:
        """What `finish` got as `more` of a finished picture."""
        return dict(self._finished[picture]["more"])

    def begin(self, picture: str, inputs: Iterable[Path] = ()) -> None:
        """A picture begins, or goes on.

        Args:
            picture: its name.
            inputs: the files from which it is made.
        """
        self._picture, self._stamp = picture, _stamp(inputs)
        self._begun, self._seconds_before, self._has_state = self.clock(), 0.0, False
        if self._goes_on():
            self._seconds_before = self._earlier["seconds"]

    def _goes_on(self) -> bool:
        earlier = self._earlier
        return bool(earlier) and (earlier["picture"], earlier["stamp"]) == (self._picture, self._stamp)

    def finish(
        self, pictures: Mapping[str, Sequence[Path]], more: Mapping[str, Mapping[str, Any]] | None = None
    ) -> None:
        """Pictures and their records are complete.

        Args:
            pictures: picture -> the files from which it is made.
            more: picture -> what else is kept of it: tensors, numbers and texts by name.
        """
        summary = self.folder.summary
        for picture, inputs in pictures.items():
            self._finished[picture] = {
                "stamp": _stamp(inputs),
                "metrics": summary.metrics.get(picture, {}),
                "references": summary.references.get(picture, {}),
                "measured_with": dict(summary.measured_with),
                "more": dict((more or {}).get(picture, {})),
            }
        self._picture = ""
        if self.due():
            self.keep({})

    def interrupt(self) -> None:
        """The run is interrupted: keep what is finished, unless the file has a state of the unfinished picture."""
        if self._finished and not self._has_state:
            self.keep({})

    def end(self) -> None:
        """Remove the file, since no picture is left to do. A file of other settings or pictures stays."""
        if self._is_of_this_run:
            self.folder.remove_checkpoint(NAME)

    def how_to_continue(self) -> str:
        """The end of a message about a run that was stopped; empty if nothing is kept."""
        if not self._is_of_this_run:
            return ""
        return f"; the same command with run_dir={self.folder.path} goes on from {self.path}"

    # ---------------------------------------------------------------------------------------- `Unfinished` of a picture

    @property
    def seconds_before(self) -> float:
        return self._seconds_before

    def load(self) -> dict[str, Any] | None:
        if not self._goes_on():
            return None
        state, self._earlier = self._earlier["state"], {}  # only once, because it takes much memory
        self._has_state = bool(state)
        return dict(state) or None

    def due(self) -> bool:
        return self.clock() - self._kept >= self._pause

    def keep(self, state: Mapping[str, Any]) -> None:
        begun = self.clock()
        content = {
            "made_of": self.made_of,
            "finished": self._finished,
            "picture": self._picture,
            "stamp": self._stamp,
            "steps_done": state.get("steps_done", 0),
            "seconds": self._seconds_before + begun - self._begun,
            "state": dict(state),
        }
        try:
            with self.folder.new_checkpoint(NAME) as temporary:
                torch.save(content, temporary)
            self._is_of_this_run, self._has_state = True, bool(state)
        except (UserError, RuntimeError) as error:  # a full disk, for torch.save also as a RuntimeError
            log.warning("the unfinished picture cannot be saved, and the run goes on: %s", " ".join(str(error).split()))
        self._kept = self.clock()
        self._pause = max(self._shortest_pause, (self._kept - begun) / MOST_TIME)


def _stamp(files: Iterable[Path]) -> str:
    """A text that changes when one of the files does."""
    states = [(str(file.resolve()), file.stat()) for file in files]
    return " ".join(f"{path} {state.st_size} {state.st_mtime_ns}" for path, state in states)
