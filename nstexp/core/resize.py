"""Sizes of pictures, and the only resize in nstexp."""

from torch import Tensor
from torch.nn import functional as F


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (3, H, W) or (B, 3, H, W) to `size` = (height, width): antialiased bicubic, the only resize in nstexp."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    batch = image if image.dim() == 4 else image[None]
    result = F.interpolate(batch, size=tuple(size), mode="bicubic", antialias=True, align_corners=False)
    return (result if image.dim() == 4 else result[0]).clamp(0, 1)


def size_for_longer_side(size: tuple[int, int], longer_px: int | None) -> tuple[int, int]:
    """(height, width) scaled so that the longer side is `longer_px`, aspect kept; None keeps the size."""
    if longer_px is None:
        return size
    scale = longer_px / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def size_for_shorter_side(size: tuple[int, int], shorter_px: int) -> tuple[int, int]:
    """(height, width) scaled so that the shorter side is `shorter_px`, aspect kept."""
    scale = shorter_px / min(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def size_for_pixels(size: tuple[int, int], pixels: float) -> tuple[int, int]:
    """(height, width) scaled to about `pixels` pixels in all, aspect kept."""
    scale = (pixels / (size[0] * size[1])) ** 0.5
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def padded_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """(..., H, W) reflected at the right and bottom edge to multiples; where that is too much, the edge is repeated."""
    height, width = image.shape[-2:]
    extra = (-width % multiple, -height % multiple)
    if extra == (0, 0):
        return image
    mode = "reflect" if extra[0] < width and extra[1] < height else "replicate"
    return F.pad(image, (0, extra[0], 0, extra[1]), mode=mode)
