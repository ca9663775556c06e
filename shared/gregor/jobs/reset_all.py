"""The job that starts a new epoch of every user (semantics.md L14), partition by partition.

A partition keeps the number of the last reset that reached it. A step that runs twice therefore resets nothing twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gregor.store.contract.agenda import Agenda
from gregor.store.contract.store import Unavailable, Users
from gregor.store.jobs import Job

from .partition_cursor import PartitionCursor
from .runner import JobStep

FLUSH: Final = "flush"
"""The kind of this job."""
AT_ONCE: Final = 256
"""Partitions that one step resets: about a millisecond of Redis."""


class _Cursor(PartitionCursor):
    """``is_announced``: whether the gateways know of all partitions that were reset."""

    is_announced: bool = True


class UserResetSteps:
    """The steps of the job: reset some partitions; at the end of each pass, publish that to the gateways."""

    def __init__(self, users: Users, agenda: Agenda) -> None:
        self._users = users
        self._agenda = agenda

    async def step(self, job: Job) -> JobStep:
        """See ``JobSteps.step``."""
        total, spread_s = self._agenda.partition_count, int(job.params["spread"])
        cursor = _Cursor.load(job.cursor, total)
        if cursor.left:
            partitions = cursor.first(AT_ONCE)
            reached = await self._reset(job.number, partitions, spread_s)
            cursor.complete(partitions, reached)
            cursor.is_announced = cursor.is_announced and not reached
        elif not cursor.is_announced:
            # After the partitions: a gateway that reads a user too early would find the old epoch.
            await self._users.announce_reset(spread_s)
            cursor.is_announced = True
        return cursor.end_step(total, has_more=not cursor.is_announced)

    async def _reset(self, number: int, partitions: Sequence[int], spread_s: int) -> frozenset[int]:
        try:
            return await self._users.reset_partitions(number, partitions, spread_s)
        except Unavailable:
            # All partitions of a step may be on one server that is down. Later steps reach the other servers.
            return frozenset()
