"""How long cores of a model take here, before there are any: measured layer by layer on networks without contents."""

import copy
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import nn
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..checkpoint import blank_core
from ..evaluation import batches_by_length, encode_sentences, in_eval_mode, ratio, time_in_turns
from ..partition import Composition, PartitionConfig
from ..remote_code import longest_input
from .spectra import Choice, Layer, composed, partitions_of


class Stopwatch:
    """Times cores beside their full network, in PyTorch on the CPU.

    What is timed is `generate` for one batch: sentences of the median length, translated into as many tokens as the
    longest has. All networks decode equally many, since what they hold is 0: only their structure counts.

    Args:
        model: the full network, not partitioned.
        tokenizer: its tokenizer.
        sentences (`list[str]`): source text such as the networks will meet.
        batch_size: sentences translated at once.
        num_beams: beams.
        rounds: how often each network is timed, in turns with the full one.

    Raises:
        ValueError: there are fewer sentences than a batch holds, or one is too long.

    Attributes:
        tokens: how many each translation has.
        calls: by the name of each linear layer, how often it runs for a batch.
        full_ms: the median time of the full network, once something was timed.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        sentences: Sequence[str],
        *,
        batch_size: int = 1,
        num_beams: int = 1,
        rounds: int = 10,
    ):
        encoded = sorted(filter(None, encode_sentences(tokenizer, sentences, [model])), key=len)
        if len(encoded) < batch_size:
            raise ValueError(
                f"sentences holds {len(encoded)} with text, and a batch {batch_size}; give more, or write a smaller "
                "batch_size."
            )
        first = (len(encoded) - batch_size) // 2
        ((_, batch),) = batches_by_length(tokenizer, encoded[first : first + batch_size], batch_size)
        self.tokens = min(batch["input_ids"].shape[1], longest_input(model.config) - 1)
        self._model, self._batch, self._num_beams, self._rounds = model, batch, num_beams, rounds
        self._full, self._seconds = blank_core(model, None), []
        self.calls = self._count_calls()

    @property
    def full_ms(self) -> float:
        return 1e3 * statistics.median(self._seconds)

    def share(self, partition: PartitionConfig | Composition) -> float:
        """Return the time of the core of a partition, as a share of the full network's."""
        networks = {"full": self._full, "core": blank_core(self._model, partition)}
        with in_eval_mode(*networks.values()), torch.no_grad():
            seconds = time_in_turns({name: self._decoder(one) for name, one in networks.items()}, self._rounds)
        self._seconds += seconds["full"]
        return ratio(seconds["core"], seconds["full"])["median"]

    def _count_calls(self) -> Counter[str]:
        calls: Counter[str] = Counter()
        linears = {name: one for name, one in self._full.named_modules() if isinstance(one, nn.Linear)}
        hooks = [
            one.register_forward_hook(lambda *_, name=name: calls.update([name])) for name, one in linears.items()
        ]
        with in_eval_mode(self._full), torch.no_grad():
            self._decoder(self._full)()
        for hook in hooks:
            hook.remove()
        return calls

    def _decoder(self, network: PreTrainedModel):
        config = copy.deepcopy(network.generation_config)
        config.update(num_beams=self._num_beams, do_sample=False, max_length=None)
        config.update(max_new_tokens=self.tokens, min_new_tokens=self.tokens)
        return lambda: network.generate(**self._batch, generation_config=config)


class Times:
    """What each layer takes, and what each choice changes, as shares of the full network's time.

    A line is fitted to a few networks, measured with all of their layers, or most, changed alike: one of fewer layers,
    one of low rank, one of narrower blocks. It has six slopes: by the layers that are missing in each half, and, apart
    for modules that run once a sentence and at every token, by the number of modules with two factors in place of a
    weight, and by the numbers that are saved.

    Args:
        layers: by half, as `read_layers` returns them.
        stopwatch: what measures.
        progress: whether to show a bar on standard error.
    """

    def __init__(self, layers: dict[str, list[Layer]], stopwatch: Stopwatch, progress: bool = True):
        self._most = {half: len(of_half) for half, of_half in layers.items()}
        self._calls = stopwatch.calls
        blocks = [block for of_half in layers.values() for layer in of_half for block in layer.blocks]
        # T5 takes no more decoder than encoder layers.
        fewer = [{"decoder": 1}, {"decoder": 1, "encoder": 1}]
        fewer = [{half: number for half, number in one.items() if number < self._most[half]} for one in fewer]
        networks: list[tuple[dict[str, int], list[Choice]]] = [(one, []) for one in fewer if one]
        for each_token in (False, True):
            alike = [block for block in blocks if self._runs_each_token(block[0]) == each_token]
            cut = [[choice for choice in block if len(choice.ranks) == len(choice.modules)] for block in alike]
            narrow = [[choice for choice in block if choice.width is not None] for block in alike]
            for choose, of_blocks in ((max, cut), (min, cut), (max, narrow)):
                chosen = [choose(of_block, key=lambda one: one.saved) for of_block in of_blocks if of_block]
                networks += [({}, chosen)] if chosen else []
        with tqdm(networks, desc="latency", unit=" networks", disable=not progress) as bar:
            self._shares = [stopwatch.share(composed(partitions_of(*network))) for network in bar]
        self._rows = [self._row(*network) for network in networks]
        self._fit()

    def _fit(self) -> None:
        self._slopes, *_ = np.linalg.lstsq(np.array(self._rows), np.array(self._shares) - 1, rcond=None)
        self._correction = 1.0

    def learn(self, kept: dict[str, int], choices: Iterable[Choice], share: float) -> None:
        """Fit to one more network, a plan that was measured, and correct all times so that its own is right."""
        self._rows.append(self._row(kept, choices))
        self._shares.append(share)
        self._fit()
        self._correction = share / (1 + self._rows[-1] @ self._slopes)

    def of_depth(self, kept: dict[str, int]) -> float:
        """Return the share of a core that has so many whole layers in each half."""
        return self._correction * (1 + self._row(kept, []) @ self._slopes)

    def of_choice(self, choice: Choice) -> float:
        """Return what a choice adds to the share; less than 0 if it saves time."""
        return self._correction * (self._row({}, [choice]) @ self._slopes)

    def _row(self, kept: dict[str, int], choices: Iterable[Choice]) -> np.ndarray:
        missing = [most - kept.get(half, most) for half, most in self._most.items()]
        factors, saved = [0, 0], [0, 0]
        for choice in choices:
            group = self._runs_each_token(choice)
            factors[group] += len(choice.ranks)
            saved[group] += choice.saved
        return np.array([*missing, *factors, *saved], dtype=float)

    def _runs_each_token(self, choice: Choice) -> bool:
        return self._calls[choice.modules[0]] > 1
