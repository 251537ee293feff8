"""The language codes of multilingual tokenizers (mBART, M2M100, NLLB)."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase


def set_languages_(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source_lang: str | None, target_lang: str | None
) -> None:
    """Makes a tokenizer write, and a model begin with, the codes of a language pair, in place.

    The code of the target becomes `forced_bos_token_id` of the generation config, so it travels with every export.

    Args:
        model: the model whose generation config is set.
        tokenizer: the model's tokenizer.
        source_lang: a code of the tokenizer, such as `"deu_Latn"` (NLLB), `"de_DE"` (mBART) or `"de"` (M2M100).
        target_lang: likewise. None for both leaves everything as it is.

    Raises:
        ValueError: one code without the other, a tokenizer without codes, or a code that it does not have.
    """
    if source_lang is None and target_lang is None:
        return
    if source_lang is None or target_lang is None:
        raise ValueError(
            f"tokenizer_source_lang={source_lang!r} and tokenizer_target_lang={target_lang!r}: give both or none."
        )
    if not hasattr(tokenizer, "src_lang"):
        raise ValueError(
            f"tokenizer_source_lang={source_lang!r}, but a {type(tokenizer).__name__} has no language codes; leave "
            "out tokenizer_source_lang and tokenizer_target_lang."
        )
    ids = {lang: _code_id(tokenizer, lang) for lang in (source_lang, target_lang)}
    tokenizer.src_lang, tokenizer.tgt_lang = source_lang, target_lang
    model.generation_config.forced_bos_token_id = ids[target_lang]


def _code_id(tokenizer: PreTrainedTokenizerBase, lang: str) -> int:
    # M2M100 writes its codes as __de__ and keeps them in a table of its own.
    token = getattr(tokenizer, "lang_code_to_token", {}).get(lang, lang)
    index = tokenizer.convert_tokens_to_ids(token)
    if index is None or index == tokenizer.unk_token_id:
        known = [
            token.strip("_")
            for token in tokenizer.all_special_tokens
            if token not in ("<s>", "</s>", "<pad>", "<unk>")
        ]
        raise ValueError(f"the tokenizer has no language code {lang!r}; it has {', '.join(known[:12])} ...")
    return index
