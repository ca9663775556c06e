"""The sums of GCRA (``core.rates``): whole microseconds, the same in every store."""

from gregor.core.rate_limit import take

NOW_US = 1_000_000_000


def test_a_bucket_that_was_never_used_gives_its_burst() -> None:
    assert take(0, 10.0, 5, 5, NOW_US) == (NOW_US + 500_000, 0.0)


def test_more_than_there_is_waits_for_the_difference_and_takes_nothing() -> None:
    full_at_us, _ = take(0, 10.0, 5, 3, NOW_US)

    assert take(full_at_us, 10.0, 5, 4, NOW_US) == (full_at_us, 0.2)
    assert take(full_at_us, 10.0, 5, 4, NOW_US + 200_000) == (NOW_US + 700_000, 0.0)


def test_a_rate_that_no_microsecond_divides_is_rounded_to_the_nearest() -> None:
    assert take(0, 3.0, 1, 1, NOW_US) == (NOW_US + 333_333, 0.0)
    assert take(0, 30_000_000.0, 1, 1, NOW_US) == (NOW_US + 1, 0.0)
