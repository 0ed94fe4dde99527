"""L-BFGS for a few large tensors: one evaluation per iteration, and a line search only after a failed step."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from nstexp.core.errors import number, wholes


@dataclass
class _Memory:
    pairs: deque[tuple[Tensor, Tensor, float]]  # s, y, 1 / s.y
    loss: float  # loss and gradient at the current parameters
    gradient: Tensor


class LBFGS(Optimizer):
    """Limited-memory BFGS (Nocedal & Wright, Algorithm 7.5) with a line search for expensive, rough objectives.

    A unit step is accepted unless the loss rises by more than `max_rise`. After a failed step, the search stores the
    curvature pair and tries the new direction from the same point. A step with nonpositive curvature gives no usable
    pair; it is lengthened as long as the loss decreases. Otherwise, from noise and with shallow style layers, the
    quartic Gram loss would keep L-BFGS at tiny gradient steps.

    Differences from `torch.optim.LBFGS`: an iteration needs one evaluation unless a step fails, and the first step
    changes the parameters by a fixed amount, independent of the scale of the loss. `state.clear()` restarts the method.

    Args:
        params: one group; all its parameters form one vector.
        history_size: number of stored pairs. A pair takes two copies of the parameters, in bfloat16 for float32.
        first_step: root mean square change of the parameters in the first trial step.
        max_rise: factor by which the loss may rise in one step.
        max_evals: evaluations per iteration, after which the best point is accepted; 1 is plain L-BFGS.

    Raises:
        ArgumentError: a number out of its range.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
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
    def step(self, closure: Callable[[], Tensor]) -> float:  # type: ignore[override]  # the closure is required
        """One iteration.

        Args:
            closure: clears the gradients, evaluates the loss and calls backward.

        Returns:
            The loss at the new parameters.
        """
        state = cast(dict[str, Any], self.state)  # a fixed key, since all parameters form one vector
        memory: _Memory | None = state.get("memory")
        evaluate = torch.enable_grad()(closure)
        if memory is None:
            memory = state["memory"] = _Memory(deque(maxlen=self.history_size), float(evaluate()), self._gradient())
        elif not memory.gradient.any():
            memory.loss, memory.gradient = float(evaluate()), self._gradient()
        if memory.gradient.any():
            self._search(evaluate, memory)
        return memory.loss

    def _search(self, evaluate: Callable[[], Tensor], memory: _Memory) -> None:
        """Find the next point, and store its loss and gradient."""
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
        """Direction and step length of the first trial step of a search."""
        direction = self._direction(memory)
        if float(direction @ memory.gradient) >= 0:  # not a descent direction: by rounding, the pairs are useless
            memory.pairs.clear()
            direction = -memory.gradient
        return direction, 1.0 if memory.pairs else self.first_step / float(direction.square().mean().sqrt())

    def _remember(self, memory: _Memory, s: Tensor, y: Tensor) -> bool:
        """Store the pair, and return True, if the curvature along the step is clearly positive."""
        if s.dtype == torch.float32:
            # bfloat16 halves the memory; the curvature changes slightly, and is as useful.
            s, y = s.bfloat16(), y.bfloat16()
        curvature = _dot(s, y)
        positive: bool = curvature > 1e-10 * (_dot(s, s) * _dot(y, y)) ** 0.5
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
            # The geometric mean of the two Barzilai-Borwein steps needs 5-7 % fewer iterations than s.y / y.y.
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
        for p, values in zip(params, torch.split(vector, [p.numel() for p in params]), strict=True):
            p.copy_(values.view_as(p))


def _dot(a: Tensor, b: Tensor) -> float:
    """Inner product, computed in the more precise of both dtypes, at least float32."""
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    return float(a.to(dtype) @ b.to(dtype))
