"""The whole way of each family: a pretrained model in, training in turns, both exports, and what they translate.

Tokenizers and models are tiny, and of transformers' own classes.
"""

import copy
import functools
import json

import pytest
import torch
import transformers
from transformers import AutoTokenizer, BlenderbotSmallConfig, BlenderbotSmallForConditionalGeneration, pipeline

from hf_ats.hub import push_run
from hf_ats.partition import at_level
from tests.support import scripts
from tests.support.checkpoints import ENGLISH, GERMAN
from tests.support.hub import connected_hub
from tests.support.models import tiny_model
from tests.support.tokenizers import KINDS, tiny_tokenizer

FLAGS = (
    "--ratios 0.5 --max_steps 2 --per_device_train_batch_size 4 --learning_rate 1e-3 --use_cpu --report_to none "
    "--disable_tqdm true --save_strategy no --speed_sentences 0 --generation_max_length 12 --generation_num_beams 2"
).split()
MULTILINGUAL = [kind for kind in KINDS if KINDS[kind].codes]
BEGINS = {"mbart": "decoder_start_token_id"} | dict.fromkeys(("mbart-50", "m2m_100", "nllb"), "forced_bos_token_id")
"""By kind, the field of the generation config that says the language of a translation."""

_OF_THE_SOURCE = tuple(f"encoder_attn.{name}_proj.weight" for name in ("q", "v", "out"))
_OF_THE_SOURCE += tuple(f"EncDecAttention.{name}.weight" for name in ("q", "v", "o"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for language, sentences in (("de", GERMAN), ("en", ENGLISH)):
        (folder / f"text.{language}").write_text("\n".join(sentences) + "\n", encoding="utf-8")
    return folder / "text"


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Makes the directory of a published model, by kind."""

    @functools.cache
    def make(kind: str):
        directory = tmp_path_factory.mktemp("pretrained") / kind
        tokenizer = tiny_tokenizer(kind, directory)
        model = tiny_model(KINDS[kind].family, seed=2, vocab_size=len(tokenizer))
        with torch.no_grad():  # it looks hard at the source, so that translations depend on it
            for name, parameter in model.named_parameters():
                if name.endswith(_OF_THE_SOURCE):
                    parameter.mul_(20)
        model.save_pretrained(directory)
        return directory

    return make


def flags(kind: str, pretrained, corpus, output_dir, *more) -> list[str]:
    data = [f"--{part}_prefix={corpus}" for part in ("train", "test")]
    codes = zip(("source", "target"), KINDS[kind].codes or (), strict=False)
    languages = [f"--tokenizer_{side}_lang={code}" for side, code in codes]
    start = [f"--model_name_or_path={pretrained(kind)}", f"--output_dir={output_dir}"]
    return [*start, *data, *languages, *FLAGS, *more]


# An mT5 is a T5 to everything here, tokenizer included.
@pytest.fixture(scope="module", params=[kind for kind in KINDS if kind != "mt5"])
def run(request, pretrained, corpus, tmp_path_factory):
    """`(kind, output directory, the model as it was trained, its tokenizer as it was before)`."""
    kind, output_dir = request.param, tmp_path_factory.mktemp("runs") / request.param
    before = {}

    def remember(trainer):
        before.update(copy.deepcopy(trainer.model.state_dict()))

    trainer = scripts.train(*flags(kind, pretrained, corpus, output_dir), watch=remember)
    model = trainer.whole_model()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert any(".U." in name for name in moved) and any("residual" in name for name in moved), "both were trained"
    return kind, output_dir, model.eval(), AutoTokenizer.from_pretrained(pretrained(kind))


def by_hand(kind: str, model, tokenizer, level: str, languages=None) -> list[list[int]]:
    """What the trained model makes of the German sentences, by nothing but ids and `generate`."""
    options = {}
    if languages:
        tokenizer.src_lang = languages[0]
        code = f"__{languages[1]}__" if kind == "m2m_100" else languages[1]
        options = {BEGINS[kind]: tokenizer.convert_tokens_to_ids(code)}
    encoded = [tokenizer(text, return_tensors="pt") for text in GERMAN]
    with at_level(model, level):
        return [model.generate(**ids, max_length=12, num_beams=2, **options)[0].tolist() for ids in encoded]


def through_pipeline(directory, **options) -> list[list[int]]:
    translate = pipeline("translation", model=str(directory), num_beams=2, max_length=12)
    records = translate(GERMAN, return_tensors=True, **options)
    return [record["translation_token_ids"].tolist() for record in records]


@pytest.mark.law(number=6)
def test_core_and_full_translate_through_the_pipeline_as_the_trained_model_does(run):
    kind, output_dir, model, tokenizer = run
    found = {}
    for level in ("core", "full"):
        # without naming languages, in the direction of the training
        found[level] = through_pipeline(output_dir / level)
        assert found[level] == by_hand(kind, model, tokenizer, level, KINDS[kind].codes)
        assert len(set(map(tuple, found[level]))) > 1, "translations depend on the source"
        translations = (output_dir / f"translations.{level}.txt").read_text(encoding="utf-8").split("\n")[:-1]
        decoded = [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in found[level]]
        assert translations == decoded
    assert found["core"] != found["full"]
    assert set(json.loads((output_dir / "results.json").read_text())["levels"]) == {"core", "full"}


def test_what_is_pushed_and_pulled_by_its_id_translates_the_same(run, monkeypatch, tmp_path):
    kind, output_dir, _, _ = run
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None, raising=False)  # which keeps the first endpoint
    languages = dict(zip(("src_lang", "tgt_lang"), reversed(KINDS[kind].codes or ()), strict=False))
    with connected_hub(monkeypatch, tmp_path / "home"):
        pushed = push_run(output_dir, "pair", license="mit")
        assert set(pushed) == {"core", "full"}
        for level, repository in pushed.items():
            here = through_pipeline(output_dir / level, **languages)
            assert through_pipeline(repository.repo_id, **languages) == here


@pytest.mark.parametrize("run", MULTILINGUAL, indirect=True)
def test_a_multilingual_export_translates_between_the_languages_of_a_call(run):
    kind, output_dir, model, tokenizer = run
    german, english = KINDS[kind].codes
    directory = output_dir / "core"
    assert (AutoTokenizer.from_pretrained(directory).src_lang, AutoTokenizer.from_pretrained(directory).tgt_lang) == (
        german,
        english,
    )
    translate = pipeline("translation", model=str(directory), num_beams=2, max_length=12)

    def ids(**languages):
        return [r["translation_token_ids"].tolist() for r in translate(GERMAN, return_tensors=True, **languages)]

    trained = by_hand(kind, model, tokenizer, "core", (german, english))
    assert ids(src_lang=german, tgt_lang=english) == trained
    back = ids(src_lang=english, tgt_lang=german)
    assert back == by_hand(kind, model, tokenizer, "core", (english, german)) != trained
    assert ids(tgt_lang=german) == by_hand(kind, model, tokenizer, "core", (german, german)) not in (back, trained)
    assert ids() == trained, "a call leaves no languages behind"
    with pytest.raises(ValueError, match=r"'xx' is no language code of this \w+; it has \d+, such as "):
        translate(GERMAN, src_lang="xx", tgt_lang=english)


@pytest.mark.parametrize("run", ["nllb"], indirect=True)
def test_the_script_translates_in_the_trained_direction_or_in_the_one_that_it_is_told(run, tmp_path, monkeypatch):
    kind, output_dir, model, tokenizer = run
    (tmp_path / "text.de").write_text("\n".join(GERMAN) + "\n", encoding="utf-8")
    files = ("--input", tmp_path / "text.de", "--output", tmp_path / "out")
    german, english = KINDS[kind].codes
    back = ("--tokenizer_source_lang", english, "--tokenizer_target_lang", german)
    for flags, codes in (((), (german, english)), (back, (english, german))):
        of = ("--model", output_dir / "core", "--num_beams", 2, "--max_length", 12)
        scripts.run_here("translate.py", *of, *files, *flags, monkeypatch=monkeypatch)
        ids = by_hand(kind, model, tokenizer, "core", codes)
        expected = [tokenizer.decode(one, skip_special_tokens=True).strip() for one in ids]
        assert (tmp_path / "out").read_text(encoding="utf-8").split("\n")[:-1] == expected


def test_the_scripts_ask_for_the_codes_of_a_model_that_names_none(pretrained, tmp_path, monkeypatch):
    (tmp_path / "text.de").write_text("ein Hund\n", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"translate.py: a Nllb\w+ .* say none; set both"):
        scripts.run_here(
            "translate.py", "--model", pretrained("nllb"), "--input", tmp_path / "text.de", monkeypatch=monkeypatch
        )


def test_codes_are_asked_for_and_checked_before_training(pretrained, corpus, tmp_path):
    given = flags("nllb", pretrained, corpus, tmp_path)
    without = [flag for flag in given if not flag.startswith("--tokenizer_")]
    with pytest.raises(SystemExit, match=r"source_lang and tokenizer_target_lang say none; set both\. It has 202"):
        scripts.begin(*without)
    with pytest.raises(SystemExit, match=r"'de' is no language code of this Nllb\w+; it has 202, such as deu_Latn"):
        scripts.begin(*without, "--tokenizer_source_lang=de", "--tokenizer_target_lang=en")


@pytest.mark.parametrize("run", ["nllb"], indirect=True)
def test_training_goes_on_from_an_export_in_its_direction(run, corpus, tmp_path):
    kind, output_dir, _, _ = run
    start = [f"--model_name_or_path={output_dir / 'full'}", f"--output_dir={tmp_path}"]
    data = [f"--{part}_prefix={corpus}" for part in ("train", "test")]
    trainer = scripts.begin(*start, *data, *FLAGS)
    row = trainer.train_dataset[0]
    codes = trainer.processing_class.convert_tokens_to_ids(list(KINDS[kind].codes))
    assert [row["input_ids"][0], row["labels"][0]] == codes
    assert trainer.model.generation_config.forced_bos_token_id == codes[1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((), r"no preset for BlenderbotSmall.*presets: marian, .*Name the layers"),
        (("--target_modules", "fc1", "fc2"), r"no core class for BlenderbotSmall.*Start from one of them"),
        (("--method", "width", "--target_modules", "fc1=out", "fc2=in"), r"no core class for BlenderbotSmall"),
    ],
)
def test_an_architecture_without_a_preset_or_a_core_class_is_refused_before_training(given, message, corpus, tmp_path):
    sizes = dict(encoder_layers=1, decoder_layers=1, encoder_ffn_dim=8, decoder_ffn_dim=8, d_model=8)
    heads = dict(encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=64)
    tokenizer = tiny_tokenizer("bart", tmp_path / "model")
    config = BlenderbotSmallConfig(vocab_size=len(tokenizer), **sizes, **heads)
    BlenderbotSmallForConditionalGeneration(config).save_pretrained(tmp_path / "model")
    data = [f"--{part}_prefix={corpus}" for part in ("train", "test")]
    start = [f"--model_name_or_path={tmp_path / 'model'}", f"--output_dir={tmp_path / 'run'}"]
    with pytest.raises(SystemExit, match=message):
        scripts.begin(*start, *data, *FLAGS, *given)
    assert not any((tmp_path / "run").rglob("*")), "nothing was written"
