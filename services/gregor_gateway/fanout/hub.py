"""Hub of the fan-out: the channels of all users that are connected to this process (architecture.md, "Fan-out")."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

import structlog

from gregor.core.formats import unknown_format_text
from gregor.core.ids import Prefixes
from gregor.core.items.sync import View
from gregor.redis.errors import RedisUnavailable
from gregor.redis.pubsub import PubSub
from gregor.registries.categories import CategoryRegistry
from gregor.store.contract.store import Store, Unavailable

from .subscriber import Subscriber
from .sync_reader import SyncReader
from .user_channel import ChannelServices, UserChannel

SUBSCRIBE_TIMEOUT_S: Final = 5.0
"""How long a subscription may take before the connection is closed with 4006."""
COUNTING_SPREAD_S: Final = 0.5
"""Period over which all connections get a new welcome when other categories count in the badge."""
MISSED_RESET_SPREAD_S: Final = 30.0
"""Period over which all users are read after a gap on the channel that announces resets of all users."""


class Hub:
    """The user channels of a process, by user id."""

    def __init__(self, store: Store, pubsub: PubSub, services: ChannelServices) -> None:
        self._store = store
        self._pubsub = pubsub
        self._services = services
        self.channels: dict[str, UserChannel] = {}

    async def enter(
        self, uid: str, subscriber: Subscriber, view: View, systems: Prefixes, locale: str | None = None
    ) -> UserChannel:
        """Subscribe a connection to its user's channel; return the channel once the server confirmed that.

        Raises ``Unavailable`` if the subscription fails or takes longer than ``SUBSCRIBE_TIMEOUT_S``.
        """
        channel = self.channels.get(uid)
        if channel is None:
            channel = self.channels[uid] = UserChannel(self._services, uid)
            # The first comparison comes soon: until then the tracker cannot recognise a fork.
            timers = self._services.timers
            timers.at(timers.now + self._services.jitter(0.5, 1.5), channel)
        channel.add(subscriber, view, systems, locale)
        try:
            async with asyncio.timeout(SUBSCRIBE_TIMEOUT_S):
                await self._pubsub.subscribe(self._store.channel_of(uid), channel)
        except (TimeoutError, RedisUnavailable) as error:
            self.leave(channel, subscriber)
            raise Unavailable("cannot subscribe to the user's channel") from error
        except BaseException:
            self.leave(channel, subscriber)
            raise
        return channel

    def leave(self, channel: UserChannel, subscriber: Subscriber) -> None:
        """Remove a connection from its channel; unsubscribe the channel if it was the last one."""
        channel.remove(subscriber)
        if not channel.groups and self.channels.get(channel.uid) is channel:
            del self.channels[channel.uid]
            self._pubsub.unsubscribe(self._store.channel_of(channel.uid), channel)

    def announce_counting(self) -> None:
        """Send every connection a new welcome: other categories count in the badge now."""
        for channel in tuple(self.channels.values()):
            for subscriber in channel.subscribers:
                delay_s = self._services.jitter(0.0, COUNTING_SPREAD_S)
                self._services.timers.after(delay_s, subscriber.counting_changed)

    def read_within(self, channel: UserChannel, spread_s: float, reader: SyncReader) -> None:
        """Read a user's state at a random moment of the spread: the read commits a pending reset or expiry."""
        self._services.timers.after(self._services.jitter(0.0, spread_s), partial(reader.read_for_commit, channel))


class CountingWatcher:
    """Notifies the hub when a change of the categories changes which items count in the badge."""

    def __init__(self, registry: CategoryRegistry, hub: Hub) -> None:
        self._registry = registry
        self._hub = hub
        self._uncounted = registry.current.uncounted
        registry.on_change(self._compare)

    def _compare(self) -> None:
        uncounted = self._registry.current.uncounted
        if uncounted != self._uncounted:
            self._uncounted = uncounted
            self._hub.announce_counting()


log = structlog.get_logger(__name__)


class ResetAllReceiver:
    """Receiver of the pub/sub channel that announces a reset of all users (semantics.md L14)."""

    def __init__(self, hub: Hub, reader: SyncReader) -> None:
        self._hub = hub
        self._reader = reader

    def receive(self, payload: bytes) -> None:
        """Reset each connected user within the announced spread."""
        if payload[:1] != b"F":
            reason = unknown_format_text("publication", payload[0] if payload else 0)
            log.warning("publication.unreadable", reason=reason)
            self.gap(same_server=True)
            return
        spread_s = int.from_bytes(payload[3:5], "big")
        for channel in tuple(self._hub.channels.values()):
            channel.is_reset_announced = True
            self._hub.read_within(channel, spread_s, self._reader)

    def lost(self) -> None:
        """Do nothing: ``gap`` follows."""

    def gap(self, *, same_server: bool) -> None:
        """Read each connected user: a reset may have been missed, and its new epoch shows in the read."""
        for channel in tuple(self._hub.channels.values()):
            self._hub.read_within(channel, MISSED_RESET_SPREAD_S, self._reader)
