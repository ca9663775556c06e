"""Presence of devices: one lease of this gateway carries the sessions of all its connections.

A session is written when it is opened, changed or closed. While it stays open, only the gateway's lease is renewed.
Three things repair what the store lost:

- Each session is written again every 20 minutes.
- If the lease was lost or had ended, or another server took over, all sessions are written again under a new id of the
  gateway. A session whose close was lost keeps the former id, and ends with it.
- A change that failed is written again every second.

See docs/decisions/0017-gateway-leases.md.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from functools import partial
from itertools import islice
from typing import Final, NamedTuple, Protocol

import structlog
from prometheus_client import Counter

from gregor.auth.device_tokens import Caller
from gregor.clock import Clock
from gregor.store.contract.devices import DeviceSession
from gregor.store.contract.store import Store, Unavailable, UnreadableValue
from gregor.store.gateways import HELD_LEASE_US, NO_GATEWAY, RENEW_S
from gregor_gateway.runtime.background import BackgroundTasks
from gregor_gateway.runtime.timer_wheel import TimerWheel

from .displacements import DisplacementLimiter

log = structlog.get_logger(__name__)

LEASE_US: Final = 60_000_000
"""Own lease of a session between two polls, and of all sessions while the gateway's lease cannot be renewed."""
GROUPS: Final = 20
"""The sessions are written again in so many groups."""
SWEEP_S: Final = 60.0
"""Interval between two groups: each session is written again every 20 minutes, 0.0008 times a second."""
FAST_SWEEP_S: Final = 1.0
"""The same interval during a repair, and while the lease cannot be renewed. Own leases then last three rounds."""
TRUSTED_S: Final = 2 * RENEW_S
"""Time for which the last renewal of the gateway's lease is trusted."""
AT_ONCE: Final = 500


class PresentConnection(Protocol):
    """A connection that counts as presence."""

    @property
    def uid(self) -> str: ...

    @property
    def device(self) -> str: ...

    def lease(self, gateway: str) -> DeviceSession:
        """Return its session as the store keeps it, held by ``gateway``."""
        ...


class EndedSession(NamedTuple):
    """A session that is to be closed in the store."""

    uid: str
    device: str
    session: DeviceSession


class Presence:
    """The presence of the connections of this gateway."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        timers: TimerWheel,
        background: BackgroundTasks,
        renewals: Counter,
        displacements: DisplacementLimiter,
    ) -> None:
        self._store = store
        self._clock = clock
        self._timers = timers
        self._background = background
        self._renewals = renewals
        self._displacements = displacements
        self._next_group = 0
        self._groups: tuple[set[PresentConnection], ...] = tuple(set() for _ in range(GROUPS))
        self._renewed_s: float | None = None
        self._swept_s = 0.0
        self._is_repair_due = False
        self._unrepaired: set[int] = set()
        self._unwritten: dict[PresentConnection, None] = {}
        self._between_polls: dict[str, EndedSession] = {}
        self._unclosed: dict[str, EndedSession] = {}
        self.gateway = _new_id()
        self._former_gateway = NO_GATEWAY

    # ---- the lease of this gateway

    async def join(self) -> None:
        """Make this gateway known before it accepts connections. Never raises: later renewals try again."""
        await self._renew_lease()

    def start(self) -> None:
        """Start the renewal of the lease, and the slow repair of sessions."""
        self._timers.after(RENEW_S, self._renew_next)
        self._timers.after(FAST_SWEEP_S, self._sweep_next)

    def _renew_next(self) -> None:
        self._timers.after(RENEW_S, self._renew_next)
        self._background.start(self._renew_lease())
        self._close_leftovers()

    async def _renew_lease(self) -> None:
        try:
            is_kept = await self._renew(self.gateway)
            is_lost = self._renewed_s is not None and not is_kept
            if is_lost:
                log.warning("presence.writes_may_be_lost", gateway=self.gateway)
                self._is_repair_due = True
            self._renewals.labels("lost" if is_lost else "renewed").inc()
            self._renewed_s = self._timers.now
            if self._former_gateway != NO_GATEWAY:
                await self._renew(self._former_gateway)
            elif self._is_repair_due:
                await self._start_repair()
        except Unavailable as error:
            self._renewals.labels("failed").inc()
            log.warning("presence.gateway_lease_failed", gateway=self.gateway, reason=str(error))

    async def _renew(self, gateway: str) -> bool:
        return await self._store.gateways.renew(gateway, self._clock.now_us())

    async def _start_repair(self) -> None:
        """Take a new id, under which all sessions are written again. The former id is renewed until they are."""
        gateway = _new_id()
        await self._renew(gateway)
        self._is_repair_due = False
        self._former_gateway, self.gateway = self.gateway, gateway
        self._unrepaired = set(range(GROUPS))

    @property
    def is_trusted(self) -> bool:
        """Whether the gateway's lease was renewed in time. Only then does it keep the sessions open."""
        return self._renewed_s is not None and self._timers.now - self._renewed_s <= TRUSTED_S

    @property
    def _own_lease_us(self) -> int:
        return HELD_LEASE_US if self.is_trusted else LEASE_US

    # ---- sessions of connections

    async def open(self, present: PresentConnection) -> None:
        """Register a connection and its device; close the connections that it replaces, at any gateway.

        Raises ``Problem`` ``too_many_devices`` or ``rate_limited``, or ``Unavailable``.
        """
        now_us = self._clock.now_us()
        charge = partial(self._displacements.charge, present.uid, present.device)
        await self._store.devices.ensure_device(present.uid, present.device, now_us, charge)
        lease = present.lease(self.gateway)
        self._between_polls.pop(_key(present.uid, present.device, lease), None)
        try:
            displaced = await self._store.devices.open_session(
                present.uid, present.device, lease, now_us, self._own_lease_us
            )
        except BaseException:
            # Unknown whether it was stored: without this, it would stay open as long as this gateway.
            self._unclosed[lease.connection] = EndedSession(present.uid, present.device, lease)
            raise
        self._group_of(present).add(present)
        if lease.gateway != self.gateway:
            self._unwritten[present] = None  # a repair that began meanwhile may have passed its group
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
        """Store a changed session (foreground) at once, or as soon as the store is available."""
        if not await self._write([present]):
            self._write_later([present])

    def remove(self, present: PresentConnection, *, is_over: bool = True) -> None:
        """Remove a connection and close its session. Unless ``is_over``, ``park`` may keep the session."""
        lease = present.lease(self.gateway)
        self._group_of(present).discard(present)
        self._unwritten.pop(present, None)
        ended = EndedSession(present.uid, present.device, lease)
        if is_over:
            self._background.start(self._close(ended))
        else:
            self._between_polls[_key(*ended)] = ended

    async def park(self, present: PresentConnection) -> None:
        """Keep a session between two long polls, held by no gateway. Never raises."""
        session = present.lease(NO_GATEWAY)
        ended = self._between_polls.pop(_key(present.uid, present.device, session), None)
        try:
            await self._renew_unless_revoked(present.uid, present.device, session)
        except Unavailable:
            log.info("presence.park_failed", uid=present.uid)
            if ended is not None:
                self._unclosed[session.connection] = ended

    async def renew_elsewhere(self, caller: Caller, session: DeviceSession) -> None:
        """Store a changed session that is parked or that another gateway has, unless it is over.

        Raises ``Unavailable``.
        """
        own_us = LEASE_US if session.gateway == NO_GATEWAY else HELD_LEASE_US
        entries, now_us = [(caller.uid, caller.device, session)], self._clock.now_us()
        # The connection may have closed since the session was read: no gateway would close a session stored after that.
        await self._store.devices.renew_sessions(entries, now_us, own_us, only_open=True)

    async def _renew_unless_revoked(self, uid: str, device: str, session: DeviceSession) -> None:
        """Store a session between two polls; close it if its token is revoked. Raises ``Unavailable``."""
        await self._store.devices.renew_sessions([(uid, device, session)], self._clock.now_us(), LEASE_US)
        # A revocation closes the session. It may have come after the last check of the token, but before the renewal.
        revoked_us = await self._store.devices.revoked_before(uid, device)
        if revoked_us is not None and session.issued_us <= revoked_us:
            await self._close(EndedSession(uid, device, session))

    async def _close(self, ended: EndedSession) -> None:
        try:
            await self._store.devices.close_session(ended.uid, ended.device, ended.session, self._clock.now_us())
        except Unavailable:
            log.info("presence.close_failed", uid=ended.uid)
            self._unclosed[ended.session.connection] = ended

    def _close_leftovers(self) -> None:
        """Close what could not be closed earlier, and sessions of polls that ended without being parked."""
        leftovers = [*self._unclosed.values(), *self._between_polls.values()]
        self._unclosed, self._between_polls = {}, {}
        if leftovers:
            self._background.start(self._close_all(leftovers))

    async def _close_all(self, ended: list[EndedSession]) -> None:
        for each in ended:
            await self._close(each)

    # ---- repair of lost sessions

    def _sweep_next(self) -> None:
        self._timers.after(FAST_SWEEP_S, self._sweep_next)
        if self._unwritten:
            self._background.start(self._write_unwritten())
        now_s = self._timers.now
        is_fast = bool(self._unrepaired) or not self.is_trusted
        if not is_fast and now_s - self._swept_s < SWEEP_S:
            return
        self._swept_s = now_s
        self._next_group = (self._next_group + 1) % GROUPS
        self._background.start(self._write_group(self._next_group))

    async def _write_unwritten(self) -> None:
        """Write sessions whose changes failed. Those that fail again go to the end, behind those of other shards."""
        present = list(islice(self._unwritten, AT_ONCE))
        for each in present:
            del self._unwritten[each]
        if not await self._write(present):
            self._write_later(present)

    def _write_later(self, present: Iterable[PresentConnection]) -> None:
        # A session that was closed meanwhile must not be recorded again.
        self._unwritten |= {each: None for each in present if each in self._group_of(each)}

    async def _write_group(self, group: int) -> None:
        gateway, present, is_written = self.gateway, list(self._groups[group]), True
        for at in range(0, len(present), AT_ONCE):
            still_open = [each for each in present[at : at + AT_ONCE] if each in self._groups[group]]
            is_written = await self._write(still_open) and is_written
        # A group that failed is written again in the next round: until then, the former id keeps its sessions.
        if is_written and gateway == self.gateway:
            self._unrepaired.discard(group)
            if not self._unrepaired:
                self._former_gateway = NO_GATEWAY

    def _group_of(self, present: PresentConnection) -> set[PresentConnection]:
        return self._groups[hash(present.lease(self.gateway).connection) % GROUPS]

    async def _write(self, present: list[PresentConnection]) -> bool:
        """Write sessions as they are now. Returns whether all were written."""
        entries = [(each.uid, each.device, each.lease(self.gateway)) for each in present]
        try:
            await self._store.devices.renew_sessions(entries, self._clock.now_us(), self._own_lease_us)
        except Unavailable as error:
            log.info("presence.renew_failed", sessions=len(entries))
            # A lease of a later release stays unreadable.
            return isinstance(error, UnreadableValue)
        return True


def _new_id() -> str:
    return secrets.token_hex(6)


def _key(uid: str, device: str, session: DeviceSession) -> str:
    return f"{uid}\0{device}\0{session.connection}"
