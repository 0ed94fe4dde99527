"""Style pictures as the tasks take them: files, shares, layers, fine strokes and masks."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from nstexp.core.errors import UserError
from nstexp.core.runtime.files import file_digest
from nstexp.media import samples
from nstexp.media.images import load_image
from nstexp.media.masks import load_masks
from nstexp.media.paths import as_list, find_images, is_there, unique_names
from nstexp.methods.base import LearnedStyle, Style, Stylizer, learned_styles
from nstexp.tasks.request import Request

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Styles:
    """Style pictures and the files that they and their masks come from."""

    pictures: list[Style]
    files: list[Path]
    masks: list[Path]
    max_input_megapixels: float

    def at(self, size: tuple[int, int]) -> list[Style]:
        """The styles with their masks at the content's (height, width); `image` stays the same object.

        Raises:
            UserError: a mask that cannot be read or is of another aspect.
        """
        if not self.masks:
            return self.pictures
        masks = load_masks(self.masks, size, self.max_input_megapixels)
        return [replace(style, mask=mask) for style, mask in zip(self.pictures, masks, strict=True)]


def read_styles(request: Request, method: Stylizer, name: str, compared: bool = True) -> Styles:
    """The styles that are asked for, as a method takes them.

    Args:
        name: the method's, for messages.
        compared: whether the pictures of styles that were learned are of any use, for measures or colors; else they
            are not read.

    Raises:
        UserError: no such picture, keys that do not go together, or what the method does not take.
    """
    check_accepted(request, method, name)
    learned = learned_styles(method)
    found = find_styles(request.style, learned)
    if request.style_combine != "weighted_loss" and len(found) == 1:
        raise UserError(f"style_combine={request.style_combine} needs two or more pictures in style=[...], there is 1")
    mask_paths = _find_masks(request.masks, len(found))
    fine_paths = [] if request.fine_style is None else find_images(request.fine_style, "fine_style")
    if learned is not None and not compared:
        found = [(name, None) for name, _ in found]
    limit = request.max_input_megapixels
    styles = _load_styles(found, request.style_weights, limit, learned is not None)
    styles = _with_layers(styles, request.style_layers)
    styles = _with_fine(styles, fine_paths, limit)
    if mask_paths and not all(style.share for style in styles):
        raise UserError(
            f"style_weights={request.style_weights}: with masks each is larger than 0, or a region has no style"
        )
    files = [*(path for _, path in found if path is not None), *mask_paths, *fine_paths]
    return Styles(styles, files, mask_paths, limit)


def check_accepted(request: Request, method: Stylizer, name: str) -> None:
    """Raise a UserError for what is asked for and a method does not take."""
    asked = {
        "layers": ("style_layers", request.style_layers is not None),
        "fine": ("fine_style", request.fine_style is not None),
        "combine": (f"style_combine={request.style_combine}", request.style_combine != "weighted_loss"),
        "masks": ("masks", request.masks is not None),
    }
    accepts, reasons = (getattr(method, key, getattr(Stylizer, key)) for key in ("accepts", "reasons"))
    for control, (key, wanted) in asked.items():
        if wanted and control not in accepts:
            reason = reasons.get(control, "leave it out, or choose another method")
            raise UserError(f"{key} does not work with method={name}: {reason}")


def find_styles(
    style: str | Sequence[str] | None, learned: Mapping[str, LearnedStyle] | None = None, others: bool = False
) -> list[tuple[str, Path | None]]:
    """Names of styles and their pictures' files; a style that a method has learned may have none.

    Args:
        learned: of a method that has learned its styles: `style` is their names, or the pictures they were learned
            from, wherever these are now; None: the first.
        others: whether pictures that were not learned will do as well.

    Raises:
        UserError: no such picture or style.
    """
    if learned is None:
        paths = find_images(style, "style")
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
            found.append((each, _picture_of(learned[each])))
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


def _picture_of(style: LearnedStyle) -> Path | None:
    """The file that a style was learned from, if it is here and still the same."""
    try:
        path = find_images(style.source, "style")[0] if style.source else None
        same = path is not None and style.digest in ("", file_digest(path))
    except (UserError, OSError):
        return None
    return path if same else None


def _find_masks(masks: str | Sequence[str] | None, styles: int) -> list[Path]:
    if masks is None:
        return []
    paths = find_images(masks, "masks")
    if len(paths) != styles:
        raise UserError(f"masks has {len(paths)} pictures for {styles} style pictures: give one each, in their order")
    return paths


def checked_shares(count: int, weights: Sequence[float] | None) -> Sequence[float]:
    """One share for each of `count` styles, as `style_weights` gives them.

    Raises:
        UserError: another number of them, or values that are no shares.
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
    """A style's picture; one that is only wanted for comparison may be missing."""
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


def _with_fine(styles: list[Style], paths: list[Path], max_megapixels: float) -> list[Style]:
    if len(paths) not in (0, 1, len(styles)):
        raise UserError(f"fine_style has {len(paths)} pictures for {len(styles)} style pictures: give one, or one each")
    pictures = [load_image(path, max_megapixels) for path in paths]
    each = (pictures or [None]) * (1 if len(pictures) > 1 else len(styles))
    return [replace(style, fine=picture) for style, picture in zip(styles, each, strict=True)]
