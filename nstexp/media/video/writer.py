"""Write clips. Each frame is encoded once, into a partial file that is playable and from which work can continue."""

import io
import logging
import math
import os
import threading
from bisect import bisect_left
from contextlib import suppress
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from nstexp.core.errors import ArgumentError, UserError
from nstexp.core.runtime.files import check_replaceable, path_behind
from nstexp.media.video.animated import write_apng, write_webp
from nstexp.media.video.disk import claim, explained, refuse_inputs
from nstexp.media.video.encoder import Encoder, Encoding, reorders
from nstexp.media.video.folder import FolderWriter
from nstexp.media.video.gif import write_gif
from nstexp.media.video.partial import as_encoded, header_of, is_ours, nonempty, only_stream, position_of
from nstexp.media.video.pictures import Pictures
from nstexp.media.video.sound import COPY, IDENTITY, Sound, kept_tags, plan_sound, rounded
from nstexp.media.video.source import Frame, Source, complaints, open_container, video_stream

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

logger = logging.getLogger(__name__)

# Suffix of the file -> FFmpeg's name of the format.
FORMATS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".avi": "avi",
    ".gif": "gif",
    ".apng": "apng",
    ".webp": "webp",
}
NAMES = {"gif": "GIF", "apng": "PNG", "webp": "WebP"}
ANIMATIONS = {"gif": write_gif, "apng": write_apng, "webp": write_webp}
SUFFIXES = tuple(FORMATS)  # of all outputs
CONTAINERS = tuple(suffix for suffix in FORMATS if suffix not in (".apng", ".webp"))  # of clips
MILLISECOND = Fraction(1, 1000)  # the unit of time in Matroska
TRIAL_FRAMES = 8  # enough to see whether an encoder reorders frames
AVI_GAP = 60000  # most frames without a picture that FFmpeg writes between two others
# One cluster per packet, and no waiting for the other stream, so that only the last frame is not yet in the file.
GROWING = {
    "flush_packets": "1",
    "cluster_size_limit": "1",
    "max_interleave_delta": "1",
    "avoid_negative_ts": "disabled",
}


class Writer(Protocol):
    """Takes the frames of a clip. `add`, `finish` and `keep` may be called from different threads."""

    @property
    def partial(self) -> Path:
        """The unfinished output, which exists until `finish`."""

    @property
    def done(self) -> int:
        """Positions in `frames` that need no more work: the position of the last frame on the disk, plus 1."""

    def last_picture(self) -> np.ndarray | None:
        """The last frame of an interrupted writer, as it was encoded, RGB uint8 (H, W, 3); None if there is none.

        Until the first `add` its position is `done` - 1.
        """

    def add(self, frame: Frame) -> None:
        """Append a frame of the agreed size; its time is a time of the source, later than that of the frame before.

        Raises:
            UserError: the disk is full, or cannot be written.
            RuntimeError: `finish` or `keep` was called before.
        """

    def finish(self) -> Path:
        """Complete the output under its final name and remove the partial output.

        Raises:
            UserError: the disk is full or cannot be written, or no frame was added. `keep` must be called afterwards.
        """

    def keep(self) -> Path | None:
        """Stop early, and return the partial output, which is playable and from which `open_writer` continues.

        Returns None if it holds no frame. This method never raises, may be called several times, and does not change
        the output of `finish`.
        """


def open_writer(
    path: str | Path,
    source: Source,
    size: tuple[int, int],
    frames: range,
    encoding: Encoding,
    identity: str,
    key: str = "path",
) -> Writer:
    """Start to write `frames` of `source`, with its times and its sound but other pixels, or continue earlier work.

    Args:
        path: a file with one of the suffixes in FORMATS, or a folder (no suffix) for numbered PNG files.
        source: the clip that times, sound, colors and tags are taken from.
        size: (height, width) in pixels of the frames that will be added.
        frames: indices of the frames in `source`, with a step of 1.
        encoding: how to encode; not used for folders and animated pictures, except for `transparent`.
        identity: digest of everything that the frames depend on. Frames that an interrupted writer with the same
            identity left beside `path` are kept.
        key: the config key that holds `path`, named in error messages.

    Raises:
        UserError: the output cannot be written there, another run is writing it, or the encoding does not suit it.
    """
    path = Path(path).expanduser()
    if path.name in ("", ".."):
        raise UserError(f"{key}={path}: this is not the name of a file or a folder that can be created, add a name")
    if not path.suffix:
        return FolderWriter(path, source, frames, identity, key)
    if path.suffix.lower() not in FORMATS:
        raise UserError(
            f"{key}={path}: cannot write '{path.suffix}' files, use one of {', '.join(FORMATS)}, or a folder name "
            "without an ending for PNG files"
        )
    check_replaceable(path, key)
    return VideoWriter(path, source, size, frames, encoding, identity, key)


def keeps_transparency(path: Path, encoding: Encoding) -> bool:
    """Whether an output can keep the opacity of frames, with these settings. Animated GIFs keep one bit of it.

    Raises:
        ArgumentError: the settings do not suit the output.
    """
    name = FORMATS.get(path.suffix.lower())
    return not path.suffix or name in ANIMATIONS or (name is not None and encoding.holds_transparency(name))


class VideoWriter:
    """Writes a video file or an animated picture, see `open_writer` and `Writer`."""

    def __init__(
        self,
        path: Path,
        source: Source,
        size: tuple[int, int],
        frames: range,
        encoding: Encoding,
        identity: str,
        key: str = "path",
    ) -> None:
        self.name = f"{key}={path}"  # in error messages
        self.path, self._place = path, path_behind(path)
        self.partial = self._place.with_name(f"{path.name}.partial.mkv")
        self._aside = self._place.with_name(f".{self.partial.name}")  # an earlier partial file while it is copied
        self._temporary = self._place.with_name(f".writing-{path.name}")
        refuse_inputs(self._place, (self.partial, self._aside, self._temporary), source, self.name)
        self._source, self._size, self._frames, self._identity = source, size, frames, identity
        self._format = FORMATS[path.suffix.lower()]
        if self._format in ANIMATIONS:  # the partial file is lossless, because it is encoded again at the end
            layout = "bgra" if encoding.transparent else "bgr0"
            encoding = Encoding("ffv1", codec_options={"pix_fmt": layout}, transparent=encoding.transparent)
            self._codec = "ffv1"
        else:
            self._codec = encoding.codec_for(self._format)
        self._encoding = encoding
        self._tags: dict[str, str] = {}
        self._sound_starts: list[Fraction] = []  # in seconds
        self._sound_units: list[int] = []  # ticks per second
        if source.container:
            with open_container(source.path) as container:
                self._tags = kept_tags(container.metadata)
                sound = [
                    (stream.start_time, stream.time_base)
                    for stream in container.streams.audio
                    if stream.start_time is not None and stream.time_base is not None
                ]
                self._sound_starts = [start * time_base for start, time_base in sound]
                self._sound_units = [time_base.denominator for _, time_base in sound]
        self._check_even_times()
        header = self._trial()
        self._sound_plan = self._planned_sound()
        self._last_picture: np.ndarray | None = None
        self._written: list[int] = []  # positions in `frames`
        self._ended = False
        self._guard = threading.Lock()
        with explained(self.name):
            self._place.parent.mkdir(parents=True, exist_ok=True)
            self._claim = claim(self._place, self.name)
            try:
                self._open_partial(header)
            except BaseException:
                self._claim.release()
                raise

    @property
    def done(self) -> int:
        """See `Writer.done`."""
        return self._written[-1] + 1 if self._written else 0

    def last_picture(self) -> np.ndarray | None:
        """See `Writer.last_picture`."""
        return self._last_picture

    def add(self, frame: Frame) -> None:
        """See `Writer.add`."""
        if frame.pixels.shape != (*self._size, 3):
            raise ValueError(f"a frame of shape {frame.pixels.shape} for a video of {self._size}")
        position = self._frames.index(bisect_left(self._source.times, frame.time))
        with self._guard:
            self._check_not_ended()
            if position < self.done:
                raise ValueError(f"the frame at {frame.time} is not later than those that are written")
            with explained(self.name, self.partial if self._written else None):
                self._mux(self._encoder.encode(self._with_opacity(frame), position))

    def _with_opacity(self, frame: Frame) -> np.ndarray:
        """RGB, or RGBA if the output keeps transparency, uint8 (H, W, channels)."""
        if not self._encoding.transparent:
            return frame.pixels
        opacity = np.full(self._size, 255, np.uint8) if frame.opacity is None else frame.opacity
        return np.dstack([frame.pixels, opacity])

    def finish(self) -> Path:
        """See `Writer.finish`."""
        with self._guard:
            self._check_not_ended()
            self._ended = True
            try:
                with explained(self.name, self.partial):
                    self._mux(self._encoder.encode(None))
                    self._close()
                    if not self._written:
                        raise UserError(f"{self.path}: not one frame could be read, so there is nothing to write")
                    if self._format in ANIMATIONS:
                        self._write_animation(self._temporary)
                    else:
                        self._remux(self._temporary)
                    os.replace(self._temporary, self._place)
            finally:
                with suppress(OSError):
                    self._temporary.unlink(missing_ok=True)
            with suppress(OSError):  # the output is complete
                self.partial.unlink()
            self._claim.release()
            return self.path

    def keep(self) -> Path | None:
        """See `Writer.keep`."""
        with self._guard:
            if not self._ended:
                self._ended = True
                with suppress(Exception):  # the frames that are on the disk are playable anyway
                    self._mux(self._encoder.encode(None))
            if self._claim.held:
                with suppress(Exception):
                    self._close()
                if not self._written:
                    with suppress(OSError):
                        self.partial.unlink(missing_ok=True)
                self._claim.release()
            return self.partial if self._written and self.partial.exists() else None

    def _check_not_ended(self) -> None:
        if self._ended:
            raise RuntimeError(f"{self.path} was finished or kept before")

    def _check_even_times(self) -> None:
        """AVI numbers its frames: no two frames may get the same number, and gaps between numbers are limited."""
        if self._format != "avi":
            return
        shift = self._window()[0]
        numbers = [rounded((self._seconds(n) - shift) * self._source.rate) for n in range(len(self._frames))]
        if any(not 0 < b - a <= AVI_GAP for a, b in pairwise(numbers)):
            raise UserError(f"{self.name}: AVI files cannot hold frames at uneven times, use .mkv or .mp4")

    def _planned_sound(self) -> list[str | None]:
        """The treatment of each audio stream, see `plan_sound`; streams that are not copied are logged."""
        if self._format in ANIMATIONS:
            if self._source.audio:
                logger.info("%s: a %s has no sound", self.path, NAMES[self._format])
            return []
        plan = plan_sound(self._source, self._format)
        for codec, how in zip(self._source.audio, plan, strict=True):
            if how is None:
                logger.warning("%s: cannot hold sound in %s, it is left out", self.path, codec)
            elif how != COPY:
                logger.warning("%s: cannot hold sound in %s, it is recoded with %s", self.path, codec, how)
        return plan

    # The partial file. Its times are milliseconds, and its first frame is at 0 unless that frame could not be read.

    def _open_partial(self, header: tuple[Any, ...]) -> None:
        """Start a partial file with the frames of an existing one.

        The existing file is first renamed to `_aside`, because Windows cannot replace an open file. If `_aside` already
        exists, a process was killed while it copied the frames, and the file under the usual name is incomplete.

        Args:
            header: of the video stream, from `_trial`.
        """
        old = self._aside if self._aside.exists() else self.partial
        if old.exists() and not is_ours(old):
            raise UserError(f"{self.name}: {old} is in the way, and was not made by nstexp: remove it")
        kept = self._complete_frames(old, header) if old.exists() else []
        self._temporary.unlink(missing_ok=True)
        if kept:
            os.replace(old, self._aside)
        try:
            self._begin_partial()
            if kept:
                with open_container(self._aside) as container:
                    for position, packet in zip(kept, as_encoded(container), strict=False):
                        packet.pts = position
                        self._mux([packet])
            self._aside.unlink(missing_ok=True)  # else the next writer would continue from it instead
        except BaseException:
            self._written = []
            with suppress(Exception):
                self._close()
            with suppress(OSError):
                if kept:
                    os.replace(self._aside, self.partial)
                else:
                    self.partial.unlink(missing_ok=True)
            raise

    def _begin_partial(self) -> None:
        self._sound: Sound | None = None
        self._container, self._encoder = self._new_partial(str(self.partial.absolute()))
        if any(self._encoder.padding):
            layout, height, width = self._encoder.pixel_format, *self._size
            logger.info("%s has even sizes only: an edge of the %dx%d px is repeated", layout, width, height)
        plan = plan_sound(self._source, "matroska") if any(self._sound_plan) else []
        copied = [COPY if how == COPY else None for how in plan]
        begin, end = self._seconds(0), self._end(len(self._frames) - 1)
        self._sound = Sound(self._source, self._container, copied, begin, end, shift=begin)
        self._container.start_encoding()  # writes the identity, so that the file can be recognized

    def _new_partial(self, file: Any) -> "tuple[OutputContainer, Encoder]":
        import av

        container = av.open(file, "w", format="matroska", container_options=GROWING)
        try:
            container.metadata.update(self._tags | {IDENTITY: self._identity})
            return container, Encoder(container, self._codec, self._encoding, self._size, self._source)
        except BaseException:
            container.close()
            raise

    def _complete_frames(self, path: Path, header: tuple[Any, ...]) -> list[int]:
        """Positions of the complete frames in an earlier partial file; the last frame becomes `last_picture`."""
        with complaints() as complained:
            try:
                old = open_container(path)
            except UserError:  # the writer was stopped before its first frame
                return []
            with old:
                if origin := self._foreign_origin(old, header):
                    logger.warning("%s: was left by %s, this work starts over", self.partial, origin)
                    return []
                positions: list[int] = []
                group: list[Packet[VideoStream]] = []  # since the last keyframe
                for packet in nonempty(old):
                    following = positions[-1] + 1 if positions else 0
                    position = self._position_at(packet.pts, following)
                    # A gap is a frame that could not be read from the clip. In a damaged file it may also be a frame
                    # that was lost here, so work continues before the gap.
                    if position is None or (position > following and complained):
                        break
                    positions.append(position)
                    group = [packet] if packet.is_keyframe else [*group, packet]
                last = self._decode_last(only_stream(old), group)
                return [position for position in positions if last is not None and position <= last]

    def _foreign_origin(self, old: "InputContainer", header: tuple[Any, ...]) -> str | None:
        """The origin of a partial file from which this writer cannot continue; None if it can."""
        if old.metadata.get(IDENTITY) != self._identity:
            return "work with other settings"
        stream = video_stream(old)
        return "another version of the encoder" if stream is None or header_of(stream) != header else None

    def _decode_last(self, stream: "VideoStream", group: "list[Packet[VideoStream]]") -> int | None:
        """Decode the last complete frame in the packets since the last keyframe; its position, or None."""
        import av

        last = None
        for packet in [*group, None]:
            with suppress(av.FFmpegError):
                for frame in stream.codec_context.decode(packet):
                    last = frame
        if last is None:
            return None
        height, width = self._size  # without the padding
        self._last_picture = np.ascontiguousarray(Pictures(background=None)(last)[:height, :width, :3])
        return self._position_at(last.pts, 0)

    def _trial(self) -> tuple[Any, ...]:
        """`header_of` of a stream with this writer's settings, from black frames that are encoded into memory.

        Raises:
            ArgumentError: the encoder fails, or reorders frames.
        """
        import av

        memory = io.BytesIO()
        container, encoder = self._new_partial(memory)
        black = np.zeros((*self._size, 4 if self._encoding.transparent else 3), np.uint8)
        order: list[int] = []
        try:
            with container:
                for number in (*range(TRIAL_FRAMES), None):
                    coded = encoder.encode(None if number is None else black, number or 0)
                    order += map(position_of, coded)
                    if any(a >= b for a, b in pairwise(order)):
                        raise reorders()
                    container.mux(coded)
        except av.FFmpegError as error:
            problem = f"={dict(self._encoding.codec_options)}: {self._codec} fails with these ({error.strerror})"
            raise ArgumentError("codec_options", problem) from error
        memory.seek(0)
        with av.open(memory) as fresh:
            return header_of(only_stream(fresh))

    def _mux(self, coded: "list[Packet[VideoStream]]") -> None:
        """Write packets, whose pts are positions in `frames`, and the sound up to their end."""
        assert self._sound is not None  # `_begin_partial` came first
        for packet in coded:
            position = position_of(packet)
            if self._written and position <= self._written[-1]:
                raise reorders()
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
            if self._sound is not None:
                self._sound.close()

    # The finished file

    def _remux(self, path: Path) -> None:
        """Copy the frames of the partial file and the sound of the clip into `path`, with the times of the clip."""
        import av

        time_base = self._source.time_base if self._format != "avi" else 1 / self._source.rate  # AVI numbers its frames
        shift, start, stop = self._window()
        options = {}
        if self._format == "avi":
            options["avoid_negative_ts"] = (
                "disabled"  # else the priming samples of the sound shift the video by a frame
            )
        if self._format in ("mp4", "mov"):
            # The delay of a stream that begins late is stored in ticks of the whole file, by default milliseconds.
            fine = math.lcm(time_base.denominator, *self._sound_units)
            options |= {"movflags": "+faststart", "movie_timescale": str(fine if fine < 2**31 else 90000)}
        with (
            open_container(self.partial) as old,
            av.open(str(path.absolute()), "w", format=self._format, container_options=options) as new,
        ):
            new.metadata.update(self._tags)
            stream = new.add_stream_from_template(only_stream(old), opaque=True)
            stream.time_base = time_base
            if self._encoding.transparent and self._codec.startswith("libvpx"):
                stream.metadata["alpha_mode"] = "1"  # for new streams FFmpeg sets it, but not for copied ones
            sound = Sound(self._source, new, self._sound_plan, start, stop, shift)
            for position, packet in zip(self._written, nonempty(old), strict=True):
                packet.pts = packet.dts = rounded((self._seconds(position) - shift) / time_base)
                packet.duration = rounded((self._end(position) - shift) / time_base) - packet.pts
                packet.time_base, packet.stream = time_base, stream
                new.mux(packet)
                sound.mux_until(self._end(position))
            sound.finish()

    def _window(self) -> tuple[Fraction, Fraction | float, Fraction | float]:
        """Times of the source, in seconds: the one that becomes 0, and the start and end of the sound to copy."""
        last = len(self._frames) - 1
        to_the_end = self._frames.stop >= len(self._source)
        stop = math.inf if to_the_end else self._end(last)
        if self._frames.start:
            return self._seconds(0), self._seconds(0), stop
        # Recorded broadcasts begin at any time. A start before 0 comes from the priming samples of a codec and stays.
        return max(Fraction(0), min([self._seconds(0), *self._sound_starts])), -math.inf, stop

    def _write_animation(self, path: Path) -> None:
        begin = self._seconds(0)
        times = [self._seconds(position) - begin for position in self._written]
        count = ANIMATIONS[self._format](self.partial, path, times, self._end(self._written[-1]) - begin)
        if count < len(times):
            most = {"gif": 50, "webp": 100}.get(self._format, 1000)
            name = NAMES[self._format]
            logger.info(
                "%s: %d of %d frames, because a %s shows at most %d a second", self.path, count, len(times), name, most
            )

    # Times of positions in `frames`

    def _seconds(self, position: int) -> Fraction:
        """When the frame at this position begins, in seconds of the source."""
        return self._source.times[self._frames[position]] * self._source.time_base

    def _end(self, position: int) -> Fraction:
        """When the frame at this position ends, in seconds of the source."""
        return self._source.until(self._frames[position]) * self._source.time_base

    def _milliseconds(self, position: int) -> int:
        """When the frame at this position begins in the partial file."""
        return rounded((self._seconds(position) - self._seconds(0)) / MILLISECOND)

    def _position_at(self, milliseconds: int | None, first: int) -> int | None:
        """The first position from `first` on that has this time; None if there is none."""
        if milliseconds is None:
            return None
        position = bisect_left(range(len(self._frames)), milliseconds, lo=first, key=self._milliseconds)
        at_end = position >= len(self._frames)
        return None if at_end or self._milliseconds(position) != milliseconds else position
