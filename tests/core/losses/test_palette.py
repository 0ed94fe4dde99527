"""The histogram of hues as a style term."""

import pytest
import torch

from nstexp.core.errors import ArgumentError
from nstexp.core.losses import ChromaHistogramLoss, chroma_histogram, chroma_histogram_loss
from nstexp.core.measures.color import palette


def two_colors(share: float) -> torch.Tensor:
    image = torch.empty(1, 3, 8, 100)
    cut = round(100 * share)
    image[..., :cut] = torch.tensor([0.8, 0.2, 0.1]).view(1, 3, 1, 1)
    image[..., cut:] = torch.tensor([0.1, 0.2, 0.8]).view(1, 3, 1, 1)
    return image


def test_it_is_the_histogram_of_the_measure_for_the_same_kernel():
    image = torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(0)).clamp(0.01, 1)
    found = chroma_histogram(image[None], sigma=0.02)[0].double()
    torch.testing.assert_close(found, palette(image), atol=1e-5, rtol=1e-3)


def test_equal_pictures_have_no_loss_and_other_shares_of_two_colors_have():
    target = chroma_histogram(two_colors(0.5))
    assert chroma_histogram_loss(target, target) == 0
    losses = [float(chroma_histogram_loss(chroma_histogram(two_colors(share)), target)) for share in (0.45, 0.3, 0.1)]
    assert 0 < losses[0] < losses[1] < losses[2] < 1


def test_the_order_of_pixels_and_brightness_of_the_whole_do_not_count():
    image = two_colors(0.3)
    shuffled = image.flatten(2)[..., torch.randperm(800)].view_as(image)
    torch.testing.assert_close(chroma_histogram(shuffled), chroma_histogram(image))
    torch.testing.assert_close(chroma_histogram(0.5 * image), chroma_histogram(image), atol=1e-5, rtol=1e-4)


def test_weights_choose_pixels():
    weights = torch.cat([torch.ones(8, 30), torch.zeros(8, 70)], 1)
    torch.testing.assert_close(chroma_histogram(two_colors(0.3), weights=weights), chroma_histogram(two_colors(1.0)))


def test_its_gradient_brings_the_colors_closer():
    term = ChromaHistogramLoss(pool_px=1)
    target = term.target({"image": torch.tensor([0.7, 0.3, 0.3]).view(1, 3, 1, 1).expand(1, 3, 4, 4)})
    x = torch.tensor([0.4, 0.45, 0.4]).view(1, 3, 1, 1).repeat(1, 1, 4, 4).requires_grad_()
    losses = []
    for step in range(100):
        loss = term({"image": x}, target)
        (slope,) = torch.autograd.grad(loss, x)
        losses.append(float(loss.detach()))
        x = (x - 0.02 * 0.97**step * slope / slope.abs().max()).detach().requires_grad_()
    assert losses[-1] < 0.1 * losses[0]


def test_black_has_a_finite_gradient():
    term = ChromaHistogramLoss()
    x = torch.zeros(1, 3, 8, 8, requires_grad=True)
    term({"image": x}, term.target({"image": torch.ones(1, 3, 8, 8)})).backward()
    assert x.grad.isfinite().all()


def test_blend_is_the_histogram_of_both_pictures():
    a, b = chroma_histogram(two_colors(1.0)), chroma_histogram(two_colors(0.0))
    blended = ChromaHistogramLoss.blend([(0.3, a), (0.7, b)])
    assert blended.sum() == pytest.approx(1)
    assert chroma_histogram_loss(blended, chroma_histogram(two_colors(0.3))) < 0.03


@pytest.mark.parametrize("settings", [{"pool_px": 0}, {"bins": 1}, {"sigma": 0}, {"sigma": "x"}])
def test_wrong_settings(settings):
    with pytest.raises(ArgumentError, match=next(iter(settings))):
        ChromaHistogramLoss(**settings)
