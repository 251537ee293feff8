"""`push_to_hub` of the trainers: the Hub gets the exports of a run, never the partitioned model itself."""

import datetime
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from accelerate.utils import broadcast_object_list
from huggingface_hub import CommitInfo, HfApi

from ..partition import is_translation_model
from ..results import RESULTS, read_results
from .account import check_access
from .push import push_run
from .space import SPACE


class PublishesRuns:
    """A mixin for a `Trainer` that publishes the finished run of `args.output_dir`."""

    _training_began: float | None = None

    def train(self, *positional, **keywords):
        """Train as the Trainer does."""
        self._training_began = time.time()
        return super().train(*positional, **keywords)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Check the token, the name and the rights of a later `push_to_hub`; nothing is created yet.

        Raises:
            ValueError: the Hub does not take the name, or the model does not translate.
            PushError: the token or its rights are in the way.
        """
        _refuse_unpublishable(self.model)
        name = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
        self.hub_model_id = _on_main_process(self, lambda: check_access(name, token or self.args.hub_token))
        self.push_in_progress = None

    def _push_from_checkpoint(self, checkpoint_folder):
        """Push nothing: a checkpoint holds the partitioned model, which nobody could load from the Hub (law 9)."""

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **options,
    ) -> CommitInfo | Future[CommitInfo] | None:
        """Publish the run in repositories of its own, `NAME-core` and `NAME-full`, by `hf_ats.hub.push_run`.

        NAME is `hub_model_id`, by default the name of `output_dir`. The run needs its report, which the training
        script writes, and `hf_ats.run.report_trained` for a trainer of your own. Every process calls this; the main
        one does the work.

        Args:
            commit_message: first line of the commits.
            blocking: wait until all is there. Otherwise it goes on in the background.
            token: replaces `hub_token`.
            revision: replaces `hub_revision`.
            private: replaces `hub_private_repo`.
            options: further arguments of `push_run`: `levels`, `space`, `overwrite`, `create_pr`,
                `commit_description`, and the facts for the card.

        Returns:
            The `CommitInfo` of the full network's repository (of the last level, if full is not among them). With
            `blocking=False`, on the main process, a `Future` of it, and None on the others.

        Raises:
            ValueError: the trainer has not trained, its run has no report, the model does not translate, or a fact is
                missing.
            PushError: the Hub or the token is in the way.
        """
        _refuse_unpublishable(self.model)
        if self.hub_model_id is None:
            self.init_hf_repo(token)
        if hasattr(self.callback_handler, "on_push_begin"):  # an event of transformers 5
            self.callback_handler.on_push_begin(self.args, self.state, self.control)

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
            return (pushed.get("full") or [one for level, one in pushed.items() if level != SPACE][-1]).commit

        _on_main_process(self, lambda: _refuse_unreported(self))
        if blocking:
            # Older versions of the client cannot send a CommitInfo from one process to another.
            return CommitInfo(**_on_main_process(self, lambda: _fields(push())))
        return HfApi().run_as_future(push) if self.is_world_process_zero() else None


def _on_main_process(trainer, action: Callable):
    """Return on every process what `action()` returns on the main one; its error reaches the others with its words."""
    value, message, error = None, None, None
    if trainer.is_world_process_zero():
        try:
            value = action()
        except Exception as caught:
            error, message = caught, str(caught)
    if trainer.args.world_size > 1:
        value, message, is_value_error = broadcast_object_list([value, message, isinstance(error, ValueError)])
        if error is None and message is not None:
            raise (ValueError if is_value_error else OSError)(message)
    if error is not None:
        raise error
    return value


def _fields(commit: CommitInfo) -> dict:
    """Return what a `CommitInfo` is made from."""
    names = ("commit_url", "commit_message", "commit_description", "oid", "pr_url")
    return {name: getattr(commit, name) for name in names}


def _refuse_unpublishable(model) -> None:
    """Raise ValueError for a model that does not translate, which has no card."""
    if not is_translation_model(model):
        raise ValueError(
            f"push_to_hub publishes translation models with their cards, and a {type(model).__name__} is not one; "
            "leave push_to_hub out, write export_full(model, directory) and export_core(model, directory), and "
            "upload each directory by huggingface_hub's upload_folder."
        )


def _refuse_unreported(trainer) -> None:
    """Raise ValueError if the output directory lacks the report of what this trainer has trained."""
    directory = Path(trainer.args.output_dir)
    if trainer._training_began is None or not trainer.state.global_step:
        raise ValueError(
            "this trainer has not trained, so it has nothing to publish; call train() before, or publish the "
            f"finished run by hf_ats.hub.push_run({str(directory)!r}, NAME)."
        )
    path = directory / RESULTS
    if path.is_file():
        results = read_results(path)
        # The steps by themselves could be those of an earlier run with the same arguments.
        created = datetime.datetime.fromisoformat(results["created"]).timestamp()
        if results["training"]["steps"] == trainer.state.global_step and created >= int(trainer._training_began):
            return
    raise ValueError(
        f"{directory} has no report of this training to publish; call hf_ats.run.report_trained(trainer, ...) first."
    )
