"""Muon and the learning-rate schedules."""

import pytest
import torch

from nstexp.core.errors import ArgumentError
from nstexp.core.optim.muon import Muon, orthogonalized
from nstexp.core.optim.schedules import constant, cosine, inverse_time


@pytest.mark.parametrize("shape", [(8, 72), (72, 8), (16, 16)])
def test_orthogonalized_evens_out_the_singular_values(shape):
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    before, after = (torch.linalg.svdvals(m) for m in (matrix, orthogonalized(matrix)))
    assert after.max() < 1.4 and after.min() > 0.3
    assert after.max() / after.min() < before.max() / before.min() + 1
    assert (orthogonalized(matrix) * matrix).sum() > 0.7 * before.sum()  # U V^T has the sum of singular values


def test_a_step_has_the_length_of_lr_times_the_kernel():
    kernel = torch.nn.Parameter(torch.randn(4, 3, 3, 3))
    before = kernel.detach().clone()
    kernel.grad = torch.randn_like(kernel) * 1e-6  # the gradient's scale does not matter
    Muon([kernel], lr=0.01).step()
    assert float((kernel - before).norm() / before.norm()) == pytest.approx(0.01, rel=1e-3)


def test_a_zero_gradient_changes_nothing():
    kernel, bias = torch.nn.Parameter(torch.randn(4, 3, 3, 3)), torch.nn.Parameter(torch.randn(4))
    before = [kernel.detach().clone(), bias.detach().clone()]
    kernel.grad, bias.grad = torch.zeros_like(kernel), torch.zeros_like(bias)
    Muon([kernel, bias]).step()
    assert torch.equal(kernel, before[0]) and torch.equal(bias, before[1])


def test_biases_follow_adam():
    torch.manual_seed(0)
    mine, adams = (torch.nn.Parameter(torch.ones(5)) for _ in range(2))
    muon = Muon([mine], lr=0.5, bias_lr=0.02, betas=(0.9, 0.99), eps=1e-8)
    adam = torch.optim.Adam([adams], lr=0.01, betas=(0.9, 0.99), eps=1e-8)
    for _ in range(5):
        gradient = torch.randn(5)
        mine.grad, adams.grad = gradient.clone(), gradient.clone()
        muon.step(), adam.step()
    torch.testing.assert_close(mine, adams, rtol=1e-5, atol=1e-6)


def test_muon_descends_and_its_state_resumes_bit_for_bit():
    torch.manual_seed(0)
    x, wanted = torch.randn(4, 3, 8, 8), torch.randn(4, 5, 8, 8)

    def run(conv, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            loss = (torch.nn.functional.conv2d(x, conv.weight, conv.bias, padding=1) - wanted).square().mean()
            loss.backward()
            optimizer.step()
        return float(loss)

    conv = torch.nn.Conv2d(3, 5, 3, padding=1)
    optimizer = Muon(conv.parameters(), lr=0.05)
    first = run(conv, optimizer, 1)
    saved = {k: v.clone() for k, v in conv.state_dict().items()}, optimizer.state_dict()
    torch.save(saved, buffer := __import__("io").BytesIO())
    last = run(conv, optimizer, 30)
    assert last < 0.97 * first
    other = torch.nn.Conv2d(3, 5, 3, padding=1)
    buffer.seek(0)
    weights, state = torch.load(buffer, weights_only=True)
    other.load_state_dict(weights)
    resumed = Muon(other.parameters(), lr=0.05)
    resumed.load_state_dict(state)
    assert run(other, resumed, 30) == last
    assert torch.equal(other.weight, conv.weight)


@pytest.mark.parametrize("bad", [{"lr": 0}, {"lr": -1}, {"momentum": 1}])
def test_bad_settings_are_named(bad):
    ((name, value),) = bad.items()
    with pytest.raises(ArgumentError, match=f"^{name}={value}: give a number"):
        Muon([torch.nn.Parameter(torch.zeros(2))], **bad)


def test_lr_schedule():
    assert 1e-4 * inverse_time(0) == 1e-4
    assert 1e-4 * inverse_time(160_000) == pytest.approx(1e-4 / 9)
    assert cosine(0, 100, warmup=10) == pytest.approx(0.1)
    assert cosine(100, 100, warmup=10, final=0.02) == pytest.approx(0.02)
    assert cosine(50, 100, warmup=0, final=0.0) == pytest.approx(0.5)
    assert cosine(500, 100, warmup=0, final=0.1) == pytest.approx(0.1)
    assert constant(7) == 1
