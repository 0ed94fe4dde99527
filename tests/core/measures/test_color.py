"""Measures of color: pictures whose measure is known, and NumPy in float64."""

import numpy as np
import pytest
from core.measures.pictures import constant, picture

from nstexp.core.measures import color_distance, luminance_statistics, palette, palette_distance

pytestmark = pytest.mark.usefixtures("one_thread")


def test_color_distance_of_known_pictures():
    a, b = constant(0.2, 0.5, 0.1), constant(0.5, 0.1, 0.1)
    mean, cov = color_distance(a, b)
    assert (mean, cov) == (pytest.approx(0.5), pytest.approx(0, abs=1e-9))
    x, y = picture(), picture(30, 20, seed=1)
    covs = [np.cov(p.flatten(1).double().numpy(), bias=True) for p in (x, y)]
    assert color_distance(x, y)[1] == pytest.approx(np.linalg.norm(covs[0] - covs[1]), rel=1e-9)


def uv_histogram(pixels: np.ndarray) -> np.ndarray:
    """(N, 3) -> (3, 64, 64), one pixel and bin at a time."""
    bins = np.linspace(-3, 3, 64)
    histogram = np.zeros((3, 64, 64))
    for pixel in pixels:
        logs, weight = np.log(pixel + 1e-6), np.sqrt((pixel**2).sum() + 1e-6)
        for c, (u, v) in enumerate(((1, 2), (0, 2), (0, 1))):
            near_u = 1 / (1 + ((logs[c] - logs[u] - bins) / 0.02) ** 2)
            near_v = 1 / (1 + ((logs[c] - logs[v] - bins) / 0.02) ** 2)
            histogram[c] += weight * np.outer(near_u, near_v)
    return histogram / histogram.sum()


def test_palette_is_the_histogram():
    x, y = picture(7, 9), picture(5, 8, seed=1)
    histograms = [uv_histogram(p.flatten(1).T.double().numpy()) for p in (x, y)]
    np.testing.assert_allclose(palette(x).numpy(), histograms[0], rtol=1e-9)
    wanted = np.sqrt(1 - np.sqrt(histograms[0] * histograms[1]).sum())
    assert palette_distance(x, y) == pytest.approx(wanted, abs=1e-9)
    assert palette_distance(y, x) == pytest.approx(wanted, abs=1e-9)


def test_palette_distance_is_between_0_and_1():
    red, blue = constant(0.9, 0.1, 0.1), constant(0.1, 0.1, 0.9)
    assert palette_distance(red, red) == 0
    assert 0.9 < palette_distance(red, blue) <= 1
    assert palette_distance(constant(0, 0, 0), constant(1, 1, 1)) < 0.01, "a gray has no color"


def test_palette_knows_no_size():
    x = picture(40, 60)
    assert palette_distance(x, x.repeat_interleave(2, 1).repeat_interleave(2, 2)) < 1e-6
    assert palette_distance(constant(0.9, 0.2, 0.1, size=(400, 300)), constant(0.9, 0.2, 0.1)) < 1e-3


def test_luminance_statistics_of_a_known_picture():
    gray = constant(0.4, 0.4, 0.4, size=(2, 2))
    gray[:, 0] = 1
    found = luminance_statistics(gray)
    assert found == {
        "luminance_mean": pytest.approx(0.7),
        "luminance_std": pytest.approx(0.3),
        "clipped_share": pytest.approx(0.5),
    }
