"""Push a run: one repository for each level, all of them checked before the first is touched."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from huggingface_hub import CommitInfo, HfApi

from .account import full_name, repository_names, sign_in
from .contents import gather, run_id, with_card
from .errors import PushError
from .repository import Repository, check_card
from .space import CARD, SPACE, Files, space_files

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PushedRepository:
    """A repository that is complete on the Hub.

    Attributes:
        level: `"core"`, `"full"`, or a ladder's own name of a level; `"app"` for a Space.
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
        """The address of its page, or of the pull request's."""
        return self.commit.pr_url or self.commit.commit_url.split("/commit/")[0]


def push_run(
    run_directory: str | os.PathLike,
    name: str,
    *,
    organization: str | None = None,
    levels: Sequence[str] | None = None,
    space: bool = False,
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
    """Publish the models of a run of translation training: `NAME-core`, `NAME-full`, and a ladder's other levels.

    Each repository is exactly what the level's export lists, its card, `results.json`, and `training.png` and
    `report.html` if the run has them. Everything is checked first, here and on the Hub; then all large files are
    sent, which nobody sees yet; then each repository gets one commit. So a repository is complete or untouched
    whenever a push ends, and the same call completes one that was interrupted. A busy Hub, errors of its own and lost
    connections lead to another attempt.

    A repository that holds this run already is brought up to date; one that holds anything else is refused.

    Args:
        run_directory: `--output_dir` of a training run, with `results.json` and the exports.
        name: `"NAME"`, for repositories of the token's user, or `"ORGANIZATION/NAME"`.
        organization: the namespace, for a `name` without one.
        levels: which levels; by default those of core and full that the run has.
        space: also publish `NAME-app`, a Space with the page of `hf-ats app`, which translates with these levels. It
            needs Gradio here (`pip install "hf_ats[app]"`), and pins the versions that are installed.
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
        languages: codes of source and target, if the run has other names for them.

    Returns:
        By level, a `PushedRepository`; that of the Space as `"app"`.

    Raises:
        ValueError: the run is not complete, the name is not valid, or the card lacks a fact; nothing was sent.
        PushError: the Hub or the token is in the way; the message says what is on the Hub now.

    Example:

    ```python
    >>> pushed = push_run("runs/iwslt14", "my-organization/iwslt14-de-en", license="mit", private=True)
    >>> pushed["core"].repo_id
    'my-organization/iwslt14-de-en-core'
    ```
    """
    facts = {
        "license": license,
        "license_name": license_name,
        "license_link": license_link,
        "datasets": datasets and list(datasets),
        "base_model": base_model,
        "languages": languages and list(languages),
    }
    name, revision = full_name(name, organization), revision or "main"
    results, parts = gather(run_directory, name, levels, space, facts)
    run = run_id(results)

    account = sign_in(token)
    name = name if "/" in name else f"{account.user}/{name}"
    names = repository_names(name, [*results["levels"], SPACE])
    linked = _linked(account.api, {level: names[level] for level in results["levels"]}, parts, run, revision)
    repositories = {}
    for level, part in parts.items():
        files = with_card(part, run_directory, results, level, linked)
        check_card(account.api, files[CARD])
        message = commit_message or f"Add the {level} network of run {run[:8]}"
        repository = Repository(
            account.api, names[level], revision, files, create_pr, message, commit_description or ""
        )
        repositories[level] = repository.look()
    if space:
        files = space_files(results, {level: names[level] for level in parts}, names[SPACE], revision)
        check_card(account.api, files[CARD], "space")
        message = commit_message or f"Add the page of run {run[:8]}"
        repository = Repository(
            account.api, names[SPACE], revision, files, create_pr, message, commit_description or "", "space"
        )
        repositories[SPACE] = repository.look()
    if not (create_pr and all(repository.exists for repository in repositories.values())):
        account.check_namespace(name.split("/")[0])
    for repository in repositories.values():
        _refuse_unwanted(repository, run, private, overwrite)

    done: dict[str, PushedRepository] = {}
    try:
        _send(repositories, done, run, private, overwrite)
    except PushError as error:
        complete = [pushed.repo_id for pushed in done.values()]
        rest = [repository.repo_id for level, repository in repositories.items() if level not in done]
        outcome = PushError(
            f"{error} Complete on the Hub: {', '.join(complete) or 'none'}. Not changed, at most created: "
            f"{', '.join(rest)}. After that the same push completes them.",
            error.status,
        )
        outcome.complete = done
        raise outcome from error
    return done


def _linked(api: HfApi, names: dict[str, str], parts: dict[str, Files], run: str, revision: str) -> dict[str, str]:
    """Return the repositories that the cards may link: those of this push, and others that hold this run already."""
    # A pull request of this repository says nothing of another's.
    revision = "main" if revision.startswith("refs/") else revision

    def holds_run(repo_id: str) -> bool:
        try:
            return Repository(api, repo_id, revision).look().run == run
        except PushError:  # moved or closed to this token: a card can do without it
            return False

    return {level: repo_id for level, repo_id in names.items() if level in parts or holds_run(repo_id)}


def _refuse_unwanted(repository: Repository, run: str, private: bool | None, overwrite: bool) -> None:
    """Raise PushError for what would surprise the repository's owner, or somebody else."""
    repo_id = repository.repo_id
    if not repository.exists:
        if repository.create_pr:
            raise PushError(
                f"create_pr=True asks to change {repo_id}, and there is no such repository, or not for this token; "
                "leave create_pr out to make it, or check the name."
            )
        return
    if private is not None and private != repository.private:
        raise PushError(
            f"{repo_id} is there and {'private' if repository.private else 'public'}, and private={private} asks for "
            "the opposite; change that in its settings on the Hub first, or leave private out."
        )
    is_free = repository.is_empty or repository.run == run or not repository.has_revision
    if not (is_free or overwrite or repository.create_pr):
        files = sorted(repository.there)
        raise PushError(
            f"{repo_id} holds something else than this run ({', '.join(files[:4])}{', ...' if files[4:] else ''}), "
            "which is not replaced unasked; choose another name, give a new branch as revision, ask for the change by "
            "create_pr=True, or pass overwrite=True (--overwrite)."
        )


def _send(
    repositories: dict[str, Repository],
    done: dict[str, PushedRepository],
    run: str,
    private: bool | None,
    overwrite: bool,
) -> None:
    """Make what is missing, upload all large files, then commit to one repository after the other."""
    waiting: dict[str, Repository] = {}
    for level, repository in repositories.items():
        commit = _find(repository)
        if commit is None:
            waiting[level] = repository
        else:
            logger.info("%s: everything is there already", repository.repo_id)
            done[level] = PushedRepository(level, repository.repo_id, commit, changed=False)
    for level, repository in waiting.items():
        if not repository.exists:
            repository.make(private)
            waiting[level] = repository.look()
            _refuse_unwanted(waiting[level], run, private, overwrite)  # somebody else may have made it in between
    for repository in waiting.values():
        size = sum(file.upload_info.size for file in repository.files.values())
        logger.info("%s: sending %d files, %.1f MB", repository.repo_id, len(repository.files), size / 1e6)
        repository.upload()
    for level, repository in waiting.items():
        try:
            made = _commit(repository)
        except PushError as error:
            if error.status != 412:
                raise
            # The repository has changed since it was looked at. What is there now may still be as wanted.
            repository = repository.with_unsent_files().look()
            _refuse_unwanted(repository, run, private, overwrite)
            repository.upload()
            made = _commit(repository)
        done[level] = PushedRepository(level, repository.repo_id, made, changed=True)
        logger.info("%s: complete, %s", repository.repo_id, done[level].url)


def _find(repository: Repository) -> CommitInfo | None:
    """Return the commit of an earlier push of the same files, also in a pull request."""
    if repository.is_complete:
        if not repository.create_pr and not repository.has_revision:
            repository.make_branch()  # at the commit that holds it
        return repository.commit_info(repository.head)
    return replace(repository, requests={}).find() if repository.create_pr else None


def _commit(repository: Repository) -> CommitInfo:
    """Commit; make a new branch right before, and drop it again if the commit fails."""
    if repository.has_revision or repository.create_pr:
        return repository.commit()
    repository.make_branch()
    try:
        return repository.commit()
    except PushError:
        repository.drop_branch()
        raise
