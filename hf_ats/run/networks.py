"""The model and the tokenizer that a run starts from."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    MarianMTModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..checkpoint import load_network, load_tokenizer
from ..data import check_code_of_prefix, train_tokenizer
from ..partition import read_adapter_config
from ..storage import draft
from ..training import ATSSeq2SeqTrainingArguments
from .architectures import build_model, keep_pad_row_zero_
from .flags import DataArguments, ModelArguments
from .languages import set_languages_, set_source_prefix_

logger = logging.getLogger(__name__)

# The generated corpus has few words, and cannot fill more.
_PIECES, _PIECES_OF_EMBEDDED_CORPUS = 8000, 500


def build_networks(
    model_args: ModelArguments, data_args: DataArguments, args: ATSSeq2SeqTrainingArguments, pairs: Sequence[dict]
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Return the tokenizer and the model that the flags name, set up for the data's languages and source prefix.

    Args:
        model_args: the model, from scratch or pretrained.
        data_args: the data; its `source_prefix` becomes the model's own if the flags give none.
        args: the training arguments.
        pairs: the training part, from which a tokenizer is learned for a model from scratch.

    Raises:
        OSError, ValueError: there is no such model, or it does not fit the flags.
    """
    if model_args.model_name_or_path is None:
        tokenizer, model = from_scratch(model_args, data_args, args, pairs)
    else:
        tokenizer, model = from_pretrained(model_args, args)
    check_tokenizer(tokenizer, model)
    set_languages_(model, tokenizer, data_args.tokenizer_source_lang, data_args.tokenizer_target_lang)
    data_args.source_prefix = set_source_prefix_(model, data_args.source_prefix)
    check_code_of_prefix(tokenizer, data_args.source_prefix)
    return tokenizer, model


def from_scratch(
    model_args: ModelArguments, data_args: DataArguments, args: ATSSeq2SeqTrainingArguments, pairs: Sequence[dict]
):
    """Return `(tokenizer, model)` of an architecture; the tokenizer is the checkpoint's, or learned from the pairs."""
    tokenizer_dir = Path(args.output_dir) / "tokenizer"
    embedded = data_args.dataset_name is None and data_args.train_prefix is None
    usual = _PIECES_OF_EMBEDDED_CORPUS if embedded else _PIECES
    checkpoint = args.resume_from_checkpoint
    if checkpoint is None and args.local_process_index == 0:
        prefix = data_args.source_prefix or ""
        names = [f"{side}_normalization_rule_name" for side in ("source", "target")]
        rules = {name: getattr(model_args, name) for name in names if getattr(model_args, name) is not None}
        with draft(tokenizer_dir) as directory:
            train_tokenizer(
                [prefix + pair[data_args.source_lang] for pair in pairs],
                [pair[data_args.target_lang] for pair in pairs],
                directory,
                vocab_size=model_args.vocab_size or usual,
                joint=not model_args.separate_vocabularies,
                source_lang=data_args.source_lang,
                target_lang=data_args.target_lang,
                **rules,
            )
    # The embeddings of a checkpoint go with its own tokenizer, whatever the corpus is now.
    tokenizer = load_tokenizer(checkpoint or tokenizer_dir)
    sizes = {name: getattr(model_args, name) for name in ("layers", "width", "feed_forward", "heads", "dropout")}
    model = build_model(model_args.architecture, tokenizer, seed=args.seed, **sizes)
    if model_args.attn_implementation is not None:
        model.set_attn_implementation(model_args.attn_implementation)
    return tokenizer, model


def from_pretrained(model_args: ModelArguments, args: ATSSeq2SeqTrainingArguments):
    """Return `(tokenizer, model)` of a checkpoint, in float32 whatever it is stored in: mixed precision is --bf16."""
    name = model_args.model_name_or_path
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError):
        raise
    except Exception as error:  # a field of another type has an error of its own in each version
        raise ValueError(f"--model_name_or_path {name}: its config.json cannot be read ({error}).") from error
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(
            f"--model_name_or_path {name} is quantised, and its weights are to be trained; give the model in full "
            "precision."
        )
    if model_args.dropout is not None:
        # T5 calls it dropout_rate.
        dropout = next((known for known in ("dropout", "dropout_rate") if hasattr(config, known)), None)
        if dropout is None:
            raise ValueError(
                f"--dropout {model_args.dropout}, but {name} has a {type(config).__name__}, and that has no dropout; "
                "leave the flag out."
            )
        setattr(config, dropout, model_args.dropout)
    for layerdrop in ("encoder_layerdrop", "decoder_layerdrop"):
        if args.world_size > 1 and getattr(config, layerdrop, 0):
            logger.info(
                "%s is 0 instead of %g: processes would drop layers of their own",
                layerdrop,
                getattr(config, layerdrop),
            )
            setattr(config, layerdrop, 0.0)
    how = dict(config=config, dtype=torch.float32, attn_implementation=model_args.attn_implementation)
    model = load_network(name, **how)
    if isinstance(model, MarianMTModel) and not model.get_output_embeddings().weight[config.pad_token_id].any():
        keep_pad_row_zero_(model)  # as published Marian models have it, and CTranslate2 expects
    return load_tokenizer(args.resume_from_checkpoint or name), model


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Raise a ValueError if a tokenizer cannot pad, or has entries that the embeddings of its model have no row for.

    More rows than entries are fine, as mT5 has. The model's own special tokens must have rows too.
    """
    if tokenizer.pad_token_id is None:
        raise ValueError(
            f"the tokenizer of {model.name_or_path}, a {type(tokenizer).__name__}, has no padding token, without "
            "which there are no batches; set tokenizer.pad_token, and save it beside the model."
        )
    entries = {"source": tokenizer.get_vocab()}
    rows = {"source": len(model.get_input_embeddings().weight)}
    if getattr(tokenizer, "separate_vocabs", False):
        entries["target"] = tokenizer.target_encoder
        rows["target"] = len(model.get_output_embeddings().weight)
    for side, vocabulary in entries.items():
        needed = max(vocabulary.values()) + 1
        if needed > rows[side]:
            raise ValueError(
                f"the tokenizer of {model.name_or_path} has {needed} entries for the {side} and the model "
                f"{rows[side]}; call model.resize_token_embeddings({needed}) and save the model again."
            )
    of_target = len((model.get_output_embeddings() or model.get_input_embeddings()).weight)
    for token in ("pad_token_id", "eos_token_id", "decoder_start_token_id"):
        index = getattr(model.config, token, None)
        if isinstance(index, int) and not 0 <= index < of_target:
            raise ValueError(
                f"the config of {model.name_or_path} has {token}={index}, and the model {of_target} tokens; write "
                "that of its tokenizer."
            )


def name_base_of_adapter_(model_args: ModelArguments) -> None:
    """If training begins from an adapter, take the model that it names, unless the flags name one.

    Raises:
        ImportError, OSError, ValueError: there is no adapter, or it cannot be begun from, as `read_adapter_config`; or
            nobody names a model.
    """
    adapter = model_args.adapter_name_or_path
    if adapter is None:
        return
    base = read_adapter_config(adapter).base_model_name_or_path
    model_args.model_name_or_path = model_args.model_name_or_path or base
    if not model_args.model_name_or_path:
        raise ValueError(
            f"--adapter_name_or_path {adapter} names no base model; give the one that it was trained on by "
            "--model_name_or_path."
        )
