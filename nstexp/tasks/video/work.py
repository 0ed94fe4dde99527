"""The pipeline for one clip: one thread reads frames ahead, one stylizes them in order, and one writes the results."""

import contextlib
import itertools
import logging
import time
from bisect import bisect_left
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nstexp.core.errors import Stopped, UserError, under
from nstexp.core.names import Reader
from nstexp.core.runtime.threads import WriteBehind, prefetch
from nstexp.interrupts import ENDINGS, SignalHandlers, held
from nstexp.media.flow import MotionEstimator
from nstexp.media.video import Frame, Source, Writer, read_frames
from nstexp.tasks.video.memory import Memory, State
from nstexp.tasks.video.painter import Painter, Shot, batches
from nstexp.tasks.video.record import Record

log = logging.getLogger(__name__)
QUEUE_LENGTH = 4  # frames that wait between reading and stylizing, and between stylizing and writing
POSTER = "poster"  # name in a state of the frame that represents the clip
# Frames that are computed again without a state, so that earlier ones hardly matter: 0.8^16 = 3 % of their weight.
WARM_UP_FRAMES = 16


@dataclass(frozen=True)
class Work:
    """Stylizes one clip, from where an interrupted run stopped to its end; call it without arguments.

    Args:
        source: the clip.
        frames: the indices of the clip's frames to stylize; `Shot.number` counts from the first of them.
        size: (height, width) of the result.
        reader: see `Settings.reader`.
        batch: number of frames that pass through the networks together.
        painter: stylizes the frames.
        estimator: estimates the motion between frames; None: motion is not needed.
        writer: writes the result.
        record: metrics and progress.
        memory: the files for continuing after an interruption.
        background: see `read_frames`.
        name_in_folder: the name of an output inside the run folder, which only a run in the same folder can continue;
            None if the output is elsewhere.
    """

    source: Source
    frames: range
    size: tuple[int, int]
    reader: Reader
    batch: int
    painter: Painter
    estimator: MotionEstimator | None
    writer: Writer
    record: Record
    memory: Memory
    background: str | None
    name_in_folder: str | None

    def __call__(self) -> Path:
        """Stylize the clip; returns the path of the result.

        Raises:
            Stopped: interrupted, or the method stopped; the partial clip is kept.
            UserError: the clip cannot be read, or the result not be made or written; the partial clip is kept.
        """
        self.record.begin(self.writer.done)
        try:
            with _Interruption() as interruption:
                self._work(self.writer.done, interruption)
                if self.name_in_folder:
                    self.record.folder.claim(self.name_in_folder)
                path = self.writer.finish()
        except (KeyboardInterrupt, Stopped) as stop:
            interrupted = isinstance(stop, KeyboardInterrupt) or stop.interrupted
            reason = "interrupted" if interrupted else str(stop)
            with held():
                progress = self._progress(self._keep())
                self._end_record()
            raise Stopped(f"{reason} {progress}", interrupted=interrupted) from None
        except UserError as error:
            partial = self._keep()
            self._end_record()
            complete = partial is None or str(partial) in str(error)
            raise UserError(str(error) if complete else f"{error}; {partial} holds what is done") from error
        except BaseException:
            self._keep()
            self._end_record()
            raise
        with held() as hold:
            self.memory.discard()
            self.record.end()
            self.record.finished(path)
        if hold.asked or interruption.asked:
            raise Stopped(f"interrupted at the end: {path} is complete", interrupted=True)
        return path

    def _end_record(self) -> None:
        """End the record. Another error here must not hide the one that stopped the work, such as a full disk."""
        with contextlib.suppress(UserError):
            self.record.end()

    def _keep(self) -> Path | None:
        """Save the files from which the same command can continue.

        Returns:
            The path of the partial clip, or None if it has no frame.
        """
        partial = self.writer.keep()
        if partial is None:
            self.memory.discard()
        else:
            self.memory.keep(self.writer.done)
        return partial

    def _progress(self, partial: Path | None) -> str:
        """The end of a message about work that stopped early."""
        count = f"at frame {self.writer.done} of {len(self.frames)}"
        if partial is None:
            return count
        command = f"the same command with run_dir={partial.parent}" if self.name_in_folder else "the same command"
        return f"{count}; the clip so far is {partial}, and {command} goes on from there"

    def _work(self, done: int, interruption: "_Interruption") -> None:
        """Stylize and write all frames; `done` of them are written already."""
        if done:
            log.info("going on after frame %d of %d", done, len(self.frames))
        first_recorded, first_painted = self._prepare(done)
        if first_recorded == len(self.frames):
            return
        write = WriteBehind(self._write, QUEUE_LENGTH)
        try:
            with _closing(prefetch(self._shots(first_painted), QUEUE_LENGTH)) as shots:
                for batch in batches(shots, self.batch):
                    interruption.check()
                    self._one_batch(batch, first_recorded, done, write)
            write.finish()
        except (KeyboardInterrupt, Stopped):
            write.finish()  # write the frames that are ready
            raise
        finally:
            write.close()

    def _prepare(self, done: int) -> tuple[int, int]:
        """Restore painter and record, so that the work continues after some or all of the `done` frames.

        Returns:
            The number of the first frame to record, and of the first frame to paint.
        """
        state = self.memory.begin(done)
        if state is None:
            self.record.go_on(self.memory.rows(done), self.writer.last_picture())
            return done, done if done == len(self.frames) else self._prepare_without_state(done)
        if not state.number:
            return 0, 0
        scene = None
        if self.painter.begins_with_scene and state.scene is not None:
            scene = self._shot(state.scene).picture[None]
        self.painter.restore(state.tensors, state.scene, scene)
        poster = state.tensors.get(POSTER)
        self.record.go_on(self.memory.rows(state.number), None if poster is None else poster.numpy())
        self.record.compare_with(self.painter.shown, self._shot(state.number - 1))
        return state.number, state.number

    def _prepare_without_state(self, done: int) -> int:
        """Restore the painter approximately, from the encoded frames.

        Returns:
            The number of the first frame to paint.
        """
        log.warning(
            "the saved state is lost, so the next frames may differ slightly from those of an uninterrupted run"
        )
        scene = self._scene_at(done - 1) if self.painter.begins_with_scene else None
        if scene is not None:
            self.painter.begin_scene(scene.picture[None])
        if not self.painter.blends:
            last = self.writer.last_picture()
            assert last is not None  # `done` frames are written
            self.painter.go_on(last)
            return done
        # Averaged statistics and blended frames depend on earlier frames less and less, so some are painted again.
        return max(done - WARM_UP_FRAMES, 0 if scene is None else scene.number)

    def _shot(self, number: int) -> Shot:
        """The shot of this number.

        Raises:
            UserError: the frame cannot be read.
        """
        with closing(self._shots(number)) as shots:
            shot = next(shots, None)
        if shot is None:
            raise UserError(f"{self.source.path}: its frame {self.frames[number] + 1} can no longer be read")
        return shot

    def _scene_at(self, number: int) -> Shot:
        """The first shot of the scene that contains the frame `number`."""
        log.info("looking for the beginning of the scene")
        until_number = itertools.takewhile(lambda shot: shot.number <= number, self._shots(0))
        with _closing(prefetch(until_number, QUEUE_LENGTH)) as shots:
            first = next(shots)
            for shot in shots:
                first = shot if shot.begins_scene else first
        return first

    def _one_batch(self, batch: Sequence[Shot], first_recorded: int, done: int, write: WriteBehind) -> None:
        """Paint a batch of shots, record those from `first_recorded` on, and write those from `done` on."""
        started = time.perf_counter()
        try:
            painted = self.painter.paint(batch)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"the GPU has too little memory for {len(batch)} frames at once: set video.batch or image_px smaller"
            ) from error
        seconds = (time.perf_counter() - started) / len(batch)
        for shot, (picture, plain) in zip(batch, painted, strict=True):
            if shot.number < first_recorded:
                continue
            self.memory.add_row(self.record.add(shot, seconds, picture, plain))
            state = self._state(shot.number + 1) if shot is batch[-1] else None
            write(Frame(shot.frame.time, picture, shot.opacity) if shot.number >= done else None, state)

    def _state(self, number: int) -> State:
        """The state before the frame `number`."""
        tensors = self.painter.state()
        if self.record.poster is not None:
            tensors[POSTER] = torch.from_numpy(self.record.poster)
        return State(number, self.painter.scene, tensors)

    def _write(self, frame: Frame | None, state: State | None) -> None:
        """Write a frame and the state after it, in the writing thread."""
        with self.record.timed("encode"):
            if frame is not None:
                self.writer.add(frame)
            if state is not None:
                self.memory.add_state(state, self.writer.done)

    def _shots(self, begin: int) -> Generator[Shot, None, None]:
        """Read the frames from number `begin` on, with the motion from the frame before each of them."""
        first = max(0, begin - 1)
        frames = read_frames(self.source, self.frames, self.reader, self.frames[first], self.background)
        before: Frame | None = None
        start = self.source.times[self.frames[0]]
        length = max(1, self.source.times[self.frames[-1]] - start)
        while True:
            with self.record.timed("decode"), under("video"):
                frame = next(frames, None)
            if frame is None:
                return
            number = bisect_left(self.source.times, frame.time) - self.frames[0]
            repeated = before is not None and _equal(before, frame)
            motion = None
            if before is not None and not repeated and self.estimator is not None:
                with self.record.timed("flow"):
                    motion = self.estimator(before.pixels, frame.pixels)
            since = frame.time - start
            seconds = float(since * self.source.time_base)
            if number >= begin:
                yield Shot(number, frame, self.size, motion, repeated, seconds, since / length)
            before = frame


def _equal(one: Frame, other: Frame) -> bool:
    """Whether two frames show the same."""
    if not np.array_equal(one.pixels, other.pixels):
        return False
    return one.opacity is None or other.opacity is None or np.array_equal(one.opacity, other.opacity)


class _Interruption:
    """The first Ctrl-C ends the work after the current batch of frames; a second Ctrl-C ends it at once."""

    def __init__(self) -> None:
        self.asked = False
        self._handlers = SignalHandlers()

    def __enter__(self) -> "_Interruption":
        self._handlers.install(self._stop, ENDINGS)
        return self

    def __exit__(self, *error: object) -> None:
        self._handlers.restore()

    def _stop(self, signum: int, frame: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def check(self) -> None:
        """Raise Stopped if Ctrl-C was pressed."""
        if self.asked:
            raise Stopped("interrupted", interrupted=True)


def _closing(shots: Any) -> AbstractContextManager[Iterator[Shot]]:
    """Close a generator at the end of the `with` block."""
    return closing(shots)
