"""One repository on the Hub: what it holds, and one commit that makes it hold what a level needs."""

import contextlib
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    get_session,
    hf_hub_url,
)
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from .contents import RESULTS, Contents, run_id
from .errors import PushError, retrying, status_of

_KEPT = {".gitattributes"}  # the Hub's own, which says what goes over LFS


@dataclass(frozen=True)
class Target:
    """Where a push goes in a repository.

    Attributes:
        revision: the branch, or the pull request that is already there (`refs/pr/1`).
        create_pr: whether to ask for the change of that branch by a new pull request.
        message: the first line of the commit.
        description: what follows it.
    """

    revision: str = "main"
    create_pr: bool = False
    message: str = ""
    description: str = ""


@dataclass(frozen=True)
class State:
    """What is there.

    Attributes:
        exists: whether there is such a repository; if not, all that follows is empty.
        private: whether only some can see it.
        head: the commit that the revision is at, or would start from.
        has_revision: whether the revision is there.
        files: SHA-256 of what lies in LFS, the object id in git of everything else, each with its size, by path.
        run: the id of the run that it holds.
        requests: the pull requests, and the commits that they are at.
    """

    exists: bool = False
    private: bool = False
    head: str | None = None
    has_revision: bool = False
    files: dict[str, tuple[str, int]] | None = None
    run: str | None = None
    requests: dict[str, str] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing that anybody put there."""
        return not set(self.files or {}) - _KEPT


def look(api: HfApi, repo_id: str, revision: str) -> State:
    """What a repository holds at a revision.

    Raises:
        PushError: the Hub does not say, or nothing can be pushed to that revision.
    """
    what = f"looking at {repo_id}"

    def info():
        try:
            return api.model_info(repo_id)
        except GatedRepoError:  # a kind of the next, and yet there
            raise
        except RepositoryNotFoundError:
            return None

    known = retrying(info, what)
    if known is None:
        return State()
    if known.id != repo_id:
        raise PushError(f"{repo_id} has moved to {known.id} on the Hub; push under that name.")
    refs = retrying(lambda: api.list_repo_refs(repo_id, include_pull_requests=True), what)
    branches = {ref.name: ref.target_commit for ref in refs.branches}
    requests = {ref.ref: ref.target_commit for ref in refs.pull_requests or []}
    heads = branches | requests
    if revision not in heads:
        _refuse_revision(repo_id, revision, [ref.name for ref in refs.tags])
    start = branches.get("main")
    head = heads.get(revision, start)
    listed = retrying(lambda: list(api.list_repo_tree(repo_id, recursive=True, revision=head)), what) if head else []
    files = {
        file.path: (file.lfs.sha256 if file.lfs else file.blob_id, file.size)
        for file in listed
        if isinstance(file, RepoFile)
    }
    return State(
        exists=True,
        private=bool(known.private),
        head=head,
        has_revision=revision in heads,
        files=files,
        run=retrying(lambda: _run_there(api, repo_id, head), what) if RESULTS in files else None,
        requests=requests,
    )


def _refuse_revision(repo_id: str, revision: str, tags: list[str]) -> None:
    if revision.startswith("refs/"):
        raise PushError(f"{repo_id} has no pull request {revision!r}; open one by create_pr=True instead.")
    if revision in tags or re.fullmatch(r"[0-9a-f]{40}", revision):
        raise PushError(
            f"revision={revision!r} is a tag or a commit of {repo_id}, and only a branch takes new commits; give the "
            "name of a branch."
        )


def _run_there(api: HfApi, repo_id: str, head: str) -> str | None:
    url = hf_hub_url(repo_id, RESULTS, revision=head, endpoint=api.endpoint)
    response = get_session().get(url, headers=build_hf_headers(token=api.token))
    hf_raise_for_status(response)
    try:
        return run_id(json.loads(response.content))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # somebody's own file of that name


def holds(state: State, contents: Contents) -> bool:
    """Whether a repository holds exactly what it should."""
    files = {name: there for name, there in (state.files or {}).items() if name not in _KEPT}
    # Sizes first: of large files a hash takes a while.
    return (
        files.keys() == contents.files.keys()
        and all(size == _size(contents.files[name]) for name, (_, size) in files.items())
        and all(oid == _oid(contents.files[name], oid) for name, (oid, _) in files.items())
    )


def _size(file: Path | bytes) -> int:
    return len(file) if isinstance(file, bytes) else file.stat().st_size


def _oid(file: Path | bytes, like: str) -> str:
    """A file's SHA-256, or its object id in git, whichever `like` is one of."""
    if len(like) == 40:
        content = file if isinstance(file, bytes) else file.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    if isinstance(file, bytes):
        return hashlib.sha256(file).hexdigest()
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_card(api: HfApi, card: str) -> None:
    """Whether the Hub takes a card's metadata, which the client would ask only after everything is uploaded.

    Raises:
        PushError: it does not.
    """

    def validate():
        asked = {"content": card, "repoType": "model"}
        headers = build_hf_headers(token=api.token)
        response = get_session().post(f"{api.endpoint}/api/validate-yaml", json=asked, headers=headers)
        errors = response.json().get("errors", []) if response.status_code == 400 else []
        if not errors:
            hf_raise_for_status(response)
        return [error["message"] for error in errors]

    refused = retrying(validate, "asking the Hub about the model card")
    if refused:
        raise PushError(
            f"The Hub does not take the metadata of the card: {' '.join(refused)}. Correct the run's facts."
        )


def make_repository(api: HfApi, repo_id: str, private: bool | None) -> None:
    """Creates a repository, still without content."""
    retrying(lambda: _create(api, repo_id, private), f"creating {repo_id}")


def make_branch(api: HfApi, repo_id: str, branch: str) -> None:
    """Creates a branch where `main` is."""
    retrying(lambda: api.create_branch(repo_id, branch=branch, exist_ok=True), f"creating {branch} of {repo_id}")


def drop_branch(api: HfApi, repo_id: str, branch: str, start: str | None) -> None:
    """Deletes a branch on which nothing has happened since it was made at `start`; best effort, after a failure."""
    with contextlib.suppress(PushError):
        if look(api, repo_id, branch).head == start:
            retrying(lambda: api.delete_branch(repo_id, branch=branch), f"deleting {branch} of {repo_id}", attempts=1)


def _create(api: HfApi, repo_id: str, private: bool | None) -> None:
    try:
        api.create_repo(repo_id, private=private)
    except HfHubHTTPError as error:
        # An earlier try may have been carried out; or the Hub is busy with it, and then it is not there yet.
        if status_of(error) != 409 or not api.repo_exists(repo_id):
            raise


def additions_of(contents: Contents) -> list[CommitOperationAdd]:
    """What the client uploads and commits."""
    return [CommitOperationAdd(name, file) for name, file in contents.files.items()]


def upload(api: HfApi, repo_id: str, additions: list[CommitOperationAdd], target: Target) -> None:
    """Sends the large files ahead; nobody sees them before a commit names them."""
    what = f"uploading the files of {repo_id}"
    # Large files belong to the whole repository, and the branch may not be there yet.
    where = {"revision": "main", "create_pr": target.create_pr}
    try:
        # Fewer than elsewhere: the client tries each file six times by itself.
        retrying(lambda: api.preupload_lfs_files(repo_id, additions, free_memory=False, **where), what, attempts=3)
    except RuntimeError as error:  # of the Hub's newer storage, which has a client of its own
        raise PushError(f"{what} failed: {error}. Check the network, and push again.") from error


def commit(
    api: HfApi,
    repo_id: str,
    state: State,
    contents: Contents,
    additions: list[CommitOperationAdd],
    target: Target,
) -> CommitInfo:
    """One commit on top of the state that was looked at, after which the repository holds `contents` and no more.

    Raises:
        PushError: with `status` 412 if the repository is in another state by now.
    """
    unwanted = sorted(set(state.files or {}) - set(contents.files) - _KEPT)
    failed = False

    def once() -> CommitInfo:
        nonlocal failed
        # Of a request that failed it is not known whether it was carried out: a commit made twice would be refused,
        # or become a second pull request.
        landed = find_commit(api, repo_id, state, contents, target) if failed else None
        if landed:
            return landed
        failed = True
        return api.create_commit(
            repo_id,
            [*additions, *map(CommitOperationDelete, unwanted)],
            commit_message=target.message,
            commit_description=target.description,
            revision=target.revision,
            create_pr=target.create_pr,
            parent_commit=state.head,
        )

    return retrying(once, f"committing to {repo_id}")


def find_commit(api: HfApi, repo_id: str, before: State, contents: Contents, target: Target) -> CommitInfo | None:
    """The commit that made a repository hold what it should, if it has been made."""
    if not target.create_pr:
        now = look(api, repo_id, target.revision)
        return commit_info(api, repo_id, now.head, target) if holds(now, contents) else None
    for request, head in (look(api, repo_id, target.revision).requests or {}).items():
        if request not in (before.requests or {}) and holds(look(api, repo_id, request), contents):
            return commit_info(api, repo_id, head, target, request)
    return None


def commit_info(api: HfApi, repo_id: str, oid: str, target: Target, request: str | None = None) -> CommitInfo:
    """What the client says of a commit that it made, for one that is there already."""
    page = f"{api.endpoint}/{repo_id}"
    return CommitInfo(
        commit_url=f"{page}/commit/{oid}",
        commit_message=target.message,
        commit_description=target.description,
        oid=oid,
        pr_url=f"{page}/discussions/{request.rsplit('/', 1)[1]}" if request else None,
    )
