"""The timer wheel."""

from __future__ import annotations

import pytest

from gregor.clock import ManualClock
from gregor_gateway.runtime.timer_wheel import Timer, TimerWheel


class RecordingTimer:
    """Records when it ticked."""

    def __init__(self) -> None:
        self.rung: list[float] = []

    def tick(self, now: float) -> None:
        self.rung.append(now)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(0)


def test_timers_never_fire_early(clock: ManualClock) -> None:
    timers, bell = TimerWheel(clock), RecordingTimer()
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


def test_failing_timer_stops_no_other(clock: ManualClock) -> None:
    timers, bell = TimerWheel(clock), RecordingTimer()
    timers.at(0.0, Timer(lambda: 1 / 0))
    timers.at(0.0, bell)
    timers.at(0.5, bell)

    for _ in range(10):
        clock.advance(0.1)
        timers.turn()

    assert len(bell.rung) == 2


def test_past_time_fires_at_the_next_turn(clock: ManualClock) -> None:
    clock.advance(10)
    timers, bell = TimerWheel(clock), RecordingTimer()
    timers.at(3.0, bell)
    clock.advance(0.1)
    timers.turn()

    assert len(bell.rung) == 1


def test_long_sleep_loses_no_timer(clock: ManualClock) -> None:
    timers, bell, order = TimerWheel(clock), RecordingTimer(), list[str]()
    timers.at(5.0, Timer(lambda: order.append("second")))
    timers.at(1.0, Timer(lambda: order.append("first")))
    timers.at(10_000.0, bell)
    clock.advance(3_600)
    timers.turn()

    assert order == ["first", "second"]
    assert bell.rung == []


def test_timer_may_be_rescheduled_in_its_tick(clock: ManualClock) -> None:
    timers, count = TimerWheel(clock), list[int]()

    def again() -> None:
        count.append(1)
        timers.after(1.0, again)

    timers.after(1.0, again)
    for _ in range(55):
        clock.advance(0.1)
        timers.turn()

    assert 4 <= len(count) <= 5
