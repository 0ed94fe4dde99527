"""nstexp from Python: pictures in, pictures out, with the defaults of the command line and without a run folder."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor

from nstexp.config import trust
from nstexp.config.build import prepared
from nstexp.config.early import check_values
from nstexp.config.keys import CONF, no_such_key
from nstexp.config.refusals import sentence_of
from nstexp.core.errors import ArgumentError, UserError
from nstexp.core.pixels import to_array
from nstexp.core.resize import resize, size_for_longer_side
from nstexp.media.images import load_with_alpha, to_tensors
from nstexp.media.paths import find_images
from nstexp.methods.base import Controls, Style, learned_styles
from nstexp.outputs import RunFolder
from nstexp.processes import alone_unless, work_together
from nstexp.run import Parts, identity, kept, quiet_warnings
from nstexp.tasks.color import check_learned, check_pictures, redraw
from nstexp.tasks.request import Request
from nstexp.tasks.styles import Styles, checked_shares, read_styles
from nstexp.tasks.stylize import with_opacity

Picture = str | Path | Image.Image | np.ndarray | Tensor


@torch.random.fork_rng(devices=[])  # the caller's random numbers stay as they are, also when networks are loaded
def stylize(
    content: Picture | Sequence[Picture],
    style: Picture | Sequence[Picture] | None = None,
    method: str = "gatys",
    image_px: int | None = None,
    settings: Mapping[str, Any] | None = None,
    **request: Any,
) -> Any:
    """Redraw pictures in the style of others; `python -m nstexp` with the same values makes the same pixels.

    Args:
        content: a picture, or a list of them. A picture is a file (a folder: all that it holds), a built-in name such
            as `sample:astronaut`, a PIL image, an array uint8 (H, W, 3), or a tensor (3, H, W) in [0, 1]. Arrays
            (B, H, W, 3) and tensors (B, 3, H, W) are B pictures of one size.
        style: a picture, or a list of them, all of which apply to every content; of method=cin the names of styles that
            the network has learned, None: the first.
        method: `gatys` optimizes each picture, which takes minutes; `adain` and `cin` take seconds.
        image_px: longer side of the results; None: the contents' own sizes.
        settings: any other value or option of the configuration by its key, such as {"weights.beta": 100,
            "layers": "style_first3", "method.max_steps": 50}; and {"trust": ["my_package"]}, see `nstexp.config.trust`.
        request: the other fields of `tasks.request.Request`: style_weights, masks, color, seed, ...

    Returns:
        What `content` is: a PIL image for a file, a name or a PIL image, with its alpha channel if it has one; an array
        or a tensor of the same layout for one of these, on the CPU; a list for a list.

    Raises:
        UserError: what the command line would refuse, in the same words.
        Stopped: the loss became NaN.
    """
    quiet_warnings()
    contents = _listed(content)
    several = len(contents) > 1 or (isinstance(content, Sequence) and not isinstance(content, str))
    in_memory = None if style is None or all(map(_is_file, _as_list(style))) else _as_list(style)
    if unknown := sorted(set(request) - {field.name for field in fields(Request)}):
        raise ArgumentError(unknown[0], ": there is no such argument; settings={...} takes every other key")
    settings = dict(settings or {})
    with trust.trusting(_as_list(settings.pop("trust", []))):
        cfg = _composed(method, settings)
        values = {**request, "image_px": image_px, "content": None}
        if style is not None:
            values["style"] = None if in_memory else [str(each) for each in _as_list(style)]
        wanted = replace(check_values(cfg), **values)
        torch.manual_seed(wanted.seed)
        with alone_unless(work_together(OmegaConf.to_container(cfg.trainer))):
            redraws = _method(cfg)
            check_learned(wanted.color, learned_styles(redraws) is not None)
            if in_memory is None:
                styles = read_styles(wanted, redraws, method, compared=wanted.color == "match")
            else:
                styles = _styles_in_memory(in_memory, wanted)
            check_pictures(wanted.color, styles.pictures)
            results = [_redrawn(each, redraws, styles, wanted) for each in contents]
    return results if several else results[0]


def _composed(method: str, settings: Mapping[str, Any]) -> DictConfig:
    """The configuration of the command line `method=... logger=none` with these settings."""
    groups = {key: value for key, value in settings.items() if (CONF / key).is_dir()}
    options = [f"{key}={_option(value)}" for key, value in {"method": method, "logger": "none", **groups}.items()]
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("config", [*options, "measure=false", "picture_every_n_steps=0"])
    except Exception as error:
        if sentence := sentence_of(error):
            raise UserError(sentence) from error
        raise
    for key, value in settings.items():
        if key not in groups:
            if OmegaConf.select(cfg, key, default=_composed) is _composed:
                raise ArgumentError("settings", f": {no_such_key(key)}")
            OmegaConf.update(cfg, key, value)
    return cfg


def _option(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)


def _method(cfg: DictConfig) -> Any:
    """The method; the same one for calls with the same settings and files of networks."""
    decisive = ("method", "backbone", "layers", "loss", "weights", "precision", "generator")
    made_of = OmegaConf.masked_copy(cfg, [key for key in decisive if key in cfg])
    parts = Parts(prepared(cfg), RunFolder(tempfile.gettempdir(), writes=False), [])
    return kept(f"method {identity(made_of)} {OmegaConf.to_yaml(cfg.trainer, resolve=True)}", parts.method)


def _as_list(style: Any) -> list[Any]:
    return list(style) if isinstance(style, Sequence) and not isinstance(style, str) else [style]


def _listed(pictures: Any, key: str = "content") -> list[Picture]:
    """Single pictures, or arrays of several; a folder is all that it holds."""
    return [each for one in _as_list(pictures) for each in (find_images(one, key) if _is_file(one) else [one])]


def _is_file(picture: Any) -> bool:
    return isinstance(picture, str | Path)


def _styles_in_memory(pictures: Sequence[Picture], request: Request) -> Styles:
    for field in ("fine_style", "masks", "style_layers"):
        if getattr(request, field) is not None:
            raise ArgumentError(field, ": give the pictures in style as files, too")
    images = [image for picture in _listed(pictures, "style") for image in _tensor(picture, request, "style")[0]]
    shares = checked_shares(len(images), request.style_weights)
    styles = [
        Style(image, share, name=f"style{number}")
        for number, (image, share) in enumerate(zip(images, shares, strict=True), 1)
    ]
    return Styles(styles, [], [], request.max_input_megapixels)


def _redrawn(content: Picture, method: Any, styles: Styles, request: Request) -> Any:
    """One content, or B of one size, in the form in which it was given."""
    batch, opacity = _tensor(content, request)
    if request.transparency != "keep":
        opacity = None
    batch = resize(batch, size_for_longer_side(tuple(batch.shape[-2:]), request.image_px))
    placed = styles.at(tuple(batch.shape[-2:]))
    controls = Controls(seed=request.seed, combine=request.style_combine)
    parts = batch.split(1) if getattr(method, "optimizes", False) else (batch,)
    made = [redraw(method, part, placed, controls, request.color, request.color_strength) for part in parts]
    return _as_given(torch.cat(made).clamp(0, 1).cpu(), content, opacity)


def _tensor(picture: Picture, request: Request, key: str = "content") -> tuple[Tensor, Tensor | None]:
    """(B, 3, H, W) in [0, 1], and the opacity (1, H, W) of a picture that is partly transparent."""
    background, opacity = request.background if key == "content" else "white", None
    if isinstance(picture, Tensor):
        if not picture.is_floating_point():
            raise ArgumentError(key, f": a tensor holds numbers from 0 to 1, and this one {picture.dtype}")
        tensor = picture.float()
    elif isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8:
            raise ArgumentError(key, f": an array holds bytes (uint8), and this one {picture.dtype}")
        tensor = torch.from_numpy(picture.copy()).float().div_(255).movedim(-1, -3).contiguous()
    elif isinstance(picture, Image.Image):
        tensor, opacity = to_tensors(picture, background)
    else:
        tensor, opacity = load_with_alpha(picture, request.max_input_megapixels, background)
    tensor = tensor if tensor.dim() == 4 else tensor[None]
    if tensor.dim() != 4 or tensor.shape[1] != 3:
        raise ArgumentError(key, f": a picture has three colors, and this one the shape {tuple(picture.shape)}")
    return tensor, opacity


def _as_given(pictures: Tensor, content: Picture, opacity: Tensor | None) -> Any:
    if isinstance(content, Tensor):
        return pictures if content.dim() == 4 else pictures[0]
    pixels = np.stack([to_array(picture) for picture in pictures])
    if isinstance(content, np.ndarray):
        return pixels if content.ndim == 4 else pixels[0]
    return Image.fromarray(pixels[0] if opacity is None else to_array(with_opacity(pictures[0], opacity)))
