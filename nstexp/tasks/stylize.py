"""`task=stylize`, the default: stylize every content picture and write one file per picture."""

import logging
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
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
from nstexp.outputs import OBJECTIVE, RunFolder, say_replaced
from nstexp.sweeps.pruning import Pruner, Sweep
from nstexp.sweeps.pruning import Settings as Pruning
from nstexp.tasks.color import check_learned, check_pictures
from nstexp.tasks.early_end import judge_of, pruner_of
from nstexp.tasks.finish import Finish, content_for, redraw
from nstexp.tasks.request import Request
from nstexp.tasks.styles import Styles, check_photo, check_texture, read_styles
from nstexp.tasks.timelapse import Plan, planned
from nstexp.tasks.timelapse import Settings as Lapse
from nstexp.tasks.unfinished import UnfinishedRun

log = logging.getLogger(__name__)


def stylize(
    method: Stylizer,
    folder: RunFolder,
    request: Request,
    scorer: Scorer | None = None,
    timelapse: str | None = None,
    lapse: Lapse | None = None,
    prune: Pruning | None = None,
    sweep: Sweep | None = None,
    identity: str = "",
    checkpoint_minutes: float | None = 5.0,
) -> Path:
    """Stylize pictures and write them; returns the path of the result (of the folder, if there are several results).

    Args:
        method: the method.
        folder: the run folder.
        request: the pictures and settings.
        scorer: measures for the finished pictures; None: no measures.
        timelapse: a clip of how the picture is made, or a folder for one clip per picture; None: none.
        lapse: the settings of these clips; None: the defaults.
        prune: when a job of a sweep stops early because it does badly; None: never.
        sweep: the sweep that the run belongs to; None: none.
        identity: digest of everything that can change the result.
        checkpoint_minutes: minutes between two savings of an unfinished picture, from which the same command goes on;
            None: never. Pictures that are made at once need none; with `timelapse` and `prune` there are none.

    Raises:
        UserError: invalid input or settings (raised before the work starts if possible), or pictures that failed.
        Stopped: stopped early; the best picture so far is saved.
    """
    name = folder.summary.method or type(method).__name__
    check_learned(request.color, learned_styles(method) is not None)
    contents = _contents(request, method, name)
    styles = read_styles(request, method, name, compared=scorer is not None or request.color == "match")
    check_pictures(request.color, styles.pictures)
    finish = Finish.of(request)
    targets, several = _targets(contents, request.output), len(contents) > 1
    names = [name for name, _ in targets]
    clips = planned(timelapse, lapse or Lapse(), contents, names, getattr(method, "steps", None))
    folder.inputs.add([*filter(None, contents), *styles.files, *finish.files])
    _check_places(folder, request, styles, targets, getattr(method, "optimizes", False))
    if timelapse is not None:
        paths = [clip.path for clip in clips if clip is not None]
        folder.inputs.protect(paths, "timelapse")
        say_replaced(timelapse, paths, "timelapse")
    pruner = pruner_of(prune, sweep, method, folder, request, scorer)
    if pruner is not None:
        folder.check(OBJECTIVE)
    unfinished = None
    if timelapse is None and pruner is None:  # both need all steps of a picture
        unfinished = _unfinished_run(method, folder, identity, checkpoint_minutes)
    results = {name: copy or folder.path / f"{name}.png" for name, copy in targets}
    inputs = {name: _inputs(path, styles) for name, path in zip(names, contents, strict=True)}
    done = set() if unfinished is None else unfinished.restore(results, inputs)
    work = _Work(method, folder, request, scorer, styles, finish, several, pruner, unfinished)
    failures = []
    for number, (path, target, clip) in enumerate(zip(contents, targets, clips, strict=True), 1):
        if several:
            log.info("picture %d of %d: %s%s", number, len(contents), path, ", done before" * (target[0] in done))
        if target[0] in done:
            continue
        try:
            _one_picture(work, path, target, clip)
            if folder.summary.status == "pruned":
                break
        except KeyboardInterrupt:
            before = f"{number - 1} of {len(contents)} pictures are done; " if several else ""
            how = "" if unfinished is None else unfinished.how_to_continue()
            message = f"{before}{target[0]}: interrupted; there is no picture yet{how}"
            raise Stopped(message, interrupted=True) from None
        except UserError as error:
            if not several:
                raise
            failures.append(str(error))
            log.error("%s", error)
    if unfinished is not None:
        unfinished.end()
    if failures:
        raise UserError(f"{len(failures)} of {len(contents)} pictures failed, the first: {failures[0]}")
    return _result_path(targets, folder, request.output)


def _unfinished_run(method: Stylizer, folder: RunFolder, identity: str, minutes: float | None) -> UnfinishedRun | None:
    """What keeps unfinished pictures; None if the method makes pictures at once, or if they shall not be kept."""
    if not getattr(method, "optimizes", False) or minutes is None:
        return None
    return UnfinishedRun(folder, " ".join([identity, *folder.summary.versions.values()]), minutes)


def _check_places(
    folder: RunFolder, request: Request, styles: Styles, targets: Sequence[tuple[str, Path | None]], losses: bool
) -> None:
    """Raise a UserError if a file of the run would replace one of the user's; say which copies will be replaced.

    Args:
        targets: see `_targets`.
        losses: whether the losses of each picture are written.
    """
    names = [name for name, _ in targets]
    folder.check(*(f"{name}.png" for name in names))
    if styles.regions is not None:
        folder.check(*([f"{name}_regions.png" for name in names] if len(names) > 1 else ["regions.png"]))
    if losses:
        folder.check_losses(*names)
    if request.output is not None:
        copies = [copy for _, copy in targets if copy is not None]
        folder.inputs.protect(copies, "output")
        say_replaced(request.output, copies)


def _contents(request: Request, method: Stylizer, name: str) -> Sequence[Path | None]:
    """The files of the content pictures; one None for a texture, which has none."""
    if request.content is None:
        check_texture(request, method, name)
        return [None]
    check_photo(request)
    return find_images(request.content, "content")


@dataclass(frozen=True)
class _Work:
    """What all pictures of a run share.

    Args:
        several: whether there is more than one.
        pruner: decides whether the run stops early; None: it does not.
        unfinished: keeps unfinished pictures; None: they are not kept.
    """

    method: Stylizer
    folder: RunFolder
    request: Request
    scorer: Scorer | None
    styles: Styles
    finish: Finish
    several: bool
    pruner: Pruner | None
    unfinished: UnfinishedRun | None


def _one_picture(work: _Work, path: Path | None, target: tuple[str, Path | None], plan: Plan | None) -> None:
    """Stylize one content picture, write the result and its clip, and measure it."""
    (name, copy), folder, request = target, work.folder, work.request
    image, opacity = _loaded(path, request)
    sheet = f"{name}_regions.png" if work.several else "regions.png"
    with_masks = work.styles.on(image, lambda regions: folder.save_sheet(regions, sheet))
    log_prefix = f"{name}/" if work.several else ""
    controls = Controls(
        name, log_prefix, request.seed, request.style_combine, seamless=request.seamless, texture=path is None
    )
    photo = content_for(controls, image[None])
    mask = work.finish.mask(photo)  # once, because a clip shows many results of the photo

    measured = None if path is None else image

    def finished(made: Tensor) -> Tensor:
        return work.finish(made.cpu(), photo, with_masks, mask)

    def shown(made: Tensor) -> Tensor:
        return over_white(finished(made), opacity)

    if work.pruner is not None:
        judge = judge_of(work.pruner, name, finished, work.scorer, measured, work.styles.pictures)
        controls = replace(controls, judge=judge)
    if work.unfinished is not None:
        work.unfinished.begin(name, _inputs(path, work.styles))
        controls = replace(controls, unfinished=work.unfinished)
    with nullcontext() if plan is None else plan.begin(path or work.styles.files[0], size_of(image), shown) as clip:
        begun = time.perf_counter() - (0.0 if work.unfinished is None else work.unfinished.seconds_before)
        try:
            watched = controls if clip is None else replace(controls, watch=clip.watch)
            picture = _redrawn(work, image[None], with_masks, watched, mask)
        except Stopped as stop:
            state = "there is no picture yet"
            if stop.image is not None:
                with held():
                    state = f"the best picture so far is {_save(stop.image, opacity, name, copy, folder)}"
            how = ""
            if work.unfinished is not None and stop.interrupted:
                how = work.unfinished.how_to_continue()
            elif work.unfinished is not None:  # it would fail again
                work.unfinished.end()
            raise Stopped(f"{name}: {stop}; {state}{how}", stop.image, stop.interrupted) from None
        seconds = time.perf_counter() - begun - sum(part.seconds for part in (clip, work.pruner) if part is not None)
        with held() as hold:
            saved = _save(picture, opacity, name, copy, folder)
            folder.record_metrics(name, {"stylize_seconds": round(seconds, 3)})
        try:
            if hold.asked:
                raise KeyboardInterrupt
            if clip is not None:
                log.info("the time-lapse is %s", clip.end(over_white(picture.cpu(), opacity)))
            if work.scorer is not None:
                _score(work.scorer, picture[0], measured, work.styles.pictures, name, folder)
        except KeyboardInterrupt:
            raise Stopped(f"{name}: interrupted at the end; the picture is {saved}", interrupted=True) from None
    if work.unfinished is not None:
        work.unfinished.finish({name: _inputs(path, work.styles)})


def _inputs(path: Path | None, styles: Styles) -> list[Path]:
    """The files from which a picture is made, except those that the configuration names."""
    return [*filter(None, [path]), *styles.files]


def _redrawn(work: _Work, image: Tensor, styles: Sequence[Style], controls: Controls, mask: Tensor | None) -> Tensor:
    """The finished picture, see `redraw`; of a run that stops early as a bad job, the best picture so far."""
    try:
        return redraw(work.method, image, styles, controls, work.finish, mask)
    except Stopped as stop:
        if not stop.pruned or stop.image is None:
            raise
        reason = f"{controls.name}: {stop}" if work.several else str(stop)
        log.info("%s", reason)
        work.folder.record_pruned(reason)
        return stop.image


def _loaded(path: Path | None, request: Request) -> tuple[Tensor, Tensor | None]:
    """A content picture (3, H, W), and its opacity (1, H, W) if the result keeps it; `blank_content` without a file."""
    if path is None:
        return blank_content(request), None
    image, opacity = load_with_alpha(path, request.max_input_megapixels, request.background)
    image = resize(image, size_for_longer_side(size_of(image), request.image_px), "content", SMALLER_RESULT)
    return image, opacity if request.transparency == "keep" else None


def blank_content(request: Request) -> Tensor:
    """The gray picture (3, H, W) that stands for the content of a texture."""
    return torch.full((3, *request.texture_size), 0.5)


def _targets(contents: Sequence[Path | None], output: str | None) -> list[tuple[str, Path | None]]:
    """For every content picture, its name in the run folder, and the path of the copy that `output` asks for.

    Raises:
        UserError: `output` does not fit the number of pictures, or cannot be written.
    """
    files = [path or Path("texture") for path in contents]
    names = ["output"] if len(files) == 1 else unique_names(files)
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
        copies = [target / f"{path.stem}.png" for path in files] if len(files) == 1 else []
        copies = copies or [target / f"{name}.png" for name in names]
    for copy in copies:
        check_writable(copy, "output")
    return list(zip(names, copies, strict=True))


def with_opacity(picture: Tensor, opacity: Tensor | None) -> Tensor:
    """A picture (3, H, W) with the opacity (1, h, w) of its content, resized, as fourth channel; None adds nothing."""
    if opacity is None:
        return picture
    return torch.cat([picture, resize(opacity, size_of(picture)).to(picture)])


def over_white(pictures: Tensor, opacity: Tensor | None) -> Tensor:
    """Pictures (B, 3, H, W), with the opacity (1, h, w) of their content, on white; None changes nothing."""
    if opacity is None:
        return pictures
    return 1 + (pictures - 1) * resize(opacity, size_of(pictures)).to(pictures)


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
    scorer: Scorer, picture: Tensor, content: Tensor | None, styles: Sequence[Style], name: str, folder: RunFolder
) -> None:
    """Measure a result and record the scores. There are no measures of content without a photo, and none of style
    without all style pictures."""
    known = all(style.image is not None for style in styles)
    pairs = [(style.picture, style.share) for style in styles] if known else []
    folder.record_metrics(name, scorer(picture, content, pairs))
    if content is not None:
        folder.record_references(name, scorer.references(content, pairs), scorer.described())


def _result_path(targets: list[tuple[str, Path | None]], folder: RunFolder, output: str | None) -> Path:
    """The path of the only result, or the folder of several results."""
    if len(targets) == 1:
        return targets[0][1] or folder.path / f"{targets[0][0]}.png"
    return folder.path if output is None else Path(str(output)).expanduser()
