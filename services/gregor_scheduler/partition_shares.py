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

_SCORES_PER_DIGEST = 8
"""A digest of 64 bytes has the scores of eight partitions."""

DEPUTIES = 2
"""Schedulers that watch a partition besides its owner. Its work is only delayed if all of them fail at once."""


class Share(NamedTuple):
    """The partitions of one scheduler.

    ``owned``: the partitions that it serves. ``deputy``: the partitions that it only serves if they are late, each
    with its rank among the deputies (1 serves first).
    """

    owned: frozenset[int]
    deputy: Mapping[int, int]


class PartitionShares:
    """Computes the share of this scheduler. ``own``: the id of this scheduler."""

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
        # The rank of this scheduler for each partition: how many others have a higher score.
        ranks = [sum(other[n] > own[n] for other in others) for n in range(self._count)]
        before = self.share
        self.share = Share(
            frozenset(n for n, rank in enumerate(ranks) if rank == 0),
            {n: rank for n, rank in enumerate(ranks) if 1 <= rank <= DEPUTIES},
        )
        return self.share != before


def scores(member: str, partition_count: int) -> tuple[int, ...]:
    """Return the score of a scheduler for each partition. The scheduler with the highest score owns the partition."""
    numbers: list[int] = []
    for block in range(0, partition_count, _SCORES_PER_DIGEST):
        numbers += unpack("8Q", blake2b(f"{block}/{member}".encode()).digest())
    return tuple(numbers[:partition_count])
