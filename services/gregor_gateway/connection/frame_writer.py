"""The outgoing half of a connection: send queue, backpressure of the transport, limit for slow consumers."""

from __future__ import annotations

from typing import Final

from gregor_gateway.protocol.deadlines import NEVER
from gregor_gateway.runtime.timer_wheel import TimerWheel
from gregor_gateway.runtime.write_scheduler import WriteScheduler

from .send_queue import NO_SEQ, EnqueueResult, SendQueue
from .transport import Transport

BATCH_BYTES: Final = 65_536
"""Approximate size of one write: the high-water mark of a socket's buffer."""
SLOW_CONSUMER_S: Final = 30.0
"""How long a slow consumer may take to read what is queued before it is closed with 4002."""


class FrameWriter:
    """Writes queued frames to a transport. Base of ``DeviceConnection``: a separate object would cost 100 bytes each.

    Backpressure: while the transport is paused, frames stay in the queue. If the queue exceeds its bound, live frames
    are dropped and ``_on_overflow`` is called; when the queue is empty again, ``_on_drained`` is called.
    """

    __slots__ = ("_is_paused", "_is_scheduled", "_queue", "_scheduler", "_slow_at", "_timers", "is_over", "transport")

    def __init__(self, transport: Transport, scheduler: WriteScheduler, timers: TimerWheel, max_bytes: int) -> None:
        self.transport = transport
        self._scheduler = scheduler
        self._timers = timers
        self._queue = SendQueue(max_bytes)
        self._is_paused = self._is_scheduled = self.is_over = False
        self._slow_at = NEVER

    @property
    def cursor(self) -> str:
        """The cursor that the client has after the frames written so far; empty if none had a cursor."""
        return f"{self._queue.written_tag}-{self._queue.written_seq}" if self._queue.written_tag else ""

    def flush(self) -> tuple[int, int]:
        """See ``Flushable.flush``."""
        self._is_scheduled = False
        frames = total = 0
        queue = self._queue
        # A write may pause the transport: its buffer is full, and the rest stays in the bounded queue.
        while queue.entries is not None and not self._is_paused:
            batch = queue.take(BATCH_BYTES)
            frames += len(batch)
            total += self.transport.write(batch)
        if not self._is_paused:
            self._slow_at = NEVER
            self._on_drained()
        elif self._slow_at != NEVER:
            self.schedule_tick()
        return frames, total

    def pause(self) -> None:
        """Stop writing: the buffer of the transport is full."""
        self._is_paused = True

    def resume(self) -> None:
        """Write again: the buffer of the transport has room."""
        self._is_paused = False
        self._schedule_flush()

    def schedule_tick(self) -> None:
        """Arrange for the deadline of a slow consumer."""
        raise NotImplementedError

    def _on_drained(self) -> None:
        """Handle an empty queue."""
        raise NotImplementedError

    def _on_overflow(self, result: EnqueueResult) -> None:
        """Handle frames that were dropped, or a queue that stays above its bound."""
        raise NotImplementedError

    def _enqueue(self, packed: bytes, seq: int = NO_SEQ) -> None:
        result = self._queue.put(packed, seq)
        if result is not EnqueueResult.QUEUED:
            self._on_overflow(result)
        self._schedule_flush()

    def _enqueue_sync(self, packed: bytes, tag: str, seq: int) -> None:
        self._queue.put_sync(packed, tag, seq)
        self._start_slow_deadline()
        self._schedule_flush()

    def _schedule_flush(self) -> None:
        if not self._is_scheduled and not self.is_over:
            self._is_scheduled = True
            self._scheduler.add(self)

    def _start_slow_deadline(self) -> None:
        """Give the client ``SLOW_CONSUMER_S`` to read what is queued."""
        self._slow_at = min(self._slow_at, self._timers.now + SLOW_CONSUMER_S)
