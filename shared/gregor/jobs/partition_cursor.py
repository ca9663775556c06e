"""The cursor of a job that visits every partition, in passes: unreachable partitions do not delay the others."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Final, Self

import msgspec

from gregor.store.contract.store import Unavailable

from .runner import JobStep
from .user_batch import UserBatch

_REASON_LENGTH: Final = 200
"""Characters of an error in the reason of a job: those of a script can be long."""


class PartitionCursor(msgspec.Struct):
    """The progress of such a job. A range is a pair: its first partition, and the first partition after it.

    A pass tries every remaining partition once. ``left``: ranges that this pass has not tried yet. ``away``: ranges
    whose server could not serve them in this pass; the next pass tries them again. ``reason``: why the last of these
    could not be served, if the servers said so.
    """

    left: list[tuple[int, int]]
    away: list[tuple[int, int]] = []
    reason: str = ""

    @classmethod
    def load(cls, stored: Any, partition_count: int) -> Self:
        """Return the cursor of a job (``Job.cursor``); before the first step, all partitions are left."""
        return cls([(0, partition_count)]) if stored is None else msgspec.convert(stored, cls, str_keys=True)

    def first(self, count: int) -> list[int]:
        """Return the first partitions that are left in this pass."""
        return sorted(_numbers(self.left))[:count]

    def complete(self, tried: Collection[int], reached: Collection[int]) -> None:
        """Remove the partitions that a step tried; the ones that it did not reach are for the next pass."""
        self.left = _ranges(_numbers(self.left) - set(tried))
        self.away = _ranges(_numbers(self.away) | (set(tried) - set(reached)))

    @property
    def open_count(self) -> int:
        """The number of partitions that are not completed."""
        return len(_numbers(self.left)) + len(_numbers(self.away))

    def end_step(
        self, total: int, *, has_more: bool = False, min_interval_s: float = 0.0, result: Any = None
    ) -> JobStep:
        """Return the step that ends here, of a job for ``total`` partitions.

        If a pass is over but missed partitions, the next pass begins after a pause. ``has_more``: the pass still has
        work after its last partition.
        """
        waits_for = None
        if not self.left and self.away and not has_more:
            self.left, self.away = self.away, []
            cause = f"wait for their servers: {self.reason}" if self.reason else "are on servers that do not answer"
            waits_for = f"{len(_numbers(self.left))} partitions {cause}"
            self.reason = ""
        return JobStep(
            msgspec.to_builtins(self, str_keys=True),
            total - self.open_count,
            total,
            is_last=self.open_count == 0 and not has_more,
            waits_for=waits_for,
            min_interval_s=min_interval_s,
            result=result,
        )


class UserCursor(PartitionCursor):
    """The progress of a job that serves the known users of each partition.

    ``places``: of each partition that was served in part, the place of the last user that was. See
    ``user_batch.place_of``.
    """

    places: dict[int, str] = {}

    def complete_batch(self, tried: Collection[int], reachable: Collection[int], batch: UserBatch) -> None:
        """Remove the partitions whose users are all served. Leave those that failed to the next pass."""
        self.complete([each for each in tried if each not in reachable], ())
        for part in batch.parts:
            self.places.pop(part.partition, None)
            if part.is_last:
                self.complete([part.partition], [part.partition])
            elif part.end:
                self.places[part.partition] = part.end
        self.complete([part.partition for part in batch.parts if part.has_failed], ())

    def postpone(self, tried: Collection[int], error: Unavailable) -> None:
        """Leave partitions to the next pass. ``error``: the reason of the job while it waits for that pass."""
        self.complete(tried, ())
        self.reason = str(error)[:_REASON_LENGTH]


# ---- ranges of partitions: a whole deployment is one pair


def _numbers(ranges: Iterable[tuple[int, int]]) -> set[int]:
    return {number for first, end in ranges for number in range(first, end)}


def _ranges(numbers: set[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number:
            found[-1] = (found[-1][0], number + 1)
        else:
            found.append((number, number + 1))
    return found
