"""`push_to_hub` of the trainers: the exports go to the Hub, and the partitioned model never does."""

import json
from concurrent.futures import Future

import pytest
from huggingface_hub import snapshot_download
from transformers import AutoModelForSeq2SeqLM
from transformers.trainer_utils import HubStrategy

from hf_ats.hub import PushError
from hf_ats.results import read_results
from hf_ats.training import ATSSeq2SeqTrainer, ATSTrainer, ATSTrainingArguments
from tests.support.checkpoints import ENGLISH, GERMAN, trained_tokenizer
from tests.support.distributed import launch
from tests.support.hub import LoopbackHub, connected_hub
from tests.support.models import partitioned, pictures, tiny_model, tiny_resnet
from tests.support.pushes import report, trainer_of
from tests.support.training import arguments, plain_arguments

BOTH = {"ann/pair-core", "ann/pair-full"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return trained_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with connected_hub(monkeypatch, tmp_path / "home") as hub:
        monkeypatch.setattr("hf_ats.hub.errors._sleep", hub.naps.append)
        yield hub


@pytest.fixture
def trained(tokenizer, tmp_path):
    trainer = trainer_of(tokenizer, tmp_path / "pair")
    trainer.train()
    return trainer


def weights_on_hub(hub):
    return {
        repo_id: repository.files()["model.safetensors"]
        for repo_id, repository in hub.repositories.items()
        if "model.safetensors" in repository.files()
    }


# ---- What goes ----


def test_the_report_that_is_there_is_pushed(trained, hub, tmp_path):
    results = report(trained)
    commit = trained.push_to_hub()
    assert set(hub.repositories) == BOTH
    assert commit.oid == hub.repositories["ann/pair-full"].refs["main"]
    assert commit.commit_message == "End of training"
    assert json.loads(hub.repositories["ann/pair-core"].files()["results.json"])["run_id"] == results["run_id"]
    for level in ("core", "full"):
        assert (
            weights_on_hub(hub)[f"ann/pair-{level}"] == (tmp_path / "pair" / level / "model.safetensors").read_bytes()
        )


def test_without_a_report_it_makes_one_on_the_validation_data(trained, hub, tmp_path):
    of_transformers = dict(dataset_tags="bentrevett/multi30k", dataset="Multi30k", tasks="translation")
    trained.push_to_hub(license="mit", finetuned_from="org/base", **of_transformers)
    results = read_results(tmp_path / "pair/results.json")
    data = dict(name="Multi30k", test_part="validation", source_lang="de", target_lang="en", train=4)
    assert results["data"].items() >= data.items()
    assert {sample["source"]: sample["reference"] for sample in results["samples"]} == dict(
        zip(GERMAN, ENGLISH, strict=True)
    )
    card = {"license": "mit", "datasets": ["bentrevett/multi30k"], "base_model": "org/base"}
    assert results["card"] == card
    assert set(hub.repositories) == BOTH
    AutoModelForSeq2SeqLM.from_pretrained(snapshot_download("ann/pair-full"))


def test_a_report_from_before_this_training_is_not_taken_for_its_own(trained, hub, tokenizer, tmp_path):
    report(trained)
    path = tmp_path / "pair/results.json"
    old = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(old | {"created": "2020-01-01T00:00:00+00:00"}), encoding="utf-8")
    trained.push_to_hub(license="mit", dataset="words")
    assert read_results(path)["created"] >= old["created"]
    published = json.loads(hub.repositories["ann/pair-core"].files()["results.json"])
    # What was reported is made again; of the same weights it is the same run.
    assert published["created"] >= old["created"] and published["run_id"] == old["run_id"]


def test_a_report_of_fewer_steps_is_made_again(trained, hub, tmp_path):
    old = report(trained)
    trained.args.max_steps = 4
    trained.train()
    trained.push_to_hub(license="mit", dataset="words")
    results = read_results(tmp_path / "pair/results.json")
    assert results["run_id"] != old["run_id"]
    assert results["training"]["steps"] == 4


def test_the_arguments_name_where_it_goes(tokenizer, hub, tmp_path):
    hub_fields = dict(hub_model_id="lab/named", hub_private_repo=True, hub_revision="v1", hub_token="writer")
    trainer = trainer_of(tokenizer, tmp_path / "pair", push_to_hub=True, **hub_fields)
    assert hub.repositories == {}  # nothing is made before there is something to put in it
    trainer.train()
    report(trainer)
    trainer.push_to_hub("Message", create_pr=False, levels=["core"], commit_description="More")
    assert list(hub.repositories) == ["lab/named-core"]
    repository = hub.repositories["lab/named-core"]
    assert repository.private
    assert [commit.title for commit in repository.log("v1")] == ["Message", "initial commit"]
    assert set(repository.files("main")) == {".gitattributes"}


def test_arguments_of_the_call_come_first(tokenizer, hub, tmp_path):
    trainer = trainer_of(tokenizer, tmp_path / "pair", hub_private_repo=True, hub_revision="v1", hub_token="nobody")
    trainer.train()
    report(trainer)
    trainer.push_to_hub(token="stranger", revision="v2", private=False)
    assert not hub.repositories["bob/pair-core"].private
    assert sorted(hub.repositories["bob/pair-core"].refs) == ["main", "v2"]


def test_saving_the_model_by_hand_publishes_the_pair(tokenizer, hub, tmp_path):
    trainer = trainer_of(tokenizer, tmp_path / "pair", push_to_hub=True)
    trainer.train()
    report(trainer)
    trainer.save_model()
    saved = (tmp_path / "pair/model.safetensors").read_bytes()  # the partitioned model
    assert weights_on_hub(hub).keys() == BOTH
    assert saved not in weights_on_hub(hub).values()
    assert hub.repositories["ann/pair-core"].log()[0].title == "Model save"


def test_no_checkpoint_goes_to_the_hub_during_training(tokenizer, hub, tmp_path):
    trainer = trainer_of(tokenizer, tmp_path / "pair", push_to_hub=True, save_strategy="steps", save_steps=1)
    trainer.args.hub_strategy = HubStrategy.EVERY_SAVE  # too late to be refused
    hub.requests.clear()
    trainer.train()
    assert (tmp_path / "pair/checkpoint-1").is_dir()
    assert hub.requests == []


def test_it_goes_on_in_the_background(trained, hub):
    report(trained)
    future = trained.push_to_hub(blocking=False)
    assert isinstance(future, Future)
    assert future.result(timeout=60).oid == hub.repositories["ann/pair-full"].refs["main"]


def test_an_error_in_the_background_is_told(trained, hub):
    report(trained)
    hub.fail("POST", "/commit/", 403)
    with pytest.raises(PushError, match="status 403"):
        trained.push_to_hub(blocking=False).result(timeout=60)


def test_a_network_that_was_never_partitioned_has_one_repository(tokenizer, hub, tmp_path):
    trainer = trainer_of(tokenizer, tmp_path / "pair", model=tiny_model("marian"), schedule="full")
    trainer.train()
    trainer.push_to_hub(license="mit", dataset="words")
    assert set(hub.repositories) == {"ann/pair-full"}


# ---- What is refused ----


def test_token_and_name_are_checked_when_the_trainer_is_made(tokenizer, hub, tmp_path):
    for fields, error, match in (
        (dict(hub_token="nobody"), PushError, "token is not valid"),
        (dict(hub_token="reader"), PushError, "for reading only"),
        (dict(hub_model_id="bob/pair"), PushError, "has no part in 'bob'"),
        (dict(hub_model_id="a b"), ValueError, "the Hub does not take"),
    ):
        with pytest.raises(error, match=match):
            trainer_of(tokenizer, tmp_path / "pair", push_to_hub=True, **fields)
    assert hub.repositories == {}


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "all_checkpoints"])
def test_strategies_that_publish_checkpoints(strategy, tokenizer, hub, tmp_path):
    with pytest.raises(ValueError, match=f"hub_strategy='{strategy}' publishes checkpoints.*write hub_strategy='end'"):
        arguments(tmp_path, push_to_hub=True, hub_strategy=strategy)
    args = arguments(tmp_path).set_push_to_hub("pair", strategy=strategy)
    with pytest.raises(ValueError, match=f"hub_strategy='{strategy}' publishes checkpoints"):
        ATSSeq2SeqTrainer(partitioned(), args)


def test_the_strategy_is_end_unless_another_is_asked_for(tmp_path):
    assert arguments(tmp_path, push_to_hub=True).hub_strategy == "end"
    assert plain_arguments(tmp_path).hub_strategy == "end"
    assert arguments(tmp_path, hub_strategy="checkpoint").hub_strategy == "checkpoint"  # without effect


def test_a_trainer_that_has_not_trained(tokenizer, hub, tmp_path):
    trainer = trainer_of(tokenizer, tmp_path / "pair")
    with pytest.raises(ValueError, match=r"has not trained.*call train\(\) before, or .*push_run\('.*pair', NAME\)"):
        trainer.push_to_hub()


def test_a_model_that_does_not_translate(hub, tmp_path):
    trainer = ATSTrainer(tiny_resnet(), plain_arguments(tmp_path, schedule="full"), train_dataset=pictures())
    match = "a ResNetForImageClassification is none; leave push_to_hub out, write export_full"
    with pytest.raises(ValueError, match=match):
        trainer.push_to_hub()
    with pytest.raises(ValueError, match=match):
        ATSTrainer(tiny_resnet(), ATSTrainingArguments(str(tmp_path), schedule="full", push_to_hub=True, use_cpu=True))


def test_nothing_to_make_a_report_with(tokenizer, hub, tmp_path):
    for fields, match in (
        (dict(eval_dataset=None), "no eval_dataset"),
        (dict(eval_dataset={"one": [], "two": []}), "several eval_datasets"),
        (dict(processing_class=None), "no processing_class"),
    ):
        trainer = trainer_of(tokenizer, tmp_path / "pair", **fields)
        trainer.train()
        with pytest.raises(ValueError, match=f"the trainer has {match}.*report_trained"):
            trainer.push_to_hub()
    assert hub.repositories == {}


def test_facts_that_nobody_names_are_asked_for_before_the_report_is_made(trained, hub, tmp_path):
    with pytest.raises(ValueError, match=r"nothing says what data this is; write push_to_hub\(dataset="):
        trained.push_to_hub(license="mit")
    with pytest.raises(ValueError, match="license is missing"):
        trained.push_to_hub(dataset="words")
    assert not (tmp_path / "pair/core").exists()


def test_languages_that_nobody_names(trained, hub, tmp_path):
    trained.processing_class.source_lang = None
    with pytest.raises(ValueError, match=r"does not say what it translates; write push_to_hub\(language="):
        trained.push_to_hub()
    trained.push_to_hub(language=["nl", "en"], license="mit", dataset="words")
    assert read_results(tmp_path / "pair/results.json")["data"]["source_lang"] == "nl"
    trained.processing_class.source_lang = "de"


def test_what_no_card_has_room_for(trained, hub):
    report(trained)
    for given, match in (
        (dict(tags=["a"], model_name="b"), "takes no model_name, tags: its cards are rendered from results.json"),
        (dict(tasks="summarization"), "tasks='summarization': what is published translates"),
        (dict(language="de"), "language='de' must be source and target"),
        (dict(license="Apache 2"), "license='Apache 2'"),
    ):
        with pytest.raises(ValueError, match=match):
            trained.push_to_hub(**given)
    assert hub.repositories == {}


def test_of_two_processes_one_pushes_and_both_know(tmp_path, monkeypatch):
    with LoopbackHub() as hub:
        for name, value in hub.environment(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        launch("-m", "tests.support.distributed.push_worker", str(tmp_path))
        first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1))
        assert first == second
        assert "has no part in 'bob'" in first["refused"]
        assert "license is missing" in first["lacking"]
        assert first["commit"] == hub.repositories["ann/pair-full"].refs["main"]
        assert [path for _, path in hub.requests].count("/api/models/ann/pair-core/commit/main") == 1
        assert set(hub.repositories) == BOTH
