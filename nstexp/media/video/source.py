"""Clips in: what a video file, an animated GIF or a folder of pictures holds."""

import logging
import re
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nstexp.core.errors import ArgumentError, UserError

if TYPE_CHECKING:  # PyAV takes a moment to import and most commands never need it
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

logger = logging.getLogger(__name__)

# AVColorSpace numbers (ITU-T H.273 table 4) of the matrices that swscale knows, and how swscale numbers them.
SWS_MATRIX = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
UNKNOWN = 2  # in H.273, for matrix, primaries and transfer alike
LIMITED, FULL = 1, 2  # AVColorRange


class Frame(NamedTuple):
    """One picture of a clip and when it is shown."""

    time: int  # in Source.time_base
    pixels: np.ndarray  # RGB uint8 (H, W, 3), rotated as shown, transparency composited over white


@dataclass(frozen=True)
class Colors:
    """How the RGB of a stream is coded, as H.273 numbers; `matrix` is never unknown."""

    matrix: int
    primaries: int = UNKNOWN
    transfer: int = UNKNOWN
    full_range: bool = False
    tagged: bool = False  # False: the file does not say, `matrix` follows the convention of players

    @classmethod
    def of(cls, frame: "VideoFrame") -> "Colors":
        """Those of a decoded frame."""
        full = frame.color_range == FULL or frame.format.name.startswith("yuvj")
        if frame.colorspace not in SWS_MATRIX:
            return cls.untagged(frame.height, frame.color_primaries, frame.color_trc, full)
        return cls(frame.colorspace, frame.color_primaries, frame.color_trc, full, tagged=True)

    @classmethod
    def untagged(cls, height: int, *others: Any) -> "Colors":
        """What players take pictures of this height for: BT.709 from 720 rows on, else BT.601."""
        return cls(1 if height >= 720 else 6, *others)


@dataclass(frozen=True)
class Source:
    """A clip: a video file, an animated GIF, or a folder of pictures. Times are integers in units of `time_base`."""

    path: Path
    size: tuple[int, int]  # (height, width) of the frames as shown, in pixels
    times: tuple[int, ...]  # when each frame is shown, ascending
    end: int  # when the last frame ends
    time_base: Fraction  # in seconds
    rate: Fraction  # average frames per second, > 0
    aspect: Fraction  # width of a pixel over its height, as shown
    colors: Colors
    pixel_format: str  # FFmpeg's name
    audio: tuple[str, ...] = ()  # codec names of the audio streams
    damage: str | None = None  # what of the file cannot be read, a clause
    container: str = ""  # FFmpeg's name of the format
    codec: str = ""
    counted: bool = False  # the file's own times are of no use: frames are counted and evenly spaced
    pictures: tuple[Path, ...] = ()  # of a folder of pictures

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
        path: a video file, an animated GIF, or a folder of pictures, which are taken in natural order.
        key: what the user knows the path as, for the error message.
        fps: frames per second of a folder of pictures.
        max_input_megapixels: limit for one frame, a guard against files that unpack to gigabytes.

    Raises:
        UserError: nothing there, or nothing in it that can be shown.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return _open_folder(path, key, fps, max_input_megapixels)
    if not path.exists():
        raise UserError(f"{key}={path}: there is no such file or folder")
    if path.stat().st_size == 0:
        raise UserError(f"{key}={path}: the file is empty (0 bytes)")
    with open_container(path, key) as container:
        stream = _checked_stream(container, path, key)
        coded = stream.codec_context
        if coded.width * coded.height > max_input_megapixels * 1e6:
            raise UserError(
                f"{key}={path}: {coded.width}x{coded.height} px is over the limit of {max_input_megapixels:g} "
                "megapixels for one frame (raise it with max_input_megapixels=...)"
            )
        first = next(decode(container, stream), None)
        if first is None:
            raise UserError(f"{key}={path}: not one frame of its video can be decoded ({coded.codec.long_name})")
        quarter_turns = round(first.rotation / 90)
        height, width = first.height, first.width
        aspect = stream.sample_aspect_ratio or Fraction(1)
        audio = tuple(s.codec_context.name if s.codec_context else "unknown" for s in container.streams.audio)
        scanned = _scan(path, key)
        seconds = (scanned["end"] - scanned["times"][0]) * stream.time_base
        return Source(
            path=path,
            size=(width, height) if quarter_turns % 2 else (height, width),
            time_base=stream.time_base,
            rate=_rate(stream, len(scanned["times"]) / seconds),
            aspect=1 / aspect if quarter_turns % 2 else aspect,
            colors=Colors.of(first),
            pixel_format=first.format.name,
            audio=audio,
            **scanned,
        )


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


def video_stream(container: "InputContainer") -> "VideoStream | None":
    """The first video stream that is no cover picture."""
    from av.stream import Disposition

    return next((s for s in container.streams.video if not s.disposition & Disposition.attached_pic), None)


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

    for packet in packets(container, stream):
        with suppress(av.FFmpegError):
            yield from packet.decode()


def _checked_stream(container: "InputContainer", path: Path, key: str) -> "VideoStream":
    # FFmpeg shows a text file as a film of a terminal, and a photo as a film of one frame.
    if container.format.name == "tty":
        raise UserError(f"{key}={path}: this is a text file, not a video")
    if container.format.name.endswith("_pipe") or container.format.name == "image2":
        raise UserError(f"{key}={path}: this is one picture, give a video file or a folder of pictures")
    stream = video_stream(container)
    if stream is None:
        only = "only sound" if container.streams.audio else "no video"
        raise UserError(f"{key}={path}: the file holds {only}, give a file with a video stream")
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


def _scan(path: Path, key: str) -> dict[str, Any]:
    """The fields of Source about time and damage: from the packets alone, where these tell."""
    with open_container(path, key) as container, complaints() as complained:
        stream = video_stream(container)
        found = [(p.pts, p.duration or 0) for p in packets(container, stream) if p.size and not p.is_discard]
        usual = 1 / ((stream.average_rate or 25) * stream.time_base)
        # VP8 has packets for frames that are never shown, and in AVI there is no place for when H.264 is shown.
        codec, form = stream.codec_context.name, container.format.name
        announced, label, time_base = stream.frames, stream.metadata.get("DURATION", ""), stream.time_base
        unsure = codec == "vp8" or (form == "avi" and codec in ("h264", "hevc"))
    counted = False
    if unsure or not found or any(pts is None for pts, _ in found) or len(dict(found)) < len(found):
        found, counted = _scan_decoding(path, key, usual)
    found.sort()
    end = found[-1][0] + max(1, found[-1][1] or round(usual))
    damage = _missing(announced, len(found), label, float(end * time_base))
    if complained and not damage:
        damage = "its container is damaged, so frames may be missing"
    times = tuple(pts for pts, _ in found)
    return {"times": times, "end": end, "damage": damage, "counted": counted, "container": form, "codec": codec}


def _scan_decoding(path: Path, key: str, usual: Fraction) -> tuple[list[tuple[int, int]], bool]:
    """(time, duration) of all frames, and whether the times are made up from their count."""
    with open_container(path, key) as container:
        found = [(shown_at(frame), frame.duration or 0) for frame in decode(container, video_stream(container))]
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
