"""Stylize the frames of a clip in order with any method, and smooth them along the motion."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from nstexp.core.pixels import from_array, to_array
from nstexp.core.resize import resize
from nstexp.core.runtime.threads import for_each
from nstexp.media.flow import Motion
from nstexp.media.video import Frame
from nstexp.methods.base import Clip, Controls, Style, Stylizer
from nstexp.tasks.color import check_made, prepare_content, prepare_styles
from nstexp.tasks.finish import Finish, content_for
from nstexp.tasks.protect import joined
from nstexp.tasks.video.regions import SceneRegions

# Names of the tensors in a state; KEPT is the prefix of the method's statistics.
BEFORE, SHOWN, PLAIN, PROTECTED, KEPT, REGIONS = "before", "shown", "plain", "protected", "kept.", "regions"
PROTECTION_STEADINESS = 0.8  # share of the previous frame's protected faces in those of this frame
LEAST_PROTECTION = 1e-3  # less than a quarter of a gray level
SEAM_PX = 16  # at the edges of a seamless clip, where the previous frame counts less and less


@dataclass(frozen=True)
class Shot:
    """A frame of the clip that is to be stylized.

    Args:
        number: index of the frame in the result, from 0.
        frame: the decoded frame.
        size: (height, width) of the result.
        motion: motion since the previous frame; None for the first and for repeated frames, or if it is not needed.
        repeated: whether the frame's pixels and opacity are identical to those of the previous frame.
        seconds: time since the beginning of the result.
        place: position in the result, from 0 to 1.
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
        """Whether this is the first frame of the result, or the first after a cut."""
        return self.number == 0 or (self.motion is not None and self.motion.cut)

    @cached_property
    def picture(self) -> Tensor:
        """The frame resized to the size of the result, RGB (3, H, W) in [0, 1]."""
        return resize(from_array(self.frame.pixels), self.size)

    @cached_property
    def opacity(self) -> np.ndarray | None:
        """The opacity of the frame at the size of the result, uint8 (H, W); None if it is not kept."""
        if self.frame.opacity is None or self.frame.opacity.shape == self.size:
            return self.frame.opacity
        return to_array(resize(from_array(self.frame.opacity[..., None]), self.size))[..., 0]

    def cut_out(self, picture: np.ndarray) -> np.ndarray:
        """A result, uint8 (H, W, 3), with the opacity of the frame as fourth channel if it is kept."""
        return picture if self.opacity is None else np.dstack([picture, self.opacity])


def batches(shots: Iterable[Shot], count: int) -> Iterator[list[Shot]]:
    """Group consecutive shots of the same scene into lists of up to `count`."""
    batch: list[Shot] = []
    for shot in shots:
        if batch and (len(batch) == count or shot.begins_scene):
            yield batch
            batch = []
        batch.append(shot)
    if batch:
        yield batch


class Painter:
    """Stylizes shots in order and smooths them over time.

    A finished frame is (1 - k c) g + k c w, with the method's result g, `steadiness` k, the previous result warped
    along the motion w, and its trust map c. For methods that optimize, it is g, since they use w and c by themselves.

    Args:
        method: the method.
        styles: the styles, with masks of the size of the result.
        fade: see `Settings.fade`.
        finish: the finish of every frame.
        controls: the settings of every frame.
        steadiness: see `Settings.stabilize`.
        regions: finds the regions of the frames (masks=auto), instead of masks of the styles; None: there are none.
    """

    def __init__(
        self,
        method: Stylizer,
        styles: Sequence[Style],
        fade: Sequence[float] | None,
        finish: Finish,
        controls: Controls,
        steadiness: float,
        regions: SceneRegions | None = None,
    ) -> None:
        self.method, self.styles, self.fade = method, styles, fade
        self.finish = finish
        self.optimizes = getattr(method, "optimizes", False)
        self.regions = regions
        self.one_by_one = self.optimizes or fade is not None or regions is not None
        self.blends = bool(steadiness) and not self.optimizes
        self.colors_by_scene = finish.color_strength > 0 and finish.color in ("preserve", "luminance")
        self.begins_with_scene = self.colors_by_scene or regions is not None  # whether a scene's first frame matters
        self.clip = Clip(steadiness) if steadiness else None
        self.controls = replace(controls, recorded=False, clip=self.clip or Clip())
        self._scene_styles = None if self.begins_with_scene else styles
        self._before: np.ndarray | None = None  # the method's last result, float32 (H, W, 3)
        self._shown: tuple[np.ndarray, np.ndarray] | None = None
        self._protected_before: np.ndarray | None = None  # where faces are protected in the last frame, float32 (H, W)
        self.most_faces = 0  # in a frame so far
        self.scene: int | None = None  # the number of the frame to which the styles were adapted

    def state(self) -> dict[str, Tensor]:
        """Everything besides the clip on which the next frame depends, by name; see `State.tensors`."""
        statistics = {} if self.clip is None else {f"{KEPT}{name}": x for name, x in self.clip.state().items()}
        if self.regions is not None:
            statistics |= {REGIONS: self.regions.before}
        shown, plain = self._shown or (None, None)
        arrays = {
            BEFORE: self._before,
            SHOWN: shown,
            PLAIN: None if plain is shown else plain,
            PROTECTED: self._protected_before,
        }
        return statistics | {name: torch.from_numpy(array) for name, array in arrays.items() if array is not None}

    def restore(self, state: Mapping[str, Tensor], scene: int | None, content: Tensor | None) -> None:
        """Continue after the frame at which `state` was taken.

        Args:
            scene: the number of the first frame of the scene.
            content: that frame, RGB (1, 3, H, W) in [0, 1]; only needed if `begins_with_scene`.
        """
        if content is not None:
            self.begin_scene(content)
        self.scene = scene
        if self.regions is not None and REGIONS in state:
            self.regions.before = state[REGIONS]
        arrays = {name: tensor.numpy() for name, tensor in state.items() if not name.startswith(KEPT)}
        self._before, self._protected_before = arrays.get(BEFORE), arrays.get(PROTECTED)
        self._shown = (arrays[SHOWN], arrays.get(PLAIN, arrays[SHOWN])) if SHOWN in arrays else None
        if self.clip is not None:
            self.clip.restore({name.removeprefix(KEPT): x for name, x in state.items() if name.startswith(KEPT)})

    @property
    def shown(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The last finished frame, and the same without the blended previous frame, uint8 (H, W, 3); None before the
        first frame."""
        return self._shown

    def go_on(self, picture: np.ndarray) -> None:
        """Use this picture, uint8 (H, W, 3), as the previous result."""
        self._shown = picture, picture
        result = from_array(picture)[None]
        self._before = _as_array(prepare_content(self.finish.color, self.finish.color_strength, result)[0])

    def paint(self, shots: Sequence[Shot]) -> list[tuple[np.ndarray, np.ndarray]]:
        """For every shot, the finished frame, and the same without the blended previous frame, uint8 (H, W, 3)."""
        new = [shot for shot in shots if not self._is_unchanged(shot)]
        results = iter(self._results(new)) if new else iter(())
        painted = []
        for shot in shots:
            if not self._is_unchanged(shot):
                content, result = next(results)
                smoothed = self._smoothed(result, shot)
                styles = self._styles_at(shot.place)
                made = [result] if smoothed is result else [result, smoothed]
                finished = self._finished(made, content, styles, self._protected(content, shot))
                self._shown = finished[-1], finished[0]
            assert self._shown is not None  # the first frame of a clip repeats no other
            painted.append(self._shown)
        return painted

    def _is_unchanged(self, shot: Shot) -> bool:
        """Whether the result of the previous frame is also the result of this one."""
        return shot.repeated and self.fade is None

    def _results(self, shots: Sequence[Shot]) -> list[tuple[Tensor, Tensor]]:
        """For every shot, the content and the method's result, both (1, 3, H, W)."""
        contents = torch.stack(for_each(lambda shot: shot.picture, shots))
        if shots[0].begins_scene or self._scene_styles is None:
            self.begin_scene(contents[:1])
            self.scene = shots[0].number
        elif self.optimizes and self.clip is not None:
            self.clip.warped, self.clip.trust = self._warped_before(shots[0]) or (None, None)
        contents = content_for(self.controls, contents)
        if self.regions is not None and self.scene != shots[0].number:
            self._scene_styles = self._styles_of_regions(shots[0])
        given = prepare_content(self.finish.color, self.finish.color_strength, contents)
        controls = replace(self.controls, name=f"frame {shots[0].number + 1}")
        styles = self._styles_at(shots[0].place)
        results = self.method.stylize(given, styles, controls).float().cpu()
        check_made(results, given, styles, self.method, controls.name)
        return list(zip(torch.split(contents, 1), torch.split(results, 1), strict=True))

    def begin_scene(self, content: Tensor) -> None:
        """Forget earlier frames, and adapt the styles' colors, and the regions, to the first frame of the new scene.

        The colors are adapted once per scene, since they would flicker if every frame changed them.

        Args:
            content: RGB (1, 3, H, W) in [0, 1].
        """
        if self.clip is not None:
            self.clip.begin_scene()
        self._before = None
        content = content_for(self.controls, content)
        styles = self.styles if self.regions is None else self.regions.begin(content[0], self.styles)
        self._scene_styles = prepare_styles(self.finish.color, self.finish.color_strength, content, styles)

    def _styles_of_regions(self, shot: Shot) -> Sequence[Style]:
        """The styles of the scene, with masks that have followed the motion to this shot."""
        assert self.regions is not None and self._scene_styles is not None  # the first frame of the scene has set them
        steadiness = 0.0 if self.clip is None else self.clip.steadiness
        return self.regions.follow(shot.picture, shot.motion, steadiness, self._scene_styles)

    def _styles_at(self, place: float) -> Sequence[Style]:
        """The styles of the scene, with the shares that `fade` gives them at a position from 0 to 1."""
        styles = self._scene_styles
        assert styles is not None  # `begin_scene` has set them
        if self.fade is None:
            return styles
        index = min(int(place * (len(self.fade) - 1)), len(self.fade) - 2)
        within = place * (len(self.fade) - 1) - index
        position = self.fade[index] + within * (self.fade[index + 1] - self.fade[index])
        shares = [max(0.0, 1 - abs(position - number)) for number in range(len(styles))]
        return [replace(s, share=share) for s, share in zip(styles, shares, strict=True) if share]

    def _smoothed(self, result: Tensor, shot: Shot) -> Tensor:
        """The method's result (1, 3, H, W), blended with the warped previous result."""
        if self.clip is None:
            return result
        if self.blends and (before := self._warped_before(shot)) is not None:
            warped, trust = before
            result = torch.lerp(result, warped, self.clip.steadiness * trust)
        self._before = _as_array(result[0])
        return result

    def _warped_before(self, shot: Shot) -> tuple[Tensor, Tensor] | None:
        """The previous result warped to this shot, (1, 3, H, W), and its trust map, (1, 1, H, W); None if there is no
        previous result in this scene."""
        if self._before is None:
            return None
        if shot.repeated:
            return _as_batch(self._before), torch.ones(1, 1, *shot.size)
        if shot.motion is None:
            return None
        trust = torch.from_numpy(shot.motion.trust)[None, None]
        if self.controls.seamless:  # the motion knows nothing of opposite edges, which must stay alike
            trust = trust * _inside(shot.size)
        return _as_batch(shot.motion.from_before(self._before)), trust

    def _protected(self, content: Tensor, shot: Shot) -> Tensor | None:
        """Where a frame is protected, (H, W); None: nowhere.

        Faces are followed along the motion and averaged over time, so that one that is missed in a few frames does not
        flicker.
        """
        protection = self.finish.protection
        if protection is None or not protection.faces:
            return None if protection is None else protection.still(shot.size)
        faces = protection.of_faces(content[0])
        self.most_faces = max(self.most_faces, len(faces))
        protected = joined([torch.zeros(shot.size), *faces])
        if self._protected_before is not None and not shot.begins_scene:
            before = self._protected_before
            if shot.motion is not None:
                before = shot.motion.from_before(np.repeat(before[..., None], 3, 2))[..., 0]
            protected = torch.lerp(protected, torch.from_numpy(np.ascontiguousarray(before)), PROTECTION_STEADINESS)
        protected = torch.where(protected < LEAST_PROTECTION, 0, protected)
        self._protected_before = protected.numpy()
        return joined([protection.still(shot.size), protected])

    def _finished(
        self, results: Sequence[Tensor], content: Tensor, styles: Sequence[Style], mask: Tensor | None
    ) -> list[np.ndarray]:
        """Results of one frame, (1, 3, H, W) each, finished together, uint8 (H, W, 3); `mask` as for `Finish`."""
        colored = [self.finish.in_colors(result, content, styles) for result in results]
        pictures = self.finish.as_photo(torch.cat(colored), content)
        return [to_array(self.finish.protected(one, content, mask)[0]) for one in torch.split(pictures, 1)]


def _inside(size: tuple[int, int]) -> Tensor:
    """(H, W): 0 at the edges of a picture of (height, width), and 1 from `SEAM_PX` on."""
    rows, columns = (torch.arange(side) for side in size)
    down, across = (torch.minimum(x, len(x) - 1 - x).clamp(max=SEAM_PX) / SEAM_PX for x in (rows, columns))
    return torch.minimum(down[:, None], across)


def _as_array(picture: Tensor) -> np.ndarray:
    """(3, H, W) -> (H, W, 3)."""
    return picture.permute(1, 2, 0).contiguous().numpy()


def _as_batch(picture: np.ndarray) -> Tensor:
    """(H, W, 3) -> (1, 3, H, W)."""
    return torch.from_numpy(picture).permute(2, 0, 1)[None].contiguous()
