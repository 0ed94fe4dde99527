"""The settings that all tasks and methods share: the top-level values of the configuration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from nstexp.core.errors import ArgumentError, choice, flag, is_number, is_whole, number, text, under, whole
from nstexp.core.names import Combine

LARGEST_SIDE_PX = 65_535  # the longest side that a JPEG file can have
REGIONS, MOST_REGIONS = 4, 16  # that masks=auto looks for, and at most
TEXTURE_PX = 512
FACES = "faces"
Color = Literal["none", "preserve", "luminance", "match"]
PhotoKind = Literal["matched", "plain"]


@dataclass(frozen=True)
class PhotoFilter:
    """The settings of `photorealism`: the table `photo`.

    Args:
        radius: of the windows of the guided filter, as a share of the picture's longer side.
        eps: see `core.guided.guided_filter`.
        kind: `matched`: where the photo is flat, its structure gets the color map of the whole picture; `plain`: it is
            lost, as in the paper.
        fit_px: the filter is fitted on a copy whose longer side has from this to twice this number of pixels; None: on
            the picture itself.

    Raises:
        ArgumentError: a value out of its range.
    """

    radius: float = 0.08
    eps: float = 0.01
    kind: PhotoKind = "matched"
    fit_px: int | None = 128

    def __post_init__(self) -> None:
        number("radius", self.radius, above=0, high=1, example="0.08")
        number("eps", self.eps, low=1e-9, high=1000, example="0.01")
        choice("kind", self.kind, get_args(PhotoKind))
        if self.fit_px is not None:
            whole("fit_px", self.fit_px, 16, LARGEST_SIDE_PX)

    @classmethod
    def of(cls, values: Any) -> "PhotoFilter":
        """The settings in a table; a key that is missing has its default."""
        if isinstance(values, cls):
            return values
        known = [field.name for field in fields(cls)]
        if not isinstance(values, Mapping):
            raise ArgumentError("photo", f"={values}: give single values, such as photo.radius=0.08")
        with under("photo"):
            for key in values:
                if key not in known:
                    raise ArgumentError(key, f": there is no such setting, choose one of {', '.join(known)}")
            return cls(**values)


@dataclass(frozen=True)
class Request:
    """The pictures and settings of a run.

    Args:
        content: a file, a folder, a built-in name, or a list of these; None: no photo, for a texture of the style.
        style: the same, for style pictures; all styles apply to every content. For a method that has learned its
            styles, also their names; None: the first learned style.
        style_weights: one share per style picture; None: equal shares.
        style_combine: how several styles become one loss, for methods that offer the choice: see `LossSet.combined`.
        style_layers: one list per style picture with the style layers at which it counts; None: all layers.
        fine_style: one picture, or one per style picture, whose small strokes are put onto the style pictures first.
        masks: one gray picture per style picture, in the same order, that is bright where the style applies (see
            `load_masks`). The masks apply to every content picture. `auto` or `auto:K`: find up to K regions that each
            content picture has in common with the style pictures, see `tasks.regions.RegionFinder`.
        style_masks: one gray picture per style picture, in the same order, that is bright in the part of the style
            picture that counts.
        color: see `tasks.color.prepare_colors` and `tasks.color.finish_colors`.
        color_strength: from 0 (same as color=none) to 1.
        photorealism: from 0 (the result as it is) to 1 (a photo in the colors of the result), see `tasks.finish`.
        photo: the settings of `photorealism`, or a table of them.
        output: a file (for one content picture) or a folder for a copy of the result; None: the run folder only.
        transparency: for content with an alpha channel: `keep` copies the channel to the result, if the file format
            supports it, and methods see a picture on white and a clip without a background; or the name or #rrggbb of a
            background color.
        image_px: longer side of the result; None: the content's size.
        max_input_megapixels: size limit of one input file.
        texture_px: without a photo, the size of the result: (width, height) in pixels, or the side of a square; None: a
            square of 512 px. `image_px` scales it to that longer side.
        seamless: whether results tile: copies of a result beside each other show no seam.
        protect: where results keep more of the photo: `faces`, the file of a mask, a box of four shares of width and
            height (left, top, right, bottom edge), or a list of these; None: nowhere.
        protect_strength: from 0 to 1, see `tasks.protect.Protection`.
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
    style_masks: str | Sequence[str] | None = None
    color: Color = "none"
    color_strength: float = 1.0
    photorealism: float = 0.0
    photo: PhotoFilter = PhotoFilter()
    output: str | None = None
    transparency: str = "keep"
    image_px: int | None = None
    max_input_megapixels: float = 200
    texture_px: int | Sequence[int] | None = None
    seamless: bool = False
    protect: str | Sequence[Any] | None = None
    protect_strength: float = 0.7
    seed: int = 0

    def __post_init__(self) -> None:
        for key in ("content", "style", "fine_style", "masks", "style_masks", "output"):
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
        number("photorealism", self.photorealism, 0, 1)
        object.__setattr__(self, "photo", PhotoFilter.of(self.photo))
        choice("style_combine", self.style_combine, get_args(Combine))
        _check_color("transparency", self.background)
        flag("seamless", self.seamless)
        _check_texture_px(self.texture_px)
        number("protect_strength", self.protect_strength, 0, 1)
        for each in self.protected:
            _check_protected(each)
        if self.regions is not None and self.style_masks is not None:
            problem = f" does not work with masks={self.masks}, which finds the parts of the paintings: leave one out"
            raise ArgumentError("style_masks", problem)

    @property
    def regions(self) -> int | None:
        """How many regions masks=auto or masks=auto:K looks for; None: the masks are files, or there are none.

        Raises:
            ArgumentError: K is not a whole number from 2 to 16.
        """
        if not is_automatic(self.masks):
            return None
        text = str(self.masks).partition(":")[2] if ":" in str(self.masks) else str(REGIONS)
        if not (text.isdecimal() and 2 <= int(text) <= MOST_REGIONS):
            raise ArgumentError(
                "masks", f"={self.masks}: give 2 to {MOST_REGIONS} regions, such as masks=auto:{REGIONS}"
            )
        return int(text)

    @property
    def mask_files(self) -> str | Sequence[str] | None:
        """`masks`, if they are files."""
        return None if is_automatic(self.masks) else self.masks

    @property
    def background(self) -> str:
        """The color behind transparent content."""
        return "white" if self.transparency == "keep" else self.transparency

    @property
    def protected(self) -> list[Any]:
        """The entries of `protect`: `faces`, names of files, and boxes."""
        value = self.protect
        if value is None:
            return []
        if (
            isinstance(value, str)
            or not isinstance(value, Sequence)
            or (len(value) == 4 and all(map(is_number, value)))
        ):
            return [value]
        return list(value)

    @property
    def protecting_files(self) -> list[str]:
        """The names of files in `protect`."""
        return [name for name in self.protected if isinstance(name, str) and name != FACES]

    @property
    def texture_size(self) -> tuple[int, int]:
        """(height, width) of a texture, in pixels."""
        given = self.texture_px or TEXTURE_PX
        width, height = given if isinstance(given, Sequence) else (given, given)
        scale = 1.0 if self.image_px is None else self.image_px / max(width, height)
        return max(1, round(height * scale)), max(1, round(width * scale))


def _check_protected(value: Any) -> None:
    """Raise an ArgumentError unless the value is an entry of `Request.protected`."""
    if isinstance(value, str) and value:
        return
    is_box = isinstance(value, Sequence) and len(value) == 4 and all(is_number(share) for share in value)
    if not is_box:
        given = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
        problem = f"={given}: give faces, a mask such as mask.png, or a box such as [0.3,0.1,0.6,0.5]"
        raise ArgumentError("protect", problem)
    left, top, right, bottom = value
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        problem = (
            f"={list(value)}: a box is left, top, right and bottom edge, as shares of width and height from 0 to 1, "
            "such as [0.3,0.1,0.6,0.5]"
        )
        raise ArgumentError("protect", problem)


def _check_texture_px(value: Any) -> None:
    sides = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    right = all(is_whole(side) and 1 <= side <= LARGEST_SIDE_PX for side in sides) and len(sides) in (1, 2)
    if value is not None and not (right and (is_whole(value) or len(sides) == 2)):
        problem = f"={value}: give the side of a square in pixels, such as 512, or [width,height], such as [640,256]"
        raise ArgumentError("texture_px", problem)


def is_automatic(masks: Any) -> bool:
    """Whether a value of `masks` is `auto` or begins with `auto:`, and so names no file."""
    return isinstance(masks, str) and masks.partition(":")[0] == "auto"


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
