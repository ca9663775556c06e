"""Who is there: leases of sessions in the store, refreshed for all connections of a process in batches."""

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
"""How long a session is there without a sign: three refreshes, so that two may be lost."""
TURNS: Final = 20
"""Each second one twentieth of the connections is refreshed."""
AT_ONCE: Final = 500
NO_GATEWAY: Final = ""
"""In place of the gateway of a session that none holds now."""


class PresentConnection(Protocol):
    """A connection that counts as presence."""

    @property
    def uid(self) -> str: ...

    @property
    def device(self) -> str: ...

    def lease(self, gateway: str) -> DeviceSession:
        """Its session, as all gateways know it."""
        ...


class Presence:
    """The sessions of this gateway."""

    def __init__(
        self, store: Store, clock: Clock, timers: TimerWheel, background: BackgroundTasks, gateway: str
    ) -> None:
        self._store = store
        self._clock = clock
        self._timers = timers
        self._background = background
        self._turn = 0
        self._turns: tuple[set[PresentConnection], ...] = tuple(set() for _ in range(TURNS))
        self.gateway = gateway

    def start(self) -> None:
        """Refresh from now on."""
        self._timers.after(1.0, self._refresh)

    async def open(self, present: PresentConnection) -> None:
        """A connection is there: its device is known, and what it displaces is closed, wherever that is held.

        ``Problem``: ``too_many_devices``. ``Unavailable``.
        """
        now_us = self._clock.now_us()
        await self._store.devices.ensure_device(present.uid, present.device, now_us)
        lease = present.lease(self.gateway)
        displaced = await self._store.devices.open_session(present.uid, present.device, lease, now_us, LEASE_US)
        self._turns[hash(lease.connection) % TURNS].add(present)
        for session, code in displaced:
            close = {
                "device": present.device,
                "session": session.session,
                "connection": session.connection,
                "code": code,
            }
            await self._store.devices.publish_control(present.uid, {"close": close})

    async def renew(self, present: PresentConnection) -> None:
        """Tell of a change (foreground) at once. Raises ``Unavailable``."""
        entry = (present.uid, present.device, present.lease(self.gateway))
        await self._store.devices.renew_sessions([entry], self._clock.now_us(), LEASE_US)

    def remove(self, present: PresentConnection, *, is_over: bool = True) -> None:
        """A connection is gone. ``is_over=False``: its session stays until its lease ends (between two long polls)."""
        lease = present.lease(self.gateway)
        self._turns[hash(lease.connection) % TURNS].discard(present)
        if is_over:
            self._background.start(self._close(present.uid, present.device, lease))

    async def park(self, present: PresentConnection) -> None:
        """Between two long polls its session is there, but no gateway holds it. Never raises."""
        entry = (present.uid, present.device, present.lease(NO_GATEWAY))
        try:
            await self._store.devices.renew_sessions([entry], self._clock.now_us(), LEASE_US)
        except Unavailable:
            log.info("A session at rest could not be told from one that is held.")

    async def _close(self, uid: str, device: str, lease: DeviceSession) -> None:
        try:
            await self._store.devices.close_session(uid, device, lease, self._clock.now_us())
        except Unavailable:
            log.info("A session could not be closed; its lease ends by itself.")

    def _refresh(self) -> None:
        self._timers.after(1.0, self._refresh)
        self._turn = (self._turn + 1) % TURNS
        if self._turns[self._turn]:
            self._background.start(self._touch(list(self._turns[self._turn])))

    async def _touch(self, present: list[PresentConnection]) -> None:
        for at in range(0, len(present), AT_ONCE):
            entries = [(each.uid, each.device, each.lease(self.gateway)) for each in present[at : at + AT_ONCE]]
            try:
                await self._store.devices.renew_sessions(entries, self._clock.now_us(), LEASE_US)
            except Unavailable:
                log.info("Presence could not be refreshed; the next turn does so.")
