"""`push_to_hub` of the trainers: the exports go to the Hub, and the partitioned model never does."""

import copy
import json
from concurrent.futures import Future

import pytest
from transformers.trainer_utils import HubStrategy

from hf_ats.hub import PushError
from hf_ats.results import read_results
from hf_ats.trainers import ATSSeq2SeqTrainer, ATSTrainer
from hf_ats.training import ATSTrainingArguments
from tests.support.checkpoints import trained_tokenizer
from tests.support.distributed import launch
from tests.support.hub import LoopbackHub
from tests.support.models import partitioned, pictures, tiny_model, tiny_resnet
from tests.support.pushes import report, trainer_of
from tests.support.training import arguments, plain_arguments

BOTH = {"ann/pair-core", "ann/pair-full"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return trained_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("run") / "pair"


@pytest.fixture(scope="module")
def reported(tokenizer, directory):
    """A trainer that has trained and whose run has its report."""
    trainer = trainer_of(tokenizer, directory)
    trainer.train()
    report(trainer)
    return trainer


@pytest.fixture
def trained(reported, monkeypatch):
    """The same, with arguments that a test may change."""
    monkeypatch.setattr(reported, "args", copy.copy(reported.args))
    monkeypatch.setattr(reported, "hub_model_id", None)
    return reported


def weights_on_hub(hub):
    return {
        repo_id: repository.files()["model.safetensors"]
        for repo_id, repository in hub.repositories.items()
        if "model.safetensors" in repository.files()
    }


# ---- What goes ----


def test_the_report_that_is_there_is_pushed(trained, hub, directory):
    commit = trained.push_to_hub()
    assert set(hub.repositories) == BOTH
    assert commit.oid == hub.repositories["ann/pair-full"].refs["main"]
    assert commit.commit_message == "End of training"
    published = json.loads(hub.repositories["ann/pair-core"].files()["results.json"])
    assert published["run_id"] == read_results(directory / "results.json")["run_id"]
    for level in ("core", "full"):
        assert weights_on_hub(hub)[f"ann/pair-{level}"] == (directory / level / "model.safetensors").read_bytes()


def test_the_arguments_name_where_it_goes(trained, hub):
    fields = dict(hub_model_id="lab/named", hub_private_repo=True, hub_revision="v1", hub_token="writer")
    for name, value in fields.items():
        setattr(trained.args, name, value)
    trained.push_to_hub("Message", create_pr=False, levels=["core"], commit_description="More")
    assert list(hub.repositories) == ["lab/named-core"]
    repository = hub.repositories["lab/named-core"]
    assert repository.private
    assert [commit.title for commit in repository.log("v1")] == ["Message", "initial commit"]
    assert set(repository.files("main")) == {".gitattributes"}


def test_arguments_of_the_call_come_first(trained, hub):
    for name, value in dict(hub_private_repo=True, hub_revision="v1", hub_token="nobody").items():
        setattr(trained.args, name, value)
    trained.push_to_hub(token="stranger", revision="v2", private=False)
    assert not hub.repositories["bob/pair-core"].private
    assert sorted(hub.repositories["bob/pair-core"].refs) == ["main", "v2"]


@pytest.mark.law(number=9)
def test_the_partitioned_model_is_never_published(tokenizer, hub, tmp_path):
    trainer = trainer_of(tokenizer, tmp_path / "pair", push_to_hub=True, save_strategy="steps", save_steps=1)
    assert hub.repositories == {}  # nothing is made before there is something to put in it
    trainer.args.hub_strategy = HubStrategy.EVERY_SAVE  # too late to be refused
    hub.requests.clear()
    trainer.train()
    assert (tmp_path / "pair/checkpoint-1").is_dir()
    assert hub.requests == []  # no checkpoint goes to the Hub during training
    report(trainer)
    trainer.save_model()  # which publishes, as the Trainer's does
    saved = (tmp_path / "pair/model.safetensors").read_bytes()
    assert weights_on_hub(hub).keys() == BOTH
    assert saved not in weights_on_hub(hub).values()
    assert hub.repositories["ann/pair-core"].log()[0].title == "Model save"


def test_it_goes_on_in_the_background_and_an_error_there_is_told(trained, hub):
    hub.fail("POST", "/commit/", 403)
    with pytest.raises(PushError, match="status 403"):
        trained.push_to_hub(blocking=False).result(timeout=60)
    future = trained.push_to_hub(blocking=False)
    assert isinstance(future, Future)
    assert future.result(timeout=60).oid == hub.repositories["ann/pair-full"].refs["main"]


def test_a_network_that_was_never_partitioned_has_one_repository(tokenizer, hub, tmp_path):
    trainer = trainer_of(tokenizer, tmp_path / "pair", model=tiny_model("marian"), schedule="full")
    trainer.train()
    with pytest.raises(ValueError, match=r"has no report of this training.*report_trained\(trainer, \.\.\.\) first"):
        trainer.push_to_hub()
    report(trainer)
    trainer.push_to_hub()
    assert set(hub.repositories) == {"ann/pair-full"}


# ---- What is refused ----


def test_token_and_name_are_checked_when_the_trainer_is_made(tokenizer, hub, tmp_path):
    for fields, error, match in (
        (dict(hub_token="nobody"), PushError, "token is not valid"),
        (dict(hub_token="reader"), PushError, "for reading only"),
        (dict(hub_model_id="bob/pair"), PushError, "may not write to 'bob'"),
        (dict(hub_model_id="a b"), ValueError, "the Hub does not take"),
    ):
        with pytest.raises(error, match=match):
            trainer_of(tokenizer, tmp_path / "pair", push_to_hub=True, **fields)
    assert hub.repositories == {}


@pytest.mark.law(number=9)
@pytest.mark.law(number=10)
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
    match = "a ResNetForImageClassification is not one; leave push_to_hub out, write export_full"
    with pytest.raises(ValueError, match=match):
        trainer.push_to_hub()
    with pytest.raises(ValueError, match=match):
        ATSTrainer(tiny_resnet(), ATSTrainingArguments(str(tmp_path), schedule="full", push_to_hub=True, use_cpu=True))


def test_a_report_of_another_training(trained, hub, monkeypatch):
    began, steps = trained._training_began, trained.state.global_step
    for owner, name, value in ((trained, "_training_began", began + 3600), (trained.state, "global_step", steps + 2)):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, value)
            with pytest.raises(ValueError, match="has no report of this training"):
                trained.push_to_hub()
    assert hub.repositories == {}


def test_of_two_processes_one_pushes_and_both_know(tmp_path, monkeypatch):
    with LoopbackHub() as hub:
        for name, value in hub.environment(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        launch("-m", "tests.support.distributed.push_worker", str(tmp_path))
        first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1))
        assert first == second
        assert "may not write to 'bob'" in first["refused"]
        assert "has no report of this training" in first["lacking"]
        assert first["commit"] == hub.repositories["ann/pair-full"].refs["main"]
        assert [path for _, path in hub.requests].count("/api/models/ann/pair-core/commit/main") == 1
        assert set(hub.repositories) == BOTH
