"""One read whose reply is kept until the server reports a change of its key."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

from gregor.redis.connection import Argument, argument_bytes
from gregor.redis.errors import RedisUnavailable, ReplyError

from .contract import KeyTracker


class TrackedRead:
    """A command that reads one key, its second word. Only one caller at a time may use it."""

    def __init__(self, tracker: KeyTracker, *command: Argument) -> None:
        self.is_current = False
        """Whether ``reply`` returns the kept reply, and a change of the key would be reported."""
        self.changed = asyncio.Event()
        """Set when the key must be read again."""
        self._tracker = tracker
        self._command = command
        self._key = argument_bytes(command[1])
        self._reply: Any = None
        tracker.add_listener(self)

    def on_stale(self, keys: Collection[bytes]) -> None:
        """See ``StaleListener``."""
        if self._key in keys:
            self.is_current = False
            self.changed.set()

    async def reply(self) -> Any:
        """Return the reply (of RESP3), without a command if nothing changed.

        Raises ``RedisUnavailable`` if the key cannot be tracked now, or ``ReplyError``.
        """
        if not self.is_current:
            # Set before the read: if a change is reported during the read, on_stale() resets it.
            self.is_current = True
            self.changed.clear()
            try:
                [reply] = await self._tracker.read([self._command])
            except BaseException:
                self.is_current = False
                raise
            if isinstance(reply, Exception):
                self.is_current = False
                try:
                    raise reply
                finally:
                    # Otherwise the error, its traceback and this frame form a reference cycle.
                    del reply
            self._reply = reply
        return self._reply

    async def is_tracked(self) -> bool:
        """Read the key if it has changed. Returns whether its next change will be reported."""
        try:
            await self.reply()
        except (RedisUnavailable, ReplyError):  # for example MOVED or ASK while the slot of the key moves
            return False
        return self.is_current
