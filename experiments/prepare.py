"""Prepare a corpus of the paper from the files of its archives, in one folder, by the rules of the paper's code base.

    python experiments/prepare.py iwslt14 raw/iwslt14 data/iwslt14
    python experiments/prepare.py wmt17 raw/wmt17 data/wmt17
    python experiments/prepare.py cifar10 raw/cifar10 data/cifar10

iwslt14, German to English: the files of de-en.tgz of IWSLT 2014. As fairseq's prepare-iwslt14.sh: text between tags,
Moses tokens, pairs of 1 to 175 of them and at most 1.5 times as many on one side, lower case; every 23rd pair is for
validation; the test set is dev2010, dev2012 and tst2010 to tst2012.

wmt17, English to German: Europarl 7, Common Crawl, News Commentary 12, and newstest2014 of WMT's test-full. As
fairseq's prepare-wmt14en2de.sh with its files of WMT17: punctuation normalized, Moses tokens with hyphens split; every
100th pair is for validation; pairs of 1 to 250 pieces, of 40,000 learned by BPE, and at most 1.5 times as many on one
side. The pieces are sentencepiece's; the files hold words, since training learns pieces of its own.

cifar10: the files of cifar-10-binary.tar.gz, as Parquet.

The text stays tokenized, as the code base trains on it and scores it: score it with --bleu_tokenizer none. The numbers
of pairs are compared with those of the code base, as far as they are known; where they differ, the command says so
and ends with status 1.
"""

import io
import itertools
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import datasets
import numpy as np
import sentencepiece
from PIL import Image
from sacremoses import MosesPunctNormalizer, MosesTokenizer
from tqdm import tqdm

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from hf_ats.run import manual_parser, user_errors
from hf_ats.storage import draft

COUNTS = {
    "iwslt14": {"train": 160_239, "valid": 7_283, "test": 6_750},
    "wmt17": {"test": 3_003},
    "cifar10": {"train": 50_000, "test": 10_000},
}
"""How many pairs or images each part has."""

WMT_PIECES = 40_000
IWSLT_TEST = ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")
WMT_TRAIN = ("europarl-v7.de-en", "commoncrawl.de-en", "news-commentary-v12.de-en")

Pairs = list[tuple[str, str]]


@user_errors()
def main() -> None:
    """Prepare a corpus, write it, and compare its size."""
    parser = manual_parser(__doc__)
    parser.add_argument("corpus", choices=list(COUNTS))
    parser.add_argument("raw", type=Path, help="folder of the unpacked archives")
    parser.add_argument("output", type=Path, help="folder to write; one that is there is not replaced")
    arguments = parser.parse_args()
    if arguments.output.exists():
        raise FileExistsError(f"{arguments.output} is there already; give another folder, or remove it.")
    prepare = {"iwslt14": prepare_iwslt14, "wmt17": prepare_wmt17, "cifar10": prepare_cifar10}[arguments.corpus]
    with draft(arguments.output) as folder:
        counts = prepare(arguments.raw, folder)
    shown = ", ".join(f"{part} {number:,}" for part, number in counts.items())
    print(f"Written to {arguments.output}: {shown}")
    known = COUNTS[arguments.corpus]
    if other := [part for part in known if counts[part] != known[part]]:
        wanted = ", ".join(f"{part} {known[part]:,}" for part in other)
        sys.exit(
            f"prepare.py: the paper's code base has {wanted}, and {arguments.raw} gave other numbers, so scores on it "
            "do not compare with the paper's; are its files those of the archive?"
        )


def prepare_iwslt14(raw: Path, folder: Path) -> dict[str, int]:
    """Write `train`, `valid` and `test`, with the endings `.de` and `.en`, and return how many pairs each has."""
    languages = ("de", "en")
    files = [find(raw, f"train.tags.de-en.{one}") for one in languages]
    spoken = paired(files, *(tokens(_spoken(file), one) for file, one in zip(files, languages, strict=True)))
    kept = [(source.lower(), target.lower()) for source, target in cleaned(spoken, longest=175)]
    test = []
    for name in IWSLT_TEST:
        files = [find(raw, f"IWSLT14.{name}.de-en.{one}.xml") for one in languages]
        sides = (tokens(_segments(file), one) for file, one in zip(files, languages, strict=True))
        test += [(source.lower(), target.lower()) for source, target in paired(files, *sides)]
    return write_parts(folder, languages, {**split(kept, every=23), "test": test})


def prepare_wmt17(raw: Path, folder: Path) -> dict[str, int]:
    """Write `train`, `valid` and `test`, with the endings `.en` and `.de`, and return how many pairs each has."""
    languages = ("en", "de")
    pairs: Pairs = []
    for name in WMT_TRAIN:
        files = [find(raw, f"{name}.{one}") for one in languages]
        sides = (tokens(_normalized(read(file), one), one, True) for file, one in zip(files, languages, strict=True))
        pairs += paired(files, *sides)
    parts = split(pairs, every=100)
    pieces = learn_pieces(itertools.chain.from_iterable(parts["train"]), WMT_PIECES)
    parts = {
        part: list(cleaned(of_part, longest=250, length=lambda text: len(pieces.encode(text))))
        for part, of_part in parts.items()
    }
    files = [find(raw, f"newstest2014-deen-{name}.sgm") for name in ("src.en", "ref.de")]
    sides = (tokens(_segments(file), one, True) for file, one in zip(files, languages, strict=True))
    return write_parts(folder, languages, {**parts, "test": paired(files, *sides)})


def prepare_cifar10(raw: Path, folder: Path) -> dict[str, int]:
    """Write `train.parquet` and `test.parquet`, with the columns `image` and `label`."""
    names = find(raw, "batches.meta.txt").read_text(encoding="utf-8").split()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    counts = {}
    batches = [f"data_batch_{number}.bin" for number in range(1, 6)]
    for part, files in (("train", batches), ("test", ["test_batch.bin"])):
        data = b"".join(find(raw, file).read_bytes() for file in files)
        if len(data) % 3073:
            raise ValueError(
                f"{', '.join(files)} in {raw} hold {len(data)} bytes, not whole images of 3,073; unpack them again."
            )
        rows = np.frombuffer(data, np.uint8).reshape(-1, 3073)
        images = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        columns = {"image": [{"bytes": _png(image), "path": None} for image in images], "label": rows[:, 0].tolist()}
        datasets.Dataset.from_dict(columns, features=features).to_parquet(folder / f"{part}.parquet")
        counts[part] = len(rows)
    return counts


def _png(image: np.ndarray) -> bytes:
    Image.fromarray(image).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def find(raw: Path, name: str) -> Path:
    """Return the file of a name, anywhere below a folder."""
    found = sorted(path for path in raw.rglob(name) if path.is_file())
    if not found:
        raise FileNotFoundError(
            f"{raw} has no file {name}, nor has a folder in it; unpack the corpus's archives there."
        )
    return found[0]


def read(path: Path) -> Iterator[str]:
    """Yield the lines of a file, which end at line feeds and nowhere else."""
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:  # Moses's scripts go on as well
        for line in file:
            yield line.rstrip("\n")


def _spoken(path: Path) -> Iterator[str]:
    for line in read(path):
        if not any(tag in line for tag in ("<url>", "<talkid>", "<keywords>")):
            yield re.sub("</?(title|description)>", "", line)


def _segments(path: Path) -> Iterator[str]:
    for line in read(path):
        if "<seg id" in line:
            line = re.sub(r'<seg id="[0-9]*">\s*', "", line)
            yield re.sub(r"\s*</seg>\s*", "", line).replace("’", "'")


def _normalized(lines: Iterable[str], language: str) -> Iterator[str]:
    normalizer = MosesPunctNormalizer(language, post_remove_control_chars=True)
    return map(normalizer.normalize, lines)


def tokens(lines: Iterable[str], language: str, hyphens: bool = False) -> Iterator[str]:
    """Yield lines as Moses's tokenizer has them, `hyphens` by its option -a."""
    tokenizer = MosesTokenizer(language)
    for line in tqdm(lines, desc=language, unit=" lines", disable=None):
        yield tokenizer.tokenize(line, aggressive_dash_splits=hyphens, return_str=True)


def paired(files: list[Path], sources: Iterable[str], targets: Iterable[str]) -> Pairs:
    """Return the lines of two files beside one another; ValueError if one has more."""
    sources, targets = list(sources), list(targets)
    if len(sources) != len(targets) or not sources:
        raise ValueError(
            f"{files[0]} gives {len(sources)} sentences and {files[1]} {len(targets)}; unpack the archive again."
        )
    return list(zip(sources, targets, strict=True))


def _words(text: str) -> int:
    return len(text.split(" "))


def cleaned(
    pairs: Iterable[tuple[str, str]], longest: int, length: Callable[[str], int] = _words, ratio: float = 1.5
) -> Iterator[tuple[str, str]]:
    """Yield the pairs that Moses's clean-corpus-n.perl keeps.

    Args:
        pairs: of text whose words are parted by blanks.
        longest: the most words of a side; the least is one.
        length: counts them.
        ratio: how many times as many words one side may have.
    """
    for pair in pairs:
        source, target = (re.sub(r"\s+", " ", text).removeprefix(" ").removesuffix(" ") for text in pair)
        if not source or not target or re.search(r"\S{1001}", f"{source} {target}"):
            continue
        one, other = length(source), length(target)
        if max(one, other) <= longest and one <= ratio * other and other <= ratio * one:
            yield source, target


def split(pairs: Pairs, every: int) -> dict[str, Pairs]:
    """Return `train` and `valid`: of so many pairs the last one is for validation."""
    valid = pairs[every - 1 :: every]
    train = [pair for number, pair in enumerate(pairs, 1) if number % every]
    return {"train": train, "valid": valid}


def learn_pieces(lines: Iterable[str], number: int) -> sentencepiece.SentencePieceProcessor:
    """Learn pieces by BPE; fewer if the text has no more."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=(model := io.BytesIO()),
        model_type="bpe",
        vocab_size=number,
        hard_vocab_limit=False,
        character_coverage=1.0,
        max_sentence_length=1 << 20,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def write_parts(folder: Path, languages: tuple[str, str], parts: dict[str, Pairs]) -> dict[str, int]:
    """Write each part in two files, and return its number of pairs."""
    for part, pairs in parts.items():
        for side, language in enumerate(languages):
            with (folder / f"{part}.{language}").open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(f"{pair[side]}\n" for pair in pairs)
    return {part: len(pairs) for part, pairs in parts.items()}


if __name__ == "__main__":
    main()
