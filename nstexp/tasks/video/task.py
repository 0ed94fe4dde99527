"""A clip in, a stylized clip out: frames are read, redrawn one after the other, steadied and written as they come."""

import contextlib
import hashlib
import itertools
import logging
import math
import re
import signal
import sys
import threading
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from pytorch_lightning.loggers import Logger
from tqdm import tqdm

from nstexp import loggers
from nstexp.core.errors import Stopped, UserError, check_integers, under
from nstexp.core.resize import size_for_longer_side
from nstexp.core.runtime.memory import free_bytes
from nstexp.core.runtime.threads import Behind, ahead
from nstexp.media.flow import Flicker, FlowName, MotionEstimator
from nstexp.media.video import (
    CONTAINERS,
    READERS,
    Encoding,
    Frame,
    Source,
    Writer,
    open_source,
    open_writer,
    read_frames,
)
from nstexp.methods.base import Combine, Controls, Stylizer
from nstexp.outputs import RunFolder
from nstexp.tasks.color import Color, check_color, check_pictures
from nstexp.tasks.styles import Styles, read_styles
from nstexp.tasks.stylize import check_size, protect_inputs
from nstexp.tasks.video.painter import Painter, Shot, batches

log = logging.getLogger(__name__)
FRAMES_ON_THEIR_WAY = 4  # decoded and not yet stylized, and stylized and not yet encoded
FRAMES_MADE_AGAIN = 16  # before the first new one of a run that goes on; 0.8^16 = 3 % of what was before them is left
LARGEST_BATCH = 16
BYTES_PER_PIXEL = 2000  # of a network's feature maps at full size, roughly
RESULT, OF_CLIP, PLAIN = "warping_error", "warping_error_of_clip", "warping_error_before_blending"


@dataclass(frozen=True)
class Settings:
    """What only clips have: the config group `video`.

    Args:
        start, end: of the part that is taken, in seconds, or as h:m:s; None: from the beginning, to the end.
        fade: positions in the list of styles, 0 the first, at equal distances of time: [0,1] goes from the first style
            to the second over the clip. None: all styles at once, as in a picture.
        stabilize: how much of the frame before, moved along with the motion, goes into a frame, in [0, 1); 0: each
            frame by itself. Methods that optimize make use of the frame before in their own way if it is above 0.
        flow: see `MotionEstimator`.
        fps: of a folder of pictures, which has no times of its own.
        reader: `auto`, `decord` or `av`, see `read_frames`.
        codec, quality, codec_options: see `Encoding`.
        batch: frames that go through the networks together; None: as many as the GPU's memory holds, on a CPU one.

    Raises:
        UserError: a value out of its range.
    """

    start: float | str | None = None
    end: float | str | None = None
    fade: Sequence[float] | None = None
    stabilize: float = 0.8
    flow: FlowName = "dis"
    fps: float | str = 25
    reader: str = "auto"
    codec: str | None = None
    quality: float = 18
    codec_options: Mapping[str, Any] | None = None
    batch: int | None = None

    def __post_init__(self) -> None:
        _choice("flow", self.flow, get_args(FlowName))
        _choice("reader", self.reader, READERS)
        if type(self.stabilize) not in (int, float) or not 0 <= self.stabilize < 1:
            raise UserError(f"video.stabilize={self.stabilize}: give a number from 0 to below 1, such as 0.8")
        if type(self.quality) not in (int, float) or not 0 <= self.quality <= 255:
            raise UserError(f"video.quality={self.quality}: give a number, 0 or larger, such as 18; less is better")
        if not isinstance(self.codec, str | None):
            raise UserError(f"video.codec={self.codec}: give the name of an encoder, such as libx264")
        if not isinstance(self.codec_options, Mapping | None):
            raise UserError(f"video.codec_options={self.codec_options}: give a table such as {{preset: slow}}")
        if self.batch is not None:
            check_integers("video", 1, batch=self.batch)
        if self.fade is not None and not _is_list_of_numbers(self.fade):
            raise UserError(f"video.fade={self.fade}: give a list of two or more positions, such as [0,1]")

    @property
    def encoding(self) -> Encoding:
        """The last three of them."""
        return Encoding(self.codec, self.quality, dict(self.codec_options or {}))

    @property
    def rate(self) -> Fraction:
        """`fps` as a fraction; a number such as 23.976 stands for 24000/1001."""
        try:
            rate = Fraction(str(self.fps))
        except (ValueError, ZeroDivisionError):
            rate = Fraction(0)
        if not 0 < rate <= 1000:
            raise UserError(f"video.fps={self.fps}: give frames per second, such as 25 or 30000/1001")
        broadcast = Fraction(round(rate * 1001 / 1000) * 1000, 1001)
        return broadcast if rate.denominator > 1 and broadcast and abs(rate - broadcast) < 0.005 else rate


def video(
    method: Stylizer,
    folder: RunFolder,
    content: str,
    style: str | Sequence[str],
    settings: Settings,
    identity: str,
    device: torch.device,
    style_weights: Sequence[float] | None = None,
    style_combine: Combine = "weighted_loss",
    style_layers: Sequence[Sequence[str]] | None = None,
    fine_style: str | Sequence[str] | None = None,
    masks: str | Sequence[str] | None = None,
    color: Color = "none",
    color_strength: float = 1.0,
    output: str | None = None,
    image_px: int | None = None,
    max_input_megapixels: float = 200.0,
    seed: int = 0,
    measure: bool = False,
    log_every_n_steps: int = 10,
    active_loggers: Sequence[Logger] = (),
) -> Path:
    """Redraw a clip; returns the path of the result, which has the clip's frames at the clip's times, and its sound.

    Args:
        method: what redraws.
        folder: where the run writes.
        content: a video file, an animated GIF, or a folder of pictures, which are its frames.
        settings: see `Settings`.
        identity: names everything that the result depends on but the files: a partial result of another one is not
            gone on from.
        device: where the method computes.
        style ... seed: as of `stylize`; masks hold for every frame.
        output: a video file, or a folder for one PNG per frame; None: `output` in the run folder, with the clip's own
            ending.
        image_px: longer side of the result; None: the clip's own size.
        measure: the warping error also with video.stabilize=0, which else needs no motion.
        log_every_n_steps: frames from one line in the loggers to the next.

    Raises:
        UserError: anything the user can mend, before the work starts where possible.
        Stopped: ended early; what is done until then is a clip that plays, and the same command goes on from it.
    """
    check_size(image_px, max_input_megapixels)
    learned = getattr(method, "styles", None)
    check_color(color, color_strength, learned is not None)
    styles = read_styles(
        style, style_weights, style_combine, style_layers, fine_style, masks, max_input_megapixels, learned,
        compared=color == "match",
    )  # fmt: skip
    check_pictures(color, styles.pictures)
    _check_fade(settings.fade, styles, style_weights)
    source = _open(content, settings, max_input_megapixels)
    if source.damage:
        log.warning("%s: %s", source.path, source.damage)
    frames = source.between(_seconds("start", settings.start), _seconds("end", settings.end), "video.")
    target = _target(source, output, folder)
    protect_inputs([source.path, *styles.files], [target])
    size = size_for_longer_side(source.size, image_px)
    controls = Controls(seed=seed, combine=style_combine)
    painter = Painter(method, styles.at(size), settings.fade, color, color_strength, controls, settings.stabilize)
    needs_motion = settings.stabilize > 0 or measure or painter.colors_by_scene
    estimator = MotionEstimator(settings.flow, size, device) if needs_motion else None
    measured = [] if estimator is None else [RESULT, OF_CLIP, *([PLAIN] if painter.blends else [])]
    flow = f"Lai et al. 2018, motion of the clip by {settings.flow}, where it leads there and back"
    record = _Record(folder, active_loggers, log_every_n_steps, len(frames), measured, flow)
    files = [*(source.pictures or [source.path]), *styles.files]
    whose = f"{identity} {_digest_of_files(files)}"
    with under("video"):
        writer = open_writer(target, source, size, frames, settings.encoding, whose, key="output")
    batch = _batch_size(settings.batch, painter, size, device)
    in_run_folder = target.parent == folder.path
    return _Run(source, frames, size, settings.reader, batch, painter, estimator, writer, record, in_run_folder)()


class _Run:
    """The work on one clip, from where an interrupted run stopped to its end.

    Args:
        frames: which of the clip's; `number` of a shot is its place among them.
        in_run_folder: whether the output is in the run's own folder, where only the same folder finds it again.
    """

    def __init__(
        self,
        source: Source,
        frames: range,
        size: tuple[int, int],
        reader: str,
        batch: int,
        painter: Painter,
        estimator: MotionEstimator | None,
        writer: Writer,
        record: "_Record",
        in_run_folder: bool,
    ) -> None:
        self.source, self.frames, self.size, self.reader, self.batch = source, frames, size, reader, batch
        self.painter, self.estimator, self.writer, self.record = painter, estimator, writer, record
        self.in_run_folder = in_run_folder

    def __call__(self) -> Path:
        self.record.begin(self.writer.done)
        try:
            with _Interruption() as interruption:
                self._work(self.writer.done, interruption)
                path = self.writer.finish()
        except (KeyboardInterrupt, Stopped) as stop:
            interrupted = isinstance(stop, KeyboardInterrupt) or stop.interrupted
            reason = "interrupted" if interrupted else str(stop)
            self._end_record()
            raise Stopped(f"{reason} {self._kept()}", interrupted=interrupted) from None
        except UserError as error:
            kept = self.writer.keep()
            self._end_record()
            told = kept is None or str(kept) in str(error)
            raise UserError(str(error) if told else f"{error}; {kept} holds what is done") from error
        except BaseException:
            self.writer.keep()
            self._end_record()
            raise
        self.record.end()
        self.record.finished(path)
        return path

    def _end_record(self) -> None:
        with contextlib.suppress(UserError):  # what stopped the work, such as a full disk, is the news
            self.record.end()

    def _kept(self) -> str:
        kept = self.writer.keep()
        count = f"at frame {self.writer.done} of {len(self.frames)}"
        if kept is None:
            return count
        again = f"the same command with run_dir={kept.parent}" if self.in_run_folder else "the same command"
        return f"{count}; the clip so far is {kept}, and {again} goes on from there"

    def _work(self, done: int, interruption: "_Interruption") -> None:
        if done:
            log.info("going on behind frame %d of %d", done, len(self.frames))
            self.record.save_poster(self.writer.last_picture())
        if done == len(self.frames):
            return
        write = Behind(self._timed_add, FRAMES_ON_THEIR_WAY)
        try:
            with closing(ahead(self._shots(self._prepared(done)), FRAMES_ON_THEIR_WAY)) as coming:
                for batch in batches(coming, self.batch):
                    interruption.check()
                    self._one_batch(batch, done, write)
            write.finish()
        except (KeyboardInterrupt, Stopped):
            write.finish()  # the frames that are ready
            raise
        finally:
            write.close()

    def _prepared(self, done: int) -> int:
        """Bring the painter to where it was behind the frames that are done; returns the frame to begin with."""
        if not done:
            return 0
        scene = self._scene_at(done - 1) if self.painter.colors_by_scene else None
        if scene is not None:
            self.painter.begin_scene(scene.picture[None])
        if not self.painter.blends:
            self.painter.go_on(self.writer.last_picture())
            return done - 1 if self.estimator else done
        # What the frames before have left in the statistics and the blend fades with their age: some are made again.
        return max(done - FRAMES_MADE_AGAIN, 0 if scene is None else scene.number)

    def _scene_at(self, number: int) -> Shot:
        """The first frame of the scene that a frame belongs to."""
        log.info("looking for the beginning of the scene")
        shots = itertools.takewhile(lambda shot: shot.number <= number, self._shots(0))
        with closing(ahead(shots, FRAMES_ON_THEIR_WAY)) as coming:
            first = next(coming)
            for shot in coming:
                first = shot if shot.begins_scene else first
        return first

    def _one_batch(self, batch: Sequence[Shot], done: int, write: Behind) -> None:
        if not self.painter.blends:
            batch = [shot for shot in batch if shot.number >= done]
            if not batch:
                return
        begun = time.perf_counter()
        try:
            painted = self.painter.paint(batch)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"the GPU has too little memory for {len(batch)} frames at a time: set video.batch or image_px smaller"
            ) from error
        seconds = (time.perf_counter() - begun) / len(batch)
        for shot, (picture, plain) in zip(batch, painted, strict=True):
            if shot.number >= done:
                self.record.add(shot, seconds, picture, plain)
                write(Frame(shot.frame.time, picture))

    def _timed_add(self, frame: Frame) -> None:
        with self.record.timed("encode"):
            self.writer.add(frame)

    def _shots(self, begin: int) -> Iterator[Shot]:
        """The frames from a number on, with the motion from each to the next."""
        wanted = read_frames(self.source, self.frames[begin:], self.reader)
        before: np.ndarray | None = None
        start = self.source.times[self.frames[0]]
        length = max(1, self.source.times[self.frames[-1]] - start)
        while True:
            with self.record.timed("decode"), under("video"):
                frame = next(wanted, None)
            if frame is None:
                return
            number = bisect_left(self.source.times, frame.time) - self.frames[0]
            repeated = before is not None and np.array_equal(before, frame.pixels)
            motion = None
            if before is not None and not repeated and self.estimator is not None:
                with self.record.timed("flow"):
                    motion = self.estimator(before, frame.pixels)
            since = frame.time - start
            seconds = float(since * self.source.time_base)
            yield Shot(number, frame, self.size, motion, repeated, seconds, since / length)
            before = frame.pixels


class _Interruption:
    """The first Ctrl-C or SIGTERM asks for an end after the frame that is being made; a second one does not wait."""

    def __init__(self) -> None:
        self._asked = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "_Interruption":
        if threading.current_thread() is threading.main_thread():
            self._previous = {s: signal.signal(s, self._stop) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler or signal.SIG_DFL)

    def _stop(self, signum, frame) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True

    def check(self) -> None:
        """Raise Stopped if the end was asked for."""
        if self._asked:
            raise Stopped("interrupted", interrupted=True)


def _batch_size(chosen: int | None, painter: Painter, size: tuple[int, int], device: torch.device) -> int:
    """How many frames go through the networks together."""
    if painter.one_by_one:
        return 1
    if chosen is not None:
        return chosen
    if device.type != "cuda":
        return 1  # a CPU gains nothing by more
    fitting = free_bytes(device) // (2 * BYTES_PER_PIXEL * size[0] * size[1])
    return max(1, min(LARGEST_BATCH, fitting))


class _Record:
    """What is counted, shown and recorded while a clip is made.

    Args:
        measured: the warping errors that can be measured: of the result, of the clip itself, and without blending.
        measured_with: how, in words.
    """

    def __init__(
        self,
        folder: RunFolder,
        active: Sequence[Logger],
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
        seconds = 0.5 if sys.stderr.isatty() else 10.0
        self._bar = tqdm(
            total=self.total, initial=done, desc="video", unit="frame", file=sys.stderr, mininterval=seconds
        )

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
        self.folder.save_picture(torch.from_numpy(picture).permute(2, 0, 1).float() / 255, "output.png")

    def _flicker(self, shot: Shot, now: dict[str, np.ndarray]) -> dict[str, float | None]:
        """The warping errors between the frame before and this one; None where there are none."""
        if not self.flicker:
            return {}
        now[OF_CLIP] = (shot.picture.permute(1, 2, 0) * 255).round().byte().numpy()
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


def _open(content: str, settings: Settings, max_megapixels: float) -> Source:
    if not isinstance(content, str | int | float) or content == "":  # a folder named 2024 arrives as a number
        given = "null" if content is None else content
        raise UserError(
            f"content={given}: give one clip, such as content=clip.mp4; several are a sweep: -m content=a.mp4,b.mp4"
        )
    path = Path(str(content)).expanduser()
    return open_source(path, "content", settings.rate, max_megapixels)


def _target(source: Source, output: str | None, folder: RunFolder) -> Path:
    if output is None:
        suffix = source.path.suffix.lower()
        return folder.path / f"output{suffix if suffix in CONTAINERS and not source.pictures else '.mp4'}"
    if str(output) == "":
        raise UserError("output is empty: give a video file, or output=null for the run folder")
    return Path(str(output)).expanduser()


def _check_fade(fade: Sequence[float] | None, styles: Styles, weights: Sequence[float] | None) -> None:
    if fade is None:
        return
    last = len(styles.pictures) - 1
    if last < 1:
        raise UserError("video.fade needs two or more pictures in style=[...], there is 1")
    if not all(0 <= position <= last for position in fade):
        raise UserError(f"video.fade={list(fade)}: positions are from 0, the first style, to {last}, the last")
    if weights is not None:
        raise UserError("video.fade says how much of each style there is: leave style_weights out")
    if styles.masks:
        raise UserError("video.fade goes from style to style everywhere: leave masks out")


def _choice(key: str, value: Any, known: Sequence[str]) -> None:
    if value not in known:
        raise UserError(f"video.{key}={value} is unknown, choose one of {', '.join(known)}")


def _is_list_of_numbers(values: Any) -> bool:
    if isinstance(values, str) or not isinstance(values, Sequence) or len(values) < 2:
        return False
    return all(type(value) in (int, float) and math.isfinite(value) for value in values)


def _seconds(key: str, value: float | str | None) -> float | None:
    """Seconds of a number, or of a text such as 90, 1:30 or 00:01:30.5."""
    if value is None:
        return None
    parts = re.fullmatch(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?)", str(value).strip())
    if not parts:
        raise UserError(f"video.{key}={value}: give seconds, or hours:minutes:seconds such as 00:01:30")
    hours, minutes, seconds = (float(part or 0) for part in parts.groups())
    return 3600 * hours + 60 * minutes + seconds


def _digest_of_files(files: Sequence[Path]) -> str:
    """Changes when one of the files is another or was written again."""
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(stats).encode("utf-8", "surrogateescape")).hexdigest()[:16]
