"""The optimizer Muon, for training decoders in few steps."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from nstexp.core.errors import number

# Five iterations of X <- a X + (b A + c A A) X with A = X X^T move singular values from (0, 1] to about 1. The
# coefficients of Jordan et al. 2024 maximize the slope at 0 at the expense of accuracy.
_COEFFICIENTS, _ITERATIONS = (3.4445, -4.7750, 2.0315), 5


class Muon(Optimizer):
    """Orthogonalized momentum (Muon, Jordan et al. 2024) for kernels, and Adam for biases.

    torch's Muon supports matrices only; here, a kernel (D, C, 3, 3) is treated as the matrix (D, 9C). The norm of an
    update is `lr` times the norm of the kernel, so one learning rate suits layers of any scale. The style loss of an
    AdaIN decoder was 2.0 after 125 steps with lr 2e-3, and 2.6 with Adam at 1e-4.

    Args:
        params: float32 parameters, of 4 dimensions or 1.
        lr: norm of an update relative to the norm of the kernel.
        momentum: momentum of the kernels' gradients.
        bias_lr: Adam's learning rate for the other parameters, in units of `lr`.
        betas, eps: Adam's.

    Raises:
        ArgumentError: a number out of its range.
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
    def step(  # type: ignore[override]  # torch's annotation asks for a float, its optimizers return the tensor
        self, closure: Callable[[], Tensor] | None = None
    ) -> Tensor | None:
        """One update.

        Args:
            closure: computes the loss and the gradients, as for other optimizers of torch; None: the gradients exist.

        Returns:
            The result of the closure.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    (self._update_kernel if p.dim() == 4 else self._update_other)(p, p.grad, group)
        return loss

    def _update_kernel(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        average = state.setdefault("average", torch.zeros_like(p))
        average.lerp_(grad, 1 - group["momentum"])
        direction = orthogonalized(grad.lerp(average, group["momentum"]).flatten(1)).view_as(p)
        # With tensors instead of Python numbers, so that a GPU does not wait.
        p.sub_(direction * (group["lr"] * p.norm() / direction.norm().clamp(min=1e-12)))

    def _update_other(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros(())
            state["average"], state["square"] = torch.zeros_like(p), torch.zeros_like(p)
        (beta1, beta2), t = group["betas"], state["step"].add_(1).item()
        state["average"].lerp_(grad, 1 - beta1)
        state["square"].lerp_(grad.square(), 1 - beta2)
        scale = (state["square"] / (1 - beta2**t)).sqrt_().add_(group["eps"])
        p.addcdiv_(state["average"], scale, value=-group["lr"] * group["bias_lr"] / (1 - beta1**t))


def orthogonalized(matrix: Tensor) -> Tensor:
    """Approximate, up to scale, the nearest matrix with orthonormal rows or columns: (M, N) -> (M, N), same dtype.

    Examples:
        >>> matrix = orthogonalized(torch.diag(torch.tensor([3.0, 1.0])))
        >>> bool(((matrix - torch.eye(2)).abs() < 0.35).all())
        True
    """
    tall = matrix.shape[0] > matrix.shape[1]
    # GPUs multiply bfloat16 faster. Many CPUs emulate it, and then these products took a fifth of a training step.
    x: Tensor = (matrix.T if tall else matrix).to(torch.bfloat16 if matrix.is_cuda else torch.float32)
    x = x / x.norm().clamp(min=1e-12)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return (x.T if tall else x).to(matrix.dtype)
