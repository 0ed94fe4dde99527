"""`task=stylize`, the default: stylize every content picture and write one file per picture."""

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
from nstexp.methods.base import SMALLER_RESULT, Controls, Style, Stylizer, learned_styles, size_of
from nstexp.outputs import RunFolder, say_replaced
from nstexp.tasks.color import check_learned, check_pictures, redraw
from nstexp.tasks.request import Request
from nstexp.tasks.styles import Styles, read_styles

log = logging.getLogger(__name__)


def stylize(method: Stylizer, folder: RunFolder, request: Request, scorer: Scorer | None = None) -> Path:
    """Stylize pictures and write them; returns the path of the result (of the folder, if there are several results).

    Args:
        method: the method.
        folder: the run folder.
        request: the pictures and settings.
        scorer: measures for the finished pictures; None: no measures.

    Raises:
        UserError: invalid input or settings (raised before the work starts if possible), or pictures that failed.
        Stopped: stopped early; the best picture so far is saved.
    """
    name = folder.summary.method or type(method).__name__
    check_learned(request.color, learned_styles(method) is not None)
    contents = find_images("" if request.content is None else request.content, "content")
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
    """Stylize one content picture, write the result and measure it."""
    name, copy = target
    log_prefix = f"{name}/" if several else ""
    controls = Controls(name, log_prefix, request.seed, request.style_combine)
    image, opacity = load_with_alpha(path, request.max_input_megapixels, request.background)
    if request.transparency != "keep":
        opacity = None
    image = resize(image, size_for_longer_side(size_of(image), request.image_px), "content", SMALLER_RESULT)
    with_masks = styles.at(size_of(image))
    begun = time.perf_counter()
    try:
        picture = redraw(method, image[None], with_masks, controls, request.color, request.color_strength)
    except Stopped as stop:
        state = "there is no picture yet"
        if stop.image is not None:
            with held():
                state = f"the best picture so far is {_save(stop.image, opacity, name, copy, folder)}"
        raise Stopped(f"{name}: {stop}; {state}", stop.image, stop.interrupted) from None
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
    """For every content picture, its name in the run folder, and the path of the copy that `output` asks for.

    Raises:
        UserError: `output` does not fit the number of pictures, or cannot be written.
    """
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
    """A picture (3, H, W) with the opacity (1, h, w) of its content, resized, as fourth channel; None adds nothing."""
    if opacity is None:
        return picture
    return torch.cat([picture, resize(opacity, size_of(picture)).to(picture)])


def _save(picture: Tensor, opacity: Tensor | None, name: str, copy: Path | None, folder: RunFolder) -> Path:
    """Write a result into the run folder, and to the path `copy` if given; returns `copy` or the path in the folder."""
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
    """Measure a result and record the scores. Without all style pictures there are no measures of style."""
    known = all(style.image is not None for style in styles)
    pairs = [(style.picture, style.share) for style in styles] if known else []
    folder.record_metrics(name, scorer(picture, content, pairs))
    folder.record_references(name, scorer.references(content, pairs), scorer.described())


def _result_path(targets: list[tuple[str, Path | None]], folder: RunFolder, output: str | None) -> Path:
    """The path of the only result, or the folder of several results."""
    if len(targets) == 1:
        return targets[0][1] or folder.path / f"{targets[0][0]}.png"
    return folder.path if output is None else Path(str(output)).expanduser()
