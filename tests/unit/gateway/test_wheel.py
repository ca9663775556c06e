"""The timing wheel."""

from __future__ import annotations

import pytest

from gregor.clock import ManualClock
from gregor_gateway.runtime.timer_wheel import Later, Wheel


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
    wheel, bell = Wheel(clock), Bell()
    wheel.at(1.0, bell)
    for _ in range(10):
        clock.advance(0.1)
        wheel.turn()
    assert bell.rung == []

    clock.advance(0.1)
    wheel.turn()

    assert bell.rung == [pytest.approx(1.1)]
    clock.advance(5)
    wheel.turn()
    assert len(bell.rung) == 1


def test_one_that_fails_stops_no_other(clock: ManualClock) -> None:
    wheel, bell = Wheel(clock), Bell()
    wheel.at(0.0, Later(lambda: 1 / 0))
    wheel.at(0.0, bell)
    wheel.at(0.5, bell)

    for _ in range(10):
        clock.advance(0.1)
        wheel.turn()

    assert len(bell.rung) == 2


def test_what_is_past_ticks_at_the_next_turn(clock: ManualClock) -> None:
    clock.advance(10)
    wheel, bell = Wheel(clock), Bell()
    wheel.at(3.0, bell)
    clock.advance(0.1)
    wheel.turn()

    assert len(bell.rung) == 1


def test_a_long_sleep_of_the_process_loses_nothing(clock: ManualClock) -> None:
    wheel, bell, order = Wheel(clock), Bell(), list[str]()
    wheel.at(5.0, Later(lambda: order.append("second")))
    wheel.at(1.0, Later(lambda: order.append("first")))
    wheel.at(10_000.0, bell)
    clock.advance(3_600)
    wheel.turn()

    assert order == ["first", "second"]
    assert bell.rung == []


def test_what_ticks_may_ask_to_tick_again(clock: ManualClock) -> None:
    wheel, count = Wheel(clock), list[int]()

    def again() -> None:
        count.append(1)
        wheel.after(1.0, again)

    wheel.after(1.0, again)
    for _ in range(55):
        clock.advance(0.1)
        wheel.turn()

    assert 4 <= len(count) <= 5
