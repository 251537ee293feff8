"""The files of exports, in the words that both supported versions of transformers, 4.57 and 5, read alike."""

import json
import os
from pathlib import Path

import transformers
from transformers import BaseImageProcessor, MT5Config, PreTrainedModel, PreTrainedTokenizerBase, T5Config
from transformers.tokenization_utils_base import TOKENIZER_CONFIG_FILE
from transformers.utils import CONFIG_NAME

_VERSION = int(transformers.__version__.partition(".")[0])


def save_network(network: PreTrainedModel, directory: Path) -> None:
    """Write a network as its `save_pretrained` does, except for one thing that only version 5 would read back.

    T5 and mT5 either multiply the states before the output layer by `d_model ** -0.5` or do not. Version 4 multiplies
    where the config says that the embeddings are tied; version 5 says so in any case, and has other ways to know. So a
    network that does not multiply is written as version 4 had it: not tied, with an output layer of its own, which
    version 5 ties again if it is the same.
    """
    if not is_unscaled_t5(network.config):
        network.save_pretrained(directory)
        return
    state = network.state_dict()
    state["lm_head.weight"] = state["lm_head.weight"].clone()  # else it is left out, as one of two tied weights
    network.save_pretrained(directory, state_dict=state)
    _rewrite(directory / CONFIG_NAME, lambda config: config | {"tie_word_embeddings": False})


def is_unscaled_t5(config) -> bool:
    """Return whether, in version 5, nothing is multiplied though the config says that the embeddings are tied."""
    if _VERSION < 5:
        return False
    return isinstance(config, MT5Config) or (isinstance(config, T5Config) and not config.scale_decoder_outputs)


def save_tokenizer(tokenizer: PreTrainedTokenizerBase | BaseImageProcessor, directory: Path) -> None:
    """Write the files of a tokenizer, or of a processor of images.

    Version 5 has new names for two things, which version 4 does not know and version 5 reads under the old ones too:
    the list of further special tokens (the language codes of NLLB, the sentinels of T5) and the class of a tokenizer
    that is its `tokenizer.json` and nothing else.
    """

    def in_old_words(config: dict) -> dict:
        if isinstance(config.get("extra_special_tokens"), list):
            further = config.pop("extra_special_tokens")
            config |= {"additional_special_tokens": further} if further else {}
        if config.get("tokenizer_class") == "TokenizersBackend":
            config["tokenizer_class"] = "PreTrainedTokenizerFast"
        return config

    tokenizer.save_pretrained(directory)
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        _rewrite(directory / TOKENIZER_CONFIG_FILE, in_old_words)


def _rewrite(path: Path, change) -> None:
    config = change(json.loads(path.read_text(encoding="utf-8")))
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


WEIGHTS = (".safetensors", ".bin")
"""How the names of files of weights end."""


def weights_size(directory: str | os.PathLike) -> int:
    """Return the bytes of the weights in a checkpoint, its `.safetensors` and `.bin` files.

    Raises:
        ValueError: there are none.
    """
    weights = [file for file in Path(directory).iterdir() if file.suffix in WEIGHTS]
    if not weights:
        raise ValueError(f"{directory} holds no .safetensors or .bin file; give the directory of an export.")
    return sum(file.stat().st_size for file in weights)
