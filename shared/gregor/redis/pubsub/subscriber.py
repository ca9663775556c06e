"""The subscriptions of a process on one connection; interruptions are detected and repaired automatically."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections import deque
from collections.abc import Mapping
from typing import Any, Literal

from gregor.core.backoff import Backoff
from gregor.redis.address import AddressSource, UrlSource
from gregor.redis.commands import RedisCommands
from gregor.redis.connect import FIRST_RETRY_S, MAX_RETRY_S, connect_with_retry
from gregor.redis.connection import RedisConnection, pack
from gregor.redis.connector import connector_of
from gregor.redis.errors import RedisUnavailable, ReplyError

from .channel import PubSubChannel, route
from .contract import PubSubStatus, Receiver, SubscriptionReport
from .probe import MAX_PROBE_FAILURES, Probe

_log = logging.getLogger(__name__)


class RedisPubSub:
    """``PubSub`` of one server.

    Args:
        url: See ``RedisClient``.
        client: Publishes the probes. It must be connected to the same server.
        max_wait_s: How long ``open`` tries to connect.
        timeout_s: Timeout of one attempt to connect.
        probe_s: Interval between probes.
        probe_timeout_s: How long a probe may take to come back.
    """

    def __init__(
        self,
        url: UrlSource,
        client: RedisCommands,
        *,
        namespace: str = "gregor",
        max_wait_s: float = 2.0,
        timeout_s: float = 5.0,
        probe_s: float = 5.0,
        probe_timeout_s: float = 2.0,
    ) -> None:
        addresses = AddressSource(url)
        self.address = addresses.current()
        self.reconnections = 0
        self._connector = connector_of(addresses)
        self._client = client
        self._name = f"{namespace}-pubsub"
        self._max_wait_s = max_wait_s
        self._timeout_s = timeout_s
        self._probe_s = probe_s
        self._probe_timeout_s = probe_timeout_s
        self._probe = Probe(f"{namespace}:probe:{secrets.token_hex(8)}")
        self._failures_in_a_row = MAX_PROBE_FAILURES
        self._failed_probes = 0
        self._loop = asyncio.get_running_loop()
        self._connection: RedisConnection | None = None
        self._channels: dict[bool, dict[bytes, PubSubChannel]] = {True: {}, False: {}}
        # Commands without a confirmation, oldest first: (kind of the confirmation, channel).
        self._unconfirmed: deque[tuple[bytes, PubSubChannel]] = deque()
        self._unsent: list[bytes] = []
        self._is_flush_scheduled = False
        self._backoff = Backoff(FIRST_RETRY_S, MAX_RETRY_S, random.uniform)
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def status(self) -> PubSubStatus:
        """See ``PubSub.status``."""
        if self._failures_in_a_row == 0:
            return "ok"
        return "late" if self._failures_in_a_row < MAX_PROBE_FAILURES else "down"

    @property
    def healthy(self) -> bool:
        """See ``PubSub.healthy``."""
        return self._failures_in_a_row < MAX_PROBE_FAILURES

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._connection is not None

    def report(self) -> Mapping[str, SubscriptionReport]:
        """See ``PubSub.report``."""
        channels = sum(map(len, self._channels.values()))
        probe_s = self._probe.round_trip_s
        return {str(self.address): SubscriptionReport(probe_s, self._failed_probes, self.reconnections, channels)}

    async def open(self) -> None:
        """Connect and probe once. Raises ``RedisAccessRefused`` at once, ``RedisUnavailable`` after ``max_wait_s``."""
        self._attach(await connect_with_retry(self._connect, self._max_wait_s))
        await self.probe()
        self._start_task(self._keep_probing())

    async def close(self) -> None:
        """See ``PubSub.close``."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        connection = self._connection
        if connection is not None:
            connection.abort("was closed by this process")
            await connection.closed.wait()
        for channel in self._all_channels():
            channel.fail(RedisUnavailable(f"the subscriptions of {self.address} are closed"))
        self._channels = {True: {}, False: {}}
        await self._connector.close()

    def subscribe(self, channel: bytes | str, receiver: Receiver, *, sharded: bool = True) -> asyncio.Future[None]:
        """See ``PubSub.subscribe``."""
        name = channel.encode() if isinstance(channel, str) else channel
        found = self._channels[sharded].get(name)
        if found is None:
            found = PubSubChannel(name, sharded)
            if not self._closed:
                self._channels[sharded][name] = found
                self._send("subscribe", found)
        future = found.add(receiver)
        if self._closed:
            found.fail(RedisUnavailable(f"the subscriptions of {self.address} are closed"))
        return future

    def unsubscribe(self, channel: bytes | str, receiver: Receiver, *, sharded: bool = True) -> None:
        """See ``PubSub.unsubscribe``."""
        name = channel.encode() if isinstance(channel, str) else channel
        found = self._channels[sharded].get(name)
        if found is None:
            return
        found.remove(receiver)
        if not found.receivers:
            del self._channels[sharded][name]
            self._send("unsubscribe", found)

    # ---- probe, events of the connection

    async def probe(self) -> bool:
        """Publish a message to ourselves, and return whether it came back. If not, the connection is replaced.

        Runs automatically every ``probe_s``.
        """
        came_back = await self._probe_once()
        self._failures_in_a_row = 0 if came_back else self._failures_in_a_row + 1
        self._failed_probes += not came_back
        return came_back

    def on_replies(self, replies: list[Any]) -> None:
        """Route messages to their channels, and record confirmations. Called by the connection."""
        route(replies, self._channels, self._on_confirmation, self._on_error)

    def on_resumed(self) -> None:
        """Do nothing: commands are few and small, so they are never held back. Called by the connection."""

    def on_lost(self, reason: str) -> None:
        """Mark all channels as unconfirmed, and reconnect. Called by the connection."""
        self._connection = None
        self._unconfirmed.clear()
        self._unsent.clear()
        for channel in self._all_channels():
            channel.interrupt()
        if not self._closed:
            _log.warning("pubsub.disconnected server=%s reason=%s", self.address, reason)
            self._start_task(self._reconnect())

    # ---- subscription commands

    def _all_channels(self) -> list[PubSubChannel]:
        return [channel for channels in self._channels.values() for channel in channels.values()]

    def _send(self, command: Literal["subscribe", "unsubscribe"], channel: PubSubChannel) -> None:
        """Send one (S)SUBSCRIBE or (S)UNSUBSCRIBE together with the others of this loop iteration. Without a
        connection do nothing.

        Each command names one channel, because a server in cluster mode refuses a command with channels of two slots.
        """
        if self._connection is None:
            return
        kind = f"s{command}" if channel.sharded else command
        self._unconfirmed.append((kind.encode(), channel))
        self._unsent.append(pack((kind.upper(), channel.name)))
        if not self._is_flush_scheduled:
            self._is_flush_scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flush_scheduled = False
        data = b"".join(self._unsent)
        self._unsent.clear()
        if self._connection is not None and data:
            self._connection.write(data)

    def _on_confirmation(self, kind: bytes, name: bytes) -> None:
        """Handle a confirmation, or an unsubscription that the server made on its own."""
        # The server confirms in the order of the commands.
        if self._unconfirmed and self._unconfirmed[0][0] == kind and self._unconfirmed[0][1].name == name:
            _, channel = self._unconfirmed.popleft()
            if kind.endswith(b"unsubscribe"):
                return
            if channel.receivers:
                channel.confirm(self._connection.server_id if self._connection is not None else None)
        elif kind == b"sunsubscribe" and name in self._channels[True]:
            # A server in cluster mode does this if the slot of the channel has moved to another server.
            self._abort("withdrew a subscription")
        elif kind != b"sunsubscribe":
            self._abort("sent a confirmation without a request")

    def _on_error(self, error: ReplyError) -> None:
        """Handle the refusal of the oldest unconfirmed channel.

        It is an error for new receivers and an interruption for earlier ones.
        """
        if not self._unconfirmed:
            self._abort(f"sent an error: {error}")
            return
        _, channel = self._unconfirmed.popleft()
        if channel.interrupted:
            self._abort(f"refused a channel that was subscribed before: {error}")
            return
        channel.fail(error)
        channels = self._channels[channel.sharded]
        if channels.get(channel.name) is channel:
            del channels[channel.name]

    # ---- connecting and probing

    def _abort(self, reason: str) -> None:
        if self._connection is not None:
            self._connection.abort(reason)

    def _start_task(self, coroutine: Any) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> RedisConnection:
        return await self._connector.connect(self._name, self, self._timeout_s)

    async def _reconnect(self) -> None:
        while True:
            await asyncio.sleep(self._backoff.next_at(self._loop.time()))
            try:
                connection = await self._connect()
            except RedisUnavailable as error:
                _log.info("pubsub.connect_failed error=%s", error)
                continue
            self.reconnections += 1
            self._attach(connection)
            return

    def _attach(self, connection: RedisConnection) -> None:
        """Subscribe to every channel again in one write.

        Earlier receivers get ``gap`` when their channel is confirmed.
        """
        self._connection = connection
        channels = self._all_channels()
        for channel in channels:
            self._send("subscribe", channel)
        _log.info("pubsub.connected server=%s channels=%d", self.address, len(channels))

    async def _keep_probing(self) -> None:
        while True:
            await asyncio.sleep(self._probe_s)
            await self.probe()

    async def _probe_once(self) -> bool:
        connection, probe = self._connection, self._probe
        if connection is None:
            return False
        try:
            await probe.go_round(self.subscribe, self._client, self._probe_timeout_s)
        except TimeoutError:
            connection.abort(f"did not return a probe within {self._probe_timeout_s:g} s")
            return False
        except (RedisUnavailable, ReplyError) as error:
            _log.warning("pubsub.probe_failed error=%s", error)
            return False
        return True
