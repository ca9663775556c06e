"""The circuit breaker: open, half-open, closed, stopped."""

from gregor_delivery.channels.verdict import Misconfigured, Refused, Retry, Sent, Unknown, Verdict
from gregor_delivery.throttle.breaker import FAILURE_THRESHOLD, FIRST_PAUSE_S, LONGEST_PAUSE_S, STOPPED_S, Breaker

DOWN = Retry(None, "503", "down")


def after(*verdicts: Verdict) -> Breaker:
    """Return a breaker that has recorded these verdicts at 0 s."""
    breaker = Breaker()
    for verdict in verdicts:
        breaker.acquire().record(verdict, 0.0)
    return breaker


def test_repeated_failures_open_the_breaker() -> None:
    assert after(*[DOWN] * (FAILURE_THRESHOLD - 1)).capacity(5, 0.0) == 5
    assert after(*[Unknown("silent")] * FAILURE_THRESHOLD).capacity(5, 0.0) == 0
    assert after(*[DOWN] * FAILURE_THRESHOLD, Sent("200")).capacity(5, 0.0) == 5


def test_message_errors_do_not_open_the_breaker() -> None:
    faults: list[Verdict] = [Refused("400", "BadDeviceToken"), Retry(None, "429", "TooManyRequests")]
    breaker = after(*faults * FAILURE_THRESHOLD)

    assert breaker.capacity(5, 0.0) == 5


def test_throttling_opens_the_breaker() -> None:
    """The waiting deliveries lose no attempt."""
    patience = Retry(30.0, "429", "QUOTA_EXCEEDED")

    assert after(*[patience] * (FAILURE_THRESHOLD - 1)).capacity(5, 0.0) == 5
    assert after(*[patience] * FAILURE_THRESHOLD).capacity(5, 29.9) == 0
    assert after(*[patience] * FAILURE_THRESHOLD).capacity(5, 30.0) == 1
    assert after(*[Retry(3_600.0, "429", "")] * FAILURE_THRESHOLD).capacity(5, LONGEST_PAUSE_S) == 1
    between: list[Verdict] = [patience, Sent("200")]
    assert after(*between * FAILURE_THRESHOLD).capacity(5, 0.0) == 5


def test_first_record_of_a_permit_counts() -> None:
    breaker = after(*[DOWN] * (FAILURE_THRESHOLD - 1))
    turn = breaker.acquire()
    turn.record(Sent("200"), 0.0)
    turn.record(DOWN, 0.0)
    turn.release()

    assert not breaker.is_open


def test_half_open_breaker_lets_one_probe_pass() -> None:
    breaker = after(*[DOWN] * FAILURE_THRESHOLD)
    assert breaker.capacity(5, FIRST_PAUSE_S) == 1
    probe = breaker.acquire()
    assert breaker.capacity(5, FIRST_PAUSE_S) == 0
    probe.record(DOWN, FIRST_PAUSE_S)

    assert breaker.capacity(5, 2 * FIRST_PAUSE_S) == 0  # twice as long as before
    assert breaker.capacity(5, 3 * FIRST_PAUSE_S) == 1
    breaker.acquire().record(Sent("200"), 3 * FIRST_PAUSE_S)
    assert (breaker.capacity(5, 3 * FIRST_PAUSE_S), breaker.is_open) == (5, False)


def test_released_probe_allows_another() -> None:
    breaker = after(*[DOWN] * FAILURE_THRESHOLD)
    breaker.acquire().release()

    assert breaker.capacity(5, FIRST_PAUSE_S) == 1


def test_late_failures_do_not_extend_the_pause() -> None:
    breaker = Breaker()
    turns = [breaker.acquire() for _ in range(FAILURE_THRESHOLD + 50)]
    for turn in turns[:-25]:
        turn.record(DOWN, 0.0)
    assert breaker.capacity(5, FIRST_PAUSE_S) == 1

    probe = breaker.acquire()
    for turn in turns[-25:]:
        turn.record(DOWN, FIRST_PAUSE_S)
    assert breaker.capacity(5, 2 * FIRST_PAUSE_S) == 0  # the probe is still in flight, and only its verdict counts
    probe.record(DOWN, 2 * FIRST_PAUSE_S)
    assert (breaker.capacity(5, 4 * FIRST_PAUSE_S - 0.1), breaker.capacity(5, 4 * FIRST_PAUSE_S)) == (0, 1)


def test_misconfiguration_stops_until_a_probe_succeeds() -> None:
    breaker = after(Misconfigured("403", "InvalidProviderToken"))
    assert (breaker.is_stopped, breaker.capacity(5, STOPPED_S - 1)) == (True, 0)

    breaker.acquire().record(Sent("200"), STOPPED_S)
    assert (breaker.is_stopped, breaker.capacity(5, STOPPED_S)) == (False, 5)
