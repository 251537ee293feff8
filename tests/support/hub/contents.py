"""What the loopback Hub keeps: who may do what, and repositories as chains of commits."""

import hashlib
import json
import re
from dataclasses import dataclass, field

import yaml

INITIAL_FILES = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}


@dataclass
class Identity:
    """Whose token it is: a user, the organisations (by their role there), and what the token may do."""

    name: str
    orgs: dict[str, str] = field(default_factory=dict)
    role: str = "write"
    fine_grained: dict = field(default_factory=dict)

    def may_write(self, namespace: str) -> bool:
        return self.role != "read" and (namespace == self.name or self.orgs.get(namespace) in ("write", "admin"))

    def may_read(self, namespace: str) -> bool:
        return namespace == self.name or namespace in self.orgs


TOKENS = {
    "writer": Identity("ann", {"lab": "write", "closed": "read"}),
    "reader": Identity("ann", {"lab": "write"}, role="read"),
    "stranger": Identity("bob"),
}


@dataclass
class Commit:
    """A state of all files."""

    parent: str | None
    title: str
    description: str
    files: dict[str, bytes]

    @property
    def oid(self) -> str:
        content = [self.parent, self.title, {name: sha256(data) for name, data in self.files.items()}]
        return hashlib.sha1(json.dumps(content).encode()).hexdigest()


class Repository:
    """One model or Space: its branches and pull requests, each the id of a commit."""

    def __init__(self, private: bool):
        self.private = private
        self.commits: dict[str, Commit] = {}
        self.refs: dict[str, str] = {}
        self.add("main", Commit(None, "initial commit", "", dict(INITIAL_FILES)))

    def add(self, ref: str, commit: Commit) -> str:
        self.commits[commit.oid] = commit
        self.refs[ref] = commit.oid
        return commit.oid

    def resolve(self, revision: str) -> str:
        oid = self.refs.get(revision, revision)
        if oid not in self.commits:
            raise Refusal(404, "Invalid rev id: " + revision, "RevisionNotFound")
        return oid

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """The contents of all files there."""
        return self.commits[self.resolve(revision)].files

    def log(self, revision: str = "main") -> list[Commit]:
        """The commits up to there, the newest first."""
        commits, oid = [], self.resolve(revision)
        while oid:
            commits.append(self.commits[oid])
            oid = commits[-1].parent
        return commits


class Refusal(Exception):
    """An answer with an error status."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: dict | None = None, **fields):
        super().__init__(message)
        named = {"X-Error-Code": code} if code else {}
        self.status, self.headers = status, {"X-Error-Message": message, **named, **(headers or {})}
        self.body = {"error": message, **fields}


def entry(name: str, content: bytes) -> dict:
    entry = {"type": "file", "path": name, "size": len(content), "oid": git_oid(content)}
    if is_large(name, content):
        entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 130}
    return entry


def is_large(name: str, sample: bytes) -> bool:
    """Whether LFS holds it: what the Hub has a pattern for, and whatever is no text."""
    return name.endswith((".safetensors", ".bin", ".png")) or b"\0" in sample


def is_private(asked: dict) -> bool:
    return asked.get("visibility") == "private" or bool(asked.get("private"))


def front_matter(card: str) -> dict:
    found = re.match(r"---\n(.*?)\n---(\n|$)", card, re.DOTALL)
    return (yaml.safe_load(found[1]) or {}) if found else {}


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
