"""Whose colors a picture gets: what a method is shown, and what is done to the picture that it makes of that."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nstexp.core.color import chroma, color_moments, luminance, match_color, match_moments
from nstexp.core.errors import Stopped, UserError
from nstexp.interrupts import held
from nstexp.methods.base import Controls, Style, Stylizer
from nstexp.tasks.request import Color

ONE_LEVEL, NEARLY = 0.5, 16.0  # gray levels: of a result that is flat, and of a picture whose result may be


def check_learned(color: Color, learned: bool) -> None:
    """Raise a UserError for colors that `prepare_colors` would have to change in pictures that were learned before."""
    if color == "preserve" and learned:
        raise UserError(
            "color=preserve recolors style pictures before they are used, and this network has learned its styles "
            "already: use color=luminance"
        )


def check_pictures(color: str, styles: Sequence[Style]) -> None:
    """Raise a UserError if `finish_colors` needs a style's picture that is not at hand."""
    missing = [style.name for style in styles if style.image is None]
    if color == "match" and missing:
        raise UserError(f"color=match needs the picture of the style {missing[0]}, which is not on this machine")


def redraw(
    method: Stylizer, content: Tensor, styles: Sequence[Style], controls: Controls, color: Color, strength: float
) -> Tensor:
    """`method.stylize` between `prepare_colors` and `finish_colors`; content and result are (B, 3, H, W) in [0, 1].

    Raises:
        UserError: what the method made is no picture, see `check_made`.
        Stopped: by the method, or interrupted at the end; carries the best picture until then.
    """
    given, given_styles = prepare_colors(color, strength, content, styles)
    try:
        picture = method.stylize(given, given_styles, controls)
    except Stopped as stop:
        if stop.image is not None:
            with held():
                stop.image = finish_colors(color, strength, stop.image, content, styles)
        raise
    check_made(picture, given, given_styles, method, controls.name)
    with held() as hold:
        picture = finish_colors(color, strength, picture, content, styles)
    if hold.asked:
        raise Stopped("interrupted at the end", picture, interrupted=True)
    return picture


def check_made(made: Tensor, content: Tensor, styles: Sequence[Style], method: Stylizer, name: str) -> None:
    """Raise a UserError for what no method makes unless its networks or its settings are broken: numbers that are not
    finite, or one flat color where neither the photo nor a painting is flat. A picture that is optimized may be flat
    for some steps if it starts so, but not at the ends of the range, where a loss that diverges takes it.

    Args:
        made: by `method`, (B, 3, H, W), of `content` and `styles`.
        name: of the picture, for the message.
    """
    likely = (
        "smaller weights.* or a smaller learning rate may help, or another backbone"
        if getattr(method, "optimizes", False)
        else "the weights of method.model, method.decoder or backbone may be damaged"
    )
    if not bool(made.isfinite().all()):
        raise UserError(f"{name}: the result has values that are not finite, and is not saved: {likely}")
    flat_style = any(style.image is not None and bool(_is_flat(style.image[None], NEARLY)) for style in styles)
    flat = _is_flat(made, ONE_LEVEL) & ~_is_flat(content, NEARLY)
    if getattr(method, "optimizes", False):
        flat &= ((made <= 0) | (made >= 1)).flatten(1).all(1)
    if not flat_style and bool(flat.any()):
        raise UserError(f"{name}: the result is one flat color, and is not saved: {likely}")


def _is_flat(pictures: Tensor, levels: float) -> Tensor:
    """Which of the pictures (B, 3, H, W) stay within so many of 255 gray levels, per channel: (B,)."""
    low, high = pictures.amin((2, 3)), pictures.amax((2, 3))
    return (high.clamp(0, 1) - low.clamp(0, 1)).amax(1) * 255 < levels


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
    return prepare_content(color, strength, content), prepare_styles(color, strength, content, styles)


def prepare_content(color: Color, strength: float, content: Tensor) -> Tensor:
    """The content of `prepare_colors`."""
    if strength == 0 or color != "luminance":
        return content
    return torch.lerp(content, luminance(content), strength)


def prepare_styles(color: Color, strength: float, content: Tensor, styles: Sequence[Style]) -> Sequence[Style]:
    """The styles of `prepare_colors`."""
    if strength == 0 or color not in ("preserve", "luminance"):
        return styles
    recolored = _preserved if color == "preserve" else _only_luminance
    return [recolored(style, content, strength) for style in styles]


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
    image, fine = (None if picture is None else recolor(picture) for picture in (style.image, style.fine))
    return replace(style, image=image, fine=fine)


def _in_style_colors(picture: Tensor, styles: Sequence[Style]) -> Tensor:
    if styles[0].mask is None:
        return match_color(picture, [style.image for style in styles], [style.share for style in styles])
    regions = torch.stack([style.share * style.mask for style in styles]).to(picture)
    regions /= regions.sum(0)
    result = torch.zeros_like(picture)
    for style, region in zip(styles, regions, strict=True):
        result += region * match_moments(picture, color_moments(picture, region), color_moments(style.image))
    return result
