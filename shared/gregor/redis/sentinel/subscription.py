"""The subscription to the events of one Sentinel."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any, Final

from gregor.core.backoff import Backoff
from gregor.redis.connect import connect
from gregor.redis.connection import RedisConnection, pack
from gregor.redis.errors import RedisUnavailable, ReplyError
from gregor.redis.url import RedisUrl

from .events import EVENTS, SentinelEvent, parse_event
from .query import QUERY_TIMEOUT_S

_log = logging.getLogger(__name__)

PING_S: Final = 5.0
"""Interval of the pings that find a dead connection. After a silence of two intervals the connection is replaced."""
_FIRST_RETRY_S: Final = 0.2
_MAX_RETRY_S: Final = 5.0


class SentinelSubscription:
    """Receives the events of one Sentinel for as long as ``run`` runs, with one connection at a time."""

    def __init__(self, sentinel: Callable[[], RedisUrl], on_event: Callable[[SentinelEvent], None]) -> None:
        self._sentinel = sentinel
        self._on_event = on_event
        self._lost = asyncio.Event()
        self._is_refused = False
        self.is_confirmed = False

    async def run(self) -> None:
        """Subscribe, and subscribe again after each interruption."""
        loop, backoff = asyncio.get_running_loop(), Backoff(_FIRST_RETRY_S, _MAX_RETRY_S, random.uniform)
        while True:
            try:
                self._lost.clear()
                connection = await connect(self._sentinel(), "gregor-sentinel", self, QUERY_TIMEOUT_S)
            except RedisUnavailable as error:
                _log.info("sentinel.subscribe_failed error=%s", error)
            else:
                try:
                    await self._listen(connection)
                finally:
                    connection.abort("was closed by this process")
            await asyncio.sleep(backoff.next_at(loop.time()))

    async def _listen(self, connection: RedisConnection) -> None:
        """Subscribe, then ping until the connection ends."""
        loop = asyncio.get_running_loop()
        connection.write(pack(("SUBSCRIBE", *EVENTS)))
        while not self._lost.is_set():
            try:
                async with asyncio.timeout(PING_S):
                    await self._lost.wait()
            except TimeoutError:
                if loop.time() - connection.last_received_at > 2 * PING_S:
                    connection.abort(f"was silent for {2 * PING_S:g} s")
                else:
                    connection.write(pack(("PING",)))

    def on_replies(self, replies: list[Any]) -> None:
        """Pass the events on. Called by the connection."""
        for reply in replies:
            match reply:
                case [b"message", bytes(channel), bytes(payload)]:
                    event = parse_event(channel, payload)
                    if event is not None:
                        self._on_event(event)
                case [b"subscribe", *_]:
                    self.is_confirmed = True
                case ReplyError() if not self._is_refused:
                    # Without the permission the periodic queries must suffice.
                    self._is_refused = True
                    _log.warning("sentinel.subscribe_refused sentinel=%s error=%s", self._sentinel(), reply)

    def on_lost(self, reason: str) -> None:
        """End the listening. Called by the connection."""
        self.is_confirmed = False
        self._lost.set()

    def on_resumed(self) -> None:
        """Do nothing: little is written. Called by the connection."""
