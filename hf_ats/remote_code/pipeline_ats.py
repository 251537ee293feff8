"""The translation pipeline, for every version of transformers: 5 removed its own.

This file travels with every core checkpoint and needs torch and transformers alone.
"""

import re
import sys

import transformers
from transformers import Pipeline

_FIRST_WORDS = ("forced_bos_token_id", "decoder_start_token_id")


def with_generation_defaults(model, tokenizer, generate_kwargs: dict) -> dict:
    """What to hand to `model.generate`: the arguments given, and defaults for what its generation config leaves open.

    Args:
        model: a sequence-to-sequence model.
        tokenizer: its tokenizer.
        generate_kwargs: arguments of `generate`, which come before the model's generation config; one that is None
            counts as not given. With a `generation_config` among them nothing is added.

    Returns:
        A new dictionary; where neither sets them, with `num_beams=4`, `max_new_tokens=256` or the model's positions
        if they are fewer (no length was given either as `max_length`), and the tokenizer's `pad_token_id`.
    """
    given = {name: value for name, value in generate_kwargs.items() if value is not None}
    if "generation_config" in given:
        return given
    known = {name for name, value in model.generation_config.to_diff_dict().items() if value is not None} | set(given)
    defaults = {"num_beams": 4, "pad_token_id": tokenizer.pad_token_id}
    if not known & {"max_length", "max_new_tokens"}:
        defaults["max_new_tokens"] = min(256, longest_input(model.config))
    return {name: value for name, value in defaults.items() if name not in known} | given


def longest_input(config) -> int:
    """The longest source that a model with this config takes, in tokens; T5, for one, has no limit: `sys.maxsize`."""
    return getattr(config, "max_position_embeddings", None) or sys.maxsize


def language_codes(tokenizer) -> dict[str, int]:
    """The languages that a multilingual tokenizer has codes for, with the codes' ids; of any other tokenizer none.

    They are named as the tokenizer's `src_lang` and `tgt_lang` name them: `"deu_Latn"` (NLLB), `"de_DE"` (mBART),
    `"de"` (M2M100). A code that was added to NLLB or mBART, as a special token, is one of them.
    """
    if not hasattr(tokenizer, "src_lang"):
        return {}
    tokens = getattr(tokenizer, "lang_code_to_token", None)  # M2M100 writes __de__ for de
    if tokens is None:
        others = {token for token in tokenizer.special_tokens_map.values() if isinstance(token, str)}
        added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
        special = [*tokenizer.all_special_tokens, *added]
        tokens = {token: token for token in special if token not in others and "<" not in token}
    return dict(zip(tokens, tokenizer.convert_tokens_to_ids(list(tokens.values())), strict=True))


def language_id(tokenizer, language: str) -> int:
    """The id of a language's code.

    Raises:
        ValueError: a multilingual tokenizer has no such code; the message names codes that it has.
    """
    codes = language_codes(tokenizer)
    if language not in codes:
        near = [code for code in codes if code[:2] == str(language)[:2]] or list(codes)[:12]
        raise ValueError(
            f"{language!r} is no language code of this {type(tokenizer).__name__}; it has {len(codes)}, such as "
            f"{', '.join(near)}."
        )
    return codes[language]


class MarianTokenizer(transformers.MarianTokenizer):
    """Marian's tokenizer, to which `>>...<<` at the start of a text is a language code only if its vocabulary has it.

    Everything else between such marks is text, as a quotation is; the stock class makes one `<unk>` of it. What this
    class saves says that it is the stock one, and that reads it.
    """

    def remove_language_code(self, text):
        """The code that a text begins with, in a list that may be empty, and the rest of the text."""
        codes, rest = super().remove_language_code(text)
        return (codes, rest) if all(code in self.current_encoder for code in codes) else ([], text)


def read_quotations_(tokenizer):
    """Make a stock tokenizer of Marian read quotations, in place, and return it; leave others as they are."""
    if type(tokenizer) is transformers.MarianTokenizer:
        tokenizer.__class__ = MarianTokenizer
    return tokenizer


def target_codes(tokenizer) -> list[str]:
    """The codes, such as `">>fra<<"`, by which a source tells a Marian model of several targets the language."""
    if not isinstance(tokenizer, transformers.MarianTokenizer):
        return []
    return [token for token in tokenizer.get_vocab() if re.fullmatch(r">>[^\s<]+<<", token)]


class ATSTranslationPipeline(Pipeline):
    """Translates texts with a sequence-to-sequence model.

    Called with one text or a list of texts; with a list, `batch_size` of them go through the model at a time. Made by
    `pipeline("translation", model=...)`, or `pipeline("translation_de_to_en", model=...)` to name the languages.

    Args:
        src_lang, tgt_lang (`str`, *optional*): the languages, by the codes of a multilingual model's tokenizer; by
            default those that the tokenizer names, which of a trained model are those that it was trained for. Other
            models ignore them.
        truncation (`bool`, defaults to `False`): cut texts that are longer than the model's positions, instead of
            raising `ValueError`.
        clean_up_tokenization_spaces (`bool`, defaults to `False`): as in `tokenizer.decode`.
        return_text, return_tensors (`bool`, *optional*): whether the outputs hold the text (the default) or the ids.
        generate_kwargs: everything else goes to `model.generate`. What neither the call nor the model's generation
            config sets is `num_beams=4` and `max_new_tokens=256`, or fewer if the model has fewer positions.

    Returns:
        `[{"translation_text": ...}]` for a text, one such dictionary for each text of a list; `translation_token_ids`
        with `return_tensors=True`; a list of dictionaries for each text if `num_return_sequences` is above 1.
    """

    _load_tokenizer = True
    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        read_quotations_(self.tokenizer)

    def __call__(self, inputs, **kwargs):
        if isinstance(inputs, (list, tuple)) and not inputs:
            return []
        outputs = super().__call__(inputs, **kwargs)
        if isinstance(outputs, list) and all(isinstance(output, list) and len(output) == 1 for output in outputs):
            return [output[0] for output in outputs]
        return outputs

    def _sanitize_parameters(
        self,
        src_lang=None,
        tgt_lang=None,
        truncation=None,
        clean_up_tokenization_spaces=None,
        return_tensors=None,
        return_text=None,
        **generate_kwargs,
    ):
        if return_tensors is None and return_text is not None:
            return_tensors = not return_text
        preprocess = {"src_lang": src_lang, "tgt_lang": tgt_lang, "truncation": truncation}
        postprocess = {
            "clean_up_tokenization_spaces": clean_up_tokenization_spaces,
            "return_tensors": return_tensors,
        }
        given = [{k: v for k, v in params.items() if v is not None} for params in (preprocess, postprocess)]
        return given[0], generate_kwargs, given[1]

    @property
    def _task_params(self) -> dict:
        """What a checkpoint such as T5 prescribes for this task, `translation_en_to_de`: a prefix, beams, a length."""
        return (getattr(self.model.config, "task_specific_params", None) or {}).get(self.task, {})

    @property
    def _positions(self) -> int:
        return longest_input(self.model.config)

    def preprocess(self, text, src_lang=None, tgt_lang=None, truncation=False):
        """Input ids and attention mask, each of shape `(1, tokens)`."""
        if not isinstance(text, str):
            raise TypeError(f"translate a str or a list of str, not {text!r} of type {type(text).__name__}.")
        names = self.task.split("_")
        if len(names) == 4:
            src_lang, tgt_lang = src_lang or names[1], tgt_lang or names[3]
        text = self._task_params.get("prefix", getattr(self.model.config, "prefix", None) or "") + text
        options = {"return_tensors": "pt", "truncation": truncation}
        if truncation:
            options["max_length"] = min(self._positions, self.tokenizer.model_max_length)
        inputs = self._encode(text, src_lang, tgt_lang, options)
        inputs.pop("token_type_ids", None)
        tokens = inputs["input_ids"].shape[-1]
        if tokens > self._positions:
            raise ValueError(
                f"a text has {tokens} tokens and the model has {self._positions} positions; split the text into "
                f"sentences, or pass truncation=True to cut it. It begins: {text[:80]!r}"
            )
        return inputs

    def _encode(self, text, src_lang, tgt_lang, options):
        """The text in tokens, and for `generate` the id of the word that a translation begins with, if it is told."""
        tokenizer = self.tokenizer
        if not language_codes(tokenizer):
            return tokenizer(text, **options)
        first_word = self._first_word(tgt_lang or tokenizer.tgt_lang)
        own = tokenizer.src_lang
        if src_lang is not None:
            language_id(tokenizer, src_lang)
            tokenizer.src_lang = src_lang
        try:
            return {**tokenizer(text, **options), **first_word}
        finally:
            if src_lang is not None:  # the languages of one call are not those of the next
                tokenizer.src_lang = own

    def _first_word(self, tgt_lang) -> dict[str, int]:
        config = self.model.generation_config
        usual = (None, self.tokenizer.eos_token_id, self.tokenizer.bos_token_id, self.tokenizer.pad_token_id)
        # Most decoders start with one of these and are made to write the code; that of the first mBART starts with it.
        name = _FIRST_WORDS[config.decoder_start_token_id not in usual]
        if tgt_lang is not None:
            return {name: language_id(self.tokenizer, tgt_lang)}
        if getattr(config, name) is None:
            raise ValueError(
                "this model translates between many languages, and neither the call nor the tokenizer says into "
                "which; name both by their codes, translate(text, src_lang=..., tgt_lang=...), of which there are "
                f"{', '.join(list(language_codes(self.tokenizer))[:12])} ..."
            )
        return {}

    def _forward(self, model_inputs, **generate_kwargs):
        for name in _FIRST_WORDS:
            first_word = model_inputs.pop(name, None)
            if first_word is not None:  # a list, one for each text, where the pipeline has made a batch
                first_word = first_word[0] if isinstance(first_word, list) else first_word
                generate_kwargs = {name: first_word, **generate_kwargs}
        ids = self.model.generate(**model_inputs, **self._with_defaults(generate_kwargs))
        return {"output_ids": ids.reshape(model_inputs["input_ids"].shape[0], -1, ids.shape[-1])}

    def _with_defaults(self, generate_kwargs: dict) -> dict:
        of_task = {k: v for k, v in self._task_params.items() if k != "prefix"}
        if "generation_config" in generate_kwargs:
            of_task = {}
        return with_generation_defaults(self.model, self.tokenizer, of_task | generate_kwargs)

    def postprocess(self, model_outputs, return_tensors=False, clean_up_tokenization_spaces=False):
        """One dictionary for each sequence returned for a text."""
        if return_tensors:
            return [{"translation_token_ids": ids} for ids in model_outputs["output_ids"][0]]
        decode = {"skip_special_tokens": True, "clean_up_tokenization_spaces": clean_up_tokenization_spaces}
        return [{"translation_text": self.tokenizer.decode(ids, **decode)} for ids in model_outputs["output_ids"][0]]
