"""Style pictures as tasks use them: their files, shares, layers, fine strokes and masks."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from nstexp.core.errors import UserError
from nstexp.core.runtime.files import file_digest
from nstexp.media import learned as learned_pictures
from nstexp.media import samples
from nstexp.media.images import load_image
from nstexp.media.learned import LearnedStyle
from nstexp.media.masks import load_masks, load_style_mask
from nstexp.media.paths import as_list, find_images, is_there, unique_names
from nstexp.methods.base import Style, Stylizer, learned_styles, size_of
from nstexp.tasks.regions import RegionFinder, device_of
from nstexp.tasks.request import Request

if TYPE_CHECKING:  # only for the picture of the regions
    from PIL import Image

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Styles:
    """The style pictures of a run.

    Args:
        pictures: the styles, without masks.
        files: the files of the style pictures, masks and fine strokes, which the run must not replace.
        masks: the files of the masks, one for each style; empty: no masks.
        max_input_megapixels: limit on one file.
        regions: finds the regions of each content; None: the masks are files, or there are none.
    """

    pictures: list[Style]
    files: list[Path]
    masks: list[Path]
    max_input_megapixels: float
    regions: RegionFinder | None = None

    def on(self, content: Tensor, show: "Callable[[Image.Image], object] | None" = None) -> list[Style]:
        """The styles with their masks for a content picture (3, H, W), RGB in [0, 1].

        Args:
            show: called with a picture of the regions, if they are found in the content.

        Raises:
            UserError: see `at`.
        """
        if self.regions is None:
            return self.at(size_of(content))
        found, memberships = self.regions.find(content, self.pictures)
        if show is not None:
            show(found.sheet(content, memberships))
        return found.on(content, memberships)

    def at(self, size: tuple[int, int]) -> list[Style]:
        """The styles with their masks at the content's (height, width); `Style.image` stays the same object.

        Raises:
            UserError: a mask cannot be read, or its aspect ratio is not the content's.
        """
        if not self.masks:
            return self.pictures
        masks = load_masks(self.masks, size, self.max_input_megapixels)
        return [replace(style, mask=mask) for style, mask in zip(self.pictures, masks, strict=True)]


def read_styles(request: Request, method: Stylizer, name: str, compared: bool = True) -> Styles:
    """Load the styles of a request in the form that a method takes.

    Args:
        request: names the style pictures and their settings.
        method: the method that will use the styles.
        name: the method's name, for messages.
        compared: whether measures or colors need the pictures of learned styles; if not, these are not read.

    Raises:
        UserError: there is no such picture, two keys contradict each other, or the method does not accept a key.
    """
    check_accepted(request, method, name)
    learned = learned_styles(method)
    found = find_styles(request.style, learned)
    if request.style_combine != "weighted_loss" and len(found) == 1:
        raise UserError(f"style_combine={request.style_combine} needs two or more pictures in style=[...], there is 1")
    mask_paths = _find_masks("masks", request.mask_files, len(found))
    part_paths = _find_masks("style_masks", request.style_masks, len(found))
    fine_paths = [] if request.fine_style is None else find_images(request.fine_style, "fine_style")
    regions = None if request.regions is None else finder_of(request.regions, request, method, name, len(found))
    if learned is not None and not compared and regions is None:
        found = [(name, None) for name, _ in found]
    limit = request.max_input_megapixels
    styles = _load_styles(found, request.style_weights, limit, learned is not None)
    styles = _with_layers(styles, request.style_layers)
    styles = _with_fine(styles, fine_paths, limit)
    styles = _with_parts(styles, part_paths, limit)
    _check_pictures_of_regions(styles, regions)
    if (mask_paths or regions) and not all(style.share for style in styles):
        raise UserError(
            f"style_weights={request.style_weights}: with masks each is larger than 0, or a region has no style"
        )
    files = [*(path for _, path in found if path is not None), *mask_paths, *part_paths, *fine_paths]
    return Styles(styles, files, mask_paths, limit, regions)


def check_accepted(request: Request, method: Stylizer, name: str) -> None:
    """Raise a UserError if a request sets a key that the method does not accept.

    Args:
        name: the method's name, for the message.
    """
    asked = {
        "layers": ("style_layers", request.style_layers is not None),
        "fine": ("fine_style", request.fine_style is not None),
        "combine": (f"style_combine={request.style_combine}", request.style_combine != "weighted_loss"),
        "masks": ("masks", request.masks is not None),
        "style_masks": ("style_masks", request.style_masks is not None),
        "seamless": ("seamless=true", request.seamless),
    }
    accepts, reasons = (getattr(method, key, getattr(Stylizer, key)) for key in ("accepts", "reasons"))
    for control, (key, wanted) in asked.items():
        if wanted and control not in accepts:
            reason = reasons.get(control, "leave it out, or choose another method")
            raise UserError(f"{key} does not work with method={name}: {reason}")


def check_texture(request: Request, method: Stylizer, name: str) -> None:
    """Raise a UserError unless the request and the method can make a texture, which needs no photo.

    Args:
        name: the method's name, for the message.
    """
    if "texture" not in getattr(method, "accepts", Stylizer.accepts):
        raise UserError(f"content=null: method={name} redraws photos, so give one; method=gatys makes textures without")
    if request.protected:
        raise UserError("protect keeps more of a photo, and with content=null there is none: leave protect out")
    if request.photorealism:
        raise UserError("photorealism makes a result like its photo, and with content=null there is none: leave it out")
    if request.regions is not None:
        raise UserError(f"masks={request.masks} looks for regions in a photo, and with content=null there is none")
    if request.color in ("preserve", "luminance") and request.color_strength:
        raise UserError(
            f"color={request.color} takes the colors of a photo, and with content=null there is none: leave color out"
        )


def check_photo(request: Request) -> None:
    """Raise a UserError if a request with a photo sets a key of textures."""
    if request.texture_px is not None:
        raise UserError("texture_px is the size of a texture, which content=null makes: leave it out, or the photo")


def find_styles(
    style: str | Sequence[str] | None, learned: Mapping[str, LearnedStyle] | None = None, others: bool = False
) -> list[tuple[str, Path | None]]:
    """Find the names of styles and the files of their pictures.

    Args:
        style: files, folders or built-in names. With `learned` also names of learned styles, or the pictures they
            were learned from, wherever these files are now; None: the first learned style.
        learned: name -> style, of a method that has learned its styles; None: the method takes any picture.
        others: whether pictures that were not learned are accepted, too.

    Returns:
        Pairs (name, file). The file is None if the picture of a learned style is not on this machine.

    Raises:
        UserError: there is no such picture or style.
    """
    if learned is None:
        paths = find_images([] if style is None else style, "style")
        return list(zip(unique_names(paths), paths, strict=True))
    if style is None:
        style = next(iter(learned))
        if len(learned) > 1:
            log.info("style=%s, the first of %s", style, ", ".join(learned))
    of_digest = {each.digest: name for name, each in learned.items() if each.digest}
    of_source = {each.source: name for name, each in learned.items() if each.source and not each.digest}
    found: list[tuple[str, Path | None]] = []
    for each in as_list(style):
        if each in learned:
            found.append((each, learned_pictures.picture_of(learned[each].source, learned[each].digest)))
            continue
        known = f"style={each}: the network has learned {', '.join(learned)}"
        if not (samples.is_builtin(each) or is_there(each)):
            raise UserError(known)
        for path in find_images(each, "style"):
            name = of_digest.get(file_digest(path)) or of_source.get(each)
            if name is None and not others:
                raise UserError(known)
            found.append((name or unique_names([path], list(learned))[0], path))
    if not found:
        raise UserError(f"style is empty: the network has learned {', '.join(learned)}")
    return found


def _find_masks(key: str, masks: str | Sequence[str] | None, styles: int) -> list[Path]:
    if masks is None:
        return []
    paths = find_images(masks, key)
    if len(paths) != styles:
        raise UserError(f"{key} has {len(paths)} pictures for {styles} style pictures: give one each, in their order")
    return paths


def finder_of(count: int, request: Request, method: Stylizer, name: str, styles: int) -> RegionFinder:
    """The finder of regions for masks=auto.

    Args:
        count: how many regions to look for.
        name: the method's name, for messages.
        styles: how many styles there are.

    Raises:
        UserError: the method draws whole styles, and there is only one.
    """
    by_parts = "style_masks" in getattr(method, "accepts", Stylizer.accepts)
    if not by_parts and styles < 2:
        raise UserError(
            f"masks={request.masks}: method={name} draws each region in one whole style, so give two or more in "
            "style=[...], or use method=adain"
        )
    return RegionFinder(count, request.seed, by_parts, device_of(method))


def _check_pictures_of_regions(styles: Sequence[Style], regions: RegionFinder | None) -> None:
    missing = [style.name for style in styles if style.image is None]
    if regions is not None and missing:
        raise UserError(f"masks=auto needs the picture of the style {missing[0]}, which is not on this machine")


def checked_shares(count: int, weights: Sequence[float] | None) -> Sequence[float]:
    """The shares of `count` styles: `weights`, or equal shares if that is None.

    Raises:
        UserError: the number of weights is not `count`, or they are not finite numbers from 0 on with a sum above 0.
    """
    shares = [1 / count] * count if weights is None else weights
    if isinstance(shares, str) or not isinstance(shares, Sequence):
        raise UserError(f"style_weights={weights}: give a list with one number per style picture, such as [0.7,0.3]")
    if len(shares) != count:
        raise UserError(f"style_weights has {len(shares)} numbers for {count} style pictures")
    if not all(isinstance(w, int | float) and 0 <= w < float("inf") for w in shares) or not sum(shares):
        raise UserError(f"style_weights={list(shares)}: each is a finite number, 0 or larger, and not all are 0")
    return shares


def _load_styles(
    found: list[tuple[str, Path | None]], weights: Sequence[float] | None, max_megapixels: float, optional: bool
) -> list[Style]:
    shares = checked_shares(len(found), weights)
    return [
        Style(_loaded(path, max_megapixels, optional), share, name=name)
        for (name, path), share in zip(found, shares, strict=True)
    ]


def _loaded(path: Path | None, max_megapixels: float, optional: bool) -> Tensor | None:
    """Load a style's picture; with `optional`, a file that cannot be read gives None."""
    try:
        return None if path is None else load_image(path, max_megapixels)
    except UserError:
        if optional:
            return None
        raise


def _with_layers(styles: list[Style], layers: Sequence[Sequence[str]] | None) -> list[Style]:
    if layers is None:
        return styles
    lists = [] if isinstance(layers, str) or not isinstance(layers, Sequence) else layers
    if not lists or any(isinstance(names, str) or not isinstance(names, Sequence) or not names for names in lists):
        raise UserError(f"style_layers={layers}: give one list of layers per style picture: [[relu1_1],[relu4_1]]")
    if len(lists) != len(styles):
        raise UserError(f"style_layers has {len(lists)} lists for {len(styles)} style pictures")
    return [replace(style, layers=tuple(map(str, names))) for style, names in zip(styles, lists, strict=True)]


def _with_parts(styles: list[Style], paths: list[Path], max_megapixels: float) -> list[Style]:
    """The styles with the parts that `style_masks` names; a mask that is white everywhere restricts nothing."""
    if not paths:
        return styles
    parts = [
        load_style_mask(path, size_of(style.picture), max_megapixels, "style_masks")
        for path, style in zip(paths, styles, strict=True)
    ]
    return [replace(s, part=None if bool((p == 1).all()) else p) for s, p in zip(styles, parts, strict=True)]


def _with_fine(styles: list[Style], paths: list[Path], max_megapixels: float) -> list[Style]:
    if len(paths) not in (0, 1, len(styles)):
        raise UserError(f"fine_style has {len(paths)} pictures for {len(styles)} style pictures: give one, or one each")
    pictures: list[Tensor | None] = [load_image(path, max_megapixels) for path in paths]
    each = (pictures or [None]) * (1 if len(pictures) > 1 else len(styles))
    return [replace(style, fine=picture) for style, picture in zip(styles, each, strict=True)]
