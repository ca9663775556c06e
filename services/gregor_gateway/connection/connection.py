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
from gregor_gateway.context import GatewayContext
from gregor_gateway.fanout.hub import UserChannel
from gregor_gateway.fanout.sync_reader import SyncRequest
from gregor_gateway.protocol.deadlines import NEVER, SessionRules
from gregor_gateway.protocol.effects import (
    CloseConnection,
    ConfirmCursor,
    Effect,
    Job,
    ReadSync,
    Regroup,
    Send,
    SendLive,
    SendSync,
)
from gregor_gateway.protocol.hello import Hello, Position
from gregor_gateway.protocol.server_frames import reconnect_frame
from gregor_gateway.protocol.session import Session, SessionState
from gregor_gateway.sessions.authenticator import AuthenticatedCaller
from gregor_gateway.transports.transport import Transport

from .send_queue import PLAIN, EnqueueResult, SendQueue
from .tasks import TaskQueue

BATCH_BYTES: Final = 65_536
"""About what one write takes: the high-water mark of a socket's buffer."""
TAKEN_S: Final = 30.0
"""How long a slow client may take for what must go out before its queue moves on (protocol.md, 4002)."""
ANSWERED_S: Final = 1.0
"""How much longer a client that is asked to come back elsewhere may stay to hear the answers to what it said."""
LOOK_AGAIN_S: Final = 0.05
RETRY_S: Final = 1.0
LONGEST_REST_S: Final = 60.0


class DeviceConnection:
    """The glue of one client. A member of its user's room, on the wheel, and flushed by the flusher."""

    __slots__ = (
        "_is_dirty",
        "_is_paused",
        "_kind",
        "_queue",
        "_slow_at",
        "_tick_at",
        "_work",
        "channel",
        "context",
        "is_over",
        "is_present",
        "keeps_session",
        "name",
        "opened_us",
        "session",
        "ticket",
        "transport",
    )

    def __init__(self, context: GatewayContext, transport: Transport, rules: SessionRules, kind: str) -> None:
        """``kind``: the transport's name in the figures."""
        self.context = context
        self.transport = transport
        self._kind = kind
        self._queue = SendQueue(rules.queue_bytes)
        self.channel: UserChannel | None = None
        self._work: TaskQueue | None = None
        self._is_dirty = self._is_paused = self.is_over = self.is_present = False
        self._slow_at = self._tick_at = NEVER
        self.keeps_session = False
        self.ticket: Ticket | None = None
        self.name = secrets.token_hex(8)
        self.opened_us = context.clock.now_us()
        self.session = Session(rules, context.timers.now, self.name)
        context.metrics.connections.labels(kind).inc()
        self.schedule_tick()

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
        return f"{self._queue.written_tag}-{self._queue.written_seq}" if self._queue.written_tag else ""

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

    def admit(self, admitted: AuthenticatedCaller) -> None:
        """Its token or ticket was good."""
        self.ticket = admitted.ticket
        lives_s = self.context.authenticator.lives_s(admitted.caller)
        self.run(self.session.admitted(admitted.caller, lives_s, self.context.timers.now, observes=admitted.observes))

    def greet(self, hello: Hello) -> None:
        """The client said what it wants, in the query of its URL."""
        self.run(self.session.greeted(hello))

    def verify(self, token: str) -> None:
        """Check the token that came with the upgrade."""
        self.run(self.session.offered(token))

    def receive(self, raw: bytes) -> None:
        """A frame of the client."""
        self.run(self.session.receive(raw, self.context.timers.now))

    def receive_document(self, document: object) -> None:
        """See ``Member.receive_document``."""
        self.run(self.session.receive_document(document, self.context.timers.now))

    def post(self, document: object) -> bytes | None:
        """A frame that came by `POST /v1/frames`: what is answered there, if anything."""
        effects = self.session.receive_document(document, self.context.timers.now)
        self.run(effect for effect in effects if not isinstance(effect, Send))
        return next((effect.frame for effect in effects if isinstance(effect, Send)), None)

    def deliver(self, seq: int, frame: bytes) -> None:
        """See ``Member.deliver``."""
        session = self.session
        if session.deliver(seq, frame):
            put = self._queue.put(self.transport.pack(frame, session.tag, seq), seq)
            if put is not EnqueueResult.QUEUED:
                self._overflow(put)
            if not self._is_dirty:
                self._mark()

    def deliver_run(self, run: Sequence[CreationFrame]) -> int:
        """See ``Member.deliver_run``."""
        session, queue = self.session, self._queue
        if queue.is_idle and not self._is_paused and session.deliver_run(run[0].seq, run[-1].seq):
            queue.written_seq = session.seq
            return self.transport.write_run(run, session.tag)
        for plain in run:
            self.deliver(plain.seq, plain.frame)
        return 0

    def epoch_changed(self, epoch: bytes) -> None:
        """See ``Member.renamed``."""
        if self.session.state is SessionState.LIVE:
            self.session.tag = cursor_for(epoch, self.session.view, 0).tag
            self._queue.rename(self.session.tag)

    def resync(self, position: Position | None, reached: int) -> None:
        """See ``Member.demand``."""
        self.run(self.session.resync(position, reached))

    def resync_within(self, spread_s: float, seq: int) -> None:
        """See ``Member.copy_within``."""
        delay_s = spread_s * self.context.sync_reader.jitter(0.0, 1.0)
        self.context.timers.after(delay_s, partial(self._copy, seq))

    def _copy(self, seq: int) -> None:
        if self.session.base < seq:
            self.resync(Position(), 0)

    def synced(self, serial: int, answer: SyncResult, frame: bytes) -> None:
        """See ``Member.synced``."""
        self.run(self.session.synced(serial, answer, frame))
        self.release_receipts(0)

    def sync_failed(self, serial: int) -> None:
        """See ``Member.unread``. A first sync that cannot be had ends the connection; a later one is tried again."""
        if not self.session.base and not self.session.tag:
            self.close(CloseCode.UNAVAILABLE)
        else:
            self.context.timers.after(RETRY_S * self.context.sync_reader.jitter(1.0, 2.0), partial(self._retry, serial))

    def _retry(self, serial: int) -> None:
        self.run(self.session.retry(serial))

    def counting_changed(self) -> None:
        """See ``Member.recounted``."""
        self.run(self.session.counting_changed(self.context.timers.now))

    def release_receipts(self, reached: int) -> None:
        """See ``Member.release``."""
        self.run(self.session.release_receipts(max(reached, self.reached)))
        if self.channel is not None and not self.session.awaits:
            self.channel.waiting.discard(self)

    def close(self, code: int, reason: str = "") -> None:
        """See ``Member.shut``."""
        self.run(self.session.close(code, reason))

    def drain(self, after_ms: int, reason: str) -> None:
        """Ask the client to come back elsewhere, and close once what it said is answered, or soon after."""
        self.run([Send(reconnect_frame(after_ms, reason))])
        at = self.context.timers.now + after_ms / 1000
        self.context.timers.after(after_ms / 1000, partial(self._depart, at + ANSWERED_S))

    def _depart(self, until: float) -> None:
        is_answered = self._work is None and not self.session.awaits
        if is_answered or self.context.timers.now >= until:
            self.close(CloseCode.SHUTDOWN)
        else:
            self.context.timers.after(LOOK_AGAIN_S, partial(self._depart, until))

    @property
    def reached(self) -> int:
        """Up to which seq the channel has told everything."""
        return self.channel.tracker.seq if self.channel is not None else 0

    # ---- time

    def tick(self, now: float) -> None:
        """See ``Ticking.tick``."""
        if now < self._tick_at or self.is_over:
            return
        self._tick_at = NEVER
        self.run(self.session.close(CloseCode.SLOW_CONSUMER) if now >= self._slow_at else self.session.tick(now))
        self.schedule_tick()

    def schedule_tick(self) -> None:
        """Tick when the next thing is due."""
        # At least once a minute: what is over leaves the wheel with its next tick.
        due = min(self.session.due, self._slow_at, self.context.timers.now + LONGEST_REST_S)
        if due < self._tick_at and not self.is_over:
            self._tick_at = due
            self.context.timers.at(due, self)

    # ---- the way out

    def flush(self) -> tuple[int, int]:
        """See ``Flushable.flush``."""
        self._is_dirty = False
        frames = total = 0
        queue = self._queue
        while queue.entries is not None and not self._is_paused:
            batch = queue.take(BATCH_BYTES)
            frames += len(batch)
            total += self.transport.write(batch)
        if not self._is_paused:
            self._slow_at = NEVER
            if self.session.state is SessionState.BEHIND:
                self.run(self.session.catch_up(self._queue.written_tag, self._queue.written_seq))
        elif self._slow_at != NEVER:
            self.schedule_tick()
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
            self.context.write_scheduler.add(self)

    def _put(self, packed: bytes, seq: int) -> None:
        put = self._queue.put(packed, seq)
        if put is not EnqueueResult.QUEUED:
            self._overflow(put)
        self._mark()

    def _overflow(self, put: EnqueueResult) -> None:
        self.context.metrics.overflows.inc()
        self.session.fall_behind()
        self._expect_taken()
        if put is EnqueueResult.FULL:
            self.close(CloseCode.SLOW_CONSUMER)

    def _expect_taken(self) -> None:
        """From now on the client must take what is written within the time for it, or is closed."""
        self._slow_at = min(self._slow_at, self.context.timers.now + TAKEN_S)

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
                    self._queue.put_sync(self.transport.pack(frame, tag, seq), tag, seq)
                    self._expect_taken()
                    self._mark()
                case ConfirmCursor(tag, seq):
                    self._queue.settle(tag, seq)
                    self.transport.confirmed()
                case ReadSync(position, serial):
                    self._read(position, serial)
                case CloseConnection(code, reason):
                    self._close(code, reason)
                case Regroup():
                    if self.channel is not None:
                        self.channel.remove(self)
                        self.channel.add(self, self.session.view, self.session.systems, self.session.locale)
                case _:
                    self._wait_for(effect)

    def _wait_for(self, job: Job) -> None:
        if self.is_over:
            return
        if self._work is None:
            self._work = TaskQueue(self)
        self._work.add(job)

    def rested(self) -> None:
        """All work is done."""
        self._work = None

    def _read(self, position: Position, serial: int) -> None:
        if self.channel is not None:
            session = self.session
            question = SyncRequest(self.channel.uid, session.view, session.systems, position, session.locale)
            self.context.sync_reader.ask(self.context.hub, self.channel, self, serial, question)

    def _close(self, code: int, reason: str) -> None:
        self.context.metrics.closes.labels(str(code)).inc()
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
        self.context.metrics.connections.labels(self._kind).dec()
        self.leave()

    def leave(self) -> None:
        """Hear the channel no more, and be absent."""
        channel, self.channel = self.channel, None
        if channel is not None:
            self.context.hub.leave(channel, self)
            self.context.observers.discard(self)
        if self.is_present:
            self.is_present = False
            self.context.presence.forget(self, is_over=not self.keeps_session)
