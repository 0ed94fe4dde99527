"""The function `video` of task=video: open and check the clip, then stylize its frames in order."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from nstexp.core.errors import UserError, under
from nstexp.core.resize import size_for_longer_side
from nstexp.core.runtime.memory import free_bytes
from nstexp.media.flow import MotionEstimator
from nstexp.media.video import (
    CONTAINERS,
    SUFFIXES,
    Source,
    is_transparent,
    keeps_transparency,
    open_source,
    open_writer,
)
from nstexp.methods.base import Controls, Stylizer, learned_styles
from nstexp.outputs import RunFolder, say_replaced
from nstexp.tasks.color import check_learned, check_pictures
from nstexp.tasks.finish import Finish
from nstexp.tasks.request import Request
from nstexp.tasks.styles import Styles, check_photo, read_styles
from nstexp.tasks.video.memory import Memory
from nstexp.tasks.video.painter import Painter
from nstexp.tasks.video.record import OF_CLIP, PLAIN, RESULT, Record
from nstexp.tasks.video.regions import SceneRegions
from nstexp.tasks.video.work import Work
from nstexp.tasks.video_settings import Settings, seconds_of

if TYPE_CHECKING:  # Lightning takes seconds to import
    from pytorch_lightning.loggers import Logger

log = logging.getLogger(__name__)
LARGEST_BATCH = 16
REGIONS_SHEET = "regions.png"
BYTES_PER_PIXEL = 2000  # rough size of a network's feature maps, per pixel of the picture


def video(
    method: Stylizer,
    folder: RunFolder,
    request: Request,
    settings: Settings,
    identity: str,
    device: torch.device,
    measure: bool = False,
    log_every_n_steps: int = 10,
    active_loggers: "Sequence[Logger]" = (),
) -> Path:
    """Stylize a clip; returns the path of the result, which keeps the times of the frames and the sound.

    Args:
        method: the method.
        folder: the run folder.
        request: the pictures and settings. `content` is a video file, an animated picture, or a folder of pictures with
            the frames; masks apply to every frame; `output` is a video file, or a folder for one PNG per frame; None:
            `output` in the run folder, with the file name extension of the clip.
        settings: see `Settings`.
        identity: identifies all settings on which the result depends, except the files. A partial result with another
            identity is not continued.
        device: the device of the method.
        measure: measure the warping error even with video.stabilize=0, where motion is otherwise not estimated.
        log_every_n_steps: frames between two entries in the loggers.
        active_loggers: the loggers.

    Raises:
        UserError: invalid input or settings (raised before the work starts if possible).
        Stopped: stopped early; the part so far is a playable clip, and the same command continues it.
    """
    name = folder.summary.method or type(method).__name__
    check_photo(request)
    check_learned(request.color, learned_styles(method) is not None)
    styles = read_styles(request, method, name, compared=request.color == "match")
    check_pictures(request.color, styles.pictures)
    _check_fade(settings.fade, styles, request.style_weights)
    finish = Finish.of(request)
    source = _open(request.content, settings, request.max_input_megapixels)
    if source.damage:
        log.warning("%s: %s", source.path, source.damage)
    frames = source.between(seconds_of("start", settings.start), seconds_of("end", settings.end), "video.")
    transparent = request.transparency == "keep" and is_transparent(source, frames)
    target = _target(source, request.output, folder, transparent)
    with under("video"):
        encoding = replace(settings.encoding, transparent=transparent and _keeps(target, settings, request))
    background = None if encoding.transparent else request.background
    name_in_folder = target.name if request.output is None else None
    folder.inputs.add([source.path, *source.pictures, *styles.files, *finish.files])
    sheets = [] if styles.regions is None else [REGIONS_SHEET]
    folder.check("frames.csv", "output.png", *sheets, *filter(None, [name_in_folder]))
    folder.inputs.protect([target], "output")
    size = size_for_longer_side(source.size, request.image_px)
    painter = _painter(method, styles, size, request, settings, finish, folder)
    needs_motion = settings.stabilize > 0 or measure or painter.begins_with_scene
    estimator = MotionEstimator(settings.flow, size, device) if needs_motion else None
    record = _record(folder, active_loggers, log_every_n_steps, len(frames), estimator, painter, settings)
    files = [*(source.pictures or [source.path]), *styles.files, *finish.files]
    identity = f"{identity} {_digest_of_files(files)}"
    with under("video"):
        writer = open_writer(target, source, size, frames, encoding, identity, key="output")
    if request.output is not None:
        say_replaced(request.output, [target])
    batch = _batch_size(settings.batch, painter, size, device)
    memory = Memory(writer.partial.with_name(target.name), identity)
    work = Work(
        source,
        frames,
        size,
        settings.reader,
        batch,
        painter,
        estimator,
        writer,
        record,
        memory,
        background,
        name_in_folder,
    )
    path = work()
    if finish.protection is not None and finish.protection.faces:
        if painter.most_faces:
            log.info("faces are protected, up to %d in a frame", painter.most_faces)
        else:
            log.warning("protect=faces: there is no face in the clip")
    return path


def _painter(
    method: Stylizer,
    styles: Styles,
    size: tuple[int, int],
    request: Request,
    settings: Settings,
    finish: Finish,
    folder: RunFolder,
) -> Painter:
    controls = Controls(seed=request.seed, combine=request.style_combine, seamless=request.seamless)
    regions = None
    if styles.regions is not None:
        regions = SceneRegions(styles.regions, lambda shown: folder.save_sheet(shown, REGIONS_SHEET))
    return Painter(method, styles.at(size), settings.fade, finish, controls, settings.stabilize, regions)


def _record(
    folder: RunFolder,
    active_loggers: "Sequence[Logger]",
    every_n: int,
    total: int,
    estimator: MotionEstimator | None,
    painter: Painter,
    settings: Settings,
) -> Record:
    measured = [] if estimator is None else [RESULT, OF_CLIP, *([PLAIN] if painter.blends else [])]
    flow = f"Lai et al. 2018, motion of the clip by {settings.flow}, where forward and backward motion agree"
    return Record(folder, active_loggers, every_n, total, measured, flow)


def _batch_size(chosen: int | None, painter: Painter, size: tuple[int, int], device: torch.device) -> int:
    """The number of frames that pass through the networks together."""
    if painter.one_by_one:
        return 1
    if chosen is not None:
        return chosen
    if device.type != "cuda":
        at_once: Callable[[tuple[int, int]], int] | None = getattr(painter.method, "frames_at_once", None)
        return 1 if at_once is None else at_once(size)
    most = free_bytes(device) // (2 * BYTES_PER_PIXEL * size[0] * size[1])
    return max(1, min(LARGEST_BATCH, most))


def _open(content: str | Sequence[str] | None, settings: Settings, max_megapixels: float) -> Source:
    """Open the clip.

    Raises:
        UserError: no clip, several clips, or a clip that cannot be read.
    """
    if not isinstance(content, str | int | float) or content == "":  # a folder named 2024 arrives as a number
        given = "null" if content is None else content
        raise UserError(
            f"content={given}: give one clip, such as content=clip.mp4, or several as a sweep: -m content=a.mp4,b.mp4"
        )
    path = Path(str(content)).expanduser()
    return open_source(path, "content", settings.rate, max_megapixels)


def _keeps(target: Path, settings: Settings, request: Request) -> bool:
    """Whether the output keeps the clip's transparency; it is logged if it does not."""
    if target.suffix and target.suffix.lower() not in SUFFIXES:
        return False  # `open_writer` refuses it
    if keeps_transparency(target, settings.encoding):
        return True
    log.warning(
        "output=%s: %s files with this codec cannot hold the clip's transparency, which becomes %s; with "
        "video.codec=null .mov, .webm, .apng and .webp files can, and folders",
        target if request.output is None else request.output,
        target.suffix.lower(),
        request.background,
    )
    return False


def _target(source: Source, output: str | None, folder: RunFolder, transparent: bool) -> Path:
    """The path of the result: a video file, or a folder for one PNG per frame."""
    if output is None:
        suffix = source.path.suffix.lower()
        if transparent and source.codec == "apng":
            suffix = ".apng"
        if transparent and not source.pictures and suffix in (".apng", ".webp"):
            return folder.path / f"output{suffix}"
        return folder.path / f"output{suffix if suffix in CONTAINERS and not source.pictures else '.mp4'}"
    if str(output) == "":
        raise UserError("output is empty: give a video file, or output=null for the run folder")
    return Path(str(output)).expanduser()


def _check_fade(fade: Sequence[float] | None, styles: Styles, weights: Sequence[float] | None) -> None:
    """Raise a UserError if video.fade does not fit the styles."""
    if fade is None:
        return
    last = len(styles.pictures) - 1
    if last < 1:
        raise UserError("video.fade needs two or more pictures in style=[...], there is 1")
    if not all(0 <= position <= last for position in fade):
        raise UserError(f"video.fade={list(fade)}: positions are from 0, the first style, to {last}, the last")
    if weights is not None:
        raise UserError("video.fade sets the share of each style: leave style_weights out")
    if styles.masks or styles.regions is not None:
        raise UserError("video.fade does not work with masks: leave masks out")


def _digest_of_files(files: Sequence[Path]) -> str:
    """A digest of the files' paths, sizes and modification times."""
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(stats).encode("utf-8", "surrogateescape")).hexdigest()[:16]
