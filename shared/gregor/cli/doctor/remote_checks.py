"""Runs the checks that wait for a server: all at once, with one deadline."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from .finding import CheckName, Finding

TIMEOUT_S: Final = 2.4
"""Default time of the whole command, from the start of its process to the end of the checks."""
_MAX_START_S: Final = 1.5
"""The most that the start of Python and the imports take from this time. Two quiet cores need 0.7 s."""
_CHAIN: Final = 3
"""The most answers that one check waits for, one after the other: seeds, nodes and pub/sub of a cluster."""
_MARGIN_S: Final = 0.15
_CLEANUP_S: Final = 0.1
_START_TIME: Final = 19
"""The place of the start time in /proc/self/stat, behind the name of the program (proc(5), field 22)."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """When checks end.

    Attributes:
        at: Time of the event loop.
        answer_s: Timeout of one answer of a server.
    """

    at: float
    answer_s: float

    @classmethod
    def after(cls, timeout_s: float) -> Deadline:
        """Return the deadline of checks that begin now."""
        return cls(asyncio.get_running_loop().time() + timeout_s, timeout_s / _CHAIN)

    @classmethod
    def of_command(cls, timeout_s: float) -> Deadline:
        """Return the deadline of checks in a process that may run for ``timeout_s`` in all."""
        return cls.after(max(0.1, timeout_s - min(process_age_s(), _MAX_START_S)))

    def remaining_s(self) -> float:
        """Return the seconds until the deadline."""
        return self.at - asyncio.get_running_loop().time()

    def earlier(self) -> Deadline:
        """Return the deadline of the parts of a check: they end before it, so that their findings are kept."""
        return Deadline(self.at - _MARGIN_S, self.answer_s)


def process_age_s() -> float:
    """Return how long this process has been running; 0 if the system has no /proc."""
    try:
        fields = Path("/proc/self/stat").read_text("utf-8").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[_START_TIME]) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class RemoteCheck:
    """A check that waits for a server.

    Attributes:
        check: The finding that says that there was no answer before the deadline.
        run: Returns the findings.
        fix: What to do if there was no answer.
    """

    check: CheckName
    run: Callable[[], Awaitable[Sequence[Finding]]]
    fix: str

    def after(self, opening: asyncio.Future[None]) -> RemoteCheck:
        """Return the check that first waits for a connection, which it shares with others."""

        async def run() -> Sequence[Finding]:
            await asyncio.shield(opening)
            return await self.run()

        return replace(self, run=run)


async def run_checks(checks: Sequence[RemoteCheck], deadline: Deadline) -> list[Finding]:
    """Return the findings of all checks. Those without an answer at the deadline fail.

    A check that raises fails too: the others are still useful to the operator.
    """
    loop = asyncio.get_running_loop()
    tasks = {asyncio.ensure_future(each.run()): each for each in checks}
    began = loop.time()
    if not tasks:
        return []
    await asyncio.wait(tasks, timeout=max(0.0, deadline.at - began))
    findings: list[Finding] = []
    for task, remote in tasks.items():
        if not task.done():
            found = f"no answer within {max(0.0, deadline.at - began):.1f} s"
            findings.append(Finding(remote.check, "fail", found, remote.fix))
        elif (error := task.exception()) is not None:
            findings.append(Finding(remote.check, "fail", str(error) or type(error).__name__, remote.fix))
        else:
            findings += task.result()
    await _cancel([task for task in tasks if not task.done()])
    return findings


async def _cancel(tasks: Sequence[asyncio.Future[Sequence[Finding]]]) -> None:
    """Cancel tasks. A clean-up that waits for the hung server itself is not waited for."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_CLEANUP_S)
