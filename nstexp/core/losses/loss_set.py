"""What a loss term is, and LossSet, which weighs terms: the only code that multiplies by a weight."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nstexp.core.errors import ArgumentError, UserError, weight
from nstexp.core.losses.terms import Role, Shapes, total_of
from nstexp.core.names import Combine
from nstexp.core.networks.encoder import IMAGE, Features

ROLE_WEIGHTS = {"content": "alpha", "style": "beta"}
OF_PIXELS = ("image", "before")  # roles of terms that read no features


@dataclass
class LossValues:
    """One evaluation: the weighted `total` that is optimized and every term, unweighted, by name (scalars)."""

    total: Tensor
    terms: dict[str, Tensor]

    def __add__(self, other: "LossValues") -> "LossValues":
        return LossValues(self.total + other.total, self.terms | other.terms)

    def detached(self) -> "LossValues":
        """The same values without their graphs."""
        return LossValues(self.total.detach(), {name: value.detach() for name, value in self.terms.items()})

    def numbers(self) -> dict[str, float]:
        """`total` and every term as floats, fetched from the device at once."""
        named = {"total": self.total, **self.terms}
        return dict(zip(named, torch.stack([value.detach().float() for value in named.values()]).tolist(), strict=True))


class LossSet(nn.Module):
    """Named terms and the numbers that multiply them.

    A term's weight is the key of its own name if there is one, else `alpha` for a content term and `beta` for a
    style term. Weight 0 means: compute and log, do not optimize.

    Args:
        terms: name -> loss term.
        weights: key -> number.
        identity: names the terms and all their settings, so that their targets can be kept for other pictures and runs;
            None: they are made anew.

    Raises:
        UserError: a term without a weight, a weight that no term uses, or one that is negative or not finite.
    """

    def __init__(
        self, terms: Mapping[str, nn.Module], weights: Mapping[str, float], identity: str | None = None
    ) -> None:
        super().__init__()
        self.identity = identity
        if not terms:
            raise UserError("there is no loss term: choose at least one, such as content and gram")
        for name, term in terms.items():
            if not isinstance(term, nn.Module):
                raise UserError(f"the loss term '{name}' has settings, but is not among those chosen: choose it too")
        self.terms = nn.ModuleDict(dict(terms))
        self.weights = {name: self._weight_of(name, term.role, weights) for name, term in terms.items()}
        if not any(self.weights[name] for name, term in terms.items() if term.role not in OF_PIXELS):
            raise UserError(
                "no content or style term has a weight above 0, so there is nothing to optimize: set weights.alpha "
                "or weights.beta"
            )
        unused = set(weights) - set(terms) - set(ROLE_WEIGHTS.values())
        if unused:
            key, known = sorted(unused)[0], ", ".join(terms)
            problem = f" multiplies nothing: the terms are {known}; correct the key or choose the term too"
            raise ArgumentError(f"weights.{key}", problem)

    @staticmethod
    def _weight_of(name: str, role: Role, weights: Mapping[str, float]) -> float:
        key = name if name in weights else ROLE_WEIGHTS.get(role, name)
        if key not in weights:
            raise UserError(f"the loss term '{name}' has no weight: set weights.{key}")
        return weight(f"weights.{key}", weights[key])

    def layers(self, *roles: Role) -> tuple[str, ...]:
        """Every layer that terms of these roles (none given: of all roles) read, each once; without the image."""
        wanted = [name for t in self.terms.values() if not roles or t.role in roles for name in t.layers]
        return tuple(name for name in dict.fromkeys(wanted) if name != IMAGE)

    def has(self, role: Role) -> bool:
        """Whether any term is of this role."""
        return any(term.role == role for term in self.terms.values())

    @property
    def min_side_px(self) -> int:
        """The shortest image side that every term can be computed for, apart from the encoder's own limit."""
        return max(getattr(term, "min_side_px", 1) for term in self.terms.values())

    def coefficients(self, shapes: Shapes) -> dict[str, dict[str, float]]:
        """Term -> layer -> what the term's own `unit` is multiplied by in the total, at features of these shapes.

        Two configurations (or two codes) whose coefficients agree optimize the same, however their weights and forms
        are written. Terms that have no such unit count as a whole, under the layer ''.
        """
        found = {}
        for name, term in self.terms.items():
            own = term.coefficients(shapes) if hasattr(term, "coefficients") else {"": 1.0}
            found[name] = {layer: self.weights[name] * factor for layer, factor in own.items()}
        return found

    def describe(self, shapes: Shapes) -> list[str]:
        """`coefficients` as one line for each term."""
        lines = []
        for name, layers in self.coefficients(shapes).items():
            term = self.terms[name]
            factors = ", ".join(f"{layer} {factor:.4g}".strip() for layer, factor in layers.items())
            line = f"{name} = {factors} x {getattr(term, 'unit', 'its value')}"
            if hasattr(term, "as_published"):
                unit, published = term.as_published(shapes)
                factors = ", ".join(f"{published[layer] * factor:.4g}" for layer, factor in layers.items())
                line += f", or {factors} x {unit}"
            lines.append(line)
        return lines

    def targets(self, role: Role, feats: Features) -> dict[str, Any]:
        """What the terms of one role have to match, from the features of their picture."""
        with torch.no_grad(), _full_range(feats):
            return {name: term.target(feats) for name, term in self.terms.items() if term.role == role}

    def combined(
        self, name: str, targets: Sequence[tuple[float, Mapping[str, Any]]], combine: Combine, key: str = "combine"
    ) -> list[tuple[float, Mapping[str, Any]]]:
        """What a style term has to match for several styles, given as pairs of (share, target).

        weighted_loss: each by itself; the term's value is the sum of share times loss.
        mean_gram: one target, the statistics averaged by the shares.
        sum_gram: as many times that as there are styles with a share: with equal shares the plain sum of the Gram
            matrices. Features with n times the Gram matrix are sqrt(n) times as strong, and so are other statistics.

        With Gram matrices, weighted_loss and mean_gram have the same gradient if the shares sum to 1: the loss is
        quadratic in the Gram matrix.

        Args:
            key: what the caller's user knows `combine` as, for the error message.

        Raises:
            UserError: the term's statistics cannot be added.
        """
        if combine == "weighted_loss" or len(targets) == 1:
            return list(targets)
        term = self.terms[name]
        if not hasattr(term, "blend"):
            raise UserError(f"{key}={combine}: the loss term '{name}' knows only {key}=weighted_loss")
        merged = {}
        for layer in dict.fromkeys(layer for _, target in targets for layer in target):
            having = [(share, target[layer]) for share, target in targets if layer in target and share]
            total = sum(share for share, _ in having)
            if having:
                strength = len(having) ** 0.5 if combine == "sum_gram" else 1.0
                merged[layer] = term.blend([(share / total, statistic) for share, statistic in having], strength)
        return [(1.0, merged)]

    def forward(
        self,
        feats: Features,
        targets: Mapping[str, Sequence[tuple[Any, ...]]],
        roles: Sequence[Role] = (),
        normalize_gradients: bool = False,
    ) -> LossValues:
        """Evaluate every term, or those of some roles.

        Args:
            feats: features of the picture that is being made, and the picture itself under `image`.
            targets: term name -> tuples of (share, target) or (share, target, guides); a term's value is the sum of
                share times loss. Image terms need none; those of the frame before are 0 without one.
            roles: which terms; none given: all.
            normalize_gradients: what reaches a layer from a term has the term's weight (times the layer's, if the term
                has `factors`) as sum of absolute values, however large the loss is; the gradient is then not that of
                `total`. Terms of the picture's own pixels are left as they are.
        """
        values = {}
        chosen = {name: term for name, term in self.terms.items() if not roles or term.role in roles}
        for name, term in chosen.items():
            factor = self.weights[name]
            with torch.set_grad_enabled(torch.is_grad_enabled() and factor > 0), _full_range(feats):
                own = feats
                if normalize_gradients and term.role not in OF_PIXELS:
                    factors = dict(zip(term.layers, getattr(term, "factors", ()), strict=False))
                    own = {
                        layer: _NormalizedGradient.apply(x, factor * factors.get(layer, 1.0))
                        for layer, x in feats.items()
                    }
                values[name] = self.one(name, own, targets)
        total = total_of([self.weights[name] * value for name, value in values.items() if self.weights[name] > 0])
        total = total.to(feats[IMAGE].device)
        return LossValues(total, values)

    def one(self, name: str, feats: Features, targets: Mapping[str, Sequence[tuple[Any, ...]]]) -> Tensor:
        """The unweighted value of one term; arguments as of `forward`."""
        goals = targets.get(name) or [(1.0, None)]
        values = [share * self.terms[name](feats, *goal) for share, *goal in goals]
        return total_of([value.to(feats[IMAGE].device) for value in values])  # a term without a layer gives a bare 0


def _full_range(feats: Features) -> torch.autocast:
    """No mixed precision here: products of activations, summed over positions, pass the range of float16."""
    return torch.autocast(next(iter(feats.values())).device.type, enabled=False)


class _NormalizedGradient(torch.autograd.Function):
    """The same values; a gradient of fixed sum of absolute values (neural-style's -normalize_gradients)."""

    @staticmethod
    def forward(ctx, features: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return features.view_as(features)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        size = torch.linalg.vector_norm(grad, 1, dtype=torch.promote_types(grad.dtype, torch.float32))
        return (grad * (ctx.strength / (size + 1e-8))).to(grad.dtype), None
