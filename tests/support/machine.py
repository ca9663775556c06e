"""CPU time that other processes took, which keeps bounds in real seconds fair on a busy machine."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


class Waiting:
    """The time for which processes, this one included, waited for a core since the object was made."""

    def __init__(self, pids: Iterable[int] = ()) -> None:
        self._before_ns = {pid: _waited_ns(pid) for pid in {os.getpid(), *pids}}

    def lost_s(self) -> float:
        """Return the seconds in which the processes were runnable but did not run: an upper bound of their delay."""
        return sum(max(0, _waited_ns(pid) - before) for pid, before in self._before_ns.items()) / 1e9


def _waited_ns(pid: int) -> int:
    """Return the second field of schedstat for the event loop's thread, or 0 if the kernel does not count it."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1])
    return 0
