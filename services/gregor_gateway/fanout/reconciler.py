"""The periodic comparison with the store: what announcements did not tell is found here (semantics.md L12)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from gregor.store.contract.store import Store, Unavailable
from gregor_gateway.runtime.timer_wheel import TimerWheel

from .batch import Batcher
from .sequence_tracker import Continuity, StreamPosition

if TYPE_CHECKING:
    from .hub import Hub, UserChannel

log = structlog.get_logger(__name__)

AT_ONCE: Final = 500
"""Users a call: one pipelined read each, so that one call takes a few milliseconds of the store."""
SECOND_LOOK_S: Final = 1.0
"""An announcement may be under way when the store is asked: what is missing then is looked at again."""


class Reconciler:
    """Asks the store for the positions of rooms, many at a time, and has mended what differs."""

    def __init__(self, hub: Hub, store: Store, timers: TimerWheel, interval_s: float) -> None:
        self._hub = hub
        self._store = store
        self._timers = timers
        self._interval_s = interval_s
        self._turns = Batcher(hub.sync_reader.background, AT_ONCE, self._compare)

    def begin(self, channel: UserChannel) -> None:
        """A new room: compare it now and then. The first time soon: until then a fork could not be told."""
        self._timers.at(self._timers.now + self._hub.sync_reader.jitter(0.5, 1.5), channel)

    def due(self, channel: UserChannel) -> None:
        """The time of a room has come, if it is still there."""
        if self._hub.channels.get(channel.uid) is channel:
            self.ask(channel)
            self._timers.at(self._timers.now + self._interval_s * self._hub.sync_reader.jitter(0.9, 1.1), channel)

    def ask(self, channel: UserChannel, *, is_sure: bool = False) -> None:
        """Compare soon. ``is_sure``: an announcement cannot be under way any more."""
        self._turns.want(channel, is_sure=is_sure)

    async def _compare(self, channels: dict[UserChannel, bool]) -> None:
        """``rooms``: of each, whether what differs is mended at once."""
        known = [(channel, channel.tracker.mark) for channel in channels]
        asked = [(channel, mark) for channel, mark in known if mark is not None and channel.groups]
        if not asked:
            return
        try:
            heads = await self._store.users.heads([channel.uid for channel, _ in asked])
        except Unavailable:
            for channel, _ in asked:
                self._timers.after(SECOND_LOOK_S, partial(self.ask, channel, is_sure=channels[channel]))
            return
        for (channel, then), head in zip(asked, heads, strict=True):
            self._judge(channel, then, StreamPosition.of(head), channels[channel])

    def _judge(self, channel: UserChannel, then: StreamPosition, there: StreamPosition, is_sure: bool) -> None:
        continuity = channel.tracker.compare(there, then)
        if continuity is Continuity.SAME:
            return
        is_behind = continuity is Continuity.GAP or there.epoch != then.epoch
        if is_behind and not is_sure:
            self._timers.after(SECOND_LOOK_S, partial(self._look_for, channel, there))
            return
        self._hub.repair(channel, continuity, "compare")
        channel.tracker.mark = there
        for subscriber in tuple(channel.waiting):
            subscriber.release_receipts(there.seq)

    def _look_for(self, channel: UserChannel, missed: StreamPosition) -> None:
        """Ask again where this is not known yet. What is under way by now is not what was missed: a sync in its place
        would swallow the reminders among it."""
        if not channel.tracker.has(missed):
            self.ask(channel, is_sure=True)
