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
from nstexp.core.runtime.memory import budget_bytes, check_memory, release_freed
from nstexp.core.torus import periodic
from nstexp.methods.base import SMALLER_RESULT, Controls, Style, Stylizer, size_of
from nstexp.methods.canvas import Canvas, starting_image
from nstexp.methods.picture import PictureOptimization, optimized
from nstexp.methods.settings import GatysSettings
from nstexp.methods.targets import TargetMaker, layers_in_use
from nstexp.methods.tiling import Tiling, obstacle_in

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
    accepts = frozenset({"layers", "fine", "combine", "masks", "style_masks", "seamless", "texture"})
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
        self._without_content: LossSet | None = None
        # The last style pictures with fine strokes: (style, fine, content size, result).
        self._with_strokes: list[tuple[Tensor, Tensor, tuple[int, int], Tensor]] = []

    @property
    def steps(self) -> int:
        return self.settings.max_steps

    def stylize(self, content: Tensor, styles: Sequence[Style], controls: Controls) -> Tensor:
        """Optimize `content` (1, 3, H, W), RGB in [0, 1], towards `styles`; the result has the same shape and range.

        Raises:
            Stopped: interrupted, or the loss became NaN; the exception has the best picture so far.
            UserError: a picture too small for the encoder's deepest layer or too large for the memory, or loss terms
                that do not support several styles combined in this way, or masks.
        """
        release_freed()  # the memory of the previous picture
        losses = self.losses_for(controls)
        self._check_styles(losses, styles, controls)
        size = size_of(content)
        self._check_sizes(losses, size, styles, controls)
        styles = [style if style.fine is None else self._with_fine_strokes(style, size, controls) for style in styles]
        settings = _from_nothing(self.settings) if controls.texture else self.settings
        if controls.clip is not None and controls.clip.warped is not None:
            settings = settings.at_full_size(settings.next_steps)
        return optimized(self.optimization(content, styles, controls, settings), self.trainer())

    def losses_for(self, controls: Controls) -> LossSet:
        """The loss terms of a picture: without those of content if there is no photo.

        Raises:
            UserError: no style term with a weight above 0 is left.
        """
        if not controls.texture or not self.losses.has("content"):
            return self.losses
        if self._without_content is None:
            try:
                self._without_content = self.losses.without("content")
            except UserError:
                raise UserError(
                    "content=null: the style terms of the loss make a texture, but none of them has a weight above 0: "
                    "set weights.beta larger, or name such a term in loss=[...]"
                ) from None
        return self._without_content

    def _reader(self, controls: Controls) -> Encoder:
        """The network that reads the picture and the content."""
        if not controls.seamless:
            return self.encoder
        make = getattr(self.encoder, "on_torus", None)
        if make is None:
            raise UserError(
                f"seamless=true: {self.encoder.identity} has no circular padding: take another backbone, such as vgg19"
            )
        reader: Encoder = make()
        return reader

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
        settings, losses = settings or self.settings, self.losses_for(controls)
        layers = layers_in_use(self.encoder, losses, styles, roles)
        stride = max(map(self.encoder.stride, layers), default=1)
        canvas = Canvas(content, settings.margin_px, stride, controls.seamless)
        styles = [style if style.mask is None else _on_canvas(style, style.mask, canvas) for style in styles]
        reader, combine = self._reader(controls), controls.combine
        tiling = self._tiling(losses, controls)
        maker = TargetMaker(
            self.encoder, reader, losses, settings, canvas, styles, combine, controls.clip, tuple(roles), tiling
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
        named = replace(
            controls, name="fine strokes", watch=None, judge=None, unfinished=None, clip=None, seamless=False,
            texture=False,
        )  # fmt: skip
        optimization = self.optimization(
            coarse[None], [Style(fine, layers=layers)], named, self.settings.for_fine_strokes(), ("style", "image")
        )
        try:
            mixed = optimized(optimization, self.trainer())[0]
        except Stopped as stop:
            raise Stopped(f"{stop} of the fine strokes", None, stop.interrupted) from None
        self._with_strokes = [*self._with_strokes[-3:], (style.picture, style.fine, size, mixed)]
        return replace(style, image=mixed, fine=None)

    def _check_styles(self, losses: LossSet, styles: Sequence[Style], controls: Controls) -> None:
        terms = {name: term for name, term in losses.terms.items() if term.role == "style"}
        for style in styles:
            if style.layers is not None:
                self._check_style_layers("style_layers", style.layers)
        if any(style.fine is not None for style in styles):
            fine_layers = self.settings.fine_layers
            self._check_style_layers("method.fine_layers", fine_layers)
            if not any(losses.weights[name] and self._reads_any(terms[name], fine_layers) for name in terms):
                raise UserError(
                    "fine_style: no style term at method.fine_layers has a weight above 0, so there would be no fine "
                    "strokes: set weights.*"
                )
        for name, term in terms.items():
            if losses.weights[name] and not any(self._reads_any(term, style.layers) for style in styles):
                raise UserError(f"style_layers: the loss term '{name}' has none of these layers, leave it out of loss")
        if styles[0].mask is not None:
            _check_regions(terms, controls)
        if any(style.part is not None for style in styles):
            _check_parts(terms)

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

    def _check_sizes(self, losses: LossSet, size: tuple[int, int], styles: Sequence[Style], controls: Controls) -> None:
        """Refuse pictures that are too small for a loss or a layer, or too large for the memory.

        Args:
            size: (height, width) of the content picture.
        """
        key, knob = ("content=null", "texture_px") if controls.texture else ("content", "image_px")
        layers = losses.layers()
        smallest = self.encoder.min_side_px(layers)
        deepest = max(layers, key=self.encoder.depth, default="the image")
        if min(size) < losses.min_side_px:
            raise UserError(
                f"{key}: the picture is {size[1]}x{size[0]} px, but a loss needs {losses.min_side_px} px on "
                f"the shorter side: set {knob} larger, or loss.laplacian.pool_px smaller"
            )
        if min(size) < smallest:
            raise UserError(
                f"{key}: the picture is {size[1]}x{size[0]} px, but {deepest} needs at least {smallest} px on the "
                f"shorter side: set {knob} larger, or layers.* to shallower layers"
            )
        images = [("style", style.picture) for style in styles]
        images += [("fine_style", style.fine) for style in styles if style.fine is not None]
        for name, image in images:
            height, width = self.settings.style_size(image, size)
            if self.settings.style_resize == "none":  # fine strokes are made at the picture's original size
                height, width = min((height, width), size_of(image))
            if min(height, width) < smallest:
                raise UserError(
                    f"{name}: the style picture is {width}x{height} px when resized for the result, but {deepest} "
                    f"needs at least {smallest} px on the shorter side: set {knob} larger, or take a less elongated "
                    "picture"
                )
        remedy = "set the longer side in texture_px to {px} or less" if controls.texture else SMALLER_RESULT
        if self.settings.memory_gb is not None:
            remedy += ", or method.memory_gb larger"
        reader = self._reader(controls)
        self._tiling(losses, controls).check(reader, layers, size, key, remedy)

    def _tiling(self, losses: LossSet, controls: Controls) -> Tiling:
        """How large pictures are computed.

        Raises:
            UserError: method.tile_px asks for tiles, and there cannot be any.
        """
        s = self.settings
        obstacle = obstacle_in(losses, self.encoder)
        if s.normalize_gradients:
            obstacle = "method.normalize_gradients=true needs whole feature maps"
        if controls.seamless:
            obstacle = "seamless=true needs the whole picture"
        if obstacle and s.tile_px not in ("auto", None):
            raise UserError(f"method.tile_px={s.tile_px}: {obstacle}, so there cannot be tiles: leave one of them out")
        return Tiling(s.tile_px, budget_bytes(s.memory_gb), obstacle)


def _starting_image(
    init: str, canvas: Canvas, styles: Sequence[Style], settings: GatysSettings, controls: Controls
) -> Tensor:
    images, shares = [style.picture for style in styles], [style.share for style in styles]
    parts = [style.part_at(size_of(style.picture)) for style in styles]
    start = starting_image(init, canvas.content, images, shares, settings.noise_std, controls.seed, parts)
    # The edges of a painting or of a given picture do not meet; those of noise need not, and those of content do.
    return periodic(start) if canvas.wraps and init not in ("content", "recolored", "noise") else start


def _from_nothing(settings: GatysSettings) -> GatysSettings:
    """The settings of a picture without a photo: it starts from noise unless they name another start."""
    if settings.init in ("recolored", "adain"):
        raise UserError(
            f"method.init={settings.init} needs a photo, and with content=null there is none: set method.init=noise"
        )
    return replace(settings, init="noise") if settings.init == "content" else settings


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


def _check_parts(terms: dict[str, Any]) -> None:
    """Refuse loss terms that cannot take their statistics from a part of a style picture."""
    for name, term in terms.items():
        if "guides" not in signature(term.target).parameters:
            raise UserError(
                f"style_masks, or masks=auto: the loss term '{name}' reads whole style pictures: leave it out of "
                "loss=[...]"
            )
