"""From a run to the Hub: its models in a repository each, with cards that are rendered from what the run found."""

from .account import check_access
from .contents import stage_run
from .errors import PushError
from .publishing import PublishesRuns
from .push import PushedRepository, push_run

__all__ = ["PublishesRuns", "PushError", "PushedRepository", "check_access", "push_run", "stage_run"]
