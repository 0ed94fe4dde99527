"""What is counted, shown and recorded while a clip is made."""

import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nstexp import loggers
from nstexp.console import progress
from nstexp.core.pixels import from_array, to_array
from nstexp.media.flow import Flicker
from nstexp.outputs import RunFolder
from nstexp.tasks.video.painter import Shot

if TYPE_CHECKING:  # Lightning takes seconds to import
    from pytorch_lightning.loggers import Logger

log = logging.getLogger(__name__)
RESULT, OF_CLIP, PLAIN = "warping_error", "warping_error_of_clip", "warping_error_before_blending"


class Record:
    """What is counted, shown and recorded while a clip is made.

    Args:
        measured: the warping errors that can be measured: of the result, of the clip itself, and without blending.
        measured_with: how, in words.
    """

    def __init__(
        self,
        folder: RunFolder,
        active: "Sequence[Logger]",
        every_n: int,
        total: int,
        measured: Sequence[str],
        measured_with: str,
    ) -> None:
        self.folder, self.loggers, self.every_n, self.total = folder, active, every_n, total
        self.seconds: dict[str, float] = defaultdict(float)
        self.flicker, self.measured_with = {name: Flicker() for name in measured}, measured_with
        self.done = self.painted = 0
        self._before: dict[str, np.ndarray] = {}
        self._poster = self.total // 2

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Count the time spent inside, by name; each name in one thread only."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - begun

    def begin(self, done: int) -> None:
        self.done, self._begun = done, time.perf_counter()
        self._poster = min(max(self._poster, done), self.total - 1)
        self._bar = progress(self.total, "video", "frame", initial=done)

    def add(self, shot: Shot, seconds: float, picture: np.ndarray, plain: np.ndarray) -> None:
        """Count a frame that is ready, and took `seconds` to stylize."""
        self.seconds["stylize"] += seconds
        row = {"frame": shot.number, "time": round(shot.seconds, 6), "begins_scene": int(shot.begins_scene)}
        row |= {"repeated": int(shot.repeated), "stylize_seconds": round(seconds, 4)}
        with self.timed("measure"):
            row |= self._flicker(shot, {PLAIN: plain, RESULT: picture})
        self.folder.append_frame(row)
        if not self.painted or shot.number == self._poster:
            self.save_poster(picture)
        if self.loggers and shot.number % self.every_n == 0:
            numbers = {f"frame/{name}": value for name, value in row.items() if isinstance(value, float)}
            loggers.log_numbers(self.loggers, numbers, step=shot.number)
        self.done, self.painted = shot.number + 1, self.painted + 1
        self._bar.update()

    def save_poster(self, picture: np.ndarray) -> None:
        """A frame, uint8 (H, W, 3), as the picture that stands for the clip in reports and loggers."""
        self.folder.save_picture(from_array(picture), "output.png")

    def _flicker(self, shot: Shot, now: dict[str, np.ndarray]) -> dict[str, float | None]:
        """The warping errors between the frame before and this one; None where there are none."""
        if not self.flicker:
            return {}
        now[OF_CLIP] = to_array(shot.picture)
        before, self._before = self._before, now
        known = bool(before) and (shot.repeated or (shot.motion is not None and not shot.motion.cut))
        return {
            name: flicker.add(before[name], now[name], shot.motion) if known else None
            for name, flicker in self.flicker.items()
        }

    def end(self) -> None:
        """No more frames; also after a failure."""
        self._bar.close()
        if not self.done:
            return
        wall = time.perf_counter() - self._begun
        numbers: dict[str, float] = {
            "frames": self.done,
            "frames_made": self.painted,
            "frames_per_second": round(self.painted / wall, 4),
        }
        numbers |= {f"{name}_seconds": round(seconds, 3) for name, seconds in self.seconds.items()}
        means = {name: flicker.mean() for name, flicker in self.flicker.items()}
        found = {name: mean for name, mean in means.items() if mean is not None}
        self.folder.record_metrics("output", found | numbers | {"wall_seconds": round(wall, 3)})
        self.folder.summary.measured_with.update(dict.fromkeys(found, self.measured_with))

    def finished(self, path: Path) -> None:
        """The clip is complete."""
        self.folder.summary.outputs.append(str(path))
        means = {name: flicker.mean() for name, flicker in self.flicker.items()}
        if means.get(RESULT) is not None:
            without = f", before blending {means[PLAIN]:.5f}" if PLAIN in means else ""
            part = "" if self.painted == self.done else f" of the last {self.painted} frames"
            log.info("warping error%s %.5f (of the clip itself %.5f%s)", part, means[RESULT], means[OF_CLIP], without)
        loggers.log_video(self.loggers, "video", path, step=self.done)
