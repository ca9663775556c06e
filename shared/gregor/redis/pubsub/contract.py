"""The pub/sub contract: ``RedisPubSub`` (one server), ``ClusterPubSub`` and ``MemoryPubSub`` implement it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

PubSubStatus: TypeAlias = Literal["ok", "late", "down"]


class Receiver(Protocol):
    """Receives the messages of a channel.

    The methods are called in the event loop, in order, and must return quickly.
    """

    def receive(self, payload: bytes) -> None:
        """Receive one message. The first may come before the awaitable of ``subscribe`` resumes."""
        ...

    def lost(self) -> None:
        """Handle an interruption: no message comes until ``gap``."""
        ...

    def gap(self, *, same_server: bool) -> None:
        """Handle a gap: messages may have been lost since the last one.

        The subscription is active again: read the current state. ``same_server``: whether it belongs to the same
        server process as before. If not, messages that were received may be unknown to the new server.
        """
        ...


@dataclass(frozen=True, slots=True)
class SubscriptionReport:
    """The subscriptions of a process at one server, for metrics.

    ``probe_s``: from the publication of the last probe that came back to its arrival; ``None`` before the first one.
    ``probe_failures``, ``reconnections``: since the start.
    """

    probe_s: float | None
    probe_failures: int
    reconnections: int
    channels: int


class PubSub(Protocol):
    """Subscriptions of a process."""

    @property
    def status(self) -> PubSubStatus:
        """``ok``: the last probe came back. ``late``: it did not.

        ``down``: the last three did not, or none ever did.
        """
        ...

    @property
    def healthy(self) -> bool:
        """Whether ``status`` is not ``down`` (``/readyz``)."""
        ...

    def subscribe(self, channel: bytes | str, receiver: Receiver, *, sharded: bool = True) -> asyncio.Future[None]:
        """Subscribe a receiver to a channel. Takes effect at once; the future ends when the server has confirmed.

        Every later message is received, or ``gap`` is called. Subscribing the same receiver again adds nothing.

        The future waits as long as the server is unreachable: bound it with ``asyncio.timeout``, and call
        ``unsubscribe`` on a timeout. It fails with ``ReplyError`` if the server refuses the channel, and with
        ``RedisUnavailable`` if the pub/sub is closed. ``unsubscribe`` cancels it.

        Args:
            sharded: Use a sharded channel; otherwise a channel of the whole cluster.
        """
        ...

    def unsubscribe(self, channel: bytes | str, receiver: Receiver, *, sharded: bool = True) -> None:
        """Remove a receiver from a channel; it receives nothing afterwards. Does nothing if it was not subscribed."""
        ...

    def report(self) -> Mapping[str, SubscriptionReport]:
        """Return the state of the subscriptions at each server, by its name."""
        ...

    async def close(self) -> None:
        """End all subscriptions."""
        ...
