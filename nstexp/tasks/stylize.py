"""The default task: every content picture redrawn in the style, one file each."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from nstexp.core.errors import Stopped, UserError
from nstexp.core.measures import Scorer, luminance_statistics
from nstexp.core.resize import resize, size_for_longer_side
from nstexp.media.images import WRITABLE, check_writable, find_images, load_image, save_image, unique_names
from nstexp.methods.base import Combine, Controls, Style, Stylizer
from nstexp.outputs import RunFolder
from nstexp.tasks.color import Color, check_color, check_pictures, redraw
from nstexp.tasks.styles import read_styles

log = logging.getLogger(__name__)


def stylize(
    method: Stylizer,
    folder: RunFolder,
    content: str | Sequence[str],
    style: str | Sequence[str] | None,
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
        content, style: a file, a folder, a built-in name, or a list of these. All styles apply to every content. Of a
            method that has learned its styles `style` can be their names; None: the first.
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
    learned = getattr(method, "styles", None)
    check_color(color, color_strength, learned is not None)
    contents = find_images(content, "content")
    styles = read_styles(
        style, style_weights, style_combine, style_layers, fine_style, masks, max_input_megapixels, learned,
        compared=scorer is not None or color == "match",
    )  # fmt: skip
    check_pictures(color, styles.pictures)
    targets = _targets(contents, output)
    protect_inputs([*contents, *styles.files], [copy for _, copy in targets if copy is not None])
    failures = []
    for number, (path, (name, copy)) in enumerate(zip(contents, targets, strict=True), 1):
        several = len(contents) > 1
        if several:
            log.info("picture %d of %d: %s", number, len(contents), path)
        controls = Controls(name, log_prefix=f"{name}/" if several else "", seed=seed, combine=style_combine)
        try:
            image = load_image(path, max_input_megapixels)
            image = resize(image, size_for_longer_side(tuple(image.shape[-2:]), image_px))
            placed = styles.at(tuple(image.shape[-2:]))
            begun = time.perf_counter()
            picture = redraw(method, image[None], placed, controls, color, color_strength)
            seconds = time.perf_counter() - begun
            _save(picture, name, copy, folder)
            folder.record_metrics(name, {"stylize_seconds": round(seconds, 3)})
            if scorer is not None:
                _score(scorer, picture[0], image, styles.pictures, name, folder)
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


def check_size(image_px: int | None, max_input_megapixels: float) -> None:
    """Raise a UserError for sizes that no picture can have."""
    if image_px is not None and not (isinstance(image_px, int) and image_px >= 1):
        raise UserError(f"image_px={image_px}: the longer side is a whole number of pixels, 1 or larger")
    if not (isinstance(max_input_megapixels, int | float) and max_input_megapixels > 0):
        raise UserError(f"max_input_megapixels={max_input_megapixels}: the limit is a number larger than 0")


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


def protect_inputs(inputs: Sequence[Path], copies: Sequence[Path]) -> None:
    """Raise a UserError where a result, called like the photo and in the photo's folder, would replace it."""
    originals = {path.resolve() for path in inputs}
    for copy in copies:
        if copy.resolve() in originals:
            raise UserError(f"output: the result would replace the input {copy}, give another file or folder")


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
    known = all(style.image is not None for style in styles)  # else there are no measures of style
    pairs = [(style.image, style.share) for style in styles] if known else []
    folder.record_metrics(name, scorer(picture, content, pairs))
    folder.record_references(name, scorer.references(content, pairs), scorer.described())


def _result_path(targets: list[tuple[str, Path | None]], folder: RunFolder, output: str | None) -> Path:
    if len(targets) == 1:
        return targets[0][1] or folder.path / f"{targets[0][0]}.png"
    return folder.path if output is None else Path(str(output)).expanduser()
