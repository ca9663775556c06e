"""Scheduling of writes: at once in a quiet process, coalesced in a busy one."""

from __future__ import annotations

import asyncio

from gregor.clock import ManualClock
from gregor_gateway.metrics import GatewayMetrics
from gregor_gateway.runtime.write_scheduler import WriteScheduler
from tests.support.wait import wait_until
from tests.unit.gateway.conftest import settle


class SlowConnection:
    """A connection whose write takes some time of the clock."""

    def __init__(self, clock: ManualClock, seconds: float, frames: int = 2) -> None:
        self._clock = clock
        self._seconds = seconds
        self._frames = frames
        self.flushes = 0

    def flush(self) -> tuple[int, int]:
        self.flushes += 1
        self._clock.advance(self._seconds)
        return self._frames, 100


async def test_idle_process_writes_at_once() -> None:
    clock, metrics = ManualClock(0), GatewayMetrics()
    write_scheduler, connection = WriteScheduler(clock, metrics), SlowConnection(clock, 0)

    write_scheduler.add(connection)
    assert connection.flushes == 0
    await asyncio.sleep(0)

    assert connection.flushes == 1
    assert metrics.frames_out._value.get() == 2
    assert metrics.bytes_out._value.get() == 100


async def test_failing_connection_stops_no_other() -> None:
    class Broken:
        def flush(self) -> tuple[int, int]:
            raise RuntimeError("the socket is in no state to be written to")

    clock, metrics = ManualClock(0), GatewayMetrics()
    write_scheduler, connection = WriteScheduler(clock, metrics), SlowConnection(clock, 0)
    write_scheduler.add(Broken())
    write_scheduler.add(connection)
    await settle()
    write_scheduler.add(connection)
    await settle()

    assert connection.flushes == 2
    assert metrics.frames_out._value.get() == 4


class WritingChannel:
    """A channel that writes past the send queues of its connections, and schedules one flush."""

    def __init__(self, write_scheduler: WriteScheduler, connection: SlowConnection) -> None:
        self._write_scheduler = write_scheduler
        self._connection = connection

    def process_pending(self) -> None:
        self._write_scheduler.count(3, 6, 600)
        self._write_scheduler.add(self._connection)


async def test_channels_are_processed_before_the_flush() -> None:
    class Broken:
        def process_pending(self) -> None:
            raise RuntimeError("the publication cannot be processed")

    clock, metrics = ManualClock(0), GatewayMetrics()
    write_scheduler = WriteScheduler(clock, metrics)
    connection = SlowConnection(clock, 0)

    write_scheduler.add_channel(Broken())
    write_scheduler.add_channel(WritingChannel(write_scheduler, connection))
    await asyncio.sleep(0)

    assert connection.flushes == 1
    assert metrics.frames_out._value.get() == 8
    assert metrics.bytes_out._value.get() == 700
    write_scheduler.add(connection)
    await asyncio.sleep(0)
    assert connection.flushes == 2


async def test_burst_coalesces_writes() -> None:
    clock = ManualClock(0)
    write_scheduler, connection = WriteScheduler(clock, GatewayMetrics()), SlowConnection(clock, 0.004)
    write_scheduler.add(connection)
    await asyncio.sleep(0)

    write_scheduler.add(connection)
    write_scheduler.add(SlowConnection(clock, 0))
    await settle()
    assert connection.flushes == 1
    clock.advance(0.017)
    await wait_until(lambda: connection.flushes == 2, "the second sweep")


async def test_single_frames_are_not_delayed() -> None:
    clock = ManualClock(0)
    write_scheduler, connection = WriteScheduler(clock, GatewayMetrics()), SlowConnection(clock, 1.0, frames=1)
    for count in (1, 2, 3):
        write_scheduler.add(connection)
        await asyncio.sleep(0)
        assert connection.flushes == count


async def test_frame_after_a_pause_is_written_at_once() -> None:
    clock = ManualClock(0)
    write_scheduler, connection = WriteScheduler(clock, GatewayMetrics()), SlowConnection(clock, 1.0)
    write_scheduler.add(connection)
    await asyncio.sleep(0)
    clock.advance(0.051)

    write_scheduler.add(connection)
    await asyncio.sleep(0)

    assert connection.flushes == 2


async def test_long_sweep_lets_others_go_first() -> None:
    """A user with hundreds of connections must not delay the frames of another user."""
    clock = ManualClock(0)
    write_scheduler = WriteScheduler(clock, GatewayMetrics())
    many = [SlowConnection(clock, 0.0005, frames=1) for _ in range(100)]
    for connection in many:
        write_scheduler.add(connection)
    await asyncio.sleep(0)
    flushed = sum(connection.flushes for connection in many)
    assert 0 < flushed <= 16

    other = SlowConnection(clock, 0, frames=1)
    write_scheduler.add(other)
    await asyncio.sleep(0)

    assert other.flushes == 1
    assert sum(connection.flushes for connection in many) <= 2 * 16
    await settle()
    assert [connection.flushes for connection in many] == [1] * 100


async def test_long_frames_end_a_slice_early() -> None:
    class LongWrite(SlowConnection):
        def flush(self) -> tuple[int, int]:
            return super().flush()[0], 250_000

    clock = ManualClock(0)
    write_scheduler, many = WriteScheduler(clock, GatewayMetrics()), [LongWrite(clock, 0.003) for _ in range(5)]
    for connection in many:
        write_scheduler.add(connection)
    await asyncio.sleep(0)

    assert sum(connection.flushes for connection in many) == 1


async def test_backlog_does_not_count_as_one_long_sweep() -> None:
    clock, metrics = ManualClock(0), GatewayMetrics()
    write_scheduler, called = WriteScheduler(clock, metrics), []
    for _ in range(1_000):
        write_scheduler.add(SlowConnection(clock, 0.001, frames=1))
    write_scheduler.after_sweep(lambda: called.append(clock.monotonic()))
    await settle(200)

    [sample] = [each for each in next(iter(metrics.deliver_seconds.collect())).samples if each.name.endswith("_sum")]
    assert abs(sample.value - 1.0) < 0.01
    assert called and called[0] < 0.1
