"""Who pushes: the token, its user, what it may write to, and the names of the repositories."""

from collections.abc import Iterable
from dataclasses import dataclass

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.utils import HFValidationError, validate_repo_id

from .errors import PushError, retrying

_LONGEST_NAME = 96  # on the Hub, without the namespace
_MAKE_TOKEN = "make one with the role 'write' at https://huggingface.co/settings/tokens"


@dataclass(frozen=True)
class Account:
    """A token that the Hub knows.

    Attributes:
        api: the client, using the token.
        user: whose it is.
        roles: the user's role in each of their organisations, where the Hub tells it (None otherwise).
    """

    api: HfApi
    user: str
    roles: dict[str, str | None]


def sign_in(token: str | None = None) -> Account:
    """Asks the Hub whose token this is.

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
        raise PushError(
            f"There is no token for the Hub; {_MAKE_TOKEN}, and pass token=..., set HF_TOKEN, or log in by "
            "`hf auth login`."
        )
    api = HfApi(endpoint=constants.ENDPOINT, token=token)
    told = retrying(api.whoami, "asking whose token this is")
    access = told.get("auth", {}).get("accessToken", {})
    if access.get("role") == "read" or (access.get("role") == "fineGrained" and not _has_write(access)):
        raise PushError(
            f"The token {access.get('displayName', '')!r} of {told['name']} is for reading only; {_MAKE_TOKEN}, and "
            "pass it as token=... or in HF_TOKEN."
        )
    return Account(api, told["name"], {org["name"]: org.get("roleInOrg") for org in told.get("orgs", [])})


def _has_write(access: dict) -> bool:
    scopes = access.get("fineGrained", {})
    granted = [permission for scope in scopes.get("scoped", []) for permission in scope.get("permissions", [])]
    return any("write" in permission for permission in granted + scopes.get("global", []))


def check_namespace(account: Account, namespace: str) -> None:
    """Whether the token's user may have repositories there.

    Raises:
        PushError: they may not.
    """
    if namespace == account.user:
        return
    yours = ", ".join([account.user, *(name for name, role in account.roles.items() if role != "read")])
    if namespace not in account.roles:
        raise PushError(
            f"The token is of {account.user}, who has no part in {namespace!r}; push to one of {yours}, or take the "
            "token of a member."
        )
    if account.roles[namespace] == "read":
        raise PushError(
            f"{account.user} may only read in {namespace!r}; ask its administrators for the role 'write', or push to "
            f"{account.user}."
        )


def check_access(name: str, token: str | None = None) -> str:
    """Whether a push of core and full under this name could begin: what can be said without a run.

    Args:
        name: as for `push_run`.
        token: as for `push_run`.

    Returns:
        The name with its namespace.

    Raises:
        ValueError: the Hub takes no such name.
        PushError: the token is missing, unknown or without rights there.
    """
    repository_names(name, ("core", "full"))
    account = sign_in(token)
    namespace, _, rest = name.rpartition("/")
    namespace = namespace or account.user
    repository_names(f"{namespace}/{rest}", ("core", "full"))
    check_namespace(account, namespace)
    return f"{namespace}/{rest}"


def full_name(name: str, organization: str | None = None) -> str:
    """`name` with its namespace, where one is known.

    Raises:
        ValueError: the name has another namespace than `organization`.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"name={name!r} must be text; write 'NAME', or 'ORGANIZATION/NAME'.")
    if organization is None:
        return name
    if "/" in name:
        raise ValueError(
            f"name={name!r} has a namespace already, and organization={organization!r} is given as well; give one of "
            "them."
        )
    return f"{organization}/{name}"


def repository_names(name: str, levels: Iterable[str]) -> dict[str, str]:
    """`NAME-core`, `NAME-full`, ... by level.

    Raises:
        ValueError: the Hub takes no such name.
    """
    names = {level: f"{name}-{level}" for level in levels}
    for level, repo_id in names.items():
        try:
            validate_repo_id(repo_id)
            if not repo_id.isascii():  # which some versions of the client let pass
                raise HFValidationError("Letters are those of English.")
        except HFValidationError as error:
            raise ValueError(
                f"name={name!r} makes the repository {repo_id!r}, which the Hub does not take: {error} Choose a name "
                f"of letters, digits, '-', '_' and '.', of at most {_LONGEST_NAME - len(level) - 1} characters."
            ) from None
    return names
