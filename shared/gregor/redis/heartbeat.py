"""Heartbeat of a connection: sends a PING after a silence, and aborts the connection if a reply is late."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .connection import RedisConnection


class Heartbeat:
    """Watches one open connection until ``stop``. It sends nothing while replies arrive.

    Args:
        ping: Sends a PING. From then on, ``owes`` returns true until the reply arrives.
        owes: Returns whether a reply is missing.
        idle_s: A PING is sent after this time without data.
        dead_s: The connection is aborted if a reply is missing and nothing arrives for this time. The caller sets
            ``last_received_at`` when it sends the first command without a reply: the silence starts then.
    """

    def __init__(
        self,
        connection: RedisConnection,
        ping: Callable[[], None],
        owes: Callable[[], bool],
        *,
        idle_s: float,
        dead_s: float,
    ) -> None:
        self._connection = connection
        self._ping = ping
        self._owes = owes
        self._idle_s = idle_s
        self._dead_s = dead_s
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(idle_s, self._beat, None)

    def stop(self) -> None:
        """Stop watching the connection."""
        self._timer.cancel()

    def _beat(self, suspect_since: float | None) -> None:
        """Send a PING, or abort the connection, if the silence is long enough. Schedule the next check.

        A suspended process finds this timer due before it has read what arrived. Therefore a second check follows
        shortly after the first; ``suspect_since`` is the time of the last data that the first check saw.
        """
        # Compared as it was scheduled: a rounded difference could be below the limit, and the timer due at once again.
        connection, now = self._connection, self._loop.time()
        silent_since = connection.last_received_at
        is_owed = self._owes()
        if is_owed and now >= silent_since + self._dead_s:
            if suspect_since == silent_since:
                # The socket may look healthy: without this, a hung server would block its callers.
                connection.abort(f"was silent for {self._dead_s:g} s")
                return
            self._timer = self._loop.call_later(min(0.1, self._dead_s / 10), self._beat, silent_since)
            return
        if not is_owed and now >= silent_since + self._idle_s:
            self._ping()
            silent_since, is_owed = now, True
        # The shorter time bounds the next check: a command may be sent right after this one, and then hang.
        until_s = self._dead_s if is_owed else self._idle_s
        next_at = min(silent_since + until_s, now + min(self._idle_s, self._dead_s))
        self._timer = self._loop.call_at(next_at, self._beat, None)
