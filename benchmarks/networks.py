"""The networks whose decoding is measured, as checkpoints that transformers loads: trained ones, or made here."""

import copy
import itertools
import os
import random
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import AutoTokenizer, MarianMTModel, MarianTokenizer, PreTrainedModel

from hf_ats.checkpoint import export_core, export_full, load_network
from hf_ats.data import default_corpus, train_tokenizer
from hf_ats.partition import Composition, PartitionConfig, partition_
from hf_ats.run import build_model

STOCK, FULL, CORE, DENSE = "stock", "full", "core", "core-dense"
PARTITIONED = "partitioned"


def networks_of_run(run: str | os.PathLike, folder: Path) -> dict[str, Path]:
    """Return directories of the networks by name: the two of a trained run, and those made of them in `folder`.

    Args:
        run: the output of a training run, with `full/` and `core/`.
        folder: where stock, a model that transformers builds and fills with the full network's weights, and of a core
            by rank core-dense go.

    Raises:
        OSError: the run lacks one of the two.
        ValueError: they are not Marian's.
    """
    run = Path(run)
    full, core = load_network(run / FULL), load_network(run / CORE)
    if type(full) is not MarianMTModel:
        raise ValueError(f"run={str(run)!r} holds a {type(full).__name__}; this benchmark measures MarianMTModel.")
    tokenizer = AutoTokenizer.from_pretrained(run / FULL)
    stock = MarianMTModel(copy.deepcopy(full.config))
    stock.load_state_dict(full.state_dict())
    stock.generation_config = full.generation_config
    made = {STOCK: stock}
    if getattr(core.config, "ats_ranks", None) or getattr(core.config, "ats_tables", None):
        made[DENSE] = MarianMTModel(copy.deepcopy(full.config))
        made[DENSE].load_state_dict(_multiplied_out(core))
        made[DENSE].generation_config = core.generation_config
    for name, model in made.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    directories = {STOCK: folder / STOCK, FULL: run / FULL, CORE: run / CORE, DENSE: folder / DENSE}
    return {name: path for name, path in directories.items() if name != DENSE or DENSE in made}


@torch.no_grad()
def _multiplied_out(core: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return the tensors of a core, with `V U` as the one weight of each low-rank layer."""
    state = core.state_dict()
    for factor, table in (core.config.ats_tables or {}).items():
        U = state.pop(f"{factor}.weight")
        for name in table["modules"]:
            state[f"{name}.weight"] = (state[f"{name}.weight"].float() @ U.float()).to(U.dtype)
    for name in core.config.ats_ranks or ():
        U, V = (state.pop(f"{name}.{factor}.weight") for factor in "UV")
        state[f"{name}.weight"] = (V.float() @ U.float()).to(V.dtype)
        if f"{name}.V.bias" in state:
            state[f"{name}.bias"] = state.pop(f"{name}.V.bias")
    return state


def untrained_networks(
    architecture: str, partition: PartitionConfig | Composition, vocab_size: int, folder: Path, *, seed: int = 0
) -> dict[str, Path]:
    """Return directories of the networks by name, made in `folder`, and there `partitioned`, the model they are of.

    Args:
        architecture: of `build_model`.
        partition: of the core; by rank alone there is core-dense too.
        vocab_size: entries of the joint vocabulary, learned from our own corpus and from made-up words, since the
            corpus cannot fill a vocabulary of real size.
        folder: where they go.
        seed: of the weights and the words.
    """
    tokenizer = _tokenizer(vocab_size, folder / "tokenizer", seed)
    model = build_model(architecture, tokenizer, seed=seed).eval()
    names = (STOCK, FULL, CORE, *([DENSE] if _has_dense_form(partition) else []))
    directories = {name: folder / name for name in names}
    model.save_pretrained(directories[STOCK])
    tokenizer.save_pretrained(directories[STOCK])
    partition_(model, partition)
    export_full(model, directories[FULL], tokenizer=tokenizer)
    export_core(model, directories[CORE], tokenizer=tokenizer)
    if DENSE in directories:
        export_core(model, directories[DENSE], tokenizer=tokenizer, dense=True)
    model.save_pretrained(folder / PARTITIONED)
    return directories


def _has_dense_form(partition: PartitionConfig | Composition) -> bool:
    return isinstance(partition, PartitionConfig) and partition.method == "rank"


def _tokenizer(vocab_size: int, directory: Path, seed: int) -> MarianTokenizer:
    pairs = default_corpus(sizes={"train": 2000, "validation": 1, "test": 1})["train"]["translation"]
    words = list(itertools.islice(_made_up_words(seed), vocab_size))
    lines = [" ".join(words[start : start + 20]) for start in range(0, len(words), 20)]
    german = [pair["de"] for pair in pairs] + lines
    english = [pair["en"] for pair in pairs]
    return train_tokenizer(german, english, directory, vocab_size=vocab_size, source_lang="de", target_lang="en")


def _made_up_words(seed: int) -> Iterator[str]:
    generator = random.Random(seed)
    parts = ("b d f g k l m n p r s t v z sch st".split(), "a e i o u ei au".split(), ("", "n", "r", "l", "s", "t"))
    syllables = ["".join(syllable) for syllable in itertools.product(*parts)]
    while True:
        yield "".join(generator.choices(syllables, k=generator.randint(2, 4)))


class TransformersNetwork:
    """A model of transformers, which decodes a given number of tokens through `generate`."""

    def __init__(self, model: PreTrainedModel, device: str):
        self.model = model.eval().to(device)
        # Neither a limit of the checkpoint's own nor an end that is forced.
        self.model.generation_config.update(max_new_tokens=None, forced_eos_token_id=None, early_stopping=False)

    def decode(self, input_ids: torch.Tensor, num_beams: int, length: int) -> torch.Tensor:
        """Return the best hypothesis for each row of `input_ids` `(batch, source)`, `(batch, length)` ids."""
        input_ids = input_ids.to(self.model.device)
        total = length + 1  # the start token counts
        return self.model.generate(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            num_beams=num_beams,
            do_sample=False,
            min_length=total,
            max_length=total,
        )[:, 1:].cpu()

    def translate(self, sources: list[list[int]], num_beams: int, longest: int) -> list[list[int]]:
        """Return the ids of the best hypothesis for each source, which ends by itself; no start, end or padding.

        A search with beams ends with as many finished hypotheses, as CTranslate2's does.
        """
        config, found = self.model.config, []
        for source in sources:
            input_ids = torch.tensor([source], device=self.model.device)
            generated = self.model.generate(
                input_ids=input_ids,
                attention_mask=torch.ones_like(input_ids),
                num_beams=num_beams,
                do_sample=False,
                max_length=longest + 1,
                **({"early_stopping": True} if num_beams > 1 else {}),
            )[0, 1:]
            found.append([id_ for id_ in generated.tolist() if id_ not in (config.eos_token_id, config.pad_token_id)])
        return found
