"""Style transfer by optimizing the pixels of each picture (Gatys, Ecker & Bethge 2016)."""

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
from nstexp.methods.base import SMALLER_RESULT, Controls, Style, Stylizer, size_of
from nstexp.methods.canvas import Canvas, starting_image
from nstexp.methods.picture import PictureOptimization, optimized
from nstexp.methods.settings import GatysSettings
from nstexp.methods.targets import TargetMaker, layers_in_use

log = logging.getLogger(__name__)


class Gatys(Stylizer):
    """Optimizes the pixels of one picture at a time; a frame of a clip starts from the previous frame's result.

    Args:
        encoder: the feature network, with its preprocessing and number format.
        losses: loss terms and their weights.
        trainer: returns a new Lightning trainer; called once per picture.
        adain: returns the AdaIN method for init=adain, given a number format.
        settings: the fields of `GatysSettings`.

    Raises:
        UserError: a loss term that only works in a training.
        ArgumentError: see `GatysSettings`.
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
        # The last style pictures with fine strokes: (style, fine, content size, result).
        self._with_strokes: list[tuple[Tensor, Tensor, tuple[int, int], Tensor]] = []

    def stylize(self, content: Tensor, styles: Sequence[Style], controls: Controls) -> Tensor:
        """Optimize `content` (1, 3, H, W), RGB in [0, 1], towards `styles`; the result has the same shape and range.

        Raises:
            Stopped: interrupted, or the loss became NaN; the exception has the best picture so far.
            UserError: a picture too small for the encoder's deepest layer or too large for the memory, or loss terms
                that do not support several styles combined in this way, or masks.
        """
        release_freed()  # the memory of the previous picture
        self._check_styles(styles, controls)
        size = size_of(content)
        self._check_sizes(size, styles)
        styles = [style if style.fine is None else self._with_fine_strokes(style, size, controls) for style in styles]
        continues = controls.clip is not None and controls.clip.warped is not None
        settings = self.settings.at_full_size(self.settings.next_steps) if continues else self.settings
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
            content: (1, 3, H, W), RGB in [0, 1].
            settings: None: the method's settings.
            roles: see `TargetMaker`.
        """
        settings = settings or self.settings
        layers = layers_in_use(self.encoder, self.losses, styles, roles)
        canvas = Canvas(content, settings.margin_px, max(map(self.encoder.stride, layers), default=1))
        styles = [style if style.mask is None else _on_canvas(style, style.mask, canvas) for style in styles]
        maker = TargetMaker(
            self.encoder, self.losses, settings, canvas, styles, controls.combine, controls.clip, tuple(roles)
        )
        return PictureOptimization(maker, self.start(maker, controls), controls)

    def start(self, maker: TargetMaker, controls: Controls) -> Tensor:
        """The starting image of an optimization, (B, 3, H, W), of the canvas' size."""
        canvas, styles, settings = maker.canvas, maker.styles, maker.settings
        if before := maker.before():
            # Ruder et al. start from the warped result (`prevWarped`) everywhere, and newly visible areas then need
            # many more steps. Starting these from the plain frame is no better: its colors last as long.
            fresh = _starting_image("recolored", canvas, styles, settings, controls)
            return torch.lerp(fresh, before[BEFORE].to(fresh), before[TRUST].to(fresh))
        if settings.init == "adain" and self.adain is not None:
            return self._draft(canvas, styles, settings, controls)
        return _starting_image(settings.init, canvas, styles, settings, controls)

    def _draft(self, canvas: Canvas, styles: Sequence[Style], settings: GatysSettings, controls: Controls) -> Tensor:
        """The result of AdaIN for the picture on its canvas."""
        sized = [resize(style.picture, settings.style_size(style.picture, canvas.picture_size)) for style in styles]
        drafts = [replace(style, image=image, layers=None) for style, image in zip(styles, sized, strict=True)]
        if self._drafter is None:
            assert self.adain is not None  # `start` has checked it
            drafter: Any = self.adain(self.encoder.dtype)
            self._drafter = drafter.to(self.encoder.device)
        draft = self._drafter.stylize(canvas.content, drafts, replace(controls, combine="weighted_loss"))
        return draft.to(canvas.content).clone()  # the draft is an inference tensor; only its clone can have gradients

    def _with_fine_strokes(self, style: Style, size: tuple[int, int], controls: Controls) -> Style:
        """The style with the statistics of its `fine` picture at shallow layers (Gatys et al. 2017, section 6.1)."""
        assert style.fine is not None
        for image, strokes, content_size, mixed in self._with_strokes:
            if image is style.image and strokes is style.fine and content_size == size:
                return replace(style, image=mixed, fine=None)
        log.info("putting the fine strokes onto the style picture")
        coarse, fine = style.picture, style.fine
        if self.settings.style_resize != "none":  # else both are scaled when the style is used
            coarse, fine = (resize(image, self.settings.style_size(image, size)) for image in (coarse, fine))
        coarse_size, layers = size_of(coarse), tuple(self.settings.fine_layers)
        check_memory(self.encoder.activation_bytes(coarse_size, layers), coarse_size, "style", SMALLER_RESULT)
        named = replace(controls, name="fine strokes", watch=None, clip=None)
        optimization = self.optimization(
            coarse[None], [Style(fine, layers=layers)], named, self.settings.for_fine_strokes(), ("style", "image")
        )
        try:
            mixed = optimized(optimization, self.trainer())[0]
        except Stopped as stop:
            raise Stopped(f"{stop} of the fine strokes", None, stop.interrupted) from None
        self._with_strokes = [*self._with_strokes[-3:], (style.picture, style.fine, size, mixed)]
        return replace(style, image=mixed, fine=None)

    def _check_styles(self, styles: Sequence[Style], controls: Controls) -> None:
        terms = {name: term for name, term in self.losses.terms.items() if term.role == "style"}
        for style in styles:
            if style.layers is not None:
                self._check_style_layers("style_layers", style.layers)
        if any(style.fine is not None for style in styles):
            fine_layers = self.settings.fine_layers
            self._check_style_layers("method.fine_layers", fine_layers)
            if not any(self.losses.weights[name] and self._reads_any(terms[name], fine_layers) for name in terms):
                raise UserError(
                    "fine_style: no style term at method.fine_layers has a weight above 0, so there would be no fine "
                    "strokes: set weights.*"
                )
        for name, term in terms.items():
            if self.losses.weights[name] and not any(self._reads_any(term, style.layers) for style in styles):
                raise UserError(f"style_layers: the loss term '{name}' has none of these layers, leave it out of loss")
        if styles[0].mask is not None:
            _check_regions(terms, controls)

    def _reads_any(self, term: Any, layers: Sequence[str] | None) -> bool:
        """Whether a loss term reads the image or one of these layers (None: all layers)."""
        canonical = self.encoder.canonical
        return layers is None or any(x == IMAGE or canonical(x) in map(canonical, layers) for x in term.layers)

    def _check_style_layers(self, key: str, layers: Sequence[str]) -> None:
        known = [self.encoder.canonical(layer) for layer in self.losses.layers("style")]
        try:
            fits = bool(layers) and all(self.encoder.canonical(layer) in known for layer in layers)
        except UserError:  # the network has no such layer
            fits = False
        if not fits:
            raise UserError(f"{key}={list(layers)}: give some of the style layers {', '.join(known)}")

    def _check_sizes(self, size: tuple[int, int], styles: Sequence[Style]) -> None:
        """Refuse pictures that are too small for a loss or a layer, or too large for the memory.

        Args:
            size: (height, width) of the content picture.
        """
        layers = self.losses.layers()
        smallest = self.encoder.min_side_px(layers)
        deepest = max(layers, key=self.encoder.depth, default="the image")
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
        images = [("style", style.picture) for style in styles]
        images += [("fine_style", style.fine) for style in styles if style.fine is not None]
        for key, image in images:
            height, width = self.settings.style_size(image, size)
            if self.settings.style_resize == "none":  # fine strokes are made at the picture's original size
                height, width = min((height, width), size_of(image))
            if min(height, width) < smallest:
                raise UserError(
                    f"{key}: the style picture is {width}x{height} px when resized for the result, but {deepest} needs "
                    f"at least {smallest} px on the shorter side: set image_px larger, or take a less elongated picture"
                )
        check_memory(self.encoder.activation_bytes(size, layers), size, "content", SMALLER_RESULT)


def _starting_image(
    init: str, canvas: Canvas, styles: Sequence[Style], settings: GatysSettings, controls: Controls
) -> Tensor:
    images, shares = [style.picture for style in styles], [style.share for style in styles]
    return starting_image(init, canvas.content, images, shares, settings.noise_std, controls.seed)


def _on_canvas(style: Style, mask: Tensor, canvas: Canvas) -> Style:
    """The style with its mask (H, W) extended to the canvas."""
    return replace(style, mask=canvas.extend(mask[None, None])[0, 0])


def _check_regions(terms: dict[str, Any], controls: Controls) -> None:
    """Refuse settings and loss terms that do not work with masks."""
    if controls.combine != "weighted_loss":
        raise UserError(f"style_combine={controls.combine} does not work with masks: leave style_combine out")
    for name, term in terms.items():
        if "guides" not in signature(term.forward).parameters:
            raise UserError(f"masks=...: the loss term '{name}' does not work with masks: leave it out of loss=[...]")
