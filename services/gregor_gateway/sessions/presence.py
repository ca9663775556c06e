"""Presence of devices: each session has a lease in the store, which a heartbeat renews in batches."""

from __future__ import annotations

from typing import Final, Protocol

import structlog

from gregor.clock import Clock
from gregor.store.contract.devices import DeviceSession
from gregor.store.contract.store import Store, Unavailable
from gregor_gateway.runtime.background import BackgroundTasks
from gregor_gateway.runtime.timer_wheel import TimerWheel

log = structlog.get_logger(__name__)

LEASE_US: Final = 60_000_000
"""Lease of a session: three heartbeats, so that two may be lost."""
HEARTBEAT_GROUPS: Final = 20
"""Each second one twentieth of the connections is renewed."""
AT_ONCE: Final = 500
NO_GATEWAY: Final = ""
"""Marks a session that no gateway holds at the moment."""


class PresentConnection(Protocol):
    """A connection that counts as presence."""

    @property
    def uid(self) -> str: ...

    @property
    def device(self) -> str: ...

    def lease(self, gateway: str) -> DeviceSession:
        """Return its session as the store keeps it, held by ``gateway``."""
        ...


class Presence:
    """The presence of the connections of this gateway."""

    def __init__(
        self, store: Store, clock: Clock, timers: TimerWheel, background: BackgroundTasks, gateway: str
    ) -> None:
        self._store = store
        self._clock = clock
        self._timers = timers
        self._background = background
        self._next_group = 0
        self._groups: tuple[set[PresentConnection], ...] = tuple(set() for _ in range(HEARTBEAT_GROUPS))
        self.gateway = gateway

    def start(self) -> None:
        """Start the heartbeat."""
        self._timers.after(1.0, self._renew_next)

    async def open(self, present: PresentConnection) -> None:
        """Register a connection and its device; close the connections that it replaces, at any gateway.

        Raises ``Problem`` ``too_many_devices`` or ``Unavailable``.
        """
        now_us = self._clock.now_us()
        await self._store.devices.ensure_device(present.uid, present.device, now_us)
        lease = present.lease(self.gateway)
        displaced = await self._store.devices.open_session(present.uid, present.device, lease, now_us, LEASE_US)
        self._groups[hash(lease.connection) % HEARTBEAT_GROUPS].add(present)
        # The store has dropped these sessions already; their gateways close the connections.
        for session, code in displaced:
            close = {
                "device": present.device,
                "session": session.session,
                "connection": session.connection,
                "code": code,
            }
            await self._store.devices.publish_control(present.uid, {"close": close})

    async def renew(self, present: PresentConnection) -> None:
        """Store a changed lease (foreground) at once. Raises ``Unavailable``."""
        entry = (present.uid, present.device, present.lease(self.gateway))
        await self._store.devices.renew_sessions([entry], self._clock.now_us(), LEASE_US)

    def remove(self, present: PresentConnection, *, is_over: bool = True) -> None:
        """Remove a connection. Unless ``is_over``, its session stays until its lease expires."""
        lease = present.lease(self.gateway)
        self._groups[hash(lease.connection) % HEARTBEAT_GROUPS].discard(present)
        if is_over:
            self._background.start(self._close(present.uid, present.device, lease))

    async def park(self, present: PresentConnection) -> None:
        """Keep a session between two long polls, held by no gateway. Never raises."""
        entry = (present.uid, present.device, present.lease(NO_GATEWAY))
        try:
            await self._store.devices.renew_sessions([entry], self._clock.now_us(), LEASE_US)
        except Unavailable:
            log.info("presence.park_failed", uid=present.uid)

    async def _close(self, uid: str, device: str, lease: DeviceSession) -> None:
        try:
            await self._store.devices.close_session(uid, device, lease, self._clock.now_us())
        except Unavailable:
            log.info("presence.close_failed", uid=uid)

    def _renew_next(self) -> None:
        self._timers.after(1.0, self._renew_next)
        self._next_group = (self._next_group + 1) % HEARTBEAT_GROUPS
        if self._groups[self._next_group]:
            self._background.start(self._renew_all(list(self._groups[self._next_group])))

    async def _renew_all(self, present: list[PresentConnection]) -> None:
        for at in range(0, len(present), AT_ONCE):
            entries = [(each.uid, each.device, each.lease(self.gateway)) for each in present[at : at + AT_ONCE]]
            try:
                await self._store.devices.renew_sessions(entries, self._clock.now_us(), LEASE_US)
            except Unavailable:
                log.info("presence.renew_failed", sessions=len(entries))
