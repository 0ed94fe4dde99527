"""The color guided filter: its definition window by window in float64, and what must not change its result."""

import numpy as np
import pytest
import torch
from pictures import random_picture, smooth_picture
from torch import Tensor

from nstexp.core import guided
from nstexp.core.color import color_moments
from nstexp.core.errors import UserError
from nstexp.core.guided import box_mean, color_slope, guided_filter

pytestmark = pytest.mark.usefixtures("one_thread")
SLOPE = torch.tensor([[0.8, 0.1, 0.0], [-0.2, 0.5, 0.3], [0.1, 0.0, 1.2]], dtype=torch.float64)


def windows(height: int, width: int, radius: int):
    """For every pixel, the slices of its window."""
    for y in range(height):
        for x in range(width):
            rows = slice(max(0, y - radius), y + radius + 1)
            yield y, x, (slice(None), rows, slice(max(0, x - radius), x + radius + 1))


def means(x: np.ndarray, radius: int) -> np.ndarray:
    result = np.empty_like(x)
    for row, column, window in windows(*x.shape[1:], radius):
        result[:, row, column] = x[window].mean((1, 2))
    return result


def reference(guide: Tensor, picture: Tensor, radius: int, eps: float, slope: Tensor | None = None) -> np.ndarray:
    """He et al. 2013, Eqs. 19 to 21, for (3, H, W): a ridge regression in each window, and the mean of its models."""
    guide, picture = guide.double().numpy(), picture.double().numpy()
    wanted = np.zeros((3, 3)) if slope is None else slope.numpy()
    maps = np.empty((12, *guide.shape[1:]))
    for row, column, window in windows(*guide.shape[1:], radius):
        i, p = (x[window].reshape(3, -1) for x in (guide, picture))
        centered = i - i.mean(1, keepdims=True)
        cov, cross = centered @ centered.T / i.shape[1], centered @ p.T / i.shape[1]  # (d, d), (d, c)
        factors = np.linalg.solve(cov + eps * np.eye(3), cross + eps * wanted.T).T  # (c, d)
        maps[:, row, column] = [*factors.flatten(), *(p.mean(1) - factors @ i.mean(1))]
    maps = means(maps, radius)
    return np.einsum("cdhw,dhw->chw", maps[:9].reshape(3, 3, *guide.shape[1:]), guide) + maps[9:]


@pytest.mark.parametrize("radius", [0, 1, 3, 8, 50])
def test_box_means_are_means_of_the_pixels_that_exist(radius):
    x = random_picture(7, 12)[0]
    np.testing.assert_allclose(box_mean(x, radius).numpy(), means(x.double().numpy(), radius), atol=1e-14)


@pytest.mark.parametrize("slope", [None, SLOPE])
@pytest.mark.parametrize(("radius", "eps"), [(1, 1e-4), (3, 1e-2), (20, 1e-3)])
def test_the_filter_is_its_definition(radius, eps, slope):
    guide, picture = random_picture(11, 17), random_picture(11, 17, seed=1)
    found = guided_filter(guide.double(), picture.double(), radius, eps, slope=slope)
    np.testing.assert_allclose(found[0].numpy(), reference(guide[0], picture[0], radius, eps, slope), atol=1e-10)
    assert (guided_filter(guide, picture, radius, eps, slope=slope) - found).abs().max() < 1e-5


@pytest.mark.parametrize("step", [1, 2, 3])
def test_what_is_affine_in_the_guide_is_kept(step):
    guide = random_picture(25, 32)
    affine = torch.einsum("cd,bdhw->bchw", SLOPE.float(), guide) * 0.5 + torch.tensor([0.1, 0.0, 0.2]).view(3, 1, 1)
    assert (guided_filter(guide, affine, 5, 1e-9, step) - affine).abs().max() < 1e-5
    assert (guided_filter(guide, affine, 5, 1.0, step, 0.5 * SLOPE) - affine).abs().max() < 1e-5
    assert (guided_filter(guide, affine, 5, 1.0, step) - affine).abs().max() > 0.05  # such an eps counts


@pytest.mark.parametrize("step", [1, 4])
def test_what_is_constant_is_kept(step):
    guide, constant = random_picture(25, 32), torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1).expand(1, 3, 25, 32)
    assert (guided_filter(guide, constant, 5, 1e-4, step) - constant).abs().max() < 1e-6
    slope = color_slope(guide, constant)
    assert (guided_filter(guide, constant, 5, 1e-4, step, slope) - constant).abs().max() < 1e-4


def test_a_large_eps_leaves_the_mean_of_means():
    guide, picture = random_picture(15, 20), random_picture(15, 20, seed=1)
    wanted = box_mean(box_mean(picture, 3), 3)
    assert (guided_filter(guide, picture, 3, 1e6) - wanted).abs().max() < 1e-5


def test_a_slope_filters_what_its_map_leaves():
    guide, picture = random_picture(15, 20).double(), random_picture(15, 20, seed=1).double()
    mapped = torch.einsum("cd,bdhw->bchw", SLOPE, guide)
    wanted = mapped + guided_filter(guide, picture - mapped, 3, 1e-2)
    assert (guided_filter(guide, picture, 3, 1e-2, slope=SLOPE) - wanted).abs().max() < 1e-10


@pytest.mark.parametrize("slope", [None, SLOPE])
def test_a_constant_added_to_the_guide_changes_nothing(slope):
    guide, picture = smooth_picture(24, 30), random_picture(24, 30, seed=1)
    shift = torch.tensor([0.3, -0.2, 10.0]).view(3, 1, 1)
    found = guided_filter(guide + shift, picture, 4, 1e-3, 2, slope)
    assert (found - guided_filter(guide, picture, 4, 1e-3, 2, slope)).abs().max() < 1e-4


@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_bands_change_nothing(monkeypatch, step):
    guide, picture = random_picture(101, 29), random_picture(101, 29, seed=1)
    whole = guided_filter(guide, picture, 4, 1e-3, step, SLOPE)
    monkeypatch.setattr(guided, "BAND_PX", 5 * 29)
    monkeypatch.setattr(guided, "APPLIED_PX", 2 * 29 * step)
    read = []
    fitted = guided._affine_maps
    monkeypatch.setattr(guided, "_affine_maps", lambda g, *rest: (read.append(g.shape[-2]), fitted(g, *rest))[1])
    found = guided_filter(guide, picture, 4, 1e-3, step, SLOPE)
    assert (found - whole).abs().max() < 2e-6
    assert step > 3 or (len(read) > 1 and max(read) < 101 // step)


def test_the_fit_on_a_reduced_copy_is_close_to_the_exact_one():
    guide, picture = (box_mean(smooth_picture(97, 130, seed), 2).float() for seed in (0, 1))
    exact = guided_filter(guide, picture, 24, 1e-3)
    assert (exact - picture).abs().mean() > 0.05
    for step in (2, 4):
        assert (guided_filter(guide, picture, 24, 1e-3, step) - exact).abs().mean() < 0.01


def test_long_rows_lose_no_digits():
    """A wide bright picture with little contrast; in float32, running sums would be off by a multiple of it."""
    guide = 0.9 + 0.002 * random_picture(2, 300_000)
    picture = 0.9 + 0.002 * random_picture(2, 300_000, seed=1)
    wanted = guided_filter(guide.double(), picture.double(), 2, 1e-9)
    assert (wanted - picture).abs().max() > 2e-4
    assert (guided_filter(guide, picture, 2, 1e-9) - wanted).abs().max() < 2e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_types_are_computed_in_longer_ones(dtype):
    guide, picture = random_picture(40, 60).to(dtype), random_picture(40, 60, seed=1).to(dtype)
    wanted = guided_filter(guide.float(), picture.float(), 5, 1e-3, 2)
    found = guided_filter(guide, picture, 5, 1e-3, 2)
    assert found.dtype == dtype and torch.equal(found, wanted.to(dtype))


def test_pictures_of_a_batch_are_independent():
    guides = torch.cat([random_picture(20, 24), random_picture(20, 24, seed=3)])
    pictures = torch.cat([random_picture(20, 24, seed=1), random_picture(20, 24, seed=2)])
    slopes = color_slope(guides, pictures)
    together = guided_filter(guides, pictures, 3, 1e-3, 2, slopes)
    shared = guided_filter(guides[:1], pictures, 3, 1e-3, 2)
    for n in range(2):
        one = slice(n, n + 1)
        torch.testing.assert_close(slopes[one], color_slope(guides[one], pictures[one]))
        torch.testing.assert_close(together[one], guided_filter(guides[one], pictures[one], 3, 1e-3, 2, slopes[one]))
        torch.testing.assert_close(shared[one], guided_filter(guides[:1], pictures[one], 3, 1e-3, 2))


def test_the_slope_matches_the_covariance_of_the_colors():
    guide, picture = random_picture(20, 24), 0.3 * random_picture(20, 24, seed=1)
    slope = color_slope(guide, picture)[0]
    before, after = color_moments(guide)[1], color_moments(picture)[1]
    torch.testing.assert_close(slope @ (before + guided.RIDGE * torch.eye(3)) @ slope.T, after, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(slope, slope.T)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radius": 0}, "radius=0: give a whole number, 1 or larger"),
        ({"eps": 0.0}, "eps=0.0: give a number larger than 0"),
        ({"step": 0}, "step=0: give a whole number, 1 or larger"),
        ({"guide": torch.rand(1, 3, 8, 9)}, "guide: guide and picture have different shapes"),
        ({"guide": torch.rand(3, 3, 8, 8)}, "guide: guide and picture have different shapes"),
    ],
)
def test_what_cannot_be_filtered_is_refused(change, message):
    values = {"guide": torch.rand(1, 3, 8, 8), "picture": torch.rand(2, 3, 8, 8), "radius": 2, "eps": 0.1, **change}
    with pytest.raises(UserError, match=message):
        guided_filter(**values)
