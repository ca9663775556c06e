"""The watcher of a primary: it finds the primary, and closes every connection to a server that was replaced."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final
from weakref import WeakKeyDictionary

from gregor.redis.connect import connect
from gregor.redis.connection import ConnectionListener, RedisConnection
from gregor.redis.errors import RedisUnavailable, ReplyError
from gregor.redis.url import RedisUrl

from .events import EventKind, SentinelEvent, ServerAddress
from .query import PrimaryReport, ask_sentinels
from .subscription import SentinelSubscription

_log = logging.getLogger(__name__)

POLL_S: Final = (4.0, 5.0)
"""Bounds of the interval at which all Sentinels are asked: an event that was missed costs at most the longer one."""
HOLD_S: Final = 3.0
"""How long a primary that is being replaced is not used. A promotion takes about a second; afterwards the Sentinels
name the new primary, or the failover has failed and the old one is used again."""
_HELD_QUERY_S: Final = 0.1
"""Interval of the queries while a primary is being replaced."""
_ASK_AGAIN_S: Final = 0.2
"""Shortest interval of the queries that clients request; each refused command requests one."""


class PrimaryWatcher:
    """Knows the primary of one service, and closes the connections to a server that is not the primary any more.

    Attributes:
        address: The Sentinels, with the current credentials.
        primary: The last known address of the primary.
        switches: How often the primary has changed.
        users: The connectors that use this watcher. The last one closes it.
    """

    def __init__(self, address: RedisUrl) -> None:
        self.address = address
        self.primary: ServerAddress | None = None
        self.switches = 0
        self.users: set[object] = set()
        self._config_epoch = -1
        self._connections: dict[RedisConnection, ServerAddress] = {}
        # A primary that is being replaced, and the time until which it is not used.
        self._held: ServerAddress | None = None
        self._held_until = 0.0
        self._loop = asyncio.get_running_loop()
        self._query: asyncio.Task[PrimaryReport] | None = None
        self._last_request = float("-inf")
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_watching = False

    async def connect(
        self, address: RedisUrl, client_name: str, listener: ConnectionListener, timeout_s: float
    ) -> RedisConnection:
        """Return a connection to the primary, which is closed as soon as another server is the primary.

        ``address``: its database and credentials. Raises ``RedisUnavailable`` if no Sentinel knows the primary, or if
        the server is a replica.
        """
        primary = await self.locate(timeout_s)

        async def check(connection: RedisConnection) -> None:
            await _require_primary(connection)
            if self.primary != primary or self._is_held(primary):
                raise RedisUnavailable("was replaced by another primary")
            # Registered before the listener is set: from now on a switch closes the connection.
            self._connections[connection] = primary

        self._connections = {each: to for each, to in self._connections.items() if each.close_reason is None}
        return await connect(address.server(*primary), client_name, listener, timeout_s, check)

    def ask_again(self) -> None:
        """Ask the Sentinels soon: a server has refused a write. Repeated calls cause at most one query in 0.2 s."""
        if self._loop.time() - self._last_request >= _ASK_AGAIN_S:
            self._last_request = self._loop.time()
            self._start(self._refresh_after_event())

    async def close(self) -> None:
        """Stop watching. The connections are closed by their owners."""
        tasks = [*self._tasks, *([self._query] if self._query is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._is_watching = False

    # ---- events and polls

    def on_event(self, event: SentinelEvent) -> None:
        """Handle an event of any Sentinel."""
        if event.service != self.address.service:
            return
        if event.kind in (EventKind.REPLACED, EventKind.BEING_REPLACED):
            if event.primary == self.primary and not self._is_held(event.primary):
                _log.warning("sentinel.primary_left sentinel_service=%s server=%s:%d", event.service, *event.primary)
                self._hold(event.primary)
        elif event.kind is EventKind.ABORTED and event.primary == self._held:
            self._held = None
        self._start(self._refresh_after_event())

    def _hold(self, primary: ServerAddress) -> None:
        """Close the connections to a primary that is being replaced, and open no others for a while."""
        self._held, self._held_until = primary, self._loop.time() + HOLD_S
        self._close_connections(lambda server: server == primary, "is being replaced by another primary")

    def _is_held(self, primary: ServerAddress) -> bool:
        return primary == self._held and self._loop.time() < self._held_until

    def _start_watching(self) -> None:
        if not self._is_watching:
            self._is_watching = True
            for number in range(len(self.address.hosts)):
                self._start(SentinelSubscription(partial(self._sentinel, number), self.on_event).run())
            self._start(self._poll())

    def _sentinel(self, number: int) -> RedisUrl:
        return self.address.sentinels()[number]

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(random.uniform(*POLL_S))
            await self._refresh()

    async def _refresh_after_event(self) -> None:
        # The Sentinels may have answered a query under way before the event.
        if self._query is not None and not self._query.done():
            await asyncio.wait([self._query])
        await self._refresh()

    async def _refresh(self) -> None:
        """Ask the Sentinels. If none answers, the known primary stays in use: a failover needs Sentinels, too."""
        try:
            await self._ask()
        except RedisUnavailable as error:
            _log.warning("sentinel.query_failed sentinel_service=%s error=%s", self.address.service, error)

    # ---- the primary

    async def locate(self, timeout_s: float) -> ServerAddress:
        """Return the address of the primary, and watch it from now on. While it is being replaced, wait for the new
        one. Raises ``RedisUnavailable``.
        """
        self._start_watching()
        deadline = self._loop.time() + timeout_s
        while True:
            primary = await self._ask()
            if not self._is_held(primary):
                return primary
            if self._loop.time() + _HELD_QUERY_S >= deadline:
                raise RedisUnavailable(f"{self.address}: the primary is being replaced")
            await asyncio.sleep(_HELD_QUERY_S)

    async def _ask(self) -> ServerAddress:
        """Ask the Sentinels, once for all callers, and return the primary that they know."""
        if self._query is None or self._query.done():
            self._query = self._loop.create_task(ask_sentinels(self.address))
            self._query.add_done_callback(lambda done: done.cancelled() or done.exception())  # callers may be gone
        report = await asyncio.shield(self._query)
        return self._learn(report)

    def _learn(self, report: PrimaryReport) -> ServerAddress:
        """Use an answer unless it is older, and close the connections to every other server. Return the primary."""
        # Sentinels that were set up again count from 0, so the answer of a majority is used whatever its epoch is.
        is_older = report.config_epoch < self._config_epoch and not report.is_majority
        if self.primary is not None and is_older:
            return self.primary
        self._config_epoch = report.config_epoch
        if report.primary == self.primary:
            return report.primary
        before, self.primary = self.primary, report.primary
        if before is not None:
            self.switches += 1
            _log.warning(
                "sentinel.primary_switched sentinel_service=%s from=%s:%d to=%s:%d",
                self.address.service,
                *before,
                *report.primary,
            )
        self._close_connections(lambda server: server != report.primary, "is no longer the primary")
        return report.primary

    def _close_connections(self, is_closed: Callable[[ServerAddress], bool], reason: str) -> None:
        for connection, server in list(self._connections.items()):
            if is_closed(server):
                del self._connections[connection]
                connection.abort(reason)

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _require_primary(connection: RedisConnection) -> None:
    """Raise ``RedisUnavailable`` if the server is a replica: the Sentinels may lag behind."""
    # HELLO reports the role like ROLE does, but ROLE is in the ACL category "dangerous", which users may lack.
    [hello] = await connection.request([("HELLO",)])
    if isinstance(hello, ReplyError):
        raise RedisUnavailable(f"refused HELLO, which reports whether it is the primary: {hello}")
    role = hello[hello.index(b"role") + 1]
    if role != b"master":
        raise RedisUnavailable(f"is not the primary (its role is {role.decode()})")


# ---- one watcher for all clients of a process

_watchers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[object, ...], PrimaryWatcher]] = WeakKeyDictionary()


def shared_watcher(address: RedisUrl) -> PrimaryWatcher:
    """Return the watcher of a service: the same one for all clients of this event loop with the same credentials."""
    key = (address.hosts, address.service, address.sentinel_username, address.sentinel_password, address.tls is None)
    watchers = _watchers.setdefault(asyncio.get_running_loop(), {})
    watcher = watchers.get(key)
    if watcher is None:
        watcher = watchers[key] = PrimaryWatcher(address)
    return watcher
