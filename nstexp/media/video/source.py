"""Open clips: describe what a video file, an animated picture or a folder of pictures holds."""

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
from typing import TYPE_CHECKING, Any, NamedTuple, cast, overload

import numpy as np

from nstexp.core.errors import ArgumentError, UserError
from nstexp.media.video.pictures import HDR, UPRIGHT, Colors, Orientation, is_skewed, to_sdr

if TYPE_CHECKING:  # importing PyAV takes time, and most commands do not need it
    from av.container import InputContainer
    from av.packet import Packet
    from av.stream import Stream
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

logger = logging.getLogger(__name__)

# Codec tags of Dolby Vision. Without an HDR transfer function its colors can be decoded by Dolby's software only.
DOLBY_VISION = ("dvh1", "dvhe", "dva1", "dvav", "dav1")
# Matrices (ITU-T H.273, table 4) that swscale does not support.
OTHER_MATRICES = {8: "YCgCo", 11: "Y'D'zD'x", 12: "chromaticity-derived", 13: "chromaticity-derived", 14: "ICtCp"}
OTHER_MATRICES |= {15: "IPT-PQ-C2", 16: "YCgCo-Re", 17: "YCgCo-Ro"}
BT709 = 1  # number of its matrix, its primaries and its transfer function in ITU-T H.273
TO_SDR = "libplacebo=colorspace=bt709:color_primaries=bt709:color_trc=bt709:format=yuv420p"  # FFmpeg filter


class Frame(NamedTuple):
    """One picture of a clip, and the time at which it is shown."""

    time: int  # in units of Source.time_base
    pixels: np.ndarray  # RGB uint8 (H, W, 3), rotated as players show it
    opacity: np.ndarray | None = None  # uint8 (H, W), if it is kept; None: the transparent parts show a background


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
    colors: Colors  # of the frames as they are read; those of BT.709 if `converted` is not empty
    pixel_format: str  # FFmpeg's name
    audio: tuple[str, ...] = ()  # codec names of the audio streams
    damage: str | None = None  # clause that says which part of the file cannot be read
    container: str = ""  # FFmpeg's name of the format
    codec: str = ""  # FFmpeg's name
    counted: bool = False  # the timestamps in the file are unusable: frames are counted and evenly spaced
    pictures: tuple[Path, ...] = ()  # files of a folder of pictures
    animation: bool = False  # whether it is an animated picture, which Pillow reads
    stream: int = 0  # index of the video stream in the file
    orientation: Orientation = UPRIGHT
    coded_aspect: Fraction | None = None  # pixel aspect of the first frame, if the codec stores it
    converted: str = ""  # colors of the file that SDR cannot represent, in words

    @property
    def seconds(self) -> float:
        """Duration of the clip."""
        return float((self.end - self.times[0]) * self.time_base)

    def __len__(self) -> int:
        return len(self.times)

    def until(self, index: int) -> int:
        """When frame `index` ends: at the start of the next frame, or at the end of the clip; in `time_base` units."""
        return self.times[index + 1] if index + 1 < len(self.times) else self.end

    def between(self, start: float | None, end: float | None, prefix: str = "") -> range:
        """Indices of the frames with start <= time < end.

        A start between the last frame and the end of the clip gives the last frame, which is still shown then.

        Args:
            start, end: seconds from the first frame; None: no limit.
            prefix: of the config keys `start` and `end` in error messages.

        Raises:
            UserError: a value is out of range, or no frame lies between the two.
        """
        for argument, value in (("start", start), ("end", end)):
            if value is not None and not value >= 0:  # also for nan
                raise UserError(f"{prefix}{argument}={value}: give seconds from the start of the clip, 0 or more")
        if end is not None and end <= (start or 0):
            raise UserError(f"{prefix}end={end}: must be after {prefix}start={start or 0}")
        if start is not None and start >= self.seconds:
            raise UserError(f"{prefix}start={start}: {self.path} lasts only {self.seconds:g} seconds")
        first = min(self._first_at(start or 0), len(self) - 1)
        # Compared before the conversion to a fraction, because a float may be infinite.
        chosen = range(first, len(self) if end is None or end >= self.seconds else self._first_at(end))
        if not chosen:
            begin = f"{prefix}start={start or 0}"
            raise UserError(f"{prefix}end={end}: no frame of {self.path} begins between {begin} and this time")
        return chosen

    def _first_at(self, seconds: float) -> int:
        # A user who types 1.001 means the frame at 1001/1000, from which the binary fraction differs slightly.
        ticks = Fraction(seconds).limit_denominator(10**6) / self.time_base
        return bisect_left(self.times, self.times[0] + ticks)


def made_source(path: Path, size: tuple[int, int], count: int, rate: Fraction) -> Source:
    """Describe a clip that is not read from a file but made: BT.709, square pixels, no sound.

    Args:
        path: a file from which the clip is made, and which a writer must not replace.
        size: (height, width) of the frames in pixels.
        count: number of frames; frame k has the time k.
        rate: frames per second.
    """
    colors = Colors(BT709, BT709, BT709, tagged=True)
    return Source(path, size, tuple(range(count)), count, 1 / rate, rate, Fraction(1), colors, "rgb24")


def open_source(
    path: str | Path, key: str = "path", fps: Fraction = Fraction(25), max_input_megapixels: float = 200.0
) -> Source:
    """Describe a clip. Only its first frame is decoded if the container tells the rest.

    Args:
        path: a video file, an animated picture (GIF, PNG, WebP, AVIF), or a folder of pictures, which are used in
            natural order (2 before 10).
        key: the config key that holds the path, named in error messages.
        fps: frames per second of a folder of pictures.
        max_input_megapixels: limit on the size of one frame, in millions of pixels, because a small file may unpack to
            gigabytes.

    Raises:
        UserError: there is no such file or folder, or it holds nothing that can be shown.
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
        if of_codec:  # the value that PyAV found while opening the file may belong to a later part
            aspect = coded.sample_aspect_ratio
        colors, converted = _colors(first, coded.codec_tag, path, key)
        orientation = Orientation.of(first)
        if is_skewed(first):
            logger.warning("%s: is rotated by less than a right angle, it is shown at the nearest one", path)
        if first.interlaced_frame:
            logger.warning(
                "%s: is interlaced, and its lines will be stylized as they are; to remove them first: ffmpeg -i %s "
                "-vf bwdif -c:a copy progressive.mp4",
                path,
                path.name,
            )
        audio = tuple(s.codec_context.name if s.codec_context else "unknown" for s in container.streams.audio)
        scanned = _scan(path, key, stream.index)
        time_base = _time_base(stream)
        seconds = (scanned["end"] - scanned["times"][0]) * time_base
        return Source(
            path=path,
            size=orientation.size(first.height, first.width),
            time_base=time_base,
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
    """The colors of a clip after reading, from its first frame, and the colors in the file that SDR cannot represent.

    Raises:
        UserError: the colors cannot be converted.
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

    Args:
        path: the file.
        key: the config key that holds the path, named in error messages.

    Raises:
        UserError: the file is not a media file, or there is no permission to read it.
    """
    import av

    try:
        # Absolute, because FFmpeg takes the `a` in a:b.mp4 for a protocol. Tags in old files are seldom UTF-8.
        return av.open(str(path.absolute()), metadata_errors="replace")
    except PermissionError as error:
        raise UserError(f"{key}={path}: no permission to read the file") from error
    except (av.FFmpegError, ValueError) as error:
        raise UserError(f"{key}={path}: this is not a video file, or it is cut off or damaged at its header") from error


@overload
def video_stream(container: "InputContainer", index: int) -> "VideoStream": ...
@overload
def video_stream(container: "InputContainer", index: None = None) -> "VideoStream | None": ...
def video_stream(container: "InputContainer", index: int | None = None) -> "VideoStream | None":
    """The stream with this index, or the first video stream that is not a cover picture; None if there is none."""
    if index is not None:
        return cast("VideoStream", container.streams[index])
    return next(iter(_no_covers(container)), None)


def _no_covers(container: "InputContainer") -> "list[VideoStream]":
    """The video streams that are not marked as covers or previews; those that FFmpeg cannot decode come last."""
    from av.stream import Disposition

    covers = Disposition.attached_pic | Disposition.timed_thumbnails
    streams = [stream for stream in container.streams.video if not stream.disposition & covers]
    return sorted(streams, key=lambda stream: stream.codec_context is None)


def _film(path: Path, key: str) -> int | None:
    """Index of the video stream to show: the first with several pictures, because a cover may not be marked as one."""
    with open_container(path, key) as container:
        streams = _no_covers(container)
        counts = {stream.index: stream.frames for stream in streams}
        if len(streams) > 1 and not all(counts.values()):  # the header does not count the frames
            counts = Counter(packet.stream_index for packet in packets(container, *streams) if packet.size)
        several = [stream.index for stream in streams if counts[stream.index] > 1]
        return next(iter([*several, *(stream.index for stream in streams)]), None)


def packets(container: "InputContainer", *streams: Any) -> Iterator["Packet[Any]"]:
    """Yield the packets of these streams, skipping damaged places."""
    import av

    for _ in range(100):  # limited, because a permanent error would repeat forever
        try:
            yield from container.demux(*streams)
            return
        except av.FFmpegError as error:
            logger.debug("%s: %s", container.name, error)


def decode(container: "InputContainer", stream: "VideoStream") -> Iterator["VideoFrame"]:
    """Yield the frames in the order in which they are shown, without those that cannot be decoded."""
    import av

    decoder = _with_transparency(stream)
    for packet in packets(container, stream):
        with suppress(av.FFmpegError):
            yield from packet.decode() if decoder is None else decoder.decode(packet if packet.size else None)


def _with_transparency(stream: "VideoStream") -> "VideoCodecContext | None":
    """The decoder for VP8 or VP9 with transparency, which FFmpeg's built-in decoders drop; None if not needed."""
    import av

    decoder = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.name if stream.codec_context else "")
    marks = [value for name, value in stream.metadata.items() if name.lower() == "alpha_mode"]
    if decoder is None or marks != ["1"]:
        return None
    with suppress(ValueError):  # this FFmpeg was built without it
        return cast("VideoCodecContext", av.CodecContext.create(decoder, "r"))
    return None


def _checked_stream(container: "InputContainer", path: Path, key: str) -> "VideoStream":
    # FFmpeg reads a text file as a video of a terminal, and a photo as a video of one frame.
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
    """The average frame rate: that in the header if it agrees with the timestamps, else the measured one."""
    told = stream.average_rate
    return told if told and abs(told / measured - 1) < 0.01 else simple_rate(measured)


def _time_base(stream: "Stream") -> Fraction:
    """Unit of the timestamps of a stream, in seconds."""
    assert stream.time_base is not None  # FFmpeg sets it for every stream that it opens
    return stream.time_base


def simple_rate(rate: Fraction) -> Fraction:
    """A fraction near `rate` (> 0, down to an hour per frame) whose numerator and denominator fit into 32 bits."""
    larger = max(rate, 1 / rate)
    larger = larger.limit_denominator(1001) if larger < 10**6 else Fraction(min(round(larger), 2**31 - 1))
    return larger if rate >= 1 else 1 / larger


def _scan(path: Path, key: str, index: int) -> dict[str, Any]:
    """The fields of Source about time and damage, from the packets alone if they carry usable times."""
    with open_container(path, key) as container, complaints() as complained:
        stream = video_stream(container, index)
        told = [(p.pts, p.duration or 0, p.is_discard) for p in packets(container, stream) if p.size]
        shown = [(pts, duration) for pts, duration, hidden in told if not hidden]
        announced = stream.frames - (len(told) - len(shown))  # without the hidden frames, which an edit list cuts off
        usual = 1 / ((stream.average_rate or 25) * _time_base(stream))
        # VP8 has packets for frames that are never shown, and AVI does not store when frames of H.264 are shown.
        codec, form = stream.codec_context.name, container.format.name
        label, time_base = stream.metadata.get("DURATION", ""), _time_base(stream)
        unsure = codec == "vp8" or (form == "avi" and codec in ("h264", "hevc"))
    counted = False
    frames = [(pts, duration) for pts, duration in shown if pts is not None]
    if unsure or not shown or len(frames) < len(shown) or len(dict(frames)) < len(frames):
        frames, counted = _scan_decoding(path, key, index, usual)
    frames.sort()
    end = frames[-1][0] + max(1, frames[-1][1] or round(usual))
    damage = _missing(announced, len(frames), label, float(end * time_base))
    if complained and not damage:
        damage = "its container is damaged, so frames may be missing"
    times = tuple(pts for pts, _ in frames)
    return {"times": times, "end": end, "damage": damage, "counted": counted, "container": form, "codec": codec}


def _scan_decoding(path: Path, key: str, index: int, usual: Fraction) -> tuple[list[tuple[int, int]], bool]:
    """(time, duration) of all frames by decoding them, and whether the times were computed from the frame count.

    Args:
        path: the file.
        key: the config key that holds the path, named in error messages.
        index: of the video stream.
        usual: duration of a frame at the average rate, in units of the stream.
    """
    with open_container(path, key) as container:
        stream = video_stream(container, index)
        frames = [(shown_at(frame), frame.duration or 0) for frame in decode(container, stream)]
    if not frames:
        raise UserError(f"{key}={path}: not one frame of its video can be decoded")
    timed = [(time, duration) for time, duration in frames if time is not None]
    if len(timed) == len(frames) and all(a < b for (a, _), (b, _) in pairwise(timed)):
        return timed, False
    first = timed[0][0] if timed else 0
    return [(first + round(n * usual), round(usual)) for n in range(len(frames))], True


@contextmanager
def complaints() -> Iterator[list[Any]]:
    """Collect the errors that FFmpeg logs inside; damage of containers is logged but never raised."""
    import av

    before = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)  # else reading the same file again logs nothing
    try:
        with av.logging.Capture() as logs:
            yield logs
    finally:
        av.logging.set_level(before[0])
        av.logging.set_skip_repeated(before[1])


def _missing(announced: int, found: int, label: str, end_seconds: float) -> str | None:
    """A clause about frames or time that the header (or Matroska's duration label) announces and the file lacks."""
    if announced > found:
        return f"{announced - found} of its {announced} frames are missing"
    if match := re.match(r"(\d+):(\d+):([\d.]+)", label):
        hours, minutes, seconds = map(float, match.groups())
        announced_end = hours * 3600 + minutes * 60 + seconds
        if announced_end - end_seconds > 0.5:
            return f"it ends after {end_seconds:.2f} of {announced_end:.2f} seconds"
    return None


def shown_at(frame: "VideoFrame") -> int | None:
    """When a frame is shown, in units of its stream; None if the file does not say."""
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
    height, width = images.load_image(pictures[0], max_input_megapixels).shape[1:]
    size = height, width
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
    """(height, width) as shown, from the header of the file alone."""
    from PIL import Image

    from nstexp.media import images

    try:
        with Image.open(path) as image:
            turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientation
            width, height = image.size
            return (width, height) if turned else (height, width)
    except Exception:  # load_image raises a clear error for files that Pillow cannot read
        height, width = images.load_image(path, max_input_megapixels).shape[1:]
        return height, width
