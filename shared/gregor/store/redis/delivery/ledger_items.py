"""Reading the deliveries of many items of a user in parts of bounded size."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Final

from gregor.redis.commands import RedisCommands
from gregor.store.redis.errors import results_of
from gregor.store.redis.keys import Keys

_COUNTED_AT_ONCE: Final = 500
"""Items whose deliveries are counted together: 1 ms of Redis."""
_READ_AT_ONCE: Final = 500
"""Deliveries that are read together: 0.3 ms of Redis, and some milliseconds of the process to decode all of them.

An item is read as a whole. Few have more than 2,300 deliveries (``EVENT_BOUND_FROM``).
"""


class LedgerItems:
    """Reads the hashes of the ledger. One user may have 2,300 deliveries for each of 10,000 items."""

    def __init__(self, connection: RedisCommands, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys

    async def counts(self, uid: str, items: Sequence[str]) -> list[int]:
        """Return the number of deliveries of each item."""
        counts: list[int] = []
        for at in range(0, len(items), _COUNTED_AT_ONCE):
            names = items[at : at + _COUNTED_AT_ONCE]
            counts += map(int, await results_of(self._call("HLEN", uid, item) for item in names))
        return counts

    async def read(
        self, uid: str, items: Sequence[str], most: int = sys.maxsize
    ) -> AsyncIterator[list[tuple[str, Sequence[Any]]]]:
        """Yield items with their stored deliveries, in parts, until ``most`` deliveries are read."""
        left = most
        for at in range(0, len(items), _COUNTED_AT_ONCE):
            names = items[at : at + _COUNTED_AT_ONCE]
            counts = await self.counts(uid, names)
            for part in _parts(names, counts, left):
                raws = await results_of(self._call("HGETALL", uid, item) for item in part)
                yield list(zip(part, raws, strict=True))
            left -= sum(counts)
            if left <= 0:
                return

    def _call(self, command: str, uid: str, item: str) -> Any:
        return self._connection.call(command, self._keys.deliveries(uid, item))


def _parts(names: Sequence[str], counts: Sequence[int], most: int) -> Iterator[list[str]]:
    """Yield the names in parts of about ``_READ_AT_ONCE`` deliveries, until ``most`` of them are covered."""
    part: list[str] = []
    size = total = 0
    for name, count in zip(names, counts, strict=True):
        if total >= most:
            break
        if part and size + count > _READ_AT_ONCE:
            yield part
            part, size = [], 0
        part.append(name)
        size += count
        total += count
    if part:
        yield part
