"""The work on one clip: frames are read ahead, redrawn in their order, and written behind."""

import contextlib
import itertools
import logging
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nstexp.core.errors import Stopped, UserError, under
from nstexp.core.runtime.threads import WriteBehind, prefetch
from nstexp.interrupts import ENDINGS, SignalHandlers, held
from nstexp.media.flow import MotionEstimator
from nstexp.media.video import Frame, Source, Writer, read_frames
from nstexp.tasks.video.memory import Memory, State
from nstexp.tasks.video.painter import Painter, Shot, batches
from nstexp.tasks.video.record import Record

log = logging.getLogger(__name__)
FRAMES_ON_THEIR_WAY = 4  # decoded and not yet stylized, and stylized and not yet encoded
POSTER = "poster"  # name in a state of the picture that stands for the clip
FRAMES_MADE_AGAIN = 16  # before the first new one of a run that goes on; 0.8^16 = 3 % of what was before them is left


@dataclass(frozen=True)
class Work:
    """The work on one clip, from where an interrupted run stopped to its end.

    Args:
        frames: which of the clip's; `number` of a shot is its place among them.
        own: name of an output in the run's own folder, where only the same folder finds it again.
    """

    source: Source
    frames: range
    size: tuple[int, int]
    reader: str
    batch: int
    painter: Painter
    estimator: MotionEstimator | None
    writer: Writer
    record: Record
    memory: Memory
    own: str | None

    def __call__(self) -> Path:
        self.record.begin(self.writer.done)
        try:
            with _Interruption() as interruption:
                self._work(self.writer.done, interruption)
                if self.own:
                    self.record.folder.claim(self.own)
                path = self.writer.finish()
        except (KeyboardInterrupt, Stopped) as stop:
            interrupted = isinstance(stop, KeyboardInterrupt) or stop.interrupted
            reason = "interrupted" if interrupted else str(stop)
            with held():
                told = self._told(self._keep())
                self._end_record()
            raise Stopped(f"{reason} {told}", interrupted=interrupted) from None
        except UserError as error:
            kept = self._keep()
            self._end_record()
            told = kept is None or str(kept) in str(error)
            raise UserError(str(error) if told else f"{error}; {kept} holds what is done") from error
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
        with contextlib.suppress(UserError):  # what stopped the work, such as a full disk, is the news
            self.record.end()

    def _keep(self) -> Path | None:
        """Leave what the same command goes on from; returns the partial clip, None if it has no frame."""
        kept = self.writer.keep()
        if kept is None:
            self.memory.discard()
        else:
            self.memory.keep(self.writer.done)
        return kept

    def _told(self, kept: Path | None) -> str:
        count = f"at frame {self.writer.done} of {len(self.frames)}"
        if kept is None:
            return count
        again = f"the same command with run_dir={kept.parent}" if self.own else "the same command"
        return f"{count}; the clip so far is {kept}, and {again} goes on from there"

    def _work(self, done: int, interruption: "_Interruption") -> None:
        if done:
            log.info("going on behind frame %d of %d", done, len(self.frames))
        begin, painted_from = self._prepared(done)
        if begin == len(self.frames):
            return
        write = WriteBehind(self._write, FRAMES_ON_THEIR_WAY)
        try:
            with closing(prefetch(self._shots(painted_from), FRAMES_ON_THEIR_WAY)) as coming:
                for batch in batches(coming, self.batch):
                    interruption.check()
                    self._one_batch(batch, begin, done, write)
            write.finish()
        except (KeyboardInterrupt, Stopped):
            write.finish()  # the frames that are ready
            raise
        finally:
            write.close()

    def _prepared(self, done: int) -> tuple[int, int]:
        """Bring painter and record to where they were behind some of the frames that are done.

        Returns:
            The first frame that belongs into the record again, and the first one to be painted.
        """
        state = self.memory.begin(done)
        if state is None:
            self.record.go_on(self.memory.rows(done), self.writer.last_picture())
            return done, done if done == len(self.frames) else self._nearly_prepared(done)
        if not state.number:
            return 0, 0
        scene = None
        if self.painter.colors_by_scene and state.scene is not None:
            scene = self._shot(state.scene).picture[None]
        self.painter.restore(state.tensors, state.scene, scene)
        poster = state.tensors.get(POSTER)
        self.record.go_on(self.memory.rows(state.number), None if poster is None else poster.numpy())
        self.record.compare_with(self.painter.shown, self._shot(state.number - 1))
        return state.number, state.number

    def _nearly_prepared(self, done: int) -> int:
        """The same from the frames that were encoded, with a loss that fades; returns the frame to begin with."""
        log.warning("how these frames were made is lost, so the next ones may differ slightly from those of one run")
        scene = self._scene_at(done - 1) if self.painter.colors_by_scene else None
        if scene is not None:
            self.painter.begin_scene(scene.picture[None])
        if not self.painter.blends:
            self.painter.go_on(self.writer.last_picture())
            return done
        # What the frames before have left in the statistics and the blend fades with their age: some are made again.
        return max(done - FRAMES_MADE_AGAIN, 0 if scene is None else scene.number)

    def _shot(self, number: int) -> Shot:
        with closing(self._shots(number)) as shots:
            shot = next(shots, None)
        if shot is None:
            raise UserError(f"{self.source.path}: its frame {self.frames[number] + 1} can no longer be read")
        return shot

    def _scene_at(self, number: int) -> Shot:
        """The first frame of the scene that a frame belongs to."""
        log.info("looking for the beginning of the scene")
        shots = itertools.takewhile(lambda shot: shot.number <= number, self._shots(0))
        with closing(prefetch(shots, FRAMES_ON_THEIR_WAY)) as coming:
            first = next(coming)
            for shot in coming:
                first = shot if shot.begins_scene else first
        return first

    def _one_batch(self, batch: Sequence[Shot], begin: int, done: int, write: WriteBehind) -> None:
        """Paint; of the result what is not yet there goes into the record (from frame `begin` on) and into the output
        (from `done` on)."""
        started = time.perf_counter()
        try:
            painted = self.painter.paint(batch)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"the GPU has too little memory for {len(batch)} frames at a time: set video.batch or image_px smaller"
            ) from error
        seconds = (time.perf_counter() - started) / len(batch)
        for shot, (picture, plain) in zip(batch, painted, strict=True):
            if shot.number < begin:
                continue
            self.memory.add_row(self.record.add(shot, seconds, picture, plain))
            state = self._state(shot.number + 1) if shot is batch[-1] else None
            write(Frame(shot.frame.time, picture) if shot.number >= done else None, state)

    def _state(self, number: int) -> State:
        tensors = self.painter.state()
        if self.record.poster is not None:
            tensors[POSTER] = torch.from_numpy(self.record.poster)
        return State(number, self.painter.scene, tensors)

    def _write(self, frame: Frame | None, state: State | None) -> None:
        with self.record.timed("encode"):
            if frame is not None:
                self.writer.add(frame)
            if state is not None:
                self.memory.add_state(state, self.writer.done)

    def _shots(self, begin: int) -> Iterator[Shot]:
        """The frames from a number on, with the motion from each to the next, also of the first one."""
        first = max(0, begin - 1)
        wanted = read_frames(self.source, self.frames, self.reader, self.frames[first])
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
            if number >= begin:
                yield Shot(number, frame, self.size, motion, repeated, seconds, since / length)
            before = frame.pixels


class _Interruption:
    """The first Ctrl-C asks for an end after the frame that is being made; a second one does not wait."""

    def __init__(self) -> None:
        self.asked = False
        self._handlers = SignalHandlers()

    def __enter__(self) -> "_Interruption":
        self._handlers.install(self._stop, ENDINGS)
        return self

    def __exit__(self, *error: object) -> None:
        self._handlers.restore()

    def _stop(self, signum, frame) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def check(self) -> None:
        """Raise Stopped if the end was asked for."""
        if self.asked:
            raise Stopped("interrupted", interrupted=True)
