"""Frames of a clip one after another, by decord where it reads the file rightly, else by PyAV."""

import logging
from bisect import bisect_left
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from nstexp.core.errors import ArgumentError, choice
from nstexp.media.video.source import (
    FULL,
    LIMITED,
    SWS_MATRIX,
    Colors,
    Frame,
    Source,
    decode,
    open_container,
    shown_at,
    video_stream,
)

if TYPE_CHECKING:  # PyAV takes a moment to import and most commands never need it
    from av.video.frame import VideoFrame
    from av.video.reformatter import VideoReformatter

logger = logging.getLogger(__name__)

READERS = ("auto", "decord", "av")
# Where decord 0.6 was found to be exact to the frame: from the beginning always, behind a seek only in H.264.
DECORD_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi")


def read_frames(source: Source, frames: range, reader: str = "auto") -> Iterator[Frame]:
    """Yield the frames with these indices in order; one that cannot be decoded is left out, which a warning says.

    Args:
        source: the clip.
        frames: indices, without a step; the file is not decoded before the keyframe that the first one needs.
        reader: "decord", "av" (PyAV), or "auto": decord where it reads this file rightly, else PyAV.

    Raises:
        UserError: unknown reader, decord was asked for and cannot read this file, or a damaged picture in a folder.
    """
    choice("reader", reader, READERS)
    if source.pictures:
        return _read_pictures(source, frames)
    return _read_video(source, frames, reader)


def _read_video(source: Source, frames: range, reader: str) -> Iterator[Frame]:
    if not frames:
        return
    count = 0
    for index, pixels in _indexed_pixels(source, frames, reader):
        count += 1
        yield Frame(source.times[index], pixels)
    if count < len(frames):
        logger.warning("%s: %d of %d frames could be read, the rest is damaged", source.path, count, len(frames))


def _indexed_pixels(source: Source, frames: range, reader: str) -> Iterator[tuple[int, np.ndarray]]:
    done = 0
    if reader != "av":
        try:
            for item in _read_decord(source, frames):
                yield item
                done += 1
            return
        except _NotWithDecord as reason:
            if reader == "decord" and not done:
                problem = f"=decord: cannot read {source.path} ({reason}), use reader=auto"
                raise ArgumentError("reader", problem) from reason
            logger.info("%s: read with PyAV instead of decord (%s)", source.path, reason)
    yield from _read_av(source, frames[done:])


class _NotWithDecord(Exception):
    pass


def _read_decord(source: Source, frames: range) -> Iterator[tuple[int, np.ndarray]]:
    reader = _open_decord(source, frames.start)
    index = frames.start
    try:
        if frames.start:
            reader.seek_accurate(frames.start)
        for index in frames:
            pixels = reader.next().asnumpy()
            if pixels.shape != (*source.size, 3) or (index == frames.start and not _same(pixels, source, index)):
                raise ValueError("another picture")
            yield index, pixels
    except Exception as error:  # decord's own, or StopIteration where it misses frames
        raise _NotWithDecord(f"decord fails at frame {index}") from error  # its own text is about its own code


def _open_decord(source: Source, start: int) -> Any:
    """A decord.VideoReader that is known to read this file rightly, else _NotWithDecord."""
    try:
        import decord
    except Exception as error:  # not installed, or its library does not load here
        raise _NotWithDecord("decord is not installed") from error
    if source.damage or source.counted:
        raise _NotWithDecord("the file is damaged" if source.damage else "its frames carry no times")
    if source.container not in DECORD_CONTAINERS:
        raise _NotWithDecord(f"decord is not exact in {source.container}")
    if start and source.codec != "h264":
        raise _NotWithDecord(f"decord does not seek exactly in {source.codec}")
    if not source.colors.tagged and source.colors.matrix == 1 and not _is_rgb(source.pixel_format):
        raise _NotWithDecord("decord takes untagged colors for BT.601")
    if _has_alpha(source.pixel_format):
        raise _NotWithDecord("transparency")
    decord.logging.set_level(decord.logging.QUIET)
    try:
        # One thread: with more, decord holds hundreds of decoded frames.
        # It fills in for frames it cannot decode, unless told to tolerate fewer than one.
        reader = decord.VideoReader(str(source.path.absolute()), num_threads=1, fault_tol=1e-9)
        shown = reader.get_frame_timestamp(range(len(reader)))[:, 0].astype(np.float64)
    except Exception as error:
        raise _NotWithDecord("decord cannot open it") from error
    if len(shown) != len(source):
        raise _NotWithDecord(f"decord finds {len(shown)} frames, not {len(source)}")
    expected = (np.array(source.times) - source.times[0]) * float(source.time_base)
    # decord's seconds are float32.
    tolerance = float(source.time_base) + np.abs(shown) * 2.0**-22
    if (np.abs(shown - shown[0] - expected) > tolerance).any():
        raise _NotWithDecord("decord finds other timestamps")
    return reader


def _same(pixels: np.ndarray, source: Source, index: int) -> bool:
    """Whether this is frame `index` as PyAV reads it, up to the rounding of colors."""
    expected = next(_read_av(source, range(index, index + 1)), None)
    return expected is not None and np.abs(pixels.astype(np.int16) - expected[1]).mean() < 3


def _read_av(source: Source, frames: range) -> Iterator[tuple[int, np.ndarray]]:
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()  # keeps its tables from frame to frame
    for index, frame in _frames_from(source, frames.start):
        if index >= frames.stop:
            return
        if index >= frames.start:
            yield index, rgb(frame, source.size, source.colors, reformatter)


def _frames_from(source: Source, start: int) -> Iterator[tuple[int, "VideoFrame"]]:
    """Frames with their indices, beginning at or before `start`, at a keyframe as near as can be found."""
    import av

    for seconds_back in (None,) if source.counted else (1, 8, 64, None):  # None: from the beginning of the file
        target = source.times[start] - round((seconds_back or 0) / source.time_base)
        if seconds_back is not None and target <= source.times[0]:
            continue
        with open_container(source.path) as container:
            stream = video_stream(container)
            if seconds_back is not None:
                try:
                    container.seek(target, stream=stream)
                except av.FFmpegError:
                    continue
            found = _with_indices(source, decode(container, stream), seeked=seconds_back is not None)
            first = next(found, None)
            if seconds_back is not None and (first is None or first[0] > start):
                continue  # the keyframe found is shown after `start`
            if first is not None:
                yield first
                yield from found
            return


def _with_indices(source: Source, frames: Iterator["VideoFrame"], seeked: bool) -> Iterator[tuple[int, "VideoFrame"]]:
    last = -1
    for frame in frames:
        # WriteBehind a seek, frames that are shown before their keyframe may lack what they refer to.
        if seeked and not frame.key_frame:
            continue
        seeked = False
        index = last + 1 if source.counted else bisect_left(source.times, shown_at(frame))
        if last < index < len(source):
            yield index, frame
            last = index


def rgb(frame: "VideoFrame", size: tuple[int, int], colors: Colors, reformatter: "VideoReformatter") -> np.ndarray:
    """A decoded frame as RGB uint8 (H, W, 3) of `size` = (height, width), rotated as shown."""
    quarter_turns = round(frame.rotation / 90)
    height, width = size[::-1] if quarter_turns % 2 else size
    alpha = _has_alpha(frame.format.name)
    converted = reformatter.reformat(
        frame,
        width=width,  # a stream may change its size on the way
        height=height,
        format="rgba" if alpha else "rgb24",
        src_colorspace=SWS_MATRIX[colors.matrix],
        src_color_range=FULL if colors.full_range or frame.format.is_rgb else LIMITED,
        dst_color_range=FULL,
        threads=1,
    )
    pixels = converted.to_ndarray()
    if alpha:
        opacity = pixels[..., 3:].astype(np.uint16)
        pixels = ((pixels[..., :3] * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(np.rot90(pixels, quarter_turns))


def _has_alpha(pixel_format: str) -> bool:
    import av

    layout = av.VideoFormat(pixel_format)
    return layout.has_palette or any(component.is_alpha for component in layout.components)


def _is_rgb(pixel_format: str) -> bool:
    import av

    return av.VideoFormat(pixel_format).is_rgb


def _read_pictures(source: Source, frames: range) -> Iterator[Frame]:
    from nstexp.core.pixels import to_array
    from nstexp.media.images import load_image

    for index in frames:
        picture = load_image(source.pictures[index], max_input_megapixels=float("inf"))  # measured when opened
        yield Frame(index, to_array(picture))
