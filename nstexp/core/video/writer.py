"""Clips out. Every frame is encoded once, into a partial file that plays while it grows and from which work goes on."""

import io
import logging
import math
import os
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from nstexp.core.errors import UserError
from nstexp.core.video.disk import explained
from nstexp.core.video.encoder import Encoder, Encoding
from nstexp.core.video.folder import FolderWriter
from nstexp.core.video.gif import write_gif
from nstexp.core.video.sound import COPY, IDENTITY, Sound, kept_tags, plan_sound, rounded
from nstexp.core.video.source import Colors, Frame, Source, open_container, packets, rgb, video_stream

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

logger = logging.getLogger(__name__)

# FFmpeg's names of the formats
FORMATS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".avi": "avi",
    ".gif": "gif",
}
CONTAINERS = tuple(FORMATS)
MILLISECOND = Fraction(1, 1000)  # the unit of time in Matroska
# A cluster for every packet and no waiting for the other stream: only the very last frame is not yet in the file.
GROWING = {
    "flush_packets": "1",
    "cluster_size_limit": "1",
    "max_interleave_delta": "1",
    "avoid_negative_ts": "disabled",
}


class Writer(Protocol):
    """Where frames go. Behind an interruption, `last_time` and `last_picture` say from where to go on."""

    last_time: int | None  # in Source.time_base, of the last frame that was left; None: begin at the beginning
    done: int  # how many frames were left

    def last_picture(self) -> np.ndarray | None:
        """That frame as it was encoded, RGB uint8 (H, W, 3)."""

    def add(self, frame: Frame) -> None:
        """Append a frame of the agreed size; its time is one of the source's, later than the last one's."""

    def finish(self) -> Path:
        """All frames are there: the output appears under its name, and the partial one goes."""

    def keep(self) -> Path | None:
        """Stop early: the partial output, which plays and from which open_writer goes on; None if it has no frame."""


def open_writer(
    path: str | Path, source: Source, size: tuple[int, int], frames: range, encoding: Encoding, identity: str
) -> Writer:
    """Begin to write `frames` of `source`, changed but with their times and their sound, or go on with it.

    Args:
        path: a file ending in one of CONTAINERS, or a folder (no ending) for numbered PNG files.
        source: the clip that the frames, their times, the sound, the colors and the tags come from.
        size: (height, width) of the frames to be written.
        frames: indices of the frames in `source`.
        encoding: how; a folder and a GIF take nothing from it.
        identity: a digest of what the frames depend on. What an earlier, interrupted writer with the same one left
            beside `path` is kept.

    Raises:
        UserError: the output cannot be written there, or the encoding does not suit it.
    """
    path = Path(path).expanduser()
    if path.exists() and path.samefile(source.path):
        raise UserError(f"output={path}: this is the clip itself, choose another name")
    if not path.suffix:
        return FolderWriter(path, source, frames, identity)
    if path.suffix.lower() not in FORMATS:
        raise UserError(
            f"output={path}: cannot write '{path.suffix}' files, use one of {', '.join(FORMATS)}, or a folder name "
            "without an ending for PNG files"
        )
    if path.is_dir():
        raise UserError(f"output={path}: this is a folder, add a file name")
    return VideoWriter(path, source, size, frames, encoding, identity)


class VideoWriter:
    """Writes a video file or a GIF, see `open_writer`."""

    def __init__(
        self, path: Path, source: Source, size: tuple[int, int], frames: range, encoding: Encoding, identity: str
    ) -> None:
        self.path, self.partial = path, path.with_name(f"{path.stem}.partial.mkv")
        self.last_time: int | None = None
        self.done = 0
        self._source, self._size, self._frames, self._identity = source, size, frames, identity
        self._format = FORMATS[path.suffix.lower()]
        if self._format == "gif":  # nothing is lost before the palettes are chosen
            encoding = Encoding("ffv1", options={"pix_fmt": "bgr0"})
            self._codec = "ffv1"
        else:
            self._codec = encoding.codec_for(self._format)
        self._encoding = encoding
        self._tags: dict[str, str] = {}
        self._sound_starts, self._sound_units = [], []
        if not source.pictures:
            with open_container(source.path) as container:
                self._tags = kept_tags(container.metadata)
                sound = [stream for stream in container.streams.audio if stream.start_time is not None]
                self._sound_starts = [stream.start_time * stream.time_base for stream in sound]  # in seconds
                self._sound_units = [stream.time_base.denominator for stream in sound]
        self._sound_plan = self._planned_sound()
        self._last_picture: np.ndarray | None = None
        self._written: list[int] = []  # positions in `frames`
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open_partial()

    def last_picture(self) -> np.ndarray | None:
        return self._last_picture

    def add(self, frame: Frame) -> None:
        if frame.pixels.shape != (*self._size, 3):
            raise ValueError(f"a frame of shape {frame.pixels.shape} for a video of {self._size}")
        position = self._frames.index(bisect_left(self._source.times, frame.time))
        if self._written and position <= self._written[-1]:
            raise ValueError(f"the frame at {frame.time} does not follow those that are written")
        with explained(self.path, self.partial):
            self._mux(self._encoder.encode(frame.pixels, position))

    def finish(self) -> Path:
        temporary = self.path.with_name(f".writing-{self.path.name}")
        try:
            with explained(self.path, self.partial):
                self._mux(self._encoder.encode(None))
                self._close()
                if not self._written:
                    raise UserError(f"{self.path}: not one frame could be read, so there is nothing to write")
                if self._format == "gif":
                    self._write_gif(temporary)
                else:
                    self._remux(temporary)
                os.replace(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)
        self.partial.unlink()
        return self.path

    def keep(self) -> Path | None:
        import av

        with suppress(av.FFmpegError, OSError):  # what is on the disk already plays
            self._mux(self._encoder.encode(None))
        with suppress(av.FFmpegError, OSError):
            self._close()
        if self._written:
            return self.partial
        self.partial.unlink(missing_ok=True)
        return None

    def _planned_sound(self) -> list[str | None]:
        """What becomes of each audio stream; anything but a copy is logged."""
        if self._format == "gif":
            if self._source.audio:
                logger.info("%s: a GIF has no sound", self.path)
            return []
        plan = plan_sound(self._source, self._format)
        for codec, how in zip(self._source.audio, plan, strict=True):
            if how is None:
                logger.warning("%s: cannot hold sound in %s, it is left out", self.path, codec)
            elif how != COPY:
                logger.warning("%s: cannot hold sound in %s, it is recoded with %s", self.path, codec, how)
        return plan

    # The partial file. Its first frame is at 0, its times are milliseconds.

    def _open_partial(self) -> None:
        kept = self._complete_frames()
        temporary = self.partial.with_name(f".writing-{self.partial.name}")
        try:
            self._container, self._encoder = self._new_partial(str(temporary.absolute()))
            plan = plan_sound(self._source, "matroska") if any(self._sound_plan) else []
            copied = [COPY if how == COPY else None for how in plan]
            begin, end = self._seconds(0), self._end(len(self._frames) - 1)
            self._sound = Sound(self._source, self._container, copied, begin, end, shift=begin)
            self._container.start_encoding()  # so that there is a file to rename
            if kept:
                with open_container(self.partial) as old:
                    for position, packet in enumerate(islice(_as_encoded(old), kept)):
                        packet.pts = position
                        self._mux([packet])
                self.done, self.last_time = kept, self._source.times[self._frames[kept - 1]]
            os.replace(temporary, self.partial)
        finally:
            temporary.unlink(missing_ok=True)

    def _new_partial(self, file: Any) -> "tuple[OutputContainer, Encoder]":
        import av

        container = av.open(file, "w", format="matroska", container_options=GROWING)
        container.metadata.update(self._tags | {IDENTITY: self._identity})
        return container, Encoder(container, self._codec, self._encoding, self._size, self._source)

    def _complete_frames(self) -> int:
        """How many frames an earlier partial file has to go on from; the last one becomes `last_picture`."""
        if not self.partial.exists():
            return 0
        try:
            old = open_container(self.partial)
        except UserError:  # stopped before its first frame
            return 0
        with old:
            stream = video_stream(old)
            if old.metadata.get(IDENTITY) != self._identity:
                logger.warning("%s: was left by work with other settings, this work starts over", self.partial)
                return 0
            if stream is None or _header(stream) != self._new_header():
                logger.warning("%s: was left by another version of the encoder, this work starts over", self.partial)
                return 0
            group: list[Packet] = []  # since the last keyframe
            for position, packet in zip(range(len(self._frames)), _nonempty(old), strict=False):
                if packet.pts != self._milliseconds(position):
                    break  # behind a hole everything is done again
                group = [packet] if packet.is_keyframe else [*group, packet]
            return self._decode_last(stream, group)

    def _decode_last(self, stream: "VideoStream", group: "list[Packet]") -> int:
        """Decode the last frame that is whole; returns how many there are up to it."""
        import av
        from av.video.reformatter import VideoReformatter

        last = None
        for packet in [*group, None]:
            with suppress(av.FFmpegError):
                for frame in stream.codec_context.decode(packet):
                    last = frame
        if last is None:
            return 0
        height, width = self._size  # without the padding
        self._last_picture = rgb(last, (last.height, last.width), Colors.of(last), VideoReformatter())[:height, :width]
        return next(n + 1 for n in range(len(self._frames)) if self._milliseconds(n) == last.pts)

    def _new_header(self) -> tuple:
        """`_header` of a stream as this writer would begin it now, read from a file of one black frame in memory."""
        import av

        memory = io.BytesIO()
        container, encoder = self._new_partial(memory)
        with container:
            container.mux(encoder.encode(np.zeros((*self._size, 3), np.uint8)))
            container.mux(encoder.encode(None))
        memory.seek(0)
        with av.open(memory) as fresh:
            return _header(video_stream(fresh))

    def _mux(self, coded: "list[Packet]") -> None:
        """Write packets whose pts are positions in `frames`, and the sound until they end."""
        for packet in coded:
            position = packet.pts
            if self._written and position <= self._written[-1]:
                raise UserError("video.codec_options: leave out what reorders frames, such as bf")
            begin = self._milliseconds(position)
            packet.pts = packet.dts = begin
            packet.duration = max(1, rounded((self._end(position) - self._seconds(0)) / MILLISECOND) - begin)
            packet.time_base, packet.stream = MILLISECOND, self._encoder.stream
            self._container.mux(packet)
            self._written.append(position)
            self._sound.mux_until(self._end(position))

    def _close(self) -> None:
        try:
            self._container.close()
        finally:
            self._sound.close()

    # The finished file

    def _remux(self, path: Path) -> None:
        """Copy the frames of the partial file and the sound of the clip, both with the times of the clip."""
        import av

        time_base = self._source.time_base if self._format != "avi" else 1 / self._source.rate  # AVI counts frames
        shift, start, stop = self._window()
        options = {}
        if self._format == "avi":
            options["avoid_negative_ts"] = "disabled"  # or the run-in of the sound moves the video by a frame
        if self._format in ("mp4", "mov"):
            # A stream that begins late is held back in units of the whole film, milliseconds if they are not told.
            fine = math.lcm(time_base.denominator, *self._sound_units)
            options |= {"movflags": "+faststart", "movie_timescale": str(fine if fine < 2**31 else 90000)}
        with (
            open_container(self.partial) as old,
            av.open(str(path.absolute()), "w", format=self._format, container_options=options) as new,
        ):
            new.metadata.update(self._tags)
            stream = new.add_stream_from_template(video_stream(old), opaque=True)
            stream.time_base = time_base
            sound = Sound(self._source, new, self._sound_plan, start, stop, shift)
            for position, packet in zip(self._written, _nonempty(old), strict=True):
                packet.pts = packet.dts = rounded((self._seconds(position) - shift) / time_base)
                packet.duration = rounded((self._end(position) - shift) / time_base) - packet.pts
                packet.time_base, packet.stream = time_base, stream
                new.mux(packet)
                sound.mux_until(self._end(position))
            sound.finish()

    def _window(self) -> tuple[Fraction, Fraction | float, Fraction | float]:
        """What becomes 0, and between which times of the source its sound is taken; all in seconds."""
        last = len(self._frames) - 1
        to_the_end = self._frames[last] + self._frames.step >= len(self._source)
        stop = math.inf if to_the_end else self._end(last)
        if self._frames.start:
            return self._seconds(0), self._seconds(0), stop
        # Streams of broadcasts begin anywhere. A start before 0 is the run-in of a codec and stays.
        return max(Fraction(0), min([self._seconds(0), *self._sound_starts])), -math.inf, stop

    def _write_gif(self, path: Path) -> None:
        begin = self._seconds(0)
        times = [self._seconds(position) - begin for position in self._written]
        count = write_gif(self.partial, path, times, self._end(self._written[-1]) - begin)
        if count < len(times):
            logger.info("%s: %d of %d frames, for a GIF shows 50 a second at most", self.path, count, len(times))

    # Times of positions in `frames`

    def _seconds(self, position: int) -> Fraction:
        return self._source.times[self._frames[position]] * self._source.time_base

    def _end(self, position: int) -> Fraction:
        return self._source.until(self._frames[position], self._frames.step) * self._source.time_base

    def _milliseconds(self, position: int) -> int:
        return rounded((self._seconds(position) - self._seconds(0)) / MILLISECOND)


def _nonempty(container: "InputContainer") -> "Iterator[Packet]":
    return (packet for packet in packets(container, video_stream(container)) if packet.size)


def _as_encoded(container: "InputContainer") -> "Iterator[Packet]":
    """Packets as an encoder makes them: of H.264 and its successors, Matroska has stored them in another form."""
    import av

    codec = video_stream(container).codec_context.name
    if codec not in ("h264", "hevc", "vvc"):
        yield from _nonempty(container)
        return
    start_codes = av.BitStreamFilterContext(f"{codec}_mp4toannexb", video_stream(container))
    for packet in _nonempty(container):
        yield from start_codes.filter(packet)


def _header(stream: "VideoStream") -> tuple:
    """What must be equal for packets of two encoders to follow each other."""
    context = stream.codec_context
    return context.name, context.width, context.height, context.extradata
