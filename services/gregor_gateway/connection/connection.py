"""One client's connection: applies the effects of its protocol session. Transports differ only in bytes."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final

import structlog

from gregor.auth.device_tokens import Caller, removed_key
from gregor.core.close_codes import CloseCode
from gregor.core.errors import Problem
from gregor.core.items.announcement import CreationFrame
from gregor.core.items.sync import Full, SyncResult, cursor_for
from gregor.core.rate_limit import take
from gregor.store.contract.access import Ticket
from gregor.store.contract.devices import DeviceSession
from gregor.store.contract.store import Unavailable, UnreadableValue
from gregor_gateway.context import GatewayContext
from gregor_gateway.fanout.sync_reader import SyncRequest
from gregor_gateway.fanout.user_channel import UserChannel
from gregor_gateway.protocol.client_frames import read_message
from gregor_gateway.protocol.deadlines import NEVER, SessionRules
from gregor_gateway.protocol.effects import (
    Acknowledge,
    ChargeBudget,
    CloseConnection,
    CommitMessage,
    ConfirmCursor,
    Effect,
    JoinChannel,
    LimitReached,
    ReadSync,
    Regroup,
    ReportForeground,
    ResyncRequested,
    Send,
    SendLive,
    SendSync,
    Task,
    VerifyToken,
)
from gregor_gateway.protocol.hello import Hello, Position
from gregor_gateway.protocol.resume import resume_outcome
from gregor_gateway.protocol.server_frames import problem_of, receipt_frame, reconnect_frame
from gregor_gateway.protocol.session import Session, SessionState
from gregor_gateway.runtime.timer_wheel import DetachableTimer
from gregor_gateway.sessions.authenticator import NO_END_US, AuthenticatedCaller, close_for, revoked_token
from gregor_gateway.sessions.device_rates import (
    FRAGMENTS_A_UNIT,
    FRAMES_A_MESSAGE,
    filter_weight,
    length_units,
    retry_reason,
)

from .frame_writer import FrameWriter
from .send_queue import EnqueueResult
from .tasks import TaskQueue
from .transport import Transport

log = structlog.get_logger(__name__)

DRAIN_GRACE_S: Final = 1.0
"""How much longer a client that was asked to reconnect elsewhere may stay to receive pending answers."""
DRAIN_POLL_S: Final = 0.05
SYNC_RETRY_S: Final = 1.0
ACK_RETRY_S: Final = 5.0
"""An acknowledgement that failed because the store is away is repeated after 1 to 5 s, spread over connections."""
ACK_INTERVAL_S: Final = 0.2
"""Least time between two stored acknowledgements of a connection; of those between them, the highest is stored."""
FULL_RETRY_S: Final = 1.0
"""Pause that a client is asked for if its posted token is refused because too many tasks of its session wait."""
_STORE_TASKS: Final = (Acknowledge, CommitMessage, ReportForeground, VerifyToken)
_STORE_UNITS: Final = FRAMES_A_MESSAGE - 1
"""Extra units of the device budget for each of ``_STORE_TASKS``, which call Redis.

Each costs Redis 0.07 to 0.4 ms, also if the message is refused, so a device takes at most 1 % of a core by them. All
devices of a user share ``RedisTurns``.
"""
LEFT_WAIT_S: Final = 5.0
"""How long the tasks of a client that left wait for a turn of their user.

With the default limits, tasks of open connections wait for 2.1 s at most.
"""
EARLY_FRAME_BYTES: Final = 16_384
"""Largest frame before the hello was accepted: a token of 8 KiB, a cursor, a digest and usual filters."""
_CLOSES_OF_GATEWAY: Final = (CloseCode.SHUTDOWN, CloseCode.GOING_AWAY)
"""Codes with which the gateway closes connections for its own reasons. They are not logged as refusals."""
MAX_TICK_INTERVAL_S: Final = 60.0
"""A closed connection leaves the timer wheel with its next tick, so it is freed within a minute."""


class DeviceConnection(FrameWriter):
    """One client. It is a ``Subscriber``, ``Tickable``, ``Flushable``, ``PresentConnection`` and ``Observer``."""

    __slots__ = (
        # Slots, because an idle connection costs 4.5 KB in all (docs/performance.md).
        "_behind_until",
        "_foreground_issued_us",
        "_frames_full_at_us",
        "_held_ack",
        "_kind",
        "_next_ack_at",
        "_tasks",
        "_tick_at",
        "_timer",
        "channel",
        "context",
        "is_join_taken",
        "is_present",
        "keeps_session",
        "name",
        "opened_us",
        "request_id",
        "session",
        "ticket",
    )

    def __init__(self, context: GatewayContext, transport: Transport, rules: SessionRules, kind: str) -> None:
        """``kind``: the name of the transport in the metrics."""
        super().__init__(transport, context.write_scheduler, context.timers, rules.queue_bytes)
        self.context = context
        self._kind = kind
        self.channel: UserChannel | None = None
        self._tasks: TaskQueue | None = None
        self.is_join_taken = False
        self.is_present = False
        self._tick_at = NEVER
        self._timer = DetachableTimer(self)
        self._frames_full_at_us = 0
        self._behind_until = self._next_ack_at = 0.0
        self._held_ack: int | None = None
        self.keeps_session = False
        self.request_id = ""
        self.ticket: Ticket | None = None
        self.name = secrets.token_hex(8)
        self.opened_us = context.clock.now_us()
        self._foreground_issued_us = NO_END_US
        self.session = Session(rules, context.timers.now, self.name)
        context.metrics.connections.labels(kind).inc()
        context.metrics.connections_opened.labels(kind).inc()
        self.schedule_tick()

    # ---- identity

    @property
    def uid(self) -> str:
        """The user; empty until the token is verified."""
        return self.session.caller.uid if self.session.caller is not None else ""

    @property
    def device(self) -> str:
        """See ``Subscriber.device``."""
        return self.session.view.device

    @property
    def holder(self) -> str:
        """The name by which its joins are counted: the device, or the service key of an observer."""
        return self.device if self.ticket is None else self.ticket.holder

    @property
    def session_name(self) -> str:
        """See ``Subscriber.session_name``."""
        return self.session.name

    @property
    def observes(self) -> bool:
        """See ``Subscriber.observes``."""
        return self.session.observes

    @property
    def issued_us(self) -> int:
        """See ``Subscriber.issued_us``."""
        return self.session.caller.iat_us if self.session.caller is not None else 0

    @property
    def key_mark(self) -> str:
        """See ``Subscriber.key_mark``."""
        return self.session.caller.key_mark if self.session.caller is not None else ""

    def limit_foreground(self, issued_us: int) -> None:
        """Let the foreground end when the tokens of this age are revoked: a token of this age has set it."""
        self._foreground_issued_us = min(issued_us, self._foreground_issued_us)

    def lease(self, gateway: str) -> DeviceSession:
        """See ``PresentConnection.lease``."""
        session = self.session
        # If that token is revoked, the session closes after its poll, and the next poll is not in the foreground.
        issued_us = min(self.issued_us, self._foreground_issued_us) if session.foreground else self.issued_us
        return DeviceSession(
            session.name,
            self.name,
            gateway,
            self.opened_us,
            session.foreground,
            session.view.category_filter,
            session.systems,
            issued_us,
        )

    # ---- input of the client

    def open(self, authenticated: AuthenticatedCaller, hello: Hello) -> None:
        """Start a connection whose credentials were verified, with a hello from the query of its URL."""
        self.ticket = authenticated.ticket
        caller = authenticated.caller
        lives_s = self.context.authenticator.lives_s(caller)
        self.apply(self.session.admitted(caller, lives_s, self.context.timers.now, observes=authenticated.observes))
        self.apply(self.session.greeted(hello))

    def verify(self, token: str) -> None:
        """Verify a token that came with the WebSocket upgrade."""
        self.apply(self.session.offered(token))

    @property
    def is_greeting(self) -> bool:
        """Whether the hello is still missing."""
        return self.session.state is SessionState.GREETING

    def receive(self, raw: bytes, tiny_fragments: int = 0) -> None:
        """Handle a frame of the client, as JSON text. ``tiny_fragments``: see ``IncomingMessage``."""
        session = self.session
        if not self.charge(1 + tiny_fragments // FRAGMENTS_A_UNIT, len(raw)):
            return
        self.apply(session.receive(raw, self.context.timers.now, self._cpu_wait_s()))
        if session.caller is None and session.hello is not None and not self.is_over:
            # A client without a verified token must not make the gateway decode further frames.
            self.transport.hold_reading(True)

    def charge(self, units: int, size_bytes: int = 0) -> bool:
        """Charge the frame budgets of the connection and its device; close the connection if one is exceeded.

        ``size_bytes``: the length of a frame that is then decoded. Returns whether both had enough.
        """
        bucket, now_us = self.context.frame_bucket, int(self.context.timers.now * 1_000_000)
        taken = units + length_units(size_bytes, bucket.burst)
        self._frames_full_at_us, wait_s = take(self._frames_full_at_us, bucket.rate, bucket.burst, taken, now_us)
        if wait_s > 0:
            self._close_flooding()
            return False
        # Each connection of a device adds to this budget, but they share the rate of messages, so length counts more.
        most = self.context.limits.connections
        return self._charge_device(units + length_units(most * size_bytes, most * bucket.burst))

    def _charge_device(self, units: int) -> bool:
        if self.session.caller is None:
            return True
        wait_s = self.context.frame_rates.take(self.uid, self.device, self.context.timers.now, units)
        if wait_s > 0:
            self._close_flooding()
        return wait_s <= 0

    def _close_flooding(self) -> None:
        self.context.metrics.limits_reached.labels("frames").inc()
        self.close(CloseCode.RATE_LIMITED)

    def receive_document(self, document: object, issued_us: int) -> None:
        """See ``Subscriber.receive_document``."""
        self.apply(self._receive_posted(document, issued_us))

    def post(self, document: object, issued_us: int) -> bytes | None:
        """See ``Subscriber.post``."""
        effects = self._receive_posted(document, issued_us)
        self.apply(effect for effect in effects if not isinstance(effect, Send))
        return next((effect.frame for effect in effects if isinstance(effect, Send)), None)

    def _receive_posted(self, document: object, issued_us: int) -> list[Effect]:
        effects = self.session.receive_document(document, self.context.timers.now, owed_s=self._cpu_wait_s())
        if ReportForeground(True) in effects:
            self.limit_foreground(issued_us)
        match effects:
            case [VerifyToken(_, ref)] if self._tasks is not None and self._tasks.is_full:
                self.context.metrics.limits_reached.labels("frames").inc()
                detail = f"Too many frames of this session wait; retry in {FULL_RETRY_S} s."
                return self.session.refused(ref, Problem("rate_limited", detail, retry_after_s=FULL_RETRY_S))
        return effects

    # ---- fan-out

    def deliver(self, seq: int, frame: bytes) -> None:
        """See ``Subscriber.deliver``."""
        session = self.session
        if session.deliver(seq, frame):
            result = self._queue.put(self.transport.pack(frame, session.tag, seq), seq)
            if result is not EnqueueResult.QUEUED:
                self._on_overflow(result)
            if not self._is_scheduled:
                self._schedule_flush()

    def deliver_fast(self, run: Sequence[CreationFrame]) -> int:
        """See ``Subscriber.deliver_fast``. General twin: ``deliver``, which takes over unless the queue is idle."""
        session, queue = self.session, self._queue
        if queue.is_idle and not self._is_paused and session.deliver_run(run[0].seq, run[-1].seq):
            queue.written_seq = session.seq
            return self.transport.write_run(run, session.tag)
        for creation in run:
            self.deliver(creation.seq, creation.frame)
        return 0

    def epoch_changed(self, epoch: bytes) -> None:
        """See ``Subscriber.epoch_changed``."""
        if self.session.state is SessionState.LIVE:
            self.session.tag = cursor_for(epoch, self.session.view, 0).tag
            self._queue.set_next_tag(self.session.tag)

    def resync(self, position: Position | None, reached: int, reason: str = "missed") -> None:
        """See ``Subscriber.resync``."""
        self._count_resync(reason)
        self.apply(self.session.resync(position, reached))

    def sync_texts(self, reached: int) -> None:
        """See ``Subscriber.sync_texts``. Until the device may use more CPU time, live frames are dropped."""
        self._count_resync("rendering")
        wait_s = self._cpu_wait_s()
        if wait_s <= 0:
            self.apply(self.session.resync(None, reached, is_requested=True))
        elif self.session.state is not SessionState.BEHIND:
            self.context.metrics.limits_reached.labels("joins").inc()
            self.session.fall_behind()
            self._behind_until = self.context.timers.now + wait_s
            self.context.timers.after(wait_s, self._catch_up_if_idle)

    def _catch_up_if_idle(self) -> None:
        if self._queue.is_idle:
            self._on_drained()

    @property
    def lacks_external(self) -> bool:
        """See ``Subscriber.lacks_external``."""
        return self.session.lacks_external

    @property
    def owes_cpu(self) -> bool:
        """See ``Subscriber.owes_cpu``."""
        return self._cpu_wait_s() > 0

    def _cpu_wait_s(self) -> float:
        return self.context.join_rates.wait_s(self.uid, self.holder, self.context.timers.now)

    def charge_cpu(self, cpu_ns: int) -> None:
        """See ``Subscriber.charge_cpu``."""
        self.context.join_rates.charge(self.uid, self.holder, 0, self.context.timers.now, cpu_ns)

    def resync_within(self, spread_s: float, seq: int) -> None:
        """See ``Subscriber.resync_within``."""
        self.context.timers.after(spread_s * self.context.jitter(0.0, 1.0), partial(self._send_full_copy, seq))

    def _count_resync(self, reason: str) -> None:
        self.context.metrics.resyncs.labels(reason).inc()

    def _send_full_copy(self, seq: int) -> None:
        if self.session.synced_seq < seq:
            self._count_resync("reset")
            self.apply(self.session.resync(Position()))

    def synced(self, serial: int, result: SyncResult, frame: bytes, cpu_ns: int) -> None:
        """See ``Subscriber.synced``."""
        session, position = self.session, self.session.position
        is_first = not session.tag
        if session.is_requested:
            weight = session.weight_of(result, len(frame))
            self.context.join_rates.charge(self.uid, self.holder, weight, self.context.timers.now, cpu_ns)
        self.apply(self.session.synced(serial, result, frame))
        if not is_first and isinstance(result, Full):
            # After a failover, the seqs may be those of other items, which must not count as seen.
            self._held_ack = None
        if is_first and session.tag and position is not None:
            outcome = resume_outcome(position, session.view, result)
            self.context.metrics.resumes.labels(self._kind, *outcome).inc()
        self.release_receipts(0)

    def sync_failed(self, serial: int) -> None:
        """See ``Subscriber.sync_failed``: close if it was the first sync, retry a later one."""
        # Without a first sync the client has no state: it had better reconnect, perhaps to another gateway.
        if not self.session.synced_seq and not self.session.tag:
            self.close(CloseCode.UNAVAILABLE)
        else:
            delay_s = SYNC_RETRY_S * self.context.jitter(1.0, 2.0)
            self.context.timers.after(delay_s, lambda: self.apply(self.session.retry(serial)))

    def counting_changed(self) -> None:
        """See ``Subscriber.counting_changed``."""
        self.apply(self.session.counting_changed(self.context.timers.now))

    def release_receipts(self, reached: int) -> None:
        """See ``Subscriber.release_receipts``."""
        self.apply(self.session.release_receipts(max(reached, self._processed_seq())))
        if self.channel is not None and not self.session.has_waiting_receipts:
            self.channel.waiting.discard(self)

    def _processed_seq(self) -> int:
        """Process pending publications, and return the seq up to which all of them are processed."""
        return self.channel.process_pending().seq if self.channel is not None else 0

    # ---- time

    def tick(self, now: float) -> None:
        """See ``Tickable.tick``."""
        if now < self._tick_at or self.is_over:
            return
        self._tick_at = NEVER
        self.apply(self.session.close(CloseCode.SLOW_CONSUMER) if now >= self._slow_at else self.session.tick(now))
        self.schedule_tick()

    def schedule_tick(self) -> None:
        """Tick at the next deadline."""
        due = min(self.session.due, self._slow_at, self.context.timers.now + MAX_TICK_INTERVAL_S)
        if due < self._tick_at and not self.is_over:
            self._tick_at = due
            self.context.timers.at(due, self._timer)

    # ---- backpressure

    def _on_drained(self) -> None:
        """See ``FrameWriter``: read the sync that replaces the dropped frames."""
        if self.session.state is SessionState.BEHIND and self.context.timers.now >= self._behind_until:
            if not self._behind_until:
                self._count_resync("slow")
            self._behind_until = 0.0
            self.apply(self.session.catch_up(self._queue.written_tag, self._queue.written_seq))

    def _on_overflow(self, result: EnqueueResult) -> None:
        """See ``FrameWriter``: a slow consumer gets one sync instead of the dropped frames, or is closed."""
        self.context.metrics.overflows.inc()
        self.session.fall_behind()
        self._start_slow_deadline()
        if result is EnqueueResult.FULL:
            self.close(CloseCode.SLOW_CONSUMER)

    # ---- effects of the session

    def apply(self, effects: Iterable[Effect]) -> None:
        """Apply effects in order."""
        for effect in effects:
            match effect:
                case SendLive(seq, frame):
                    self._enqueue(self.transport.pack(frame, self.session.tag, seq), seq)
                case Send(frame):
                    self._enqueue(self.transport.pack(frame, "", 0))
                case SendSync(tag, seq, frame):
                    self._enqueue_sync(self.transport.pack(frame, tag, seq), tag, seq)
                case ConfirmCursor(tag, seq):
                    self._queue.confirm_cursor(tag, seq)
                    self.transport.confirmed()
                case ReadSync(position, serial):
                    self._request_sync(position, serial)
                case CloseConnection(code, reason):
                    self._close(code, reason)
                case ChargeBudget(units):
                    self.charge(units)
                case ResyncRequested():
                    self._count_resync("requested")
                    # A resync reads as much as a join.
                    self.context.join_rates.charge(self.uid, self.holder, 1, self.context.timers.now)
                case Acknowledge(seq):
                    self._acknowledge(seq)
                case LimitReached(limit):
                    self.context.metrics.limits_reached.labels(limit).inc()
                case Regroup():
                    # The systems are part of a group's key, so the connection moves to another group.
                    if self.channel is not None:
                        self.channel.remove(self)
                        self.channel.add(self, self.session.view, self.session.systems, self.session.locale)
                case _:
                    self._add_task(effect)

    def _request_sync(self, position: Position, serial: int) -> None:
        if self.channel is not None:
            session = self.session
            request = SyncRequest(self.channel.uid, session.view, session.systems, position, session.locale)
            self.context.sync_reader.request(self.channel, self, serial, request)

    def _acknowledge(self, seq: int) -> None:
        """Store an acknowledgement now, or the highest one of an interval at its end."""
        now = self.context.timers.now
        if self._held_ack is not None:
            self._held_ack = max(seq, self._held_ack)
        elif now < self._next_ack_at:
            self._held_ack = seq
            self.context.timers.after(self._next_ack_at - now, self._release_ack)
        else:
            self._next_ack_at = now + ACK_INTERVAL_S
            self._add_task(Acknowledge(seq))

    def _release_ack(self) -> None:
        """Store the acknowledgement that waits, if any."""
        seq, self._held_ack = self._held_ack, None
        if seq is None:
            return
        self._next_ack_at = self.context.timers.now + ACK_INTERVAL_S
        self._queue_task(Acknowledge(seq))

    def _repeat_ack(self, seq: int) -> None:
        """Store a failed acknowledgement after a pause, even if the client leaves meanwhile."""
        self._held_ack = max(seq, self._held_ack or 0)
        self.context.timers.after(self.context.jitter(1.0, ACK_RETRY_S), self._release_ack)

    # ---- tasks

    def _add_task(self, task: Task) -> None:
        if not self.is_over:
            self._queue_task(task)

    def _queue_task(self, task: Task) -> None:
        if self._tasks is None:
            self._tasks = TaskQueue(
                self.context.background, self.transport, self._await_turn, self._perform, self._on_idle
            )
        self._tasks.add(task)

    def _on_idle(self) -> None:
        self._tasks = None

    async def _await_turn(self, task: Task) -> None:
        """Wait until the user may use Redis again, if the task needs it."""
        turns, is_paced = self.context.redis_turns, isinstance(task, _STORE_TASKS) and self.uid != ""
        # An observer has the uid of the user that it reads, whose devices must not wait for it.
        if not is_paced or self.session.observes:
            return
        if self.is_over and turns.wait_s(self.uid) > LEFT_WAIT_S and self._tasks is not None:
            # A client that connects and leaves again and again must not fill the memory with tasks.
            self.context.metrics.limits_reached.labels("frames").inc()
            self._tasks.clear()
        else:
            await turns.take(self.uid)

    async def _perform(self, task: Task) -> None:
        session, context = self.session, self.context
        # Charged here, because the device is unknown until its token is verified.
        if isinstance(task, _STORE_TASKS) and not self._charge_device(_STORE_UNITS):
            return
        try:
            match task:
                case VerifyToken():
                    await self._verify(task)
                case JoinChannel() if not self.is_over:
                    await self._join()
                case CommitMessage():
                    await self._commit(task)
                case Acknowledge(seq) if session.caller is not None and not await self._is_revoked(session.caller):
                    # A client cannot have seen more than was sent to it.
                    seen = min(seq, max(session.seq, self._processed_seq()))
                    await context.store.devices.acknowledge(self.uid, session.view, seen, context.clock.now_us())
                case ReportForeground() if self.is_present:
                    await context.presence.renew(self)
        except Exception as error:
            self._on_task_error(task, error)

    async def _verify(self, task: VerifyToken) -> None:
        authenticator = self.context.authenticator
        caller = await authenticator.verify(task.token)
        if task.is_renewal and await authenticator.is_revoked(caller):
            raise revoked_token()
        if not authenticator.has_key(caller.key_mark):
            raise removed_key()
        accept = self.session.renewed if task.is_renewal else self.session.admitted
        self.apply(accept(caller, authenticator.lives_s(caller), self.context.timers.now))
        self.schedule_tick()
        if not task.is_renewal:
            self.transport.hold_reading(False)

    async def _join(self) -> None:
        session, context = self.session, self.context
        wait_s = 0.0 if self.is_join_taken else context.join_rates.take(self.uid, self.holder, context.timers.now)
        if wait_s > 0:
            context.metrics.limits_reached.labels("joins").inc()
            self.close(CloseCode.RATE_LIMITED, retry_reason(wait_s, context.jitter))
            return
        self.channel = await context.hub.enter(self.uid, self, session.view, session.systems, session.locale)
        try:
            # Checked after the subscription: a later revocation arrives as a control message.
            if session.caller is not None and not session.observes:
                if await context.authenticator.is_revoked(session.caller):
                    context.authenticator.count_failure(revoked_token())
                    self.close(CloseCode.REVOKED)
                    return
                # Again after the subscription: ``RemovedKeyChecker`` finds only connections that are subscribed.
                if not context.authenticator.has_key(self.key_mark):
                    self.close(CloseCode.TOKEN_EXPIRED)
                    return
                if self.is_over:
                    return  # the client left, and may be connected elsewhere: it must not replace that connection
                weight = filter_weight(session.view.category_filter, session.systems)
                context.join_rates.charge(self.uid, self.holder, weight, context.timers.now)
                await context.presence.open(self)
                self.is_present = True
            if session.observes:
                context.observers.add(self)
            self.request_id = ""
            self.apply(session.joined(context.timers.now))
            self.schedule_tick()
        finally:
            if self.is_over:
                self._leave()

    async def _commit(self, task: CommitMessage) -> None:
        session, context = self.session, self.context
        if session.caller is None or session.observes:
            raise Problem("forbidden", "Observers cannot send messages.")
        if await self._is_revoked(session.caller):
            return
        done = await context.device_messages.commit(
            session.caller, partial(read_message, task.text, context.limits), task.size_bytes
        )
        channel = self.channel
        if task.ref is None or self.is_over or channel is None:
            return
        self.apply(session.committed(done.seq, receipt_frame(task.ref, done.receipt), self._processed_seq()))
        if session.has_waiting_receipts:
            channel.waiting.add(self)
            channel.expect(done.seq)

    async def _is_revoked(self, caller: Caller) -> bool:
        """Return whether a caller whose connection is over lost its rights. A control message closes an open one."""
        authenticator = self.context.authenticator
        return self.is_over and (await authenticator.is_revoked(caller) or not authenticator.has_key(caller.key_mark))

    def _on_task_error(self, task: Task, error: Exception) -> None:
        if not isinstance(error, Problem | Unavailable):
            log.error("task.failed", task=type(task).__name__, exc_info=error)
        if isinstance(task, VerifyToken):
            self.context.authenticator.count_failure(error)
        match task:
            case JoinChannel() | VerifyToken(is_renewal=False):
                self.close(close_for(error), self._reason_for(error))
            case CommitMessage(ref) | VerifyToken(_, ref):
                self.apply(self.session.refused(ref, problem_of(error)))
            # A value of a later release stays unreadable: it is not repeated.
            case Acknowledge(seq) if isinstance(error, Unavailable) and not isinstance(error, UnreadableValue):
                self._repeat_ack(seq)

    def _reason_for(self, error: Exception) -> str:
        """Return the reason of a close: when to reconnect, if a limit refused the join."""
        if isinstance(error, Problem) and error.code == "rate_limited":
            return retry_reason(error.retry_after_s or 0.0, self.context.jitter)
        return ""

    # ---- end

    def close(self, code: int, reason: str = "") -> None:
        """See ``Subscriber.close``."""
        self.apply(self.session.close(code, reason))

    def drain(self, after_ms: int, reason: str) -> None:
        """Ask the client to reconnect elsewhere after a delay; close once its messages are answered, or soon after."""
        self.apply([Send(reconnect_frame(after_ms, reason))])
        deadline = self.context.timers.now + after_ms / 1000 + DRAIN_GRACE_S
        self.context.timers.after(after_ms / 1000, partial(self._close_when_idle, deadline))

    def _close_when_idle(self, deadline: float) -> None:
        self._release_ack()
        is_idle = self._tasks is None and not self.session.has_waiting_receipts
        if is_idle or self.context.timers.now >= deadline:
            self.close(CloseCode.SHUTDOWN)
        else:
            self.context.timers.after(DRAIN_POLL_S, partial(self._close_when_idle, deadline))

    def _close(self, code: int, reason: str) -> None:
        context = self.context
        context.metrics.closes.labels(str(int(code))).inc()
        if self.request_id and code not in _CLOSES_OF_GATEWAY:
            fields = {"code": int(code), "reason": reason, "transport": self._kind, "request_id": self.request_id}
            context.metrics.refusals.record("connection.refused", context.timers.now, **fields)
        if self._tasks is not None:
            self._tasks.clear()
        # Frames that were queued before the close are sent first, as far as the client reads them.
        self.flush()
        self.transport.close(code, reason)
        self.end()

    def end(self) -> None:
        """Release everything after the client left or was closed. Idempotent."""
        if self.is_over:
            return
        self._release_ack()
        self.is_over = True
        self._timer.target = None
        by = "gateway" if self.session.state is SessionState.CLOSED else "client"
        self.session.close(CloseCode.GOING_AWAY)
        self.context.metrics.connections_ended.labels(self._kind, by).inc()
        self.context.metrics.connections.labels(self._kind).dec()
        self._leave()

    def _leave(self) -> None:
        channel, self.channel = self.channel, None
        if channel is not None:
            self.context.hub.leave(channel, self)
            self.context.observers.discard(self)
        if self.is_present:
            self.is_present = False
            self.context.presence.remove(self, is_over=not self.keeps_session)
