"""A Hub on loopback that the real `huggingface_hub` client speaks to, with bad days on request.

It keeps models and Spaces, whose ids begin with `spaces/` here, in memory, and knows what the client asks of it: who a
token is, repositories, branches, pull requests, files, uploads (in the commit, or ahead of it over LFS) and downloads.
By hand: `python -m tests.support.hub`.
"""

from tests.support.hub.client import connected_hub
from tests.support.hub.contents import TOKENS, Identity
from tests.support.hub.server import LoopbackHub

__all__ = ["TOKENS", "Identity", "LoopbackHub", "connected_hub"]
