"""Encode RGB frames one by one with any codec of FFmpeg, with explicit color conversion and color tags."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from nstexp.core.errors import ArgumentError
from nstexp.media.video.pictures import FULL, LIMITED, SWS_MATRIX, UNKNOWN, Colors, has_alpha
from nstexp.media.video.source import Source, simple_rate

if TYPE_CHECKING:
    from av.codec import Codec
    from av.codec.context import CodecContext
    from av.container import OutputContainer
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext
    from av.video.format import VideoFormat
    from av.video.stream import VideoStream

BY_CONTAINER = {"webm": "libvpx-vp9", "avi": "mpeg4"}  # FFmpeg's name of the format -> encoder; others: H.264
WITH_ALPHA = {"mov": "prores_ks"}  # the same for clips with transparency, where another encoder is needed for it
# Encoders that write transparency that players read back, and the pixel format for it.
ALPHA_FORMATS = {
    "prores_ks": "yuva444p10le",
    "libvpx-vp9": "yuva420p",
    "libvpx": "yuva420p",
    "ffv1": "bgra",
}
# FFmpeg's name of the format -> those that it can hold: MP4 loses the transparency of VP9, for instance.
HOLDS_ALPHA = {
    "mov": ("prores_ks",),
    "webm": ("libvpx-vp9", "libvpx"),
    "matroska": ("prores_ks", "libvpx-vp9", "libvpx", "ffv1"),
}
# Encoders must not delay or reorder frames, so that each frame is on the disk soon after it was added.
LOW_DELAY = {
    # On stylized frames of 720p `veryfast` takes a third of the time of `medium`, in a file of the same size; its
    # frames have 0.7 dB more noise.
    "libx264": {"preset": "veryfast", "rc-lookahead": "0", "x264-params": "force-cfr=1"},
    "libx265": {"preset": "medium", "x265-params": "rc-lookahead=0:frame-threads=1:b-adapt=0:log-level=none"},
    "libvpx": {"lag-in-frames": "0", "deadline": "good", "cpu-used": "2"},
    "libvpx-vp9": {"lag-in-frames": "0", "deadline": "good", "cpu-used": "2", "row-mt": "1"},
    "libsvtav1": {"preset": "8", "svtav1-params": "pred-struct=1"},
}
# Matrix -> the usual primaries and transfer function, for streams that do not tell them (ITU-T H.273 numbers).
USUAL_COLORS = {1: (1, 1), 4: (4, 4), 5: (5, 6), 6: (6, 6), 7: (7, 7), 9: (9, 14), 10: (9, 14)}
LAMBDA = 118  # FF_QP2LAMBDA of FFmpeg: global_quality per quantizer step
MPEG4_TICKS = 65535  # most ticks in a second that MPEG-4 allows
FASTEST = {"libsvtav1": 240}  # highest frame rate that an encoder takes, in frames per second
WITH_CRF = {
    "libaom-av1",
    "libsvtav1",
    "libvpx",
    "libvpx-vp9",
    "libx264",
    "libx264rgb",
    "libx265",
}  # take a quality as crf


@dataclass(frozen=True)
class Encoding:
    """Settings of the video encoder.

    Args:
        codec: name of an FFmpeg encoder; None: VP9 for webm, MPEG-4 for avi, ProRes for mov with transparency, else
            H.264.
        quality: CRF of the encoder, lower is better; encoders without CRF get a sixth of it as their quantizer.
        codec_options: options of the encoder, by name, and `pix_fmt` (FFmpeg's name of a pixel format).
        transparent: whether frames have their opacity, which the output keeps, see `holds_transparency`.

    Raises:
        ArgumentError: an option has no name or no value.
    """

    codec: str | None = None
    quality: float = 18
    codec_options: Mapping[str, Any] = field(default_factory=dict)
    transparent: bool = False

    def __post_init__(self) -> None:
        for name, value in self.codec_options.items():
            if not isinstance(name, str):
                raise ArgumentError(
                    "codec_options", f"={dict(self.codec_options)}: {name} is not the name of an option"
                )
            if value is None:
                raise ArgumentError(f"codec_options.{name}", "=null: give a value, or leave it out")

    def codec_for(self, format_name: str) -> str:
        """The name of the encoder to use in a container.

        Args:
            format_name: FFmpeg's name of the container format.

        Raises:
            ArgumentError: there is no such encoder, or the container cannot hold its output.
        """
        import av

        usual = BY_CONTAINER.get(format_name, "libx264")
        # Options without the name of an encoder are those of the usual one.
        codec = self.codec or (WITH_ALPHA.get(format_name) if self.transparent and not self.codec_options else usual)
        codec = codec or usual
        try:
            kind = av.Codec(codec, "w").type
        except ValueError:
            kind = "unknown"
        if kind != "video":
            raise ArgumentError(
                "codec",
                f"={codec}: there is no such video encoder, use libx264, libx265, libvpx-vp9, libsvtav1, ffv1 or "
                "another one of FFmpeg",
            )
        with av.open(os.devnull, "w", format=format_name) as container:
            # AVI does not store when a frame is shown, and H.264 and its successors need that.
            late = format_name == "avi" and av.Codec(codec, "w").canonical_name in ("h264", "hevc", "av1")
            if late or codec not in container.supported_codecs:
                raise ArgumentError("codec", f"={codec}: {format_name} files cannot hold it, but .mkv files can")
        return codec

    def holds_transparency(self, format_name: str) -> bool:
        """Whether a container with `transparent` frames keeps their opacity.

        Raises:
            ArgumentError: see `codec_for`.
        """
        codec = replace(self, transparent=True).codec_for(format_name)
        pixel_format = str(self.codec_options.get("pix_fmt") or ALPHA_FORMATS.get(codec, ""))
        return codec in HOLDS_ALPHA.get(format_name, ()) and is_known_with_alpha(pixel_format)


def is_known_with_alpha(pixel_format: str) -> bool:
    """Whether FFmpeg has a pixel format of this name, with transparency."""
    try:
        return has_alpha(pixel_format)
    except ValueError:
        return False


def reorders() -> ArgumentError:
    """The error to raise when an encoder returns packets in another order than its frames."""
    return ArgumentError("codec_options", ": leave out what reorders frames, such as bf")


class Encoder:
    """Adds a video stream to a container and encodes RGB or RGBA frames for it. Frames are numbered at a constant rate.

    Args:
        container: the output, opened for writing.
        codec: name of an FFmpeg encoder.
        encoding: quality and options of the encoder.
        size: (height, width) of the frames in pixels.
        source: the clip that frame rate, pixel aspect and colors are taken from.

    Raises:
        ArgumentError: the encoder refuses the options.
    """

    def __init__(
        self, container: "OutputContainer", codec: str, encoding: Encoding, size: tuple[int, int], source: Source
    ) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        if codec == "libsvtav1":
            os.environ.setdefault("SVT_LOG", "1")  # errors only, because it writes to stderr directly
        options = {key: str(value) for key, value in encoding.codec_options.items()}
        known = av.CodecContext.create(codec, "w")
        usual = ALPHA_FORMATS[codec] if encoding.transparent else _pixel_format(known.codec.video_formats)
        self.pixel_format = options.pop("pix_fmt", "") or usual
        defaults = _quality(known, encoding.quality) | LOW_DELAY.get(codec, {})
        if encoding.transparent and codec.startswith("libvpx"):
            defaults["auto-alt-ref"] = "0"  # libvpx codes transparency only without it
        options = _merged(defaults, options)
        # Some codecs support only multiples of 1/rate, so the exact times are set on the packets instead.
        rate = _coded_rate(known.codec, source.rate)
        self._time_base = 1 / rate
        self._reformatter = VideoReformatter()
        try:
            self.padding = _padding(self.pixel_format, size)
            height, width = size[0] + self.padding[0], size[1] + self.padding[1]
            stream = container.add_stream(
                codec, rate, options, width=width, height=height, time_base=self._time_base, pix_fmt=self.pixel_format
            )
            self.stream = cast("VideoStream", stream)
            context = self.stream.codec_context
            context.max_b_frames = 0
            context.sample_aspect_ratio = source.aspect
            self.colors = _tag(context, source.colors)
            with _same_priority():
                context.open()
        except (av.FFmpegError, ValueError) as error:
            problem = f"={dict(encoding.codec_options)}: {codec} refuses these, or quality={encoding.quality:g}, "
            raise ArgumentError("codec_options", f"{problem}for {size[1]}x{size[0]} px") from error
        if unused := set(context.options) & set(encoding.codec_options):
            raise ArgumentError("codec_options", f": {codec} has no option {', '.join(sorted(unused))}")

    def encode(self, pixels: np.ndarray | None, number: int = 0) -> "list[Packet[VideoStream]]":
        """Encode one frame; the packets may belong to earlier frames.

        Args:
            pixels: RGB uint8 (H, W, 3), or RGBA (H, W, 4) with transparency; None ends the stream and returns the
                packets that are left.
            number: of the frame; it becomes the pts of its packet.
        """
        import av

        if pixels is None:
            return self.stream.encode(None)
        padded = np.pad(pixels, ((0, self.padding[0]), (0, self.padding[1]), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(padded, format="rgba" if pixels.shape[2] == 4 else "rgb24")
        is_rgb = av.VideoFormat(self.pixel_format).is_rgb
        frame = self._reformatter.reformat(
            frame,
            format=self.pixel_format,
            src_color_range=FULL,
            dst_colorspace=None if is_rgb else SWS_MATRIX[self.colors.matrix],
            dst_color_range=FULL if is_rgb or self.colors.full_range else LIMITED,
            threads=1,
        )
        if not is_rgb:
            frame.colorspace = self.colors.matrix  # BT.601 has two numbers and swscale writes the other one
        frame.pts, frame.time_base = number, self._time_base
        return self.stream.encode(frame)


@contextmanager
def _same_priority() -> Iterator[None]:
    """Restore the priority of this process's threads afterwards.

    SVT-AV1 run as root gives all threads of the process real-time priority. They, and the processes that they start,
    would then starve all others.
    """
    if not hasattr(os, "sched_setscheduler"):  # SVT-AV1 does so only on Linux
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    yield
    for thread in os.listdir("/proc/self/task"):
        with suppress(OSError):  # the thread has ended, or may not be changed
            if os.sched_getscheduler(int(thread)) != policy:
                os.sched_setscheduler(int(thread), policy, parameters)


def _pixel_format(supported: "Sequence[VideoFormat] | None") -> str:
    """4:2:0 if the encoder supports it, because all players do; the first format of encoders for full range only."""
    names = [layout.name for layout in supported or ()]
    return "yuv420p" if not names or ("yuv420p" in names and not names[0].startswith("yuvj")) else names[0]


def _coded_rate(codec: "Codec", rate: Fraction) -> Fraction:
    """The frame rate closest to `rate` that the encoder supports."""
    rate = min(simple_rate(rate), Fraction(FASTEST.get(codec.name, 2**31)))
    if codec.canonical_name == "mpeg4":
        return 1 / (1 / min(rate, Fraction(MPEG4_TICKS))).limit_denominator(MPEG4_TICKS)
    known = [Fraction(known.numerator, known.denominator) for known in codec.frame_rates or ()]
    return min(known, key=lambda other: abs(other - rate), default=rate)


def _quality(codec: "CodecContext", quality: float) -> dict[str, str]:
    known = getattr(codec, "supported_options", None)  # PyAV before 18.1, the last for Python 3.10, does not tell
    if codec.name in WITH_CRF if known is None else "crf" in {option.name for option in known.private}:
        return {"crf": f"{quality:g}"}
    return {"flags": "+qscale", "global_quality": str(round(LAMBDA * max(1, quality / 6)))}


def _merged(defaults: dict[str, str], chosen: dict[str, str]) -> dict[str, str]:
    """Options of the user replace default ones; those that are lists themselves, such as x264-params, are appended."""
    lists = {key: f"{defaults[key]}:{chosen[key]}" for key in chosen if key.endswith("-params") and key in defaults}
    return defaults | chosen | lists


def _padding(pixel_format: str, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns to add, because a format with halved chroma needs even sizes."""
    import av

    layout = av.VideoFormat(pixel_format, 2, 2)
    smallest = {c.height for c in layout.components}, {c.width for c in layout.components}
    rows, columns = (side % 2 if 1 in sizes else 0 for side, sizes in zip(size, smallest, strict=True))
    return rows, columns


def _tag(context: "VideoCodecContext", colors: Colors) -> Colors:
    """Tag the stream with the colors of the source, in limited range unless the format is full range; return them."""
    assert context.pix_fmt is not None and context.format is not None  # the stream was created with a pixel format
    usual = USUAL_COLORS[colors.matrix]
    colors = replace(
        colors,
        primaries=usual[0] if colors.primaries == UNKNOWN else colors.primaries,
        transfer=usual[1] if colors.transfer == UNKNOWN else colors.transfer,
        full_range=context.pix_fmt.startswith("yuvj"),
    )
    context.color_primaries, context.color_trc = colors.primaries, colors.transfer
    if not context.format.is_rgb:
        context.colorspace, context.color_range = colors.matrix, FULL if colors.full_range else LIMITED
    return colors
