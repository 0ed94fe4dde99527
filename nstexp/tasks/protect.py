"""Less style where it matters (`protect=...`): in faces, in boxes, and in the white parts of a mask."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from nstexp.core.color import chroma, color_moments, luminance, match_moments
from nstexp.core.errors import UserError
from nstexp.core.masks import soft_box
from nstexp.media.faces import find_faces, is_installed
from nstexp.media.masks import load_mask
from nstexp.media.paths import find_images
from nstexp.tasks.request import FACES, Request

log = logging.getLogger(__name__)
AROUND_FACES, AROUND_BOXES = 0.4, 0.2  # width of the soft edge, as a share of the mean side of the box


@dataclass(frozen=True)
class Protection:
    """Where results keep more of the photo, and how much.

    Args:
        strength: from 0 (nothing is protected) to 1 (protected areas get the photo's light and dark).
        faces: whether faces are protected.
        boxes: left, top, right and bottom edge of each box, as shares of width and height.
        files: masks, which are white where the result is protected.
        max_input_megapixels: limit on one file.
    """

    strength: float
    faces: bool = False
    boxes: Sequence[Sequence[float]] = ()
    files: Sequence[Path] = ()
    max_input_megapixels: float = 200
    _masks: dict[tuple[int, int], Tensor] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, request: Request) -> "Protection | None":
        """The settings of a request; None if it protects nothing.

        Raises:
            UserError: a mask does not exist, or the package that finds faces is not installed.
        """
        if not request.protected or not request.protect_strength:
            return None
        if FACES in request.protected and not is_installed():
            raise UserError(
                "protect=faces needs a package that is not installed: pip install 'nstexp[faces]'; a box or a mask in "
                "protect needs none"
            )
        boxes = [box for box in request.protected if not isinstance(box, str)]
        files = find_images(request.protecting_files, "protect") if request.protecting_files else []
        limit = request.max_input_megapixels
        return cls(request.protect_strength, FACES in request.protected, boxes, files, limit)

    def __call__(self, picture: Tensor, content: Tensor) -> Tensor:
        """Protect the result of a method.

        Args:
            picture: the result, RGB (B, 3, H, W) in [0, 1].
            content: the photos, same shape and range.

        Returns:
            RGB (B, 3, H, W) in [0, 1]; outside of protected areas and their soft edges the very same numbers.
        """
        masks = [self.mask(photo) for photo in content]
        return torch.cat(
            [self.blend(*each) for each in zip(torch.split(picture, 1), torch.split(content, 1), masks, strict=True)]
        )

    def mask(self, photo: Tensor) -> Tensor:
        """Where a photo (3, H, W) is protected: (H, W) in [0, 1], and the log says how many faces it has."""
        size = (photo.shape[-2], photo.shape[-1])
        if not self.faces:
            return self.still(size)
        found = self.of_faces(photo)
        if found:
            log.info("%d %s protected", len(found), "face is" if len(found) == 1 else "faces are")
        else:
            log.warning("protect=faces: there is no face in the picture")
        return joined([self.still(size), *found])

    def of_faces(self, photo: Tensor) -> list[Tensor]:
        """One mask (H, W) for each face in a photo (3, H, W)."""
        size = (photo.shape[-2], photo.shape[-1])
        return [soft_box(size, box, AROUND_FACES) for box in find_faces(photo)]

    def still(self, size: tuple[int, int]) -> Tensor:
        """What boxes and files protect in a photo of (height, width): (H, W) in [0, 1]."""
        if size not in self._masks:
            scale = (size[1], size[0], size[1], size[0])
            corners = [[share * side for share, side in zip(box, scale, strict=True)] for box in self.boxes]
            of_boxes = [soft_box(size, box, AROUND_BOXES) for box in corners]
            of_files = [load_mask(file, size, self.max_input_megapixels, "protect")[0] for file in self.files]
            self._masks.clear()
            self._masks[size] = joined([torch.zeros(size), *of_boxes, *of_files])
        return self._masks[size]

    def blend(self, picture: Tensor, photo: Tensor, mask: Tensor) -> Tensor:
        """Move a picture (1, 3, H, W) towards the photo where the mask (H, W) is above 0.

        The goal has the light and dark of the photo, and its chroma moved to the mean and covariance of the colors that
        the picture has there, so that it does not look pasted in.
        """
        if not bool(mask.any()):
            return picture
        photo, weight = photo.to(picture), mask.to(picture)
        own, wanted = color_moments(photo, weight), color_moments(picture, weight)
        goal = (luminance(photo) + chroma(match_moments(photo, own, wanted))).clamp(0, 1)
        return torch.where(weight > 0, torch.lerp(picture, goal, self.strength * weight), picture)


def joined(masks: Sequence[Tensor]) -> Tensor:
    """The largest of several masks (H, W) at every pixel."""
    return torch.stack(list(masks)).amax(0)
