"""The failure of a command: one line for people, a problem document for programs."""

from collections.abc import Mapping
from typing import Any


class CommandError(Exception):
    """Ends the command with exit status ``status``. The text is the line on stderr and says how to fix the failure."""

    def __init__(self, text: str, problem: Mapping[str, Any] | None = None) -> None:
        """`problem`: the RFC 9457 problem of the server, if it refused a call."""
        super().__init__(text)
        self.problem = problem
        self.status = 1


def missing_services(command: str) -> CommandError:
    """Return the failure of a command that needs the services in a thin installation."""
    # Not by its name: `gregor` on PyPI is another project.
    fix = "in a checkout of Gregor, run pip install '.[server]' (gregor dev: '.[server,dev]')"
    return CommandError(f"{command} needs the services: {fix}")
