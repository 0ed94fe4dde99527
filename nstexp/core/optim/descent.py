"""Gradient descent on a picture that does not diverge, whatever the size of the picture and of its losses."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from nstexp.core.errors import number


class GradientDescent(torch.optim.SGD):
    """PyTorch's SGD with shorter steps where its own would be too long.

    Losses of public codes differ by ten orders of magnitude, and their gradients change with the size of the picture:
    one learning rate does for one of them.

    Args:
        params: what is optimized.
        lr: the learning rate, which the gradient is multiplied by.
        max_change: the root mean square of what a step changes, of no parameter more than this; None: no limit.
        max_rise: a step that raises the loss by more than this factor is taken back, and tried half as long; the steps
            behind it grow again. None: none is taken back.
        more: other arguments of `torch.optim.SGD`.

    Raises:
        ArgumentError: a number that none of these can be.
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

    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        """One evaluation of the loss and its gradient by `closure`, and one step; returns the loss."""
        loss = closure()
        with torch.no_grad():
            self._look(float(loss))
        super().step()
        return loss

    def _look(self, loss: float) -> None:
        """Make the gradient as long as the step should be."""
        params = [p for p in self.param_groups[0]["params"] if p.grad is not None]
        memory = self.state[params[0]]  # what the state holds is forgotten where the parameters are others
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
