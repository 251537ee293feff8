"""Models from scratch: the sizes of Table 4, the start of fairseq's Transformer, and a pad row that stays zero."""

import copy
import math

import pytest
import torch
from transformers import MarianMTModel

from hf_ats.data import TranslationCollator, decoder_inputs, train_tokenizer
from hf_ats.data.embedded_corpus import default_pairs
from hf_ats.run.architectures import ARCHITECTURES, build_model

VOCAB_SIZE = 150
PAD = VOCAB_SIZE - 1
SMALL = dict(layers=1, width=32, feed_forward=64)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    german, english = zip(*default_pairs(sizes={"train": 600})["train"], strict=True)
    return {
        joint: train_tokenizer(
            german,
            english,
            tmp_path_factory.mktemp("tokenizer"),
            vocab_size=VOCAB_SIZE,
            source_lang="de",
            target_lang="en",
            joint=joint,
        )
        for joint in (True, False)
    }


@pytest.fixture(scope="module")
def models(tokenizers):
    return {name: build_model(name, tokenizers[True], seed=3) for name in ARCHITECTURES}


def trained(model) -> int:
    """Parameters that training changes: the table of sinusoids is fixed."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def count_by_hand(width: int, feed_forward: int, layers: int, vocabularies: int) -> int:
    attention = 4 * (width * width + width)
    norm = 2 * width
    feed = width * feed_forward + feed_forward + feed_forward * width + width
    encoder_layer = attention + norm + feed + norm
    decoder_layer = 2 * (attention + norm) + feed + norm
    return layers * (encoder_layer + decoder_layer) + vocabularies * VOCAB_SIZE * width


def test_parameters_are_those_of_table_4(models):
    # IWSLT14: the encoder's embedding, and the decoder's which is its output projection too.
    assert trained(models["iwslt"]) == count_by_hand(512, 1024, 6, vocabularies=2) == 31_696_896
    # WMT17: three matrices of the vocabulary's size.
    assert trained(models["wmt"]) == count_by_hand(512, 2048, 6, vocabularies=3) == 44_368_896
    assert trained(models["tiny"]) == count_by_hand(128, 512, 2, vocabularies=1)


@pytest.mark.parametrize(("name", "heads", "dropout"), [("iwslt", 4, 0.3), ("wmt", 8, 0.1)])
def test_settings_are_those_of_table_4(models, name, heads, dropout):
    config = models[name].config
    assert (config.encoder_attention_heads, config.decoder_attention_heads, config.dropout) == (heads, heads, dropout)
    assert (config.attention_dropout, config.activation_dropout, config.activation_function) == (0.0, 0.0, "relu")
    assert (config.encoder_layerdrop, config.decoder_layerdrop, config.scale_embedding) == (0.0, 0.0, True)


def writes_through(model, one: torch.Tensor, other: torch.Tensor) -> bool:
    with torch.no_grad():
        before = one[2, 3].item()
        one[2, 3] = 3.0
        shared = other[2, 3].item() == 3.0
        one[2, 3] = before
    return shared


@pytest.mark.parametrize(
    ("name", "joint", "encoder_decoder", "input_output"),
    [
        ("tiny", True, True, True),
        ("tiny", False, False, True),
        ("iwslt", True, False, True),
        ("iwslt", False, False, True),
        ("wmt", True, False, False),
        ("wmt", False, False, False),
    ],
)
def test_embeddings_are_shared_as_said_also_after_loading(
    tokenizers, tmp_path, name, joint, encoder_decoder, input_output
):
    built = build_model(name, tokenizers[joint], **SMALL)
    built.save_pretrained(tmp_path)
    loaded = MarianMTModel.from_pretrained(tmp_path)
    for model in (built, loaded):
        encoder, decoder = (part.embed_tokens.weight for part in (model.get_encoder(), model.get_decoder()))
        assert writes_through(model, encoder, decoder) == encoder_decoder
        assert writes_through(model, decoder, model.lm_head.weight) == input_output
    for (key, one), (other_key, other) in zip(built.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert key == other_key and torch.equal(one, other), key


def test_weights_start_as_in_fairseq(models):
    for name, model in models.items():
        width = model.config.d_model
        for key, parameter in model.named_parameters():
            module = key.rsplit(".", 2)[-2]
            if not parameter.requires_grad:
                continue
            if "layer_norm" in module:
                assert torch.equal(parameter, torch.full_like(parameter, key.endswith("weight"))), key
            elif key.endswith("bias"):
                assert not parameter.any(), key
            elif module in ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"):
                gain = math.sqrt(1 / 2) if module in ("q_proj", "k_proj", "v_proj") else 1.0
                bound = gain * math.sqrt(6 / sum(parameter.shape))
                assert 0.99 * bound < parameter.abs().max() <= bound, key
                # Uniform: the deviation is the bound over the root of 3.
                torch.testing.assert_close(parameter.std().item(), bound / math.sqrt(3), rtol=0.02, atol=0)
            else:
                assert module in ("shared", "embed_tokens", "lm_head"), key
                # 150 x 128 draws or more: the deviation is known to about half a percent.
                torch.testing.assert_close(parameter[:PAD].std().item(), width**-0.5, rtol=0.03, atol=0)
        for part in (model.get_encoder(), model.get_decoder()):
            assert not part.embed_tokens.weight[PAD].any(), name
            sinusoids = part.embed_positions.weight
            assert not sinusoids.requires_grad
            positions = torch.arange(5.0)
            torch.testing.assert_close(sinusoids[:5, 0], positions.sin())
            torch.testing.assert_close(sinusoids[:5, width // 2], positions.cos())
        assert not model.final_logits_bias.any()


def test_norms_come_after_the_residual_sum(models):
    model = models["tiny"]
    with torch.no_grad():
        states = model.eval().get_encoder()(torch.tensor([[5, 6, 7, 0]])).last_hidden_state
    model.train()
    torch.testing.assert_close(states.mean(-1), torch.zeros(1, 4), rtol=0, atol=1e-5)
    torch.testing.assert_close(states.var(-1, unbiased=False), torch.ones(1, 4), rtol=0, atol=1e-3)


def test_weights_depend_on_the_seed_alone(tokenizers):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    one = build_model("tiny", tokenizers[True], seed=5)
    assert torch.equal(torch.rand(3), expected)
    same, other = build_model("tiny", tokenizers[True], seed=5), build_model("tiny", tokenizers[True], seed=6)
    key = "model.encoder.layers.0.fc1.weight"
    for name, value in one.state_dict().items():
        assert torch.equal(value, same.state_dict()[name]), name
    assert not torch.equal(one.state_dict()[key], other.state_dict()[key])


def take_steps(model, tokenizer, steps: int = 3) -> None:
    pairs = default_pairs(sizes={"train": 8})["train"]
    texts = tokenizer([german for german, _ in pairs], text_target=[english for _, english in pairs])
    features = [{name: texts[name][row] for name in texts} for row in range(len(pairs))]
    batch = TranslationCollator(tokenizer)(features)
    labels = batch.pop("labels")
    batch["decoder_input_ids"] = decoder_inputs(model, labels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(steps):
        logits = model(**batch).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=0.1).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("joint", [True, False])
def test_the_pad_row_stays_zero_in_training_and_all_others_move(tokenizers, joint):
    model = build_model("tiny", tokenizers[joint])
    before = model.get_decoder().embed_tokens.weight.detach().clone()
    take_steps(model, tokenizers[joint])
    for part in (model.get_encoder(), model.get_decoder()):
        assert not part.embed_tokens.weight[PAD].any()
    moved = (model.get_decoder().embed_tokens.weight != before).any(1)
    assert moved[:PAD].all()


def test_an_untied_projection_keeps_its_pad_row_free(tokenizers):
    model = build_model("wmt", tokenizers[True], **SMALL)
    before = model.lm_head.weight[PAD].detach().clone()
    take_steps(model, tokenizers[True], steps=1)
    assert not model.get_decoder().embed_tokens.weight[PAD].any()
    assert not torch.equal(model.lm_head.weight[PAD], before)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_generation_begins_with_pad_and_never_writes_it(models, tokenizers, name):
    config = models[name].generation_config
    assert (config.pad_token_id, config.decoder_start_token_id, config.eos_token_id) == (PAD, PAD, 0)
    assert config.bad_words_ids == [[PAD]]
    model = models["tiny"].eval()
    with torch.no_grad():
        model.final_logits_bias[0, PAD] = 100.0
        ids = model.generate(**tokenizers[True](["eins"], return_tensors="pt"), max_length=6)
        model.final_logits_bias.zero_()
    model.train()
    assert ids[0, 0] == PAD and PAD not in ids[0, 1:].tolist()


def test_generation_settings_are_saved(tokenizers, tmp_path):
    build_model("iwslt", tokenizers[True], **SMALL).save_pretrained(tmp_path)
    loaded = MarianMTModel.from_pretrained(tmp_path).generation_config
    assert (loaded.num_beams, loaded.max_length, loaded.bad_words_ids) == (5, 200, [[PAD]])


def test_dropout_replaces_that_of_the_architecture(tokenizers):
    assert build_model("tiny", tokenizers[True], dropout=0.25).config.dropout == 0.25
    assert build_model("iwslt", tokenizers[True], dropout=0.0, **SMALL).config.dropout == 0.0


def test_a_tokenizer_whose_pad_is_not_last_is_refused(tokenizers):
    tokenizer = copy.deepcopy(tokenizers[True])
    tokenizer.pad_token = "</s>"
    with pytest.raises(ValueError, match=r"<pad> has id 0, but must have the last one, 149"):
        build_model("tiny", tokenizer)


def test_sizes_replace_those_of_the_architecture(tokenizers):
    sizes = dict(layers=1, width=32, feed_forward=48, heads=2)
    model = build_model("iwslt", tokenizers[True], **sizes)
    assert len(model.model.encoder.layers) == len(model.model.decoder.layers) == 1
    layer = model.model.encoder.layers[0]
    assert layer.fc1.weight.shape == (48, 32) and layer.self_attn.num_heads == 2
    assert model.config.dropout == 0.3  # what is not given stays
