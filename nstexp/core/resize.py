"""Resizing of pictures, the only implementation in nstexp, and calculations of sizes."""

from torch import Tensor
from torch.nn import functional as F

from nstexp.core.runtime.memory import REMEDY, check_fits

CHECKED_PX = 2**24  # results with more pixels than this are checked against the free memory
COPIES = 3  # of the result, that resizing holds at its peak


def resize(image: Tensor, size: tuple[int, int], what: str = "", remedy: str = REMEDY) -> Tensor:
    """Resize an image by antialiased bicubic interpolation; the result is clamped to [0, 1].

    Args:
        image: (C, H, W) or (B, C, H, W) in [0, 1].
        size: (height, width); an image of this size is returned unchanged.
        what, remedy: parts of the error message, see `memory.check_fits`.

    Raises:
        UserError: the result does not fit into the free memory.

    Examples:
        >>> resize(torch.full((3, 4, 4), 0.5), (2, 3)).shape
        torch.Size([3, 2, 3])
    """
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    batch = image if image.dim() == 4 else image[None]
    if size[0] * size[1] > CHECKED_PX:
        needed = COPIES * batch.element_size() * batch.shape[0] * batch.shape[1] * size[0] * size[1]
        check_fits(needed, size, what, remedy, image.device)
    result = F.interpolate(batch, size=tuple(size), mode="bicubic", antialias=True, align_corners=False)
    return (result if image.dim() == 4 else result[0]).clamp(0, 1)


def size_for_longer_side(size: tuple[int, int], longer_px: int | None) -> tuple[int, int]:
    """Scale (height, width) to a longer side of `longer_px` and keep the aspect ratio; None keeps the size.

    Examples:
        >>> size_for_longer_side((300, 400), 200), size_for_longer_side((300, 400), None)
        ((150, 200), (300, 400))
    """
    if longer_px is None:
        return size
    scale = longer_px / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def size_for_shorter_side(size: tuple[int, int], shorter_px: int) -> tuple[int, int]:
    """Scale (height, width) to a shorter side of `shorter_px` and keep the aspect ratio.

    Examples:
        >>> size_for_shorter_side((300, 400), 150)
        (150, 200)
    """
    scale = shorter_px / min(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def size_for_pixels(size: tuple[int, int], pixels: float) -> tuple[int, int]:
    """Scale (height, width) to about `pixels` pixels and keep the aspect ratio.

    Examples:
        >>> size_for_pixels((300, 400), 30_000)
        (150, 200)
    """
    scale = (pixels / (size[0] * size[1])) ** 0.5
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def padded_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Pad (..., H, W) at the right and bottom edge to multiples, by reflection, or by replication if it is too small.

    Examples:
        >>> padded_to_multiple(torch.tensor([[[1.0, 2.0, 3.0]]]), 2)[0].tolist()
        [[1.0, 2.0, 3.0, 3.0], [1.0, 2.0, 3.0, 3.0]]
        >>> padded_to_multiple(torch.tensor([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]), 2)[0].tolist()
        [[1.0, 2.0, 3.0, 2.0], [4.0, 5.0, 6.0, 5.0]]
    """
    height, width = image.shape[-2:]
    extra = (-width % multiple, -height % multiple)
    if extra == (0, 0):
        return image
    mode = "reflect" if extra[0] < width and extra[1] < height else "replicate"
    return F.pad(image, (0, extra[0], 0, extra[1]), mode=mode)
