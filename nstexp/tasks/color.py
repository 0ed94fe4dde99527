"""The colors of the result (`color=...`): recolor a method's inputs, and finish the colors of its result."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nstexp.core.color import chroma, color_moments, luminance, match_color, match_moments
from nstexp.core.errors import UserError
from nstexp.methods.base import Style, Stylizer, size_of
from nstexp.tasks.request import Color

# Limits of the difference of gray levels: a result below the first is flat, and may be flat if an input is below the
# second.
FLAT_RESULT, FLAT_INPUT = 0.5, 16.0


def check_learned(color: Color, learned: bool) -> None:
    """Raise a UserError if `color` recolors style pictures, but the method has learned its styles already."""
    if color == "preserve" and learned:
        raise UserError(
            "color=preserve recolors the style pictures, but this network has learned its styles already: use "
            "color=luminance"
        )


def check_pictures(color: str, styles: Sequence[Style]) -> None:
    """Raise a UserError if `finish_colors` needs the picture of a style and there is none."""
    missing = [style.name for style in styles if style.image is None]
    if color == "match" and missing:
        raise UserError(f"color=match needs the picture of the style {missing[0]}, which is not on this machine")


def check_made(made: Tensor, content: Tensor, styles: Sequence[Style], method: Stylizer, name: str) -> None:
    """Check a result for damage that comes from broken networks or settings.

    A result must be finite, and must not be one flat color unless the photo or a painting is flat. A picture that is
    optimized may still have the flat color it started from, unless that color is 0 or 1, the ends of the range, where
    diverging losses lead.

    Args:
        made: the result of `method`, (B, 3, H, W), for `content` and `styles`.
        name: the name of the picture, for the error message.

    Raises:
        UserError: the result is not finite, or flat.
    """
    likely = (
        "smaller weights.* or a smaller learning rate may help, or another backbone"
        if getattr(method, "optimizes", False)
        else "the weights of method.model, method.decoder or backbone may be damaged"
    )
    if not bool(made.isfinite().all()):
        raise UserError(f"{name}: the result has values that are not finite, and is not saved: {likely}")
    flat_style = any(style.image is not None and bool(_is_flat(style.image[None], FLAT_INPUT)) for style in styles)
    flat = _is_flat(made, FLAT_RESULT) & ~_is_flat(content, FLAT_INPUT)
    if getattr(method, "optimizes", False):
        flat &= ((made <= 0) | (made >= 1)).flatten(1).all(1)
    if not flat_style and bool(flat.any()):
        raise UserError(f"{name}: the result is one flat color, and is not saved: {likely}")


def _is_flat(pictures: Tensor, levels: float) -> Tensor:
    """Whether each picture (B, 3, H, W) varies by less than `levels` of 255 gray levels in every channel: (B,)."""
    low, high = pictures.amin((2, 3)), pictures.amax((2, 3))
    return (high.clamp(0, 1) - low.clamp(0, 1)).amax(1) * 255 < levels


def prepare_colors(
    color: Color, strength: float, content: Tensor, styles: Sequence[Style]
) -> tuple[Tensor, Sequence[Style]]:
    """Recolor the inputs of a method as `color` asks (Gatys et al. 2017, section 5).

    Each style, inside its `part`, is compared with the part of the content where its mask applies.
        none, match: the inputs are returned unchanged.
        preserve: the style pictures, and the pictures of fine strokes, get the content's color mean and covariance
            (form `sym`), blended by `strength`.
        luminance: content and styles lose the share `strength` of their chroma (1: gray), and the mean luminance of
            each style moves towards that of the content by the same share.

    Args:
        strength: from 0 (colors unchanged) to 1.
        content: RGB (B, 3, H, W) in [0, 1].

    Returns:
        Content and styles for `Stylizer.stylize`.
    """
    return prepare_content(color, strength, content), prepare_styles(color, strength, content, styles)


def prepare_content(color: Color, strength: float, content: Tensor) -> Tensor:
    """The content that `prepare_colors` returns."""
    if strength == 0 or color != "luminance":
        return content
    return torch.lerp(content, luminance(content), strength)


def prepare_styles(color: Color, strength: float, content: Tensor, styles: Sequence[Style]) -> Sequence[Style]:
    """The styles that `prepare_colors` returns."""
    if strength == 0 or color not in ("preserve", "luminance"):
        return styles
    recolored = _preserved if color == "preserve" else _only_luminance
    return [recolored(style, content, strength) for style in styles]


def finish_colors(color: Color, strength: float, picture: Tensor, content: Tensor, styles: Sequence[Style]) -> Tensor:
    """Finish the colors of a method's result as `color` asks.

    none, preserve: the picture is returned unchanged.
    luminance: `strength` times the chroma of the content is added, which is what `prepare_colors` removed. At 1, all
        chroma of the result is dropped first, so that only the content's chroma remains.
    match: the picture gets the styles' color mean and covariance (form `sym`), blended by `strength`. Without masks the
        styles are averaged by their shares. With masks each style applies inside its mask; where masks overlap, they
        are weighted by mask times share.

    Args:
        strength: from 0 (colors unchanged) to 1.
        picture: the method's result, RGB (B, 3, H, W) in [0, 1].
        content, styles: the original inputs, before `prepare_colors`.

    Returns:
        RGB (B, 3, H, W) in [0, 1].
    """
    if strength == 0 or color not in ("luminance", "match"):
        return picture
    picture = picture.to(content)
    if color == "luminance":
        base = luminance(picture) if strength == 1 else picture
        return (base + strength * chroma(content)).clamp(0, 1)
    return torch.lerp(picture, _in_style_colors(picture, styles), strength).clamp(0, 1)


def _preserved(style: Style, content: Tensor, strength: float) -> Style:
    wanted = color_moments(content, style.mask)

    def recolor(style: Style, image: Tensor) -> Tensor:
        own = color_moments(image, style.part_at(size_of(image)))
        return torch.lerp(image, match_moments(image, own, wanted), strength).clamp(0, 1)

    return _recolored(style, recolor)


def _only_luminance(style: Style, content: Tensor, strength: float) -> Style:
    wanted = color_moments(content, style.mask)[0]

    def without_chroma(style: Style, image: Tensor) -> Tensor:
        # Luminance is linear, so the luminance of the mean color is the mean luminance.
        own = color_moments(image, style.part_at(size_of(image)))[0]
        shift = float(luminance((wanted - own).view(3, 1, 1)))
        return torch.lerp(image, (luminance(image) + shift).clamp(0, 1), strength)

    return _recolored(style, without_chroma)


def _recolored(style: Style, recolor: Callable[[Style, Tensor], Tensor]) -> Style:
    image = None if style.image is None else recolor(style, style.image)
    fine = None if style.fine is None else recolor(replace(style, part=None), style.fine)  # the part is of the picture
    return replace(style, image=image, fine=fine)


def _in_style_colors(picture: Tensor, styles: Sequence[Style]) -> Tensor:
    """The picture with the styles' color mean and covariance, see `finish_colors`."""
    parts = [style.part_at(size_of(style.picture)) for style in styles]
    if styles[0].mask is None:
        pictures, shares = [style.picture for style in styles], [style.share for style in styles]
        return match_color(picture, pictures, shares, parts=parts)
    regions = torch.stack([style.share * style.mask for style in styles if style.mask is not None]).to(picture)
    regions /= regions.sum(0)
    result = torch.zeros_like(picture)
    for style, region, part in zip(styles, regions, parts, strict=True):
        wanted = color_moments(style.picture, part)
        result += region * match_moments(picture, color_moments(picture, region), wanted)
    return result
