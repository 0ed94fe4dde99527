"""The network of method=swift: exact statistics, what a painting decides, and degenerate pictures."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nstexp.core.color import color_map
from nstexp.core.networks.moments import FLOOR, RIDGE, Moments, color_moments, roots, transferred
from nstexp.core.networks.subpixel import shuffled, without_weave
from nstexp.core.networks.swift import Swift, SwiftStyle, recolored


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


def measured(network: Swift, photo: Tensor, style: SwiftStyle, weights: Tensor | None = None) -> list[Moments]:
    """Moments of the photo's colors, and of its features at each level."""
    colors = color_moments(photo, weights)
    levels = network.levels(recolored(photo, colors, style))
    return [colors, *network.level_moments(levels, weights)]


def test_weights_of_one_change_nothing(network):
    photo, style = smooth(0), network.style(smooth(1))
    plain, weighted = (measured(network, photo, style, weights) for weights in (None, torch.ones(1, 1, 64, 80)))
    for a, b in zip(plain, weighted, strict=True):
        torch.testing.assert_close(a.mean, b.mean)
        torch.testing.assert_close(a.cov, b.cov, atol=1e-5, rtol=1e-4)


def test_weights_choose_a_region(network):
    style = network.style(smooth(1))
    photo = torch.cat([smooth(0), smooth(3)], -1)
    weights = torch.cat([torch.ones(1, 1, 64, 80), torch.zeros(1, 1, 64, 80)], -1)
    found, wanted = color_moments(photo, weights), color_moments(photo[..., :80])
    torch.testing.assert_close(found.cov, wanted.cov)
    near, far = (measured(network, photo, style, part) for part in (weights, 1 - weights))
    assert (near[2].mean - far[2].mean).abs().max() > 1e-3


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


def test_covariances_of_bf16_features_have_no_negative_eigenvalues(network):
    # Channels that nearly repeat each other: sums rounded to bfloat16 gave eigenvalues of -1e-3 of the largest.
    torch.manual_seed(0)
    strong = torch.randn(2, 1, 64, 64)
    levels = []
    for channels, side in zip((24, 48, 96), (64, 32, 16), strict=True):
        features = 3 * strong[..., :side, :side] + 0.01 * torch.randn(2, channels, side, side)
        levels.append(F.pad(features, (8, 8, 8, 8), mode="reflect").bfloat16())
    for moments in network.level_moments(levels):
        values = torch.linalg.eigvalsh(moments.cov.double())
        assert values.min() > -1e-6 * values.max()
        root, _ = roots(moments.cov)
        torch.testing.assert_close(root @ root, moments.cov, rtol=0, atol=1e-3 * float(moments.cov.max()))


def test_gradients_reach_every_parameter():
    torch.manual_seed(0)
    network = Swift((16, 16, 32), (8, 16, 16), 2)
    network(smooth(0), network.style(smooth(1))).square().mean().backward()
    missing = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not missing


@pytest.mark.parametrize("spread", [0.0, 3e-5, 1e-3])
def test_a_painting_that_is_nearly_gray_gives_a_picture(spread):
    torch.manual_seed(0)
    network = Swift(widths=(8, 16, 16), groups=(8, 16, 16), experts=2)
    gray = (torch.rand(1, 1, 96, 96) > 0.5).float() * 0.66
    for seed in range(20):
        tint = spread * torch.rand(1, 3, 1, 1, generator=torch.Generator().manual_seed(seed))
        part = torch.zeros(1, 1, 96, 96)
        part[..., :48] = 1
        for weights in (None, part):
            style = network.style((gray * (1 + tint)).clamp(0, 1), weights=weights)
            assert all(bool(x.isfinite().all()) for x in (style.color_root, *style.roots, style.numbers))


def test_kernels_are_bounded_except_for_the_last_one():
    torch.manual_seed(0)
    network = Swift(widths=(8, 16, 16), groups=(8, 16, 16), experts=2)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    network.bound_()
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(10)
    network.bound_()
    for name, p in network.named_parameters():
        bounded = p.dim() == 4 and name != "decode.last.weight"
        # The norm at the start is a random number near the value that the limit is made of.
        growth = float(p.detach().norm() / before[name].norm().clamp(min=1e-12))
        assert (1.3 < growth < 1.7) if bounded else torch.equal(p, 10 * before[name]), name


def test_patterns_of_two_pixels_go_and_strokes_stay():
    torch.manual_seed(0)
    frame = 8
    smooth = torch.linspace(0, 1, 60)[None, None, :, None] * torch.linspace(-1, 1, 72)
    pattern = torch.tensor([0.3, -0.1, 0.2, -0.4]).repeat(3).view(1, 12, 1, 1)
    drawn = smooth.expand(1, 12, 60, 72)
    inside = drawn[..., frame:-frame, frame:-frame]
    torch.testing.assert_close(without_weave(drawn + pattern), inside, atol=1e-6, rtol=0)
    noise = torch.randn(1, 12, 60, 72)
    kept = without_weave(noise)
    assert (kept - noise[..., frame:-frame, frame:-frame]).square().mean() < 0.05, "one of 25 parts of the noise"
    offset = torch.tensor([1.0, 2, 3]).repeat_interleave(4).view(1, 12, 1, 1)
    torch.testing.assert_close(without_weave(noise + offset), kept + offset, atol=1e-5, rtol=0)


def test_shuffled_is_pixel_shuffle():
    x = torch.randn(2, 12, 5, 7)
    assert torch.equal(shuffled(x), F.pixel_shuffle(x, 2))
    assert torch.equal(shuffled(x.to(memory_format=torch.channels_last)), F.pixel_shuffle(x, 2))
