"""Per-image optimization (Gatys, Ecker & Bethge 2016): the pixels of each picture are optimized."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from inspect import signature
from typing import Any

import torch
from pytorch_lightning import Trainer
from torch import Tensor

from nstexp.core.errors import Stopped, UserError
from nstexp.core.losses.loss_set import LossSet
from nstexp.core.losses.terms import Role
from nstexp.core.networks.encoder import BEFORE, IMAGE, TRUST, Encoder
from nstexp.core.resize import resize
from nstexp.core.runtime.memory import check_memory, release_freed
from nstexp.methods.base import SMALLER_RESULT, Controls, Style, Stylizer
from nstexp.methods.canvas import Canvas, starting_image
from nstexp.methods.picture import PictureOptimization, optimized
from nstexp.methods.settings import GatysSettings
from nstexp.methods.targets import TargetMaker, layers_in_use

log = logging.getLogger(__name__)


class Gatys(Stylizer):
    """Redraws one picture at a time by optimizing its pixels; a frame of a clip begins with the frame before.

    Args:
        encoder: feature network; owns preprocessing and precision.
        losses: terms and weights.
        trainer: makes a fresh Lightning trainer for each picture.
        adain: makes the method that init=adain starts from, given a number format.
        settings: the fields of `GatysSettings`.
    """

    optimizes = True
    accepts = frozenset({"layers", "fine", "combine", "masks"})
    settings_type = GatysSettings

    def __init__(
        self,
        encoder: Encoder,
        losses: LossSet,
        trainer: Callable[[], Trainer],
        adain: Callable[[torch.dtype], Stylizer] | None = None,
        **settings: Any,
    ) -> None:
        if losses.has("identity"):
            raise UserError("the loss term 'identity' is for training (task=train): leave it out of loss=[...]")
        self.encoder, self.losses, self.trainer, self.adain = encoder, losses, trainer, adain
        self.settings = GatysSettings(**settings)
        self._drafter: Stylizer | None = None
        self._stroked: list[tuple[Tensor, Tensor, tuple[int, int], Tensor]] = []  # style, fine, size, result

    def stylize(self, content: Tensor, styles: Sequence[Style], controls: Controls) -> Tensor:
        """Redraw `content` (1, 3, H, W) in the manner of `styles`.

        Raises:
            Stopped: interrupted, or the loss became NaN; carries the best picture until then.
            UserError: a picture too small for the encoder's deepest layer, or too large for the memory; loss terms that
                do not work with several styles, or by regions, in the way that is asked for.
        """
        release_freed()  # of the picture before
        self._check_styles(styles, controls)
        self._check_sizes(content, styles)
        size = tuple(content.shape[-2:])
        styles = [style if style.fine is None else self._with_fine_strokes(style, size, controls) for style in styles]
        follows = controls.clip is not None and controls.clip.warped is not None
        settings = self.settings.at_full_size(self.settings.next_steps) if follows else self.settings
        return optimized(self.optimization(content, styles, controls, settings), self.trainer())

    def optimization(
        self,
        content: Tensor,
        styles: Sequence[Style],
        controls: Controls,
        settings: GatysSettings | None = None,
        roles: Sequence[Role] = (),
    ) -> PictureOptimization:
        """The Lightning module that optimizes one picture.

        Args:
            settings: other ones than the method's.
            roles: see `TargetMaker`.
        """
        settings = settings or self.settings
        layers = layers_in_use(self.encoder, self.losses, styles, roles)
        canvas = Canvas(content, settings.margin_px, max(map(self.encoder.stride, layers), default=1))
        styles = [style if style.mask is None else _on_canvas(style, canvas) for style in styles]
        maker = TargetMaker(
            self.encoder, self.losses, settings, canvas, styles, controls.combine, controls.clip, tuple(roles)
        )
        return PictureOptimization(maker, self.start(maker, controls), controls)

    def start(self, maker: TargetMaker, controls: Controls) -> Tensor:
        """The image that an optimization begins with, (B, 3, H, W), of the canvas' size."""
        canvas, styles, settings = maker.canvas, maker.styles, maker.settings
        if before := maker.before():
            # The paper starts from the result before (`prevWarped`) everywhere, which takes many more steps to put
            # right where something else has come into sight; and the plain frame keeps its colors there for as long.
            fresh = _starting_image("recolored", canvas, styles, settings, controls)
            return torch.lerp(fresh, before[BEFORE].to(fresh), before[TRUST].to(fresh))
        if settings.init == "adain" and self.adain is not None:
            return self._draft(canvas, styles, settings, controls)
        return _starting_image(settings.init, canvas, styles, settings, controls)

    def _draft(self, canvas: Canvas, styles: Sequence[Style], settings: GatysSettings, controls: Controls) -> Tensor:
        """What AdaIN makes of the picture."""
        sized = [resize(style.image, settings.style_size(style.image, canvas.picture_size)) for style in styles]
        drafts = [replace(style, image=image, layers=None) for style, image in zip(styles, sized, strict=True)]
        if self._drafter is None:
            self._drafter = self.adain(self.encoder.dtype).to(self.encoder.device)
        draft = self._drafter.stylize(canvas.content, drafts, replace(controls, combine="weighted_loss"))
        return draft.to(canvas.content).clone()  # made without gradients, which a clone may have

    def _with_fine_strokes(self, style: Style, size: tuple[int, int], controls: Controls) -> Style:
        """The style with the statistics of its `fine` picture at shallow layers (Gatys et al. 2017, section 6.1)."""
        coarse, fine = style.image, style.fine
        for image, strokes, at, mixed in self._stroked:  # the same for every content picture of this size
            if image is coarse and strokes is fine and at == size:
                return replace(style, image=mixed, fine=None)
        log.info("putting the fine strokes onto the style picture")
        if self.settings.style_resize != "none":  # else both are scaled when the style is used
            coarse, fine = (resize(image, self.settings.style_size(image, size)) for image in (coarse, fine))
        own, layers = tuple(coarse.shape[-2:]), tuple(self.settings.fine_layers)
        check_memory(self.encoder.activation_bytes(own, layers), own, "style", SMALLER_RESULT)
        named = replace(controls, name="fine strokes", watch=None, clip=None)
        picture = self.optimization(
            coarse[None], [Style(fine, layers=layers)], named, self.settings.for_fine_strokes(), ("style", "image")
        )
        try:
            mixed = optimized(picture, self.trainer())
        except Stopped as stop:
            raise Stopped(f"{stop} of the fine strokes", None, stop.interrupted) from None
        self._stroked = [*self._stroked[-3:], (style.image, style.fine, size, mixed[0])]
        return replace(style, image=mixed[0], fine=None)

    def _check_styles(self, styles: Sequence[Style], controls: Controls) -> None:
        terms = {name: term for name, term in self.losses.terms.items() if term.role == "style"}
        for style in styles:
            if style.layers is not None:
                self._check_style_layers("style_layers", style.layers)
        if any(style.fine is not None for style in styles):
            fine_layers = self.settings.fine_layers
            self._check_style_layers("method.fine_layers", fine_layers)
            if not any(self.losses.weights[name] and self._meets(terms[name], fine_layers) for name in terms):
                raise UserError("fine_style: no style term that could make strokes has a weight above 0, see weights.*")
        for name, term in terms.items():
            if self.losses.weights[name] and not any(self._meets(term, style.layers) for style in styles):
                raise UserError(f"style_layers: the loss term '{name}' has none of these layers, leave it out of loss")
        if styles[0].mask is not None:
            _check_regions(terms, controls)

    def _meets(self, term: torch.nn.Module, layers: Sequence[str] | None) -> bool:
        own = self.encoder.canonical
        return layers is None or any(x == IMAGE or own(x) in map(own, layers) for x in term.layers)

    def _check_style_layers(self, key: str, layers: Sequence[str]) -> None:
        known = [self.encoder.canonical(layer) for layer in self.losses.layers("style")]
        try:
            fits = bool(layers) and all(self.encoder.canonical(layer) in known for layer in layers)
        except UserError:  # no layer of the network
            fits = False
        if not fits:
            raise UserError(f"{key}={list(layers)}: give some of the style layers {', '.join(known)}")

    def _check_sizes(self, content: Tensor, styles: Sequence[Style]) -> None:
        layers = self.losses.layers()
        smallest = self.encoder.min_side_px(layers)
        deepest = max(layers, key=self.encoder.depth, default="the image")
        size = tuple(content.shape[-2:])
        if min(size) < self.losses.min_side_px:
            raise UserError(
                f"content: the picture is {size[1]}x{size[0]} px, but a loss needs {self.losses.min_side_px} px on "
                "the shorter side: set image_px larger, or loss.laplacian.pool_px smaller"
            )
        if min(size) < smallest:
            raise UserError(
                f"content: the picture is {size[1]}x{size[0]} px, but {deepest} needs at least {smallest} px on the "
                "shorter side: set image_px larger, or layers.* to shallower layers"
            )
        images = [("style", style.image) for style in styles]
        images += [("fine_style", style.fine) for style in styles if style.fine is not None]
        for key, image in images:
            height, width = self.settings.style_size(image, size)
            if self.settings.style_resize == "none":  # the size at which fine strokes are made
                height, width = min((height, width), tuple(image.shape[-2:]))
            if min(height, width) < smallest:
                raise UserError(
                    f"{key}: at the result's scale the style picture is {width}x{height} px, but {deepest} needs at "
                    f"least {smallest} px on the shorter side: take a less elongated picture or a larger image_px"
                )
        check_memory(self.encoder.activation_bytes(size, layers), size, "content", SMALLER_RESULT)


def _starting_image(
    init: str, canvas: Canvas, styles: Sequence[Style], settings: GatysSettings, controls: Controls
) -> Tensor:
    images, shares = [style.image for style in styles], [style.share for style in styles]
    return starting_image(init, canvas.content, images, shares, settings.noise_std, controls.seed)


def _on_canvas(style: Style, canvas: Canvas) -> Style:
    return replace(style, mask=canvas.extend(style.mask[None, None])[0, 0])


def _check_regions(terms: dict[str, torch.nn.Module], controls: Controls) -> None:
    if controls.combine != "weighted_loss":
        raise UserError(f"style_combine={controls.combine}: with masks each style has a place of its own, leave it out")
    for name, term in terms.items():
        if "guides" not in signature(term.forward).parameters:
            raise UserError(f"masks=...: the loss term '{name}' does not work by regions")
