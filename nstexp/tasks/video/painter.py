"""Frames of a clip, one after the other: redrawn by any method, and steadied along the motion."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from nstexp.core.pixels import from_array, to_array
from nstexp.core.resize import resize
from nstexp.media.flow import Motion
from nstexp.media.video import Frame
from nstexp.methods.base import Clip, Controls, Style, Stylizer
from nstexp.tasks.color import check_made, finish_colors, prepare_content, prepare_styles
from nstexp.tasks.request import Color

BEFORE, SHOWN, PLAIN, KEPT = "before", "shown", "plain", "kept."  # names of what a state holds


@dataclass(frozen=True)
class Shot:
    """A frame of the clip on its way.

    Args:
        number: in the result.
        size: of the result, (height, width).
        motion: since the frame before; None: there is none, or it is not needed.
        repeated: whether it is the very same picture as the frame before.
        seconds: since the beginning of the result.
        place: in the result, from 0 to 1.
    """

    number: int
    frame: Frame
    size: tuple[int, int]
    motion: Motion | None
    repeated: bool
    seconds: float
    place: float

    @property
    def begins_scene(self) -> bool:
        return self.number == 0 or (self.motion is not None and self.motion.cut)

    @cached_property
    def picture(self) -> Tensor:
        """(3, H, W) in [0, 1] at the size of the result."""
        return resize(from_array(self.frame.pixels), self.size)


def batches(shots: Iterable[Shot], count: int) -> Iterator[list[Shot]]:
    """Lists of up to `count` shots of one scene."""
    batch: list[Shot] = []
    for shot in shots:
        if batch and (len(batch) == count or shot.begins_scene):
            yield batch
            batch = []
        batch.append(shot)
    if batch:
        yield batch


class Painter:
    """Redraws shots in their order and steadies them.

    With g the method's result, k `steadiness`, w the result before, moved along, and c where that can be trusted, a
    frame is (1 - k c) g + k c w; of methods that optimize it is g, for which they have used w and c themselves.

    Args:
        styles: at the size of the result.
        controls: of every frame.
    """

    def __init__(
        self,
        method: Stylizer,
        styles: Sequence[Style],
        fade: Sequence[float] | None,
        color: Color,
        strength: float,
        controls: Controls,
        steadiness: float,
    ) -> None:
        self.method, self.styles, self.fade = method, styles, fade
        self.color, self.strength = color, strength
        self.optimizes = getattr(method, "optimizes", False)
        self.one_by_one = self.optimizes or fade is not None
        self.blends = bool(steadiness) and not self.optimizes
        self.colors_by_scene = strength > 0 and color in ("preserve", "luminance")
        self.clip = Clip(steadiness) if steadiness else None
        self.controls = replace(controls, recorded=False, clip=self.clip)
        self._scene_styles = None if self.colors_by_scene else styles
        self._before: np.ndarray | None = None  # the method's result, float32 (H, W, 3)
        self._shown: tuple[np.ndarray, np.ndarray] | None = None
        self.scene: int | None = None  # the number of the frame that decided about the colors of the styles

    def state(self) -> dict[str, Tensor]:
        """What the next frame depends on besides the clip, by name; nothing changes these tensors later."""
        kept = {} if self.clip is None else {f"{KEPT}{name}": own for name, own in self.clip.state().items()}
        shown, plain = self._shown or (None, None)
        arrays = {BEFORE: self._before, SHOWN: shown, PLAIN: None if plain is shown else plain}
        return kept | {name: torch.from_numpy(array) for name, array in arrays.items() if array is not None}

    def restore(self, state: Mapping[str, Tensor], scene: int | None, content: Tensor | None) -> None:
        """Go on behind the frames that `state` is of.

        Args:
            scene: the number of the frame that began the scene.
            content: of that frame, (1, 3, H, W); needed if `colors_by_scene`.
        """
        if content is not None:
            self.begin_scene(content)
        self.scene = scene
        arrays = {name: tensor.numpy() for name, tensor in state.items() if not name.startswith(KEPT)}
        self._before = arrays.get(BEFORE)
        self._shown = (arrays[SHOWN], arrays.get(PLAIN, arrays[SHOWN])) if SHOWN in arrays else None
        if self.clip is not None:
            self.clip.restore({name.removeprefix(KEPT): own for name, own in state.items() if name.startswith(KEPT)})

    @property
    def shown(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The last picture and, of it, what does not come from the frame before; None: there is none."""
        return self._shown

    def go_on(self, picture: np.ndarray) -> None:
        """Take this picture, uint8 (H, W, 3), for the result before."""
        self._shown = picture, picture
        result = from_array(picture)[None]
        self._before = _as_array(prepare_content(self.color, self.strength, result)[0])

    def paint(self, shots: Sequence[Shot]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of every shot the picture, and the picture without what comes from the frame before, uint8 (H, W, 3)."""
        fresh = [shot for shot in shots if not self._is_known(shot)]
        results = iter(self._results(fresh)) if fresh else iter(())
        painted = []
        for shot in shots:
            if not self._is_known(shot):
                content, result = next(results)
                steady = self._steadied(result, shot)
                styles = self._styles_at(shot.place)
                plain = self._finished(result, content, styles)
                self._shown = (plain if steady is result else self._finished(steady, content, styles)), plain
            painted.append(self._shown)
        return painted

    def _is_known(self, shot: Shot) -> bool:
        return shot.repeated and self.fade is None

    def _results(self, shots: Sequence[Shot]) -> list[tuple[Tensor, Tensor]]:
        """Of every shot the content and what the method makes of it, (1, 3, H, W) each."""
        contents = torch.stack([shot.picture for shot in shots])
        if shots[0].begins_scene or self._scene_styles is None:
            self.begin_scene(contents[:1])
            self.scene = shots[0].number
        elif self.optimizes and self.clip is not None:
            self.clip.warped, self.clip.trust = self._moved(shots[0]) or (None, None)
        given = prepare_content(self.color, self.strength, contents)
        controls = replace(self.controls, name=f"frame {shots[0].number + 1}")
        styles = self._styles_at(shots[0].place)
        results = self.method.stylize(given, styles, controls).float().cpu()
        check_made(results, given, styles, self.method, controls.name)
        return list(zip(contents.split(1), results.split(1), strict=True))

    def begin_scene(self, content: Tensor) -> None:
        """Forget the frames until now; the content (1, 3, H, W) of the new scene decides about the colors of the style
        pictures, once, for with every frame they would flicker."""
        if self.clip is not None:
            self.clip.begin_scene()
        self._before = None
        self._scene_styles = prepare_styles(self.color, self.strength, content, self.styles)

    def _styles_at(self, place: float) -> Sequence[Style]:
        if self.fade is None:
            return self._scene_styles
        index = min(int(place * (len(self.fade) - 1)), len(self.fade) - 2)
        within = place * (len(self.fade) - 1) - index
        position = self.fade[index] + within * (self.fade[index + 1] - self.fade[index])
        shares = [max(0.0, 1 - abs(position - number)) for number in range(len(self._scene_styles))]
        return [replace(s, share=share) for s, share in zip(self._scene_styles, shares, strict=True) if share]

    def _steadied(self, result: Tensor, shot: Shot) -> Tensor:
        if self.clip is None:
            return result
        if self.blends and (moved := self._moved(shot)) is not None:
            warped, trust = moved
            result = torch.lerp(result, warped, self.clip.steadiness * trust)
        self._before = _as_array(result[0])
        return result

    def _moved(self, shot: Shot) -> tuple[Tensor, Tensor] | None:
        """The result before, moved to where this shot has it, (1, 3, H, W), and where that is trusted, (1, 1, H, W)."""
        if self._before is None:
            return None
        if shot.repeated:
            return _as_batch(self._before), torch.ones(1, 1, *shot.size)
        if shot.motion is None:
            return None
        return _as_batch(shot.motion.from_before(self._before)), torch.from_numpy(shot.motion.trust)[None, None]

    def _finished(self, result: Tensor, content: Tensor, styles: Sequence[Style]) -> np.ndarray:
        return to_array(finish_colors(self.color, self.strength, result, content, styles)[0])


def _as_array(picture: Tensor) -> np.ndarray:
    """(3, H, W) -> (H, W, 3)."""
    return picture.permute(1, 2, 0).contiguous().numpy()


def _as_batch(picture: np.ndarray) -> Tensor:
    """(H, W, 3) -> (1, 3, H, W)."""
    return torch.from_numpy(picture).permute(2, 0, 1)[None].contiguous()
