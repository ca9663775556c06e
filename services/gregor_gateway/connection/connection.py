"""One connection: carries out what its session asks for. All transports have the same; they differ in bytes alone."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final

from gregor.core.close_codes import CloseCode
from gregor.core.items.announcement import CreationFrame
from gregor.core.items.sync import SyncResult, cursor_for
from gregor.store.contract.access import Ticket
from gregor.store.contract.devices import DeviceSession
from gregor_gateway.context import Parts
from gregor_gateway.fanout.hub import Room
from gregor_gateway.fanout.sync_reader import Question
from gregor_gateway.protocol.deadlines import NEVER, Rules
from gregor_gateway.protocol.effects import Close, Effect, Job, Read, Regroup, Send, SendLive, SendSync, Settle
from gregor_gateway.protocol.hello import Hello, Position
from gregor_gateway.protocol.server_frames import reconnect_frame
from gregor_gateway.protocol.session import Session, State
from gregor_gateway.sessions.authenticator import Admitted
from gregor_gateway.transports.transport import Transport

from .send_queue import PLAIN, Outlet, Put
from .tasks import Work

BATCH_BYTES: Final = 65_536
"""About what one write takes: the high-water mark of a socket's buffer."""
TAKEN_S: Final = 30.0
"""How long a slow client may take for what must go out before its queue moves on (protocol.md, 4002)."""
ANSWERED_S: Final = 1.0
"""How much longer a client that is asked to come back elsewhere may stay to hear the answers to what it said."""
LOOK_AGAIN_S: Final = 0.05
RETRY_S: Final = 1.0
LONGEST_REST_S: Final = 60.0


class Connection:
    """The glue of one client. A member of its user's room, on the wheel, and flushed by the flusher."""

    __slots__ = (
        "_is_dirty",
        "_is_paused",
        "_kind",
        "_outlet",
        "_slow_at",
        "_wheel_at",
        "_work",
        "is_over",
        "is_present",
        "keeps_session",
        "name",
        "opened_us",
        "parts",
        "room",
        "session",
        "ticket",
        "transport",
    )

    def __init__(self, parts: Parts, transport: Transport, rules: Rules, kind: str) -> None:
        """``kind``: the transport's name in the figures."""
        self.parts = parts
        self.transport = transport
        self._kind = kind
        self._outlet = Outlet(rules.queue_bytes)
        self.room: Room | None = None
        self._work: Work | None = None
        self._is_dirty = self._is_paused = self.is_over = self.is_present = False
        self._slow_at = self._wheel_at = NEVER
        self.keeps_session = False
        self.ticket: Ticket | None = None
        self.name = secrets.token_hex(8)
        self.opened_us = parts.clock.now_us()
        self.session = Session(rules, parts.wheel.now, self.name)
        parts.metrics.connections.labels(kind).inc()
        self.put_on_wheel()

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
    def observes(self) -> bool:
        """See ``Member.observes``."""
        return self.session.observes

    @property
    def issued_us(self) -> int:
        """See ``Member.issued_us``."""
        return self.session.caller.iat_us if self.session.caller is not None else 0

    @property
    def cursor(self) -> str:
        """The cursor of what was written; empty where the client was told of none yet."""
        return f"{self._outlet.written_tag}-{self._outlet.written_seq}" if self._outlet.written_tag else ""

    def lease(self, gateway: str) -> DeviceSession:
        """See ``Present.lease``."""
        session = self.session
        return DeviceSession(
            session.name,
            self.name,
            gateway,
            self.opened_us,
            session.foreground,
            session.view.category_filter,
            session.systems,
        )

    def admit(self, admitted: Admitted) -> None:
        """Its token or ticket was good."""
        self.ticket = admitted.ticket
        lives_s = self.parts.admission.lives_s(admitted.caller)
        self.run(self.session.admitted(admitted.caller, lives_s, self.parts.wheel.now, observes=admitted.observes))

    def greet(self, hello: Hello) -> None:
        """The client said what it wants, in the query of its URL."""
        self.run(self.session.greeted(hello))

    def verify(self, token: str) -> None:
        """Check the token that came with the upgrade."""
        self.run(self.session.offered(token))

    def receive(self, raw: bytes) -> None:
        """A frame of the client."""
        self.run(self.session.receive(raw, self.parts.wheel.now))

    def receive_document(self, document: object) -> None:
        """See ``Member.receive_document``."""
        self.run(self.session.receive_document(document, self.parts.wheel.now))

    def post(self, document: object) -> bytes | None:
        """A frame that came by `POST /v1/frames`: what is answered there, if anything."""
        effects = self.session.receive_document(document, self.parts.wheel.now)
        self.run(effect for effect in effects if not isinstance(effect, Send))
        return next((effect.frame for effect in effects if isinstance(effect, Send)), None)

    def deliver(self, seq: int, frame: bytes) -> None:
        """See ``Member.deliver``."""
        session = self.session
        if session.deliver(seq, frame):
            put = self._outlet.put(self.transport.pack(frame, session.tag, seq), seq)
            if put is not Put.QUEUED:
                self._overflow(put)
            if not self._is_dirty:
                self._mark()

    def deliver_run(self, run: Sequence[CreationFrame]) -> int:
        """See ``Member.deliver_run``."""
        session, outlet = self.session, self._outlet
        if outlet.is_idle and not self._is_paused and session.deliver_run(run[0].seq, run[-1].seq):
            outlet.written_seq = session.seq
            return self.transport.write_run(run, session.tag)
        for plain in run:
            self.deliver(plain.seq, plain.frame)
        return 0

    def renamed(self, epoch: bytes) -> None:
        """See ``Member.renamed``."""
        if self.session.state is State.LIVE:
            self.session.tag = cursor_for(epoch, self.session.view, 0).tag
            self._outlet.rename(self.session.tag)

    def demand(self, position: Position | None, reached: int) -> None:
        """See ``Member.demand``."""
        self.run(self.session.demand(position, reached))

    def copy_within(self, spread_s: float, seq: int) -> None:
        """See ``Member.copy_within``."""
        delay_s = spread_s * self.parts.reads.jitter(0.0, 1.0)
        self.parts.wheel.after(delay_s, partial(self._copy, seq))

    def _copy(self, seq: int) -> None:
        if self.session.base < seq:
            self.demand(Position(), 0)

    def synced(self, serial: int, answer: SyncResult, frame: bytes) -> None:
        """See ``Member.synced``."""
        self.run(self.session.synced(serial, answer, frame))
        self.release(0)

    def unread(self, serial: int) -> None:
        """See ``Member.unread``. A first sync that cannot be had ends the connection; a later one is tried again."""
        if not self.session.base and not self.session.tag:
            self.shut(CloseCode.UNAVAILABLE)
        else:
            self.parts.wheel.after(RETRY_S * self.parts.reads.jitter(1.0, 2.0), partial(self._retry, serial))

    def _retry(self, serial: int) -> None:
        self.run(self.session.retry(serial))

    def recounted(self) -> None:
        """See ``Member.recounted``."""
        self.run(self.session.recounted(self.parts.wheel.now))

    def release(self, reached: int) -> None:
        """See ``Member.release``."""
        self.run(self.session.release(max(reached, self.reached)))
        if self.room is not None and not self.session.awaits:
            self.room.waiting.discard(self)

    def shut(self, code: int, reason: str = "") -> None:
        """See ``Member.shut``."""
        self.run(self.session.close(code, reason))

    def drain(self, after_ms: int, reason: str) -> None:
        """Ask the client to come back elsewhere, and close once what it said is answered, or soon after."""
        self.run([Send(reconnect_frame(after_ms, reason))])
        at = self.parts.wheel.now + after_ms / 1000
        self.parts.wheel.after(after_ms / 1000, partial(self._depart, at + ANSWERED_S))

    def _depart(self, until: float) -> None:
        is_answered = self._work is None and not self.session.awaits
        if is_answered or self.parts.wheel.now >= until:
            self.shut(CloseCode.SHUTDOWN)
        else:
            self.parts.wheel.after(LOOK_AGAIN_S, partial(self._depart, until))

    @property
    def reached(self) -> int:
        """Up to which seq the channel has told everything."""
        return self.room.track.seq if self.room is not None else 0

    # ---- time

    def tick(self, now: float) -> None:
        """See ``Ticking.tick``."""
        if now < self._wheel_at or self.is_over:
            return
        self._wheel_at = NEVER
        self.run(self.session.close(CloseCode.SLOW_CONSUMER) if now >= self._slow_at else self.session.tick(now))
        self.put_on_wheel()

    def put_on_wheel(self) -> None:
        """Tick when the next thing is due."""
        # At least once a minute: what is over leaves the wheel with its next tick.
        due = min(self.session.due, self._slow_at, self.parts.wheel.now + LONGEST_REST_S)
        if due < self._wheel_at and not self.is_over:
            self._wheel_at = due
            self.parts.wheel.at(due, self)

    # ---- the way out

    def flush(self) -> tuple[int, int]:
        """See ``Flushable.flush``."""
        self._is_dirty = False
        frames = total = 0
        outlet = self._outlet
        while outlet.entries is not None and not self._is_paused:
            batch = outlet.take(BATCH_BYTES)
            frames += len(batch)
            total += self.transport.write(batch)
        if not self._is_paused:
            self._slow_at = NEVER
            if self.session.state is State.BEHIND:
                self.run(self.session.catch_up(self._outlet.written_tag, self._outlet.written_seq))
        elif self._slow_at != NEVER:
            self.put_on_wheel()
        return frames, total

    def pause(self) -> None:
        """The client does not take what is written."""
        self._is_paused = True

    def resume(self) -> None:
        """It took most of it."""
        self._is_paused = False
        self._mark()

    def _mark(self) -> None:
        if not self._is_dirty and not self.is_over:
            self._is_dirty = True
            self.parts.flusher.add(self)

    def _put(self, packed: bytes, seq: int) -> None:
        put = self._outlet.put(packed, seq)
        if put is not Put.QUEUED:
            self._overflow(put)
        self._mark()

    def _overflow(self, put: Put) -> None:
        self.parts.metrics.overflows.inc()
        self.session.fall_behind()
        self._expect_taken()
        if put is Put.FULL:
            self.shut(CloseCode.SLOW_CONSUMER)

    def _expect_taken(self) -> None:
        """From now on the client must take what is written within the time for it, or is closed."""
        self._slow_at = min(self._slow_at, self.parts.wheel.now + TAKEN_S)

    # ---- effects

    def run(self, effects: Iterable[Effect]) -> None:
        """Carry them out, in order."""
        for effect in effects:
            match effect:
                case SendLive(seq, frame):
                    self._put(self.transport.pack(frame, self.session.tag, seq), seq)
                case Send(frame):
                    self._put(self.transport.pack(frame, "", 0), PLAIN)
                case SendSync(tag, seq, frame):
                    self._outlet.put_sync(self.transport.pack(frame, tag, seq), tag, seq)
                    self._expect_taken()
                    self._mark()
                case Settle(tag, seq):
                    self._outlet.settle(tag, seq)
                    self.transport.settled()
                case Read(position, serial):
                    self._read(position, serial)
                case Close(code, reason):
                    self._close(code, reason)
                case Regroup():
                    if self.room is not None:
                        self.room.remove(self)
                        self.room.add(self, self.session.view, self.session.systems, self.session.locale)
                case _:
                    self._wait_for(effect)

    def _wait_for(self, job: Job) -> None:
        if self.is_over:
            return
        if self._work is None:
            self._work = Work(self)
        self._work.add(job)

    def rested(self) -> None:
        """All work is done."""
        self._work = None

    def _read(self, position: Position, serial: int) -> None:
        if self.room is not None:
            session = self.session
            question = Question(self.room.uid, session.view, session.systems, position, session.locale)
            self.parts.reads.ask(self.parts.hub, self.room, self, serial, question)

    def _close(self, code: int, reason: str) -> None:
        self.parts.metrics.closes.labels(str(code)).inc()
        if self._work is not None:
            self._work.drop()
        self.flush()
        self.transport.close(code, reason)
        self.ended()

    def ended(self) -> None:
        """The client is gone, or sent away. Repeatable."""
        if self.is_over:
            return
        self.is_over = True
        self.session.close(CloseCode.GOING_AWAY)
        self.parts.metrics.connections.labels(self._kind).dec()
        self.leave()

    def leave(self) -> None:
        """Hear the channel no more, and be absent."""
        room, self.room = self.room, None
        if room is not None:
            self.parts.hub.leave(room, self)
            self.parts.onlookers.discard(self)
        if self.is_present:
            self.is_present = False
            self.parts.presence.forget(self, is_over=not self.keeps_session)
