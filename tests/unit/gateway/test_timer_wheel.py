"""The timing wheel."""

from __future__ import annotations

import pytest

from gregor.clock import ManualClock
from gregor_gateway.runtime.timer_wheel import Timer, TimerWheel


class Bell:
    """Notes when it ticked."""

    def __init__(self) -> None:
        self.rung: list[float] = []

    def tick(self, now: float) -> None:
        self.rung.append(now)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(0)


def test_nothing_ticks_before_its_time_and_all_of_it_soon_after(clock: ManualClock) -> None:
    timers, bell = TimerWheel(clock), Bell()
    timers.at(1.0, bell)
    for _ in range(10):
        clock.advance(0.1)
        timers.turn()
    assert bell.rung == []

    clock.advance(0.1)
    timers.turn()

    assert bell.rung == [pytest.approx(1.1)]
    clock.advance(5)
    timers.turn()
    assert len(bell.rung) == 1


def test_one_that_fails_stops_no_other(clock: ManualClock) -> None:
    timers, bell = TimerWheel(clock), Bell()
    timers.at(0.0, Timer(lambda: 1 / 0))
    timers.at(0.0, bell)
    timers.at(0.5, bell)

    for _ in range(10):
        clock.advance(0.1)
        timers.turn()

    assert len(bell.rung) == 2


def test_what_is_past_ticks_at_the_next_turn(clock: ManualClock) -> None:
    clock.advance(10)
    timers, bell = TimerWheel(clock), Bell()
    timers.at(3.0, bell)
    clock.advance(0.1)
    timers.turn()

    assert len(bell.rung) == 1


def test_a_long_sleep_of_the_process_loses_nothing(clock: ManualClock) -> None:
    timers, bell, order = TimerWheel(clock), Bell(), list[str]()
    timers.at(5.0, Timer(lambda: order.append("second")))
    timers.at(1.0, Timer(lambda: order.append("first")))
    timers.at(10_000.0, bell)
    clock.advance(3_600)
    timers.turn()

    assert order == ["first", "second"]
    assert bell.rung == []


def test_what_ticks_may_ask_to_tick_again(clock: ManualClock) -> None:
    timers, count = TimerWheel(clock), list[int]()

    def again() -> None:
        count.append(1)
        timers.after(1.0, again)

    timers.after(1.0, again)
    for _ in range(55):
        clock.advance(0.1)
        timers.turn()

    assert 4 <= len(count) <= 5
