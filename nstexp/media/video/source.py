"""Clips in: what a video file, an animated picture or a folder of pictures holds."""

import logging
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nstexp.core.errors import ArgumentError, UserError
from nstexp.media.video.pictures import HDR, UPRIGHT, Colors, Orientation, is_skewed, to_sdr

if TYPE_CHECKING:  # PyAV takes a moment to import and most commands never need it
    from av.codec.context import CodecContext
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

logger = logging.getLogger(__name__)

DOLBY_VISION = ("dvh1", "dvhe", "dva1", "dvav", "dav1")  # tags of codecs; without HDR as of others, nothing else has it
# Matrices (H.273 table 4) that swscale does not know.
OTHER_MATRICES = {8: "YCgCo", 11: "Y'D'zD'x", 12: "chromaticity-derived", 13: "chromaticity-derived", 14: "ICtCp"}
OTHER_MATRICES |= {15: "IPT-PQ-C2", 16: "YCgCo-Re", 17: "YCgCo-Ro"}
TO_SDR = "libplacebo=colorspace=bt709:color_primaries=bt709:color_trc=bt709:format=yuv420p"  # a filter of FFmpeg


class Frame(NamedTuple):
    """One picture of a clip and when it is shown."""

    time: int  # in Source.time_base
    pixels: np.ndarray  # RGB uint8 (H, W, 3), rotated as shown, transparency composited over white


@dataclass(frozen=True)
class Source:
    """A clip: a video file, an animated picture or a folder of pictures. Times are integers in units of `time_base`."""

    path: Path
    size: tuple[int, int]  # (height, width) of the frames as shown, in pixels
    times: tuple[int, ...]  # when each frame is shown, ascending
    end: int  # when the last frame ends
    time_base: Fraction  # in seconds
    rate: Fraction  # average frames per second, > 0
    aspect: Fraction  # width of a pixel over its height, as shown
    colors: Colors  # of the frames as they are read, with `converted` those of BT.709
    pixel_format: str  # FFmpeg's name
    audio: tuple[str, ...] = ()  # codec names of the audio streams
    damage: str | None = None  # what of the file cannot be read, a clause
    container: str = ""  # FFmpeg's name of the format
    codec: str = ""
    counted: bool = False  # the file's own times are of no use: frames are counted and evenly spaced
    pictures: tuple[Path, ...] = ()  # of a folder of pictures
    animation: bool = False  # a picture that Pillow reads
    stream: int = 0  # which of the file's streams
    orientation: Orientation = UPRIGHT
    coded_aspect: Fraction | None = None  # of the first frame's pixels, where the codec tells it
    converted: str = ""  # what of the file's colors had no place in SDR, in words

    @property
    def seconds(self) -> float:
        return float((self.end - self.times[0]) * self.time_base)

    def __len__(self) -> int:
        return len(self.times)

    def until(self, index: int) -> int:
        """When frame `index` gives way to the next one, or to the end."""
        return self.times[index + 1] if index + 1 < len(self.times) else self.end

    def between(self, start: float | None, end: float | None, prefix: str = "") -> range:
        """Indices of the frames with start <= time < end, in seconds from the first frame; None is no limit.

        A start behind the time of the last frame gives that frame, which is still shown.

        Args:
            prefix: what the user writes before `start` and `end`, for the error message.

        Raises:
            UserError: the two leave no frame.
        """
        for argument, value in (("start", start), ("end", end)):
            if value is not None and not value >= 0:  # also for nan
                raise UserError(f"{prefix}{argument}={value}: give seconds from the start of the clip, 0 or more")
        if end is not None and end <= (start or 0):
            raise UserError(f"{prefix}end={end}: must be after {prefix}start={start or 0}")
        if start is not None and start >= self.seconds:
            raise UserError(f"{prefix}start={start}: {self.path} lasts only {self.seconds:g} seconds")
        first = min(self._first_at(start or 0), len(self) - 1)
        # Compared before it is converted: a float may be infinite.
        chosen = range(first, len(self) if end is None or end >= self.seconds else self._first_at(end))
        if not chosen:
            first = f"{prefix}start={start or 0}"
            raise UserError(f"{prefix}end={end}: no frame of {self.path} begins between {first} and it")
        return chosen

    def _first_at(self, seconds: float) -> int:
        # 1.001 seconds typed by a user mean the frame at 1001/1000, which binary fractions miss by a hair.
        ticks = Fraction(seconds).limit_denominator(10**6) / self.time_base
        return bisect_left(self.times, self.times[0] + ticks)


def open_source(
    path: str | Path, key: str = "path", fps: Fraction = Fraction(25), max_input_megapixels: float = 200.0
) -> Source:
    """Find out what a clip holds, without decoding more of it than one frame where its container tells the rest.

    Args:
        path: a video file, an animated picture (GIF, PNG, WebP, AVIF), or a folder of pictures, which are taken in
            natural order.
        key: what the user knows the path as, for the error message.
        fps: frames per second of a folder of pictures.
        max_input_megapixels: limit for one frame, a guard against files that unpack to gigabytes.

    Raises:
        UserError: nothing there, or nothing in it that can be shown.
    """
    from nstexp.media.video.animation import open_animation

    path = Path(path).expanduser()
    if path.is_dir():
        return _open_folder(path, key, fps, max_input_megapixels)
    if not path.exists():
        raise UserError(f"{key}={path}: there is no such file or folder")
    if path.stat().st_size == 0:
        raise UserError(f"{key}={path}: the file is empty (0 bytes)")
    if animation := open_animation(path, key, max_input_megapixels):
        return animation
    with open_container(path, key) as container:
        stream = _checked_stream(container, path, key)
        coded = stream.codec_context
        aspect = stream.sample_aspect_ratio
        of_codec = coded.sample_aspect_ratio == aspect
        if coded.width * coded.height > max_input_megapixels * 1e6:
            raise UserError(
                f"{key}={path}: {coded.width}x{coded.height} px is over the limit of {max_input_megapixels:g} "
                "megapixels for one frame (raise it with max_input_megapixels=...)"
            )
        first = next(decode(container, stream), None)
        if first is None:
            raise UserError(f"{key}={path}: not one frame of its video can be decoded ({coded.codec.long_name})")
        if of_codec:  # what was found while the file was opened may be of a later part
            aspect = coded.sample_aspect_ratio
        colors, converted = _colors(first, coded.codec_tag, path, key)
        orientation = Orientation.of(first)
        if is_skewed(first):
            logger.warning("%s: is turned by less than a right angle, it is shown at the nearest one", path)
        if first.interlaced_frame:
            logger.warning(
                "%s: is interlaced, and its lines will be redrawn as they are; without them: ffmpeg -i %s -vf bwdif "
                "-c:a copy progressive.mp4",
                path,
                path.name,
            )
        audio = tuple(s.codec_context.name if s.codec_context else "unknown" for s in container.streams.audio)
        scanned = _scan(path, key, stream.index)
        seconds = (scanned["end"] - scanned["times"][0]) * stream.time_base
        return Source(
            path=path,
            size=orientation.size(first.height, first.width),
            time_base=stream.time_base,
            rate=_rate(stream, len(scanned["times"]) / seconds),
            aspect=orientation.aspect(aspect or Fraction(1)),
            colors=colors,
            pixel_format=first.format.name,
            audio=audio,
            stream=stream.index,
            orientation=orientation,
            coded_aspect=coded.sample_aspect_ratio,
            converted=converted,
            **scanned,
        )


def _colors(first: "VideoFrame", codec_tag: str, path: Path, key: str) -> tuple[Colors, str]:
    """Colors of a clip as it is read, by its first frame, and what of them is converted for that.

    Raises:
        UserError: nothing here can convert them.
    """
    import av

    colors = Colors.of(first)
    advice = f"make an SDR clip of it first: ffmpeg -i {path.name} -vf {TO_SDR} -c:a copy sdr.mp4"
    kind = "those of Dolby Vision" if codec_tag in DOLBY_VISION and colors.transfer not in HDR else None
    if kind is None and not first.format.is_rgb:
        kind = OTHER_MATRICES.get(first.colorspace)
    if kind is not None:
        raise UserError(f"{key}={path}: its colors are {kind}, which nstexp cannot convert; {advice}")
    if not colors.beyond_sdr:
        return colors, ""
    try:
        to_sdr(first.width, first.height, first.format.name, colors.transfer in HDR)
    except (av.FFmpegError, ValueError) as error:
        raise UserError(
            f"{key}={path}: its colors are {colors.beyond_sdr}, which needs PyAV 16 or newer (pip install -U av); or "
            f"{advice}"
        ) from error
    logger.info("%s: its colors (%s) are converted to those of usual screens (BT.709)", path, colors.beyond_sdr)
    return Colors(1, 1, 1, tagged=True), colors.beyond_sdr


def open_container(path: Path, key: str = "path") -> "InputContainer":
    """Open a media file with PyAV; the caller closes it.

    Raises:
        UserError: not a media file, or no permission to read it.
    """
    import av

    try:
        # Absolute, for FFmpeg takes the a of a:b.mp4 for a protocol; tags in old files are seldom UTF-8.
        return av.open(str(path.absolute()), metadata_errors="replace")
    except PermissionError as error:
        raise UserError(f"{key}={path}: no permission to read the file") from error
    except (av.FFmpegError, ValueError) as error:
        raise UserError(f"{key}={path}: this is not a video file, or it is cut off or damaged at its header") from error


def video_stream(container: "InputContainer", index: int | None = None) -> "VideoStream | None":
    """The stream with this index; None: the first video stream that is no cover."""
    if index is not None:
        return container.streams[index]
    return next(iter(_no_covers(container)), None)


def _no_covers(container: "InputContainer") -> "list[VideoStream]":
    """The video streams that are not marked as covers or previews, those that no decoder here knows behind the rest."""
    from av.stream import Disposition

    covers = Disposition.attached_pic | Disposition.timed_thumbnails
    streams = [stream for stream in container.streams.video if not stream.disposition & covers]
    return sorted(streams, key=lambda stream: stream.codec_context is None)


def _film(path: Path, key: str) -> int | None:
    """The index of the stream to show: the first of more than one picture, for a cover may not be marked as one."""
    with open_container(path, key) as container:
        streams = _no_covers(container)
        counts = {stream.index: stream.frames for stream in streams}
        if len(streams) > 1 and not all(counts.values()):  # the header does not tell
            counts = Counter(packet.stream_index for packet in packets(container, *streams) if packet.size)
        several = [stream.index for stream in streams if counts[stream.index] > 1]
        return next(iter([*several, *(stream.index for stream in streams)]), None)


def packets(container: "InputContainer", *streams: Any) -> Iterator["Packet"]:
    """Packets of these streams, going on behind damaged places."""
    import av

    for _ in range(100):  # an error that lasts must not become an endless loop
        try:
            yield from container.demux(*streams)
            return
        except av.FFmpegError as error:
            logger.debug("%s: %s", container.name, error)


def decode(container: "InputContainer", stream: "VideoStream") -> Iterator["VideoFrame"]:
    """Frames in the order they are shown, without those that cannot be decoded."""
    import av

    decoder = _with_transparency(stream)
    for packet in packets(container, stream):
        with suppress(av.FFmpegError):
            yield from packet.decode() if decoder is None else decoder.decode(packet if packet.size else None)


def _with_transparency(stream: "VideoStream") -> "CodecContext | None":
    """The decoder of VP8 or VP9 with transparency, which FFmpeg's own leave out; None: it is not needed."""
    import av

    decoder = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.name if stream.codec_context else "")
    if decoder is None or stream.metadata.get("alpha_mode") != "1":
        return None
    with suppress(ValueError):  # it was not built in
        return av.CodecContext.create(decoder, "r")


def _checked_stream(container: "InputContainer", path: Path, key: str) -> "VideoStream":
    # FFmpeg shows a text file as a film of a terminal, and a photo as a film of one frame.
    if container.format.name == "tty":
        raise UserError(f"{key}={path}: this is a text file, not a video")
    if container.format.name.endswith("_pipe") or container.format.name == "image2":
        raise UserError(f"{key}={path}: this is one picture, give a video file or a folder of pictures")
    index = _film(path, key)
    if index is None:
        held = ["only sound"] if container.streams.audio else []
        held += ["a cover picture"] if container.streams.video else []
        raise UserError(
            f"{key}={path}: the file holds {' and '.join(held) or 'no video'}, give a file with a video stream"
        )
    stream = video_stream(container, index)
    if stream.codec_context is None:
        raise UserError(f"{key}={path}: its video is in a codec that FFmpeg cannot decode")
    return stream


def _rate(stream: "VideoStream", measured: Fraction) -> Fraction:
    """The average rate, as the file gives it where that agrees with its timestamps."""
    told = stream.average_rate
    return told if told and abs(told / measured - 1) < 0.01 else simple_rate(measured)


def simple_rate(rate: Fraction) -> Fraction:
    """Close to `rate`, which may be an hour per frame, and of numbers that fit into 32 bits."""
    larger = max(rate, 1 / rate)
    larger = larger.limit_denominator(1001) if larger < 10**6 else Fraction(min(round(larger), 2**31 - 1))
    return larger if rate >= 1 else 1 / larger


def _scan(path: Path, key: str, index: int) -> dict[str, Any]:
    """The fields of Source about time and damage: from the packets alone, where these tell."""
    with open_container(path, key) as container, complaints() as complained:
        stream = video_stream(container, index)
        told = [(p.pts, p.duration or 0, p.is_discard) for p in packets(container, stream) if p.size]
        found = [(pts, duration) for pts, duration, hidden in told if not hidden]
        announced = stream.frames - (len(told) - len(found))  # hidden: what the file itself cuts off
        usual = 1 / ((stream.average_rate or 25) * stream.time_base)
        # VP8 has packets for frames that are never shown, and in AVI there is no place for when H.264 is shown.
        codec, form = stream.codec_context.name, container.format.name
        label, time_base = stream.metadata.get("DURATION", ""), stream.time_base
        unsure = codec == "vp8" or (form == "avi" and codec in ("h264", "hevc"))
    counted = False
    if unsure or not found or any(pts is None for pts, _ in found) or len(dict(found)) < len(found):
        found, counted = _scan_decoding(path, key, index, usual)
    found.sort()
    end = found[-1][0] + max(1, found[-1][1] or round(usual))
    damage = _missing(announced, len(found), label, float(end * time_base))
    if complained and not damage:
        damage = "its container is damaged, so frames may be missing"
    times = tuple(pts for pts, _ in found)
    return {"times": times, "end": end, "damage": damage, "counted": counted, "container": form, "codec": codec}


def _scan_decoding(path: Path, key: str, index: int, usual: Fraction) -> tuple[list[tuple[int, int]], bool]:
    """(time, duration) of all frames, and whether the times are made up from their count."""
    with open_container(path, key) as container:
        stream = video_stream(container, index)
        found = [(shown_at(frame), frame.duration or 0) for frame in decode(container, stream)]
    if not found:
        raise UserError(f"{key}={path}: not one frame of its video can be decoded")
    times = [time for time, _ in found]
    if None not in times and all(a < b for a, b in pairwise(times)):
        return found, False
    first = next((time for time in times if time is not None), 0)
    return [(first + round(n * usual), round(usual)) for n in range(len(found))], True


@contextmanager
def complaints() -> Iterator[list[Any]]:
    """Errors that FFmpeg has logged so far; those of damaged containers never become exceptions."""
    import av

    before = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)  # or a second look at the same file finds nothing
    try:
        with av.logging.Capture() as logs:
            yield logs
    finally:
        av.logging.set_level(before[0])
        av.logging.set_skip_repeated(before[1])


def _missing(announced: int, found: int, label: str, end_seconds: float) -> str | None:
    """What the header announces, in frames or as Matroska's label of a stream, and the file does not hold."""
    if announced > found:
        return f"{announced - found} of its {announced} frames are missing"
    if match := re.match(r"(\d+):(\d+):([\d.]+)", label):
        hours, minutes, seconds = map(float, match.groups())
        announced_end = hours * 3600 + minutes * 60 + seconds
        if announced_end - end_seconds > 0.5:
            return f"it ends after {end_seconds:.2f} of {announced_end:.2f} seconds"
    return None


def shown_at(frame: "VideoFrame") -> int | None:
    """When a frame is shown, in units of its stream; None where the file does not say."""
    return frame.dts if frame.pts is None else frame.pts


def _open_folder(folder: Path, key: str, fps: Fraction, max_input_megapixels: float) -> Source:
    from nstexp.media import images, paths
    from nstexp.media.listing import is_input

    named = (path for path in folder.iterdir() if is_input(path.name) and path.suffix.lower() in paths.READABLE)
    pictures = sorted(
        filter(Path.is_file, named),
        key=lambda p: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", p.name)],
    )
    if not pictures:
        raise UserError(f"{key}={folder}: the folder holds no picture ({', '.join(paths.READABLE)})")
    if fps <= 0:
        raise ArgumentError("fps", f"={fps}: give frames per second, more than 0")
    size = tuple(images.load_image(pictures[0], max_input_megapixels).shape[1:])
    for picture in pictures:
        if (other := _picture_size(picture, max_input_megapixels)) != size:
            raise UserError(
                f"{key}={folder}: {picture.name} has {other[1]}x{other[0]} px and {pictures[0].name} "
                f"{size[1]}x{size[0]}, but the pictures of a clip must all have one size"
            )
    return Source(
        path=folder,
        size=size,
        times=tuple(range(len(pictures))),
        end=len(pictures),
        time_base=1 / Fraction(fps),
        rate=Fraction(fps),
        aspect=Fraction(1),
        colors=Colors.untagged(size[0]),
        pixel_format="rgb24",
        pictures=tuple(pictures),
    )


def _picture_size(path: Path, max_input_megapixels: float) -> tuple[int, int]:
    """(height, width) as shown, from the header alone."""
    from PIL import Image

    from nstexp.media import images

    try:
        with Image.open(path) as image:
            turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientation
            return image.size if turned else image.size[::-1]
    except Exception:  # whatever Pillow has against it, load_image says it in one sentence
        return tuple(images.load_image(path, max_input_megapixels).shape[1:])
