"""The network of method=swift: exact statistics, what a painting decides, and degenerate pictures."""

import pytest
import torch
from torch.nn import functional as F

from nstexp.core.color import color_map
from nstexp.core.networks.swift import (
    FLOOR,
    RIDGE,
    Moments,
    Swift,
    SwiftStyle,
    color_moments,
    recolored,
    roots,
    transferred,
)


def smooth(seed: int, h: int = 64, w: int = 80) -> torch.Tensor:
    coarse = torch.rand(1, 3, h // 8, w // 8, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=(h, w), mode="bicubic").clamp(0, 1)


@pytest.fixture(scope="module")
def network() -> Swift:
    torch.manual_seed(0)
    return Swift((16, 16, 32), (8, 16, 16), 2).requires_grad_(False)


def test_parameters_of_the_default():
    assert sum(p.numel() for p in Swift().parameters()) == 1_629_812


def test_roots_are_those_of_the_eigenvectors():
    torch.manual_seed(0)
    x = torch.randn(2, 6, 40, dtype=torch.float64)
    matrices = x @ x.mT / 40
    values, vectors = torch.linalg.eigh(matrices)
    for found, power in zip(roots(matrices), (0.5, -0.5), strict=True):
        torch.testing.assert_close(found, vectors @ torch.diag_embed(values**power) @ vectors.mT)


def test_the_color_map_is_the_one_that_changes_colors_least(network):
    photo, painting = smooth(0), smooth(1)
    own, style = color_moments(photo), network.style(painting)
    ridge = 4e-4 * torch.eye(3, dtype=torch.float64)
    matrix = color_map(color_moments(painting).cov[0, 0].double(), own.cov[0, 0].double() + ridge, "sym", eps=0)
    centered = (photo - own.mean[:, :, None, None]).double()
    wanted = torch.einsum("dc,bchw->bdhw", matrix, centered) + style.color_mean.double()[:, None, None]
    torch.testing.assert_close(recolored(photo, own, style).double(), wanted, atol=2e-4, rtol=0)


def test_recolored_has_the_moments_of_the_painting(network):
    photo, painting = smooth(0), smooth(1)
    found, wanted = (
        color_moments(recolored(photo, color_moments(photo), network.style(painting))),
        color_moments(painting),
    )
    torch.testing.assert_close(found.mean, wanted.mean, atol=1e-5, rtol=0)
    assert (found.cov - wanted.cov).abs().max() < 0.03 * wanted.cov.abs().max()  # the ridge takes a little


def test_transferred_features_have_means_and_covariances_of_the_groups():
    torch.manual_seed(0)
    x = torch.randn(2, 8, 30, 30) * torch.linspace(1, 1.5, 8).view(8, 1, 1) + 5
    flat = x.flatten(2)
    mean = flat.mean(2)
    whole = (flat - mean[:, :, None]) @ (flat - mean[:, :, None]).mT / 900
    blocks = torch.stack([whole[:, :4, :4], whole[:, 4:, 4:]], 1)
    wanted_mean, y = torch.randn(8), torch.randn(2, 4, 50)
    wanted_cov = y @ y.mT / 50
    moved = transferred(x, Moments(mean, blocks, 900), wanted_mean, roots(wanted_cov)[0]).flatten(2)
    torch.testing.assert_close(moved.mean(2), wanted_mean.expand(2, 8), atol=1e-4, rtol=0)
    centered = moved - moved.mean(2, keepdim=True)
    cov = centered @ centered.mT / 900
    for group in range(2):
        part = cov[:, 4 * group : 4 * group + 4, 4 * group : 4 * group + 4]
        torch.testing.assert_close(part, wanted_cov[group].expand(2, 4, 4), atol=0.05, rtol=0.05)
    assert RIDGE <= 0.01 and FLOOR <= 1e-3


def test_moments_of_parts_join_to_those_of_the_whole():
    image = smooth(2)
    left, right = color_moments(image[..., :24]), color_moments(image[..., 24:])
    joined, whole = left.joined(right), color_moments(image)
    torch.testing.assert_close(joined.mean, whole.mean)
    torch.testing.assert_close(joined.cov, whole.cov)
    assert joined.count == whole.count == 64 * 80


def test_weights_of_one_change_nothing(network):
    photo, style = smooth(0), network.style(smooth(1))
    plain = network.measure(photo, style)
    weighted = network.measure(photo, style, weights=torch.ones(1, 1, 64, 80))
    for a, b in zip((plain.colors, *plain.levels), (weighted.colors, *weighted.levels), strict=True):
        torch.testing.assert_close(a.mean, b.mean)
        torch.testing.assert_close(a.cov, b.cov, atol=1e-5, rtol=1e-4)


def test_weights_choose_a_region(network):
    style = network.style(smooth(1))
    photo = torch.cat([smooth(0), smooth(3)], -1)
    weights = torch.cat([torch.ones(1, 1, 64, 80), torch.zeros(1, 1, 64, 80)], -1)
    found, wanted = color_moments(photo, weights), color_moments(photo[..., :80])
    torch.testing.assert_close(found.cov, wanted.cov)
    near, far = network.measure(photo, style, weights=weights), network.measure(photo, style, weights=1 - weights)
    assert (near.levels[1].mean - far.levels[1].mean).abs().max() > 1e-3


def test_the_painting_decides_colors_and_strokes(network):
    photo = smooth(0)
    first, second = network.style(smooth(1)), network.style(smooth(4))
    one, other = network(photo, first), network(photo, second)
    assert (one - other).abs().mean() > 0.02
    strokes = one - recolored(photo, color_moments(photo), first)
    assert strokes.std() > 1e-3
    filters = network.filters(first)[0][0], network.filters(second)[0][0]
    assert (filters[0] - filters[1]).abs().max() > 1e-4


def test_a_gray_painting_gives_a_gray_picture(network):
    gray = smooth(1).mean(1, keepdim=True).expand(1, 3, 64, 80)
    result = network(smooth(0), network.style(gray))
    assert (result - result.mean(1, keepdim=True)).abs().max() < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_flat_pictures_have_flat_or_calm_results(network, dtype):
    flat = torch.full((1, 3, 64, 64), 0.3)
    result = network(smooth(0), network.style(flat), dtype)
    assert (result - 0.3).abs().max() < 1e-3
    result = network(flat, network.style(smooth(1)), dtype)
    assert result.isfinite().all() and result.std() < 0.1


def test_a_mix_of_one_painting_is_that_painting(network):
    style = network.style(smooth(1))
    assert SwiftStyle.mixed([style], [1.0]) is style
    twice = SwiftStyle.mixed([style, style], [0.25, 0.75])
    torch.testing.assert_close(network(smooth(0), twice), network(smooth(0), style), atol=1e-4, rtol=0)


def test_bf16_is_close_to_float32(network):
    photo, style = smooth(0), network.style(smooth(1))
    assert (network(photo, style, torch.bfloat16) - network(photo, style)).abs().mean() < 4 / 255


def test_gradients_reach_every_parameter():
    torch.manual_seed(0)
    network = Swift((16, 16, 32), (8, 16, 16), 2)
    network(smooth(0), network.style(smooth(1))).square().mean().backward()
    missing = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not missing
