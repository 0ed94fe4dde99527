"""Quantiles of color channels, and the curves that change them."""

import pytest
import torch
from torch import Tensor

from nstexp.core import tones as module
from nstexp.core.tones import LEVELS, toned, tones


def picture(h: int = 96, w: int = 80, seed: int = 0, power: float = 1.0, count: int = 1) -> Tensor:
    return torch.rand(count, 3, h, w, generator=torch.Generator().manual_seed(seed)) ** power


@pytest.mark.parametrize("size", [(64, 64), (512, 70), (300, 501)])
def test_quantiles_are_those_of_all_pixels(size):
    image = picture(*size, power=2)
    wanted = torch.quantile(image.flatten(2), torch.tensor(LEVELS), dim=-1).permute(1, 2, 0)
    torch.testing.assert_close(tones(image), wanted, atol=0.05, rtol=0)


def test_quantiles_are_those_of_each_picture():
    both = picture(count=2, power=1.5)
    torch.testing.assert_close(tones(both), torch.cat([tones(both[:1]), tones(both[1:])]))


def test_a_picture_smaller_than_the_grid():
    image = torch.tensor([0.2, 0.8]).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    assert tones(image)[0, 0, 0] == 0.2
    assert tones(image)[0, 0, -1] == 0.8


def test_weights_choose_pixels():
    image = torch.cat([picture(64, 32), 1 + picture(64, 32, seed=1)], -1)
    weights = torch.zeros(1, 1, 64, 64)
    weights[..., 32:] = 0.5
    found = tones(image, weights)
    assert (found >= 1).all()
    wanted = torch.quantile(image[..., 32:].flatten(2), torch.tensor(LEVELS), dim=-1).permute(1, 2, 0)
    torch.testing.assert_close(found, wanted, atol=0.02, rtol=0)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_weights_change_nothing(value):
    image = picture(64, 64, power=2)
    assert torch.equal(tones(image, torch.full((1, 1, 64, 64), value)), tones(image))


def test_a_picture_gets_the_quantiles():
    image, wanted = picture(power=0.7, count=2), tones(picture(seed=3, power=1.3))
    torch.testing.assert_close(tones(toned(image, tones(image), wanted)), wanted.expand(2, -1, -1), atol=1e-5, rtol=0)


def test_its_own_quantiles_change_nothing_but_the_ends():
    image = picture(64, 64)
    own = tones(image)
    inside = image.clamp(own[..., :1, None], own[..., -1:, None])
    torch.testing.assert_close(toned(image, own, own), inside, atol=1e-5, rtol=0)
    assert (inside != image).float().mean() < 0.003


def test_strength_is_between():
    image, wanted = picture(power=0.7), tones(picture(seed=3))
    own = tones(image)
    half = torch.lerp(image, toned(image, own, wanted), 0.5)
    torch.testing.assert_close(toned(image, own, wanted, 0.5), half, atol=1e-6, rtol=0)
    torch.testing.assert_close(toned(image, own, wanted, 0), image)


def test_order_is_kept():
    image, wanted = picture(), tones(picture(seed=3, power=3))
    for channel, changed in zip(image[0], toned(image, tones(image), wanted)[0], strict=True):
        assert (changed.flatten()[channel.flatten().argsort()].diff() >= -1e-6).all()


def test_noise_of_a_flat_picture_stays_small():
    image = 0.4 + 1e-3 * picture()
    found = toned(image, tones(image), tones(picture(seed=3)))
    assert found.flatten(2).std(-1).max() < 5 * image.flatten(2).std(-1).max()
    flat = torch.full((1, 3, 8, 8), 0.5)
    assert torch.isfinite(toned(flat, tones(flat), tones(image))).all()


def test_the_form_for_graphs_and_gpus_gives_the_same(monkeypatch):
    image, wanted = picture(power=0.7, count=2), tones(picture(seed=3))
    plane_by_plane = toned(image, tones(image), wanted, 0.8)
    monkeypatch.setattr(module.torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(toned(image, tones(image), wanted, 0.8), plane_by_plane, atol=1e-6, rtol=0)
