"""Sharing of the partitions between schedulers by rendezvous hashing. Pure.

Each partition has an owner, which serves it, and two deputies, which serve it when the owner is late. All schedulers
compute the same answer from the same list of live schedulers. If one comes or goes, only its own partitions move. Two
schedulers with different lists may both serve a partition: claims are atomic, so each user goes to one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from struct import unpack
from typing import NamedTuple

_SCORES_A_HASH = 8
"""A digest of 64 bytes has the scores of eight partitions."""


DEPUTIES = 2
"""Schedulers that watch a partition besides its owner. More schedulers must be lost at once to delay its work."""


class Share(NamedTuple):
    """The partitions of one scheduler. ``deputy``: its rank among the deputies of each other partition, from 1."""

    owned: frozenset[int]
    deputy: Mapping[int, int]


class PartitionShares:
    """Computes the share of this scheduler. ``own``: its id among the live schedulers."""

    def __init__(self, partition_count: int, own: str) -> None:
        self._count = partition_count
        self._own = own
        self._scores: dict[str, tuple[int, ...]] = {}
        self._members: frozenset[str] = frozenset()
        self.share = Share(frozenset(), {})
        self.update(())

    def update(self, live: Iterable[str]) -> bool:
        """Use a new list of live schedulers; this one is always alive. Returns whether the share has changed."""
        members = frozenset((*live, self._own))
        if members == self._members:
            return False
        self._members = members
        self._scores = {each: self._scores.get(each) or scores(each, self._count) for each in members}
        own, others = self._scores[self._own], [self._scores[each] for each in sorted(members) if each != self._own]
        better = [sum(other[n] > own[n] for other in others) for n in range(self._count)]
        before, self.share = (
            self.share,
            Share(
                frozenset(n for n, count in enumerate(better) if count == 0),
                {n: count for n, count in enumerate(better) if 1 <= count <= DEPUTIES},
            ),
        )
        return self.share != before


def scores(member: str, partition_count: int) -> tuple[int, ...]:
    """Return the score of a scheduler for each partition; the highest score owns it."""
    found: list[int] = []
    for block in range(0, partition_count, _SCORES_A_HASH):
        found += unpack("8Q", blake2b(f"{block}/{member}".encode()).digest())
    return tuple(found[:partition_count])
