"""The settings that all tasks and methods share: the top-level values of the configuration."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from nstexp.core.errors import ArgumentError, choice, is_whole, number, text
from nstexp.core.names import Combine

LARGEST_SIDE_PX = 65_535  # the longest side that a JPEG file can have
Color = Literal["none", "preserve", "luminance", "match"]


@dataclass(frozen=True)
class Request:
    """The pictures and settings of a run.

    Args:
        content: a file, a folder, a built-in name, or a list of these.
        style: the same, for style pictures; all styles apply to every content. For a method that has learned its
            styles, also their names; None: the first learned style.
        style_weights: one share per style picture; None: equal shares.
        style_combine: how several styles become one loss, for methods that offer the choice: see `LossSet.combined`.
        style_layers: one list per style picture with the style layers at which it counts; None: all layers.
        fine_style: one picture, or one per style picture, whose small strokes are put onto the style pictures first.
        masks: one gray picture per style picture, in the same order, that is bright where the style applies (see
            `load_masks`). The masks apply to every content picture.
        color: see `tasks.color.prepare_colors` and `tasks.color.finish_colors`.
        color_strength: from 0 (same as color=none) to 1.
        output: a file (for one content picture) or a folder for a copy of the result; None: the run folder only.
        transparency: for content with an alpha channel: `keep` copies the channel to the result, if the file format
            supports it, and methods see the picture on white; or the name or #rrggbb of a background color.
        image_px: longer side of the result; None: the content's size.
        max_input_megapixels: size limit of one input file.
        seed: seed of all random numbers, the same for every picture.

    Raises:
        ArgumentError: a value out of its range.
    """

    content: str | Sequence[str] | None
    style: str | Sequence[str] | None = None
    style_weights: Sequence[float] | None = None
    style_combine: Combine = "weighted_loss"
    style_layers: Sequence[Sequence[str]] | None = None
    fine_style: str | Sequence[str] | None = None
    masks: str | Sequence[str] | None = None
    color: Color = "none"
    color_strength: float = 1.0
    output: str | None = None
    transparency: str = "keep"
    image_px: int | None = None
    max_input_megapixels: float = 200
    seed: int = 0

    def __post_init__(self) -> None:
        for key in ("content", "style", "fine_style", "masks", "output"):
            _check_names(key, getattr(self, key), several=key != "output")
        if self.image_px is not None and not (is_whole(self.image_px) and 1 <= self.image_px <= LARGEST_SIDE_PX):
            raise ArgumentError(
                "image_px",
                f"={self.image_px}: the longer side is a whole number of pixels, from 1 to {LARGEST_SIDE_PX}",
            )
        limit = self.max_input_megapixels
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit > 0:
            raise ArgumentError("max_input_megapixels", f"={limit}: the limit is a number larger than 0")
        choice("color", self.color, get_args(Color))
        number("color_strength", self.color_strength, 0, 1)
        choice("style_combine", self.style_combine, get_args(Combine))
        _check_color("transparency", self.background)

    @property
    def background(self) -> str:
        """The color behind transparent content."""
        return "white" if self.transparency == "keep" else self.transparency


def _check_color(key: str, value: Any) -> None:
    if value in ("white", "black", "gray"):
        return
    from PIL import ImageColor

    try:
        opaque = isinstance(value, str) and len(ImageColor.getrgb(value)) == 3
    except ValueError:
        opaque = False
    if not opaque:
        raise ArgumentError(key, f"={value}: give keep, or a color such as white, black, gray or '#336699'")


def _check_names(key: str, value: Any, several: bool) -> None:
    """Raise an ArgumentError unless the value is the name of a file or picture (or a list of names, if `several`)."""
    names = value if several and isinstance(value, Sequence) and not isinstance(value, str) else [value]
    for name in names if value not in (None, "") else ():  # the search for files reports empty values
        text(key, name, "photo.jpg")
