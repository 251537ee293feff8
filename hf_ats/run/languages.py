"""What says which languages a model translates: codes (mBART, M2M100, NLLB), or a text before every source (T5)."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..remote_code import language_codes, language_id


def set_languages_(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source_lang: str | None, target_lang: str | None
) -> None:
    """Make a tokenizer write, and a model begin with, the codes of a language pair, in place.

    The tokenizer keeps both as `src_lang` and `tgt_lang`. If it writes the code of the target before a sentence
    (mBART-50, M2M100, NLLB), that becomes `forced_bos_token_id` of the generation config; if it writes it at the
    end (the first mBART, NLLB's legacy behaviour), it is what the decoder starts from, `decoder_start_token_id`. So
    they travel with every export, which then translates in this direction unless it is told another.

    Args:
        model: the model whose config and generation config are set.
        tokenizer: the model's tokenizer.
        source_lang: a code of the tokenizer, such as `"deu_Latn"` (NLLB), `"de_DE"` (mBART) or `"de"` (M2M100).
        target_lang: likewise. None for both takes those that the tokenizer names, as that of an export does; a
            tokenizer without codes stays as it is.

    Raises:
        ValueError: one code without the other, codes for a tokenizer without any or one that it does not have, or none
            for a multilingual tokenizer that names no target itself.
    """
    codes = language_codes(tokenizer)
    if source_lang is None and target_lang is None:
        if not codes:
            return
        source_lang, target_lang = tokenizer.src_lang, tokenizer.tgt_lang
        if target_lang is None:
            raise ValueError(
                f"a {type(tokenizer).__name__} begins every sentence with the code of its language, and "
                "tokenizer_source_lang and tokenizer_target_lang say none; set both. It has "
                f"{len(codes)}, such as {', '.join(list(codes)[:12])}."
            )
    if source_lang is None or target_lang is None:
        raise ValueError(
            f"tokenizer_source_lang={source_lang!r} and tokenizer_target_lang={target_lang!r}: give both or none."
        )
    if not codes:
        raise ValueError(
            f"tokenizer_source_lang={source_lang!r}, but a {type(tokenizer).__name__} has no language codes; leave "
            "out tokenizer_source_lang and tokenizer_target_lang."
        )
    _, target_id = (language_id(tokenizer, lang) for lang in (source_lang, target_lang))
    tokenizer.src_lang, tokenizer.tgt_lang = source_lang, target_lang
    if tokenizer(text_target="").input_ids[0] == target_id:
        model.generation_config.forced_bos_token_id = target_id
    else:
        model.generation_config.forced_bos_token_id = None
        model.generation_config.decoder_start_token_id = target_id
        model.config.decoder_start_token_id = target_id


def source_prefix(model: PreTrainedModel) -> str:
    """Return the text that a model wants before every source: `prefix` of its config, as pipelines take it."""
    return getattr(model.config, "prefix", None) or ""


def set_source_prefix_(model: PreTrainedModel, prefix: str | None) -> str:
    """Make a text before every source part of a model's config, so that it travels with every export, in place.

    Args:
        model: the model whose config is set.
        prefix: such as `"translate German to English: "`; None for what the config has already.

    Returns:
        The prefix that the config has now; `""` for none.
    """
    if prefix is not None:
        model.config.prefix = prefix or None
        if getattr(model.config, "task_specific_params", None):
            model.config.task_specific_params = None  # a published T5's own prefixes would come before this one
    return source_prefix(model)
