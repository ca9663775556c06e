"""The back-off between attempts to connect."""

from gregor.redis.connection import Backoff


def pauses(backoff: Backoff, count: int, now_s: float = 0.0) -> list[float]:
    """So many pauses, each asked for when the one before it is over."""
    found = []
    for _ in range(count):
        found.append(backoff.pause_s(now_s))
        now_s += found[-1]
    return found


def test_pauses_are_random_below_a_cap_that_doubles_up_to_the_longest() -> None:
    runs = [pauses(Backoff(0.05, 2.0), 10) for _ in range(400)]

    longest = [max(run[n] for run in runs) for n in range(10)]
    for n, longest_s in enumerate(longest):
        cap_s = min(2.0, 0.05 * 2**n)
        assert 0.8 * cap_s < longest_s <= cap_s
    assert min(run[9] for run in runs) < 0.2


def test_a_connection_that_lived_long_lets_the_pauses_start_afresh() -> None:
    backoff = Backoff(0.05, 2.0)
    pauses(backoff, 10)

    assert backoff.pause_s(1_000) <= 0.05
