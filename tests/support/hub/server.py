"""The loopback Hub itself, and what may go wrong with it."""

import re
import threading
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path

from tests.support.hub.contents import TOKENS, Commit, Repository
from tests.support.hub.protocol import Handler


@dataclass
class Fault:
    """What goes wrong with the next `times` requests that match, after `skip` of them."""

    method: str
    path: str
    status: int | None
    times: int
    skip: int
    retry_after: int | None
    drop: str | None


class LoopbackHub:
    """The server, running inside `with`.

    Attributes:
        url: its address, to be the client's endpoint.
        tokens: what each token is good for, by token.
        repositories: what there is, by id.
        requests: method and path of everything that was asked for, in order.
        moved: where a repository of an old name is now, by the old id.
        bad_metadata: what it finds wrong with every card, if anything.
    """

    def __init__(self, port: int = 0):
        self.tokens = dict(TOKENS)
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}  # what LFS holds, by SHA-256
        self.unverified: dict[str, bytes] = {}  # what was uploaded there, before the client says that it is done
        self.requests: list[tuple[str, str]] = []
        self.moved: dict[str, str] = {}
        self.bad_metadata: str | None = None
        self._faults: list[Fault] = []
        self.lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        # Asks for the end more often than the default half second, which each test would wait for.
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()

    def create(self, repo_id: str, files: dict[str, bytes] | None = None, private: bool = False) -> Repository:
        """A repository that is there already, with these files in a second commit."""
        repository = self.repositories[repo_id] = Repository(private)
        if files:
            parent = repository.refs["main"]
            repository.add("main", Commit(parent, "earlier", "", repository.files() | files))
        return repository

    def fail(
        self,
        method: str,
        path: str,
        status: int | None = None,
        *,
        times: int = 1,
        skip: int = 0,
        retry_after: int | None = None,
        drop: str | None = None,
    ) -> None:
        """Makes the next requests of a kind go wrong.

        Args:
            method: of the requests.
            path: a regular expression that is searched for in their path.
            status: what they are answered with, instead of being carried out.
            times: how many.
            skip: how many are carried out before.
            retry_after: seconds that the answer asks to wait for.
            drop: `"request"`: the connection ends when half of the body is read; `"response"`: the request is carried
                out, and the connection ends before the answer.
        """
        self._faults.append(Fault(method, path, status, times, skip, retry_after, drop))

    def heal(self) -> None:
        """From here on nothing goes wrong any more."""
        self._faults.clear()

    def fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self._faults:
                if fault.times and fault.method == method and re.search(fault.path, path):
                    if fault.skip:
                        fault.skip -= 1
                    else:
                        fault.times -= 1
                        return fault
        return None

    def environment(self, home: Path, token: str | None = "writer") -> dict[str, str]:
        """The variables that make the client of another process speak to this server, with nothing cached."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HOME": str(home),
            "NO_PROXY": "127.0.0.1",
            **({"HF_TOKEN": token} if token else {}),
        }
