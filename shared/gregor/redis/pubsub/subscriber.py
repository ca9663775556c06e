"""The subscriptions of a process on one connection to one server, found broken and mended without being asked."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections import deque
from typing import Any, Final, Literal

from gregor.core.backoff import Backoff
from gregor.redis.client import RedisCommands
from gregor.redis.connect import FIRST_RETRY_S, MAX_RETRY_S, connect, connect_with_retry
from gregor.redis.connection import RedisConnection, RedisUnavailable, ReplyError, pack
from gregor.redis.url import RedisUrl

from .channel import PubSubChannel
from .contract import PubSubStatus, Receiver

_log = logging.getLogger(__name__)

# protocol.md, /readyz: red after three failures in a row.
MOST_FAILURES: Final = 3


class RedisPubSub:
    """``PubSub`` of one server. ``link`` publishes the probes; it must lead to the same server.

    ``patience_s``: how long ``open`` tries. ``timeout_s``: how long a connection may take to make. ``probe_s``: from
    one probe to the next. ``probe_timeout_s``: how long its way back may take.
    """

    def __init__(
        self,
        url: str,
        link: RedisCommands,
        *,
        namespace: str = "gregor",
        patience_s: float = 2.0,
        timeout_s: float = 5.0,
        probe_s: float = 5.0,
        probe_timeout_s: float = 2.0,
    ) -> None:
        self.address = RedisUrl.parse(url)
        self.reconnections = 0
        self._link = link
        self._name = f"{namespace}-feed"
        self._patience_s = patience_s
        self._timeout_s = timeout_s
        self._probe_s = probe_s
        self._probe_timeout_s = probe_timeout_s
        self._probe = _Probe(f"{namespace}:probe:{secrets.token_hex(8)}")
        self._failures = MOST_FAILURES
        self._loop = asyncio.get_running_loop()
        self._wire: RedisConnection | None = None
        self._channels: dict[bool, dict[bytes, PubSubChannel]] = {True: {}, False: {}}
        # Commands without confirmation, oldest first: (kind of the confirmation, channel).
        self._asked: deque[tuple[bytes, PubSubChannel]] = deque()
        self._unsent: list[bytes] = []
        self._flushing = False
        self._backoff = Backoff(FIRST_RETRY_S, MAX_RETRY_S, random.uniform)
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def status(self) -> PubSubStatus:
        """As ``PubSub`` says."""
        if self._failures == 0:
            return "ok"
        return "late" if self._failures < MOST_FAILURES else "down"

    @property
    def healthy(self) -> bool:
        """As ``PubSub`` says."""
        return self._failures < MOST_FAILURES

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._wire is not None

    async def open(self) -> None:
        """Connect and probe once. ``RedisAccessRefused`` at once, ``RedisUnavailable`` after ``patience_s``."""
        self._established(await connect_with_retry(self._dial, self._patience_s))
        await self.probe()
        self._start(self._keep_probing())

    async def close(self) -> None:
        """As ``PubSub`` says."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        wire = self._wire
        if wire is not None:
            wire.drop("was closed by this process")
            await wire.gone.wait()
        for channel in self._all():
            channel.fail(RedisUnavailable(f"the feed of {self.address} is closed"))
        self._channels = {True: {}, False: {}}

    def subscribe(self, channel: bytes | str, receiver: Receiver, *, sharded: bool = True) -> asyncio.Future[None]:
        """As ``PubSub`` says."""
        name = channel.encode() if isinstance(channel, str) else channel
        found = self._channels[sharded].get(name)
        if found is None:
            found = PubSubChannel(name, sharded)
            if not self._closed:
                self._channels[sharded][name] = found
                self._ask("subscribe", found)
        future = found.add(receiver)
        if self._closed:
            found.fail(RedisUnavailable(f"the feed of {self.address} is closed"))
        return future

    def unsubscribe(self, channel: bytes | str, receiver: Receiver, *, sharded: bool = True) -> None:
        """As ``PubSub`` says."""
        name = channel.encode() if isinstance(channel, str) else channel
        found = self._channels[sharded].get(name)
        if found is None:
            return
        found.remove(receiver)
        if not found.receivers:
            del self._channels[sharded][name]
            self._ask("unsubscribe", found)

    async def probe(self) -> bool:
        """Send a message to ourselves and wait for it; whether it came back. A subscription that swallows it is remade.

        Runs by itself every ``probe_s``.
        """
        came_back = await self._probe_once()
        self._failures = 0 if came_back else self._failures + 1
        return came_back

    def replies(self, replies: list[Any]) -> None:
        """Called by the wire: route publications, note confirmations."""
        sharded, plain = self._channels[True], self._channels[False]
        for reply in replies:
            if isinstance(reply, ReplyError):
                self._refused(reply)
                continue
            kind, name, payload = reply
            if kind == b"smessage":
                channel = sharded.get(name)
            elif kind == b"message":
                channel = plain.get(name)
            else:
                self._confirmed(kind, name)
                continue
            if channel is not None:  # else it was unsubscribed, and the server does not know yet
                channel.deliver(payload)

    def resumed(self) -> None:
        """Called by the wire. Commands are few and small: they are never held back."""

    def lost(self, reason: str) -> None:
        """Called by the wire: nothing is subscribed any more; connect again."""
        self._wire = None
        self._asked.clear()
        self._unsent.clear()
        for channel in self._all():
            channel.confirmed = False
        if not self._closed:
            _log.warning("lost the subscriptions: %s %s", self.address, reason)
            self._start(self._reconnect())

    def _all(self) -> list[PubSubChannel]:
        return [channel for channels in self._channels.values() for channel in channels.values()]

    def _ask(self, what: Literal["subscribe", "unsubscribe"], channel: PubSubChannel) -> None:
        """Send one (S)SUBSCRIBE or (S)UNSUBSCRIBE with all others of this turn; without a connection there is no need.

        One channel a command: in a cluster, two channels of one command may belong to two slots.
        """
        if self._wire is None:
            return
        kind = f"s{what}" if channel.sharded else what
        self._asked.append((kind.encode(), channel))
        self._unsent.append(pack((kind.upper(), channel.name)))
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        data = b"".join(self._unsent)
        self._unsent.clear()
        if self._wire is not None and data:
            self._wire.write(data)

    def _confirmed(self, kind: bytes, name: bytes) -> None:
        """A (un)subscription, asked for or not."""
        if self._asked and self._asked[0][0] == kind and self._asked[0][1].name == name:
            _, channel = self._asked.popleft()
            if kind.endswith(b"unsubscribe"):
                return
            if channel.receivers:
                channel.confirm()
        elif kind == b"sunsubscribe" and name in self._channels[True]:
            self._drop("took back a subscription")  # the slot has moved to another server
        elif kind != b"sunsubscribe":
            self._drop("confirmed what was not asked")

    def _refused(self, error: ReplyError) -> None:
        """The server will not give the oldest channel asked for: a failure for who waits, a hole for who had it."""
        if not self._asked:
            self._drop(f"sent an error: {error}")
            return
        _, channel = self._asked.popleft()
        if channel.had_it:
            self._drop(f"refused a channel that it gave before: {error}")
            return
        channel.fail(error)
        channels = self._channels[channel.sharded]
        if channels.get(channel.name) is channel:
            del channels[channel.name]

    def _drop(self, reason: str) -> None:
        if self._wire is not None:
            self._wire.drop(reason)

    def _start(self, coroutine: Any) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _dial(self) -> RedisConnection:
        return await connect(self.address, self._name, self, self._timeout_s)

    async def _reconnect(self) -> None:
        while True:
            await asyncio.sleep(self._backoff.next_at(self._loop.time()))
            try:
                wire = await self._dial()
            except RedisUnavailable as error:
                _log.info("no subscriptions yet: %s", error)
                continue
            self.reconnections += 1
            self._established(wire)
            return

    def _established(self, wire: RedisConnection) -> None:
        """Subscribe to everything again, in one write; who had a channel hears of the gap as it is confirmed."""
        self._wire = wire
        channels = self._all()
        for channel in channels:
            self._ask("subscribe", channel)
        _log.info("connected for subscriptions: %s, %d channels", self.address, len(channels))

    async def _keep_probing(self) -> None:
        while True:
            await asyncio.sleep(self._probe_s)
            await self.probe()

    async def _probe_once(self) -> bool:
        wire, probe = self._wire, self._probe
        if wire is None:
            return False
        try:
            async with asyncio.timeout(self._probe_timeout_s):
                await self.subscribe(probe.channel, probe)
            echo = probe.expect()
            await self._link.call("SPUBLISH", probe.channel, probe.token)
            async with asyncio.timeout(self._probe_timeout_s):
                await echo
        except TimeoutError:
            wire.drop(f"did not bring back a probe within {self._probe_timeout_s:g} s")
            return False
        except (RedisUnavailable, ReplyError) as error:
            _log.warning("no probe could be published: %s", error)
            return False
        return True


class _Probe:
    """The receiver of the feed's own channel."""

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self.token = ""
        self._echo: asyncio.Future[None] | None = None

    def expect(self) -> asyncio.Future[None]:
        """A new ``token``, and the future of its coming back."""
        self.token = secrets.token_hex(8)
        self._echo = asyncio.get_running_loop().create_future()
        return self._echo

    def receive(self, payload: bytes) -> None:
        if self._echo is not None and not self._echo.done() and payload == self.token.encode():
            self._echo.set_result(None)

    def gap(self) -> None:
        """The probe that was lost times out."""
