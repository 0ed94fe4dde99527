"""The default task: every content picture redrawn in the style, one file each."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from nstexp.core.color import chroma, color_moments, luminance, match_color, match_moments
from nstexp.core.errors import Stopped, UserError
from nstexp.core.images import (
    WRITABLE,
    check_writable,
    find_images,
    load_image,
    resize,
    save_image,
    size_for_longer_side,
)
from nstexp.core.masks import load_masks
from nstexp.core.metrics import Scorer, luminance_statistics
from nstexp.methods.base import Combine, Controls, Style, Stylizer
from nstexp.outputs import RunFolder

log = logging.getLogger(__name__)

Color = Literal["none", "preserve", "luminance", "match"]


def stylize(
    method: Stylizer,
    folder: RunFolder,
    content: str | Sequence[str],
    style: str | Sequence[str],
    style_weights: Sequence[float] | None = None,
    style_combine: Combine = "weighted_loss",
    style_layers: Sequence[Sequence[str]] | None = None,
    fine_style: str | Sequence[str] | None = None,
    masks: str | Sequence[str] | None = None,
    color: Color = "none",
    color_strength: float = 1.0,
    output: str | None = None,
    image_px: int | None = None,
    max_input_megapixels: float = 200.0,
    seed: int = 0,
    scorer: Scorer | None = None,
) -> Path:
    """Redraw pictures and write them; returns the path of the result (of the folder, if there are several).

    Args:
        method: what redraws.
        folder: where the run writes.
        content, style: a file, a folder, a built-in name, or a list of these. All styles apply to every content.
        style_weights: one share per style picture; null: equal shares.
        style_combine: see `Controls`.
        style_layers: one list of style layers per style picture: where each counts; null: all at all.
        fine_style: a picture, or one per style picture, whose small strokes the style pictures get first.
        masks: like `style`, one gray picture per style picture, in the same order: where each applies (`load_masks`).
            They hold for every content picture.
        color: see `prepare_colors` and `finish_colors`.
        color_strength: 0 (as color=none) to 1.
        output: a file (one content picture) or a folder that gets a copy of the result; null: the run folder only.
        image_px: longer side of the result; null: the content's own size.
        max_input_megapixels: limit on one input file.
        seed: the same for every picture.
        scorer: measures the finished pictures; None: they are not.

    Raises:
        UserError: anything the user can mend, before the work starts where possible.
        Stopped: ended early; the best picture until then is saved.
    """
    check_size(image_px, max_input_megapixels)
    if style_combine not in get_args(Combine):
        raise UserError(f"style_combine={style_combine} is unknown, choose one of {', '.join(get_args(Combine))}")
    check_color(color, color_strength)
    contents, style_paths = find_images(content, "content"), find_images(style, "style")
    if style_combine != "weighted_loss" and len(style_paths) == 1:
        raise UserError(f"style_combine={style_combine} needs two or more pictures in style=[...], there is 1")
    mask_paths = _find_masks(masks, len(style_paths))
    fine_paths = [] if fine_style is None else find_images(fine_style, "fine_style")
    targets = _targets(contents, output)
    inputs = [*contents, *style_paths, *mask_paths, *fine_paths]
    _protect_inputs(inputs, [copy for _, copy in targets if copy is not None])
    styles = _load_styles(style_paths, style_weights, max_input_megapixels)
    styles = _with_layers(styles, style_layers)
    styles = _with_fine(styles, fine_paths, max_input_megapixels)
    if mask_paths and not all(style.share for style in styles):
        raise UserError(f"style_weights={style_weights}: with masks each is larger than 0, or a region has no style")
    failures = []
    for number, (path, (name, copy)) in enumerate(zip(contents, targets, strict=True), 1):
        several = len(contents) > 1
        if several:
            log.info("picture %d of %d: %s", number, len(contents), path)
        controls = Controls(name, log_prefix=f"{name}/" if several else "", seed=seed, combine=style_combine)
        try:
            image = load_image(path, max_input_megapixels)
            image = resize(image, size_for_longer_side(tuple(image.shape[-2:]), image_px))
            placed = _with_masks(styles, mask_paths, tuple(image.shape[-2:]), max_input_megapixels)
            begun = time.perf_counter()
            picture = redraw(method, image[None], placed, controls, color, color_strength)
            seconds = time.perf_counter() - begun
            _save(picture, name, copy, folder)
            folder.record_metrics(name, {"stylize_seconds": round(seconds, 3)})
            if scorer is not None:
                _score(scorer, picture[0], image, styles, name, folder)
        except UserError as error:
            if not several:
                raise
            failures.append(str(error))
            log.error("%s", error)
        except Stopped as stop:
            kept = "there is no picture yet"
            if stop.image is not None:
                kept = f"the best picture so far is {_save(stop.image, name, copy, folder)}"
            raise Stopped(f"{name}: {stop}; {kept}", stop.image, stop.interrupted) from None
    if failures:
        raise UserError(f"{len(failures)} of {len(contents)} pictures failed, the first: {failures[0]}")
    return _result_path(targets, folder, output)


def prepare_colors(
    color: Color, strength: float, content: Tensor, styles: Sequence[Style]
) -> tuple[Tensor, Sequence[Style]]:
    """What a method is given to work on: content (B, 3, H, W) and styles with the colors that `color` asks for.

    Gatys et al. 2017, section 5. Each style is compared with the part of the content where its mask applies.
        none, match: the very same objects.
        preserve: the style pictures, and those of their fine strokes, get the content's color mean and covariance (form
            `sym`), blended by `strength`.
        luminance: content and styles lose the share `strength` of their chroma (1: they are gray), and the luminance of
            each style is shifted by that share of the way to the content's mean.
    """
    if strength == 0 or color not in ("preserve", "luminance"):
        return content, styles
    if color == "preserve":
        return content, [_preserved(style, content, strength) for style in styles]
    gray = torch.lerp(content, luminance(content), strength)
    return gray, [_only_luminance(style, content, strength) for style in styles]


def finish_colors(color: Color, strength: float, picture: Tensor, content: Tensor, styles: Sequence[Style]) -> Tensor:
    """The picture (B, 3, H, W) that a method made of `prepare_colors`, with the colors that `color` asks for.

    none, preserve: as it is.
    luminance: plus `strength` times the chroma of the content, as much as the method was not shown. At 1 any color that
        the method invented is dropped, so that the chroma is the content's.
    match: the styles' color mean and covariance (form `sym`), blended in by `strength`: averaged by the shares, or with
        masks each style's in its own region, where masks overlap by mask times share.

    Args:
        content, styles: the originals, not what `prepare_colors` returned.
    """
    if strength == 0 or color not in ("luminance", "match"):
        return picture
    picture = picture.to(content)
    if color == "luminance":
        kept = luminance(picture) if strength == 1 else picture
        return (kept + strength * chroma(content)).clamp(0, 1)
    return torch.lerp(picture, _in_style_colors(picture, styles), strength).clamp(0, 1)


def _preserved(style: Style, content: Tensor, strength: float) -> Style:
    wanted = color_moments(content, style.mask)

    def recolor(image: Tensor) -> Tensor:
        return torch.lerp(image, match_moments(image, color_moments(image), wanted), strength).clamp(0, 1)

    return _recolored(style, recolor)


def _only_luminance(style: Style, content: Tensor, strength: float) -> Style:
    wanted = color_moments(content, style.mask)[0]

    def without_chroma(image: Tensor) -> Tensor:
        shift = float(luminance((wanted - color_moments(image)[0]).view(3, 1, 1)))  # that of the mean is the mean's
        return torch.lerp(image, (luminance(image) + shift).clamp(0, 1), strength)

    return _recolored(style, without_chroma)


def _recolored(style: Style, recolor: Callable[[Tensor], Tensor]) -> Style:
    return replace(style, image=recolor(style.image), fine=None if style.fine is None else recolor(style.fine))


def _in_style_colors(picture: Tensor, styles: Sequence[Style]) -> Tensor:
    if styles[0].mask is None:
        return match_color(picture, [style.image for style in styles], [style.share for style in styles])
    regions = torch.stack([style.share * style.mask for style in styles]).to(picture)
    regions /= regions.sum(0)
    result = torch.zeros_like(picture)
    for style, region in zip(styles, regions, strict=True):
        result += region * match_moments(picture, color_moments(picture, region), color_moments(style.image))
    return result


def redraw(
    method: Stylizer, content: Tensor, styles: Sequence[Style], controls: Controls, color: Color, strength: float
) -> Tensor:
    """`method.stylize` between `prepare_colors` and `finish_colors`; content and result are (B, 3, H, W) in [0, 1]."""
    given, given_styles = prepare_colors(color, strength, content, styles)
    try:
        picture = method.stylize(given, given_styles, controls)
    except Stopped as stop:
        if stop.image is not None:
            stop.image = finish_colors(color, strength, stop.image, content, styles)
        raise
    return finish_colors(color, strength, picture, content, styles)


def _with_masks(
    styles: list[Style], paths: list[Path], size: tuple[int, int], max_megapixels: float
) -> Sequence[Style]:
    """The styles with their masks at the content's (height, width); `image` stays the same object."""
    if not paths:
        return styles
    masks = load_masks(paths, size, max_megapixels)
    return [replace(style, mask=mask) for style, mask in zip(styles, masks, strict=True)]


def _find_masks(masks: str | Sequence[str] | None, styles: int) -> list[Path]:
    if masks is None:
        return []
    paths = find_images(masks, "masks")
    if len(paths) != styles:
        raise UserError(f"masks has {len(paths)} pictures for {styles} style pictures: give one each, in their order")
    return paths


def check_color(color: str, strength: float) -> None:
    """Raise a UserError for what `prepare_colors` does not know."""
    if color not in get_args(Color):
        raise UserError(f"color={color} is unknown, choose one of {', '.join(get_args(Color))}")
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0 <= strength <= 1:
        raise UserError(f"color_strength={strength}: give a number from 0 to 1")


def check_size(image_px: int | None, max_input_megapixels: float) -> None:
    """Raise a UserError for sizes that no picture can have."""
    if image_px is not None and not (isinstance(image_px, int) and image_px >= 1):
        raise UserError(f"image_px={image_px}: the longer side is a whole number of pixels, 1 or larger")
    if not (isinstance(max_input_megapixels, int | float) and max_input_megapixels > 0):
        raise UserError(f"max_input_megapixels={max_input_megapixels}: the limit is a number larger than 0")


def _load_styles(paths: list[Path], weights: Sequence[float] | None, max_megapixels: float) -> list[Style]:
    shares = [1 / len(paths)] * len(paths) if weights is None else weights
    if isinstance(shares, str) or not isinstance(shares, Sequence):
        raise UserError(f"style_weights={weights}: give a list with one number per style picture, such as [0.7,0.3]")
    if len(shares) != len(paths):
        raise UserError(f"style_weights has {len(shares)} numbers for {len(paths)} style pictures")
    if not all(isinstance(w, int | float) and 0 <= w < float("inf") for w in shares) or not sum(shares):
        raise UserError(f"style_weights={list(shares)}: each is a finite number, 0 or larger, and not all are 0")
    return [Style(load_image(p, max_megapixels), share) for p, share in zip(paths, shares, strict=True)]


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


def unique_names(paths: Sequence[Path]) -> list[str]:
    """The files' names without endings, numbered where they are the same."""
    names: list[str] = []
    for path in paths:
        numbered = (path.stem if n == 1 else f"{path.stem}_{n}" for n in count(1))
        names.append(next(name for name in numbered if name not in names))
    return names


def _targets(contents: list[Path], output: str | None) -> list[tuple[str, Path | None]]:
    """(name in the run folder, copy to write or None) for every content picture."""
    names = ["output"] if len(contents) == 1 else unique_names(contents)
    if output is None:
        return [(name, None) for name in names]
    if str(output) == "":
        raise UserError("output is empty: give a file or a folder, or output=null for the run folder only")
    target = Path(str(output)).expanduser()
    if target.suffix.lower() in WRITABLE or (target.suffix and len(contents) == 1 and not target.is_dir()):
        if len(contents) > 1:
            raise UserError(f"output={output} is one file for {len(contents)} content pictures: give a folder")
        copies = [target]
    else:
        copies = [target / f"{path.stem}.png" for path in contents] if len(contents) == 1 else []
        copies = copies or [target / f"{name}.png" for name in names]
    for copy in copies:
        check_writable(copy, "output")
    return list(zip(names, copies, strict=True))


def _protect_inputs(inputs: list[Path], copies: list[Path]) -> None:
    """A result called like the photo, in the photo's folder, would replace it."""
    originals = {path.resolve() for path in inputs}
    for copy in copies:
        if copy.resolve() in originals:
            raise UserError(f"output: the result would replace the input picture {copy}, give another file or folder")


def _save(picture: Tensor, name: str, copy: Path | None, folder: RunFolder) -> Path:
    """Write into the run folder and, where asked, to the user's own place, whose path is returned."""
    picture = picture[0].clamp(0, 1)
    path = folder.save_picture(picture, f"{name}.png")
    if copy is not None:
        save_image(picture, copy)
    folder.summary.outputs.append(str(copy or path))
    folder.record_metrics(name, luminance_statistics(picture))
    return copy or path


def _score(
    scorer: Scorer, picture: Tensor, content: Tensor, styles: Sequence[Style], name: str, folder: RunFolder
) -> None:
    pairs = [(style.image, style.share) for style in styles]
    folder.record_metrics(name, scorer(picture, content, pairs))
    folder.record_references(name, scorer.references(content, pairs), scorer.described())


def _result_path(targets: list[tuple[str, Path | None]], folder: RunFolder, output: str | None) -> Path:
    if len(targets) == 1:
        return targets[0][1] or folder.path / f"{targets[0][0]}.png"
    return folder.path if output is None else Path(str(output)).expanduser()
