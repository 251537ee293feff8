"""Batches by token budget.

The cost of a batch is what the network computes over, padding included:
`sentences * (longest source + longest target)`. A batch holds as many sentences of similar length as are in budget.
The other count is that of fairseq, `sentences * max(longest source, longest target)`.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler
from transformers.utils import is_datasets_available

COUNTS = {"both": np.add, "longest": np.maximum}
"""The ways to count the tokens of a sentence: from its (padded) source and target length."""


def sequence_lengths(dataset) -> tuple[np.ndarray, np.ndarray]:
    """Count the tokens of every example.

    Args:
        dataset: a `datasets.Dataset`, or any sequence of dictionaries, with `input_ids` and `labels`.

    Returns:
        (source lengths, target lengths), two int64 arrays of shape (examples,), the end-of-sentence token included.
    """
    if is_datasets_available():
        import datasets

        if isinstance(dataset, datasets.Dataset):
            return _arrow_lengths(dataset, "input_ids"), _arrow_lengths(dataset, "labels")
    source = np.fromiter((len(example["input_ids"]) for example in dataset), dtype=np.int64, count=len(dataset))
    target = np.fromiter((len(example["labels"]) for example in dataset), dtype=np.int64, count=len(dataset))
    return source, target


def _arrow_lengths(dataset, column: str) -> np.ndarray:
    import pyarrow.compute as pc

    tables = dataset.select_columns([column]).with_format("arrow").iter(batch_size=100_000)
    counts = [pc.list_value_length(table[column]).to_numpy() for table in tables]
    return np.concatenate(counts).astype(np.int64) if counts else np.zeros(0, dtype=np.int64)


class TokenBudgetBatchSampler(Sampler[list[int]]):
    """Batches of sentence indices, none of which costs more than `max_tokens`.

    It yields the *global* list: with several processes, batch `i` belongs to rank `i mod num_replicas`, which
    is how accelerate hands out the batches of a `DataLoader(batch_sampler=...)` that it prepares. Then

    - every sentence occurs exactly once per epoch, and every rank gets the same number of batches;
    - the number of batches and their shapes are the same in every epoch: between epochs only sentences whose source
      *and* target have the same length change places, and the order of the batches changes;
    - the batches of one step (`num_replicas` in a row) cost nearly the same, so no rank waits long for another;
    - the order is a pure function of `seed` and the epoch: after a resume, `set_epoch` and skipping the batches that
      were seen is exact, with no state to save.

    `set_epoch` has to set the epoch. accelerate's data loaders and the Trainer do so, except when the Trainer
    resumes with several processes in the middle of an epoch: their chain of wrappers then hides this object from
    both, and the code that made it has to call `set_epoch` before the epoch begins.

    Args:
        lengths: (source lengths, target lengths) in tokens, two arrays of shape (sentences,), see `sequence_lengths`.
        max_tokens: the budget of one batch, in padded tokens.
        num_replicas: number of processes that share the batches.
        counts: which tokens: `"both"`, source and target together, or `"longest"`, the longer one of the two.
        seed: not negative.
        pad_to_multiple_of: what the collator pads the lengths to, so that the padding is counted as it will be.

    Raises:
        ValueError: a sentence is over the budget; there are too few sentences for `num_replicas`; no sentences;
            `counts` is not known.

    Example:
        >>> sampler = TokenBudgetBatchSampler(([3, 3, 9], [4, 4, 8]), max_tokens=17)
        >>> sorted(sorted(batch) for batch in sampler)
        [[0, 1], [2]]
    """

    def __init__(
        self,
        lengths: tuple[Sequence[int], Sequence[int]],
        max_tokens: int,
        num_replicas: int = 1,
        *,
        counts: str = "both",
        seed: int = 0,
        pad_to_multiple_of: int | None = None,
    ):
        source, target = (np.asarray(side, dtype=np.int64) for side in lengths)
        _check_arguments(source, target, max_tokens, num_replicas, counts, seed)
        if pad_to_multiple_of is not None:
            source, target = (-(-side // pad_to_multiple_of) * pad_to_multiple_of for side in (source, target))
        _check_budget(source, target, max_tokens, counts)
        self.max_tokens = max_tokens
        self.num_replicas = num_replicas
        self.counts = counts
        self.seed = seed
        self.epoch = 0
        # (sentences,): the sentences by length; and the number of each one's class of equal source and target length.
        self._order = order_by_length(source, target)
        source, target = source[self._order], target[self._order]
        new_class = (np.diff(source) != 0) | (np.diff(target) != 0)
        self._length_class = np.concatenate([[0], np.cumsum(new_class)])
        starts = cut_by_budget(source, target, max_tokens, counts)
        self._starts, self._ends, self.costs = _split_to_multiple(starts, source, target, num_replicas, counts)

    @property
    def sampler(self) -> "TokenBudgetBatchSampler":
        # accelerate.DataLoaderShard.set_epoch forwards the epoch to `batch_sampler.batch_sampler.sampler`, which is
        # where a stock BatchSampler behind one of its wrappers keeps the object that shuffles.
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, whose order the next `iter()` follows."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the number of batches of an epoch, of all ranks together: a multiple of `num_replicas`."""
        return len(self._starts)

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng([self.seed, self.epoch])
        shuffled = generator.permutation(len(self._order))
        # A stable sort of a random permutation by class: a uniformly random order within every class.
        within_class = shuffled[np.argsort(self._length_class[shuffled], kind="stable")]
        sentences = self._order[within_class]
        # (steps, replicas): rows of batches of similar cost, in random order, dealt out at random to the ranks.
        steps = np.argsort(self.costs, kind="stable").reshape(-1, self.num_replicas)
        steps = generator.permuted(generator.permutation(steps, axis=0), axis=1)
        for batch in steps.ravel():
            yield sentences[self._starts[batch] : self._ends[batch]].tolist()


def order_by_length(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Sort sentences so that neighbours are alike in both lengths.

    By source length, then by target length, upwards and downwards in turn: where the source length changes, the
    target length does not jump back, so batches that reach over the change need little padding.

    Args:
        source: source lengths, shape (sentences,).
        target: target lengths, shape (sentences,).

    Returns:
        Indices into both, shape (sentences,).
    """
    turn = np.unique(source, return_inverse=True)[1] % 2
    return np.lexsort((np.where(turn == 0, target, -target), source))


def cut_by_budget(source: np.ndarray, target: np.ndarray, max_tokens: int, counts: str = "both") -> np.ndarray:
    """Cut a sequence of sentences into as few consecutive batches as the budget allows, greedily.

    Args:
        source: source lengths in the order of the sentences, shape (sentences,); each sentence by itself is in budget.
        target: target lengths, likewise.
        max_tokens: the budget in padded tokens.
        counts: a key of `COUNTS`.

    Returns:
        Where each batch starts, ascending, the first one 0, shape (batches,).
    """
    count = COUNTS[counts]
    starts, start = [], 0
    while start < len(source):
        starts.append(start)
        # No batch from here can be longer than if every sentence were as short as the first.
        window = slice(start, start + max_tokens // max(1, count(source[start], target[start])))
        width = count(np.maximum.accumulate(source[window]), np.maximum.accumulate(target[window]))
        cost = width * np.arange(1, len(width) + 1)
        start += int(np.searchsorted(cost, max_tokens, side="right"))
    return np.asarray(starts, dtype=np.int64)


def _split_to_multiple(starts: np.ndarray, source: np.ndarray, target: np.ndarray, num_replicas: int, counts: str):
    """Halve the most expensive batches until their number is a multiple of `num_replicas`."""
    count = COUNTS[counts]

    def cost(start: int, end: int) -> int:
        return int((end - start) * count(source[start:end].max(), target[start:end].max()))

    ends = np.append(starts[1:], len(source))
    batches = [(cost(start, end), start, end) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    missing = -len(batches) % num_replicas
    if len(batches) + missing > len(source):
        raise ValueError(
            f"{len(source)} sentences make {len(batches)} batches, which cannot be shared out evenly over "
            f"num_replicas={num_replicas} processes with at least one sentence each. Use fewer processes, a larger "
            "max_tokens, or more data."
        )
    for _ in range(missing):
        largest = max((batch for batch in batches if batch[2] - batch[1] > 1), key=lambda batch: (batch[0], -batch[1]))
        _, start, end = largest
        middle = (start + end) // 2
        batches.remove(largest)
        batches += [(cost(start, middle), start, middle), (cost(middle, end), middle, end)]
    costs, starts, ends = zip(*sorted(batches, key=lambda batch: batch[1]), strict=True)
    return np.asarray(starts), np.asarray(ends), np.asarray(costs)


def _check_arguments(source, target, max_tokens: int, num_replicas: int, counts: str, seed: int) -> None:
    if source.ndim != 1 or source.shape != target.shape or len(source) == 0:
        raise ValueError(
            f"lengths must be two arrays of the same number of sentences, at least one; got shapes {source.shape} and "
            f"{target.shape}."
        )
    for name, value, least in (("max_tokens", max_tokens, 1), ("num_replicas", num_replicas, 1), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{name}={value} must be at least {least}.")
    if counts not in COUNTS:
        raise ValueError(f"counts={counts!r} is not known; write {' or '.join(map(repr, COUNTS))}.")


def _check_budget(source: np.ndarray, target: np.ndarray, max_tokens: int, counts: str) -> None:
    total = COUNTS[counts](source, target)
    where = "in all" if counts == "both" else "on the longer side"
    longest = int(total.argmax())
    if total[longest] > max_tokens:
        over = int((total > max_tokens).sum())
        raise ValueError(
            f"max_tokens={max_tokens} is smaller than sentence {longest} (from 0), which takes {source[longest]} "
            f"source and {target[longest]} target tokens, {total[longest]} {where}; {over} of {len(total)} sentences "
            f"are over the budget. Set max_tokens to at least {total[longest]}, or shorten or skip long sentences "
            "(max_source_length, max_target_length)."
        )
