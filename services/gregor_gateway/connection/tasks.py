"""What a connection waits for the world with: tokens, presence, commits. One after the other, in the client's order."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import structlog

from gregor.core.close_codes import CloseCode
from gregor.core.errors import Problem
from gregor.store.contract.store import Unavailable
from gregor_gateway.protocol.effects import Acknowledge, Commit, Foreground, Job, Join, Verify
from gregor_gateway.protocol.server_frames import receipt_frame
from gregor_gateway.sessions.authenticator import close_for

if TYPE_CHECKING:
    from .connection import Connection

log = structlog.get_logger(__name__)

MOST_WAITING: Final = 64
"""Frames of one client that wait to be worked on before no more are read from it."""
MOST_WAITING_BYTES: Final = 1 << 20
"""The same of their bytes: while the store is away, a client costs about one of the largest frames."""
RETRY_S: Final = 1.0
"""What a client is told to wait where the store cannot be reached."""


class Work:
    """The jobs of one connection; there for as long as there are some."""

    __slots__ = ("_bytes", "_connection", "_is_flooded", "_jobs")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._jobs: deque[Job] = deque()
        self._bytes = 0
        self._is_flooded = False
        connection.parts.background.start(self._run())

    def add(self, job: Job) -> None:
        """Do it after all others; to join comes first. An acknowledgement takes the place of one that waits."""
        if isinstance(job, Join):
            # What the client said behind its hello, not waiting for the welcome, came while its token was checked.
            self._jobs.appendleft(job)
            return
        if isinstance(job, Acknowledge) and self._jobs and isinstance(self._jobs[-1], Acknowledge):
            self._jobs[-1] = job
            return
        self._jobs.append(job)
        self._bytes += _bytes_of(job)
        is_much = len(self._jobs) > MOST_WAITING or self._bytes > MOST_WAITING_BYTES
        if is_much and not self._is_flooded:
            self._hold_reading(True)

    def drop(self) -> None:
        """Do nothing more: the client was sent away."""
        self._jobs.clear()
        self._bytes = 0

    def _hold_reading(self, is_held: bool) -> None:
        self._is_flooded = is_held
        self._connection.transport.hold_reading(is_held)

    async def _run(self) -> None:
        connection = self._connection
        # A client that says its last word and leaves is still listened to.
        while self._jobs:
            job = self._jobs.popleft()
            self._bytes -= _bytes_of(job)
            try:
                await self._do(job)
            except Exception as error:
                self._failed(job, error)
            is_little = len(self._jobs) < MOST_WAITING // 2 and self._bytes <= MOST_WAITING_BYTES // 2
            if self._is_flooded and is_little:
                self._hold_reading(False)
        connection.rested()

    async def _do(self, job: Job) -> None:
        connection = self._connection
        match job:
            case Verify():
                await self._verify(job)
            case Join() if not connection.is_over:
                await self._join()
            case Commit():
                await self._commit(job)
            case Acknowledge(seq) if connection.session.caller is not None:
                seen = min(seq, max(connection.session.seq, connection.reached))
                now_us = connection.parts.clock.now_us()
                view = connection.session.view
                await connection.parts.store.devices.acknowledge(connection.uid, view, seen, now_us)
            case Foreground() if connection.is_present:
                await connection.parts.presence.refresh(connection)

    async def _verify(self, job: Verify) -> None:
        connection, session, parts = self._connection, self._connection.session, self._connection.parts
        caller = await parts.admission.verify(job.token)
        if job.is_renewal and await parts.admission.is_revoked(caller):
            raise Problem("unauthorised", "The token was revoked.")
        lives_s, now = parts.admission.lives_s(caller), parts.wheel.now
        take = session.renewed if job.is_renewal else session.admitted
        connection.run(take(caller, lives_s, now))
        connection.put_on_wheel()

    async def _join(self) -> None:
        connection, session, parts = self._connection, self._connection.session, self._connection.parts
        wanted = session.view, session.systems, session.locale
        connection.room = await parts.hub.enter(connection.uid, connection, *wanted)
        try:
            # After the subscription: a revocation from here on is heard as a control.
            if session.caller is not None and not session.observes:
                if await parts.admission.is_revoked(session.caller):
                    connection.shut(CloseCode.REVOKED)
                    return
                if connection.is_over:
                    return  # who left meanwhile replaces nobody: its client may be back elsewhere already
                await parts.presence.open(connection)
                connection.is_present = True
            if session.observes:
                parts.onlookers.add(connection)
            connection.run(session.joined(parts.wheel.now))
            connection.put_on_wheel()
        finally:
            if connection.is_over:
                connection.leave()

    async def _commit(self, job: Commit) -> None:
        connection, session = self._connection, self._connection.session
        if session.caller is None or session.observes:
            raise Problem("forbidden", "Who looks on sends nothing.")
        if connection.is_over and await connection.parts.admission.is_revoked(session.caller):
            return  # nobody hears its user's channel any more, which would have told
        done = await connection.parts.inbox.commit(session.caller, job.document, job.size_bytes)
        room = connection.room
        if job.ref is None or connection.is_over or room is None:
            return
        connection.run(session.committed(done.seq, receipt_frame(job.ref, done.receipt), connection.reached))
        if session.awaits:
            room.waiting.add(connection)
            connection.parts.hub.expect(room, done.seq)

    def _failed(self, job: Job, error: Exception) -> None:
        if not isinstance(error, Problem | Unavailable):
            log.error("A frame could not be worked on.", exc_info=error)
        match job:
            case Join() | Verify(is_renewal=False):
                self._connection.shut(close_for(error))
            case Commit(ref) | Verify(_, ref):
                self._connection.run(self._connection.session.refused(ref, problem_of(error)))


def _bytes_of(job: Job) -> int:
    match job:
        case Commit():
            return job.size_bytes
        case Verify(token):
            return len(token)
    return 0


def problem_of(error: Exception) -> Problem:
    """What a client is told of what went wrong."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, Unavailable):
        return error.problem()
    return Problem("internal", "A fault of the server. Try again.", retry_after_s=RETRY_S)
