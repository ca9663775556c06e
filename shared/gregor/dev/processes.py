"""How the command line starts Python programs of Gregor as processes."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_OF_THE_COMMAND_LINE = ("GREGOR_URL", "GREGOR_KEY", "GREGOR_KEY_FILE")


def module_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs an installed module in this interpreter.

    With `-P` Python leaves the working directory out of its search path. Otherwise a `services` package or a
    `structlog.py` in a user's project would be imported instead of ours.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def inherited_environ() -> dict[str, str]:
    """Return the environment for a service: ours without the variables that only the command line reads."""
    return {name: value for name, value in os.environ.items() if name not in _OF_THE_COMMAND_LINE}


def end_with_parent(number: int = signal.SIGTERM) -> Callable[[], None] | None:
    """Return a `preexec_fn`: the kernel sends `number` to the child when its parent thread ends.

    None except on Linux.
    """
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)  # loaded before the fork: after it, only plain system calls are safe
    return lambda: libc.prctl(_PR_SET_PDEATHSIG, number)
