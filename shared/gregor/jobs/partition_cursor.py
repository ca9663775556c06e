"""The cursor of a job that visits every partition, in passes: unreachable partitions do not delay the others."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Self

import msgspec


class PartitionCursor(msgspec.Struct):
    """The progress of such a job. A range is a pair: its first partition, and the first partition after it.

    A pass tries every remaining partition once. ``left``: ranges that this pass has not tried yet. ``away``: ranges
    whose server did not answer in this pass; the next pass tries them again.
    """

    left: list[tuple[int, int]]
    away: list[tuple[int, int]] = []

    @classmethod
    def load(cls, stored: Any, partition_count: int) -> Self:
        """Return the cursor of a job (``Job.cursor``); before the first step, all partitions are left."""
        return cls([(0, partition_count)]) if stored is None else msgspec.convert(stored, cls)

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

    def next_pass(self) -> str | None:
        """Begin another pass if this one is over and missed partitions. Returns the reason to wait before it."""
        if self.left or not self.away:
            return None
        self.left, self.away = self.away, []
        return f"{len(_numbers(self.left))} partitions are on servers that do not answer"


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
