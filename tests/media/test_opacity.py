"""Colors behind and below transparent parts of a picture."""

import numpy as np
import pytest
from PIL import Image

from nstexp.media.opacity import filled, over


def cut_out(seed: int = 0) -> np.ndarray:
    """A disk of noise with a soft edge, and black, which nobody sees, around it."""
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 4), np.uint8)
    y, x = np.mgrid[:40, :50]
    opacity = np.clip((12 - np.hypot(y - 20, x - 22)) * 40 + 128, 0, 255).astype(np.uint8)
    pixels[..., 3] = opacity
    pixels[opacity == 0] = 0
    return pixels


@pytest.mark.parametrize("color", ["white", "black", "#336699"])
def test_over_a_color_is_what_pillow_makes(color):
    pixels = cut_out()
    below = Image.new("RGBA", (50, 40), color)
    expected = np.asarray(Image.alpha_composite(below, Image.fromarray(pixels)).convert("RGB")).astype(int)
    assert np.abs(over(pixels, color).astype(int) - expected).max() <= 1


def test_colors_of_the_nearest_solid_part_continue_outward():
    pixels = cut_out()
    found, solid = filled(pixels), pixels[..., 3] >= 128
    opaque = pixels[..., 3] == 255
    assert np.array_equal(found[opaque], pixels[opaque, :3])
    places = np.argwhere(solid)
    for y, x in np.argwhere(pixels[..., 3] == 0)[::37]:
        away = np.hypot(*(places - (y, x)).T)
        near = places[away <= away.min() + 1]  # the distance is approximate
        assert any(np.array_equal(found[y, x], pixels[j, i, :3]) for j, i in near)


def test_an_even_color_has_no_seam():
    pixels = cut_out()
    pixels[pixels[..., 3] > 0, :3] = 200, 100, 50
    assert np.array_equal(np.unique(filled(pixels).reshape(-1, 3), axis=0), [[200, 100, 50]])


def test_pictures_that_are_all_solid_or_have_no_solid_part():
    solid, faint = cut_out(), cut_out()
    solid[..., 3] = 255
    faint[..., 3] = 0
    assert np.array_equal(filled(solid), solid[..., :3])
    assert (filled(faint) == 255).all()
