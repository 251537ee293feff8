"""What a user can get wrong is found before `hf-ats train` trains, and said in a sentence."""

import json
import re
import shutil

import pytest
from transformers import MarianMTModel

from tests.support.scripts import SIZES, TRAINING, begin, prefixes, train, training_arguments


def refused(message: str, *arguments) -> None:
    """The run ends with a sentence before any training."""
    with pytest.raises(SystemExit, match=f"^hf-ats train: .*{message}"):
        train(*arguments, watch=lambda trainer: pytest.fail("it began to train"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--dataset_name=", "dataset_name='' names no data set; give an id of the Hub or a directory"),
        ("--ratios 1.5", r"ratios=[1.5] must lie between 0 and 1"),
        ("--test_prefix nowhere/test", "The prefix 'nowhere/test' has no text for the language 'de'"),
        ("--max_tokens 10", "max_tokens=10 is smaller than sentence"),
        ("--target_modules query", "target_modules=['query']"),
        ("--ranks fc1=4", "ranks={'fc1': 4} say which modules get which rank, and so do ratios=[0.25]"),
        ("--ranks fc1", "ranks=['fc1'] holds 'fc1'; write a name and its rank, such as fc1=16"),
        ("--method none", "schedule='alternating' needs a partitioned model"),
        ("--resume_from_checkpoint True", "is not a directory; give a checkpoint-N, True"),
        ("--resume_from_checkpoint nowhere", "--resume_from_checkpoint nowhere: nowhere is not a directory"),
        ("--max_source_length 999", "--max_source_length 999 is more than the 512 positions"),
        ("--max_steps 0", "max_steps=0 and num_train_epochs=3 train nothing; write one of them"),
        ("--num_train_epochs 0", "max_steps=-1 and num_train_epochs=0 train nothing"),
        ("--num_train_epochs -1", "max_steps=-1 and num_train_epochs=-1 train nothing"),
        ("--speed_sentences -1", "speed_sentences=-1 is no count; write 0 to leave the speed out"),
        ("--bleu_tokenizer english", "tokenize='english' is not a tokenizer of sacreBLEU; write one of"),
        (
            '--lr_scheduler_kwargs {"number":1}',
            "the training arguments make no optimizer, schedule or batches: get_linear",
        ),
        ("--dataloader_num_workers -1", "the training arguments make no optimizer, schedule or batches: num_workers"),
        ("--optim rmsprop --optim_args momentum=-1", "the training arguments make no optimizer, schedule or batches"),
        ("--ranks fc1=4 q_proj=2 fc1=8", "ranks=['fc1=4', 'q_proj=2', 'fc1=8'] gives fc1 twice"),
        (
            "--eval_strategy steps --metric_for_best_model full_ter --predict_with_generate",
            "--metric_for_best_model full_ter, and validation computes loss, bleu, chrf, gen_len of each level; write",
        ),
        (
            "--eval_strategy steps --metric_for_best_model eval_full_bleu",
            "validation computes loss of each level; write one such as full_loss, or add --predict_with_generate",
        ),
        ("--generation_max_length 999", "--generation_max_length 999 is more than the 512 positions"),
        ("--push_to_hub", "--push_to_hub needs model cards: license is missing; say under which terms"),
        (
            "--push_to_hub --license mit --source_lang src --target_lang tgt",
            "language 'src' is not a code by ISO 639, two or three letters, such as de or deu; name both",
        ),
        ("--license Apache-2", "the model cards: license='Apache-2' (--license) is not an identifier of the Hub"),
        ("--card_datasets ../multi30k", "the model cards: datasets='../multi30k' (--card_datasets) is not an id"),
    ],
)
def test_bad_input_ends_with_a_sentence(more, message, corpus, tmp_path):
    # The flags of the case come last, and the last one counts.
    refused(re.escape(message), *training_arguments(corpus, tmp_path / "run"), *more.split())


def test_a_vocabulary_that_cannot_have_every_character_is_refused(corpus, tmp_path):
    for file in corpus.iterdir():
        shutil.copy(file, tmp_path)
    for language in ("de", "en"):
        with (tmp_path / f"train.{language}").open("a", encoding="utf-8") as file:
            file.write("▅ ▅\n")
    arguments = training_arguments(tmp_path, tmp_path / "run")
    message = r"In the sources of the train part 2 of .* tokens are <unk>, in 1 sentences, such as '▅'\. The tokenizer"
    refused(message, *arguments, "--source_normalization_rule_name", "identity")
    begin(*arguments)


@pytest.mark.parametrize("wrong", ["nothing", "quotation"])
def test_a_pretrained_model_needs_its_tokenizer_and_its_own_codes(wrong, trained, corpus, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(trained.output_dir / "full", model)
    words = f"--model_name_or_path {model} --output_dir {tmp_path / 'run'} {TRAINING} --ratios 0.25".split()
    words += prefixes(corpus)
    if wrong == "nothing":
        for name in ("source.spm", "target.spm", "vocab.json", "tokenizer_config.json", "export.json"):
            (model / name).unlink()
        refused("the tokenizer of .*model cannot be loaded .*If its files are missing or damaged, save it", *words)
    else:
        message = "source_prefix='>>fr<< ' begins with >>fr<<, which is no code of this tokenizer; it has none"
        refused(message, *words, "--source_prefix", ">>fr<< ")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--calibration_sentences none.de", r"none\.de: There is no file 'none\.de'"),
        ("--calibration_sentences empty.de", r"empty\.de: .*empty"),
        ("--calibration_sentences blank.de", r"blank\.de has no sentence with text; give a hundred or so, one a line"),
        (
            "--calibration_sentences text.de --init random",
            r"text\.de are for --method rank --init svd and --method width --init importance, and this is --method "
            "rank --init random; write one of those, or leave them out",
        ),
        ("--calibration_sentences text.de --method width", "and this is --method width --init first"),
        ("--calibration_sentences text.de --decoder_layers 1", "and this is --method depth; write"),
        (
            "--calibration_sentences text.de --decoder_layers 1 --method width --ratios 0.5",
            "and this is --method width --init first and --method depth",
        ),
        ("--calibration_sentences text.de --method none --schedule full", "and this is --method none"),
    ],
)
def test_calibration_sentences_that_are_of_no_use_are_refused_before_anything_is_loaded(
    more, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name, text in (("empty", ""), ("blank", " \n\u200b\n"), ("text", "ein Hund\n")):
        (tmp_path / f"{name}.de").write_text(text, encoding="utf-8")
    refused(message, "--output_dir", "run", "--use_cpu", *PRETRAINED.split(), *more.split())
    assert not (tmp_path / "run").exists()


def test_what_is_wrong_with_a_card_is_found_before_the_corpus_is_read(tmp_path):
    refused("license is missing", "--output_dir", tmp_path / "run", "--push_to_hub", "--train_prefix", "nowhere")
    assert not (tmp_path / "run").exists()


def test_a_corpus_without_a_part_to_score_is_refused(corpus, tmp_path):
    arguments = f"--output_dir {tmp_path} {SIZES} {TRAINING} --train_prefix {corpus / 'train'}".split()
    refused("the corpus has the parts train; training needs train, and the report", *arguments)


def test_a_checkpoint_of_another_partition_is_refused(trained, corpus, tmp_path):
    more = f"--max_steps 8 --resume_from_checkpoint {trained.output_dir / 'checkpoint-6'} --ratios 0.5"
    message = r"checkpoint-6 holds .*ratios=\[0.25\].*but the model to resume is .*0.5"
    refused(message, *training_arguments(corpus, tmp_path, more))


@pytest.mark.parametrize(
    ("path", "message"),
    [(path, f"--output_dir {path} cannot be written to") for path in ("file", "file/run", "/proc/run")]
    + [("x" * 300, "File name too long"), ("", "--output_dir '' names no directory; give one")],
)
def test_an_output_directory_that_cannot_be_written_to_is_refused(path, message, corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    refused(message, *training_arguments(corpus, tmp_path), f"--output_dir={path}")
    assert (tmp_path / "file").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_what_the_report_will_decode_with_is_tried_before(corpus, tmp_path, monkeypatch):
    def generate(model, max_time, num_beams, **options):
        assert max_time < 5, "it must not take long"
        raise ValueError(f"{num_beams} beams are {options['max_length']} too many")

    monkeypatch.setattr(MarianMTModel, "generate", generate)
    refused("3 beams are 24 too many", *training_arguments(corpus, tmp_path, "--generation_num_beams 3"))


def test_a_directory_where_the_report_writes_a_file_is_found(corpus, tmp_path):
    (tmp_path / "translations.core.txt").mkdir()
    refused(r"translations\.core\.txt cannot be written; give a file", *training_arguments(corpus, tmp_path))


@pytest.mark.parametrize(("more", "name"), [("", "core"), ("--method none --schedule full", "full")])
def test_what_no_export_wrote_is_kept(more, name, corpus, tmp_path):
    (tmp_path / name).mkdir()
    (tmp_path / name / "notes.txt").write_text("mine")
    refused(r"notes\.txt, and was not written by an export", *training_arguments(corpus, tmp_path, more))
    assert [path.name for path in (tmp_path / name).iterdir()] == ["notes.txt"]


def test_a_long_test_sentence_is_found(bart, corpus, tmp_path):
    for file in corpus.iterdir():
        shutil.copy(file, tmp_path)
    for language, word in (("de", "drei"), ("en", "three")):
        with (tmp_path / f"test.{language}").open("a", encoding="utf-8") as file:
            file.write(" ".join([word] * 50) + "\n")
    arguments = f"--output_dir {tmp_path / 'run'} --model_name_or_path {bart} {TRAINING}".split()
    files = [f"--train_prefix={corpus / 'train'}", f"--test_prefix={tmp_path / 'test'}"]
    refused(r"Sentence pair 13 of the test part: .*=40\. .*--long_sentences", *arguments, *files)


# ---- From an adapter ----


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_model_name_or_path": None}, "names no base model; give the one .* by --model_name_or_path"),
        ({"use_dora": True}, "has use_dora=True, and only a plain LoRA"),
        ({"peft_type": "NEWMETHOD"}, "cannot be read by this version of PEFT"),
    ],
)
def test_an_adapter_that_cannot_be_begun_from_is_refused(change, message, adapted, tmp_path):
    adapter = shutil.copytree(adapted[0] / "adapter", tmp_path / "adapter")
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    arguments = f"--output_dir {tmp_path / 'run'} --use_cpu --adapter_name_or_path {adapter}".split()
    if "base_model_name_or_path" not in change:
        arguments += ["--model_name_or_path", adapted[0] / "base"]
    refused(message, *arguments)
    assert not (tmp_path / "run").exists(), "nothing was begun"


@pytest.mark.parametrize("adapter", [[], ["--adapter_name_or_path", "adapter"]])
def test_a_quantised_base_is_refused_whatever_is_installed(adapter, adapted, corpus, tmp_path, monkeypatch):
    shutil.copytree(adapted[0], tmp_path, dirs_exist_ok=True)
    path = tmp_path / "base/config.json"
    quantised = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    path.write_text(json.dumps(json.loads(path.read_text()) | quantised))
    monkeypatch.chdir(tmp_path)
    files = [f"--{part}_prefix={corpus / part}" for part in ("train", "test")]
    arguments = ["--output_dir", "run", "--use_cpu", "--model_name_or_path", "base", *files, *adapter]
    refused("--model_name_or_path base is quantised, .* give the model in full precision", *arguments)


# ---- Contradictions among the flags and values without a meaning, which argparse reports ----

ADAPTER = "--adapter_name_or_path some/adapter"
PRETRAINED = "--model_name_or_path some/model"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--width 0", "--width 0 is not a size; write 1 or more, or leave it out"),
        ("--heads -1", "--heads -1 is not a size"),
        ("--dropout nan", "--dropout nan is not a share; write 0 or more, and less than 1"),
        ("--per_device_eval_batch_size 0", "per_device_eval_batch_size=0 is not a count; write 1 or more"),
        ("--lr_scheduler_kwargs nojson", "lr_scheduler_kwargs='nojson' is not a JSON object; write one such as"),
        ('--accelerator_config {"number":1}', "unexpected keyword argument 'number'"),
        (f"{ADAPTER} --ratios 0.03125", "--ratios 0.03125, but --adapter_name_or_path some/adapter brings its own"),
        (f"{ADAPTER} --method rank", "--method rank, but --adapter_name_or_path"),
        (f"{ADAPTER} --target_modules fc1 fc2", "--target_modules fc1 fc2, but"),
        (f"{ADAPTER} --recipe mine.yaml", "--ratios 0.03125, but"),
        (f"{ADAPTER} --layers 3", "--layers 3, but --adapter_name_or_path some/adapter brings its own"),
        (f"{ADAPTER} --recipe multi30k-small", "--architecture tiny, but"),
        (f"{PRETRAINED} --architecture tiny", "--architecture tiny, but --model_name_or_path some/model brings"),
        (
            "--calibration_sentences text.de",
            "one from scratch has learned nothing; give --model_name_or_path, or leave",
        ),
        (f"{ADAPTER} --calibration_sentences text.de", "--calibration_sentences text.de, but --adapter_name_or_path"),
        (f"{PRETRAINED} --vocab_size 99", "--vocab_size 99, but --model_name_or_path"),
        (f"{PRETRAINED} --separate_vocabularies", "--separate_vocabularies True, but --model_name_or_path"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("ratios: [0.03125]\n")
    with pytest.raises(SystemExit, match="2"):
        begin("--output_dir", "run", *words.split())
    assert re.search(f"hf-ats train: error: .*{message}", capsys.readouterr().err)
