"""The system clock with its offset, and the manual clock of tests."""

import time

import pytest

from gregor.clock import Clock, ManualClock, SystemClock


def test_system_clock_returns_unix_microseconds() -> None:
    before_us = time.time_ns() // 1_000

    now_us = SystemClock().now_us()

    assert before_us <= now_us <= time.time_ns() // 1_000


def test_offset_shifts_only_the_wall_time() -> None:
    clock = SystemClock(offset_s=-86_400.5)

    assert abs(clock.now_us() - (time.time_ns() // 1_000 - 86_400_500_000)) < 10_000_000
    assert abs(clock.monotonic() - time.monotonic()) < 10


def test_manual_clock_advances_only_on_request() -> None:
    clock = ManualClock(1_457_056_447_000_000)

    assert (clock.now_us(), clock.monotonic()) == (1_457_056_447_000_000, 0)
    clock.advance(1.5)
    assert (clock.now_us(), clock.monotonic()) == (1_457_056_448_500_000, 1.5)


def test_manual_clock_cannot_go_back() -> None:
    with pytest.raises(ValueError, match="cannot go back"):
        ManualClock(0).advance(-1)


@pytest.mark.parametrize("clock", [SystemClock(), ManualClock(0)])
def test_both_implement_the_clock_protocol(clock: Clock) -> None:
    assert isinstance(clock.now_us(), int)
