"""What a connection waits for the world with: tokens, presence, commits. One after the other, in the client's order."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import structlog

from gregor.core.close_codes import CloseCode
from gregor.core.errors import Problem
from gregor.store.contract.store import Unavailable
from gregor_gateway.protocol.effects import Acknowledge, CommitMessage, Job, JoinChannel, ReportForeground, VerifyToken
from gregor_gateway.protocol.server_frames import receipt_frame
from gregor_gateway.sessions.authenticator import close_for

if TYPE_CHECKING:
    from .connection import DeviceConnection

log = structlog.get_logger(__name__)

MOST_WAITING: Final = 64
"""Frames of one client that wait to be worked on before no more are read from it."""
MOST_WAITING_BYTES: Final = 1 << 20
"""The same of their bytes: while the store is away, a client costs about one of the largest frames."""
RETRY_S: Final = 1.0
"""What a client is told to wait where the store cannot be reached."""


class TaskQueue:
    """The jobs of one connection; there for as long as there are some."""

    __slots__ = ("_bytes", "_connection", "_is_flooded", "_jobs")

    def __init__(self, connection: DeviceConnection) -> None:
        self._connection = connection
        self._jobs: deque[Job] = deque()
        self._bytes = 0
        self._is_flooded = False
        connection.context.background.start(self._run())

    def add(self, job: Job) -> None:
        """Do it after all others; to join comes first. An acknowledgement takes the place of one that waits."""
        if isinstance(job, JoinChannel):
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
            case VerifyToken():
                await self._verify(job)
            case JoinChannel() if not connection.is_over:
                await self._join()
            case CommitMessage():
                await self._commit(job)
            case Acknowledge(seq) if connection.session.caller is not None:
                seen = min(seq, max(connection.session.seq, connection.reached))
                now_us = connection.context.clock.now_us()
                view = connection.session.view
                await connection.context.store.devices.acknowledge(connection.uid, view, seen, now_us)
            case ReportForeground() if connection.is_present:
                await connection.context.presence.refresh(connection)

    async def _verify(self, job: VerifyToken) -> None:
        connection, session, context = self._connection, self._connection.session, self._connection.context
        caller = await context.authenticator.verify(job.token)
        if job.is_renewal and await context.authenticator.is_revoked(caller):
            raise Problem("unauthorised", "The token was revoked.")
        lives_s, now = context.authenticator.lives_s(caller), context.timers.now
        take = session.renewed if job.is_renewal else session.admitted
        connection.run(take(caller, lives_s, now))
        connection.schedule_tick()

    async def _join(self) -> None:
        connection, session, context = self._connection, self._connection.session, self._connection.context
        wanted = session.view, session.systems, session.locale
        connection.channel = await context.hub.enter(connection.uid, connection, *wanted)
        try:
            # After the subscription: a revocation from here on is heard as a control.
            if session.caller is not None and not session.observes:
                if await context.authenticator.is_revoked(session.caller):
                    connection.close(CloseCode.REVOKED)
                    return
                if connection.is_over:
                    return  # who left meanwhile replaces nobody: its client may be back elsewhere already
                await context.presence.open(connection)
                connection.is_present = True
            if session.observes:
                context.observers.add(connection)
            connection.run(session.joined(context.timers.now))
            connection.schedule_tick()
        finally:
            if connection.is_over:
                connection.leave()

    async def _commit(self, job: CommitMessage) -> None:
        connection, session = self._connection, self._connection.session
        if session.caller is None or session.observes:
            raise Problem("forbidden", "Who looks on sends nothing.")
        if connection.is_over and await connection.context.authenticator.is_revoked(session.caller):
            return  # nobody hears its user's channel any more, which would have told
        done = await connection.context.device_messages.commit(session.caller, job.document, job.size_bytes)
        channel = connection.channel
        if job.ref is None or connection.is_over or channel is None:
            return
        connection.run(session.committed(done.seq, receipt_frame(job.ref, done.receipt), connection.reached))
        if session.awaits:
            channel.waiting.add(connection)
            connection.context.hub.expect(channel, done.seq)

    def _failed(self, job: Job, error: Exception) -> None:
        if not isinstance(error, Problem | Unavailable):
            log.error("A frame could not be worked on.", exc_info=error)
        match job:
            case JoinChannel() | VerifyToken(is_renewal=False):
                self._connection.close(close_for(error))
            case CommitMessage(ref) | VerifyToken(_, ref):
                self._connection.run(self._connection.session.refused(ref, problem_of(error)))


def _bytes_of(job: Job) -> int:
    match job:
        case CommitMessage():
            return job.size_bytes
        case VerifyToken(token):
            return len(token)
    return 0


def problem_of(error: Exception) -> Problem:
    """What a client is told of what went wrong."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, Unavailable):
        return error.problem()
    return Problem("internal", "A fault of the server. Try again.", retry_after_s=RETRY_S)
