import pytest

from hf_ats.data import default_corpus, train_tokenizer
from hf_ats.evaluation import encode_sentences, measure_networks, score_translations, translate
from hf_ats.partition import flops_per_token
from tests.support.models import tiny_model


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    pairs = default_corpus()["test"]["translation"][:200]
    german, english = ([pair[language] for pair in pairs] for language in ("de", "en"))
    directory = tmp_path_factory.mktemp("tokenizer")
    languages = {"source_lang": "de", "target_lang": "en"}
    return train_tokenizer(german, english, directory, vocab_size=96, **languages), german[:6], english[:6]


def test_each_network_gets_its_own_figures(setting):
    tokenizer, sources, references = setting
    networks = {"core": tiny_model("marian", seed=1), "full": tiny_model("marian", seed=2, encoder_layers=1)}
    options = {"num_beams": 1, "max_length": 12}
    encoded = encode_sentences(tokenizer, sources, list(networks.values()))
    figures, translations = measure_networks(
        networks, tokenizer, encoded, references, speed_sentences=3, speed_repeats=1, **options
    )
    assert translations["core"] != translations["full"]
    for name, network in networks.items():
        assert translations[name] == translate(network, tokenizer, sources, **options)
        scores = score_translations(translations[name], references)
        assert {score: figures[name][score] for score in ("bleu", "chrf")} == {s: scores[s] for s in ("bleu", "chrf")}
        assert figures[name]["flops_per_token"] == flops_per_token(network)
        assert figures[name]["decoding_speed"]["sentences"] == 3


def test_the_speed_can_be_left_out(setting):
    tokenizer, sources, references = setting
    networks = {"full": tiny_model("marian")}
    encoded = encode_sentences(tokenizer, sources, list(networks.values()))
    figures, _ = measure_networks(networks, tokenizer, encoded, references, speed_sentences=0, max_length=5)
    assert figures["full"]["decoding_speed"] is None
