"""LossSet, the weighted sum of loss terms: the only code that multiplies by a weight."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nstexp.core.errors import ArgumentError, UserError, weight
from nstexp.core.losses.terms import Guides, Role, Shapes, total_of
from nstexp.core.names import Combine
from nstexp.core.networks.encoder import IMAGE, Features

ROLE_WEIGHTS = {"content": "alpha", "style": "beta"}
PIXEL_ROLES = ("image", "before")  # roles of terms that read pixels only


@dataclass
class LossValues:
    """The result of one evaluation.

    Args:
        total: the weighted sum, a scalar; the optimizer minimizes it.
        terms: name -> unweighted value of the term, a scalar.

    Examples:
        >>> values = LossValues(torch.tensor(3.0), {"gram": torch.tensor(1.0)})
        >>> (values + LossValues(torch.tensor(2.0), {"tv": torch.tensor(4.0)})).numbers()
        {'total': 5.0, 'gram': 1.0, 'tv': 4.0}
    """

    total: Tensor
    terms: dict[str, Tensor]

    def __add__(self, other: "LossValues") -> "LossValues":
        return LossValues(self.total + other.total, self.terms | other.terms)

    def detached(self) -> "LossValues":
        """The same values, detached from the autograd graph."""
        return LossValues(self.total.detach(), {name: value.detach() for name, value in self.terms.items()})

    def numbers(self) -> dict[str, float]:
        """`total` and all terms as floats, with one transfer from the device."""
        named = {"total": self.total, **self.terms}
        return dict(zip(named, torch.stack([value.detach().float() for value in named.values()]).tolist(), strict=True))


class LossSet(nn.Module):
    """Named loss terms with their weights.

    A term's weight is `weights[name]` if that key exists, else `alpha` for a content term and `beta` for a style term.
    A term with weight 0 is computed and logged but not optimized.

    Args:
        terms: name -> loss term, see `LossTerm`.
        weights: term name, `alpha` or `beta` -> number, 0 or larger.
        identity: a text that identifies the terms with all their settings, as a key under which their targets are
            cached for other pictures and runs; None: targets are not cached.

    Raises:
        UserError: a term without a weight, a weight that no term uses, or a weight that is negative or not finite.
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
        self.weights = {name: self._weight_of(name, term.role, weights) for name, term in self._terms().items()}
        if not any(self.weights[name] for name, term in self._terms().items() if term.role not in PIXEL_ROLES):
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
        """The layers that terms of these roles read, without duplicates and without the image; no role: all terms."""
        names = [name for term in self._terms(*roles).values() for name in term.layers]
        return tuple(name for name in dict.fromkeys(names) if name != IMAGE)

    def _terms(self, *roles: Role) -> dict[str, Any]:
        """Name -> term, of these roles; no role: all terms. Typed for the optional members of `LossTerm`."""
        terms: Iterable[tuple[str, Any]] = self.terms.items()
        return {name: term for name, term in terms if not roles or term.role in roles}

    def has(self, role: Role) -> bool:
        """True if a term has this role."""
        return bool(self._terms(role))

    def without(self, role: Role) -> "LossSet":
        """The set of the other terms, with their weights.

        Raises:
            UserError: no style or content term with a weight above 0 is left.
        """
        terms = {name: term for name, term in self._terms().items() if term.role != role}
        identity = None if self.identity is None else f"{self.identity} without {role}"
        return LossSet(terms, {name: self.weights[name] for name in terms}, identity)

    @property
    def min_side_px(self) -> int:
        """The shortest image side for which all terms can be computed; the encoder has a limit besides."""
        return max(getattr(term, "min_side_px", 1) for term in self.terms.values())

    def coefficients(self, shapes: Shapes) -> dict[str, dict[str, float]]:
        """Term -> layer -> factor of the term's `unit` in the total, for features of these shapes.

        Two configurations (or two implementations) with equal coefficients optimize the same loss, whatever weights and
        forms they are written with. A term without a unit has one factor on its whole value, under the layer ''.
        """
        coefficients = {}
        for name, term in self._terms().items():
            layers = term.coefficients(shapes) if hasattr(term, "coefficients") else {"": 1.0}
            coefficients[name] = {layer: self.weights[name] * factor for layer, factor in layers.items()}
        return coefficients

    def describe(self, shapes: Shapes) -> list[str]:
        """`coefficients` as text, one line per term."""
        lines = []
        terms = self._terms()
        for name, layers in self.coefficients(shapes).items():
            term = terms[name]
            factors = ", ".join(f"{layer} {factor:.4g}".strip() for layer, factor in layers.items())
            line = f"{name} = {factors} x {getattr(term, 'unit', 'its value')}"
            if hasattr(term, "as_published"):
                unit, published = term.as_published(shapes)
                factors = ", ".join(f"{published[layer] * factor:.4g}" for layer, factor in layers.items())
                line += f", or {factors} x {unit}"
            lines.append(line)
        return lines

    def targets(self, role: Role, feats: Features, guides: Guides | None = None) -> dict[str, Any]:
        """Term -> the statistic to match, for the terms of one role, from the features of the reference picture.

        Args:
            guides: restrict the statistics of style terms to a part of that picture, see `LossTerm.target`.
        """
        given = () if guides is None else (guides,)
        with torch.no_grad(), _full_range(feats):
            return {name: term.target(feats, *given) for name, term in self._terms(role).items()}

    def combined(
        self, name: str, targets: Sequence[tuple[float, Mapping[str, Any]]], combine: Combine, key: str = "combine"
    ) -> list[tuple[float, Mapping[str, Any]]]:
        """Combine the targets of several styles for one style term.

        Args:
            name: the term.
            targets: pairs (share, target).
            combine: `weighted_loss` keeps the targets apart, and the term's value becomes the sum of share times loss.
                `mean_gram` averages the statistics by the shares into one target. `sum_gram` multiplies that target
                by the number n of styles with a share above 0: with equal shares, the result is the sum of the Gram
                matrices. Statistics other than Gram matrices become those of features sqrt(n) times as large, because
                the Gram matrix of such features is n times as large.
            key: the user's key for `combine`, for the error message.

        Returns:
            Pairs (share, target) for `forward`.

        Raises:
            UserError: the term's statistics cannot be averaged.

        The Gram loss is quadratic in the Gram matrix, so weighted_loss and mean_gram have equal gradients if the shares
        sum to 1.
        """
        if combine == "weighted_loss" or len(targets) == 1:
            return list(targets)
        term = self._terms()[name]
        if not hasattr(term, "blend"):
            raise UserError(f"{key}={combine}: the loss term '{name}' knows only {key}=weighted_loss")
        merged = {}
        for layer in dict.fromkeys(layer for _, target in targets for layer in target):
            parts = [(share, target[layer]) for share, target in targets if layer in target and share]
            total = sum(share for share, _ in parts)
            if parts:
                strength = len(parts) ** 0.5 if combine == "sum_gram" else 1.0
                merged[layer] = term.blend([(share / total, statistic) for share, statistic in parts], strength)
        return [(1.0, merged)]

    def forward(
        self,
        feats: Features,
        targets: Mapping[str, Sequence[tuple[Any, ...]]],
        roles: Sequence[Role] = (),
        normalize_gradients: bool = False,
    ) -> LossValues:
        """Evaluate the terms.

        Args:
            feats: features of the current picture, and the picture itself under `image`.
            targets: term name -> tuples (share, target) or (share, target, guides); a term's value is the sum of share
                times loss. Terms of role `image` need no target; terms of role `before` are 0 without a target.
            roles: roles of the terms to evaluate; empty: all terms.
            normalize_gradients: scale the gradient that a term sends to a layer so that its absolute values sum to the
                term's weight (times the layer's factor, if the term has `factors`), whatever the size of the loss.
                The gradient then differs from that of `total`. Terms on pixels keep their gradients.

        Returns:
            The weighted total and the unweighted terms, see `LossValues`.
        """
        values = {}
        for name, term in self._terms(*roles).items():
            factor = self.weights[name]
            with torch.set_grad_enabled(torch.is_grad_enabled() and factor > 0), _full_range(feats):
                inputs = feats
                if normalize_gradients and term.role not in PIXEL_ROLES:
                    factors = dict(zip(term.layers, getattr(term, "factors", ()), strict=False))
                    inputs = {
                        layer: _NormalizedGradient.apply(x, factor * factors.get(layer, 1.0))
                        for layer, x in feats.items()
                    }
                values[name] = self.one(name, inputs, targets)
        return self.weighed(values, feats[IMAGE].device)

    def weighed(self, values: dict[str, Tensor], device: torch.device) -> LossValues:
        """The weighted total of terms by name; a term with weight 0 does not count."""
        total = total_of([self.weights[name] * value for name, value in values.items() if self.weights[name] > 0])
        return LossValues(total.to(device), values)

    def one(self, name: str, feats: Features, targets: Mapping[str, Sequence[tuple[Any, ...]]]) -> Tensor:
        """The unweighted value of one term; the arguments are those of `forward`."""
        goals = targets.get(name) or [(1.0, None)]
        values = [share * self.terms[name](feats, *goal) for share, *goal in goals]
        return total_of([value.to(feats[IMAGE].device) for value in values])  # `total_of([])` is always on the CPU


def _full_range(feats: Features) -> torch.autocast:
    """Switch mixed precision off: sums of products of activations can exceed the range of float16."""
    return torch.autocast(next(iter(feats.values())).device.type, enabled=False)


class _NormalizedGradient(torch.autograd.Function):
    """Identity whose gradient is scaled to a fixed sum of absolute values (neural-style's -normalize_gradients)."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        size = torch.linalg.vector_norm(grad, 1, dtype=torch.promote_types(grad.dtype, torch.float32))
        return (grad * (ctx.strength / (size + 1e-8))).to(grad.dtype), None
