"""Marian models from scratch, in the sizes of the paper's Table 4 and one for trying out.

They are post-norm Transformers with ReLU, sinusoidal positions, no dropout on attention or activations, and the start
of the code base behind the paper (fairseq).
"""

from dataclasses import dataclass, replace

import torch
from torch import nn
from transformers import GenerationConfig, MarianConfig, MarianMTModel, MarianTokenizer

from ..partition import PartitionedProjection

MAX_POSITIONS = 512


@dataclass(frozen=True)
class Architecture:
    """Sizes of a model. Encoder and decoder have the same."""

    layers: int
    width: int
    feed_forward: int
    heads: int
    dropout: float
    share_decoder_input_output: bool
    share_encoder_decoder: bool
    num_beams: int
    max_length: int


# Table 4; its `share_decoder_input_output_embed` ties the decoder's two embeddings, never the encoder's. Beam and
# longest output, which the paper does not say, are the defaults of fairseq's generator.
ARCHITECTURES = {
    "tiny": Architecture(2, 128, 512, 4, 0.0, True, True, num_beams=1, max_length=128),
    "iwslt": Architecture(6, 512, 1024, 4, 0.3, True, False, num_beams=5, max_length=200),
    "wmt": Architecture(6, 512, 2048, 8, 0.1, False, False, num_beams=5, max_length=200),
}


def build_model(
    architecture: str, tokenizer: MarianTokenizer, *, seed: int = 0, **sizes: float | None
) -> MarianMTModel:
    """Build an untrained translation model.

    Args:
        architecture: `"tiny"`, `"iwslt"` or `"wmt"` (6+6 layers of width 512; feed-forward 1024, 4 heads, dropout 0.3,
            the decoder's input and output embeddings shared / feed-forward 2048, 8 heads, dropout 0.1, not
            shared). `"tiny"` shares all embeddings if the vocabulary is joint.
        tokenizer: says the vocabularies, joint or separate; `<pad>` must be the last id.
        seed: of the initial weights; the global random state stays as it was.
        sizes: fields of `Architecture`, such as `layers=3` or `dropout=0.1`, instead of the architecture's; None
            leaves one as it is.

    Returns:
        The model, in training mode, in float32. Its `<pad>` row, the decoder's first input, is zero and stays zero in
        training, see `keep_pad_row_zero_`.

    Raises:
        ValueError: the heads cannot share the width evenly, or `<pad>` is not the last id.
    """
    given = {name: value for name, value in sizes.items() if value is not None}
    built = replace(ARCHITECTURES[architecture], **given)
    config = _config(built, tokenizer)
    # Building draws random numbers for weights that are replaced below.
    with torch.random.fork_rng(devices=[]):
        model = MarianMTModel(config)
    initialize_(model, seed)
    model.generation_config = _generation_config(built, config)
    keep_pad_row_zero_(model)
    return model.train()


@torch.no_grad()
def initialize_(model: MarianMTModel, seed: int) -> MarianMTModel:
    """Draw the weights as fairseq's Transformer does, in place.

    Embeddings, and an output projection of its own: normal with deviation d^-1/2, the `<pad>` row of embeddings
    zero. Linear weights: Xavier-uniform, with gain 1/sqrt(2) for query, key and value. Biases 0, layer norms 1 and 0.
    """
    generator = torch.Generator().manual_seed(seed)
    width, pad = model.config.d_model, model.config.pad_token_id
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and module is not model.lm_head:
            gain = 2**-0.5 if name.endswith(("q_proj", "k_proj", "v_proj")) else 1.0
            nn.init.xavier_uniform_(module.weight, gain=gain, generator=generator)
            nn.init.zeros_(module.bias)
    encoder, decoder = model.get_encoder().embed_tokens.weight, model.get_decoder().embed_tokens.weight
    nn.init.normal_(encoder, std=width**-0.5, generator=generator)
    if decoder is not encoder:
        nn.init.normal_(decoder, std=width**-0.5, generator=generator)
    if model.lm_head.weight is not decoder:
        nn.init.normal_(model.lm_head.weight, std=width**-0.5, generator=generator)
    encoder[pad] = 0
    decoder[pad] = 0
    return model


def keep_pad_row_zero_(model: MarianMTModel) -> MarianMTModel:
    """Keep the gradient off the `<pad>` row of an embedding that is also the output projection, in place.

    An embedding sends no gradient to its padding row, but the softmax over a tied output projection does, and the
    decoder starts with that row. CTranslate2 starts with zeros, so its output would part from this model's. It holds
    for this process only: the model of a later `from_pretrained` needs the call again if it is trained on.
    """
    pad = model.config.pad_token_id
    weight = model.get_output_embeddings().weight
    if weight is not model.get_decoder().embed_tokens.weight:
        return model

    def drop_pad_row(parameter: nn.Parameter) -> None:
        parameter.grad[pad] = 0

    # Runs before DistributedDataParallel's own hook, so that the row is zero in what is sent too; a hook on the
    # tensor would have to copy the whole gradient.
    shares = model.lm_head.V if isinstance(model.lm_head, PartitionedProjection) else ()
    for rows in (weight, *shares):
        rows.register_post_accumulate_grad_hook(drop_pad_row)
    return model


def _config(sizes: Architecture, tokenizer: MarianTokenizer) -> MarianConfig:
    vocab_size, pad = tokenizer.vocab_size, tokenizer.pad_token_id
    if pad != vocab_size - 1:
        raise ValueError(
            f"The tokenizer's <pad> has id {pad}, but must have the last one, {vocab_size - 1}; use a tokenizer of "
            "hf_ats.data.train_tokenizer or of a published Marian model."
        )
    return MarianConfig(
        vocab_size=vocab_size,
        decoder_vocab_size=vocab_size,
        max_position_embeddings=MAX_POSITIONS,
        d_model=sizes.width,
        encoder_layers=sizes.layers,
        decoder_layers=sizes.layers,
        encoder_ffn_dim=sizes.feed_forward,
        decoder_ffn_dim=sizes.feed_forward,
        encoder_attention_heads=sizes.heads,
        decoder_attention_heads=sizes.heads,
        activation_function="relu",
        dropout=sizes.dropout,
        attention_dropout=0.0,
        activation_dropout=0.0,
        scale_embedding=True,
        share_encoder_decoder_embeddings=sizes.share_encoder_decoder and not tokenizer.separate_vocabs,
        tie_word_embeddings=sizes.share_decoder_input_output,
        pad_token_id=pad,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=pad,
        forced_eos_token_id=tokenizer.eos_token_id,
    )


def _generation_config(sizes: Architecture, config: MarianConfig) -> GenerationConfig:
    return GenerationConfig(
        num_beams=sizes.num_beams,
        max_length=sizes.max_length,
        pad_token_id=config.pad_token_id,
        eos_token_id=config.eos_token_id,
        forced_eos_token_id=config.eos_token_id,
        decoder_start_token_id=config.decoder_start_token_id,
        bad_words_ids=[[config.pad_token_id]],
    )
