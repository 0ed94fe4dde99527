"""Gram matrices: the closed form, symmetries, and half precision against float64."""

import pytest
import torch

from nstexp.core.stats import gram


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_gram_of_the_worked_example():
    f = torch.tensor([[1, 2], [0, 1], [3, 0]], dtype=torch.float64).view(1, 3, 1, 2)
    expected = torch.tensor([[5, 2, 3], [2, 1, 0], [3, 0, 9]], dtype=torch.float64)
    assert torch.equal(gram(f, "none")[0], expected)
    eigenvalues = torch.linalg.eigvalsh(gram(f, "none")[0])
    assert eigenvalues.tolist() == pytest.approx([0, 4.298438, 10.701562], abs=1e-6)


def test_gram_is_symmetric_positive_and_has_the_energy_as_trace():
    f = rand(2, 7, 3, 5)
    g = gram(f, "none")
    torch.testing.assert_close(g, g.transpose(1, 2), rtol=0, atol=1e-13)
    assert torch.linalg.eigvalsh(g).min() >= -1e-9 * g.diagonal(dim1=1, dim2=2).sum()
    torch.testing.assert_close(g.diagonal(dim1=1, dim2=2).sum(1), f.square().sum((1, 2, 3)))


def test_gram_ignores_where_things_are():
    f = rand(1, 5, 4, 6)
    shuffled = f.flatten(2)[..., torch.randperm(24, generator=torch.Generator().manual_seed(1))].view_as(f)
    torch.testing.assert_close(gram(shuffled), gram(f))


def test_gram_divisors_divide_by_positions_and_channels():
    f = rand(2, 5, 4, 6)
    torch.testing.assert_close(gram(f, "hw"), gram(f, "none") / 24)
    torch.testing.assert_close(gram(f, "chw"), gram(f, "none") / 24 / 5)


def test_gram_of_a_batch_is_the_gram_of_each():
    f = rand(3, 5, 4, 6)
    torch.testing.assert_close(gram(f), torch.cat([gram(one[None]) for one in f]))


def test_gram_accepts_every_memory_layout():
    f = rand(2, 5, 4, 6)
    torch.testing.assert_close(gram(f.contiguous(memory_format=torch.channels_last)), gram(f))


@pytest.mark.parametrize("size", [(7, 9), (64, 64), (65, 70)], ids=["less than a chunk", "two chunks", "a rest"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_bfloat16_gram_is_close_to_float64(size, layout):
    exact = (rand(2, 16, *size).relu() * 300).bfloat16().double().requires_grad_()
    low = exact.detach().bfloat16().contiguous(memory_format=layout).requires_grad_()
    direction = rand(2, 16, 16, seed=5)
    reference, value = gram(exact), gram(low)
    assert value.dtype == torch.float32
    assert (value - reference).norm() / reference.norm() < 2e-3
    (reference * direction).sum().backward()
    (value * direction.float()).sum().backward()
    assert low.grad.dtype == torch.bfloat16
    assert (low.grad - exact.grad).norm() / exact.grad.norm() < 5e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gram_of_large_half_precision_features_does_not_overflow(dtype):
    g = gram(torch.full((1, 4, 50, 50), 500.0, dtype=dtype))
    torch.testing.assert_close(g, torch.full((1, 4, 4), 500.0**2), rtol=5e-3, atol=0)
