"""Gradient descent that does not diverge, for pictures and losses of any size."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from nstexp.core.errors import number


class GradientDescent(torch.optim.SGD):
    """PyTorch's SGD with a limited step length.

    The losses of public implementations differ by ten orders of magnitude, and their gradients depend on the size of
    the picture, so no single learning rate suits them all.

    Args:
        params: the parameters to optimize.
        lr: the learning rate.
        max_change: largest root mean square change of a parameter in one step; None: no limit.
        max_rise: a step that raises the loss by more than this factor is undone and repeated with half the length; the
            following steps grow again. None: no step is undone.
        more: other arguments of `torch.optim.SGD`.

    Raises:
        ArgumentError: a number out of its range.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        max_change: float | None = 0.02,
        max_rise: float | None = 1.0,
        **more: Any,
    ) -> None:
        number("lr", lr, above=0, example="1e-3")
        if max_change is not None:
            number("max_change", max_change, above=0)
        if max_rise is not None:
            number("max_rise", max_rise, 1)
        super().__init__(params, lr=lr, **more)
        self.max_change, self.max_rise = max_change, max_rise

    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # type: ignore[override]  # the closure is required
        """One step.

        Args:
            closure: clears the gradients, evaluates the loss and calls backward.

        Returns:
            The loss before the step.
        """
        loss = closure()
        with torch.no_grad():
            self._limit_gradient(float(loss))
        super().step()
        return loss

    def _limit_gradient(self, loss: float) -> None:
        """Scale the gradient to the length of the step, or restore the parameters and gradient of the last step."""
        params = [p for p in self.param_groups[0]["params"] if p.grad is not None]
        memory = self.state[params[0]]  # kept in the state, so that new parameters start without memory
        before = memory.get("loss")
        if before is not None and self.max_rise is not None and not loss <= self.max_rise * before:
            for p in params:
                p.copy_(self.state[p]["place"])
                p.grad.copy_(self.state[p]["gradient"])
                self.state[p].pop("momentum_buffer", None)
            memory["share"] /= 2
        else:
            memory["loss"], memory["share"] = loss, min(1.0, 1.2 * memory.get("share", 1.0))
            for p in params:
                self.state[p]["place"], self.state[p]["gradient"] = p.detach().clone(), p.grad.clone()
        scale = memory["share"]
        if self.max_change is not None:
            change = self.param_groups[0]["lr"] * max(float(p.grad.square().mean().sqrt()) for p in params)
            scale *= min(1.0, self.max_change / max(change, 1e-30))
        for p in params:
            p.grad.mul_(scale)
