"""The client of this process, made to speak to the loopback Hub."""

import contextlib
import types
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import transformers
from huggingface_hub import constants, file_download, hf_api
from huggingface_hub.utils import _http

from tests.support.hub.server import LoopbackHub


@contextlib.contextmanager
def connected_hub(monkeypatch, home: Path, token: str | None = "writer") -> Iterator[LoopbackHub]:
    """A server that the client of this process speaks to, as if just installed: no cache, no other token, no waits.

    `hub.naps` lists the seconds that the client would have waited between its attempts.
    """
    with LoopbackHub() as hub:
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_TELEMETRY": True,
            "ENDPOINT": hub.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN_PATH": str(home / "token"),
        }.items():
            monkeypatch.setattr(constants, name, value)
        # Copies that were made at import, some of them by version 0 alone.
        monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(hf_api.api, "endpoint", hub.url)
        monkeypatch.setattr(transformers.utils.hub, "_is_offline_mode", False, raising=False)
        monkeypatch.setattr(transformers.utils.hub, "_hf_api", None, raising=False)  # which keeps the first endpoint
        monkeypatch.setattr(transformers.utils.hub, "TRANSFORMERS_CACHE", str(home / "hub"), raising=False)
        monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(home / "modules"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
        if token is not None:
            monkeypatch.setenv("HF_TOKEN", token)
        hub.naps = []
        monkeypatch.setattr(_http, "time", types.SimpleNamespace(sleep=hub.naps.append))
        # The client keeps its connections, and version 0 its being offline with them.
        reset = getattr(huggingface_hub, "close_session", None) or _http.reset_sessions
        reset()
        try:
            yield hub
        finally:
            reset()
