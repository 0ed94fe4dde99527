"""Winograd's convolution against PyTorch's: values, gradients, rounding, and which filters and maps take it."""

import gc

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nstexp.core.networks import pretrained, winograd
from nstexp.core.networks.vgg import VGG
from nstexp.core.networks.winograd import conv3x3, transformed, winograd_conv


def made(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(channels: int, outputs: int) -> tuple[Tensor, Tensor]:
    """Filters and biases of a layer that neither amplifies nor weakens its input."""
    return made(outputs, channels, 3, 3, seed=1) / (9 * channels) ** 0.5, made(outputs, seed=2)


@pytest.fixture
def taken(monkeypatch) -> list[tuple[int, ...]]:
    """Shapes of the maps that were convolved by Winograd's algorithm."""
    shapes = []

    def noted(x, *args):
        shapes.append(tuple(x.shape))
        return winograd_conv(x, *args)

    monkeypatch.setattr(winograd, "winograd_conv", noted)
    monkeypatch.setattr(winograd, "GAINS", True)  # as if this processor were one with AVX2
    return shapes


@pytest.mark.parametrize("size", [(4, 4), (8, 12), (5, 7), (3, 4), (3, 30), (17, 6), (70, 65)])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_are_those_of_pytorch(size, batch, padding, memory):
    weight, bias = layer(5, 7)
    x = made(batch, 5, *size).to(memory_format=memory).requires_grad_()
    wanted, found = F.conv2d(x, weight, bias, padding=padding), winograd_conv(x, transformed(weight), bias, padding)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    grad = made(*wanted.shape, seed=3)
    gradients = [torch.autograd.grad(y, x, grad)[0] for y in (wanted, found)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_strips_cover_every_row_once(monkeypatch, threads):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    for pictures in (1, 2, 9):
        for rows in (1, 3, 16, 65):
            for columns in (1, 7, 64, 300):
                seen = torch.zeros(pictures, rows)
                for n, r in winograd._strips(pictures, rows, columns):
                    seen[n, r] += 1
                assert (seen == 1).all(), (pictures, rows, columns)


def test_rounding_is_about_that_of_the_direct_way(taken):
    weight, bias = layer(512, 512)
    x = made(1, 512, 32, 32).relu()
    exact = F.conv2d(x, weight, bias, padding=1)
    x, weight, bias = x.float(), weight.float(), bias.float()
    direct = (F.conv2d(x, weight, bias, padding=1) - exact).norm() / exact.norm()
    found = (conv3x3(x, weight, bias) - exact).norm() / exact.norm()
    assert taken and found < 1e-5 and found < 8 * direct


def test_a_relu_in_place_is_allowed_and_right():
    weight, bias = layer(6, 6)
    x = made(2, 6, 9, 9).requires_grad_()
    wanted, found = F.relu(F.conv2d(x, weight, bias, padding=1)), F.relu_(winograd_conv(x, transformed(weight), bias))
    gradients = [torch.autograd.grad(y.square().sum(), x)[0] for y in (wanted, found)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


def test_a_processor_for_which_it_was_not_measured_convolves_directly(taken, monkeypatch):
    monkeypatch.setattr(winograd, "GAINS", False)
    weight, bias = (each.float() for each in layer(256, 256))
    conv3x3(made(1, 256, 32, 32).float(), weight, bias)
    assert not taken


def test_direct_convolutions_on_request_and_no_longer_than_that(taken):
    weight, bias = (each.float() for each in layer(256, 256))
    x = made(1, 256, 32, 32).float()
    with pytest.raises(ZeroDivisionError), winograd.direct_convolutions():
        conv3x3(x, weight, bias)
        assert not taken
        raise ZeroDivisionError
    conv3x3(x, weight, bias)
    assert taken


@pytest.mark.parametrize(
    ("channels", "outputs", "px", "dtype", "learning", "expected"),
    [
        (256, 128, 32, torch.float32, False, True),
        (128, 128, 64, torch.float32, False, False),  # the transforms would cost what they save
        (256, 128, 16, torch.float32, False, False),  # a tiny map
        (256, 128, 32, torch.float64, False, False),
        (256, 128, 32, torch.bfloat16, False, False),
        (256, 128, 32, torch.float32, True, False),  # the filters need a gradient
    ],
)
def test_which_filters_and_maps_take_it(taken, channels, outputs, px, dtype, learning, expected):
    weight, bias = (each.to(dtype).requires_grad_(learning) for each in layer(channels, outputs))
    x = made(1, channels, px, px).to(dtype)
    found = conv3x3(x, weight, bias)
    assert bool(taken) == expected
    torch.testing.assert_close(found, F.conv2d(x, weight, bias, padding=1), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        conv3x3(x, weight, bias)
    assert bool(taken) == (expected or learning)


def test_filters_that_were_changed_are_transformed_again_and_forgotten_with_them(taken):
    weight, bias = (each.float() for each in layer(256, 128))
    x = made(1, 256, 32, 32).float()
    first = conv3x3(x, weight, bias)
    weight.mul_(2)
    second = conv3x3(x, weight, bias)
    assert len(taken) == 2
    torch.testing.assert_close(second - bias.view(-1, 1, 1), 2 * (first - bias.view(-1, 1, 1)), rtol=1e-4, atol=1e-4)
    before = len(winograd._kept)
    del weight
    gc.collect()
    assert len(winograd._kept) == before - 1


def test_the_network_of_gatys_takes_it_in_float32_only_and_sees_the_same(taken):
    weights = pretrained.random_vgg(width_divisor=1)
    layers = ["relu3_1", "relu4_2", "relu5_1"]
    networks = {dtype: VGG(weights, dtype=dtype) for dtype in (torch.float32, torch.float64)}

    def seen(dtype: torch.dtype, direct: bool) -> tuple[dict[str, Tensor], Tensor]:
        image = torch.rand(1, 3, 96, 136, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        image = image.to(dtype).requires_grad_()
        with pytest.MonkeyPatch.context() as patch:
            if direct:
                patch.setattr(winograd, "_pays", lambda *args: False)
            found = networks[dtype](image, layers)
        loss = sum(found[name].square().mean() for name in layers)
        return found, torch.autograd.grad(loss, image)[0].double()

    exact, exact_gradient = seen(torch.float64, False)
    assert not taken
    _, plain_gradient = seen(torch.float32, True)
    assert not taken
    found, gradient = seen(torch.float32, False)
    assert taken == [(1, 128, 24, 34), *[(1, 256, 24, 34)] * 3]  # the maps behind them are tiny
    for name in layers:
        torch.testing.assert_close(found[name].double(), exact[name], rtol=1e-4, atol=1e-4 * float(exact[name].max()))
    # Where two pixels of a pooling are nearly equal, rounding decides which one gets the gradient.
    error, plain_error = ((each - exact_gradient).norm() / exact_gradient.norm() for each in (gradient, plain_gradient))
    assert error < 3 * plain_error + 1e-4, (error, plain_error)
