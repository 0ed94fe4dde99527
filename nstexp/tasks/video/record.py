"""What is counted, shown and recorded while a clip is made."""

import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
COUNTS = ("frame", "begins_scene", "repeated")  # columns of frames.csv that are no measures


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
        self.poster: np.ndarray | None = None

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Count the time spent inside, by name; each name in one thread only."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - begun

    def begin(self, done: int) -> None:
        """The first `done` frames are there."""
        self.done, self._begun = done, time.perf_counter()
        self._bar = progress(self.total, "video", "frame", initial=done)

    def go_on(self, rows: Sequence[Mapping[str, str]], poster: np.ndarray | None) -> None:
        """Take over the rows of frames.csv, as they were read, of the frames that are not made again, and the picture
        that stands for the clip so far."""
        self.folder.begin_frames(rows)
        for row in rows:
            numbers = {name: float(value) for name, value in row.items() if value and name not in COUNTS}
            self._log(numbers, int(row["frame"]))
            for name, flicker in self.flicker.items():
                flicker.errors += [numbers[name]] if name in numbers else []
        if poster is not None:
            self.save_poster(poster)

    def compare_with(self, shown: tuple[np.ndarray, np.ndarray] | None, shot: Shot) -> None:
        """Measure the next frame against this one: the picture, the picture without what comes from the frame before,
        and the frame of the clip."""
        if shown is not None and self.flicker:
            self._before = {RESULT: shown[0], PLAIN: shown[1], OF_CLIP: to_array(shot.picture)}

    def add(self, shot: Shot, seconds: float, picture: np.ndarray, plain: np.ndarray) -> dict[str, Any]:
        """Count a frame that is ready, and took `seconds` to stylize; returns its row of frames.csv."""
        self.seconds["stylize"] += seconds
        row = {"frame": shot.number, "time": round(shot.seconds, 6), "begins_scene": int(shot.begins_scene)}
        row |= {"repeated": int(shot.repeated), "stylize_seconds": round(seconds, 4)}
        with self.timed("measure"):
            row |= self._flicker(shot, {PLAIN: plain, RESULT: picture})
        self.folder.append_frame(row)
        if self.poster is None or shot.number == self.total // 2:
            self.save_poster(picture)
        self._log({name: value for name, value in row.items() if isinstance(value, float)}, shot.number)
        if shot.number >= self.done:
            self.done, self.painted = shot.number + 1, self.painted + 1
            self._bar.update()
        return row

    def _log(self, numbers: Mapping[str, float], frame: int) -> None:
        if self.loggers and frame % self.every_n == 0:
            loggers.log_numbers(self.loggers, {f"frame/{name}": value for name, value in numbers.items()}, step=frame)

    def save_poster(self, picture: np.ndarray) -> None:
        """A frame, uint8 (H, W, 3), as the picture that stands for the clip in reports and loggers."""
        self.poster = picture
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
            log.info("warping error %.5f (of the clip itself %.5f%s)", means[RESULT], means[OF_CLIP], without)
        loggers.log_video(self.loggers, "video", path, step=self.done)
