"""When a provider is left alone."""

from services.delivery.breaker import FAILURES, FIRST_S, STOPPED_S, Breaker
from services.delivery.verdict import Misconfigured, Refused, Retry, Sent, Unknown, Verdict

DOWN = Retry(None, "503", "down")


def after(*verdicts: Verdict) -> Breaker:
    """One that has seen these, all at 0 s."""
    breaker = Breaker()
    for verdict in verdicts:
        breaker.began()
        breaker.ended(verdict, 0.0)
    return breaker


def test_a_provider_that_fails_again_and_again_is_left_alone() -> None:
    assert after(*[DOWN] * (FAILURES - 1)).room(5, 0.0) == 5
    assert after(*[Unknown("silent")] * FAILURES).room(5, 0.0) == 0
    assert after(*[DOWN] * FAILURES, Sent("200")).room(5, 0.0) == 5


def test_what_a_device_or_a_message_did_wrong_opens_nothing() -> None:
    faults: list[Verdict] = [Refused("400", "BadDeviceToken"), Retry(None, "429", "TooManyRequests")]
    breaker = after(*faults * FAILURES)

    assert breaker.room(5, 0.0) == 5


def test_then_one_goes_out_alone_and_decides() -> None:
    breaker = after(*[DOWN] * FAILURES)
    assert breaker.room(5, FIRST_S) == 1
    breaker.began()
    assert breaker.room(5, FIRST_S) == 0
    breaker.ended(DOWN, FIRST_S)

    assert breaker.room(5, 2 * FIRST_S) == 0  # twice as long as before
    assert breaker.room(5, 3 * FIRST_S) == 1
    breaker.began()
    breaker.ended(Sent("200"), 3 * FIRST_S)
    assert (breaker.room(5, 3 * FIRST_S), breaker.is_open) == (5, False)


def test_a_probe_that_was_not_sent_after_all_leaves_the_place_to_another() -> None:
    breaker = after(*[DOWN] * FAILURES)
    breaker.began()
    breaker.passed()

    assert breaker.room(5, FIRST_S) == 1


def test_what_was_in_flight_when_it_opened_makes_the_pause_no_longer() -> None:
    breaker = after(*[DOWN] * FAILURES)
    for _ in range(50):
        breaker.ended(DOWN, 0.0)

    assert breaker.room(5, FIRST_S) == 1


def test_wrong_credentials_stop_the_provider_at_once_until_they_are_mended() -> None:
    breaker = after(Misconfigured("403", "InvalidProviderToken"))
    assert (breaker.is_stopped, breaker.room(5, STOPPED_S - 1)) == (True, 0)

    breaker.began()
    breaker.ended(Sent("200"), STOPPED_S)
    assert (breaker.is_stopped, breaker.room(5, STOPPED_S)) == (False, 5)
