"""Retry delays: exponential backoff, full jitter, a maximum."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gregor.core.backoff import Backoff, backoff_s, no_jitter


def test_delay_doubles_up_to_the_maximum() -> None:
    backoff = Backoff(0.5, 20.0, no_jitter)

    assert [backoff.next_s() for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 20, 20]


def test_reset_starts_with_the_first_delay() -> None:
    backoff = Backoff(0.5, 20.0, no_jitter)
    for _ in range(5):
        backoff.next_s()

    backoff.reset()

    assert backoff.next_s() == 0.5


@given(attempt=st.integers(-5, 10_000), first_s=st.floats(0.001, 10), max_s=st.floats(10, 1_000), seed=st.integers())
def test_jittered_delay_is_within_its_bound(attempt: int, first_s: float, max_s: float, seed: int) -> None:
    bound_s = backoff_s(attempt, first_s, max_s, no_jitter)

    assert first_s <= bound_s <= max_s
    assert 0.0 <= backoff_s(attempt, first_s, max_s, Random(seed).uniform) <= bound_s


def test_full_jitter_covers_the_whole_range() -> None:
    uniform = Random(1).uniform
    delays = [backoff_s(3, 0.5, 20.0, uniform) for _ in range(1_000)]

    assert min(delays) < 0.1
    assert max(delays) > 3.9


@pytest.mark.parametrize(
    ("quiet_s", "expected_s"),
    [pytest.param(4.0, 2.0, id="killed on arrival"), pytest.param(4.1, 0.05, id="good connection")],
)
def test_delays_start_again_after_a_good_connection(quiet_s: float, expected_s: float) -> None:
    backoff, now_s = Backoff(0.05, 2.0, no_jitter), 1_000.0
    for _ in range(10):
        now_s += backoff.next_at(now_s)

    assert backoff.next_at(now_s + quiet_s) == expected_s
