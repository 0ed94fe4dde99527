"""What a user asks for, whatever the task and the method: the top-level values of the configuration."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from nstexp.core.errors import ArgumentError, choice, is_whole, number, text
from nstexp.core.names import Combine

LARGEST_SIDE_PX = 65_535  # of a JPEG
Color = Literal["none", "preserve", "luminance", "match"]


@dataclass(frozen=True)
class Request:
    """What goes in, what comes out, and what steers the way there.

    Args:
        content, style: a file, a folder, a built-in name, or a list of these. All styles apply to every content. Of a
            method that has learned its styles `style` can be their names; None: the first.
        style_weights: one share per style picture; None: equal shares.
        style_combine: how several styles become one loss, where a method has the choice: see `LossSet.combined`.
        style_layers: one list of style layers per style picture: where each counts; None: all at all.
        fine_style: a picture, or one per style picture, whose small strokes the style pictures get first.
        masks: like `style`, one gray picture per style picture, in the same order: where each applies (`load_masks`).
            They hold for every content picture.
        color: see `tasks.color.prepare_colors` and `tasks.color.finish_colors`.
        color_strength: 0 (as color=none) to 1.
        output: a file (one content picture) or a folder that gets a copy of the result; None: the run folder only.
        transparency: of content with an alpha channel: `keep` gives it to the result, where the file format can; or
            the color behind it, by its name or as #rrggbb. With `keep` methods see the picture on white.
        image_px: longer side of the result; None: the content's own size.
        max_input_megapixels: limit on one input file.
        seed: of everything random; the same for every picture.

    Raises:
        ArgumentError: a value that nobody can ask for.
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
        """What is behind transparent content."""
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
    """Raise for what is no name of a file or picture, nor a list of them if there may be several."""
    names = value if several and isinstance(value, Sequence) and not isinstance(value, str) else [value]
    for name in names if value not in (None, "") else ():  # what an empty one means is said where files are looked for
        text(key, name, "photo.jpg")
