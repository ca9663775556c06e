"""When frames leave: at once where it is quiet, several in one write where it is not.

A sweep over all rooms with something to tell, and all connections with something to write, begins at the end of the
turn of the event loop. What comes in while it writes is read in the next turn, so that frames share writes by
themselves where the process is busy. Where they do (a burst: several frames a connection), the next sweep waits four
times as long as the last one took, but begins within 20 ms of it, and still more of them share one: a write costs
several times what a frame does. Where there is one frame a connection, waiting would only delay it.
docs/performance.md has the figures.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

import structlog

from gregor.clock import Clock
from gregor.telemetry import Metrics

log = structlog.get_logger(__name__)

REST: Final = 4.0
MOST_S: Final = 0.02
"""Of the 25 ms that a message may take from acceptance to device."""
BURST: Final = 1.5
"""Frames a connection in one sweep from which on waiting pays."""
LEAST_S: Final = 0.001
"""The finest timer of the event loop; a shorter wait is none."""


class Flushable(Protocol):
    """A connection with something to write."""

    def flush(self) -> tuple[int, int]:
        """Write what waits; how many frames and bytes went."""
        ...


class PendingChannel(Protocol):
    """A room that something was published for."""

    def process_pending(self) -> object:
        """Tell its connections."""
        ...


class WriteScheduler:
    """Sweeps over the rooms that have something to tell, and the connections that have something to write."""

    def __init__(self, clock: Clock, metrics: Metrics) -> None:
        self._clock = clock
        self._frames = metrics.frames_out
        self._bytes = metrics.bytes_out
        self._seconds = metrics.deliver_seconds
        self._channels: list[PendingChannel] = []
        self._connections: list[Flushable] = []
        self._is_due = False
        self._not_before = 0.0
        self._since = 0.0
        self._writes = self._frames_written = self._bytes_written = 0

    def add_channel(self, channel: PendingChannel) -> None:
        """Let it tell its connections with the next sweep."""
        self._channels.append(channel)
        self._wake()

    def add(self, connection: Flushable) -> None:
        """Flush it with the next sweep. Called once a connection and sweep."""
        self._connections.append(connection)
        self._wake()

    def count(self, connections: int, frames: int, size: int) -> None:
        """So many frames, of so many bytes, were written past the queues of so many connections."""
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
        if wait_s < LEAST_S:
            loop.call_soon(self._sweep)
        else:
            loop.call_later(wait_s, self._sweep)

    def _sweep(self) -> None:
        begun = self._clock.monotonic()
        channels, self._channels = self._channels, []
        for channel in channels:
            try:
                channel.process_pending()
            except Exception as error:
                log.error("A user's connections could not be told.", exc_info=error)
        connections, self._connections = self._connections, []
        self._is_due = False
        for connection in connections:
            try:
                self.count(1, *connection.flush())
            except Exception as error:
                # The fault of one must not silence the others of this sweep.
                log.error("A connection could not be written to.", exc_info=error)
        ended = self._clock.monotonic()
        if self._frames_written >= BURST * self._writes:
            self._not_before = begun + min(MOST_S, (1 + REST) * (ended - begun))
        self._frames.inc(self._frames_written)
        self._bytes.inc(self._bytes_written)
        self._writes = self._frames_written = self._bytes_written = 0
        self._seconds.observe(ended - self._since)
