"""The `tokenizer.json` of a Marian tokenizer, the one form that transformers.js reads."""

import os
from collections.abc import Sequence
from pathlib import Path

import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

TOKENIZER_FILE = "tokenizer.json"
_BYTE_PAIRS = 2  # sentencepiece's number of that kind of model
# What tells rules of normalization apart.
_TELLING = "10² ½ … ﬁ Ａ e\u0301 „so“ 3 %  \u00a0x\tBuch"


def write_fast_tokenizer(
    tokenizer: PreTrainedTokenizerBase, directory: str | os.PathLike, sentences: Sequence[str]
) -> None:
    """Write the `tokenizer.json` of a Marian tokenizer, if it splits these sentences alike; of others nothing.

    It cannot be made of a vocabulary for each language, nor where no rule of normalization that `tokenizers` knows
    does what sentencepiece does.
    """
    if not isinstance(tokenizer, transformers.MarianTokenizer):
        return
    texts = [*sentences, _TELLING]
    if not tokenizer.separate_vocabs:
        expected = [tokenizer(text)["input_ids"] for text in texts]
        for fast in _candidates(tokenizer):
            if PreTrainedTokenizerFast(tokenizer_object=fast)(texts)["input_ids"] == expected:
                fast.save(str(Path(directory, TOKENIZER_FILE)))
                return


def _candidates(tokenizer) -> list[Tokenizer]:
    """Return tokenizers of the same pieces, with each rule of normalization."""
    from sentencepiece import sentencepiece_model_pb2  # of protobuf, which comes with onnx

    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(Path(tokenizer.spm_files[0]).read_bytes())
    blanks = [normalizers.Replace(Regex(r"[\s\u2581]+"), " "), normalizers.Strip()]
    rules = [normalizers.NFC(), normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap)]
    end, end_id = tokenizer.eos_token, tokenizer.eos_token_id
    found = []
    for rule in rules:
        fast = Tokenizer(_pieces(model, tokenizer.encoder, str(tokenizer.unk_token)))
        fast.normalizer = normalizers.Sequence([rule, *blanks])
        fast.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
        fast.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
        fast.post_processor = processors.TemplateProcessing(
            single=f"$A {end}", pair=f"$A $B {end}", special_tokens=[(end, end_id)]
        )
        fast.add_special_tokens(tokenizer.all_special_tokens)  # which decoding leaves out
        found.append(fast)
    return found


def _pieces(model, ids: dict[str, int], unknown: str):
    """Return the model of `tokenizers` with the pieces of sentencepiece's, by the ids of the vocabulary."""
    scores = {piece.piece: piece.score for piece in model.pieces}
    if model.trainer_spec.model_type != _BYTE_PAIRS:
        least = min(scores.values()) - 10  # of a piece that only targets have
        ordered = sorted(ids, key=ids.get)
        return models.Unigram([(piece, scores.get(piece, least)) for piece in ordered], unk_id=ids[unknown])
    known = scores.keys() & ids.keys()
    merges = [
        (piece[:cut], piece[cut:])
        for piece in sorted(known, key=lambda piece: -scores[piece])
        for cut in range(1, len(piece))
        if {piece[:cut], piece[cut:]} <= known
    ]
    return models.BPE(ids, merges, unk_token=unknown, fuse_unk=True)
