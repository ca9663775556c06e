"""The due times of partitions in Redis: read once, and again only after the server reported a change.

Without a tracker, or while it is not connected, every refresh reads all partitions, as ``next_due_times`` does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from gregor.redis.commands import RedisCommands
from gregor.redis.connection import Command
from gregor.redis.errors import RedisUnavailable, ReplyError
from gregor.redis.reads import call_each_node
from gregor.redis.tracking import KeyTracker, SlowReply
from gregor.store.contract.agenda import SELDOM_S
from gregor.store.contract.store import Unavailable
from gregor.store.redis.errors import results_of_reached
from gregor.store.redis.keys import Keys

_log = logging.getLogger(__name__)

RECHECK_S: Final = 1_200.0
"""Within this time, every partition is read once without a reported change: a safety net against a faulty server."""


class RedisDueTimes:
    """``DueTimes`` over one Redis-protocol server or a cluster.

    Args:
        tracker: Reads keys and reports their changes; ``None``: every refresh reads everything.
        monotonic: Seconds, for the recheck.
    """

    def __init__(
        self,
        connection: RedisCommands,
        keys: Keys,
        tracker: KeyTracker | None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.missed_changes = 0
        """Changes that the server did not report; more than 0 is a fault of the server, or of a proxy before it."""
        self._connection = connection
        self._tracker = tracker
        self._monotonic = monotonic
        dues = [keys.due(partition) for partition in range(keys.partition_count)]
        self._commands: tuple[Command, ...] = tuple(("ZRANGE", due, 0, 0, "WITHSCORES") for due in dues)
        self._places = {due.encode(): partition for partition, due in enumerate(dues)}
        self._watched = frozenset(range(keys.partition_count))
        self._times: dict[int, int | None] = {}
        self._stale = set(self._watched)
        self._seldom: frozenset[int] = frozenset()
        self._read_seldom_s = float("-inf")
        self._rechecked_s = monotonic()
        self._recheck_order: list[int] = []
        if tracker is not None:
            tracker.add_listener(self)

    @property
    def polled(self) -> int:
        """See ``DueTimes.polled``. Partitions that have changed since the last refresh are counted, too."""
        return len(self._stale)

    @property
    def unknown(self) -> int:
        """See ``DueTimes.unknown``."""
        return len(self._watched) - len(self._times)

    def watch(self, partitions: Collection[int], seldom: Collection[int] = ()) -> None:
        """See ``DueTimes.watch``."""
        self._seldom = frozenset(seldom)
        before, self._watched = self._watched, frozenset((*partitions, *seldom))
        self._stale = (self._stale & self._watched) | (self._watched - before)
        self._times = {each: at_us for each, at_us in self._times.items() if each in self._watched}

    def on_stale(self, keys: Collection[bytes]) -> None:
        """See ``StaleListener``."""
        places = self._places
        self._stale.update(places[key] for key in keys if key in places and places[key] in self._watched)

    async def refresh(self) -> Mapping[int, int | None]:
        """See ``DueTimes.refresh``. Costs nothing while nothing changes, but for the recheck."""
        wanted = self._wanted()
        if self._tracker is None:
            self._use(await self._poll(wanted), wanted)
            return self._times
        rechecked = self._due_rechecks()
        # Before the read: a change that is reported during the read makes the partition stale again.
        self._stale.difference_update(wanted)
        try:
            untracked = await self._read(self._tracker, wanted, rechecked)
        except BaseException:
            self._stale.update(wanted)
            raise
        if untracked:
            self._use(await self._poll(untracked), untracked)
        return self._times

    def _wanted(self) -> list[int]:
        """Return the stale partitions whose turn it is to be read."""
        now_s = self._monotonic()
        if now_s - self._read_seldom_s >= SELDOM_S:
            self._read_seldom_s = now_s
            return sorted(self._stale)
        return sorted(self._stale - self._seldom)

    async def _read(self, tracker: KeyTracker, wanted: Sequence[int], rechecked: Sequence[int]) -> list[int]:
        """Read partitions, and track them from now on. Returns those that must be polled."""
        if not wanted and not rechecked:
            return []
        partitions = [*wanted, *rechecked]
        replies = await tracker.read([self._commands[partition] for partition in partitions])
        untracked = []
        for place, (partition, reply) in enumerate(zip(partitions, replies, strict=True)):
            if isinstance(reply, (RedisUnavailable, ReplyError)):
                self._stale.add(partition)
                if isinstance(reply, SlowReply):
                    self._times.pop(partition, None)
                else:
                    untracked.append(partition)
                continue
            at_us = _due_time(reply)
            if place >= len(wanted) and partition not in self._stale and at_us != self._times.get(partition, at_us):
                self._on_missed_change(partition)
            self._times[partition] = at_us
        return untracked

    def _due_rechecks(self) -> list[int]:
        """Return the partitions of the recheck whose turn it is: a few in each round."""
        now_s = self._monotonic()
        count = int((now_s - self._rechecked_s) * len(self._watched) / RECHECK_S)
        if not count:
            return []
        self._rechecked_s = now_s
        chosen: list[int] = []
        for _ in range(min(count, len(self._watched))):
            if not self._recheck_order:
                self._recheck_order = sorted(self._watched, reverse=True)
            partition = self._recheck_order.pop()
            if partition in self._watched and partition not in self._stale:
                chosen.append(partition)
        return chosen

    def _on_missed_change(self, partition: int) -> None:
        self.missed_changes += 1
        self._stale.update(self._watched)
        fix = "connect without a proxy, or check the version of the server"
        _log.error("due_times.change_not_reported partition=%d effect=%s fix=%s", partition, "all are read again", fix)

    # ---- polls

    async def _poll(self, partitions: Sequence[int]) -> list[Any]:
        # Mostly the partitions of one server that just failed: those of the others must not wait for it.
        is_part = len(partitions) < len(self._watched)
        commands = [self._commands[partition] for partition in partitions]
        return await call_each_node(self._connection, commands, is_part=is_part)

    def _use(self, replies: Sequence[Any], partitions: Sequence[int]) -> None:
        """Use polled replies. Raises ``Unavailable`` if no server answered, and no other time is known."""
        try:
            reached = results_of_reached(replies)
        except Unavailable:
            self._forget(partitions)
            if not self._times:
                raise
            return
        self._forget(partition for place, partition in enumerate(partitions) if place not in reached)
        for place, first in reached.items():
            self._times[partitions[place]] = _due_time(first)

    def _forget(self, partitions: Iterable[int]) -> None:
        for partition in partitions:
            self._times.pop(partition, None)


def _due_time(first: Any) -> int | None:
    """Return the score of the first member, from a reply of RESP2 (flat, text) or of RESP3 (pairs, numbers)."""
    if not first:
        return None
    score = first[0][1] if isinstance(first[0], list) else first[1]
    return int(float(score))
