"""Who pushes: the token, its user, what it may write to, and the names of the repositories."""

from collections.abc import Iterable
from dataclasses import dataclass

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.utils import HFValidationError, validate_repo_id

from .errors import MAKE_TOKEN, PushError, retrying

_LONGEST_NAME = 96  # on the Hub, without the namespace


@dataclass(frozen=True)
class Account:
    """A token that the Hub knows.

    Attributes:
        api: the client, using the token.
        user: whose it is.
        writable: the namespaces that the user may write to.
    """

    api: HfApi
    user: str
    writable: list[str]

    def check_namespace(self, namespace: str) -> None:
        """Raise PushError if the user may not have repositories there."""
        if namespace not in self.writable:
            raise PushError(
                f"The token is of {self.user}, who may not write to {namespace!r}; push to one of "
                f"{', '.join(self.writable)}, or take the token of a member with the role 'write'."
            )


def sign_in(token: str | None = None) -> Account:
    """Ask the Hub whose token this is.

    Args:
        token: a user access token; by default `HF_TOKEN`, or that of `hf auth login`.

    Raises:
        PushError: there is no token, the Hub does not know it, it cannot write, or the Hub cannot be reached.
    """
    if constants.HF_HUB_OFFLINE:
        raise PushError(
            "HF_HUB_OFFLINE=1 keeps this process from the Hub; unset it (or TRANSFORMERS_OFFLINE) to push."
        )
    token = token or get_token()
    if token is None:
        raise PushError(f"There is no token for the Hub; {MAKE_TOKEN}.")
    api = HfApi(endpoint=constants.ENDPOINT, token=token)
    answer = retrying(api.whoami, "asking whose token this is")
    if answer.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise PushError(f"The token of {answer['name']} is for reading only; {MAKE_TOKEN}.")
    # The Hub does not always tell the role in an organization.
    organizations = [org["name"] for org in answer.get("orgs", []) if org.get("roleInOrg") != "read"]
    return Account(api, answer["name"], [answer["name"], *organizations])


def check_access(name: str, token: str | None = None) -> str:
    """Check that a push of core and full under this name could begin, before there is a run.

    Args:
        name: as for `push_run`.
        token: as for `push_run`.

    Returns:
        The name with its namespace.

    Raises:
        ValueError: the Hub does not take such a name.
        PushError: the token is missing, unknown or without rights there.
    """
    repository_names(name, ("core", "full"))
    account = sign_in(token)
    name = name if "/" in name else f"{account.user}/{name}"
    account.check_namespace(name.split("/")[0])
    return name


def full_name(name: str, organization: str | None = None) -> str:
    """Return `name` with its namespace, if one is known.

    Raises:
        ValueError: the name has a namespace, and `organization` is given as well.
    """
    if organization is None:
        return name
    if "/" in name:
        raise ValueError(f"name={name!r} has a namespace already; leave organization={organization!r} out.")
    return f"{organization}/{name}"


def repository_names(name: str, levels: Iterable[str]) -> dict[str, str]:
    """Return `NAME-core`, `NAME-full`, ... by level.

    Raises:
        ValueError: the Hub does not take such a name.
    """
    names = {level: f"{name}-{level}" for level in levels}
    for level, repo_id in names.items():
        try:
            validate_repo_id(repo_id)
        except HFValidationError as error:
            raise ValueError(
                f"name={name!r} makes the repository {repo_id!r}, which the Hub does not take: {error} Choose a name "
                f"of letters, digits, '-', '_' and '.', of at most {_LONGEST_NAME - len(level) - 1} characters."
            ) from None
    return names
