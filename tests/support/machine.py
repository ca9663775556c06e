"""What the machine took from processes, so that a bound in real seconds holds where others use it, too."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


class Waiting:
    """How long processes, and this one, waited for a core since this was made: what nobody can promise, and no more."""

    def __init__(self, pids: Iterable[int] = ()) -> None:
        self._before_ns = {pid: _waited_ns(pid) for pid in {os.getpid(), *pids}}

    def lost_s(self) -> float:
        """Seconds in which they were ready to run and did not, one after the other: the most that it made them late."""
        return sum(max(0, _waited_ns(pid) - before) for pid, before in self._before_ns.items()) / 1e9


def _waited_ns(pid: int) -> int:
    """The second field of schedstat, of the thread that the event loop runs in; 0 where the kernel does not count."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1])
    return 0
