"""Find faces in pictures: MTCNN (Zhang et al. 2016), whose weights come with the package facenet-pytorch."""

from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
from torch import Tensor

from nstexp.core.pixels import to_array
from nstexp.core.resize import resize, size_for_longer_side

SEARCHED_PX = 768  # the longer side of the picture in which faces are searched
SMALLEST_PX = 20  # of a face in that picture, which is 1/38 of the longer side
SURE = 0.95  # least probability; in photos without faces, patterns and animals reach 0.92

Box = tuple[float, float, float, float]


def is_installed() -> bool:
    """Whether the package that finds faces is installed."""
    return find_spec("facenet_pytorch") is not None


def find_faces(picture: Tensor) -> list[Box]:
    """The boxes of the faces in a picture, from the brows to the chin.

    Args:
        picture: RGB (3, H, W) in [0, 1].

    Returns:
        For each face the left, top, right and bottom edge in pixels of the picture; a box may reach beyond it.
    """
    height, width = picture.shape[-2:]
    size = size_for_longer_side((height, width), min(SEARCHED_PX, max(height, width)))
    if min(size) < SMALLEST_PX:
        return []
    boxes, chances = _detector().detect(to_array(resize(picture.detach().float().cpu(), size)))
    if boxes is None:
        return []
    scale = np.array([width / size[1], height / size[0]] * 2)
    sure = [np.asarray(box, float) * scale for box, chance in zip(boxes, chances, strict=True) if chance >= SURE]
    return [(float(x0), float(y0), float(x1), float(y1)) for x0, y0, x1, y1 in sure]


@cache
def _detector() -> Any:
    from facenet_pytorch import MTCNN

    return MTCNN(keep_all=True, min_face_size=SMALLEST_PX, device="cpu").eval()
