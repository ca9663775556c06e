"""Partitions: the users of one hash slot. The number is chosen at the first start of a deployment, and never changes.

A user belongs to the partition ``crc32(uid) % n``. Partition ``i`` of ``n`` is in the hash slot ``i × 16384 / n``, so
every range of slots of a cluster has its share of the users. See docs/decisions/0014-partitions.md.
"""

from __future__ import annotations

from binascii import crc_hqx
from functools import cache
from typing import Final
from zlib import crc32

from gregor.config.values import PARTITION_COUNTS

# Also in gregor.redis.cluster.slots, which gregor.reference must not import.
SLOTS: Final = 16_384
"""Hash slots of Redis Cluster and Valkey Cluster."""

_LOW_CRCS: Final = tuple(crc_hqx(f"{low:02x}".encode(), 0) for low in range(256))


class Partitions:
    """The partitions of a deployment. ``count`` is one of ``PARTITION_COUNTS``.

    Tags are searched when they are first needed: all of them take about 15 ms, one of them usually less than 1 ms.
    """

    def __init__(self, count: int) -> None:
        if count not in PARTITION_COUNTS:
            raise ValueError(
                f"{count} is not a number of partitions; choose one of {', '.join(map(str, PARTITION_COUNTS))}"
            )
        self.count = count
        self._slots_apart = SLOTS // count
        self._tags: dict[int, str] = {}
        for low in range(256):  # the numbers without digits before the last two
            text = f"{low:x}"
            slot = crc_hqx(text.encode(), 0) % SLOTS
            if slot % self._slots_apart == 0:
                self._tags.setdefault(slot // self._slots_apart, text)
        self._searched = 1

    def of_user(self, uid: str) -> int:
        """Return the partition of a user."""
        return crc32(uid.encode()) % self.count

    def tag(self, partition: int) -> str:
        """Return the hash tag of a partition: the lowest number, in hex, whose CRC16 (XMODEM) is the slot."""
        if not 0 <= partition < self.count:
            raise IndexError(f"partition {partition} of {self.count}")  # the search would never end
        while (tag := self._tags.get(partition)) is None:
            self._search_block(self._searched)
            self._searched += 1
        return tag

    def _search_block(self, high: int) -> None:
        """Find the tags among the 256 numbers with the same digits before the last two."""
        start = f"{high:x}"
        # A CRC is linear: that of "ab" is that of "a" followed by zeros, XOR that of "b".
        shared = crc_hqx(b"\0\0", crc_hqx(start.encode(), 0))
        tags, apart = self._tags, self._slots_apart
        for low, crc in enumerate(_LOW_CRCS):
            slot = (shared ^ crc) % SLOTS
            if slot % apart == 0 and slot // apart not in tags:
                tags[slot // apart] = f"{start}{low:02x}"


@cache
def partitions_of(count: int) -> Partitions:
    """Return the partitions of a deployment with this number; they are shared, because finding the tags takes time."""
    return Partitions(count)


def other_partitions(stored: int, configured: int) -> str:
    """Return the error text for a process whose setting differs from the number of its deployment."""
    return (
        f"this deployment has {stored} partitions, and GREGOR_PARTITIONS is {configured}; "
        f"set GREGOR_PARTITIONS={stored}, or use another GREGOR_NAMESPACE for a new deployment"
    )
