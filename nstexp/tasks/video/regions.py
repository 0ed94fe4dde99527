"""The regions of a clip (masks=auto): found anew in every scene, and followed along the motion from frame to frame."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from nstexp.core.resize import resize
from nstexp.media.flow import Motion, warp
from nstexp.methods.base import Style, size_of
from nstexp.tasks.regions import Found, RegionFinder

if TYPE_CHECKING:  # only for the picture of the regions
    from PIL import Image


class SceneRegions:
    """The regions of the scene that is being stylized.

    The first frame of a scene and the paintings are clustered together, and the clusters stay the same in the scene.
    The memberships of a later frame are (1 - k c) f + k c w, with those of the frame itself f, those of the previous
    frame warped along the motion w, its trust map c and the steadiness k, as for the pictures. Memberships that are
    only warped would drift, and would be unknown where something comes into view.

    Args:
        finder: finds the regions.
        show: called with a picture of the regions of the first scene that the run begins or continues.

    Attributes:
        before: the memberships of the last frame, (R, h, w).
    """

    def __init__(self, finder: RegionFinder, show: "Callable[[Image.Image], object]") -> None:
        self.finder, self.show = finder, show
        self.before = torch.zeros(0, 1, 1)
        self._found: Found | None = None
        self._shown = False

    def begin(self, frame: Tensor, styles: Sequence[Style]) -> list[Style]:
        """The styles with their masks for the first frame (3, H, W) of a scene."""
        self._found, self.before = self.finder.find(frame, styles)
        if not self._shown:
            self._shown = True
            self.show(self._found.sheet(frame, self.before))
        return self._found.on(frame, self.before)

    def follow(self, frame: Tensor, motion: Motion | None, steadiness: float, styles: Sequence[Style]) -> list[Style]:
        """The styles with their masks for a later frame (3, H, W) of the scene.

        Args:
            motion: from the previous frame; None: it is not known.
            steadiness: k in the formula of this class.
            styles: those of `begin`, possibly in other colors.
        """
        assert self._found is not None  # `begin` has set it
        memberships = self._found.memberships(self.finder.features(frame), size_of(frame))
        if motion is not None and steadiness and self.before.shape == memberships.shape:
            warped, trust = _warped(self.before, motion)
            memberships = torch.lerp(memberships, warped, steadiness * trust)
        self.before = memberships
        return self._found.on(frame, memberships, styles)


def _warped(memberships: Tensor, motion: Motion) -> tuple[Tensor, Tensor]:
    """Memberships (R, h, w) of the previous frame, warped to this one, and the trust map (1, h, w)."""
    size = size_of(memberships)
    flow = torch.from_numpy(motion.backward).permute(2, 0, 1)[None]
    scale = torch.tensor([size[1] / flow.shape[-1], size[0] / flow.shape[-2]]).view(1, 2, 1, 1)
    small = F.interpolate(flow, size=size, mode="bilinear", align_corners=False) * scale
    return warp(memberships[None], small)[0], resize(torch.from_numpy(motion.trust)[None], size)
