"""L-BFGS for a few large tensors: one evaluation an iteration while all goes well, a line search when it does not."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim import Optimizer

from nstexp.core.errors import number, wholes


@dataclass
class _Memory:
    pairs: deque[tuple[Tensor, Tensor, float]] = field(default_factory=deque)  # s, y, 1 / s.y
    loss: float | None = None  # at the current parameters, with the gradient
    gradient: Tensor | None = None


class LBFGS(Optimizer):
    """Limited-memory BFGS (Nocedal & Wright, Algorithm 7.5) with a search made for expensive, rough objectives.

    A unit step is taken as it comes unless the loss rises by more than `max_rise`: then the failed point's curvature
    is learned from and another direction is tried from the same place. A step along which the curvature is not
    positive tells L-BFGS nothing; it is lengthened while that lowers the loss. Without this the Gram loss, which is
    quartic, keeps L-BFGS at tiny gradient steps when it starts from noise with shallow style layers.

    Differs from `torch.optim.LBFGS`: an iteration costs one evaluation when all goes well, and the first step changes
    parameters by a set amount whatever the scale of the loss. `state.clear()` makes it start afresh.

    Args:
        params: one group; all its parameters form one vector.
        history_size: pairs kept; each costs two copies of the parameters, of float32 ones in bfloat16.
        first_step: root-mean-square change of the parameters in the first trial step.
        max_rise: factor by which the loss may rise in one step.
        max_evals: evaluations in one iteration before the best point found is taken; 1 is plain L-BFGS.
    """

    def __init__(
        self,
        params,
        history_size: int = 20,
        first_step: float = 0.004,
        max_rise: float = 1.5,
        max_evals: int = 10,
    ) -> None:
        wholes(1, 10_000, history_size=history_size, max_evals=max_evals)
        number("first_step", first_step, above=0, example="0.004")
        number("max_rise", max_rise, 1, example="1.5")
        super().__init__(params, {})
        self.history_size, self.first_step = history_size, first_step
        self.max_rise, self.max_evals = max_rise, max_evals

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> float:
        """One iteration; returns the loss at the new parameters.

        Args:
            closure: clears the gradients, evaluates the loss and calls backward.
        """
        memory = self.state.setdefault("memory", _Memory(deque(maxlen=self.history_size)))
        evaluate = torch.enable_grad()(closure)
        if memory.gradient is None or not memory.gradient.any():
            memory.loss, memory.gradient = float(evaluate()), self._gradient()
        if memory.gradient.any():
            self._search(evaluate, memory)
        return memory.loss

    def _search(self, evaluate: Callable[[], Tensor], memory: _Memory) -> None:
        """Find the next point and remember its loss and gradient."""
        before = self._vector()
        direction, length = self._first_trial(memory)
        best = (float("inf"), before, memory.gradient)
        for trial in range(self.max_evals):
            s = direction * length
            self._set(before + s)
            loss, gradient = float(evaluate()), self._gradient()
            informative = self._remember(memory, s, gradient - memory.gradient)
            improved = loss < best[0]
            best = (loss, before + s, gradient) if improved else best
            acceptable = loss <= memory.loss * self.max_rise
            if (acceptable and informative) or (not improved and best[0] <= memory.loss):
                break
            if acceptable:
                length *= 4
            elif informative and trial + 1 < self.max_evals:
                direction, length = self._first_trial(memory)
            else:
                length /= 4
        loss, point, gradient = best
        self._set(point)
        memory.loss, memory.gradient = loss, gradient

    def _first_trial(self, memory: _Memory) -> tuple[Tensor, float]:
        """Direction and step length to begin a search with."""
        direction = self._direction(memory)
        if float(direction @ memory.gradient) >= 0:  # rounding: the pairs no longer describe the loss
            memory.pairs.clear()
            direction = -memory.gradient
        return direction, 1.0 if memory.pairs else self.first_step / float(direction.square().mean().sqrt())

    def _remember(self, memory: _Memory, s: Tensor, y: Tensor) -> bool:
        """Keep the pair if the curvature along the step is safely positive."""
        if s.dtype == torch.float32:
            # Rounded pairs describe a slightly different, equally good curvature in half the memory.
            s, y = s.bfloat16(), y.bfloat16()
        curvature = _dot(s, y)
        positive = curvature > 1e-10 * (_dot(s, s) * _dot(y, y)) ** 0.5
        if positive:
            memory.pairs.append((s, y, 1 / curvature))
        return positive

    @staticmethod
    def _direction(memory: _Memory) -> Tensor:
        """Two-loop recursion (Nocedal & Wright, Algorithm 7.4)."""
        q = -memory.gradient
        alphas = []
        for s, y, rho in reversed(memory.pairs):
            alpha = rho * _dot(s, q)
            q.add_(y, alpha=-alpha)
            alphas.append(alpha)
        if memory.pairs:
            s, y, _ = memory.pairs[-1]
            # The geometric mean of the two Barzilai-Borwein steps took 5-7 % fewer iterations than s.y / y.y.
            q.mul_((_dot(s, s) / _dot(y, y)) ** 0.5)
        for (s, y, rho), alpha in zip(memory.pairs, reversed(alphas), strict=True):
            q.add_(s, alpha=alpha - rho * _dot(y, q))
        return q

    def _vector(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.param_groups[0]["params"]])

    def _gradient(self) -> Tensor:
        return torch.cat([p.grad.flatten() for p in self.param_groups[0]["params"]])

    def _set(self, vector: Tensor) -> None:
        params = self.param_groups[0]["params"]
        for p, values in zip(params, vector.split([p.numel() for p in params]), strict=True):
            p.copy_(values.view_as(p))


def _dot(a: Tensor, b: Tensor) -> float:
    """Inner product; of bfloat16 vectors in the other's precision, or float32."""
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    return float(a.to(dtype) @ b.to(dtype))
