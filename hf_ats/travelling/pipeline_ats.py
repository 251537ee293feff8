"""The translation pipeline, for every version of transformers: 5 removed its own.

This file travels with every core checkpoint and needs torch and transformers alone.
"""

import sys

from transformers import Pipeline


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


class ATSTranslationPipeline(Pipeline):
    """Translates texts with a sequence-to-sequence model.

    Called with one text or a list of texts; with a list, `batch_size` of them go through the model at a time. Made by
    `pipeline("translation", model=...)`, or `pipeline("translation_de_to_en", model=...)` to name the languages.

    Args:
        src_lang, tgt_lang (`str`, *optional*): the languages, for multilingual models; others ignore them.
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
        build = getattr(self.tokenizer, "_build_translation_inputs", None)  # the multilingual tokenizers have it
        if build is not None:
            inputs = build(text, src_lang=src_lang, tgt_lang=tgt_lang, **options)
        else:
            inputs = self.tokenizer(text, **options)
        inputs.pop("token_type_ids", None)
        tokens = inputs["input_ids"].shape[-1]
        if tokens > self._positions:
            raise ValueError(
                f"a text has {tokens} tokens and the model has {self._positions} positions; split the text into "
                f"sentences, or pass truncation=True to cut it. It begins: {text[:80]!r}"
            )
        return inputs

    def _forward(self, model_inputs, **generate_kwargs):
        first_word = model_inputs.pop("forced_bos_token_id", None)
        if first_word is not None:  # a list, one for each text, where the pipeline has made a batch
            first_word = first_word[0] if isinstance(first_word, list) else first_word
            generate_kwargs = {"forced_bos_token_id": first_word, **generate_kwargs}
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
