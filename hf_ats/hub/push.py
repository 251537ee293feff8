"""Push a run: one repository for each level, all of them checked before the first is touched."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from huggingface_hub import CommitInfo

from .account import check_namespace, full_name, repository_names, sign_in
from .contents import CARD, Contents, gather, given, run_id, with_card
from .errors import PushError
from .repositories import (
    State,
    Target,
    additions_of,
    check_card,
    commit,
    commit_info,
    drop_branch,
    find_commit,
    holds,
    look,
    make_branch,
    make_repository,
    upload,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PushedRepository:
    """A repository that is complete on the Hub.

    Attributes:
        level: `"core"`, `"full"`, or a ladder's own name of a level.
        repo_id: its id, as `from_pretrained` takes it.
        commit: the client's `CommitInfo` of the commit that holds it, with the pull request, if any, as `pr_url`.
        changed: whether this push made that commit; False if everything was there already.
    """

    level: str
    repo_id: str
    commit: CommitInfo
    changed: bool

    @property
    def url(self) -> str:
        """Its page, or that of the pull request."""
        return self.commit.pr_url or self.commit.commit_url.split("/commit/")[0]


def push_run(
    run_directory: str | os.PathLike,
    name: str,
    *,
    organization: str | None = None,
    levels: Sequence[str] | None = None,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    commit_description: str | None = None,
    create_pr: bool = False,
    overwrite: bool = False,
    license: str | None = None,
    license_name: str | None = None,
    license_link: str | None = None,
    datasets: Sequence[str] | None = None,
    base_model: str | None = None,
    languages: Sequence[str] | None = None,
) -> dict[str, PushedRepository]:
    """Publishes the models of a run of translation training: `NAME-core`, `NAME-full`, and a ladder's other levels.

    Each repository is exactly what the level's export lists, its card, `results.json`, and `training.png` and
    `report.html` where the run has them. Everything is checked first, here and on the Hub; then all large files are
    sent, which nobody sees yet; then each repository gets one commit. So a repository is complete or untouched
    whenever a push ends, and the same call completes one that was interrupted. A busy Hub, errors of its own and lost
    connections are met by trying again.

    A repository that holds this run already is brought up to date; one that holds anything else is refused.

    Args:
        run_directory: `--output_dir` of a training run, with `results.json` and the exports.
        name: `"NAME"`, for repositories of the token's user, or `"ORGANIZATION/NAME"`.
        organization: the namespace, for a `name` without one.
        levels: which levels; by default core and full as far as the run has them.
        private: whether new repositories are private; by default what the namespace has for new ones.
        token: a token that may write; by default `HF_TOKEN`, or that of `hf auth login`.
        revision: a branch, which is made if there is none, or a pull request that is there (`"refs/pr/1"`); by
            default `"main"`.
        commit_message: first line of the commits.
        commit_description: what follows it.
        create_pr: open a pull request in each repository instead of changing it; they must be there.
        overwrite: replace what a repository holds of another model. Its history stays.
        license: facts for the card, with the next five, that the run does not know; kept in its `results.json`.
        license_name: of a license that is `"other"`.
        license_link: of a license that is `"other"`.
        datasets: ids on the Hub of the data that it was trained on.
        base_model: id on the Hub of the model that it was trained from.
        languages: codes of source and target, where the run's own names for them are none.

    Returns:
        By level, a `PushedRepository`.

    Raises:
        ValueError: the run is not complete, the name is not one, or the card lacks a fact; nothing was sent.
        PushError: the Hub or the token is in the way; the message says what is on the Hub now.

    Example:

    ```python
    >>> pushed = push_run("runs/iwslt14", "my-organization/iwslt14-de-en", license="mit", private=True)
    >>> pushed["core"].repo_id
    'my-organization/iwslt14-de-en-core'
    ```
    """
    facts = given(
        license=license,
        license_name=license_name,
        license_link=license_link,
        datasets=datasets and list(datasets),
        base_model=base_model,
        languages=languages and list(languages),
    )
    name = full_name(name, organization)
    target = Target(revision or "main", create_pr, "", commit_description or "")
    results, parts = gather(run_directory, name, levels, facts)

    account = sign_in(token)
    if "/" not in name:
        name = f"{account.user}/{name}"
    names = repository_names(name, results["levels"])
    linked = _linked(account.api, names, parts, results, target.revision)
    pushes = [
        _Push(
            names[level],
            with_card(part, run_directory, linked),
            replace(target, message=commit_message or f"Add the {level} network of run {run_id(results)[:8]}"),
        )
        for level, part in parts.items()
    ]
    for push in pushes:
        check_card(account.api, push.contents.files[CARD].decode())
        push.state = look(account.api, push.repo_id, push.target.revision)
    if not (create_pr and all(push.state.exists for push in pushes)):
        check_namespace(account, name.split("/")[0])
    for push in pushes:
        _refuse_unwanted(push, run_id(results), private, overwrite)

    done: dict[str, PushedRepository] = {}
    try:
        _send(account.api, pushes, done, run_id(results), private, overwrite)
    except PushError as error:
        raise _with_outcome(error, pushes, done) from error
    return done


@dataclass
class _Push:
    """One repository of a push."""

    repo_id: str
    contents: Contents
    target: Target
    state: State = field(default_factory=State)


def _linked(api, names: dict[str, str], parts: dict[str, Contents], results: dict, revision: str) -> dict[str, str]:
    """The repositories that the cards may link: those of this push, and others that hold this run already."""
    # A pull request of this repository says nothing of another's.
    revision = "main" if revision.startswith("refs/") else revision

    def holds_run(repo_id: str) -> bool:
        try:
            return look(api, repo_id, revision).run == run_id(results)
        except PushError:  # moved or closed to this token: a card can do without it
            return False

    return {level: repo_id for level, repo_id in names.items() if level in parts or holds_run(repo_id)}


def _refuse_unwanted(push: _Push, run: str, private: bool | None, overwrite: bool) -> None:
    """Refuses what would surprise its owner, or somebody else."""
    state, repo_id = push.state, push.repo_id
    if not state.exists:
        if push.target.create_pr:
            raise PushError(
                f"create_pr=True asks to change {repo_id}, and there is no such repository, or not for this token; "
                "leave create_pr out to make it, or check the name."
            )
        return
    if private is not None and private != state.private:
        are, asked = ("private", "public") if state.private else ("public", "private")
        raise PushError(
            f"{repo_id} is there and {are}, and private={private} asks for {asked}; change that in its settings on "
            "the Hub first, or leave private out."
        )
    is_free = state.is_empty or state.run == run or not state.has_revision
    if not (is_free or overwrite or push.target.create_pr):
        files = sorted(state.files)
        raise PushError(
            f"{repo_id} holds something else than this run ({', '.join(files[:4])}{', ...' if files[4:] else ''}), "
            "which is not replaced unasked; choose another name, give a new branch as revision, ask for the change by "
            "create_pr=True, or pass overwrite=True (--overwrite)."
        )


def _send(api, pushes: list[_Push], done: dict[str, PushedRepository], run: str, private, overwrite: bool) -> None:
    waiting = []
    for push in pushes:
        there = _find(api, push)
        if there is None:
            waiting.append(push)
        else:
            logger.info("%s: everything is there already", push.repo_id)
            done[push.contents.level] = PushedRepository(push.contents.level, push.repo_id, there, changed=False)
    for push in waiting:
        if not push.state.exists:
            make_repository(api, push.repo_id, private)
            push.state = look(api, push.repo_id, push.target.revision)
            _refuse_unwanted(push, run, private, overwrite)  # somebody else may have made it in between
    additions = {}
    for push in waiting:
        files = push.contents.files
        logger.info("%s: sending %d files, %.1f MB", push.repo_id, len(files), push.contents.size / 1e6)
        additions[push.repo_id] = additions_of(push.contents)
        upload(api, push.repo_id, additions[push.repo_id], push.target)
    for push in waiting:
        made = _commit(api, push, additions[push.repo_id], run, private, overwrite)
        pushed = PushedRepository(push.contents.level, push.repo_id, made, changed=True)
        done[push.contents.level] = pushed
        logger.info("%s: complete, %s", push.repo_id, pushed.url)


def _find(api, push: _Push) -> CommitInfo | None:
    """The commit of an earlier push of the same contents, be it in a pull request."""
    if holds(push.state, push.contents):
        if not push.target.create_pr and not push.state.has_revision:
            make_branch(api, push.repo_id, push.target.revision)  # at the commit that holds it
        return commit_info(api, push.repo_id, push.state.head, push.target)
    return find_commit(api, push.repo_id, State(), push.contents, push.target) if push.target.create_pr else None


def _commit(api, push: _Push, additions: list, run: str, private, overwrite: bool) -> CommitInfo:
    """The commit, with its branch made right before it, and dropped again if nothing comes of it."""
    start, branch = push.state.head, push.target.revision
    if push.state.has_revision or push.target.create_pr:
        return _commit_to(api, push, additions, run, private, overwrite)
    make_branch(api, push.repo_id, branch)
    try:
        return _commit_to(api, push, additions, run, private, overwrite)
    except PushError:
        drop_branch(api, push.repo_id, branch, start)
        raise


def _commit_to(api, push: _Push, additions: list, run: str, private, overwrite: bool) -> CommitInfo:
    try:
        return commit(api, push.repo_id, push.state, push.contents, additions, push.target)
    except PushError as error:
        if error.status != 412:
            raise
        # The repository is not as it was looked at. What is there now may still be no obstacle.
        push.state = look(api, push.repo_id, push.target.revision)
        _refuse_unwanted(push, run, private, overwrite)
        return commit(api, push.repo_id, push.state, push.contents, additions, push.target)


def _with_outcome(error: PushError, pushes: list[_Push], done: dict[str, PushedRepository]) -> PushError:
    """The same error, telling also what the push has come to."""
    complete = [push.repo_id for push in pushes if push.contents.level in done]
    rest = [push.repo_id for push in pushes if push.contents.level not in done]
    told = f"{error} Complete on the Hub: {', '.join(complete) or 'none'}. "
    told += f"Not changed, at most created: {', '.join(rest)}. "
    full = PushError(told + "After that the same push completes them.", error.status)
    full.complete = done
    return full
