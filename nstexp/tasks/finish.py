"""What tasks do to a picture around every method: its colors before the method, and the finish of the result."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from nstexp.core.errors import Stopped
from nstexp.core.guided import color_slope, guided_filter, reduced
from nstexp.core.torus import periodic, within, wrapped
from nstexp.interrupts import held
from nstexp.methods.base import Controls, Style, Stylizer
from nstexp.tasks.color import check_made, finish_colors, prepare_colors
from nstexp.tasks.protect import Protection
from nstexp.tasks.request import Color, PhotoFilter, Request


@dataclass(frozen=True)
class Finish:
    """The settings of a run that apply to the result of every method, in the order in which they apply.

    Args:
        color, color_strength, photorealism, photo, seamless: see `Request`.
        protection: where results keep more of the photo; None: nowhere.
    """

    color: Color = "none"
    color_strength: float = 1.0
    photorealism: float = 0.0
    photo: PhotoFilter = field(default_factory=PhotoFilter)
    seamless: bool = False
    protection: Protection | None = None

    @classmethod
    def of(cls, request: Request) -> "Finish":
        """The settings of a request.

        Raises:
            UserError: see `Protection.of`.
        """
        colors = request.color, request.color_strength
        return cls(*colors, request.photorealism, request.photo, request.seamless, Protection.of(request))

    @property
    def files(self) -> Sequence[Path]:
        """The files that the finish reads, which the run must not replace."""
        return () if self.protection is None else self.protection.files

    def __call__(self, picture: Tensor, content: Tensor, styles: Sequence[Style], mask: Tensor | None = None) -> Tensor:
        """Finish the result of a method.

        Args:
            picture: the result, RGB (B, 3, H, W) in [0, 1].
            content, styles: the inputs, before `prepare_colors`.
            mask: (H, W), where the result is protected; None: as `protection` finds it in the content.

        Returns:
            RGB (B, 3, H, W) in [0, 1].
        """
        return self.protected(self.as_photo(self.in_colors(picture, content, styles), content), content, mask)

    def mask(self, content: Tensor) -> Tensor | None:
        """Where the result of a photo (1, 3, H, W) is protected, (H, W) in [0, 1]; None: nowhere. Looks for faces."""
        return None if self.protection is None else self.protection.mask(content[0])

    def in_colors(self, picture: Tensor, content: Tensor, styles: Sequence[Style]) -> Tensor:
        """The first part of the finish, see `finish_colors`."""
        return finish_colors(self.color, self.color_strength, picture, content, styles)

    def protected(self, picture: Tensor, content: Tensor, mask: Tensor | None) -> Tensor:
        """The last part of the finish: more of the photo where `protection` says so, see `__call__`."""
        if self.protection is None:
            return picture
        if mask is None:
            return self.protection(picture, content)
        return self.protection.blend(picture, content, mask)

    def as_photo(self, picture: Tensor, photo: Tensor) -> Tensor:
        """Make a picture locally affine in the photo, blended by `photorealism`; at 0 it is returned unchanged.

        Args:
            picture: RGB (B, 3, H, W) in [0, 1].
            photo: (B, 3, H, W), or (1, 3, H, W) for all pictures, in [0, 1].

        Returns:
            RGB (B, 3, H, W) in [0, 1].
        """
        return photographic(picture, photo, self.photorealism, self.photo, self.seamless)


def content_for(controls: Controls, content: Tensor) -> Tensor:
    """The content (B, 3, H, W) that a method and the finish get: for a seamless result, its opposite edges meet."""
    return periodic(content) if controls.seamless else content


def photographic(
    picture: Tensor, photo: Tensor, strength: float, settings: PhotoFilter, seamless: bool = False
) -> Tensor:
    """Blend a picture with its fit by local affine maps of the photo's colors (`core.guided.guided_filter`).

    Args:
        picture: RGB (B, 3, H, W) in [0, 1].
        photo: (B, 3, H, W), or (1, 3, H, W) for all pictures, in [0, 1].
        strength: share of the fit, from 0 (the picture is returned unchanged) to 1.
        settings: of the filter.
        seamless: whether the windows of the filter reach over the edges of the picture to the opposite ones.

    Returns:
        RGB (B, 3, H, W) in [0, 1].
    """
    if strength == 0:
        return picture
    picture = picture.to(photo)
    longer_px = max(picture.shape[-2:])
    step = max(1, longer_px // (settings.fit_px or longer_px))
    slope = color_slope(reduced(photo, step), reduced(picture, step)) if settings.kind == "matched" else None
    radius_px = max(1, round(settings.radius * longer_px))
    # Windows are averaged twice, so that a pixel depends on others within twice the radius.
    margin = -(-2 * (radius_px + step) // step) * step if seamless else 0
    photo, wide = (wrapped(x, *[margin] * 4) for x in (photo, picture))
    fitted = within(guided_filter(photo, wide, radius_px, settings.eps, step, slope), margin)
    return torch.lerp(picture, fitted.clamp_(0, 1), strength)


def redraw(
    method: Stylizer,
    content: Tensor,
    styles: Sequence[Style],
    controls: Controls,
    finish: Finish | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Stylize a picture: `content_for`, `prepare_colors`, `method.stylize`, and the finish.

    Args:
        content: RGB (B, 3, H, W) in [0, 1].
        finish: None: the result of the method as it is.
        mask: see `Finish.__call__`.

    Returns:
        The result, RGB (B, 3, H, W) in [0, 1].

    Raises:
        UserError: the method's result is not a picture, see `check_made`.
        Stopped: the method stopped early, or the user interrupted; the exception has the best picture so far.
    """
    finish, content = finish or Finish(), content_for(controls, content)
    given, given_styles = prepare_colors(finish.color, finish.color_strength, content, styles)
    try:
        picture = method.stylize(given, given_styles, controls)
    except Stopped as stop:
        if stop.image is not None:
            with held():
                stop.image = finish(stop.image, content, styles, mask)
        raise
    check_made(picture, given, given_styles, method, controls.name)
    with held() as hold:
        picture = finish(picture, content, styles, mask)
    if hold.asked:
        raise Stopped("interrupted at the end", picture, interrupted=True)
    return picture
