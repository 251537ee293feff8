"""How long cores of a model take here, before there are any: measured layer by layer on networks without contents."""

import copy
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..checkpoint import blank_core, save_network, save_tokenizer
from ..evaluation import encode_sentences, ratio, time_in_turns
from ..partition import EMBEDDINGS, Composition, PartitionConfig
from ..remote_code import longest_input
from .onnx_network import OnnxNetwork
from .runtimes import require_runtime
from .spectra import WIDTH_RATIOS, Choice, Layer, composed, partitions_of
from .to_ctranslate2 import CTranslate2Network, convert_to_ctranslate2
from .to_onnx import export_onnx


class Stopwatch:
    """Times cores beside their full network, on the CPU.

    What is timed is the translation of the sentence of median length, as often as a batch has room, into as many
    tokens as it has. All networks decode equally many, and what they hold is 0: only their structure counts.

    Args:
        model: the full network, not partitioned.
        tokenizer: its tokenizer.
        sentences (`list[str]`): source text such as the networks will meet.
        batch_size: sentences translated at once.
        num_beams: beams.
        rounds: how often each network is timed, in turns with the full one.
        runtime: `"pytorch"`, `"onnxruntime"`, or `"ctranslate2"`, which runs stock classes only.
        quantization: of the other runtimes, `"float32"` or `"int8"`.

    Raises:
        ValueError: there is no sentence with text, or one is too long; the runtime is not installed, or does not take
            the model.

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
        runtime: str = "pytorch",
        quantization: str = "float32",
    ):
        if runtime != "pytorch":
            require_runtime(runtime)
        encoded = sorted(filter(None, encode_sentences(tokenizer, sentences, [model])), key=len)
        if not encoded:
            raise ValueError(f"sentences holds {len(sentences)}, none with text; give the latency one to translate.")
        source = torch.tensor([encoded[len(encoded) // 2]]).expand(batch_size, -1).contiguous()
        self.tokens = min(source.shape[1], longest_input(model.config) - 1)
        self._batch = {"input_ids": source, "attention_mask": torch.ones_like(source)}
        self._model, self._tokenizer, self._num_beams, self._rounds = model, tokenizer, num_beams, rounds
        self._runtime, self._quantization = runtime, quantization
        full = blank_core(model, None)
        self.calls = self._count_calls(full)
        self._full, self._seconds = self._running(full), []

    @property
    def full_ms(self) -> float:
        return 1e3 * statistics.median(self._seconds)

    def share(self, partition: PartitionConfig | Composition) -> float:
        """Return the time of the core of a partition, as a share of the full network's."""
        core = self._running(blank_core(self._model, partition))
        with torch.no_grad():
            seconds = time_in_turns({"full": self._full, "core": core}, self._rounds)
        self._seconds += seconds["full"]
        return ratio(seconds["core"], seconds["full"])["median"]

    def _running(self, network: PreTrainedModel) -> Callable[[], object]:
        """Return what translates the batch with a network, in the runtime."""
        if self._runtime == "pytorch":
            return self._decoder(network)
        threads, quantization = torch.get_num_threads(), self._quantization
        with tempfile.TemporaryDirectory() as folder:
            export, converted = Path(folder, "export"), Path(folder, self._runtime)
            save_network(network, export)
            save_tokenizer(self._tokenizer, export)
            if self._runtime == "onnxruntime":
                export_onnx(export, converted, quantization)
                return self._decoder(OnnxNetwork(converted, quantization, threads))
            convert_to_ctranslate2(export, converted, quantization)
            loaded = CTranslate2Network(converted, export, quantization, threads)
        return lambda: loaded.decode(self._batch["input_ids"], self._num_beams, self.tokens)

    def _count_calls(self, network: PreTrainedModel) -> Counter[str]:
        calls: Counter[str] = Counter()
        hooks = [
            one.register_forward_hook(lambda *_, name=name: calls.update([name]))
            for name, one in network.named_modules()
            if isinstance(one, nn.Linear)
        ]
        with torch.no_grad():
            self._decoder(network)()
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
    one of low rank, one of narrower blocks. It has eight slopes: by the layers that are missing in each half; and by
    the number of modules with two factors in place of a weight and by the numbers that are saved, each apart for
    modules that run once a sentence, for those that run at every token, and for the vocabulary.

    Args:
        layers: by half, as `read_layers` returns them.
        stopwatch: what measures.
        stock: as for `make_plan`.
        progress: whether to show a bar on standard error.
    """

    def __init__(
        self,
        layers: dict[str, list[Layer]],
        stopwatch: Stopwatch,
        stock: Sequence[Sequence[str]] | None = None,
        progress: bool = True,
    ):
        self._most = {half: len(of_half) for half, of_half in layers.items()}
        self._calls = stopwatch.calls
        # T5 takes no more decoder than encoder layers.
        fewer = [{"decoder": 1}, {"decoder": 1, "encoder": 1}]
        fewer = [{half: number for half, number in one.items() if number < self._most[half]} for one in fewer]
        networks: list[tuple[dict[str, int], list[Choice]]] = [(one, []) for one in fewer if one]
        if stock is None:
            networks += [({}, choices) for choices in self._alike(layers)]
        else:
            for halves in stock:
                of_width = {half: [one.of_width(min(WIDTH_RATIOS)) for one in layers[half]] for half in halves}
                networks.append(({}, [choice for of_half in of_width.values() for one in of_half for choice in one]))
                for half in halves[1:]:  # beside them with one layer of these, which tells the halves apart
                    one_layer = of_width | {half: of_width[half][:1]}
                    choices = [choice for of_half in one_layer.values() for one in of_half for choice in one]
                    networks += [({half: 1}, choices)] if self._most[half] > 1 else []
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

    def _alike(self, layers: dict[str, list[Layer]]) -> Iterator[list[Choice]]:
        """Yield choices for all modules that run equally often: the smallest ranks, the largest, the narrowest."""
        blocks = [block for of_half in layers.values() for layer in of_half for block in layer.blocks]
        for group in range(3):
            alike = [block for block in blocks if self._group(block[0]) == group]
            cut = [[choice for choice in block if len(choice.ranks) == len(choice.modules)] for block in alike]
            narrow = [[choice for choice in block if choice.width is not None] for block in alike]
            for choose, of_blocks in ((max, cut), (min, cut), (max, narrow)):
                if any(of_blocks):
                    yield [choose(of_block, key=lambda one: one.saved) for of_block in of_blocks if of_block]

    def of_depth(self, kept: dict[str, int]) -> float:
        """Return the share of a core that has so many whole layers in each half."""
        return self._correction * (1 + self._row(kept, []) @ self._slopes)

    def of_choice(self, choice: Choice) -> float:
        """Return what a choice adds to the share; less than 0 if it saves time."""
        return self._correction * (self._row({}, [choice]) @ self._slopes)

    def _row(self, kept: dict[str, int], choices: Iterable[Choice]) -> np.ndarray:
        missing = [most - kept.get(half, most) for half, most in self._most.items()]
        factors, saved = [0, 0, 0], [0, 0, 0]
        for choice in choices:
            group = self._group(choice)
            factors[group] += len(choice.ranks)
            saved[group] += choice.saved
        return np.array([*missing, *factors, *saved], dtype=float)

    def _group(self, choice: Choice) -> int:
        """Return 0 for what runs once a sentence, 1 for what runs at every token, 2 for the vocabulary."""
        return 2 if EMBEDDINGS in choice.modules else int(self._calls[choice.modules[0]] > 1)
