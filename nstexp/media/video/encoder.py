"""RGB frames into packets of any codec, one at a time, with the colors converted and tagged explicitly."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from nstexp.core.errors import ArgumentError
from nstexp.media.video.pictures import FULL, LIMITED, SWS_MATRIX, UNKNOWN, Colors
from nstexp.media.video.source import Source, simple_rate

if TYPE_CHECKING:
    from av.codec import Codec
    from av.codec.context import CodecContext
    from av.container import OutputContainer
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext
    from av.video.format import VideoFormat

BY_CONTAINER = {"webm": "libvpx-vp9", "avi": "mpeg4"}  # by FFmpeg's name of the format; elsewhere H.264
# No encoder may hold frames back or reorder them, so that each is on the disk soon after it came.
LOW_DELAY = {
    "libx264": {"preset": "medium", "rc-lookahead": "0", "x264-params": "force-cfr=1"},
    "libx265": {"preset": "medium", "x265-params": "rc-lookahead=0:frame-threads=1:b-adapt=0:log-level=none"},
    "libvpx": {"lag-in-frames": "0", "deadline": "good", "cpu-used": "2"},
    "libvpx-vp9": {"lag-in-frames": "0", "deadline": "good", "cpu-used": "2", "row-mt": "1"},
    "libsvtav1": {"preset": "8", "svtav1-params": "pred-struct=1"},
}
# Primaries and transfer that go with a matrix where a stream does not tell them (H.273 numbers).
USUAL_COLORS = {1: (1, 1), 4: (4, 4), 5: (5, 6), 6: (6, 6), 7: (7, 7), 9: (9, 14), 10: (9, 14)}
LAMBDA = 118  # FF_QP2LAMBDA, the unit of global_quality
MPEG4_TICKS = 65535  # in a second, at most
FASTEST = {"libsvtav1": 240}  # frames per second


@dataclass(frozen=True)
class Encoding:
    """How to encode a video.

    Args:
        codec: an encoder of FFmpeg; None: VP9 for webm, MPEG-4 for avi, else H.264.
        quality: crf of codecs that have it, lower is better; a sixth of it is the quantizer of the older ones.
        codec_options: of the encoder, and `pix_fmt`.

    Raises:
        ArgumentError: options without a name or without a value.
    """

    codec: str | None = None
    quality: float = 18
    codec_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in self.codec_options.items():
            if not isinstance(name, str):
                raise ArgumentError("codec_options", f"={dict(self.codec_options)}: {name} is no name of an option")
            if value is None:
                raise ArgumentError(f"codec_options.{name}", "=null: give a value, or leave it out")

    def codec_for(self, format_name: str) -> str:
        """The encoder for a container (FFmpeg's name of its format).

        Raises:
            ArgumentError: no such encoder, or the container cannot hold what it makes.
        """
        import av

        codec = self.codec or BY_CONTAINER.get(format_name, "libx264")
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
            # AVI has no place for when a frame is shown, which H.264 and its successors rely on.
            late = format_name == "avi" and av.Codec(codec, "w").canonical_name in ("h264", "hevc", "av1")
            if late or codec not in container.supported_codecs:
                raise ArgumentError("codec", f"={codec}: {format_name} files cannot hold it, but those in .mkv can")
        return codec


def reorders() -> ArgumentError:
    """The error about an encoder whose packets come in another order than its frames."""
    return ArgumentError("codec_options", ": leave out what reorders frames, such as bf")


class Encoder:
    """A video stream of `container` and the conversion of RGB frames to it; frames are numbered at a constant rate.

    Raises:
        ArgumentError: the encoder refuses the options.
    """

    def __init__(
        self, container: "OutputContainer", codec: str, encoding: Encoding, size: tuple[int, int], source: Source
    ) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        if codec == "libsvtav1":
            os.environ.setdefault("SVT_LOG", "1")  # errors only: it writes to stderr by itself
        options = {key: str(value) for key, value in encoding.codec_options.items()}
        known = av.CodecContext.create(codec, "w")
        self.pixel_format = options.pop("pix_fmt", None) or _pixel_format(known.codec.video_formats)
        options = _merged(_quality(known, encoding.quality) | LOW_DELAY.get(codec, {}), options)
        # The true times are set on the packets: some codecs know no others than multiples of 1/rate.
        rate = _coded_rate(known.codec, source.rate)
        self._time_base = 1 / rate
        self._reformatter = VideoReformatter()
        try:
            self.padding = _padding(self.pixel_format, size)
            height, width = size[0] + self.padding[0], size[1] + self.padding[1]
            self.stream = container.add_stream(
                codec, rate, options, width=width, height=height, time_base=self._time_base, pix_fmt=self.pixel_format
            )
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

    def encode(self, pixels: np.ndarray | None, number: int = 0) -> "list[Packet]":
        """Encode frame `number`, RGB uint8 (H, W, 3); None: what is left. A packet's pts is the number of its frame."""
        import av

        if pixels is None:
            return self.stream.encode(None)
        padded = np.pad(pixels, ((0, self.padding[0]), (0, self.padding[1]), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(padded, format="rgb24")
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
    """SVT-AV1 gives all threads of the process real-time priority where it may (as root): they, and every process that
    they start, would leave others no time at all."""
    if not hasattr(os, "sched_setscheduler"):  # only Linux lets it
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    yield
    for thread in os.listdir("/proc/self/task"):
        with suppress(OSError):  # it has ended, or may not be changed
            if os.sched_getscheduler(int(thread)) != policy:
                os.sched_setscheduler(int(thread), policy, parameters)


def _pixel_format(supported: "Sequence[VideoFormat]") -> str:
    """4:2:0 where the encoder can, which everything plays; full range for those that know nothing else."""
    names = [layout.name for layout in supported or ()]
    return "yuv420p" if not names or ("yuv420p" in names and not names[0].startswith("yuvj")) else names[0]


def _coded_rate(codec: "Codec", rate: Fraction) -> Fraction:
    """Close to `rate`, as far as the encoder can."""
    rate = min(simple_rate(rate), Fraction(FASTEST.get(codec.name, 2**31)))
    if codec.canonical_name == "mpeg4":
        return 1 / (1 / min(rate, Fraction(MPEG4_TICKS))).limit_denominator(MPEG4_TICKS)
    known = [Fraction(known.numerator, known.denominator) for known in codec.frame_rates or ()]
    return min(known, key=lambda other: abs(other - rate), default=rate)


def _quality(codec: "CodecContext", quality: float) -> dict[str, str]:
    known = codec.supported_options
    if "crf" in {option.name for option in known.private}:
        return {"crf": f"{quality:g}"}
    return {"flags": "+qscale", "global_quality": str(round(LAMBDA * max(1, quality / 6)))}


def _merged(defaults: dict[str, str], chosen: dict[str, str]) -> dict[str, str]:
    """The user's options win, and one like x264-params, a list in itself, goes behind the default one."""
    lists = {key: f"{defaults[key]}:{chosen[key]}" for key in chosen if key.endswith("-params") and key in defaults}
    return defaults | chosen | lists


def _padding(pixel_format: str, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns to add for a format that halves its chroma."""
    import av

    layout = av.VideoFormat(pixel_format, 2, 2)
    smallest = {c.height for c in layout.components}, {c.width for c in layout.components}
    return tuple(side % 2 if 1 in sizes else 0 for side, sizes in zip(size, smallest, strict=True))


def _tag(context: "VideoCodecContext", colors: Colors) -> Colors:
    """Write the colors of the source, in limited range where the format has a choice, into the stream."""
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
