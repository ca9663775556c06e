"""Runs checks that wait for others, all at once and with one deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from .finding import CheckName, Finding

TIMEOUT_S: Final = 1.8
"""Default time for all checks. With the start of Python and the imports, the whole command takes at most 3 s."""
_CHAIN: Final = 3
"""The most answers that one check waits for, one after the other: seeds, nodes and pub/sub of a cluster."""
_MARGIN_S: Final = 0.15
_CLEANUP_S: Final = 0.1


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

    def earlier(self) -> Deadline:
        """Return the deadline of the parts of a check: they end before it, so that their findings are kept."""
        return Deadline(self.at - _MARGIN_S, self.answer_s)


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
