"""Convert decoded frames to RGB pictures of one size: rotated as players show them, HDR to SDR, other sizes fitted."""

import logging
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nstexp.media.opacity import over

if TYPE_CHECKING:  # importing PyAV takes time, and most commands do not need it
    from av.video.frame import VideoFrame

logger = logging.getLogger(__name__)

# AVColorSpace numbers (ITU-T H.273, table 4) of the matrices that swscale supports -> swscale's numbers.
SWS_MATRIX = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
UNKNOWN = 2  # in H.273, for matrix, primaries and transfer function
LIMITED, FULL = 1, 2  # AVColorRange
HDR = {16: "PQ", 18: "HLG"}  # transfer functions, H.273 table 3
WIDE = {9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}  # primaries, H.273 table 2
BT709, BT2020 = 1, 9


class Orientation(NamedTuple):
    """The turn that shows a frame upright: exchange rows and columns, then left and right, then top and bottom."""

    transposed: bool = False
    mirrored: bool = False
    flipped: bool = False

    @classmethod
    def of(cls, frame: "VideoFrame") -> "Orientation":
        """The orientation nearest to the frame's display matrix."""
        a, b, c, d = _display_matrix(frame)
        return cls(True, c < 0, b < 0) if abs(b) > abs(a) else cls(False, a < 0, d < 0)

    @property
    def turns_only(self) -> bool:
        """Whether it is a rotation without a mirror."""
        return self in {(False, False, False), (False, True, True), (True, True, False), (True, False, True)}

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) as shown."""
        return (width, height) if self.transposed else (height, width)

    def aspect(self, aspect: Fraction) -> Fraction:
        """Width of a pixel over its height, as shown."""
        return 1 / aspect if self.transposed else aspect

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Turn pixels (H, W, channels) as they are shown."""
        turned = pixels.transpose(1, 0, 2) if self.transposed else pixels
        return np.ascontiguousarray(turned[:: -1 if self.flipped else 1, :: -1 if self.mirrored else 1])


UPRIGHT = Orientation()


def is_skewed(frame: "VideoFrame") -> bool:
    """Whether a frame is to be shown at an angle that is not a multiple of 90 degrees."""
    a, b, _, _ = map(abs, _display_matrix(frame))
    return min(a, b) > 0.02 * max(a, b)  # about one degree


def _display_matrix(frame: "VideoFrame") -> tuple[int, int, int, int]:
    """(a, b, c, d) of x' = a x + c y, y' = b x + d y, with y downwards."""
    side_data: Any = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return 1, 0, 0, 1
    a, b, _, c, d, *_ = np.frombuffer(side_data, np.int32).tolist()
    return (a, b, c, d) if any((a, b, c, d)) else (1, 0, 0, 1)


@dataclass(frozen=True)
class Colors:
    """The coding of the RGB colors of a stream, in numbers of ITU-T H.273; `matrix` is never unknown."""

    matrix: int
    primaries: int = UNKNOWN
    transfer: int = UNKNOWN
    full_range: bool = False
    tagged: bool = False  # False: the file does not say, and `matrix` follows the convention of players

    @classmethod
    def of(cls, frame: "VideoFrame") -> "Colors":
        """The colors of a decoded frame."""
        full = frame.color_range == FULL or frame.format.name.startswith("yuvj")
        if frame.colorspace not in SWS_MATRIX:
            return cls.untagged(frame.height, frame.color_primaries, frame.color_trc, full)
        return cls(frame.colorspace, frame.color_primaries, frame.color_trc, full, tagged=True)

    @classmethod
    def untagged(cls, height: int, *others: Any) -> "Colors":
        """The colors that players assume for untagged frames: BT.709 from 720 rows on, else BT.601."""
        return cls(1 if height >= 720 else 6, *others)

    @property
    def beyond_sdr(self) -> str:
        """The parts of these colors that a usual screen cannot show, in words; '' if there are none."""
        matrix_alone = self.tagged and self.primaries == UNKNOWN and SWS_MATRIX[self.matrix] == BT2020
        gamut = "BT.2020" if matrix_alone else WIDE.get(self.primaries, "")
        curve = HDR.get(self.transfer, "")
        return ", ".join(word for word in (curve and f"HDR ({curve})", gamut) if word)


@dataclass
class Pictures:
    """Converts decoded frames to RGB uint8 (H, W, 3) pictures as shown.

    Args:
        size: (height, width) of the pictures. Frames with other proportions are fitted in, with black at the sides.
            None: the size of each frame.
        aspect: width of a pixel over its height in the pictures.
        colors: for frames without color tags; None: chosen by the height of the frame.
        background: the color behind transparent parts. None: frames with transparency become RGBA (H, W, 4), with the
            colors that the file holds, and the sides of frames with other proportions are transparent.
    """

    size: tuple[int, int] | None = None
    aspect: Fraction = Fraction(1)
    colors: Colors | None = None
    background: str | None = "white"
    _reformatter: Any = field(default=None, init=False)  # kept, because it caches its tables
    _to_sdr: Any = field(default=None, init=False)
    _to_sdr_of: tuple[Any, ...] = field(default=(), init=False)

    def __call__(self, frame: "VideoFrame", aspect: Fraction | None = None) -> np.ndarray:
        """Convert one frame.

        Args:
            frame: as decoded.
            aspect: width of a pixel over its height in the coded frame; None: as in the pictures.
        """
        orientation = Orientation.of(frame)
        pixels = orientation.apply(self._converted(frame))
        if self.size is None or pixels.shape[:2] == self.size:
            return pixels
        return _fitted(pixels, self.size, 1 if aspect is None else orientation.aspect(aspect) / self.aspect)

    def _converted(self, frame: "VideoFrame") -> np.ndarray:
        colors = Colors.of(frame)
        keeps_alpha = has_alpha(frame.format.name) and self.background is None
        if colors.beyond_sdr:
            opacity = self._reformatted(frame, colors)[..., 3:] if keeps_alpha else None
            pixels = self._as_sdr(frame)
            return pixels if opacity is None else np.concatenate([pixels, opacity], 2)
        if not colors.tagged and self.colors is not None:
            colors = replace(self.colors, full_range=colors.full_range)
        pixels = self._reformatted(frame, colors)
        return pixels if self.background is None or pixels.shape[2] == 3 else over(pixels, self.background)

    def _reformatted(self, frame: "VideoFrame", colors: Colors) -> np.ndarray:
        """RGB uint8 (H, W, 3), or RGBA (H, W, 4) if the frame has transparency."""
        from av.video.reformatter import VideoReformatter

        self._reformatter = self._reformatter or VideoReformatter()
        pixels: np.ndarray = self._reformatter.reformat(
            frame,
            format="rgba" if has_alpha(frame.format.name) else "rgb24",
            src_colorspace=SWS_MATRIX[colors.matrix],
            src_color_range=FULL if colors.full_range or frame.format.is_rgb else LIMITED,
            dst_color_range=FULL,
            threads=1,
        ).to_ndarray()
        return pixels

    def _as_sdr(self, frame: "VideoFrame") -> np.ndarray:
        kind = (frame.width, frame.height, frame.format.name, frame.color_trc in HDR)
        if self._to_sdr_of != kind:
            self._to_sdr, self._to_sdr_of = to_sdr(*kind), kind
        if not frame.format.is_rgb and frame.colorspace == UNKNOWN:
            frame.colorspace = BT2020
        if frame.color_primaries == UNKNOWN:
            frame.color_primaries = BT2020
        if frame.color_trc == UNKNOWN:
            frame.color_trc = BT709
        self._to_sdr.push(frame)
        pixels: np.ndarray = self._to_sdr.pull().to_ndarray()
        return pixels


def to_sdr(width: int, height: int, pixel_format: str, hdr: bool) -> Any:
    """Build a filter graph that returns RGB frames of BT.709, as a screen of 203 cd/m2 (ITU-R BT.2408) shows them.

    HDR is tone-mapped with swscale's perceptual intent: brightness is compressed up to the peak that the clip
    announces, or else the peak of its standard. Of colors in normal brightness, only those outside BT.709 change.

    Args:
        width, height: of the frames in pixels.
        pixel_format: FFmpeg's name.
        hdr: whether the transfer function is PQ or HLG.

    Raises:
        av.FFmpegError, ValueError: FFmpeg is older than version 8.
    """
    import av

    graph = av.filter.Graph()
    intent = "perceptual" if hdr else "relative_colorimetric"
    begin = graph.add_buffer(
        width=width,
        height=height,
        format=pixel_format,  # type: ignore[arg-type]  # PyAV also takes the name of a format
        time_base=Fraction(1, 1000),
    )
    scale = graph.add("scale", f"out_primaries=bt709:out_transfer=bt709:intent={intent}")
    steps = [begin, scale, graph.add("format", "rgb24"), graph.add("buffersink")]
    for step, following in pairwise(steps):
        step.link_to(following)
    graph.configure()
    return graph


def _fitted(pixels: np.ndarray, size: tuple[int, int], aspect: Fraction | float) -> np.ndarray:
    """Fit a picture into `size` in its proportions, centered on black, or on nothing if it has an alpha channel.

    Args:
        pixels: RGB uint8 (H, W, 3), or RGBA (H, W, 4).
        size: (height, width) of the result in pixels.
        aspect: width of a pixel of `pixels` over the width of a pixel of the result.
    """
    from PIL import Image

    height, width = pixels.shape[0], pixels.shape[1] * float(aspect)
    scale = min(size[0] / height, size[1] / width)
    inner = [max(1, min(round(scale * side), whole)) for side, whole in zip((height, width), size, strict=True)]
    # One pixel of rounding would be a black line: fill the side instead.
    inner = [whole if whole - side <= 1 else side for side, whole in zip(inner, size, strict=True)]
    resized = np.asarray(Image.fromarray(pixels).resize(inner[::-1], Image.Resampling.LANCZOS))
    top, left = ((whole - side) // 2 for side, whole in zip(inner, size, strict=True))
    fitted = np.zeros((*size, pixels.shape[2]), np.uint8)
    fitted[top : top + inner[0], left : left + inner[1]] = resized
    return fitted


def has_alpha(pixel_format: str) -> bool:
    """Whether a pixel format, by FFmpeg's name, has transparency or a palette."""
    import av

    layout = av.VideoFormat(pixel_format)
    return layout.has_palette or any(component.is_alpha for component in layout.components)
