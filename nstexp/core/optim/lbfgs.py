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
        history_size: int = 50,
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

    def state_dict(self) -> dict[str, Any]:
        """As of every PyTorch optimizer, in tensors, numbers, lists and dicts only. The tensors are not copied."""
        plain = super().state_dict()
        memory: _Memory | None = cast(dict[str, Any], self.state).get("memory")
        if memory is not None:
            kept = {"pairs": list(memory.pairs), "loss": memory.loss, "gradient": memory.gradient}
            plain["state"] = {**plain["state"], "memory": kept}
        return plain

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned, for parameters of the same sizes."""
        kept = state_dict["state"].get("memory")
        super().load_state_dict({**state_dict, "state": {}})
        if kept is not None:
            device = self.param_groups[0]["params"][0].device
            pairs = ((s.to(device), y.to(device), rho) for s, y, rho in kept["pairs"])
            memory = _Memory(deque(pairs, maxlen=self.history_size), kept["loss"], kept["gradient"].to(device))
            cast(dict[str, Any], self.state)["memory"] = memory

    def _search(self, evaluate: Callable[[], Tensor], memory: _Memory) -> None:
        """Find the next point, and store its loss and gradient.

        A vector of a large picture takes gigabytes. So no more of them are kept than are needed: a step is scaled in
        place, and the best point is copied only when another one is tried.
        """
        before = self._vector()
        s = self._first_step(memory)
        best, best_gradient = float("inf"), memory.gradient
        point: Tensor | None = None  # the best one; None: the current parameters
        for trial in range(self.max_evals):
            self._set_sum(before, s)
            loss, gradient = float(evaluate()), self._gradient()
            informative = self._remember(memory, s, gradient - memory.gradient)
            improved = loss < best
            if improved:
                best, best_gradient, point = loss, gradient, None
            elif point is None:  # no loss is below infinity
                point = before
            acceptable = loss <= memory.loss * self.max_rise
            last = trial + 1 == self.max_evals
            if (acceptable and informative) or (not improved and best <= memory.loss) or last:
                break
            if improved:
                point = self._vector()
            if acceptable:
                s *= 4
            elif informative:
                del s, gradient
                s = self._first_step(memory)
            else:
                s /= 4
        if point is not None:
            self._set_sum(point)
        memory.loss, memory.gradient = best, best_gradient

    def _first_step(self, memory: _Memory) -> Tensor:
        """The first trial step of a search."""
        s = self._direction(memory)
        if float(s @ memory.gradient) >= 0:  # not a descent direction: by rounding, the pairs are useless
            memory.pairs.clear()
            torch.neg(memory.gradient, out=s)
        if not memory.pairs:
            s *= self.first_step / float(s.square().mean().sqrt())
        return s

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

    def _set_sum(self, *vectors: Tensor) -> None:
        """Set the parameters to a vector, or to the sum of two."""
        params = self.param_groups[0]["params"]
        sizes = [p.numel() for p in params]
        for p, *parts in zip(params, *(torch.split(vector, sizes) for vector in vectors), strict=True):
            first, *second = (part.view_as(p) for part in parts)
            if second:
                torch.add(first, second[0], out=p)
            else:
                p.copy_(first)


def _dot(a: Tensor, b: Tensor) -> float:
    """Inner product, computed in the more precise of both dtypes, at least float32."""
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    return float(a.to(dtype) @ b.to(dtype))
