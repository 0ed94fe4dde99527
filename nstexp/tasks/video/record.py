"""Metrics, progress bar and log entries while a clip is stylized."""

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
COUNTS = ("frame", "begins_scene", "repeated")  # columns of frames.csv that are not metrics


class Record:
    """Records the metrics of a clip, shows the progress bar, and writes log entries.

    Args:
        folder: the run folder.
        active: the loggers.
        every_n: frames between two entries in the loggers.
        total: number of frames in the clip.
        measured: names of the warping errors to measure: of the result (RESULT), of the clip itself (OF_CLIP), and of
            the result before blending (PLAIN).
        measured_with: a description of the measurement.
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
        """Add the time of the `with` block to `seconds[name]`. A name may only be used in one thread."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - begun

    def begin(self, done: int) -> None:
        """Start the clock and the progress bar; the first `done` frames exist already."""
        self.done, self._begun = done, time.perf_counter()
        self._bar = progress(self.total, "video", "frame", initial=done)

    def go_on(self, rows: Sequence[Mapping[str, str]], poster: np.ndarray | None) -> None:
        """Take over the record of an interrupted run.

        Args:
            rows: the rows of frames.csv for frames that are not computed again, as read from the file.
            poster: the frame that represents the clip so far, uint8 (H, W, 3 or 4).
        """
        self.folder.begin_frames(rows)
        for row in rows:
            numbers = {name: float(value) for name, value in row.items() if value and name not in COUNTS}
            self._log(numbers, int(row["frame"]))
            for name, flicker in self.flicker.items():
                flicker.errors += [numbers[name]] if name in numbers else []
        if poster is not None:
            self.save_poster(poster)

    def compare_with(self, shown: tuple[np.ndarray, np.ndarray] | None, shot: Shot) -> None:
        """Set the frame with which the next frame is compared.

        Args:
            shown: see `Painter.shown`.
            shot: the same frame of the clip.
        """
        if shown is not None and self.flicker:
            self._before = {RESULT: shown[0], PLAIN: shown[1], OF_CLIP: to_array(shot.picture)}

    def add(self, shot: Shot, seconds: float, picture: np.ndarray, plain: np.ndarray) -> dict[str, Any]:
        """Record a finished frame; returns its row of frames.csv.

        Args:
            seconds: the time for stylizing the frame.
            picture: the finished frame, uint8 (H, W, 3).
            plain: the same without the blended previous frame.
        """
        self.seconds["stylize"] += seconds
        row: dict[str, Any] = {
            "frame": shot.number,
            "time": round(shot.seconds, 6),
            "begins_scene": int(shot.begins_scene),
        }
        row |= {"repeated": int(shot.repeated), "stylize_seconds": round(seconds, 4)}
        with self.timed("measure"):
            row |= self._flicker(shot, {PLAIN: plain, RESULT: picture})
        self.folder.append_frame(row)
        if self.poster is None or shot.number == self.total // 2:
            self.save_poster(shot.cut_out(picture))
        self._log({name: value for name, value in row.items() if isinstance(value, float)}, shot.number)
        if shot.number >= self.done:
            self.done, self.painted = shot.number + 1, self.painted + 1
            self._bar.update()
        return row

    def _log(self, numbers: Mapping[str, float], frame: int) -> None:
        if self.loggers and frame % self.every_n == 0:
            loggers.log_numbers(self.loggers, {f"frame/{name}": value for name, value in numbers.items()}, step=frame)

    def save_poster(self, picture: np.ndarray) -> None:
        """Save a frame, uint8 (H, W, 3 or 4), as the picture that represents the clip in reports and loggers."""
        self.poster = picture
        self.folder.save_picture(from_array(picture), "output.png")

    def _flicker(self, shot: Shot, now: dict[str, np.ndarray]) -> dict[str, float | None]:
        """The warping errors between the previous frame and this one; None at the beginning of a scene, or if no pixel
        is visible in both frames."""
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
        """Close the progress bar and record the metrics of the clip so far; also called after a failure."""
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
        measured = {name: mean for name, mean in means.items() if mean is not None}
        self.folder.record_metrics("output", measured | numbers | {"wall_seconds": round(wall, 3)})
        self.folder.summary.measured_with.update(dict.fromkeys(measured, self.measured_with))

    def finished(self, path: Path) -> None:
        """Record and log the complete clip."""
        self.folder.summary.outputs.append(str(path))
        means = {name: flicker.mean() for name, flicker in self.flicker.items()}
        if means.get(RESULT) is not None:
            without = f", before blending {means[PLAIN]:.5f}" if PLAIN in means else ""
            log.info("warping error %.5f (of the original clip %.5f%s)", means[RESULT], means[OF_CLIP], without)
        loggers.log_video(self.loggers, "video", path, step=self.done)
