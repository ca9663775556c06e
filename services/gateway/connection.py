"""One connection: carries out what its session asks for. All transports have the same; they differ in bytes alone."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol

import structlog

from gregor.core.errors import Problem
from gregor.core.sync import Answer, cursor_for
from gregor.store import contract
from gregor.store.contract import Unavailable

from .admission import Admitted, close_for
from .deadlines import NEVER, Rules
from .effects import (
    Acknowledge,
    Close,
    Commit,
    Effect,
    Foreground,
    Join,
    Read,
    Regroup,
    Send,
    SendLive,
    SendSync,
    Verify,
)
from .frames import receipt_frame, reconnect_frame
from .hello import Hello, Position
from .hub import Room
from .outlet import Outlet, Put
from .parts import Parts
from .reads import Question
from .session import Session, State

log = structlog.get_logger(__name__)

BATCH_BYTES: Final = 65_536
"""About what one write takes: the high-water mark of a socket's buffer."""
TAKEN_S: Final = 30.0
"""How long a slow client may take for what must go out before its queue moves on (protocol.md, 4002)."""
RETRY_S: Final = 1.0
MOST_JOBS: Final = 64
"""Frames of one client that wait to be worked on before no more are read from it."""

Job = Verify | Join | Commit | Acknowledge | Foreground


class Transport(Protocol):
    """The way to one client. None of it waits; a full buffer is told by ``Connection.pause`` and ``resume``."""

    def pack(self, frame: bytes, tag: str, seq: int) -> bytes:
        """A frame as it is written. ``seq`` is 0 where the frame has no position, else ``tag`` is its cursor's."""
        ...

    def write(self, packed: Sequence[bytes]) -> int:
        """Write these, in one go; how many bytes."""
        ...

    def close(self, code: int, reason: str) -> None:
        """Tell the client why, and end it."""
        ...

    def hold_reading(self, is_held: bool) -> None:
        """Read no more from the client, or again."""
        ...


class Connection:
    """The glue of one client. A member of its user's room, on the wheel, and flushed by the flusher."""

    __slots__ = (
        "_is_dirty",
        "_is_flooded",
        "_is_over",
        "_is_paused",
        "_is_present",
        "_jobs",
        "_kind",
        "_outlet",
        "_parts",
        "_room",
        "_slow_at",
        "_transport",
        "_wheel_at",
        "keeps_session",
        "name",
        "opened_us",
        "session",
    )

    def __init__(self, parts: Parts, transport: Transport, rules: Rules, kind: str) -> None:
        """``kind``: the transport's name in the figures."""
        self._parts = parts
        self._transport = transport
        self._kind = kind
        self._outlet = Outlet(rules.queue_bytes)
        self._room: Room | None = None
        self._jobs: deque[Job] | None = None
        self._is_dirty = self._is_paused = self._is_over = self._is_present = self._is_flooded = False
        self._slow_at = self._wheel_at = NEVER
        self.keeps_session = False
        self.name = secrets.token_hex(8)
        self.opened_us = parts.clock.now_us()
        self.session = Session(rules, parts.wheel.now, self.name)
        parts.metrics.connections.labels(kind).inc()
        self._put_on_wheel()

    # ---- what others ask: the hub, presence, the transport

    @property
    def uid(self) -> str:
        """The user, once the token is known."""
        return self.session.caller.uid if self.session.caller is not None else ""

    @property
    def device(self) -> str:
        """See ``Member.device``."""
        return self.session.view.device

    @property
    def session_name(self) -> str:
        """See ``Member.session_name``."""
        return self.session.name

    @property
    def issued_us(self) -> int:
        """See ``Member.issued_us``."""
        return self.session.caller.iat_us if self.session.caller is not None else 0

    @property
    def cursor(self) -> str:
        """The cursor of what was written."""
        return f"{self._outlet.written_tag}-{self._outlet.written_seq}"

    def lease(self, gateway: str) -> contract.Session:
        """See ``Present.lease``."""
        session = self.session
        return contract.Session(
            session.name,
            self.name,
            gateway,
            self.opened_us,
            session.foreground,
            session.view.cats,
            session.systems,
        )

    def admit(self, admitted: Admitted) -> None:
        """Its token or ticket was good."""
        lives_s = self._parts.admission.lives_s(admitted.caller)
        self.run(self.session.admitted(admitted.caller, lives_s, self._parts.wheel.now, observes=admitted.observes))

    def greet(self, hello: Hello) -> None:
        """The client said what it wants, in the query of its URL."""
        self.run(self.session.greeted(hello))

    def verify(self, token: str) -> None:
        """Check the token that came with the upgrade."""
        self._add_job(Verify(token))

    def receive(self, raw: bytes) -> None:
        """A frame of the client."""
        self.run(self.session.receive(raw, self._parts.wheel.now))

    def receive_document(self, document: object) -> None:
        """See ``Member.receive_document``."""
        self.run(self.session.receive_document(document, self._parts.wheel.now))

    def deliver(self, seq: int, frame: bytes) -> None:
        """See ``Member.deliver``."""
        if self.session.deliver(seq, frame):
            self._put_live(seq, frame)

    def renamed(self, epoch: bytes) -> None:
        """See ``Member.renamed``."""
        if self.session.state is State.LIVE:
            self.session.tag = cursor_for(epoch, self.session.view, 0).tag

    def demand(self, position: Position | None, reached: int) -> None:
        """See ``Member.demand``."""
        self.run(self.session.demand(position, reached))

    def copy_within(self, spread_s: float, seq: int) -> None:
        """See ``Member.copy_within``."""
        delay_s = spread_s * self._parts.reads.jitter(0.0, 1.0)
        self._parts.wheel.after(delay_s, partial(self._copy, seq))

    def _copy(self, seq: int) -> None:
        if self.session.base < seq:
            self.demand(Position(), 0)

    def synced(self, serial: int, answer: Answer, frame: bytes) -> None:
        """See ``Member.synced``."""
        self.run(self.session.synced(serial, answer, frame))
        self.release(0)

    def unread(self, serial: int) -> None:
        """See ``Member.unread``. A first sync that cannot be had ends the connection; a later one is tried again."""
        if not self.session.base and not self.session.tag:
            self.shut(4006)
        else:
            self._parts.wheel.after(RETRY_S * self._parts.reads.jitter(1.0, 2.0), partial(self._retry, serial))

    def _retry(self, serial: int) -> None:
        self.run(self.session.retry(serial))

    def release(self, reached: int) -> None:
        """See ``Member.release``."""
        self.run(self.session.release(max(reached, self._reached)))
        if self._room is not None and not self.session.awaits:
            self._room.waiting.discard(self)

    def shut(self, code: int, reason: str = "") -> None:
        """See ``Member.shut``."""
        self.run(self.session.close(code, reason))

    def drain(self, after_ms: int, reason: str) -> None:
        """Ask the client to come back elsewhere, and close then."""
        self.run([Send(reconnect_frame(after_ms, reason))])
        self._parts.wheel.after(after_ms / 1000, partial(self.shut, 4001))

    @property
    def _reached(self) -> int:
        return self._room.track.seq if self._room is not None else 0

    # ---- time

    def tick(self, now: float) -> None:
        """See ``Ticking.tick``."""
        if now < self._wheel_at or self._is_over:
            return
        self._wheel_at = NEVER
        self.run(self.session.close(4002) if now >= self._slow_at else self.session.tick(now))
        self._put_on_wheel()

    def _put_on_wheel(self) -> None:
        due = min(self.session.due, self._slow_at)
        if due < self._wheel_at and not self._is_over:
            self._wheel_at = due
            self._parts.wheel.at(due, self)

    # ---- the way out

    def flush(self) -> tuple[int, int]:
        """See ``Flushable.flush``."""
        self._is_dirty = False
        frames = total = 0
        while not self._is_paused and (batch := self._outlet.take(BATCH_BYTES)):
            frames += len(batch)
            total += self._transport.write(batch)
        if not self._is_paused:
            self._slow_at = NEVER
            if self.session.state is State.BEHIND:
                self.run(self.session.catch_up(self._outlet.written_tag, self._outlet.written_seq))
        elif self._slow_at != NEVER:
            self._put_on_wheel()
        return frames, total

    def pause(self) -> None:
        """The client does not take what is written."""
        self._is_paused = True

    def resume(self) -> None:
        """It took most of it."""
        self._is_paused = False
        self._mark()

    def _mark(self) -> None:
        if not self._is_dirty and not self._is_over:
            self._is_dirty = True
            self._parts.flusher.add(self)

    def _put_live(self, seq: int, frame: bytes) -> None:
        put = self._outlet.put(self._transport.pack(frame, self.session.tag, seq), seq)
        if put is not Put.QUEUED:
            self._overflow(put)
        if not self._is_dirty:
            self._mark()

    def _put(self, frame: bytes) -> None:
        put = self._outlet.put(self._transport.pack(frame, "", 0))
        if put is not Put.QUEUED:
            self._overflow(put)
        self._mark()

    def _overflow(self, put: Put) -> None:
        self._parts.metrics.overflows.inc()
        self.session.fall_behind()
        self._expect_taken()
        if put is Put.FULL:
            self.shut(4002)

    def _expect_taken(self) -> None:
        """From now on the client must take what is written within the time for it, or is closed."""
        self._slow_at = min(self._slow_at, self._parts.wheel.now + TAKEN_S)

    # ---- effects

    def run(self, effects: Iterable[Effect]) -> None:
        """Carry them out, in order."""
        for effect in effects:
            match effect:
                case SendLive(seq, frame):
                    self._put_live(seq, frame)
                case Send(frame):
                    self._put(frame)
                case SendSync(tag, seq, frame):
                    self._outlet.put_sync(self._transport.pack(frame, tag, seq), tag, seq)
                    self._expect_taken()
                    self._mark()
                case Read(position, serial):
                    self._read(position, serial)
                case Close(code, reason):
                    self._close(code, reason)
                case Regroup():
                    if self._room is not None:
                        self._room.remove(self)
                        self._room.add(self, self.session.view, self.session.systems)
                case _:
                    self._add_job(effect)

    def _read(self, position: Position, serial: int) -> None:
        if self._room is not None:
            question = Question(self._room.uid, self.session.view, self.session.systems, position)
            self._parts.reads.ask(self._parts.hub, self._room, self, serial, question)

    def _close(self, code: int, reason: str) -> None:
        self._parts.metrics.closes.labels(str(code)).inc()
        self.flush()
        self._transport.close(code, reason)
        self.ended()

    def ended(self) -> None:
        """The client is gone, or sent away. Repeatable."""
        if self._is_over:
            return
        self._is_over = True
        self.session.close(1001)
        self._parts.metrics.connections.labels(self._kind).dec()
        self._leave()

    def _leave(self) -> None:
        room, self._room = self._room, None
        if room is not None:
            self._parts.hub.leave(room, self)
        if self._is_present:
            self._is_present = False
            self._parts.presence.forget(self, is_over=not self.keeps_session)

    # ---- work that waits for the world, one after the other

    def _add_job(self, job: Job) -> None:
        if self._is_over:
            return
        if self._jobs is None:
            self._jobs = deque((job,))
            self._parts.background.start(self._work())
        elif isinstance(job, Acknowledge) and isinstance(self._jobs[-1] if self._jobs else None, Acknowledge):
            self._jobs[-1] = job
        else:
            self._jobs.append(job)
        if len(self._jobs) > MOST_JOBS and not self._is_flooded:
            self._is_flooded = True
            self._transport.hold_reading(True)

    async def _work(self) -> None:
        while self._jobs and not self._is_over:
            job = self._jobs.popleft()
            try:
                await self._do(job)
            except Exception as error:
                self._failed(job, error)
            if self._is_flooded and len(self._jobs) < MOST_JOBS // 2 and not self._is_over:
                self._is_flooded = False
                self._transport.hold_reading(False)
        self._jobs = None

    async def _do(self, job: Job) -> None:
        session, parts = self.session, self._parts
        match job:
            case Verify(token, _, is_renewal):
                caller = await parts.admission.verify(token)
                lives_s, now = parts.admission.lives_s(caller), parts.wheel.now
                if is_renewal:
                    self.run(session.renewed(caller, lives_s, now))
                else:
                    self.run(session.admitted(caller, lives_s, now))
                self._put_on_wheel()
            case Join():
                await self._join()
            case Commit(ref, document, size_bytes):
                await self._commit(ref, document, size_bytes)
            case Acknowledge(seq) if session.caller is not None:
                seen = min(seq, max(session.seq, self._reached))
                await parts.store.devices.acknowledge(self.uid, session.view, seen)
            case Foreground() if self._is_present:
                await parts.presence.refresh(self)

    async def _join(self) -> None:
        session, parts = self.session, self._parts
        self._room = await parts.hub.enter(self.uid, self, session.view, session.systems)
        # After the subscription: a revocation from here on is heard as a control.
        if not session.observes and session.caller is not None:
            if await parts.admission.is_revoked(session.caller):
                self.shut(4502)
                return
            await parts.presence.open(self)
            self._is_present = True
        if self._is_over:
            self._leave()
            return
        self.run(session.joined(parts.wheel.now))
        self._put_on_wheel()

    async def _commit(self, ref: int | str | None, document: Mapping[str, Any], size_bytes: int) -> None:
        session = self.session
        if session.caller is None or session.observes:
            raise Problem("forbidden", "Who looks on sends nothing.")
        done = await self._parts.inbox.commit(session.caller, document, size_bytes)
        if ref is None or self._is_over:
            return
        self.run(session.committed(done.seq, receipt_frame(ref, done.receipt), self._reached))
        if session.awaits and self._room is not None:
            self._room.waiting.add(self)
            self._parts.hub.expect(self._room, done.seq)

    def _failed(self, job: Job, error: Exception) -> None:
        if not isinstance(error, Problem | Unavailable):
            log.error("A frame could not be worked on.", exc_info=error)
        match job:
            case Join() | Verify(is_renewal=False):
                self.shut(close_for(error))
            case Commit(ref) | Verify(_, ref):
                self.run(self.session.refused(ref, problem_of(error)))


def problem_of(error: Exception) -> Problem:
    """What a client is told of what went wrong."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, Unavailable):
        return Problem("unavailable", "The store cannot be reached. Try again.", retry_after_s=RETRY_S)
    return Problem("internal", "A fault of the server. Try again.", retry_after_s=RETRY_S)
