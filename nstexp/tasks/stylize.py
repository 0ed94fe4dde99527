"""The default task: every content picture redrawn in the style, one file each."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from nstexp.core.errors import Stopped, UserError
from nstexp.core.measures import Scorer, luminance_statistics
from nstexp.core.resize import resize, size_for_longer_side
from nstexp.interrupts import held
from nstexp.media.images import load_with_alpha, save_image
from nstexp.media.paths import WRITABLE, check_writable, find_images, unique_names
from nstexp.methods.base import Controls, Style, Stylizer, learned_styles
from nstexp.outputs import RunFolder, say_replaced
from nstexp.tasks.color import check_learned, check_pictures, redraw
from nstexp.tasks.request import Request
from nstexp.tasks.styles import Styles, read_styles

log = logging.getLogger(__name__)


def stylize(method: Stylizer, folder: RunFolder, request: Request, scorer: Scorer | None = None) -> Path:
    """Redraw pictures and write them; returns the path of the result (of the folder, if there are several).

    Args:
        method: what redraws.
        folder: where the run writes.
        request: what the user asks for.
        scorer: measures the finished pictures; None: they are not.

    Raises:
        UserError: anything the user can mend, before the work starts where possible.
        Stopped: ended early; the best picture until then is saved.
    """
    name = folder.summary.method or type(method).__name__
    check_learned(request.color, learned_styles(method) is not None)
    contents = find_images(request.content, "content")
    styles = read_styles(request, method, name, compared=scorer is not None or request.color == "match")
    check_pictures(request.color, styles.pictures)
    targets = _targets(contents, request.output)
    folder.inputs.add([*contents, *styles.files])
    folder.check(*(f"{name}.png" for name, _ in targets))
    if getattr(method, "optimizes", False):
        folder.check_losses(*(name for name, _ in targets))
    if request.output is not None:
        copies = [copy for _, copy in targets if copy is not None]
        folder.inputs.protect(copies, "output")
        say_replaced(request.output, copies)
    failures = []
    for number, (path, target) in enumerate(zip(contents, targets, strict=True), 1):
        several = len(contents) > 1
        if several:
            log.info("picture %d of %d: %s", number, len(contents), path)
        try:
            _one_picture(method, folder, request, scorer, styles, path, target, several)
        except KeyboardInterrupt:
            done = f"{number - 1} of {len(contents)} pictures are done; " if several else ""
            raise Stopped(f"{done}{target[0]}: interrupted; there is no picture yet", interrupted=True) from None
        except UserError as error:
            if not several:
                raise
            failures.append(str(error))
            log.error("%s", error)
    if failures:
        raise UserError(f"{len(failures)} of {len(contents)} pictures failed, the first: {failures[0]}")
    return _result_path(targets, folder, request.output)


def _one_picture(
    method: Stylizer,
    folder: RunFolder,
    request: Request,
    scorer: Scorer | None,
    styles: Styles,
    path: Path,
    target: tuple[str, Path | None],
    several: bool,
) -> None:
    """Redraw one content picture, write it and measure it."""
    name, copy = target
    log_prefix = f"{name}/" if several else ""
    controls = Controls(name, log_prefix, request.seed, request.style_combine)
    image, opacity = load_with_alpha(path, request.max_input_megapixels, request.background)
    if request.transparency != "keep":
        opacity = None
    image = resize(image, size_for_longer_side(tuple(image.shape[-2:]), request.image_px))
    placed = styles.at(tuple(image.shape[-2:]))
    begun = time.perf_counter()
    try:
        picture = redraw(method, image[None], placed, controls, request.color, request.color_strength)
    except Stopped as stop:
        kept = "there is no picture yet"
        if stop.image is not None:
            with held():
                kept = f"the best picture so far is {_save(stop.image, opacity, name, copy, folder)}"
        raise Stopped(f"{name}: {stop}; {kept}", stop.image, stop.interrupted) from None
    seconds = time.perf_counter() - begun
    with held() as hold:
        saved = _save(picture, opacity, name, copy, folder)
        folder.record_metrics(name, {"stylize_seconds": round(seconds, 3)})
    try:
        if hold.asked:
            raise KeyboardInterrupt
        if scorer is not None:
            _score(scorer, picture[0], image, styles.pictures, name, folder)
    except KeyboardInterrupt:
        raise Stopped(f"{name}: interrupted at the end; the picture is {saved}", interrupted=True) from None


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


def with_opacity(picture: Tensor, opacity: Tensor | None) -> Tensor:
    """A picture (3, H, W), with the opacity (1, h, w) of its content, whatever its size, as fourth channel if given."""
    if opacity is None:
        return picture
    return torch.cat([picture, resize(opacity, tuple(picture.shape[-2:])).to(picture)])


def _save(picture: Tensor, opacity: Tensor | None, name: str, copy: Path | None, folder: RunFolder) -> Path:
    """Write into the run folder and, where asked, to the user's own place, whose path is returned."""
    picture = picture[0].clamp(0, 1)
    shown = with_opacity(picture, opacity)
    path = folder.save_picture(shown, f"{name}.png")
    if copy is not None:
        save_image(shown, copy)
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
