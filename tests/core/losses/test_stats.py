"""Gram matrices, channel moments and AdaIN: closed forms, symmetries, and half precision against float64."""

import pytest
import torch

from nstexp.core.losses.stats import adain, affine, gram, moments, region_moments, shift


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


# ---------------------------------------------------------------------------------------------------- moments and AdaIN

CONTENT = torch.tensor([1.0, 2, 3, 4], dtype=torch.float64).view(1, 1, 2, 2)
STYLE = torch.tensor([10.0, 14, 10, 14], dtype=torch.float64).view(1, 1, 2, 2)


def adapted(content, style, eps=1e-5, unbiased=False):
    return adain(content, moments(content, eps, unbiased), moments(style, eps, unbiased))


def test_adain_worked_example():
    result = adapted(CONTENT, STYLE, 0).flatten()
    assert result.tolist() == pytest.approx([9.316718, 11.105573, 12.894427, 14.683282], abs=1e-6)
    short = STYLE.flatten()[:2].view(1, 1, 1, 2)
    result = adapted(CONTENT, short, 0, unbiased=True).flatten()
    assert result.tolist() == pytest.approx([8.713665, 10.904555, 13.095445, 15.286335], abs=1e-6)


def test_adain_stats():
    content, style = rand(2, 5, 6, 7) * 3 + 1, rand(2, 5, 4, 4, seed=1) * 0.5 - 2
    result = adapted(content, style)
    torch.testing.assert_close(result.mean((2, 3)), style.mean((2, 3)), rtol=0, atol=1e-5)
    own = content.var((2, 3), correction=0)
    wanted = ((style.var((2, 3), correction=0) + 1e-5) * own / (own + 1e-5)).sqrt()
    torch.testing.assert_close(result.std((2, 3), correction=0), wanted, rtol=1e-10, atol=0)
    assert float(moments(adapted(CONTENT, STYLE), 0)[1]) == pytest.approx(1.9999945, abs=3e-6)


def test_adain_identity_affine_invariance_and_style_shuffle():
    x, y = rand(1, 4, 5, 5), rand(1, 4, 3, 6, seed=1)
    torch.testing.assert_close(adapted(x, x), x)
    gain, shift = torch.tensor([0.5, 2, 3, 10.0]).view(1, 4, 1, 1).double(), rand(1, 4, 1, 1, seed=2)
    torch.testing.assert_close(adapted(gain * x + shift, y, 0), adapted(x, y, 0))
    order = torch.randperm(18, generator=torch.Generator().manual_seed(3))
    shuffled = y.flatten(2)[..., order].view_as(y)
    torch.testing.assert_close(adapted(x, shuffled), adapted(x, y))


def test_adain_const_content():
    x = torch.full((1, 3, 4, 4), 2.5, dtype=torch.float64, requires_grad=True)
    style = rand(1, 3, 4, 4)
    result = adapted(x, style)
    torch.testing.assert_close(result, style.mean((2, 3), keepdim=True).expand_as(result))
    (gradient,) = torch.autograd.grad(result.square().sum(), x)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1, 1.7, torch.tensor(0.3)])
def test_alpha_is_how_far_adain_goes(alpha):
    x, y = rand(2, 4, 5, 5), rand(1, 4, 3, 6, seed=1)
    own, wanted = moments(x), moments(y)
    torch.testing.assert_close(adain(x, own, wanted, alpha), torch.lerp(x, adain(x, own, wanted), float(alpha)))
    assert torch.equal(adain(x, own, wanted, 1.0), adain(x, own, wanted))


def test_a_shift_takes_moments_of_any_shape_and_adain_is_built_on_it():
    x, y = rand(1, 4, 5, 5), rand(1, 4, 3, 6, seed=1)
    factor, offset = shift(moments(x), moments(y))
    assert torch.equal(affine(x, factor, offset), adain(x, moments(x), moments(y)))
    flat = shift([m.flatten(1) for m in moments(x)], [m.flatten(1) for m in moments(y)])
    assert [part.shape for part in flat] == [(1, 4), (1, 4)]
    assert torch.equal(flat[0], factor.flatten(1)) and torch.equal(flat[1], offset.flatten(1))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(3, 5), (16, 16), (37, 29)])
def test_bfloat16_moments_and_their_gradient(layout, size):
    f = (rand(2, 6, *size).relu() * 3 + 0.5).bfloat16().to(memory_format=layout).requires_grad_()
    exact = f.detach().double().requires_grad_()
    for mine, theirs in zip(moments(f), moments(exact), strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine.double(), theirs, rtol=6e-3, atol=0)
    probe = rand(2, 6, 1, 1, seed=4)

    def gradient(x):
        mean, std = moments(x)
        return torch.autograd.grad(((mean + 2 * std.square()) * probe.to(mean.dtype)).sum(), x)[0].double()

    mine, theirs = gradient(f), gradient(exact)
    assert (mine - theirs).norm() < 0.01 * theirs.norm()


def test_region_moments_are_those_of_the_positions_inside():
    f = rand(2, 3, 40, 60)
    left = torch.zeros(40, 60)
    left[:, :25] = 1
    mean, std = region_moments(f, torch.stack([left, 1 - left, torch.ones(40, 60)]))
    for k, part in enumerate((f[..., :25], f[..., 25:], f)):
        wanted_mean, wanted_std = moments(part)
        torch.testing.assert_close(mean[:, k].double(), wanted_mean[..., 0, 0], rtol=0, atol=1e-5)
        torch.testing.assert_close(std[:, k].double(), wanted_std[..., 0, 0], rtol=1e-5, atol=0)
