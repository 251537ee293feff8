"""`push_to_hub` of the trainers: what goes to the Hub are the exports of a run, never the partitioned model itself."""

import datetime
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

from accelerate.utils import broadcast_object_list
from transformers.trainer_utils import HubStrategy

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

_RESULTS = "results.json"
_FACTS = ("license", "license_name", "license_link", "datasets", "base_model", "languages")
_OPTIONS = ("levels", "overwrite", "create_pr", "commit_description", *_FACTS)
# What callers of `Trainer.push_to_hub` are used to write, in the words of `push_run`.
_ALSO = {"dataset_tags": "datasets", "finetuned_from": "base_model"}


class PublishesRuns:
    """The part of the trainers' mixin that publishes; it uses `whole_model` of the part that trains.

    The room of the Hub knows of runs and the room of runs of trainers, so both are imported where they are used.
    """

    _training_began: float | None = None

    def train(self, *positional, **keywords):
        """As the Trainer's."""
        self._training_began = time.time()
        return super().train(*positional, **keywords)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Checks the token, the name and the rights of a later `push_to_hub`; nothing is created yet.

        Raises:
            ValueError: an argument or the model is in the way.
            PushError: the token or its rights are.
        """
        from ..hub import check_access

        refuse_hub_strategy(self.args)
        refuse_unpublishable(self)
        name = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
        self.hub_model_id = on_main_process(self, lambda: check_access(name, token or self.args.hub_token))
        self.push_in_progress = None

    def _push_from_checkpoint(self, checkpoint_folder):
        """Nothing: `hub_strategy` is `"end"`."""

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs,
    ) -> "CommitInfo | Future[CommitInfo] | None":
        """Publishes the run in repositories of its own: `NAME-core`, `NAME-full`, by `hf_ats.hub.push_run`.

        NAME is `hub_model_id`, by default the name of `output_dir`. Where the run has no report of this training yet
        (`hf_ats.run.report_trained`, as the training script makes it), it is made first, scored on `eval_dataset`,
        whose text is taken back from its tokens. Every process calls this; the main one does the work.

        Args:
            commit_message: first line of the commits.
            blocking: wait until all is there. Otherwise the report is made at once, and the rest goes on in the
                background.
            token: replaces `hub_token`.
            revision: replaces `hub_revision`.
            private: replaces `hub_private_repo`.
            kwargs: `levels`, `overwrite`, `create_pr` and `commit_description` of `push_run`; facts for the card, in
                its words (`license`, `license_name`, `license_link`, `datasets`, `base_model`, `languages`) or in
                those of `Trainer.push_to_hub` (`dataset_tags`, `finetuned_from`, `tasks`, which must be
                `"translation"`). Where a report has to be made: `dataset`, what the data are called, and
                `language=["de", "en"]`, source and target, if the tokenizer does not name them.

        Returns:
            The `CommitInfo` of the full network's repository (of the last level, if full is not among them). With
            `blocking=False`, on the main process, a `Future` of it, and None on the others.

        Raises:
            ValueError: the trainer has not trained, is not for translation, a fact or a language is missing, or an
                argument is not one.
            PushError: the Hub or the token is in the way.
        """
        from huggingface_hub import CommitInfo, HfApi

        from ..hub import push_run

        refuse_unpublishable(self)
        language = _languages(kwargs.pop("language", None))
        data = kwargs.pop("dataset", None)
        options = _options(kwargs)
        if self._training_began is None or not self.state.global_step:
            raise ValueError(
                "this trainer has not trained, so it has nothing to publish; call train() before, or publish the "
                f"finished run by hf_ats.hub.push_run({self.args.output_dir!r}, NAME)."
            )
        if self.hub_model_id is None:
            self.init_hf_repo(token)
        if hasattr(self.callback_handler, "on_push_begin"):  # an event of transformers 5
            self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if not on_main_process(self, lambda: _has_report(self)):
            model = self.whole_model()
            facts = {name: options[name] for name in _FACTS if name in options}
            on_main_process(self, lambda: _report(self, model, language, data, facts))

        def push():
            pushed = push_run(
                self.args.output_dir,
                self.hub_model_id,
                token=token or self.args.hub_token,
                revision=revision or self.args.hub_revision,
                private=self.args.hub_private_repo if private is None else private,
                commit_message=commit_message,
                **options,
            )
            return (pushed.get("full") or list(pushed.values())[-1]).commit

        if blocking:
            # Older versions of the client cannot send a CommitInfo from one process to another.
            return CommitInfo(**on_main_process(self, lambda: _fields(push())))
        return HfApi().run_as_future(push) if self.is_world_process_zero() else None


def on_main_process(trainer, action: Callable):
    """What `action()` returns or raises on the main process, on every process.

    The other processes wait, and raise an error of the same kind with the same words.
    """
    value, kind, message = None, None, None
    error = None
    if trainer.is_world_process_zero():
        try:
            value = action()
        except Exception as caught:
            error, kind, message = caught, "ValueError" if isinstance(caught, ValueError) else "OSError", str(caught)
    if trainer.args.world_size > 1:
        value, kind, message = broadcast_object_list([value, kind, message])
    if error is not None:
        raise error
    if kind is not None:
        raise {"ValueError": ValueError, "OSError": OSError}[kind](message)
    return value


def refuse_hub_strategy(args) -> None:
    """Intermediate checkpoints are partitioned models, which nobody could load from the Hub.

    Raises:
        ValueError: `hub_strategy` would publish them.
    """
    if args.push_to_hub and HubStrategy(args.hub_strategy) != HubStrategy.END:
        raise ValueError(
            f"hub_strategy={HubStrategy(args.hub_strategy).value!r} publishes checkpoints during training, which hold "
            "the partitioned model and neither of its networks; write hub_strategy='end', under which push_to_hub() "
            "publishes both when training is over."
        )


def refuse_unpublishable(trainer) -> None:
    """Cards and `push_run` are for translation.

    Raises:
        ValueError: the trainer's model translates nothing.
    """
    from ..partition import is_translation_model

    if not is_translation_model(trainer.model):
        raise ValueError(
            f"push_to_hub publishes translation models with their cards, and a {type(trainer.model).__name__} is "
            "none; leave push_to_hub out, write export_full(model, directory) and export_core(model, directory), and "
            "upload each directory by huggingface_hub's upload_folder."
        )


def _fields(commit: "CommitInfo") -> dict:
    """What a `CommitInfo` is made from."""
    names = ("commit_url", "commit_message", "commit_description", "oid", "pr_url")
    return {name: getattr(commit, name) for name in names}


def _options(given: dict) -> dict:
    """The arguments of `push_run` among those of `Trainer.push_to_hub`."""
    tasks = given.pop("tasks", "translation")
    if tasks not in ("translation", ["translation"]):
        raise ValueError(f"tasks={tasks!r}: what is published translates; leave it out, or write 'translation'.")
    for name, fact in _ALSO.items():
        value = given.pop(name, None)
        if value is not None:
            given.setdefault(fact, [value] if name == "dataset_tags" and isinstance(value, str) else value)
    unknown = sorted(set(given) - set(_OPTIONS))
    if unknown:
        raise ValueError(
            f"push_to_hub takes no {', '.join(unknown)}: its cards are rendered from {_RESULTS}. Beside its named "
            f"arguments it takes {', '.join(['language', 'dataset', 'tasks', *_ALSO, *_OPTIONS])}."
        )
    return given


def _languages(given) -> tuple[str, str] | None:
    if given is None:
        return None
    if isinstance(given, str) or len(given) != 2:
        raise ValueError(f"language={given!r} must be source and target; write for example language=['de', 'en'].")
    return tuple(given)


def _has_report(trainer) -> bool:
    """Whether the output directory has the results of this training."""
    from ..results import read_results

    path = Path(trainer.args.output_dir) / _RESULTS
    if not path.is_file():
        return False
    results = read_results(path)
    # The steps alone could be those of an earlier run with the same arguments.
    created = datetime.datetime.fromisoformat(results["created"]).timestamp()
    return results["training"]["steps"] == trainer.state.global_step and created >= int(trainer._training_began)


def _report(trainer, model, language: tuple[str, str] | None, data: str | None, facts: dict) -> None:
    """The report of the training script, on the validation data that the trainer has."""
    from ..results.facts import check_facts
    from ..run import report_trained

    tokenizer, dataset = trainer.processing_class, trainer.eval_dataset
    named = (
        getattr(tokenizer, "source_lang", None) or getattr(tokenizer, "src_lang", None),
        getattr(tokenizer, "target_lang", None) or getattr(tokenizer, "tgt_lang", None),
    )
    source_lang, target_lang = language or named
    lacks = None
    if tokenizer is None:
        lacks = "the trainer has no processing_class to make one with; call hf_ats.run.report_trained before"
    elif dataset is None or isinstance(dataset, dict):
        number = "no eval_dataset" if dataset is None else "several eval_datasets"
        lacks = f"the trainer has {number} to make one on; call hf_ats.run.report_trained(trainer, ...) before"
    elif not (source_lang and target_lang):
        lacks = (
            f"a {type(tokenizer).__name__} does not say what it translates; write push_to_hub(language=['de', 'en']), "
            "source and target"
        )
    elif data is None:
        lacks = "nothing says what data this is; write push_to_hub(dataset='Multi30k'), a name for people to read"
    if lacks:
        raise ValueError(f"there is no report of this training to publish, and {lacks}.")
    report_trained(
        trainer,
        model,
        sources=_texts(tokenizer, dataset, "input_ids", is_source=True),
        references=_texts(tokenizer, dataset, "labels"),
        source_lang=source_lang,
        target_lang=target_lang,
        part="validation",
        truncate=True,
        data_facts={
            "name": data,
            **({"train": len(trainer.train_dataset)} if hasattr(trainer.train_dataset, "__len__") else {}),
        },
        card=check_facts(facts, "push_to_hub"),
    )


def _texts(tokenizer, dataset, column: str, is_source: bool = False) -> list[str]:
    """The text that the ids of a column were made from, but for what the tokenizer has no piece for."""
    # Marian's tokenizer has a model of each language, and takes the target's unless it is told.
    side = {"use_source_tokenizer": True} if is_source and hasattr(tokenizer, "spm_source") else {}
    rows = ([token for token in row[column] if token >= 0] for row in dataset)  # labels may be padded with -100
    return [tokenizer.decode(row, skip_special_tokens=True, **side) for row in rows]
