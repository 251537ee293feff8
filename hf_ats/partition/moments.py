"""What modules read on some text, for the starts of cores that keep what matters there.

A start by weights asks that a core's weight is near the full one, `|W - W'|`; a start by what was read, that its
outputs are, `|(W - W') X|`, where the columns of `X` are the inputs on the text. That is `|(W - W') C^1/2|`, with
their second moment `C`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

# How much a direction counts that no input had, as a share of the mean one: the text is a sample, and training goes
# beyond it. It also gives C a root where inputs are fewer than directions.
_DAMPING = 0.1


@dataclass(frozen=True)
class InputMoments:
    """What one module read: `count` inputs `x`, and sums over them.

    A lookup in a vocabulary table reads tokens, and each is the `x` that is 1 at the token and 0 elsewhere.

    Attributes:
        count: how many inputs there were.
        total: the sum of `x`, shape `(in,)`; of a lookup, how often each token came, `(vocabulary,)`.
        products: the sum of `x x^T`, shape `(in, in)`; None of a lookup, where it is the diagonal matrix of `total`.
    """

    count: int
    total: torch.Tensor
    products: torch.Tensor | None = None

    def __add__(self, other: "InputMoments") -> "InputMoments":
        """Return the moments of both texts, or of two modules that read the same table."""
        products = None if self.products is None else self.products + other.products
        return InputMoments(self.count + other.count, self.total + other.total, products)

    @property
    def mean(self) -> torch.Tensor:
        """The mean input, shape `(in,)`."""
        return self.total / self.count

    @property
    def second(self) -> torch.Tensor:
        """The second moment `C`, to which a tenth of its mean diagonal is added; of a lookup the diagonal alone.

        Of inputs that were all 0 it is the identity, and starts by it are those by weights.
        """
        second = (self.total if self.products is None else self.products) / self.count
        diagonal = second if self.products is None else second.diagonal()  # a view
        mean = diagonal.mean()
        diagonal += _DAMPING * mean if mean > 0 else 1
        return second

    def weighted(self, weight: torch.Tensor) -> torch.Tensor:
        """Return `W C^1/2` of a weight `(out, in)`, up to a rotation; of a table `(vocabulary, width)` its `C^1/2 E`.

        The norm of it is that of the outputs on the text.
        """
        second = self.second.to(weight.device, torch.float64)  # in float32 a few large directions hide the others
        if self.products is None:
            return second.sqrt().to(weight.dtype)[:, None] * weight
        return weight @ torch.linalg.cholesky(second).to(weight.dtype)


Moments = Mapping[str, InputMoments]
"""What modules read, by their dotted names."""


def moments_of(moments: Moments, names: Sequence[str]) -> InputMoments:
    """Return what a module read, or what the modules that share a table looked up, or else projected.

    Raises:
        ValueError: none of them read anything.
    """
    found = [moments[name] for name in names if name in moments]
    if not found:
        raise ValueError(
            f"no calibration sentence reached {names[0]}, so that what matters there is not known; leave it out by "
            f"exclude_modules=[{names[0]!r}], or begin by the weights, without calibration."
        )
    of_tokens = [one for one in found if one.products is None]
    total, *others = of_tokens or found[:1]
    for other in others:
        total = total + other
    return total


def factors_on_text(weight: torch.Tensor, rank: int, moments: InputMoments) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `(V, U)`, shapes `(out, rank)` and `(rank, in)`, whose outputs on a text are nearest to the weight's.

    The first `k` columns of `V` and rows of `U` are the best of rank `k`, so that they are a ladder. With the left
    singular vectors `P` of `W C^1/2`, `V U` is `P P^T W`; of a table it is `E Q Q^T`, with the right ones `Q` of
    `C^1/2 E`.
    """
    left, _, right = torch.linalg.svd(moments.weighted(weight), full_matrices=False)
    left, right = left[:, :rank], right[:rank]
    V, U = (weight @ right.T, right) if moments.products is None else (left, left.T @ weight)
    columns, rows = V.norm(dim=0), U.norm(dim=1)
    share = (rows / columns).sqrt()  # each column of V gets the norm of its row of U
    # As in a start by weights, what adds nothing has a row of U that gradients can move.
    dead = columns * rows <= (columns * rows).max() * torch.finfo(weight.dtype).eps * max(weight.shape)
    V, U = V * share, U / share[:, None]
    V[:, dead] = 0
    U[dead] = right[dead] / weight.shape[1] ** 0.5
    return V, U


def least_missed_last(change: torch.Tensor) -> torch.Tensor:
    """Return an order of neurons, shape `(n,)`: leaving out the last ones changes the outputs least.

    Args:
        change: shape `(n, n)`: what leaving out a set of neurons changes in the outputs, squared, is the sum over all
            pairs of the set.

    From the end, each is the one that adds the least to those after it.
    """
    cost, order = change.diagonal().clone(), []
    for _ in range(len(change)):
        order.append(int(cost.argmin()))
        cost += 2 * change[order[-1]]
        cost[order[-1]] = torch.inf
    return torch.tensor(order[::-1], device=change.device)
