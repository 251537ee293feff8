"""The laws of token-budget batches, and that accelerate's own wrappers hand them out as the laws say."""

import itertools
import time

import datasets
import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard, prepare_data_loader, skip_first_batches
from torch.utils.data import DataLoader

from hf_ats.data import TokenBudgetBatchSampler, sequence_lengths
from hf_ats.data.batches import cut_by_budget, order_by_length

BUDGET = 256


def draw_lengths(sentences: int = 700, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Lengths like those of a corpus: skewed, and alike on both sides."""
    random = np.random.default_rng(seed)
    source = np.clip(random.lognormal(2.3, 0.5, sentences), 2, 60).astype(int)
    target = np.clip(source * random.normal(1.0, 0.25, sentences), 2, 60).astype(int)
    return source, target


LENGTHS = draw_lengths()


def make(lengths=LENGTHS, max_tokens: int = BUDGET, num_replicas: int = 1, **changes) -> TokenBudgetBatchSampler:
    return TokenBudgetBatchSampler(lengths, max_tokens, num_replicas, **changes)


def epoch(sampler: TokenBudgetBatchSampler, number: int) -> list[list[int]]:
    sampler.set_epoch(number)
    return list(sampler)


# The tokens of a sentence from those of its sides, by the name of the count.
COUNTS = {"both": lambda source, target: source + target, "longest": max}


def cost(batch: list[int], lengths=LENGTHS, multiple: int = 1, counts: str = "both") -> int:
    source, target = (-(-int(side[batch].max()) // multiple) * multiple for side in lengths)
    return len(batch) * COUNTS[counts](source, target)


def shape(batch: list[int]) -> tuple[int, int, int]:
    return len(batch), int(LENGTHS[0][batch].max()), int(LENGTHS[1][batch].max())


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("num_replicas", [1, 2, 3, 8])
def test_every_sentence_occurs_once_and_no_batch_is_over_the_budget(num_replicas, counts):
    sampler = make(num_replicas=num_replicas, counts=counts)
    for number in range(3):
        batches = epoch(sampler, number)
        assert sorted(itertools.chain.from_iterable(batches)) == list(range(len(LENGTHS[0])))
        assert max(cost(batch, counts=counts) for batch in batches) <= BUDGET
        assert len(batches) == len(sampler)
        assert len(batches) % num_replicas == 0


def test_the_longer_side_alone_makes_larger_batches_and_is_not_the_default():
    longest = list(make(counts="longest"))
    assert list(make()) == list(make(counts="both"))
    # As fairseq counts, a batch may hold up to twice the tokens, source and target together.
    assert 0.5 <= len(longest) / len(make()) < 0.6
    assert BUDGET < max(map(cost, longest)) <= 2 * BUDGET
    # By hand: 4 x 5 tokens fit, whichever the longer side is.
    assert len(make(([5, 3, 5, 3], [3, 5, 3, 5]), max_tokens=20, counts="longest")) == 1
    assert len(make(([5, 3, 5, 3], [3, 5, 3, 5]), max_tokens=19, counts="longest")) == 2


@pytest.mark.parametrize("counts", COUNTS)
def test_the_greedy_cut_takes_every_sentence_that_still_fits(counts):
    # An independent count, sentence by sentence.
    order = order_by_length(*LENGTHS)
    source, target = (side[order] for side in LENGTHS)
    starts = [0]
    for index in range(len(order)):
        batch = slice(starts[-1], index + 1)
        if (index + 1 - starts[-1]) * COUNTS[counts](source[batch].max(), target[batch].max()) > BUDGET:
            starts.append(index)
    assert cut_by_budget(source, target, BUDGET, counts).tolist() == starts
    assert len(starts) > 30


def test_little_is_padding():
    batches = list(make())
    useful = sum(int(side.sum()) for side in LENGTHS)
    assert useful / sum(map(cost, batches)) > 0.9
    # Sentences as they come need more of it, so the sorting does something.
    in_order = [list(part) for part in np.array_split(np.arange(len(LENGTHS[0])), len(batches))]
    assert useful / sum(map(cost, in_order)) < 0.8


def test_padding_to_a_multiple_is_counted():
    batches = list(make(pad_to_multiple_of=8))
    assert max(cost(batch, multiple=8) for batch in batches) <= BUDGET
    # Without the argument some batches are over the budget once padded.
    assert max(cost(batch, multiple=8) for batch in make()) > BUDGET
    with pytest.raises(ValueError, match="takes 8 source and 16 target tokens, 24 in all"):
        make(([3], [9]), max_tokens=23, pad_to_multiple_of=8)
    longest = make(pad_to_multiple_of=8, counts="longest")
    assert max(cost(batch, multiple=8, counts="longest") for batch in longest) <= BUDGET
    assert max(cost(batch, multiple=8, counts="longest") for batch in make(counts="longest")) > BUDGET


def test_shapes_stay_and_contents_and_order_change_between_epochs():
    sampler = make()
    first, second = epoch(sampler, 0), epoch(sampler, 1)
    assert sorted(map(shape, first)) == sorted(map(shape, second))
    assert [shape(batch) for batch in first] != [shape(batch) for batch in second]
    compositions = [{frozenset(batch) for batch in batches} for batches in (first, second)]
    assert len(compositions[0] & compositions[1]) < len(first) / 2


def test_only_sentences_of_the_same_lengths_change_places():
    distinct = np.arange(2, 40), np.arange(2, 40)
    sampler = make(distinct)
    assert {frozenset(batch) for batch in epoch(sampler, 0)} == {frozenset(batch) for batch in epoch(sampler, 1)}
    assert epoch(sampler, 0) != epoch(sampler, 1)


def test_any_sentences_of_the_same_lengths_may_meet():
    same = np.full(6, 3), np.full(6, 3)
    sampler = make(same, max_tokens=12)
    met = {frozenset(batch) for number in range(200) for batch in epoch(sampler, number)}
    assert len(met) == 15


@pytest.mark.law(number=2)
def test_the_order_is_a_function_of_seed_and_epoch_alone():
    one, other = make(seed=7), make(seed=7)
    epoch(one, 0), epoch(one, 3)
    assert epoch(one, 5) == epoch(other, 5)
    assert epoch(one, 5) == epoch(one, 5)
    assert epoch(make(seed=8), 5) != epoch(one, 5)


@pytest.mark.parametrize("num_replicas", [2, 3, 8])
def test_batches_of_one_step_cost_alike(num_replicas):
    batches = np.array([cost(batch) for batch in make(num_replicas=num_replicas)])
    steps = batches.reshape(-1, num_replicas)
    spread = (steps.max(1) - steps.min(1)).sum()
    sorted_steps = np.sort(batches).reshape(-1, num_replicas)
    # No other grouping has a smaller sum of spreads.
    assert spread == (sorted_steps.max(1) - sorted_steps.min(1)).sum()
    # And the larger ones do not always go to the same ranks.
    assert (np.diff(steps) < 0).any() and (np.diff(steps) > 0).any()


@pytest.mark.parametrize("counts", COUNTS)
def test_batches_that_were_split_find_steps_of_their_cost(counts):
    splits = 0
    for max_tokens in range(150, 400, 10):
        splits += len(make(max_tokens=max_tokens, counts=counts)) % 8 != 0
        sampler = make(max_tokens=max_tokens, num_replicas=8, counts=counts)
        batches = np.array([cost(batch, counts=counts) for batch in sampler])
        steps, sorted_steps = batches.reshape(-1, 8), np.sort(batches).reshape(-1, 8)
        assert np.ptp(steps, axis=1).sum() == np.ptp(sorted_steps, axis=1).sum(), max_tokens
    assert splits > 10


def test_the_most_expensive_batches_are_split_to_make_the_numbers_even():
    lengths = np.array([2] * 5 + [4] * 4), np.array([2] * 5 + [4] * 4)
    assert sorted(len(batch) for batch in make(lengths, max_tokens=32)) == [4, 5]
    assert sorted(len(batch) for batch in make(lengths, max_tokens=32, num_replicas=3)) == [2, 2, 5]
    assert sorted(len(batch) for batch in make(lengths, max_tokens=32, num_replicas=9)) == [1] * 9


def test_too_few_sentences_for_the_processes_are_refused():
    with pytest.raises(ValueError, match=r"2 sentences make 1 batches, .* num_replicas=3 .*fewer processes"):
        make(([3, 3], [3, 3]), num_replicas=3)
    # Three batches of one sentence each cannot become four.
    with pytest.raises(ValueError, match="3 sentences make 3 batches"):
        make(([9, 9, 9], [9, 9, 9]), max_tokens=20, num_replicas=2)


def test_a_budget_smaller_than_a_sentence_is_refused_with_the_sentence():
    with pytest.raises(ValueError, match=r"max_tokens=19 .* sentence 1 \(from 0\), .*9 source and 11 .* at least 20"):
        make(([3, 9, 4], [3, 11, 4]), max_tokens=19)
    assert len(make(([3, 9, 4], [3, 11, 4]), max_tokens=20)) == 2
    with pytest.raises(ValueError, match=r"9 source and 11 target tokens, 11 on the longer side; 1 of 3 .* least 11"):
        make(([3, 9, 4], [3, 11, 4]), max_tokens=10, counts="longest")
    assert len(make(([3, 9, 4], [3, 11, 4]), max_tokens=11, counts="longest")) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_tokens": 0}, "max_tokens=0 must be at least 1"),
        ({"num_replicas": 0}, "num_replicas=0 must be at least 1"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
        ({"counts": "source"}, "counts='source' is not known; write 'both' or 'longest'"),
        ({"lengths": ([], [])}, "at least one; got shapes"),
        ({"lengths": ([1, 2], [1])}, r"got shapes \(2,\) and \(1,\)"),
    ],
)
def test_arguments_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        make(**change)


def test_lengths_are_counted_in_data_sets_and_lists():
    rows = [{"input_ids": [1] * n, "labels": [2] * m, "attention_mask": [1] * n} for n, m in ((3, 1), (5, 4), (2, 7))]
    corpus = datasets.Dataset.from_list(rows)
    for dataset in (rows, corpus):
        source, target = sequence_lengths(dataset)
        assert (source.tolist(), target.tolist()) == ([3, 5, 2], [1, 4, 7])
    # Rows chosen and reordered, whose table underneath is still the whole one.
    source, target = sequence_lengths(corpus.select([2, 0]))
    assert (source.tolist(), target.tolist()) == ([2, 3], [7, 1])
    assert sequence_lengths(corpus.select([]))[0].shape == (0,)


def test_millions_of_sentences_take_seconds():
    lengths = draw_lengths(2_000_000)
    start = time.perf_counter()
    sampler = make(lengths, max_tokens=8000, num_replicas=8)
    next(iter(sampler))
    # About 1.5 s on one core; a loop over the sentences in Python takes longer than the whole limit.
    assert time.perf_counter() - start < 15
    assert len(sampler) > 1000


# accelerate: batch i of the global list goes to rank i mod n.


def shard(sampler: TokenBudgetBatchSampler, num_processes: int, rank: int, skip: int = 0) -> list[list[int]]:
    """The batches of one rank, as accelerate and the Trainer wrap the sampler; no process is started."""
    loader = DataLoader(range(len(LENGTHS[0])), batch_sampler=sampler, collate_fn=list)
    loader = prepare_data_loader(loader, num_processes=num_processes, process_index=rank)
    if num_processes > 1:
        assert isinstance(loader.batch_sampler, BatchSamplerShard)
    return list(skip_first_batches(loader, skip) if skip else loader)


@pytest.mark.law(number=8)
@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_accelerate_deals_every_sentence_out_once(num_processes):
    sampler = make(num_replicas=num_processes)
    expected = epoch(sampler, 0)
    ranks = [shard(make(num_replicas=num_processes), num_processes, rank) for rank in range(num_processes)]
    assert {len(batches) for batches in ranks} == {len(sampler) // num_processes}
    dealt = [batch for step in zip(*ranks, strict=True) for batch in step]
    assert dealt == expected


@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_accelerate_passes_the_epoch_on(num_processes):
    sampler = make(num_replicas=num_processes)
    loader = prepare_data_loader(
        DataLoader(range(len(LENGTHS[0])), batch_sampler=sampler, collate_fn=list),
        num_processes=num_processes,
        process_index=0,
    )
    loader.set_epoch(4)
    expected = epoch(make(num_replicas=num_processes), 4)[::num_processes]
    assert list(loader) == expected
    # And counts on by itself.
    assert list(loader) == epoch(make(num_replicas=num_processes), 5)[::num_processes]


@pytest.mark.law(number=2)
@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_skipping_batches_of_an_epoch_gives_the_rest_of_it(num_processes):
    for rank in range(num_processes):
        sampler = make(num_replicas=num_processes)
        loader = DataLoader(range(len(LENGTHS[0])), batch_sampler=sampler, collate_fn=list)
        loader = prepare_data_loader(loader, num_processes=num_processes, process_index=rank)
        rest = skip_first_batches(loader, 5)
        rest.set_epoch(2)
        # What the docstring asks of whoever made the sampler: the two wrappers hide it from `rest.set_epoch`.
        sampler.set_epoch(2)
        assert list(rest) == epoch(make(num_replicas=num_processes), 2)[rank::num_processes][5:]
        assert len(rest) == len(sampler) // num_processes - 5


def test_worker_processes_give_the_same_batches():
    def batches(workers: int) -> list[list[int]]:
        sampler = make()
        sampler.set_epoch(1)
        return list(DataLoader(range(len(LENGTHS[0])), batch_sampler=sampler, collate_fn=list, num_workers=workers))

    assert batches(1) == batches(0)
