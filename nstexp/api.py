"""nstexp from Python: stylize pictures with the defaults of the command line, without a run folder."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor

from nstexp.config import trust
from nstexp.config.build import prepared
from nstexp.config.early import check_values, plain_table
from nstexp.config.keys import CONF, no_such_key
from nstexp.config.refusals import in_one_sentence
from nstexp.core.errors import ArgumentError
from nstexp.core.pixels import to_array
from nstexp.core.resize import resize, size_for_longer_side
from nstexp.core.runtime.cores import using_threads
from nstexp.media.images import load_with_alpha, to_tensors
from nstexp.media.paths import find_images
from nstexp.methods.base import Controls, Style, learned_styles
from nstexp.outputs import RunFolder
from nstexp.processes import alone_unless, work_together
from nstexp.run import Parts, identity, kept, quiet_warnings
from nstexp.tasks.color import check_learned, check_pictures
from nstexp.tasks.finish import Finish, redraw
from nstexp.tasks.request import Request
from nstexp.tasks.styles import (
    Styles,
    check_accepted,
    check_photo,
    check_texture,
    checked_shares,
    finder_of,
    read_styles,
)
from nstexp.tasks.stylize import blank_content, with_opacity

Picture = str | Path | Image.Image | np.ndarray | Tensor


@torch.random.fork_rng(devices=[])  # does not change the caller's random state, even when networks are loaded
def stylize(
    content: Picture | Sequence[Picture] | None,
    style: Picture | Sequence[Picture] | None = None,
    method: str = "gatys",
    image_px: int | None = None,
    settings: Mapping[str, Any] | None = None,
    **request: Any,
) -> Any:
    """Stylize pictures; `python -m nstexp` with the same values computes the same pixels.

    Args:
        content: a picture, or a list of pictures. A picture is the path of a file, the path of a folder (all pictures
            in it), a built-in name such as `sample:astronaut`, a PIL image, a uint8 array (H, W, 3), or a tensor
            (3, H, W) in [0, 1]. Arrays (B, H, W, 3) and tensors (B, 3, H, W) are B pictures of one size. None: a
            texture of the style, with method="gatys".
        style: a picture, or a list of pictures that are all applied to every content. For method="cin", names of styles
            that the network has learned; None: the first of them.
        method: "gatys" optimizes each picture, which takes minutes; "swift", "adain" and "cin" take seconds.
        image_px: longer side of the results in pixels; None: the size of each content.
        settings: config key -> value or option, for all other keys, such as {"weights.beta": 100,
            "layers": "style_first3", "method.max_steps": 50}, and {"trust": ["my_package"]}, see `nstexp.config.trust`.
        request: the other fields of `tasks.request.Request`: style_weights, masks, style_masks, color, seed, ...

    Returns:
        Results in the form of `content`: a PIL image for None, a path, a name or a PIL image, with an alpha channel if
        the content has one; an array or a CPU tensor of the same layout for an array or a tensor; a list for a list.

    Raises:
        UserError: the input is wrong; the messages are those of the command line.
        Stopped: the loss became NaN.
    """
    quiet_warnings()
    contents: Sequence[Picture | None] = [None] if content is None else _listed(content)
    several = len(contents) > 1 or (isinstance(content, Sequence) and not isinstance(content, str))
    in_memory = None if style is None or all(map(_is_file, _as_list(style))) else _as_list(style)
    if unknown := sorted(set(request) - {field.name for field in fields(Request)}):
        raise ArgumentError(unknown[0], ": there is no such argument; put other keys into settings={...}")
    settings = dict(settings or {})
    with trust.trusting(_as_list(settings.pop("trust", []))):
        cfg = _composed(method, settings)
        values = {**request, "image_px": image_px, "content": None}
        if style is not None:
            values["style"] = None if in_memory else [str(path) for path in _as_list(style)]
        wanted = replace(check_values(cfg), **values)
        torch.manual_seed(wanted.seed)
        with using_threads(cfg.threads), alone_unless(work_together(plain_table(cfg.trainer))):
            stylizer = _method(cfg)
            if content is None:
                check_texture(wanted, stylizer, method)
            else:
                check_photo(wanted)
            check_learned(wanted.color, learned_styles(stylizer) is not None)
            if in_memory is None:
                styles = read_styles(wanted, stylizer, method, compared=wanted.color == "match")
            else:
                check_accepted(wanted, stylizer, method)
                styles = _styles_in_memory(in_memory, wanted, stylizer, method)
            check_pictures(wanted.color, styles.pictures)
            finish = Finish.of(wanted)
            results = [_stylized(picture, stylizer, styles, wanted, finish) for picture in contents]
    return results if several else results[0]


def _composed(method: str, settings: Mapping[str, Any]) -> DictConfig:
    """Compose the configuration of the command line `method=... logger=none` with these settings."""
    groups = {key: value for key, value in settings.items() if (CONF / key).is_dir()}
    options = [f"{key}={_option(value)}" for key, value in {"method": method, "logger": "none", **groups}.items()]
    with in_one_sentence(), initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", [*options, "measure=false", "picture_every_n_steps=0"])
    for key, value in settings.items():
        if key not in groups:
            if OmegaConf.select(cfg, key, default=_composed) is _composed:
                raise ArgumentError("settings", f": {no_such_key(key)}")
            OmegaConf.update(cfg, key, value)
    return cfg


def _option(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)


def _method(cfg: DictConfig) -> Any:
    """Build the method, or reuse it from an earlier call with the same settings and the same network files."""
    decisive = ("method", "backbone", "layers", "loss", "weights", "precision", "generator")
    relevant = OmegaConf.masked_copy(cfg, [key for key in decisive if key in cfg])
    parts = Parts(prepared(cfg), RunFolder(tempfile.gettempdir(), writes=False), [])
    return kept(f"method {identity(relevant)} {OmegaConf.to_yaml(cfg.trainer, resolve=True)}", parts.method)


def _as_list(style: Any) -> list[Any]:
    return list(style) if isinstance(style, Sequence) and not isinstance(style, str) else [style]


def _listed(pictures: Any, key: str = "content") -> list[Picture]:
    """A list of single pictures and of arrays of several pictures; a folder is replaced by the pictures in it."""
    given = _as_list(pictures)
    return [picture for item in given for picture in (find_images(item, key) if _is_file(item) else [item])]


def _is_file(picture: Any) -> bool:
    return isinstance(picture, str | Path)


def _styles_in_memory(pictures: Sequence[Picture], request: Request, method: Any, name: str) -> Styles:
    """Styles from pictures of which at least one is not a file."""
    for field in ("fine_style", "masks", "style_masks", "style_layers"):
        if getattr(request, field) is not None and not (field == "masks" and request.regions):
            raise ArgumentError(field, ": it needs the pictures in style as files, too")
    images = [image for picture in _listed(pictures, "style") for image in _tensor(picture, request, "style")[0]]
    shares = checked_shares(len(images), request.style_weights)
    styles = [
        Style(image, share, name=f"style{number}")
        for number, (image, share) in enumerate(zip(images, shares, strict=True), 1)
    ]
    regions = None
    if request.regions is not None:
        regions = finder_of(request.regions, request, method, name, len(styles))
    return Styles(styles, [], [], request.max_input_megapixels, regions)


def _stylized(content: Picture | None, method: Any, styles: Styles, request: Request, finish: Finish) -> Any:
    """Stylize one content, or B contents of one size, and return the result in the form of the content."""
    batch, opacity = _content(content, request)
    controls = Controls(
        seed=request.seed, combine=request.style_combine, seamless=request.seamless, texture=content is None
    )
    single = getattr(method, "optimizes", False) or styles.regions is not None
    parts = torch.split(batch, 1) if single else (batch,)
    made = [redraw(method, part, styles.on(part[0]), controls, finish) for part in parts]
    return _as_given(torch.cat(made).clamp(0, 1).cpu(), content, opacity)


def _content(content: Picture | None, request: Request) -> tuple[Tensor, Tensor | None]:
    """The content at the size of the result, (B, 3, H, W), and its opacity (1, H, W) if the result keeps it."""
    if content is None:
        return blank_content(request)[None], None
    batch, opacity = _tensor(content, request)
    batch = resize(batch, size_for_longer_side(_size(batch), request.image_px))
    return batch, opacity if request.transparency == "keep" else None


def _size(batch: Tensor) -> tuple[int, int]:
    height, width = batch.shape[-2:]
    return height, width


def _tensor(picture: Picture, request: Request, key: str = "content") -> tuple[Tensor, Tensor | None]:
    """Convert a picture to (B, 3, H, W) in [0, 1], and its opacity (1, H, W) if it is partly transparent."""
    background, opacity = request.background if key == "content" else "white", None
    if isinstance(picture, Tensor):
        if not picture.is_floating_point():
            raise ArgumentError(key, f": a tensor must hold numbers from 0 to 1, but this one is {picture.dtype}")
        tensor = picture.float()
    elif isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8:
            raise ArgumentError(key, f": an array must hold bytes (uint8), but this one is {picture.dtype}")
        tensor = torch.from_numpy(picture.copy()).float().div_(255).movedim(-1, -3).contiguous()
    elif isinstance(picture, Image.Image):
        tensor, opacity = to_tensors(picture, background)
    else:
        tensor, opacity = load_with_alpha(picture, request.max_input_megapixels, background)
    tensor = tensor if tensor.dim() == 4 else tensor[None]
    if tensor.dim() != 4 or tensor.shape[1] != 3:
        shape = tuple(cast(Tensor, picture).shape)
        raise ArgumentError(key, f": a picture must have three colors, but this one has the shape {shape}")
    return tensor, opacity


def _as_given(pictures: Tensor, content: Picture | None, opacity: Tensor | None) -> Any:
    """Convert results (B, 3, H, W) to the form of the content."""
    if isinstance(content, Tensor):
        return pictures if content.dim() == 4 else pictures[0]
    pixels = np.stack([to_array(picture) for picture in pictures])
    if isinstance(content, np.ndarray):
        return pixels if content.ndim == 4 else pixels[0]
    return Image.fromarray(pixels[0] if opacity is None else to_array(with_opacity(pictures[0], opacity)))
