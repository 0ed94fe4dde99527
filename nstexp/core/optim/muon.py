"""Muon, for training decoders on few pictures: see `Muon`."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

from nstexp.core.errors import number

# Five steps of X <- a X + (b A + c A A) X with A = X X^T bring singular values from (0, 1] to about 1 (Jordan et al.
# 2024: the coefficients trade exactness for the steepest slope at 0).
_COEFFICIENTS, _ITERATIONS = (3.4445, -4.7750, 2.0315), 5


class Muon(Optimizer):
    """Momentum orthogonalized (Jordan et al. 2024) for kernels, Adam for biases.

    torch's own Muon takes matrices only. A convolution's kernel (D, C, 3, 3) is taken as the matrix (D, 9C). The
    update has the norm of `lr` times the kernel's own, so one rate suits layers of any scale. An AdaIN decoder had a
    style loss of 2.0 after 125 steps (lr 2e-3) where Adam (1e-4) had 2.6.

    Args:
        params: float32 parameters, of 4 dimensions or 1.
        lr: step relative to the norm of a kernel.
        momentum: of the kernels' gradients.
        bias_lr: Adam's rate for everything that is no kernel, in units of `lr`.
        betas, eps: Adam's.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 4e-3,
        momentum: float = 0.95,
        bias_lr: float = 0.02,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
    ) -> None:
        number("lr", lr, above=0, example="4e-3")
        number("momentum", momentum, low=0, below=1, example="0.95")
        number("bias_lr", bias_lr, low=0, example="0.02")
        number("eps", eps, above=0, example="1e-8")
        super().__init__(
            params, {"lr": lr, "momentum": momentum, "bias_lr": bias_lr, "betas": tuple(betas), "eps": eps}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One update; `closure` recomputes the gradients, as for every optimizer of torch."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    (self._kernel if p.dim() == 4 else self._other)(p, group)
        return loss

    def _kernel(self, p: Tensor, group: dict) -> None:
        state = self.state[p]
        average = state.setdefault("average", torch.zeros_like(p))
        average.lerp_(p.grad, 1 - group["momentum"])
        direction = orthogonalized(p.grad.lerp(average, group["momentum"]).flatten(1)).view_as(p)
        p.sub_(direction * (group["lr"] * p.norm() / direction.norm().clamp(min=1e-12)))  # a GPU need not wait

    def _other(self, p: Tensor, group: dict) -> None:
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros(())
            state["average"], state["square"] = torch.zeros_like(p), torch.zeros_like(p)
        (beta1, beta2), t = group["betas"], state["step"].add_(1).item()
        state["average"].lerp_(p.grad, 1 - beta1)
        state["square"].lerp_(p.grad.square(), 1 - beta2)
        scale = (state["square"] / (1 - beta2**t)).sqrt_().add_(group["eps"])
        p.addcdiv_(state["average"], scale, value=-group["lr"] * group["bias_lr"] / (1 - beta1**t))


def orthogonalized(matrix: Tensor) -> Tensor:
    """About the nearest matrix with orthonormal rows or columns, up to scale: (M, N) -> (M, N), in the same dtype."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).bfloat16()
    x = x / x.norm().clamp(min=1e-12)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return (x.T if tall else x).to(matrix.dtype)
