"""The default task: every content picture redrawn in the style, one file each."""

import logging
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

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
from nstexp.methods.base import Combine, Controls, Style, Stylizer
from nstexp.outputs import RunFolder

log = logging.getLogger(__name__)


def stylize(
    method: Stylizer,
    folder: RunFolder,
    content: str | Sequence[str],
    style: str | Sequence[str],
    style_weights: Sequence[float] | None = None,
    style_combine: Combine = "weighted_loss",
    output: str | None = None,
    image_px: int | None = None,
    max_input_megapixels: float = 200.0,
    seed: int = 0,
) -> Path:
    """Redraw pictures and write them; returns the path of the result (of the folder, if there are several).

    Args:
        method: what redraws.
        folder: where the run writes.
        content, style: a file, a folder, a built-in name, or a list of these. All styles apply to every content.
        style_weights: one share per style picture; null: equal shares.
        style_combine: see `Controls`.
        output: a file (one content picture) or a folder that gets a copy of the result; null: the run folder only.
        image_px: longer side of the result; null: the content's own size.
        max_input_megapixels: limit on one input file.
        seed: the same for every picture.

    Raises:
        UserError: anything the user can mend, before the work starts where possible.
        Stopped: ended early; the best picture until then is saved.
    """
    _check_values(image_px, max_input_megapixels, style_combine)
    contents, style_paths = find_images(content, "content"), find_images(style, "style")
    targets = _targets(contents, output)
    _protect_inputs([*contents, *style_paths], [copy for _, copy in targets if copy is not None])
    styles = _load_styles(style_paths, style_weights, max_input_megapixels)
    failures = []
    for number, (path, (name, copy)) in enumerate(zip(contents, targets, strict=True), 1):
        several = len(contents) > 1
        if several:
            log.info("picture %d of %d: %s", number, len(contents), path)
        controls = Controls(name, log_prefix=f"{name}/" if several else "", seed=seed, combine=style_combine)
        try:
            image = load_image(path, max_input_megapixels)
            image = resize(image, size_for_longer_side(tuple(image.shape[-2:]), image_px))
            _save(method.stylize(image[None], styles, controls), name, copy, folder)
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


def _check_values(image_px: int | None, max_input_megapixels: float, style_combine: str) -> None:
    if image_px is not None and not (isinstance(image_px, int) and image_px >= 1):
        raise UserError(f"image_px={image_px}: the longer side is a whole number of pixels, 1 or larger")
    if not (isinstance(max_input_megapixels, int | float) and max_input_megapixels > 0):
        raise UserError(f"max_input_megapixels={max_input_megapixels}: the limit is a number larger than 0")
    if style_combine not in get_args(Combine):
        raise UserError(f"style_combine={style_combine} is unknown, choose one of {', '.join(get_args(Combine))}")


def _load_styles(paths: list[Path], weights: Sequence[float] | None, max_megapixels: float) -> list[Style]:
    shares = [1 / len(paths)] * len(paths) if weights is None else weights
    if isinstance(shares, str) or not isinstance(shares, Sequence):
        raise UserError(f"style_weights={weights}: give a list with one number per style picture, such as [0.7,0.3]")
    if len(shares) != len(paths):
        raise UserError(f"style_weights has {len(shares)} numbers for {len(paths)} style pictures")
    if not all(isinstance(w, int | float) and 0 <= w < float("inf") for w in shares) or not sum(shares):
        raise UserError(f"style_weights={list(shares)}: each is a finite number, 0 or larger, and not all are 0")
    return [Style(load_image(p, max_megapixels), share) for p, share in zip(paths, shares, strict=True)]


def _targets(contents: list[Path], output: str | None) -> list[tuple[str, Path | None]]:
    """(name in the run folder, copy to write or None) for every content picture."""
    if len(contents) == 1:
        names = ["output"]
    else:
        names = []
        for path in contents:
            numbered = (path.stem if n == 1 else f"{path.stem}_{n}" for n in count(1))
            names.append(next(name for name in numbered if name not in names))
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
    folder.record_metrics(name, _measure(picture))
    return copy or path


def _measure(picture: Tensor) -> dict[str, float]:
    luminance = (picture * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0)
    clipped = ((picture <= 0) | (picture >= 1)).float().mean()
    return {
        "luminance_mean": float(luminance.mean()),
        "luminance_std": float(luminance.std(unbiased=False)),
        "clipped_share": float(clipped),
    }


def _result_path(targets: list[tuple[str, Path | None]], folder: RunFolder, output: str | None) -> Path:
    if len(targets) == 1:
        return targets[0][1] or folder.path / f"{targets[0][0]}.png"
    return folder.path if output is None else Path(str(output)).expanduser()
