"""Pictures with an alpha channel: put a color behind them, or take their colors as far as they are needed."""

import numpy as np

OPAQUE = 250  # opacity from which on nothing shines through: lossy codecs round 255 to less
SOLID = 128  # opacity from which on a pixel's own color is trusted


def over(pixels: np.ndarray, background: str) -> np.ndarray:
    """RGBA uint8 (H, W, 4), not premultiplied, over a color -> RGB uint8 (H, W, 3).

    Args:
        background: the name or #rrggbb code of a color.

    Examples:
        >>> over(np.array([[[0, 0, 0, 255], [0, 0, 0, 0]]], np.uint8), "red").tolist()
        [[[0, 0, 0], [255, 0, 0]]]
    """
    from PIL import ImageColor

    return _mixed(pixels, np.array(ImageColor.getrgb(background)[:3], np.uint16))


def filled(pixels: np.ndarray) -> np.ndarray:
    """RGBA uint8 (H, W, 4), not premultiplied, with the colors of its solid part continued outward -> RGB (H, W, 3).

    Files hold any color where nothing is seen, often black. A picture that is redrawn over its own colors has no seam
    of another color at its edge, whatever it is shown on later. A picture without any solid part is white.

    Examples:
        >>> filled(np.array([[[9, 9, 9, 255], [0, 0, 0, 0], [0, 0, 0, 51]]], np.uint8))[0, :, 0].tolist()
        [9, 9, 7]
    """
    import cv2

    opacity = pixels[..., 3]
    solid = opacity >= SOLID
    if solid.all():
        return np.ascontiguousarray(pixels[..., :3])
    if not solid.any():
        return over(pixels, "white")
    _, labels = cv2.distanceTransformWithLabels(
        (~solid).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    nearest = np.zeros((int(labels.max()) + 1, 3), np.uint16)
    nearest[labels[solid]] = pixels[solid, :3]  # every solid pixel has a label of its own
    return _mixed(pixels, nearest[labels])


def _mixed(pixels: np.ndarray, background: np.ndarray) -> np.ndarray:
    """RGBA over a background, uint16 (H, W, 3) or (3,) with levels up to 255, rounded."""
    opacity = pixels[..., 3:].astype(np.uint16)
    mixed: np.ndarray = ((pixels[..., :3] * opacity + background * (255 - opacity) + 127) // 255).astype(np.uint8)
    return mixed
