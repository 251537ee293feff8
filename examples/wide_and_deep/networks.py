"""Which of two languages a word is in: a deep network over its letters, and a wide one over crosses of them.

The wide-and-deep networks of Cheng et al. (2016), which Section 3.4 of the paper names: the deep network, also used by
itself, is the core; a linear model with a weight for every pair of letter pairs is added to it.
"""

import itertools
import json
import os
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils.rnn import pad_sequence

# Of a word's hash: every fifth word is kept for the test.
_HELD_OUT = 5


@dataclass(frozen=True)
class DeepConfig:
    """The sizes of the deep network.

    Args:
        buckets (`int`, defaults to 4096): embeddings that the pieces of words are hashed to.
        width (`int`, defaults to 16): of an embedding.
        hidden (`int`, defaults to 32): neurons of the hidden layer.
        classes (`int`, defaults to 2): languages.
    """

    buckets: int = 4096
    width: int = 16
    hidden: int = 32
    classes: int = 2


class Deep(nn.Module):
    """The mean of the embeddings of a word's pieces, and a hidden layer."""

    def __init__(self, config: DeepConfig):
        super().__init__()
        self.config = config
        self.embeddings = nn.EmbeddingBag(config.buckets + 1, config.width, mode="mean", padding_idx=0)
        self.layers = nn.Sequential(
            nn.Linear(config.width, config.hidden), nn.ReLU(), nn.Linear(config.hidden, config.classes)
        )

    def forward(self, pieces: torch.Tensor) -> torch.Tensor:
        """Map ids `(words, pieces)`, 0 where there is none, to logits `(words, classes)`."""
        return self.layers(self.embeddings(pieces))


class Wide(nn.Module):
    """A linear model: the sum of a weight for each class and cross, which starts at zero."""

    def __init__(self, buckets: int, classes: int):
        super().__init__()
        self.weights = nn.EmbeddingBag(buckets + 1, classes, mode="sum", padding_idx=0)
        nn.init.zeros_(self.weights.weight)

    def forward(self, crosses: torch.Tensor) -> torch.Tensor:
        """Map ids `(words, crosses)`, 0 where there is none, to logits `(words, classes)`."""
        return self.weights(crosses)


def words_of_languages(texts: dict[str, Iterable[str]]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the different words of some texts in small letters, each with its language: `(train, test)`.

    A word is in one of the two parts, whichever languages it is in, so that no test word was ever trained on.

    Args:
        texts: by language, sentences.

    Raises:
        ValueError: a language has no words in one of the parts.
    """
    parts: tuple[list, list] = ([], [])
    for language, sentences in texts.items():
        found = sorted({word for sentence in sentences for word in re.findall(r"[^\W\d_]+", sentence.lower())})
        for word in found:
            parts[_hash(word) % _HELD_OUT == 0].append((word, language))
        for part, name in zip(parts, ("training", "test"), strict=True):
            if not any(other == language for _, other in part):
                raise ValueError(f"{language!r} has {len(found)} words, none for the {name} part; give more text.")
    return parts


def features(words: Sequence[tuple[str, str]], languages: Sequence[str], deep_buckets: int, wide_buckets: int):
    """Return an example for each word: `pieces`, `crosses` (lists of ids from 1) and `labels`, its language's place.

    Pieces are all sequences of 1 to 4 letters, with marks for both ends of the word; crosses are all pairs of letter
    pairs, in their order. Both are hashed.
    """
    return [
        {
            "pieces": [1 + _hash(piece) % deep_buckets for piece in _pieces(f"<{word}>")],
            "crosses": [1 + _hash("x".join(pair)) % wide_buckets for pair in _crosses(f"<{word}>")],
            "labels": languages.index(language),
        }
        for word, language in words
    ]


def _pieces(word: str) -> list[str]:
    return [word[start : start + n] for n in range(1, 5) for start in range(len(word) - n + 1)]


def _crosses(word: str) -> Iterable[tuple[str, str]]:
    return itertools.combinations([word[start : start + 2] for start in range(len(word) - 1)], 2)


def _hash(text: str) -> int:
    # The same in every process, unlike Python's own.
    return zlib.crc32(text.encode())


def collate(examples: Sequence[dict]) -> dict[str, torch.Tensor]:
    """Return a padded batch of `features`."""
    inputs = {
        name: pad_sequence([torch.tensor(example[name]) for example in examples], batch_first=True)
        for name in ("pieces", "crosses")
    }
    return inputs | {"labels": torch.tensor([example["labels"] for example in examples])}


def save_deep(deep: Deep, languages: Sequence[str], directory: str | os.PathLike) -> None:
    """Write only the deep network: `model.safetensors`, and `config.json` with its sizes and its languages."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    save_file(deep.state_dict(), directory / "model.safetensors")
    config = {**asdict(deep.config), "languages": list(languages)}
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_deep(directory: str | os.PathLike) -> tuple[Deep, list[str]]:
    """Read what `save_deep` wrote: the network in eval mode, and the languages of its classes.

    Example:

    ```python
    >>> deep, languages = load_deep("runs/wide-and-deep/alternating/deep")
    >>> batch = collate(features([("katze", "de")], languages, deep.config.buckets, 1))
    >>> languages[deep(batch["pieces"]).argmax()]
    'de'
    ```
    """
    config = json.loads((Path(directory) / "config.json").read_text(encoding="utf-8"))
    languages = config.pop("languages")
    deep = Deep(DeepConfig(**config))
    deep.load_state_dict(load_file(Path(directory) / "model.safetensors"))
    return deep.eval(), languages
