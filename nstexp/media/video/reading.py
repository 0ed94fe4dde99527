"""Read the frames of a clip in order: with decord if it reads the file correctly, else with PyAV."""

import logging
import math
from bisect import bisect_left
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

import numpy as np

from nstexp.core.errors import ArgumentError, choice
from nstexp.core.names import Reader
from nstexp.media.opacity import OPAQUE, filled
from nstexp.media.video.animation import read_animation
from nstexp.media.video.pictures import UPRIGHT, Orientation, Pictures, has_alpha
from nstexp.media.video.source import Frame, Source, decode, open_container, shown_at, video_stream

if TYPE_CHECKING:  # importing PyAV takes time, and most commands do not need it
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame

logger = logging.getLogger(__name__)
_Decoded: TypeAlias = "tuple[VideoFrame, Fraction | None]"

# Containers in which decord 0.6 is exact to the frame: always from the beginning, and after a seek only for H.264.
DECORD_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi")


def read_frames(
    source: Source,
    frames: range,
    reader: Reader = "auto",
    begin: int | None = None,
    background: str | None = "white",
) -> Iterator[Frame]:
    """Yield the frames with these indices in order. Frames that cannot be decoded are left out, with a warning.

    Args:
        source: the clip.
        frames: indices with a step of 1; decoding starts at the keyframe before the first one.
        reader: "decord", "av" (PyAV), or "auto": decord if it reads this file correctly, else PyAV.
        begin: the index in `frames` to continue with. It does not change the pixels: the two readers round colors
            differently, so the choice between them depends on `frames` alone. None: the first index.
        background: the color behind transparent parts: a name or #rrggbb. None: every frame has its opacity, and the
            colors of its solid part continue below what is transparent, see `opacity.filled`.

    Raises:
        UserError: the reader is unknown, decord was asked for and cannot read this file, or a picture in a folder is
            damaged.
    """
    choice("reader", reader, get_args(Reader))
    wanted = frames if begin is None else frames[frames.index(begin) :]
    found = _read(source, frames, wanted, reader, background)
    return (_frame(source.times[index], pixels, background) for index, pixels in found)


def _frame(time: int, pixels: np.ndarray, background: str | None) -> Frame:
    if background is not None:
        return Frame(time, pixels)
    if pixels.shape[2] == 3:
        return Frame(time, pixels, np.full(pixels.shape[:2], 255, np.uint8))
    return Frame(time, filled(pixels), np.ascontiguousarray(pixels[..., 3]))


def is_transparent(source: Source, frames: range) -> bool:
    """Whether something shines through one of the frames with these indices. Clips of opaque formats are not decoded.

    Raises:
        UserError: a picture in a folder is damaged.
    """
    if not (source.pictures or source.animation or has_alpha(source.pixel_format)):
        return False
    straight = _read(source, frames, frames, "av", None)
    return any(pixels.shape[2] == 4 and bool(pixels[..., 3].min() < OPAQUE) for _, pixels in straight)


def _read(
    source: Source, frames: range, wanted: range, reader: str, background: str | None
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (index, pixels), see `Pictures.background`."""
    if source.pictures:
        from nstexp.media.images import load_pixels

        return ((index, load_pixels(source.pictures[index], background)) for index in wanted)
    if source.animation:
        return read_animation(source, wanted, background)
    return _read_video(source, frames, wanted, reader, background)


def _read_video(
    source: Source, frames: range, wanted: range, reader: str, background: str | None
) -> Iterator[tuple[int, np.ndarray]]:
    if not wanted:
        return
    count = 0
    for item in _indexed_pixels(source, frames, wanted, reader, background):
        count += 1
        yield item
    if count < len(wanted):
        logger.warning("%s: %d of %d frames could be read, the rest is damaged", source.path, count, len(wanted))


def _indexed_pixels(
    source: Source, frames: range, wanted: range, reader: str, background: str | None
) -> Iterator[tuple[int, np.ndarray]]:
    done = 0
    if reader != "av":
        try:
            for item in _read_decord(source, frames, wanted):
                yield item
                done += 1
            return
        except _NotWithDecord as reason:
            if reader == "decord" and not done:
                problem = f"=decord: cannot read {source.path} ({reason}), use reader=auto"
                raise ArgumentError("reader", problem) from reason
            logger.info("%s: read with PyAV instead of decord (%s)", source.path, reason)
    yield from _read_av(source, wanted[done:], background)


class _NotWithDecord(Exception):
    """Decord cannot read a file correctly; the message says why."""


def _read_decord(source: Source, frames: range, wanted: range) -> Iterator[tuple[int, np.ndarray]]:
    reader = _open_decord(source, frames.start)
    index, keyframes = wanted.start, _Keyframes(source)
    try:
        if index and source.codec == "h264":
            reader.seek_accurate(index)
        elif index:
            reader.skip_frames(index)
        for index in wanted:
            if keyframes.differ_by(source.times[index]):
                raise ValueError("size or colors change")
            pixels = reader.next().asnumpy()
            if pixels.shape != (*source.size, 3) or (index == wanted.start and not _same(pixels, source, index)):
                raise ValueError("a wrong picture")
            yield index, pixels
    except Exception as error:  # an error of decord, or StopIteration if it misses frames
        raise _NotWithDecord(f"decord fails at frame {index}") from error  # decord's message would not help users


class _Keyframes:
    """The size and color format of the keyframes of a clip; decord assumes those of the first one throughout."""

    def __init__(self, source: Source) -> None:
        self._kinds = self._decoded(source)
        self._time, self._kind = self._first = next(self._kinds, (math.inf, ()))

    def differ_by(self, time: int) -> bool:
        """Whether a keyframe up to this time differs from the first one."""
        while self._time <= time and self._kind == self._first[1]:
            self._time, self._kind = next(self._kinds, (math.inf, ()))
        return self._time <= time

    @staticmethod
    def _decoded(source: Source) -> Iterator[tuple[float, tuple[Any, ...]]]:
        with open_container(source.path) as container:
            stream = video_stream(container, source.stream)
            stream.codec_context.skip_frame = "NONKEY"
            for frame in decode(container, stream):
                kind = frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range
                yield shown_at(frame) or 0, kind


def _open_decord(source: Source, start: int) -> Any:
    """A decord.VideoReader that reads this file correctly; raises _NotWithDecord if there is none."""
    try:
        import decord
    except Exception as error:  # it is not installed, or its library does not load
        raise _NotWithDecord("decord is not installed") from error
    if source.damage or source.counted:
        raise _NotWithDecord("the file is damaged" if source.damage else "its frames carry no times")
    if source.container not in DECORD_CONTAINERS:
        raise _NotWithDecord(f"decord is not exact in {source.container}")
    if start and source.codec != "h264":
        raise _NotWithDecord(f"decord does not seek exactly in {source.codec}")
    if not source.colors.tagged and source.colors.matrix == 1 and not _is_rgb(source.pixel_format):
        raise _NotWithDecord("decord takes untagged colors for BT.601")
    if has_alpha(source.pixel_format):
        raise _NotWithDecord("transparency")
    if source.converted:
        raise _NotWithDecord("its colors are not those of usual screens")
    # decord applies rotations but no mirrors, and rotations only in MP4.
    if source.orientation != UPRIGHT and not (source.orientation.turns_only and "mp4" in source.container):
        raise _NotWithDecord("decord does not rotate it as players do")
    if source.stream != 0:
        raise _NotWithDecord("its video is not the first stream")
    decord.logging.set_level(decord.logging.QUIET)
    try:
        # One thread: with more, decord holds hundreds of decoded frames.
        # Below one frame of fault tolerance, decord raises an error instead of filling in frames it cannot decode.
        reader = decord.VideoReader(str(source.path.absolute()), num_threads=1, fault_tol=1e-9)
        shown = reader.get_frame_timestamp(range(len(reader)))[:, 0].astype(np.float64)
    except Exception as error:
        raise _NotWithDecord("decord cannot open it") from error
    if len(shown) != len(source):
        raise _NotWithDecord(f"decord finds {len(shown)} frames, not {len(source)}")
    expected = (np.array(source.times) - source.times[0]) * float(source.time_base)
    # Seconds in decord are float32.
    tolerance = float(source.time_base) + np.abs(shown) * 2.0**-22
    if (np.abs(shown - shown[0] - expected) > tolerance).any():
        raise _NotWithDecord("decord finds different timestamps")
    return reader


def _same(pixels: np.ndarray, source: Source, index: int) -> bool:
    """Whether these pixels are frame `index` as PyAV reads it, up to the rounding of colors."""
    expected = next(_read_av(source, range(index, index + 1)), None)
    return expected is not None and bool(np.abs(pixels.astype(np.int16) - expected[1]).mean() < 3)


def _read_av(source: Source, frames: range, background: str | None = "white") -> Iterator[tuple[int, np.ndarray]]:
    pictures = Pictures(source.size, source.aspect, source.colors, background)
    last = None
    for index, frame, aspect in _frames_from(source, frames.start):
        if index >= frames.stop:
            return
        if index < frames.start:
            continue
        size = frame.height, frame.width
        pixels = pictures(frame, aspect)
        if size != last and Orientation.of(frame).size(*size) != source.size:
            logger.warning(
                "%s: from frame %d on its pictures have %dx%d px instead of %dx%d; they are fitted in, with black "
                "at the sides where they have other proportions",
                source.path,
                index + 1,
                *Orientation.of(frame).size(*size)[::-1],
                *source.size[::-1],
            )
        last = size
        yield index, pixels


def _frames_from(source: Source, start: int) -> Iterator[tuple[int, "VideoFrame", Fraction | None]]:
    """Yield (index, frame, aspect) from a keyframe at or shortly before `start`.

    `aspect` is the width of a pixel over its height if it has changed since the first frame, else None.
    """
    import av

    for seconds_back in (None,) if source.counted else (1, 8, 64, None):  # None: from the beginning of the file
        target = source.times[start] - round((seconds_back or 0) / source.time_base)
        if seconds_back is not None and target <= source.times[0]:
            continue
        with open_container(source.path) as container:
            stream = video_stream(container, source.stream)
            if seconds_back is not None:
                try:
                    container.seek(target, stream=stream)
                except av.FFmpegError:
                    continue
            found = _with_indices(
                source,
                _with_aspects(source, decode(container, stream), stream.codec_context),
                seeked=seconds_back is not None,
            )
            first = next(found, None)
            if seconds_back is not None and (first is None or first[0] > start):
                continue  # this keyframe is shown after `start`
            if first is not None:
                yield first
                yield from found
            return


def _with_aspects(source: Source, frames: Iterator["VideoFrame"], coded: "VideoCodecContext") -> Iterator[_Decoded]:
    """Yield (frame, aspect): width over height of its pixels if that changed with the frame size, else None."""
    aspects: dict[tuple[int, int], Fraction | None] = {}
    for frame in frames:
        now = coded.sample_aspect_ratio
        changed = None if now == source.coded_aspect else now or Fraction(1)
        yield frame, aspects.setdefault((frame.height, frame.width), changed)


def _with_indices(
    source: Source, frames: Iterator[_Decoded], seeked: bool
) -> Iterator[tuple[int, "VideoFrame", Fraction | None]]:
    """Add the index in `source.times` to every frame.

    Args:
        source: the clip.
        frames: as `_with_aspects` yields them.
        seeked: whether decoding started behind the beginning, so that the first frames may be incomplete.
    """
    last = -1
    for frame, aspect in frames:
        # After a seek, frames that are shown before their keyframe may refer to frames that were not decoded.
        if seeked and not frame.key_frame:
            continue
        seeked = False
        if source.counted:
            index = last + 1
        else:
            time = shown_at(frame)
            assert time is not None  # else the frames would be counted
            index = bisect_left(source.times, time)
        if last < index < len(source):
            yield index, frame, aspect
            last = index


def _is_rgb(pixel_format: str) -> bool:
    import av

    return av.VideoFormat(pixel_format).is_rgb
