"""The settings that only clips have: the config group `video`."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, get_args

from nstexp.core.errors import ArgumentError, choice, number, text, whole
from nstexp.core.names import FlowName, Reader

if TYPE_CHECKING:  # torch is slow to import, and a wrong value should be refused before that
    from nstexp.media.video import Encoding


@dataclass(frozen=True)
class Settings:
    """The settings that only clips have: the config group `video`.

    Args:
        start, end: the part of the clip to stylize, in seconds or as h:m:s; None: the beginning, the end.
        fade: positions in the list of styles (0 is the first style) at equal intervals of time: [0,1] fades from the
            first style to the second over the clip. None: all styles at once, as in a picture.
        stabilize: the share in [0, 1) of the previous frame, warped along the motion, in each frame; 0: every frame
            stands alone. Methods that optimize use the previous frame as their starting image if this is above 0.
        flow: see `MotionEstimator`.
        fps: frames per second for a folder of pictures, which has no frame times.
        reader: `auto`, `decord` or `av`, see `read_frames`.
        codec, quality, codec_options: see `Encoding`.
        batch: number of frames that pass through the networks together; None: as many as fit into the GPU's memory; on
            a CPU one, or with method=swift one for each thread.

    Raises:
        ArgumentError: a value out of its range.
    """

    start: float | str | None = None
    end: float | str | None = None
    fade: Sequence[float] | None = None
    stabilize: float = 0.8
    flow: FlowName = "dis"
    fps: float | str = 25
    reader: Reader = "auto"
    codec: str | None = None
    quality: float = 18
    codec_options: Mapping[str, Any] | None = None
    batch: int | None = None

    def __post_init__(self) -> None:
        choice("flow", self.flow, get_args(FlowName))
        choice("reader", self.reader, get_args(Reader))
        number("stabilize", self.stabilize, 0, below=1, example="0.8")
        number("quality", self.quality, 0, 255, example="18; less is better")
        if self.codec is not None:
            text("codec", self.codec, "libx264")
        if not isinstance(self.codec_options, Mapping | None):
            raise ArgumentError("codec_options", f"={self.codec_options}: give a table such as {{preset: slow}}")
        if self.batch is not None:
            whole("batch", self.batch, 1, 4096)
        if self.fade is not None and not _is_list_of_numbers(self.fade):
            raise ArgumentError("fade", f"={self.fade}: give a list of two or more positions, such as [0,1]")
        _ = self.rate, seconds_of("start", self.start), seconds_of("end", self.end)

    @property
    def encoding(self) -> "Encoding":
        """`codec`, `quality` and `codec_options` as an `Encoding`."""
        from nstexp.media.video import Encoding

        return Encoding(self.codec, self.quality, dict(self.codec_options or {}))

    @property
    def rate(self) -> Fraction:
        """`fps` as a fraction; a number such as 23.976 stands for 24000/1001.

        Raises:
            ArgumentError: not a number, or out of the range from 0 (exclusive) to 1000.
        """
        try:
            rate = Fraction(str(self.fps))
        except (ValueError, ZeroDivisionError):
            rate = Fraction(0)
        if not 0 < rate <= 1000:
            raise ArgumentError("fps", f"={self.fps}: give frames per second, such as 25 or 30000/1001")
        broadcast = Fraction(round(rate * 1001 / 1000) * 1000, 1001)
        return broadcast if rate.denominator > 1 and broadcast and abs(rate - broadcast) < 0.005 else rate


def _is_list_of_numbers(values: Any) -> bool:
    if isinstance(values, str) or not isinstance(values, Sequence) or len(values) < 2:
        return False
    return all(type(value) in (int, float) and math.isfinite(value) for value in values)


def seconds_of(key: str, value: float | str | None) -> float | None:
    """Seconds from a number, or from a text such as 90, 1:30 or 00:01:30.5; None stays None.

    Args:
        key: the config key of the value, for the error message.

    Raises:
        ArgumentError: the value is not a time.
    """
    if value is None:
        return None
    parts = re.fullmatch(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?)", str(value).strip())
    if not parts:
        raise ArgumentError(key, f"={value}: give seconds, or hours:minutes:seconds such as 00:01:30")
    hours, minutes, seconds = (float(part or 0) for part in parts.groups())
    return 3600 * hours + 60 * minutes + seconds
