"""One repository on the Hub: what it holds, and one commit that makes it hold what a level needs."""

import contextlib
import hashlib
import json
import re
from dataclasses import dataclass, field, replace

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, get_session, hf_hub_url
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from .contents import RESULTS, Files, run_id
from .errors import PushError, retrying, status_of

_KEPT = {".gitattributes"}  # the Hub's own, which says what goes over LFS


@dataclass(frozen=True)
class Repository:
    """What a push makes of a repository, and what the repository was when it was last looked at.

    Attributes:
        api: the client.
        repo_id: its id.
        revision: the branch, or the pull request that is already there (`refs/pr/1`).
        files: what it must hold.
        create_pr: whether to ask for the change of that branch by a new pull request.
        kind: `"model"` or `"space"`.
        message: the first line of the commit.
        description: what follows it.
        exists: whether there is such a repository; if not, all that follows is empty.
        private: whether only some can see it.
        head: the commit that the revision is at, or would start from.
        has_revision: whether the revision is there.
        there: SHA-256 of what lies in LFS, the object id in git of everything else, each with its size, by path.
        run: the id of the run that it holds.
        requests: the pull requests, and the commits that they are at.
    """

    api: HfApi
    repo_id: str
    revision: str = "main"
    files: Files = field(default_factory=dict)
    create_pr: bool = False
    message: str = ""
    description: str = ""
    kind: str = "model"
    exists: bool = False
    private: bool = False
    head: str | None = None
    has_revision: bool = False
    there: dict[str, tuple[str, int]] = field(default_factory=dict)
    run: str | None = None
    requests: dict[str, str] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether nobody put anything there."""
        return not self.there.keys() - _KEPT

    @property
    def is_complete(self) -> bool:
        """Whether it holds exactly what it must."""
        there = {path: entry for path, entry in self.there.items() if path not in _KEPT}
        return there.keys() == self.files.keys() and all(_is_same(self.files[path], *there[path]) for path in there)

    def look(self, revision: str | None = None) -> "Repository":
        """Return the record with what the Hub holds now, at its revision or at another one.

        Raises:
            PushError: the Hub does not say, or nothing can be pushed to that revision.
        """
        revision, what = revision or self.revision, f"looking at {self.repo_id}"
        blank = Repository(
            self.api, self.repo_id, revision, self.files, self.create_pr, self.message, self.description, self.kind
        )

        def info():
            try:
                return self.api.repo_info(self.repo_id, repo_type=self.kind)
            except GatedRepoError:  # a subclass of the next, but the repository is there
                raise
            except RepositoryNotFoundError:
                return None

        known = retrying(info, what)
        if known is None:
            return blank
        if known.id != self.repo_id:
            raise PushError(f"{self.repo_id} has moved to {known.id} on the Hub; push under that name.")
        refs = retrying(
            lambda: self.api.list_repo_refs(self.repo_id, repo_type=self.kind, include_pull_requests=True), what
        )
        branches = {ref.name: ref.target_commit for ref in refs.branches}
        requests = {ref.ref: ref.target_commit for ref in refs.pull_requests or []}
        heads = branches | requests
        is_tag = revision in [ref.name for ref in refs.tags] or re.fullmatch(r"[0-9a-f]{40}", revision)
        if revision not in heads and (is_tag or revision.startswith("refs/")):
            raise PushError(
                f"revision={revision!r} of {self.repo_id} is not a branch and not a pull request, and only these take "
                "new commits; give the name of a branch, or open a pull request by create_pr=True."
            )
        head = heads.get(revision, branches.get("main"))
        listing = {"repo_type": self.kind, "recursive": True, "revision": head}
        tree = retrying(lambda: list(self.api.list_repo_tree(self.repo_id, **listing)), what)
        there = {
            file.path: (file.lfs.sha256 if file.lfs else file.blob_id, file.size)
            for file in tree
            if isinstance(file, RepoFile)
        }
        return replace(
            blank,
            exists=True,
            private=bool(known.private),
            head=head,
            has_revision=revision in heads,
            there=there,
            run=retrying(lambda: self._run_at(head), what) if RESULTS in there else None,
            requests=requests,
        )

    def _run_at(self, head: str) -> str | None:
        url = hf_hub_url(self.repo_id, RESULTS, repo_type=self.kind, revision=head, endpoint=self.api.endpoint)
        response = get_session().get(url, headers=build_hf_headers(token=self.api.token))
        hf_raise_for_status(response)
        try:
            return run_id(json.loads(response.content))
        except (ValueError, KeyError, TypeError, AttributeError):
            return None  # somebody's own file of that name

    def make(self, private: bool | None) -> None:
        """Create it, still without content."""

        def create():
            try:
                sdk = "gradio" if self.kind == "space" else None
                self.api.create_repo(self.repo_id, repo_type=self.kind, space_sdk=sdk, private=private)
            except HfHubHTTPError as error:
                # An earlier try may have been carried out; or the Hub is busy with it, and then it is not there yet.
                if status_of(error) != 409 or not self.api.repo_exists(self.repo_id, repo_type=self.kind):
                    raise

        retrying(create, f"creating {self.repo_id}")

    def make_branch(self) -> None:
        """Create its branch where `main` is."""
        what = f"creating {self.revision} of {self.repo_id}"
        options = {"branch": self.revision, "repo_type": self.kind, "exist_ok": True}
        retrying(lambda: self.api.create_branch(self.repo_id, **options), what)

    def drop_branch(self) -> None:
        """Delete the branch if nothing has happened on it since it was made; best effort, after a failure."""
        with contextlib.suppress(PushError):
            if self.look().head == self.head:
                what = f"deleting {self.revision} of {self.repo_id}"
                options = {"branch": self.revision, "repo_type": self.kind}
                retrying(lambda: self.api.delete_branch(self.repo_id, **options), what, attempts=1)

    def upload(self) -> None:
        """Send the large files ahead; nobody sees them before a commit names them."""
        what = f"uploading the files of {self.repo_id}"
        # The client asks here which files are the same at the revision already, and leaves them out of the commit.
        options = {"revision": self.revision if self.has_revision else "main", "create_pr": self.create_pr}
        options["repo_type"] = self.kind
        files = self.files.values()

        def send():
            self.api.preupload_lfs_files(self.repo_id, files, free_memory=False, **options)

        try:
            # Fewer attempts than elsewhere: the client tries each file six times by itself.
            retrying(send, what, attempts=3)
        except RuntimeError as error:  # of the Hub's newer storage, which has a client of its own
            raise PushError(f"{what} failed: {error}. Check the network, and push again.") from error

    def commit(self) -> CommitInfo:
        """Make one commit on top of what was there, after which the repository holds `files` and no more.

        Raises:
            PushError: with `status` 412 if the repository is in another state by now.
        """
        unwanted = sorted(self.there.keys() - self.files.keys() - _KEPT)
        failed = False

        def once() -> CommitInfo:
            nonlocal failed
            # Nobody knows whether a failed request was carried out: a commit made twice would be
            # refused, or become a second pull request.
            landed = self.find() if failed else None
            if landed:
                return landed
            failed = True
            return self.api.create_commit(
                self.repo_id,
                [*self.files.values(), *map(CommitOperationDelete, unwanted)],
                commit_message=self.message,
                commit_description=self.description,
                repo_type=self.kind,
                revision=self.revision,
                create_pr=self.create_pr,
                parent_commit=self.head,
            )

        return retrying(once, f"committing to {self.repo_id}")

    def find(self) -> CommitInfo | None:
        """Return the commit that made it hold its files, if that has been made since it was looked at."""
        now = self.look()
        if not self.create_pr:
            return now.commit_info(now.head) if now.is_complete else None
        for request, head in now.requests.items():
            if request not in self.requests and self.look(request).is_complete:
                return self.commit_info(head, request)
        return None

    def commit_info(self, oid: str, request: str | None = None) -> CommitInfo:
        """Return what the client says of a commit that it made, for one that is there already."""
        page = f"{self.api.endpoint}/{'spaces/' * (self.kind == 'space')}{self.repo_id}"
        return CommitInfo(
            commit_url=f"{page}/commit/{oid}",
            commit_message=self.message,
            commit_description=self.description,
            oid=oid,
            pr_url=f"{page}/discussions/{request.rsplit('/', 1)[1]}" if request else None,
        )

    def with_unsent_files(self) -> "Repository":
        """Return the record with files for which the client has not asked the Hub yet."""
        return replace(
            self, files={path: CommitOperationAdd(path, file.path_or_fileobj) for path, file in self.files.items()}
        )


def _is_same(file: CommitOperationAdd, oid: str, size: int) -> bool:
    """Whether a file has this SHA-256, or this object id in git, which is shorter."""
    if size != file.upload_info.size or len(oid) == 64:
        return (size, oid) == (file.upload_info.size, file.upload_info.sha256.hex())
    with file.as_file() as stream:
        return hashlib.sha1(b"blob %d\0" % size + stream.read()).hexdigest() == oid


def check_card(api: HfApi, card: CommitOperationAdd, kind: str = "model") -> None:
    """Ask whether the Hub takes a card's metadata, which the client would ask only after everything is uploaded.

    Raises:
        PushError: it does not.
    """
    with card.as_file() as stream:
        question = {"content": stream.read().decode(), "repoType": kind}

    def validate():
        # `ModelCard.validate` of version 0 asks huggingface.co, whatever the endpoint is.
        headers = build_hf_headers(token=api.token)
        response = get_session().post(f"{api.endpoint}/api/validate-yaml", json=question, headers=headers)
        errors = response.json().get("errors", []) if response.status_code == 400 else []
        if not errors:
            hf_raise_for_status(response)
        return [error["message"] for error in errors]

    refused = retrying(validate, "asking the Hub about the model card")
    if refused:
        raise PushError(
            f"The Hub does not take the metadata of the card: {' '.join(refused)}. Correct the run's facts."
        )
