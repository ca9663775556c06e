"""Properties of `PacedUsers`: the rate holds, waiting calls return one after another, and users are independent."""

from __future__ import annotations

import heapq
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gregor.core.notify.intents import WEBHOOK
from gregor_delivery.throttle.paced_users import LONGEST_WAIT_S, WAITING_BURST_S, PacedUsers, waiting_pace

RATE, BURST = 10.0, 5


def served(paced: PacedUsers, calls: list[tuple[int, str]]) -> tuple[list[tuple[int, str]], int]:
    """Let each call return at its turn until it is served. Return who was served when (µs), and the number of tries."""
    waiting, done, tries = [*calls], list[tuple[int, str]](), 0
    heapq.heapify(waiting)
    while waiting:
        now_us, uid = heapq.heappop(waiting)
        wait_s, tries = paced.wait_s(uid, now_us / 1e6), tries + 1
        if wait_s:
            heapq.heappush(waiting, (now_us + round(wait_s * 1e6), uid))
        else:
            done.append((now_us, uid))
    return done, tries


calls = st.lists(st.tuples(st.integers(0, 5_000_000), st.sampled_from("ab")), max_size=200)


@given(calls)
def test_steps_of_a_user_are_paced(given_calls: list[tuple[int, str]]) -> None:
    done, tries = served(PacedUsers(RATE, BURST), given_calls)

    assert Counter(uid for _, uid in done) == Counter(uid for _, uid in given_calls)
    for uid in "ab":
        times = [at_us for at_us, each in done if each == uid]
        for i, first_us in enumerate(times):
            in_a_second = sum(first_us <= at_us < first_us + 1_000_000 for at_us in times[i:])
            assert in_a_second <= BURST + RATE + 1
    assert tries <= 4 * len(given_calls)


@given(st.integers(1, 300))
def test_waiting_calls_return_one_after_another(count: int) -> None:
    paced = PacedUsers(RATE, BURST)
    waits_s = [paced.wait_s("a", 0) for _ in range(count)]

    assert waits_s[:BURST] == [0.0] * min(count, BURST)
    turns = waits_s[BURST:]
    assert all(later - earlier >= 0.99 / RATE for earlier, later in pairwise(turns))
    assert paced.wait_s("b", 0) == 0.0


def test_calls_of_one_moment_return_at_the_rate() -> None:
    """A device can save up 36,000 deliveries in an hour of quiet hours, and cause 8 more pushes a second."""
    count = 36_000
    done, tries = served(waiting_pace(RATE), [*[(0, "a")] * count, *((n * 125_000, "b") for n in range(1_000))])

    by_second = Counter(at_us // 1_000_000 for at_us, uid in done if uid == "a")
    assert by_second.pop(0) <= WAITING_BURST_S * RATE + RATE + 1
    assert max(by_second.values()) <= RATE + 1 and max(by_second) <= count / RATE
    assert [at_us for at_us, uid in done if uid == "b"] == [n * 125_000 for n in range(1_000)]
    assert tries <= 2.1 * count


def test_waiting_webhook_calls_have_a_faster_pace() -> None:
    """Each waits several times for its receiver: at the pace of pushes, 900 calls took a minute instead of 11 s."""
    count, returns, pace = 900, 3, waiting_pace(RATE, WEBHOOK)

    done, _ = served(pace, [(n * 1_000 + k * 3_000_000, "a") for n in range(count) for k in range(returns)])

    assert max(done)[0] <= 20_000_000


def test_returns_of_many_calls_are_spread() -> None:
    """More calls wait than have turns until the longest wait."""
    paced, most = PacedUsers(RATE, BURST), round(LONGEST_WAIT_S * RATE)
    waits_s = [paced.wait_s("a", 0) for _ in range(2 * most)]

    assert max(waits_s) <= LONGEST_WAIT_S
    by_minute = Counter(wait_s // 60 for wait_s in waits_s)
    assert max(by_minute.values()) <= 4 * 60 * RATE


def test_no_turns_are_left_behind() -> None:
    paced, now_us = PacedUsers(RATE, BURST), 0
    for now_us in range(0, 300_000_000, 20_000):  # five times as many calls as the rate
        paced.wait_s("a", now_us / 1e6)
    now_us += round(LONGEST_WAIT_S * 1e6)
    waits_s = [paced.wait_s("a", now_us / 1e6) for _ in range(BURST + 1)]

    assert waits_s == pytest.approx([*[0.0] * BURST, 1 / RATE])
