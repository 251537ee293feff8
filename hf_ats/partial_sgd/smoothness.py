"""An estimate of the constant L of Assumption 1 while a run goes on."""

import math
from collections.abc import Mapping

from torch import Tensor

Tensors = Mapping[str, Tensor]


class Smoothness:
    """The largest `|grad f(y) - grad f(x)| / |y - x|` of a run, which is at most L for any two points.

    Here x is the point of a step and y is near it: one more gradient, on the step's own batch. The difference of both
    gradients gives the direction of the next step's `y - x`, which is power iteration on the Hessian. So `value` grows
    to L on a quadratic, and is never above it. Elsewhere it is the largest curvature that was met, maybe below L.
    """

    SIZE = 1e-3  # |y - x| / |x|: near, and beyond what float32 rounds away

    def __init__(self):
        self.value = 0.0
        self.direction: Tensors = {}

    def look_ahead(self, point: Tensors, mask: Mapping[str, Tensor | bool] | None = None) -> dict[str, Tensor]:
        """Return `y - x`; at first along the point itself.

        Args:
            point: x by the name of the parameter, those that are trained.
            mask: of the elements that are trained, as in `Choice`.
        """
        for direction in (self.direction, point):
            kept = {
                name: direction[name].where(_as_tensor((mask or {}).get(name, True), p), 0)
                for name, p in point.items()
                if name in direction
            }
            if length := norm(kept):
                return {name: d * (self.SIZE * (norm(point) or 1.0) / length) for name, d in kept.items()}
        return {name: p + self.SIZE for name, p in point.items()}  # at the origin any direction will do

    def update(self, look_ahead: Tensors, gradient: Tensors, ahead: Tensors) -> float:
        """Take in `grad f(x)` and `grad f(y)`; return `value`."""
        difference = {name: ahead[name] - gradient[name] for name in gradient.keys() & ahead.keys()}
        found = norm(difference) / norm(look_ahead)
        if math.isfinite(found):
            self.value, self.direction = max(self.value, found), difference
        return self.value


def norm(tensors: Tensors) -> float:
    """Return the norm of all of them as one vector."""
    return math.sqrt(math.fsum(float(tensor.double().square().sum()) for tensor in tensors.values()))


def _as_tensor(mask: Tensor | bool, like: Tensor) -> Tensor:
    return mask.to(like.device) if isinstance(mask, Tensor) else like.new_full((), mask, dtype=bool)
