"""What a feed promises. ``RedisPubSub`` and ``MemoryPubSub`` are twins; one test body holds both to this page."""

from __future__ import annotations

import asyncio
from typing import Literal, Protocol, TypeAlias

PubSubStatus: TypeAlias = Literal["ok", "late", "down"]


class Receiver(Protocol):
    """Who hears a channel. Both are called in the event loop, in the order of publication, and must return soon."""

    def receive(self, payload: bytes) -> None:
        """One publication. May come before the awaitable of ``subscribe`` has been resumed."""
        ...

    def gap(self) -> None:
        """Publications may have been missed since the last one; the subscription stands again. Read what is so now."""
        ...


class PubSub(Protocol):
    """The contract of ``RedisPubSub`` and of its twin ``MemoryPubSub``."""

    @property
    def status(self) -> PubSubStatus:
        """``ok``: the last probe came back; ``late``: it did not; ``down``: nor did the two before, or never any."""
        ...

    @property
    def healthy(self) -> bool:
        """Whether ``status`` is not ``down`` (``/readyz``)."""
        ...

    def subscribe(self, channel: bytes | str, receiver: Receiver, *, sharded: bool = True) -> asyncio.Future[None]:
        """Route a channel to a receiver too. Done at once; the future ends when the server has confirmed.

        Every publication after that is received, or ``gap`` is called. The future waits as long as the server cannot be
        reached: bound it (``asyncio.timeout``), and ``unsubscribe`` on giving up. It fails with ``ReplyError`` where
        the server refuses the channel, with ``RedisUnavailable`` where the feed closes. Repeating for the same
        receiver adds nothing. Where ``unsubscribe`` comes first it is cancelled. ``sharded=False``: a channel of the
        whole cluster.
        """
        ...

    def unsubscribe(self, channel: bytes | str, receiver: Receiver, *, sharded: bool = True) -> None:
        """Route a channel to this receiver no more; not an error where it was not. Nothing is received afterwards."""
        ...

    async def close(self) -> None:
        """End all subscriptions."""
        ...
