"""Reconciliation with the store: finds announcements that were lost without a later one to show the gap (L12)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import Final

from gregor.cooperative import for_each
from gregor.store.contract.store import Store, Unavailable
from gregor_gateway.runtime.background import BackgroundTasks
from gregor_gateway.runtime.timer_wheel import TimerWheel

from .batch import Batcher
from .sequence_tracker import Continuity, StreamPosition
from .user_channel import UserChannel

USERS_PER_CALL: Final = 500
"""Users in one pipelined call, so that a call takes the store a few milliseconds."""
UNPROVEN_USERS: Final = 8
"""Users in one batch of full copies, if their position is equal but proves nothing (``Continuity.UNPROVEN``)."""
PAUSE_S: Final = 0.025
"""Pause between two of these batches: 320 users a second.

A copy costs this process 0.4 ms, and this concerns all users of a shard at once. Without pauses, the copies took both
cores of a machine for 0.4 s, and messages of other shards were late by 50 ms (docs/performance.md, ``shards``).
"""
RECHECK_S: Final = 1.0
"""Delay of the second comparison: an announcement that seems missing may still be in flight at the first one."""


class Reconciler:
    """Compares the positions of user channels with the store, and resynchronises the channels that differ.

    ``queue``: the channels to compare; their flag says that no announcement can be in flight, so repair at once.
    """

    def __init__(self, store: Store, timers: TimerWheel, background: BackgroundTasks) -> None:
        self._store = store
        self._timers = timers
        self.results: Counter[str] = Counter()
        """Compared users since the start: ``same``, ``different``, or ``unreachable`` (their shard did not answer)."""
        self.queue: Batcher[UserChannel] = Batcher(background, USERS_PER_CALL, self._compare)
        self._unproven: Batcher[UserChannel] = Batcher(background, UNPROVEN_USERS, self._copy, pause_s=PAUSE_S)

    async def _compare(self, channels: dict[UserChannel, bool]) -> None:
        known = [(channel, channel.process_pending().position) for channel in channels]
        asked = [(channel, position) for channel, position in known if position is not None and channel.groups]
        if not asked:
            return
        try:
            stored = await self._store.users.reachable_heads([channel.uid for channel, _ in asked])
        except Unavailable:
            stored = {}

        def repair(user: tuple[UserChannel, StreamPosition]) -> None:
            channel, then = user
            if channel.uid in stored:
                self._repair_channel(channel, then, StreamPosition.of(stored[channel.uid]), channels[channel])
            else:
                self.results["unreachable"] += 1
                self._timers.after(RECHECK_S, partial(channel.reconcile, is_certain=channels[channel]))

        await for_each(asked, repair)

    def _repair_channel(
        self, channel: UserChannel, then: StreamPosition, stored: StreamPosition, is_certain: bool
    ) -> None:
        """Repair a channel that differs from the store. ``then``: its position when the store was asked."""
        tracker = channel.process_pending()
        continuity = tracker.compare(stored, then)
        if continuity is Continuity.SAME:
            self.results["same"] += 1
            tracker.trust()
            return
        if continuity is Continuity.UNPROVEN:
            self._unproven.add(channel)
            return
        self.results["different"] += 1
        is_behind = continuity is Continuity.GAP or stored.epoch != then.epoch
        if is_behind and not is_certain:
            self._timers.after(RECHECK_S, partial(self._recheck, channel, stored))
            return
        channel.repair(continuity, "compare")
        tracker.position = stored
        tracker.trust()
        channel.release_receipts(stored.seq)

    async def _copy(self, channels: Iterable[UserChannel]) -> None:
        """Send full copies to the users that were not repaired meanwhile.

        A further interruption leads to a new comparison.
        """
        for channel in channels:
            tracker = channel.process_pending()
            if tracker.is_subscribed_elsewhere:
                self.results["different"] += 1
                channel.repair(Continuity.FORK, "compare")
                tracker.trust()

    def _recheck(self, channel: UserChannel, missed: StreamPosition) -> None:
        """Compare again if the announcements are still missing.

        An announcement that arrived meanwhile is not lost. A sync in its place would swallow its reminders.
        """
        if not channel.process_pending().covers(missed):
            channel.reconcile(is_certain=True)
