"""Gradient descent that does not diverge."""

import pytest
import torch

from nstexp.core.errors import UserError
from nstexp.core.optim.descent import GradientDescent


def descended(scale: float, steps: int = 300, **settings) -> tuple[list[float], torch.Tensor]:
    """The losses on the way to the lowest point of a badly scaled bowl, and where it ends."""
    x = torch.full((2, 3), 0.5, requires_grad=True)
    optimizer = GradientDescent([x], **settings)
    weights = scale * torch.tensor([[1.0, 2.0, 5.0], [1.0, 3.0, 10.0]])

    def closure():
        optimizer.zero_grad()
        loss = (weights * x**2).sum()
        loss.backward()
        return loss.detach()

    return [float(optimizer.step(closure)) for _ in range(steps)], x.detach()


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e12])
@pytest.mark.parametrize("lr", [1e-2, 1e3])
def test_the_loss_falls_whatever_its_scale(scale, lr):
    losses, x = descended(scale, lr=lr)
    assert min(losses) < 1e-2 * losses[0]
    assert float(x.abs().max()) < 0.5


def test_no_step_is_longer_than_it_may_be():
    before = torch.full((2, 3), 0.5)
    for steps in (1, 2, 3):
        _, after = descended(1e12, steps, lr=1.0, max_change=0.05, max_rise=None)
        assert float((after - before).square().mean().sqrt()) == pytest.approx(0.05, rel=1e-4)
        before = after


def test_short_steps_are_pytorchs_own():
    _, at = descended(1e-3, 20, lr=0.1, momentum=0.9, max_rise=None)
    x = torch.full((2, 3), 0.5, requires_grad=True)
    plain = torch.optim.SGD([x], lr=0.1, momentum=0.9)
    for _ in range(20):
        plain.zero_grad()
        (1e-3 * torch.tensor([[1.0, 2.0, 5.0], [1.0, 3.0, 10.0]]) * x**2).sum().backward()
        plain.step()
    assert torch.equal(at, x.detach())


@pytest.mark.parametrize("setting", [{"max_change": 0}, {"max_change": "a"}, {"max_rise": 0.5}])
def test_a_limit_that_is_none_is_refused(setting):
    with pytest.raises(UserError, match=f"^{next(iter(setting))}="):
        GradientDescent([torch.zeros(1, requires_grad=True)], **setting)
