"""The queue of requests that wait for the CPU: when it refuses, and when it stops to."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gregor.net.request_queue import (
    BUSY_SHARE,
    BYTES_A_UNIT,
    HOLD_S,
    LATE_FOR_S,
    NORMAL_CAPACITY,
    OVERLOAD_CAPACITY,
    RequestQueue,
)

MAX_DELAY_S = 0.25
BATCH_BYTES = 25_000
TURNS = st.lists(
    st.tuples(st.integers(0, 400), st.floats(0, 2), st.sampled_from((1, 500, BATCH_BYTES))), min_size=1, max_size=40
)
"""Turns of an event loop: arrivals, seconds until the first of them begins, and their size."""
SHARED_TURNS = st.lists(
    st.tuples(
        st.lists(st.sampled_from((1, 500, BATCH_BYTES)), min_size=1, max_size=80),
        st.integers(0, 5_000),
        st.sampled_from((1, 500, 262_144)),
        st.floats(0, 2),
        st.floats(0, HOLD_S),
    ),
    min_size=1,
    max_size=20,
)
"""Turns: sizes with a verified key, how many strangers and their size, seconds until they begin, and a pause."""


def queue_of(counted: list[int] | None = None) -> RequestQueue:
    return RequestQueue(MAX_DELAY_S, (counted if counted is not None else []).append)


def offer(queue: RequestQueue, size: int) -> int:
    """Add a request with a verified key."""
    return queue.offer(size, is_verified=True)


def leave(queue: RequestQueue, units: int, arrived_s: float, now_s: float) -> None:
    queue.leave(units, arrived_s, now_s, is_verified=True)


def overloaded(now_s: float = 0.0, cpu_s: Callable[[], float] = lambda: 0.0) -> RequestQueue:
    queue = RequestQueue(MAX_DELAY_S, lambda _: None, cpu_s)
    be_late(queue, now_s)
    return queue


def be_late(queue: RequestQueue, now_s: float) -> None:
    """Begin an overload now."""
    for at_s in (now_s - LATE_FOR_S, now_s):
        leave(queue, offer(queue, 1), at_s - 2 * MAX_DELAY_S, at_s)


def fill(queue: RequestQueue) -> list[int]:
    """Add small requests until one is refused."""
    units = []
    while unit := offer(queue, 1):
        units.append(unit)
    return units


@given(TURNS)
def test_only_an_overload_refuses(turns: list[tuple[int, float, int]]) -> None:
    queue, now_s, late_s = queue_of(), 0.0, -2 * HOLD_S
    for arrivals, delay_s, size in turns:
        was_overloaded = queue.is_overloaded
        offered = [offer(queue, size) for _ in range(arrivals)]
        # At least one request a turn is served, and never more than the capacity and the last one.
        most = OVERLOAD_CAPACITY if was_overloaded else NORMAL_CAPACITY
        assert not arrivals or offered[0]
        assert all(offered) or queue.waiting >= most
        assert queue.waiting < most + 1 + size // BYTES_A_UNIT
        arrived_s, now_s = now_s, now_s + delay_s
        for units in offered:
            leave(queue, units, arrived_s, now_s)
        if offered and (delay_s > MAX_DELAY_S or not all(offered)):
            late_s = now_s
        assert queue.waiting == 0
        assert not queue.is_overloaded or now_s - late_s < HOLD_S or not offered


def test_burst_is_not_refused() -> None:
    queue = queue_of()
    units = [offer(queue, 500) for _ in range(4_000)]

    assert all(units)
    assert not queue.is_full


def test_endless_burst_begins_an_overload() -> None:
    queue = queue_of()
    with capture_logs() as logs:
        for number, units in enumerate(fill(queue)):
            leave(queue, units, 0.0, number / 5_000)

    assert queue.is_overloaded
    assert [entry["event"] for entry in logs] == ["overload.began"]


def test_large_requests_of_one_moment_are_no_overload() -> None:
    """A key with a small rate could otherwise limit the queue for all with one volley of 125 requests."""
    queue = queue_of()
    for units in [offer(queue, 66_000) for _ in range(200)]:
        leave(queue, units, 0.0, 0.02)

    assert queue.refusals > 50
    assert not queue.is_overloaded


@pytest.mark.parametrize(
    ("every_s", "busy_share", "is_prolonged"),
    [
        (0.1, BUSY_SHARE + 0.01, True),
        (0.4, BUSY_SHARE + 0.01, True),
        (0.1, BUSY_SHARE - 0.01, False),
        (0.4, 0.02, False),
        (1.0, 1.0, False),
        (5.0, 1.0, False),
    ],
)
def test_only_continuous_refusals_of_a_busy_process_prolong_an_overload(
    every_s: float, busy_share: float, *, is_prolonged: bool
) -> None:
    """A few large requests a second could otherwise hold the queue of an idle process at 32 units."""
    now_s = 0.0
    queue = overloaded(cpu_s=lambda: busy_share * now_s)
    while now_s < 3 * HOLD_S:
        now_s += every_s
        for units in fill(queue)[:OVERLOAD_CAPACITY]:
            leave(queue, units, now_s, now_s)
        if not queue.is_overloaded:
            break

    assert queue.is_overloaded == is_prolonged


def test_endless_burst_of_strangers_is_no_overload() -> None:
    queue = queue_of()
    offered = [queue.offer(1, is_verified=False) for _ in range(2 * NORMAL_CAPACITY)]
    for units in offered:
        queue.leave(units, 0.0, 0.1, is_verified=False)

    assert queue.refusals == NORMAL_CAPACITY
    assert not queue.is_overloaded


def test_key_of_an_ordinary_request_is_not_looked_up() -> None:
    queue = queue_of()

    assert not queue.needs_key(500)
    assert queue.needs_key(BATCH_BYTES)
    queue.waiting = OVERLOAD_CAPACITY
    assert queue.needs_key(500)
    assert overloaded().needs_key(500)


def test_one_late_request_does_not_log_the_end_of_an_overload() -> None:
    queue = queue_of()
    with capture_logs() as logs:
        leave(queue, offer(queue, 1), 99.0, 100.0)
        be_late(queue, 200.0)

    assert [entry["event"] for entry in logs] == ["overload.began"]


@given(SHARED_TURNS)
def test_strangers_change_nothing_for_verified_keys(turns: list[tuple[list[int], int, int, float, float]]) -> None:
    """Requests without a verified key take no place of one with it, nor do their refusals limit or prolong."""
    queue, alone, now_s = queue_of(), queue_of(), 0.0
    for sizes, strangers, size, delay_s, pause_s in turns:
        others = [queue.offer(size, is_verified=False) for _ in range(strangers)]
        for _ in range(others.count(0)):
            queue.refuse(is_verified=False)
        offered = [offer(queue, each) for each in sizes]
        assert offered == [offer(alone, each) for each in sizes]
        assert sum(others) <= queue.capacity
        arrived_s, now_s = now_s, now_s + delay_s
        for units in offered:
            leave(queue, units, arrived_s, now_s)
            leave(alone, units, arrived_s, now_s)
        for units in others:
            queue.leave(units, arrived_s, now_s, is_verified=False)
        assert queue.is_overloaded == alone.is_overloaded
        assert queue.waiting == queue.verified == 0
        now_s += pause_s


def test_refused_strangers_do_not_prolong_an_overload() -> None:
    queue = overloaded()
    for second in range(1, round(HOLD_S) + 1):
        units = [queue.offer(1, is_verified=False) for _ in range(2 * OVERLOAD_CAPACITY)]
        for each in units:
            queue.leave(each, second, second, is_verified=False)

    assert queue.refusals == OVERLOAD_CAPACITY * round(HOLD_S)
    assert not queue.is_overloaded


@given(st.lists(st.integers(1, 1_000), min_size=1, max_size=20))
def test_pause_of_the_process_is_no_overload(bursts: list[int]) -> None:
    """After each pause, all requests that arrived meanwhile are late at once, and the next one is not."""
    queue, now_s = queue_of(), 0.0
    for arrivals in bursts:
        units = [offer(queue, 1) for _ in range(arrivals)]
        for unit in units:
            leave(queue, unit, now_s, now_s + 0.9)
        now_s += 0.9
        leave(queue, offer(queue, 1), now_s, now_s)

    assert not queue.is_overloaded
    assert queue.refusals == 0


def test_late_requests_limit_the_queue() -> None:
    queue = overloaded()

    assert len(fill(queue)) == OVERLOAD_CAPACITY
    assert queue.is_full
    assert queue.refusals == 1


def test_batches_count_by_their_bytes() -> None:
    queue = overloaded()
    batches = 0
    while offer(queue, BATCH_BYTES):
        batches += 1

    assert batches == -(-OVERLOAD_CAPACITY // (1 + BATCH_BYTES // BYTES_A_UNIT))


def test_overload_ends_some_time_after_a_refusal() -> None:
    queue = overloaded(10.0)
    for units in fill(queue):
        leave(queue, units, 10.5, 10.5)
    leave(queue, offer(queue, 1), 10.5 + 0.9 * HOLD_S, 10.5 + 0.9 * HOLD_S)
    assert queue.is_overloaded

    leave(queue, offer(queue, 1), 10.5 + HOLD_S, 10.5 + HOLD_S)
    assert not queue.is_overloaded
    assert len([offer(queue, 1) for _ in range(1_000)]) == 1_000


def test_unserved_refusals_are_counted_once() -> None:
    counted: list[int] = []
    queue = queue_of(counted)
    be_late(queue, 1.0)
    units = fill(queue)
    for _ in range(3):
        queue.refuse(is_verified=True)
    for unit in units:
        leave(queue, unit, 1.0, 1.1)

    assert counted == [3]
    assert queue.refusals == 4
