"""Jobs of the worker that read and make pictures. Every function here takes a job's payload, and `tell` for reports.

Whole pictures are made by `run.run` from the words of the command that the page shows, so that the command gives the
same bytes. Previews take a shorter way: the method, the paintings and the photo are kept between two moves of a slider.
"""

import copy
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cachetools import LRUCache
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict
from PIL import Image
from torch import Tensor

import nstexp.cli  # noqa: F401  # registers the resolvers of the configuration
from nstexp import interrupts, run
from nstexp.config import composing
from nstexp.config.build import prepared
from nstexp.config.early import check_values, words_for_hydra
from nstexp.config.keys import CONF
from nstexp.config.refusals import in_one_sentence
from nstexp.core.errors import Stopped, UserError
from nstexp.core.pixels import to_array
from nstexp.core.resize import resize, size_for_longer_side
from nstexp.core.runtime.files import write_atomically
from nstexp.core.text import printable
from nstexp.media.images import load_with_alpha
from nstexp.methods.base import Controls, learned_styles, size_of
from nstexp.outputs import RunFolder
from nstexp.tasks.color import check_learned, check_pictures
from nstexp.tasks.finish import Finish, redraw
from nstexp.tasks.request import Request
from nstexp.tasks.styles import Styles, read_styles
from nstexp.tasks.stylize import over_white

Tell = Callable[[Any], None]

VIEW_PX, THUMBNAIL_PX = 1600, 320  # longest sides of copies for the page
QUALITY = 90  # of JPEG files for the page
OF_THE_STUDIO = ("measure=false", "log_every_n_steps=1", "picture_every_n_steps=5")  # do not change the result
_CONFIGS: dict[tuple[str, ...], DictConfig] = {}
_METHODS: "LRUCache[tuple[Any, ...], tuple[Any, Any]]" = LRUCache(4)  # the method, and its settings as they were
_STYLES: "LRUCache[tuple[str, str, str], Styles]" = LRUCache(6)
_PHOTOS: "LRUCache[tuple[str, int, int, str], tuple[Tensor, Tensor | None]]" = LRUCache(8)
_FINISHES: "LRUCache[tuple[str, ...], tuple[Finish, Tensor | None]]" = LRUCache(4)


def warm_up() -> None:
    """Prepare what the first picture needs: Hydra's grammar, and the network of method=swift."""
    run.quiet_warnings()
    try:
        made = {"content": "sample:astronaut", "style": ["met:436535"], "image_px": 64}
        preview({"method": "swift", "settings": {"style_px": 256}, "request": made, "shares": []}, lambda value: None)
    except UserError:  # the pictures of the packages are missing, and the first picture says so
        logging.getLogger(__name__).debug("nothing is prepared", exc_info=True)


# ------------------------------------------------------------------------------------------------------ uploads


def inspect(payload: Mapping[str, Any], tell: Tell) -> dict[str, int]:
    """Read an upload as the command line would, and write a copy for the page.

    Args:
        payload: `path` of the upload, `view` (the copy to write), `max_megapixels`.

    Returns:
        `width` and `height` of the picture, in pixels.

    Raises:
        UserError: it is no picture that can be read.
    """
    image, opacity = load_with_alpha(payload["path"], payload["max_megapixels"], "white")
    height, width = size_of(image)
    _write_copy(over_white(image[None], opacity)[0], Path(payload["view"]), VIEW_PX)
    return {"width": width, "height": height}


def _write_copy(image: Tensor, path: Path, px: int) -> None:
    """Write a picture (3, H, W) in [0, 1] as JPEG, no side longer than `px`."""
    image = resize(image, size_for_longer_side(size_of(image), min(px, max(size_of(image)))))
    picture = Image.fromarray(to_array(image))
    write_atomically(path, lambda temporary: picture.save(temporary, quality=QUALITY))


# ----------------------------------------------------------------------------------------------------- previews


def preview(payload: Mapping[str, Any], tell: Tell) -> dict[str, Any]:
    """A small picture.

    Args:
        payload: `method`; `settings` of the method: `style_px` and `alpha`, if it has them; `request`, fields of
            `Request`; `shares`, one for each style, or none.

    Returns:
        `jpeg`, the bytes of a JPEG file, `width` and `height` in pixels, and `seconds`.

    Raises:
        UserError: as the command line.
    """
    begun = time.perf_counter()
    with stoppable(), torch.inference_mode():
        settings = dict(payload["settings"])
        alpha = settings.pop("alpha", None)
        method = _method(payload["method"], settings, alpha)
        request = Request(**payload["request"])
        kept = _styles(request, method, payload["method"])
        shares = payload["shares"] or [1.0] * len(kept.pictures)
        pictures = [replace(style, share=share) for style, share in zip(kept.pictures, shares, strict=True)]
        check_learned(request.color, learned_styles(method) is not None)
        check_pictures(request.color, pictures)
        photo, opacity = _photo(request)
        finish, mask = _finish(request, photo)
        torch.manual_seed(request.seed)
        styles, controls = replace(kept, pictures=pictures).on(photo), Controls(seed=request.seed)
        made = redraw(method, photo[None], styles, controls, finish, mask)
        shown = over_white(made.clamp(0, 1).cpu(), opacity)[0]
    height, width = size_of(shown)
    seconds = round(time.perf_counter() - begun, 3)
    return {"jpeg": as_jpeg(shown), "width": width, "height": height, "seconds": seconds}


def as_jpeg(image: Tensor) -> bytes:
    """A picture (3, H, W) in [0, 1] as the bytes of a JPEG file."""
    import simplejpeg

    encoded: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(to_array(image)), QUALITY, colorsubsampling="444")
    return encoded


def _method(name: str, settings: Mapping[str, Any], alpha: float | None) -> Any:
    """A method with these settings. The last ones are kept, with their networks and what they know of the paintings.

    Args:
        alpha: amount of style; None: the method's own. A move of its slider must not read the network again, so a kept
            method gets the new amount in place of its old one.
    """
    key = (name, *sorted(settings.items()))
    if key not in _METHODS:
        cfg, _ = composed([f"method={name}", "logger=none", *OF_THE_STUDIO])
        for setting, value in settings.items():
            OmegaConf.update(cfg, f"method.{setting}", value)
        check_values(cfg)
        made = run.Parts(prepared(cfg), RunFolder(".", writes=False), []).method()
        _METHODS[key] = made, made.settings
    method, usual = _METHODS[key]
    method.settings = usual if alpha is None else replace(usual, alpha=alpha)
    return method


def _styles(request: Request, method: Any, name: str) -> Styles:
    """The paintings of a request and its masks; the pictures stay the same objects, so that methods know them again."""
    key = (name, str(request.style), str(request.masks))
    if key not in _STYLES:
        _STYLES[key] = read_styles(replace(request, style_weights=None), method, name, compared=True)
    return _STYLES[key]


def _photo(request: Request) -> tuple[Tensor, Tensor | None]:
    """The photo at the preview's size (3, H, W), and its opacity, as `tasks.stylize` reads them."""
    from nstexp.media.paths import find_images

    path = find_images(request.content or (), "content")[0]
    key = (str(path), path.stat().st_mtime_ns, request.image_px or 0, request.background)
    if key not in _PHOTOS:
        image, opacity = load_with_alpha(path, request.max_input_megapixels, request.background)
        _PHOTOS[key] = resize(image, size_for_longer_side(size_of(image), request.image_px)), opacity
    return _PHOTOS[key]


def _finish(request: Request, photo: Tensor) -> tuple[Finish, Tensor | None]:
    """The finish of a request, and where it protects the photo; faces are not searched again for every move."""
    key = (str(request),)
    if key not in _FINISHES:
        finish = Finish.of(request)
        _FINISHES[key] = finish, finish.mask(photo[None])
    return _FINISHES[key]


# ------------------------------------------------------------------------------------------------- whole pictures


def picture(payload: Mapping[str, Any], tell: Tell) -> dict[str, Any]:
    """Make a picture as the command line does.

    Args:
        payload: `words` of the command line, `folder` (the run folder), and `thumbnail` (a copy to write).

    Returns:
        `path`, `width` and `height` of the result, `seconds`, `notes` (warnings of the log), and `stopped`: the
        sentence of a picture that was stopped early, else None.

    Raises:
        UserError: as the command line; Stopped if there is no picture yet.
    """
    begun, folder, stopped = time.perf_counter(), Path(payload["folder"]), None
    path = folder / "output.png"
    with stoppable(), _notes() as notes:
        words = [*payload["words"], *OF_THE_STUDIO]
        cfg, choices = composed([*words, f"run_dir={_quoted(folder)}"])
        tell("begun")
        try:
            path = run.run(cfg, folder, words, choices)
        except Stopped as stop:
            if stop.image is None or not path.is_file():
                raise
            stopped = str(stop)
    image, opacity = load_with_alpha(path, float("inf"), "white")
    _write_copy(over_white(image[None], opacity)[0], Path(payload["thumbnail"]), THUMBNAIL_PX)
    height, width = size_of(image)
    return {
        "path": str(path),
        "width": width,
        "height": height,
        "seconds": round(time.perf_counter() - begun, 2),
        "notes": notes,
        "stopped": stopped,
    }


def composed(words: Sequence[str]) -> tuple[DictConfig, dict[str, Any]]:
    """The configuration of a command line, as `nstexp` composes it, and the chosen options.

    Composing takes longer than painting with a fast method, so the result of the words that choose options, such as
    method=swift, is kept, and the other words are applied to a copy, as Hydra does it.

    Raises:
        UserError: the words are wrong; the messages are those of the command line.
    """
    words = words_for_hydra(list(words))
    options = tuple(word for word in words if (CONF / word.partition("=")[0]).is_dir())
    with in_one_sentence():
        if options not in _CONFIGS:
            with initialize_config_dir(str(CONF), version_base="1.3"):
                _CONFIGS[options] = compose("config", list(options), return_hydra_config=True)
        whole = copy.deepcopy(_CONFIGS[options])
        values = [word for word in words if word not in options]
        ConfigLoaderImpl._apply_overrides_to_config(OverridesParser.create().parse_overrides(values), whole)
    choices = OmegaConf.to_container(whole.hydra.runtime.choices)
    assert isinstance(choices, dict)
    with open_dict(whole):
        del whole["hydra"]
    composing.check(whole, words)
    return whole, {str(group): option for group, option in choices.items()}


def _quoted(path: Path) -> str:
    from nstexp.config.quoting import in_quotes

    return in_quotes(str(path))


@contextmanager
def stoppable() -> Iterator[None]:
    """Inside, a request to stop raises KeyboardInterrupt, also where a library turns it into an error of its own."""
    with interrupts.heeded():
        try:
            yield
        except Stopped:
            raise
        except Exception as error:
            if interrupts.asked():
                raise KeyboardInterrupt from error
            raise


@contextmanager
def _notes() -> Iterator[list[str]]:
    """Collect the warnings of the log, without repeats."""
    notes: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = printable(record.getMessage(), one_line=True)
            if text not in notes and len(notes) < 10:
                notes.append(text)

    handler, logger = Collector(logging.WARNING), logging.getLogger("nstexp")
    logger.addHandler(handler)
    try:
        yield notes
    finally:
        logger.removeHandler(handler)
