"""The job that starts a new epoch of every user (semantics.md L14), partition by partition.

A partition keeps the number of the last reset that reached it. A step that runs twice therefore resets nothing twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from gregor.store.contract.agenda import Agenda
from gregor.store.contract.store import Unavailable, Users
from gregor.store.jobs import Job

from .runner import JobStep

FLUSH: Final = "flush"
"""The kind of this job."""
AT_ONCE: Final = 256
"""Partitions that one step resets: about a millisecond of Redis."""


class _Cursor(msgspec.Struct):
    """The progress of the job. A range is a pair: its first partition, and the first partition after it.

    A pass tries every remaining partition once. ``left``: ranges that this pass has not tried yet. ``away``: ranges
    whose server did not answer in this pass; the next pass tries them again.
    ``is_announced``: whether the gateways know of all partitions that were reset.
    """

    left: list[tuple[int, int]]
    away: list[tuple[int, int]] = []
    is_announced: bool = True


class UserResetSteps:
    """The steps of the job: reset some partitions; at the end of each pass, publish that to the gateways."""

    def __init__(self, users: Users, agenda: Agenda) -> None:
        self._users = users
        self._agenda = agenda

    async def step(self, job: Job) -> JobStep:
        """See ``JobKind.step``."""
        total, spread_s = self._agenda.partition_count, int(job.params["spread"])
        cursor = _Cursor([(0, total)]) if job.cursor is None else msgspec.convert(job.cursor, _Cursor)
        if cursor.left:
            partitions = _first(cursor.left, AT_ONCE)
            reached = await self._reset(job.number, partitions, spread_s)
            cursor.left = _ranges(_numbers(cursor.left) - set(partitions))
            cursor.away = _ranges(_numbers(cursor.away) | (set(partitions) - reached))
            cursor.is_announced = cursor.is_announced and not reached
        elif not cursor.is_announced:
            # After the partitions: a gateway that reads a user too early would find the old epoch.
            await self._users.announce_reset(spread_s)
            cursor.is_announced = True
        open_count = len(_numbers(cursor.left)) + len(_numbers(cursor.away))
        is_pass_over = not cursor.left and cursor.is_announced
        waits_for = None
        if is_pass_over and cursor.away:
            waits_for = f"{len(_numbers(cursor.away))} partitions are on servers that do not answer"
            cursor.left, cursor.away = cursor.away, []
        return JobStep(
            msgspec.to_builtins(cursor),
            total - open_count,
            total,
            is_last=is_pass_over and open_count == 0,
            waits_for=waits_for,
        )

    async def _reset(self, number: int, partitions: Sequence[int], spread_s: int) -> frozenset[int]:
        try:
            return await self._users.reset_partitions(number, partitions, spread_s)
        except Unavailable:
            # All partitions of a step may be on one server that is down. Later steps reach the other servers.
            return frozenset()


# ---- ranges of partitions: a whole deployment is one pair


def _numbers(ranges: Iterable[tuple[int, int]]) -> set[int]:
    return {number for first, end in ranges for number in range(first, end)}


def _first(ranges: Sequence[tuple[int, int]], count: int) -> list[int]:
    return sorted(_numbers(ranges))[:count]


def _ranges(numbers: set[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number:
            found[-1] = (found[-1][0], number + 1)
        else:
            found.append((number, number + 1))
    return found
