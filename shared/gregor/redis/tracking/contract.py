"""Tracked reads, as the store sees them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol

from gregor.redis.connection import Command
from gregor.redis.errors import RedisUnavailable


class SlowReply(RedisUnavailable):
    """The server is connected, but its reply is late. Another read of the key would be late, too."""


class StaleListener(Protocol):
    """Receives reports of keys that must be read again."""

    def on_stale(self, keys: Collection[bytes]) -> None:
        """Handle that the values of these keys may have changed since they were read.

        ``keys`` includes keys that only other listeners have read. Called in the event loop; it must not raise. A key
        is reported once. The next read tracks it again.
        """
        ...


class KeyTracker(Protocol):
    """Reads keys, and reports each one whose value may have changed since its last read."""

    def add_listener(self, listener: StaleListener) -> None:
        """Report stale keys to this listener, too."""
        ...

    async def read(self, commands: Sequence[Command]) -> list[Any]:
        """Send reads, whose second word is the key, and return their replies (of RESP3) in order.

        A failed read has its exception in its place: ``RedisUnavailable`` if its server is not connected, does not
        answer, or does not track keys; ``ReplyError`` if the server refuses the read. Then the key is not tracked: the
        caller reads it through its usual client, and tries again later.
        """
        ...

    async def close(self) -> None:
        """Close the connections for good."""
        ...
