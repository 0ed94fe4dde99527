"""Per-image optimization: where it starts, how the image is parametrized, and L-BFGS with a line search."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from nstexp.core.color import match_color
from nstexp.core.errors import UserError
from nstexp.core.images import load_image, resize

STARTS = ("content", "recolored", "noise", "style", "gray")


def starting_image(
    start: str, content: Tensor, styles: Sequence[Tensor], shares: Sequence[float], noise_std: float, seed: int
) -> Tensor:
    """The image that the optimization begins with, (B, 3, H, W) like `content`.

    Args:
        start: `content`; `recolored` (the content with the styles' color mean and covariance); `noise` (normal around
            mid-gray); `style` (the first style picture, stretched); `gray`; or the path of a picture.
        content: (B, 3, H, W) in [0, 1].
        styles: (3, H', W') each, in [0, 1]; needed by `recolored` and `style`.
        shares: of the styles.
        noise_std: standard deviation of the noise, in units of the [0, 1] range.
        seed: of the noise.

    Raises:
        UserError: none of these.
    """
    size = content.shape[-2:]
    if start == "content":
        return content.clone()
    if start == "recolored":
        return match_color(content, styles, shares).clamp(0, 1)
    if start == "gray":
        return torch.full_like(content, 0.5)
    if start == "noise":
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(content.shape, generator=generator) * noise_std + 0.5
        return noise.to(content)
    if start == "style":
        return resize(styles[0], size).to(content).expand_as(content).clone()
    try:
        return resize(load_image(start), size).to(content).expand_as(content).clone()
    except UserError as error:
        raise UserError(f"method.init={start} is neither {', '.join(STARTS)} nor a picture: {error}") from error


@dataclass(frozen=True)
class Level:
    """One stage of coarse-to-fine work: the image's (height, width), and how many evaluations it gets."""

    size: tuple[int, int]
    max_steps: int


class PyramidImage(nn.Module):
    """An image as a fixed start plus a pyramid of offsets: x = start + z_0 + gain up(z_1 + gain up(z_2 + ...)).

    The map from z to x is linear and onto, so the optimum is the same; but a step on z moves large structures as
    easily as single pixels, which acts as a preconditioner. One level is the plain pixel image.

    Args:
        start: (B, 3, H, W).
        levels: number of z, each half as large as the one before (fewer where the image is too small).
        gain: relative scale of the next coarser level.
    """

    def __init__(self, start: Tensor, levels: int = 1, gain: float = 0.5) -> None:
        super().__init__()
        self.gain = gain
        self.register_buffer("start", start.detach().clone())
        sizes = [tuple(start.shape[-2:])]
        while len(sizes) < levels and min(sizes[-1]) >= 8:
            sizes.append(tuple((side + 1) // 2 for side in sizes[-1]))
        self.offsets = nn.ParameterList(torch.zeros(*start.shape[:2], *size, dtype=start.dtype) for size in sizes)

    def forward(self) -> Tensor:
        """The image (B, 3, H, W)."""
        total = self.offsets[-1]
        for offset in reversed(self.offsets[:-1]):
            up = F.interpolate(total, size=offset.shape[-2:], mode="bilinear", align_corners=False)
            total = offset + self.gain * up
        return self.start + total


class LBFGS(Optimizer):
    """Limited-memory BFGS; one `step` is one iteration with a weak-Wolfe line search (Lewis & Overton 2013).

    Differs from `torch.optim.LBFGS`: the gradient at the accepted point is kept, so an iteration costs one
    evaluation when the unit step is good; and every accepted step has y.s > 0. Without a line search the Gram loss,
    which is quartic, lets L-BFGS stall when it starts from noise with shallow style layers.

    Args:
        params: one group; all parameters form one vector.
        history_size: pairs kept; each costs two copies of the parameters.
        first_step: root-mean-square change of the parameters in the first trial step.
        max_evals: evaluations of one line search before the best point found is taken.
        line_search: False takes every step as it comes (for comparison with codes that do so).
    """

    SUFFICIENT_DECREASE = 1e-4
    CURVATURE = 0.9

    def __init__(
        self,
        params,
        history_size: int = 20,
        first_step: float = 0.02,
        max_evals: int = 8,
        line_search: bool = True,
    ) -> None:
        super().__init__(params, {})
        self.history_size, self.first_step = history_size, first_step
        self.max_evals = max_evals if line_search else 1
        self.line_search = line_search
        self.restart()

    def restart(self, params: Sequence[nn.Parameter] | None = None) -> None:
        """Forget curvature, for another objective or other parameters."""
        if params is not None:
            self.param_groups[0]["params"] = list(params)
        self._pairs: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=self.history_size)
        self._here: tuple[float, Tensor] | None = None  # loss and gradient at the current parameters

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> float:
        """One iteration. `closure` clears the gradients, evaluates the loss, and calls backward."""
        evaluate = torch.enable_grad()(closure)
        if self._here is None:
            self._here = float(evaluate()), self._gradient()
        loss, gradient = self._here
        direction = self._direction(gradient)
        slope = float(gradient @ direction)
        if slope >= 0:  # only rounding does this: the pairs no longer describe the loss
            self._pairs.clear()
            direction, slope = -gradient, -float(gradient @ gradient)
        if slope == 0:
            return loss
        length = 1.0
        if not self._pairs:
            length = self.first_step / float(direction.square().mean().sqrt())
        self._here = self._search(evaluate, loss, gradient, direction, slope, length)
        return self._here[0]

    def _search(self, evaluate, loss: float, gradient: Tensor, direction: Tensor, slope: float, length: float):
        """Move along the direction; returns loss and gradient at the point that was taken."""
        before = self._vector()
        shortest, longest = 0.0, float("inf")
        best = (loss, 0.0, gradient)
        for _ in range(self.max_evals):
            self._move_to(before, direction, length)
            new_loss, new_gradient = float(evaluate()), self._gradient()
            if new_loss < best[0] or not self.line_search:
                best = (new_loss, length, new_gradient)
            if not new_loss <= loss + self.SUFFICIENT_DECREASE * length * slope:
                longest = length
            elif float(new_gradient @ direction) < self.CURVATURE * slope:
                shortest = length
            else:
                break
            length = 2 * length if longest == float("inf") else (shortest + longest) / 2
        new_loss, taken, new_gradient = best
        self._move_to(before, direction, taken)
        if taken == 0:
            self._pairs.clear()
        else:
            self._remember(direction * taken, new_gradient - gradient)
        return new_loss, new_gradient

    def _remember(self, s: Tensor, y: Tensor) -> None:
        curvature = float(s @ y)
        if curvature > 1e-10 * float(y @ y):
            self._pairs.append((s, y, 1 / curvature))

    def _direction(self, gradient: Tensor) -> Tensor:
        """Two-loop recursion (Nocedal & Wright, Algorithm 7.4)."""
        q = -gradient
        alphas = []
        for s, y, rho in reversed(self._pairs):
            alpha = rho * float(s @ q)
            q.add_(y, alpha=-alpha)
            alphas.append(alpha)
        if self._pairs:
            s, y, rho = self._pairs[-1]
            q.mul_(1 / (rho * float(y @ y)))
        for (s, y, rho), alpha in zip(self._pairs, reversed(alphas), strict=True):
            q.add_(s, alpha=alpha - rho * float(y @ q))
        return q

    def _vector(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.param_groups[0]["params"]])

    def _gradient(self) -> Tensor:
        return torch.cat([p.grad.flatten() for p in self.param_groups[0]["params"]])

    def _move_to(self, before: Tensor, direction: Tensor, length: float) -> None:
        offset = 0
        for p in self.param_groups[0]["params"]:
            part = slice(offset, offset + p.numel())
            p.copy_((before[part] + length * direction[part]).view_as(p))
            offset += p.numel()
