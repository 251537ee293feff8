"""The criteria of Section 3.3 and the quantities of Theorem 1, from gradients and masks.

All of them are functions of three squared norms and one inner product, so a part of the model has its own: the sums
over its parameters. They are taken in float64. Where a quantity is undefined it is `None`, never clipped.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Criteria:
    """The quantities of one step, by their names in the paper.

    Args:
        full: `|grad f(x)|^2`.
        masked: `|p * grad f(x)|^2`.
        perturbed: `|p * grad f(x~)|^2`.
        inner: `<p * grad f(x), p * grad f(x~)>`.
    """

    full: float
    masked: float
    perturbed: float
    inner: float

    @property
    def c_norm(self) -> float | None:
        """`|grad f(x)| / |p * grad f(x)|` (Criterion 1), at least 1; `None` where the mask leaves nothing."""
        return _root(self.c_norm_squared)

    @property
    def c_norm_squared(self) -> float | None:
        """The square of `c_norm`, which Figure 4a plots and whose bound for the k largest of d elements is `d / k`."""
        return _ratio(self.full, self.masked)

    @property
    def c_sim(self) -> float | None:
        """`|p * grad f(x)| / |p * grad f(x~)|` (Criterion 2); `None` where the perturbed gradient is zero."""
        return _root(_ratio(self.masked, self.perturbed))

    @property
    def c_align(self) -> float | None:
        """One over the cosine of both (Criterion 3), at least 1; `None` where their inner product is not positive."""
        return _ratio(math.sqrt(self.masked * self.perturbed), self.inner)

    @property
    def cosine(self) -> float | None:
        """The cosine of `p * grad f(x)` and `p * grad f(x~)`, from -1 to 1; `None` where one of them is zero."""
        return _ratio(self.inner, math.sqrt(self.masked * self.perturbed))

    @property
    def alpha(self) -> float | None:
        """`min(1, <p * grad f(x), p * grad f(x~)> / |p * grad f(x~)|^2)`, the factor of the learning rate.

        `None` where the inner product is not positive: no positive step is known to descend there.
        """
        scale = _ratio(self.inner, self.perturbed) if self.inner > 0 else None
        return None if scale is None else min(1.0, scale)

    @property
    def q(self) -> float | None:
        """`c_norm * max(c_sim, c_align)`; `None` where one of them is undefined."""
        factors = (self.c_norm, self.c_sim, self.c_align)
        return None if None in factors else factors[0] * max(factors[1:])


def criteria(
    gradient: Mapping[str, Tensor],
    perturbed: Mapping[str, Tensor] | None = None,
    mask: Mapping[str, Tensor | bool] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> Criteria | dict[str, Criteria]:
    """Return the criteria of the whole model, or by group of parameters.

    Args:
        gradient: `grad f(x)` by the name of the parameter. A name that is left out has the gradient zero.
        perturbed: `grad f(x~)` likewise; `None`: there is no perturbation.
        mask: by name, a `torch.bool` tensor of the parameter's shape, or one bool; left out: `True`.
        groups: by the name of the group, the names of its parameters.

    Raises:
        ValueError: a gradient, its perturbed one and its mask differ in shape.
    """
    perturbed, mask = gradient if perturbed is None else perturbed, mask or {}
    names = list(dict.fromkeys([*gradient, *perturbed]))
    sums = dict(zip(names, _sums(names, gradient, perturbed, mask), strict=True))

    def of(chosen) -> Criteria:
        return Criteria(*(math.fsum(values) for values in zip((0.0,) * 4, *(sums[n] for n in chosen), strict=True)))

    if groups is None:
        return of(names)
    return {group: of([name for name in members if name in sums]) for group, members in groups.items()}


def perturbation_ratio(
    perturbation: Mapping[str, Tensor],
    gradient: Mapping[str, Tensor],
    perturbed: Mapping[str, Tensor],
    mask: Mapping[str, Tensor | bool] | None = None,
) -> float | None:
    """Return `|dx| / max(|p * grad f(x)|, |p * grad f(x~)|)`, which Assumption 3 wants below `1 / (2 L)`.

    `None` where both gradients are zero.
    """
    found = criteria(gradient, perturbed, mask)
    size = math.fsum(float(dx.double().square().sum()) for dx in perturbation.values())
    return _root(_ratio(size, max(found.masked, found.perturbed)))


def _sums(names, gradient, perturbed, mask) -> list[list[float]]:
    """Return the four sums of each parameter, read from the device once."""
    rows = []
    for name in names:
        given = [tensor[name] for tensor in (gradient, perturbed) if name in tensor]
        kept = mask.get(name, True)
        if len({tuple(t.shape) for t in [*given, *([kept] if isinstance(kept, Tensor) else [])]}) > 1:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in given)
            of_mask = f" and a mask of shape {tuple(kept.shape)}" if isinstance(kept, Tensor) else ""
            raise ValueError(f"'{name}' has gradients of shape {shapes}{of_mask}, but they must be of one shape")
        zero = torch.zeros_like(given[0], dtype=torch.float64)
        g, h = (tensor[name].double() if name in tensor else zero for tensor in (gradient, perturbed))
        kept = kept.to(g.device) if isinstance(kept, Tensor) else torch.tensor(kept, device=g.device)
        p, q = torch.where(kept, g, 0), torch.where(kept, h, 0)
        rows.append(torch.stack([(g * g).sum(), (p * p).sum(), (q * q).sum(), (p * q).sum()]))
    return torch.stack(rows).tolist() if rows else []


def _ratio(numerator: float, denominator: float) -> float | None:
    """Return the quotient; `None` unless the denominator is positive and both are finite."""
    if not denominator > 0 or not math.isfinite(numerator) or not math.isfinite(denominator):
        return None
    return numerator / denominator


def _root(value: float | None) -> float | None:
    return None if value is None else math.sqrt(value)
