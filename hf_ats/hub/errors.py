"""The answers of the Hub in sentences, and which of them are worth another try."""

import logging
import time
from collections.abc import Callable

from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

logger = logging.getLogger(__name__)

MAKE_TOKEN = (
    "make one with the role 'write' at https://huggingface.co/settings/tokens, and pass token=..., set HF_TOKEN, or "
    "log in by `hf auth login`"
)
_ATTEMPTS = 5
_LONGEST_WAIT = 300.0  # seconds that a server may ask for before a person should decide
_TRANSIENT = (408, 409, 429, 500, 502, 503, 504)
_REMEDIES = {
    401: f"The token is not valid (any more): {MAKE_TOKEN}.",
    403: "The token has no right to do this: take one with the role 'write' of somebody who may write there, or push "
    "to a namespace of your own.",
    412: "Somebody else has pushed there at the same time: look at the repository, and push again.",
    429: "The Hub asks for fewer requests: wait, and push again.",
}
# The client is built on requests, httpx or httpx2, by its version. All that its library raises, lost connections
# included, has one root, which the client's own error descends from.
_CONNECTION_ERROR = [kind for kind in HfHubHTTPError.__mro__ if kind.__module__.split(".")[0] != "builtins"][-1]

_sleep = time.sleep


class PushError(OSError):
    """A push that the Hub, or the way there, stopped; the message says what is there now, and what to do.

    Attributes:
        status: the HTTP status of the Hub's answer; None if there was none.
        complete: the repositories that were complete before the failure, `PushedRepository` by level.
    """

    def __init__(self, message: str, status: int | None = None):
        super().__init__(message)
        self.status = status
        self.complete: dict = {}


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status of an answer; None if there was none, as when the connection was lost."""
    return getattr(getattr(error, "response", None), "status_code", None)


def retrying(action: Callable, what: str, attempts: int = _ATTEMPTS):
    """Carry out `action()`, again after a wait if the Hub was busy, failed, or could not be reached.

    Waits as long as the Hub asks (`Retry-After`), otherwise 1, 2, 4 and 8 seconds. An action whose answer was lost is
    carried out twice, so it must be one that does no harm then.

    Args:
        action: what to do.
        what: what it does, for the log and the message, such as `"creating ann/pair-core"`.
        attempts: how often, at most.

    Raises:
        PushError: it did not succeed, and another attempt will not help now.
    """
    for attempt in range(1, attempts + 1):
        try:
            return action()
        except Exception as caught:
            error = _of_client(caught)
            if error is None:
                raise
            wait = _wait(error, attempt)
            if wait is None or attempt == attempts:
                message = f"{what} failed: {_short(error)}. {_remedy(status_of(error))}"
                raise PushError(message, status_of(error)) from caught
            logger.warning("%s failed (%s); trying again in %g s", what, _short(error), wait)
            _sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def _remedy(status: int | None) -> str:
    if status is None:
        return "The Hub could not be reached, or the connection broke: check the network, and push again."
    if status >= 500:
        return "The Hub has trouble of its own (https://status.huggingface.co): wait, and push again."
    return _REMEDIES.get(status, "See its words above, and push again.")


def _of_client(error: BaseException) -> BaseException | None:
    """Return the client's error that this one is or was raised from; None if it is something else, such as a bug."""
    if isinstance(error, OfflineModeIsEnabled):
        return None
    while error is not None and not isinstance(error, _CONNECTION_ERROR):
        error = error.__cause__  # an upload over LFS wraps what happened in a RuntimeError
    return error


def _wait(error: BaseException, attempt: int) -> float | None:
    """Return the seconds until another try; None if none would help."""
    status = status_of(error)
    if status is not None and status not in _TRANSIENT:
        return None
    requested = error.response.headers.get("Retry-After", "") if status is not None else ""
    wait = float(requested) if requested.isdigit() else float(2 ** (attempt - 1))
    return wait if wait <= _LONGEST_WAIT else None


def _short(error: BaseException) -> str:
    """Return the status and the server's words, without the addresses and request ids around them."""
    status = status_of(error)
    if status is None:
        return f"{type(error).__name__}: {error}".strip().splitlines()[0][:200]
    headers = error.response.headers
    said = headers.get("X-Error-Message") or getattr(error, "server_message", None) or ""
    wait = headers.get("Retry-After")
    return f"status {status}" + (f", {said.rstrip('.')!r}" if said else "") + (f", wait {wait} s" if wait else "")
