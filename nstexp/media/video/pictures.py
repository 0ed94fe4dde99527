"""Decoded frames as RGB pictures of one size: turned as players show them, HDR as SDR, another size fitted in."""

import logging
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:  # PyAV takes a moment to import and most commands never need it
    from av.video.frame import VideoFrame

logger = logging.getLogger(__name__)

# AVColorSpace numbers (ITU-T H.273 table 4) of the matrices that swscale knows, and how swscale numbers them.
SWS_MATRIX = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
UNKNOWN = 2  # in H.273, for matrix, primaries and transfer alike
LIMITED, FULL = 1, 2  # AVColorRange
HDR = {16: "PQ", 18: "HLG"}  # transfer functions, H.273 table 3
WIDE = {9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}  # primaries, H.273 table 2
BT709, BT2020 = 1, 9


class Orientation(NamedTuple):
    """How a decoded frame is shown: rows and columns exchange first, then left and right, then top and bottom."""

    transposed: bool = False
    mirrored: bool = False
    flipped: bool = False

    @classmethod
    def of(cls, frame: "VideoFrame") -> "Orientation":
        """By the frame's display matrix, the nearest of the eight."""
        a, b, c, d = _display_matrix(frame)
        return cls(True, c < 0, b < 0) if abs(b) > abs(a) else cls(False, a < 0, d < 0)

    @property
    def turns_only(self) -> bool:
        """Whether no mirror is needed."""
        return self in {(False, False, False), (False, True, True), (True, True, False), (True, False, True)}

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) as shown."""
        return (width, height) if self.transposed else (height, width)

    def aspect(self, aspect: Fraction) -> Fraction:
        """Width of a pixel over its height, as shown."""
        return 1 / aspect if self.transposed else aspect

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W, 3) as shown."""
        turned = pixels.transpose(1, 0, 2) if self.transposed else pixels
        return np.ascontiguousarray(turned[:: -1 if self.flipped else 1, :: -1 if self.mirrored else 1])


UPRIGHT = Orientation()


def is_skewed(frame: "VideoFrame") -> bool:
    """Whether a frame is to be shown at an angle between the quarter turns."""
    a, b, _, _ = map(abs, _display_matrix(frame))
    return min(a, b) > 0.02 * max(a, b)  # about one degree


def _display_matrix(frame: "VideoFrame") -> tuple[int, int, int, int]:
    """a, b, c, d of x' = a x + c y, y' = b x + d y, with y downwards."""
    side_data = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return 1, 0, 0, 1
    a, b, _, c, d, *_ = np.frombuffer(side_data, np.int32).tolist()
    return (a, b, c, d) if any((a, b, c, d)) else (1, 0, 0, 1)


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

    @property
    def beyond_sdr(self) -> str:
        """What of these colors a usual screen has no room for, in words; '': nothing."""
        matrix_alone = self.tagged and self.primaries == UNKNOWN and SWS_MATRIX[self.matrix] == BT2020
        gamut = "BT.2020" if matrix_alone else WIDE.get(self.primaries, "")
        curve = HDR.get(self.transfer, "")
        return ", ".join(word for word in (curve and f"HDR ({curve})", gamut) if word)


@dataclass
class Pictures:
    """Makes RGB uint8 (H, W, 3) pictures of decoded frames: as shown, transparency composited over white.

    Args:
        size: (height, width) of the pictures. A frame with other proportions is fitted in, with black at its sides.
            None: each frame's own.
        aspect: width of a pixel over its height in the pictures.
        colors: of frames that do not tell; None: by their height.
    """

    size: tuple[int, int] | None = None
    aspect: Fraction = Fraction(1)
    colors: Colors | None = None
    _reformatter: Any = field(default=None, init=False)  # keeps its tables from frame to frame
    _to_sdr: Any = field(default=None, init=False)
    _to_sdr_of: tuple = field(default=(), init=False)

    def __call__(self, frame: "VideoFrame", aspect: Fraction | None = None) -> np.ndarray:
        """Args: aspect: of the pixels of the frame, as it is coded; None: the same as in the pictures."""
        orientation = Orientation.of(frame)
        pixels = orientation.apply(self._converted(frame))
        if self.size is None or pixels.shape[:2] == self.size:
            return pixels
        return _fitted(pixels, self.size, 1 if aspect is None else orientation.aspect(aspect) / self.aspect)

    def _converted(self, frame: "VideoFrame") -> np.ndarray:
        from av.video.reformatter import VideoReformatter

        colors = Colors.of(frame)
        if colors.beyond_sdr:
            return self._as_sdr(frame)
        if not colors.tagged and self.colors is not None:
            colors = replace(self.colors, full_range=colors.full_range)
        self._reformatter = self._reformatter or VideoReformatter()
        alpha = has_alpha(frame.format.name)
        pixels = self._reformatter.reformat(
            frame,
            format="rgba" if alpha else "rgb24",
            src_colorspace=SWS_MATRIX[colors.matrix],
            src_color_range=FULL if colors.full_range or frame.format.is_rgb else LIMITED,
            dst_color_range=FULL,
            threads=1,
        ).to_ndarray()
        if alpha:
            opacity = pixels[..., 3:].astype(np.uint16)
            pixels = ((pixels[..., :3] * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)
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
        return self._to_sdr.pull().to_ndarray()


def to_sdr(width: int, height: int, pixel_format: str, hdr: bool) -> Any:
    """A filter graph whose frames are RGB of BT.709, as a screen of 203 cd/m2 (ITU-R BT.2408) shows them.

    HDR is tone-mapped (swscale's perceptual intent: brightness as far as the peak that the clip announces, else that of
    its standard, is compressed); of colors in usual brightness only those are changed that BT.709 does not have.

    Raises:
        av.FFmpegError, ValueError: FFmpeg before version 8 cannot.
    """
    import av

    graph = av.filter.Graph()
    intent = "perceptual" if hdr else "relative_colorimetric"
    begin = graph.add_buffer(width=width, height=height, format=pixel_format, time_base=Fraction(1, 1000))
    scale = graph.add("scale", f"out_primaries=bt709:out_transfer=bt709:intent={intent}")
    steps = [begin, scale, graph.add("format", "rgb24"), graph.add("buffersink")]
    for step, following in pairwise(steps):
        step.link_to(following)
    graph.configure()
    return graph


def _fitted(pixels: np.ndarray, size: tuple[int, int], aspect: Fraction | float) -> np.ndarray:
    """A picture whose pixels are `aspect` as wide as those of `size`, in the middle of that, in its proportions."""
    from PIL import Image

    height, width = pixels.shape[0], pixels.shape[1] * float(aspect)
    scale = min(size[0] / height, size[1] / width)
    inner = [max(1, min(round(scale * side), whole)) for side, whole in zip((height, width), size, strict=True)]
    # A pixel of rounding is no reason for a black line.
    inner = [whole if whole - side <= 1 else side for side, whole in zip(inner, size, strict=True)]
    resized = np.asarray(Image.fromarray(pixels).resize(inner[::-1], Image.Resampling.LANCZOS))
    top, left = ((whole - side) // 2 for side, whole in zip(inner, size, strict=True))
    fitted = np.zeros((*size, 3), np.uint8)
    fitted[top : top + inner[0], left : left + inner[1]] = resized
    return fitted


def has_alpha(pixel_format: str) -> bool:
    import av

    layout = av.VideoFormat(pixel_format)
    return layout.has_palette or any(component.is_alpha for component in layout.components)
