"""How the loopback Hub answers, request by request."""

import base64
import contextlib
import json
import re
import socket
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from tests.support.hub.contents import (
    Commit,
    Identity,
    Refusal,
    Repository,
    entry,
    front_matter,
    git_oid,
    is_large,
    is_private,
    sha256,
)


class Handler(BaseHTTPRequestHandler):
    """One connection; `hub` is set by the server that makes a subclass of this."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        """Says nothing; `LoopbackHub.requests` has it all."""

    def _serve(self):
        parts = urlsplit(self.path)
        path = parts.path.replace("/api/spaces/", "/api/models/spaces/")
        self.query = parse_qs(parts.query)
        self.hub.requests.append((self.command, unquote(path)))
        fault = self.hub.fault(self.command, unquote(path))
        if fault and fault.drop == "request":
            self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
            self._drop()
            return
        self.body = self._read_body()
        try:
            if fault and fault.status:
                wait = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
                raise Refusal(fault.status, f"status {fault.status} on request", headers=wait)
            with self.hub.lock:
                status, headers, content = self._route(path)
        except Refusal as refusal:
            status, headers, content = refusal.status, refusal.headers, json.dumps(refusal.body).encode()
        if fault and fault.drop == "response":
            self._drop()
            return
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _drop(self):
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    # ---- What is asked for ----

    def _route(self, path: str) -> tuple[int, dict, bytes]:
        for method, pattern, answer in _ROUTES:
            found = re.fullmatch(pattern, path) if self.command in method.split() else None
            if found:
                return answer(self, **{name: value and unquote(value) for name, value in found.groupdict().items()})
        raise Refusal(404, f"this server does not know {self.command} {path}")

    def _identity(self, needed: bool = True) -> Identity | None:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if given and given not in self.hub.tokens:
            raise Refusal(401, "Invalid credentials in Authorization header")
        if not given and needed:
            raise Refusal(401, "Invalid username or password.")
        return self.hub.tokens.get(given)

    def _repository(self, repo: str, write: bool = False) -> Repository:
        identity = self._identity(needed=write)
        repository, namespace = self.hub.repositories.get(repo), repo.split("/")[-2]
        hidden = repository and repository.private and not (identity and identity.may_read(namespace))
        if repository is None or hidden:
            raise Refusal(404 if identity else 401, "Repository not found", "RepoNotFound")
        if write and not identity.may_write(namespace):
            raise Refusal(403, f"You don't have the rights to write to {repo}")
        return repository

    def _whoami(self):
        identity = self._identity()
        orgs = [{"type": "org", "name": name, "roleInOrg": role} for name, role in identity.orgs.items()]
        token = {"displayName": "a token", "role": identity.role}
        if identity.fine_grained:
            token["fineGrained"] = identity.fine_grained
        auth = {"type": "access_token", "accessToken": token}
        return _json({"type": "user", "name": identity.name, "orgs": orgs, "auth": auth})

    def _create(self):
        asked, identity = json.loads(self.body), self._identity()
        namespace = asked.get("organization") or identity.name
        repo = f"{'spaces/' * (asked.get('type') == 'space')}{namespace}/{asked['name']}"
        if repo.startswith("spaces/") and asked.get("sdk") != "gradio":
            raise Refusal(400, "Invalid sdk")
        if repo in self.hub.repositories and identity.may_read(namespace):
            raise Refusal(409, "You already created this model repo", url=f"{self.hub.url}/{repo}")
        if not identity.may_write(namespace):
            raise Refusal(403, f'You don\'t have the rights to create a model under the namespace "{namespace}"')
        self.hub.create(repo, private=is_private(asked))
        return _json({"url": f"{self.hub.url}/{repo}", "name": repo})

    def _settings(self, repo):
        self._repository(repo, write=True).private = is_private(json.loads(self.body))
        return _json({})

    def _info(self, repo, revision="main"):
        repo = self.hub.moved.get(repo, repo)
        repository = self._repository(repo)
        files = repository.files(revision or "main")
        card = front_matter(files.get("README.md", b"").decode())
        tags = {name: card[name] for name in ("pipeline_tag", "library_name") if name in card}
        siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
        sha = repository.resolve(revision or "main")
        name = repo.removeprefix("spaces/")
        info = {"id": name, "modelId": name, "sha": sha, "private": repository.private, "tags": card.get("tags") or []}
        return _json({**info, "siblings": siblings, "cardData": card, **tags})

    def _refs(self, repo):
        refs = self._repository(repo).refs
        named = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid} for name, oid in refs.items()]
        branches = [ref for ref in named if not ref["name"].startswith("refs/")]
        requests = [{**ref, "ref": ref["name"]} for ref in named if ref not in branches]
        return _json({"branches": branches, "converts": [], "tags": [], "pullRequests": requests})

    def _branch(self, repo, branch):
        repository = self._repository(repo, write=True)
        if branch in repository.refs:
            raise Refusal(409, f"Reference already exists: {branch}")
        start = json.loads(self.body or b"{}").get("startingPoint") or "main"
        repository.refs[branch] = repository.resolve(start)
        return _json({})

    def _drop_branch(self, repo, branch):
        del self._repository(repo).refs[branch]
        return _json({})

    def _tree(self, repo, revision, folder=None):
        files = self._repository(repo).files(revision)
        inside = f"{folder}/" if folder else ""
        entries = [entry(name, data) for name, data in files.items() if name.startswith(inside)]
        if folder and not entries:
            raise Refusal(404, f"{folder} does not exist", "EntryNotFound")
        return _json(entries)

    def _paths(self, repo, revision):
        files, asked = self._repository(repo).files(revision), parse_qs(self.body.decode())["paths"]
        return _json([entry(name, files[name]) for name in asked if name in files])

    def _validate(self):
        refused = self.hub.bad_metadata
        try:
            front_matter(json.loads(self.body)["content"])
        except yaml.YAMLError as error:
            refused = str(error)
        if refused:
            raise Refusal(400, "bad metadata", errors=[{"message": refused}], warnings=[])
        return _json({"errors": [], "warnings": []})

    # ---- Uploads ----

    def _preupload(self, repo, revision):
        files = self._repository(repo, write="create_pr" not in self.query).files(revision)
        answers = []
        for file in json.loads(self.body)["files"]:
            over_lfs = is_large(file["path"], base64.b64decode(file["sample"]))
            known = files.get(file["path"])
            oid = {} if known is None else {"oid": sha256(known) if over_lfs else git_oid(known)}
            mode = "lfs" if over_lfs else "regular"
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, **oid})
        return _json({"files": answers})

    def _batch(self, repo):
        self._repository(repo)
        objects = []
        for asked in json.loads(self.body)["objects"]:
            upload = {"href": f"{self.hub.url}/lfs/{repo}/{asked['oid']}", "header": {}}
            verify = {"href": f"{self.hub.url}/{repo}.git/info/lfs/verify", "header": {}}
            new = asked["oid"] not in self.hub.objects
            objects.append({**asked, **({"actions": {"upload": upload, "verify": verify}} if new else {})})
        return _json({"transfer": "basic", "objects": objects})

    def _upload(self, repo, oid):
        if sha256(self.body) != oid:
            raise Refusal(400, "the content is another one")
        self.hub.unverified[oid] = self.body
        return _json({})

    def _verify(self, repo):
        oid = json.loads(self.body)["oid"]
        if oid not in self.hub.unverified:
            raise Refusal(404, "object not found")
        self.hub.objects[oid] = self.hub.unverified[oid]
        return _json({})

    def _commit(self, repo, revision):
        repository = self._repository(repo, write="create_pr" not in self.query)
        lines = [json.loads(line) for line in self.body.splitlines()]
        header, head = lines[0]["value"], repository.resolve(revision)
        if header.get("parentCommit", head) != head:
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repository.files(revision))
        for line in lines[1:]:
            path = line["value"]["path"]
            if line["key"] == "file":
                files[path] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                if line["value"]["oid"] not in self.hub.objects:
                    raise Refusal(400, f"the LFS object of {path} was never uploaded")
                files[path] = self.hub.objects[line["value"]["oid"]]
            elif files.pop(path, None) is None:
                raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
        commit = Commit(head, header["summary"], header["description"], files)
        request = {}
        if "create_pr" in self.query:
            number = 1 + sum(ref.startswith("refs/pr/") for ref in repository.refs)
            revision, request = f"refs/pr/{number}", {"pullRequestUrl": f"{self.hub.url}/{repo}/discussions/{number}"}
        oid = repository.add(revision, commit)
        return _json(
            {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{repo}/commit/{oid}", **request}
        )

    # ---- Downloads ----

    def _resolve(self, repo, revision, file):
        repository = self._repository(repo)
        oid = repository.resolve(revision)
        content = repository.files(revision).get(file)
        headers = {"X-Repo-Commit": oid, "Accept-Ranges": "bytes"}
        if content is None:
            raise Refusal(404, "Entry not found", "EntryNotFound", headers)
        if is_large(file, content):
            linked = {"X-Linked-ETag": f'"{sha256(content)}"', "X-Linked-Size": str(len(content))}
            headers |= linked | {"ETag": linked["X-Linked-ETag"]}
        else:
            headers["ETag"] = f'"{git_oid(content)}"'
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if part:
            first, last = int(part[1]), int(part[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            return 206, headers, content[first : last + 1]
        return 200, headers, content


_REPO = r"(?P<repo>(?:spaces/)?[^/]+/[^/]+)"
_MODEL = rf"/api/models/{_REPO}"
_REVISION = r"(?P<revision>[^/]+)"
_ROUTES = (
    ("GET", "/api/whoami-v2", Handler._whoami),
    ("POST", "/api/repos/create", Handler._create),
    ("POST", "/api/validate-yaml", Handler._validate),
    ("GET", _MODEL, Handler._info),
    ("GET", rf"{_MODEL}/revision/{_REVISION}", Handler._info),
    ("PUT", rf"{_MODEL}/settings", Handler._settings),
    ("GET", rf"{_MODEL}/refs", Handler._refs),
    ("POST", rf"{_MODEL}/branch/(?P<branch>[^/]+)", Handler._branch),
    ("DELETE", rf"{_MODEL}/branch/(?P<branch>[^/]+)", Handler._drop_branch),
    ("GET", rf"{_MODEL}/tree/{_REVISION}(?:/(?P<folder>.+))?", Handler._tree),
    ("POST", rf"{_MODEL}/paths-info/{_REVISION}", Handler._paths),
    ("POST", rf"{_MODEL}/preupload/{_REVISION}", Handler._preupload),
    ("POST", rf"{_MODEL}/commit/{_REVISION}", Handler._commit),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", Handler._batch),
    ("POST", rf"/{_REPO}\.git/info/lfs/verify", Handler._verify),
    ("PUT", rf"/lfs/{_REPO}/(?P<oid>[0-9a-f]+)", Handler._upload),
    ("GET HEAD", rf"/{_REPO}/resolve/{_REVISION}/(?P<file>.+)", Handler._resolve),
)


def _json(value) -> tuple[int, dict, bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()
