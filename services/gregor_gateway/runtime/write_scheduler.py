"""Scheduling of writes: coalesces frames into fewer socket writes when the process is busy.

A sweep processes all channels with pending publications and flushes all connections with queued frames. It starts at
the end of the event-loop iteration. Publications that arrive during a sweep belong to the next one, so a busy process
coalesces writes without a timer.

If a sweep wrote several frames a connection (a burst), the next one waits four times as long as the sweep took, at most
20 ms. More frames then share a write, which costs several times as much as a frame. With one frame a connection a wait
would only add latency (docs/performance.md).

A sweep flushes connections for 2 ms, then lets other callbacks run. The connections that it did not reach are the
backlog. The next sweep flushes connections with new frames first. A user with 512 connections, or with long frames,
therefore does not delay the others.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from gregor.clock import Clock
from gregor_gateway.metrics import GatewayMetrics

log = structlog.get_logger(__name__)

# The wait in multiples of the last sweep (docs/performance.md, benchmark `fanout` in bursts).
WAIT_FACTOR: Final = 4.0
MAX_WAIT_S: Final = 0.02
"""Longest wait: most of the 25 ms that a message may take from acceptance to the device."""
BURST_FRAMES: Final = 1.5
"""Frames a connection in one sweep above which waiting pays."""
MIN_WAIT_S: Final = 0.001
"""Resolution of the event loop's timers; a shorter wait is skipped."""
SLICE_S: Final = 0.002
"""How long a sweep flushes connections with new frames. Then it flushes the backlog for as long."""
CHECK_CONNECTIONS: Final = 8
CHECK_BYTES: Final = 65_536
"""Connections, and bytes, that are flushed between two checks of the clock."""


class Flushable(Protocol):
    """A connection with queued frames."""

    def flush(self) -> tuple[int, int]:
        """Write the queued frames; return the numbers of frames and bytes written."""
        ...


class PendingChannel(Protocol):
    """A user channel with pending publications."""

    def process_pending(self) -> object:
        """Process the publications."""
        ...


class WriteScheduler:
    """Runs the sweeps, and counts what they write."""

    def __init__(self, clock: Clock, metrics: GatewayMetrics) -> None:
        self._clock = clock
        self._frames = metrics.frames_out
        self._bytes = metrics.bytes_out
        self._seconds = metrics.deliver_seconds
        self._channels: list[PendingChannel] = []
        self._connections: list[Flushable] = []
        self._backlog: deque[Flushable] = deque()
        self._after: list[Callable[[], None]] = []
        self._is_due = False
        self._not_before = 0.0
        self._since = self._begun = 0.0
        self._writes = self._frames_written = self._bytes_written = 0

    def add_channel(self, channel: PendingChannel) -> None:
        """Process the publications of a channel in the next sweep."""
        self._channels.append(channel)
        self._wake()

    def add(self, connection: Flushable) -> None:
        """Flush a connection in the next sweep. Call it once a sweep."""
        self._connections.append(connection)
        self._wake()

    def after_sweep(self, callback: Callable[[], None]) -> None:
        """Call back once, after the next sweep. It writes the frames that are queued now, unless they take too long."""
        self._after.append(callback)
        self._wake()

    def count(self, connections: int, frames: int, size: int) -> None:
        """Count frames that were written past the send queues."""
        self._writes += connections
        self._frames_written += frames
        self._bytes_written += size

    def _wake(self) -> None:
        if self._is_due:
            return
        self._is_due = True
        self._since = self._clock.monotonic()
        wait_s = self._not_before - self._since
        loop = asyncio.get_running_loop()
        if wait_s < MIN_WAIT_S:
            loop.call_soon(self._sweep)
        else:
            loop.call_later(wait_s, self._sweep)

    def _sweep(self) -> None:
        begun = self._clock.monotonic()
        channels, self._channels = self._channels, []
        for channel in channels:
            # One failing channel must not stop the others.
            try:
                channel.process_pending()
            except Exception as error:
                log.error("channel.failed", exc_info=error)
        # Channels first: they queue frames, and the connections that they mark belong to this sweep.
        connections, self._connections = deque(self._connections), []
        if not self._backlog:
            self._begun = begun
        self._flush(connections)
        self._flush(self._backlog)
        self._backlog += connections
        ended = self._clock.monotonic()
        # A burst: several frames a connection. The wait grows with the cost of a sweep, so an idle process never waits.
        if self._frames_written >= BURST_FRAMES * self._writes:
            self._not_before = self._begun + min(MAX_WAIT_S, (1 + WAIT_FACTOR) * (ended - self._begun))
        self._frames.inc(self._frames_written)
        self._bytes.inc(self._bytes_written)
        self._writes = self._frames_written = self._bytes_written = 0
        self._seconds.observe(ended - self._since)
        if self._backlog:
            self._since = ended
            asyncio.get_running_loop().call_soon(self._sweep)
        else:
            self._is_due = False
            if self._channels or self._connections:
                self._wake()
        callbacks, self._after = self._after, []
        for callback in callbacks:
            callback()

    def _flush(self, connections: deque[Flushable]) -> None:
        """Flush and remove connections from the front until ``SLICE_S`` is over."""
        if not connections:
            return
        ends, flushed, size = self._clock.monotonic() + SLICE_S, 0, 0
        while connections:
            connection = connections.popleft()
            flushed += 1
            try:
                frames, written = connection.flush()
            except Exception as error:
                # One broken connection must not stop the flush of the others.
                log.error("connection.write_failed", exc_info=error)
                continue
            self.count(1, frames, written)
            size += written
            if flushed >= CHECK_CONNECTIONS or size >= CHECK_BYTES:
                if self._clock.monotonic() >= ends:
                    return
                flushed = size = 0
