"""Rate limits: the arithmetic of GCRA (the same in every store), and the limiter of a process."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gregor.core.rate_limit import RateLimiter, rate_limited, take

NOW_US = 1_000_000_000


def test_unused_bucket_gives_its_burst() -> None:
    assert take(0, 10.0, 5, 5, NOW_US) == (NOW_US + 500_000, 0.0)


def test_too_few_tokens_returns_the_wait_and_takes_none() -> None:
    full_at_us, _ = take(0, 10.0, 5, 3, NOW_US)

    assert take(full_at_us, 10.0, 5, 4, NOW_US) == (full_at_us, 0.2)
    assert take(full_at_us, 10.0, 5, 4, NOW_US + 200_000) == (NOW_US + 700_000, 0.0)


def test_step_is_rounded_to_the_nearest_microsecond() -> None:
    assert take(0, 3.0, 1, 1, NOW_US) == (NOW_US + 333_333, 0.0)


def test_limiter_refuses_beyond_its_burst() -> None:
    limiter = RateLimiter(2.0, burst=3)

    assert [limiter.try_acquire(10.0) for _ in range(5)] == [True, True, True, False, False]
    assert [limiter.try_acquire(10.5) for _ in range(2)] == [True, False]


def test_limiter_without_rate_never_waits() -> None:
    limiter = RateLimiter(None)
    for _ in range(10_000):
        limiter.acquire(0.0)

    assert (limiter.capacity(250, 0.0), limiter.wait_s(0.0), limiter.try_acquire(0.0)) == (250, 0.0, True)


@given(
    rate=st.floats(0.01, 500),
    burst=st.integers(1, 50),
    pauses_s=st.lists(st.floats(0, 1), max_size=30),
    limit=st.integers(1, 60),
)
def test_limiter_never_exceeds_rate_and_burst(rate: float, burst: int, pauses_s: list[float], limit: int) -> None:
    limiter, now_s = RateLimiter(rate, burst), 1_000.0
    taken: list[tuple[float, int]] = []
    for pause_s in pauses_s:
        now_s += pause_s
        capacity = limiter.capacity(limit, now_s)
        assert 0 <= capacity <= limit
        for _ in range(capacity):
            limiter.acquire(now_s)
        taken.append((now_s, capacity))
    for first, (since_s, _) in enumerate(taken):
        count = 0
        for at_s, capacity in taken[first:]:
            count += capacity
            assert count <= (at_s - since_s) * rate + burst + 0.001


@given(rate=st.floats(0.01, 5_000), burst=st.none() | st.integers(1, 50), used=st.integers(0, 1_000))
def test_capacity_is_back_after_the_wait(rate: float, burst: int | None, used: int) -> None:
    limiter = RateLimiter(rate, burst)
    for _ in range(used):
        limiter.acquire(50.0)

    wait_s = limiter.wait_s(50.0)

    assert limiter.capacity(10, 50.0 + wait_s) >= 1
    assert wait_s == 0 or limiter.capacity(10, 50.0 + wait_s - 0.01 / rate) == 0


@pytest.mark.parametrize(("wait_s", "shown"), [(0.001, "0.1"), (0.1, "0.1"), (0.101, "0.2"), (2.0, "2.0")])
def test_error_names_the_limit_and_never_a_wait_of_zero(wait_s: float, shown: str) -> None:
    problem = rate_limited("messages", wait_s)

    assert problem.detail == f'Too many messages: the rate limit "messages" is reached. Retry in {shown} s.'
    assert (problem.code, problem.retry_after_s) == ("rate_limited", wait_s)
