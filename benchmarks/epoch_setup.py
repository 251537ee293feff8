"""What the benchmark of an epoch trains: which text, which model, which trainer with which batches."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path

from transformers import (
    DataCollatorForSeq2Seq,
    MarianMTModel,
    MarianTokenizer,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)

from hf_ats import ATSSeq2SeqTrainer
from hf_ats.data import (
    TokenBudgetBatchSampler,
    TranslationCollator,
    default_corpus,
    load_parallel,
    sequence_lengths,
    tokenize_corpus,
    train_tokenizer,
)
from hf_ats.partition import PartitionConfig, partition_
from hf_ats.run import ARCHITECTURES, build_model
from hf_ats.training import ATSSeq2SeqTrainingArguments

from .turns import TakesTurns, Turn

PARTS = ("epoch", "overhead")


@dataclass(frozen=True)
class Way:
    """One way of training: whose trainer, which schedule, which batches."""

    schedule: str | None  # None: the stock trainer with the stock loss
    batches: str  # "random" or "grouped": a fixed number of sentences; "budget": of tokens


WAYS = {
    "stock_random": Way(None, "random"),
    "stock_grouped": Way(None, "grouped"),
    "full_random": Way("full", "random"),
    "full_budget": Way("full", "budget"),
    "alternating_budget": Way("alternating", "budget"),
}


@dataclass
class EpochBenchmark:
    """What the benchmark of an epoch runs on, and how often."""

    parts: list[str] = field(
        default_factory=lambda: list(PARTS),
        metadata={
            "help": "What to measure: 'epoch', random batches against token budget; 'overhead', the trainers over a "
            "bare loop.",
            "choices": list(PARTS),
        },
    )
    train_prefix: str | None = field(
        default=None,
        metadata={"help": "Text files PREFIX.de and PREFIX.en, or .gz (default: the generated corpus)."},
    )
    source_lang: str = field(default="de", metadata={"help": "Language of the source, a suffix of the files."})
    target_lang: str = field(default="en", metadata={"help": "Language of the target."})
    sentences: int = field(default=3000, metadata={"help": "Sentence pairs in an epoch, drawn at random."})
    architecture: str = field(default="tiny", metadata={"help": "Of the model.", "choices": list(ARCHITECTURES)})
    layers: int | None = field(default=None, metadata={"help": "In each half (default: 3 of tiny, else its own)."})
    width: int | None = field(default=None, metadata={"help": "Replaces the architecture's width."})
    dropout: float = field(default=0.1, metadata={"help": "Dropout of the epochs; the overhead is without."})
    vocab_size: int | None = field(
        default=None, metadata={"help": "Pieces of the tokenizer (default: 2000; 500 for the generated corpus)."}
    )
    ratios: list[float] = field(default_factory=lambda: [0.03125], metadata={"help": "Rank ratio of the core."})
    max_tokens: int = field(default=4096, metadata={"help": "Token budget of a batch, padding included."})
    label_smoothing_factor: float = field(default=0.1, metadata={"help": "Label smoothing, of all ways alike."})
    bf16: bool = field(default=False, metadata={"help": "bfloat16 autocast, of all ways alike."})
    device: str = field(default="cpu", metadata={"help": "Where to train.", "choices": ["cpu", "cuda"]})
    ways: list[str] = field(
        default_factory=lambda: list(WAYS),
        metadata={"help": "Of the part 'epoch': which ways to run.", "choices": list(WAYS)},
    )
    rounds: int = field(default=3, metadata={"help": "Of the part 'epoch': epochs timed, after one to warm up."})
    turn: int = field(default=10, metadata={"help": "Steps of one way before the next one's turn."})
    overhead_batches: int = field(default=10, metadata={"help": "Of the part 'overhead': batches of a round."})
    overhead_rounds: int = field(default=8, metadata={"help": "Of the part 'overhead': rounds timed."})
    seed: int = field(default=0, metadata={"help": "Of the drawing, the weights and the order of batches."})
    keep_freed_memory: bool = field(
        default=True, metadata={"help": "On a CPU keep freed memory for the next step, as train_translation.py does."}
    )

    def __post_init__(self):
        if self.layers is None and self.architecture == "tiny":
            self.layers = 3
        if self.vocab_size is None:
            self.vocab_size = 500 if self.train_prefix is None else 2000


@dataclass
class Text:
    """A tokenized corpus, and the tokenizer learned from it."""

    tokenizer: PreTrainedTokenizerBase
    dataset: object  # datasets.Dataset with input_ids, attention_mask, labels


def load_text(settings: EpochBenchmark, directory: Path) -> Text:
    """Draw the sentences, learn the tokenizer and tokenize; `directory` takes the tokenizer.

    Raises:
        OSError, ValueError: the files are missing or bad, or hold fewer sentences.
    """
    pairs = draw_pairs(settings)
    languages = (settings.source_lang, settings.target_lang)
    texts = [[pair[language] for pair in pairs["translation"]] for language in languages]
    tokenizer = train_tokenizer(
        *texts, directory, vocab_size=settings.vocab_size, source_lang=languages[0], target_lang=languages[1]
    )
    return Text(tokenizer, tokenize_corpus(pairs, tokenizer, *languages))


def draw_pairs(settings: EpochBenchmark):
    """Draw a seeded sample of the corpus, `settings.sentences` pairs under `translation`."""
    if settings.train_prefix is None:
        return default_corpus(settings.seed, {"train": settings.sentences, "validation": 0, "test": 0})["train"]
    pairs = load_parallel(settings.train_prefix, settings.source_lang, settings.target_lang)
    if len(pairs) < settings.sentences:
        raise ValueError(
            f"--sentences {settings.sentences} is more than the {len(pairs)} of {settings.train_prefix}; give less."
        )
    return pairs.shuffle(seed=settings.seed).select(range(settings.sentences)).flatten_indices()


def build(settings: EpochBenchmark, tokenizer: MarianTokenizer, *, partitioned: bool) -> MarianMTModel:
    """Build the model, the same function of the same seed with a core and without one."""
    sizes = {name: getattr(settings, name) for name in ("layers", "width", "dropout")}
    model = build_model(settings.architecture, tokenizer, seed=settings.seed, **sizes)
    return partition_(model, PartitionConfig(ratios=settings.ratios)) if partitioned else model


def equal_batch_size(sentences: int, batches: int) -> int:
    """Return the fixed number of sentences whose steps see, on average, as many real tokens as the given batches do.

    The tokens of an epoch are the same however they are cut, so equal tokens in a step means as many steps.
    """
    return max(1, round(sentences / batches))


def build_trainer(way: Way, settings: EpochBenchmark, text: Text, directory: Path, *, epochs: int) -> Seq2SeqTrainer:
    """Build the trainer of a way, as its user would write it, over the whole text."""
    model = build(settings, text.tokenizer, partitioned=way.schedule == "alternating")
    budget = TokenBudgetBatchSampler(sequence_lengths(text.dataset), settings.max_tokens)
    args = training_arguments(settings, directory, epochs)
    if way.batches == "budget":
        args["max_tokens"] = settings.max_tokens
    else:
        args["per_device_train_batch_size"] = equal_batch_size(len(text.dataset), len(budget))
    if way.batches == "grouped":
        args |= grouped_by_length()
    parts = dict(model=model, train_dataset=text.dataset, processing_class=text.tokenizer)
    if way.schedule is None:
        collator = DataCollatorForSeq2Seq(text.tokenizer, model=model)
        trainer = Seq2SeqTrainer(args=Seq2SeqTrainingArguments(**args), data_collator=collator, **parts)
    else:
        args = ATSSeq2SeqTrainingArguments(schedule=way.schedule, **args)
        trainer = ATSSeq2SeqTrainer(args=args, data_collator=TranslationCollator(text.tokenizer), **parts)
    return trainer


def training_arguments(settings: EpochBenchmark, directory: Path, epochs: int) -> dict:
    """Return what all trainers have in common: Transformers' defaults, but for what would not train or would write."""
    return dict(
        output_dir=str(directory),
        num_train_epochs=epochs,
        learning_rate=1e-3,
        label_smoothing_factor=settings.label_smoothing_factor,
        bf16=settings.bf16,
        use_cpu=settings.device == "cpu",
        logging_steps=20,
        seed=settings.seed,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def grouped_by_length() -> dict:
    """Return the argument that groups sentences of similar length, which transformers 5 renamed."""
    renamed = any(one.name == "train_sampling_strategy" for one in fields(Seq2SeqTrainingArguments))
    return {"train_sampling_strategy": "group_by_length"} if renamed else {"group_by_length": True}


def trained_in_turns(trainer: Seq2SeqTrainer) -> Callable[[Turn], object]:
    """Return a run for `train_in_turns`: the whole of `train`, which prints nothing."""
    trainer.remove_callback(PrinterCallback)

    def run(turn: Turn):
        trainer.add_callback(TakesTurns(turn))
        return trainer.train()

    return run
