"""The clocks: wall time with its offset, a clock that stands still."""

import time

import pytest

from gregor.clock import Clock, ManualClock, SystemClock


def test_the_system_clock_tells_unix_microseconds() -> None:
    before_us = time.time_ns() // 1_000

    now_us = SystemClock().now_us()

    assert before_us <= now_us <= time.time_ns() // 1_000


def test_the_offset_moves_wall_time_and_not_the_monotonic_clock() -> None:
    clock = SystemClock(offset_s=-86_400.5)

    assert abs(clock.now_us() - (time.time_ns() // 1_000 - 86_400_500_000)) < 10_000_000
    assert abs(clock.monotonic() - time.monotonic()) < 10


def test_the_manual_clock_stands_still_until_it_is_told_to_advance() -> None:
    clock = ManualClock(1_457_056_447_000_000)

    assert (clock.now_us(), clock.monotonic()) == (1_457_056_447_000_000, 0)
    clock.advance(1.5)
    assert (clock.now_us(), clock.monotonic()) == (1_457_056_448_500_000, 1.5)


def test_the_manual_clock_refuses_to_go_back() -> None:
    with pytest.raises(ValueError, match="advances"):
        ManualClock(0).advance(-1)


@pytest.mark.parametrize("clock", [SystemClock(), ManualClock(0)])
def test_both_are_clocks_to_a_type_checker(clock: Clock) -> None:
    assert isinstance(clock.now_us(), int)
