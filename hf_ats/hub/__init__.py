"""From a run to the Hub: its models in a repository each, with cards that are rendered from what the run found."""

from .account import check_access
from .contents import read_run, stage_run
from .errors import PushError
from .publishing import PublishesRuns
from .push import PushedRepository, push_run
from .space import check_compared, gradio_version

__all__ = [
    "PublishesRuns",
    "PushError",
    "PushedRepository",
    "check_access",
    "check_compared",
    "gradio_version",
    "push_run",
    "read_run",
    "stage_run",
]
