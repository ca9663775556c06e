"""The circuit breaker: open, half-open, closed, stopped."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gregor_delivery.channels.verdict import Misconfigured, Refused, Retry, Sent, Unknown, Verdict
from gregor_delivery.throttle.breaker import (
    FAILED_USERS,
    FAILURE_THRESHOLD,
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    MAX_FAILED_USERS,
    OTHERS_FIRST_S,
    REJECTED_LAST_S,
    SLOW_PROBE_S,
    STOPPED_S,
    TRUSTED_S,
    Breaker,
    is_throttling,
)

DOWN = Retry(None, "503", "down")
UNREACHABLE = Retry(None, None, "cannot connect")
REJECTED = Misconfigured("403", "Forbidden")
THROTTLED = Retry(30.0, "429", "TooManyRequests")
REFUSED_UNSENT = Refused(None, "BadTopic")
"""The channel refused the message by itself, without asking the provider."""
VERDICTS = st.one_of(
    st.sampled_from([DOWN, Unknown("silent"), Sent("200"), Refused("400", "BadDeviceToken"), Misconfigured("403", "")]),
    st.sampled_from([REFUSED_UNSENT, UNREACHABLE]),
    st.builds(Retry, st.none() | st.floats(0.0, 3_600.0), st.sampled_from(["421", "429"]), st.just("throttled")),
)


def histories(users: int) -> st.SearchStrategy[list[tuple[str, Verdict, float]]]:
    """Return histories of sends: user, verdict, and the pause before the send. Replies often repeat."""
    uids = st.sampled_from([f"u{n}" for n in range(users)])
    sends = st.tuples(uids, VERDICTS, st.sampled_from([0.0, 0.0, 2.0, 60.0]))
    runs = st.lists(st.tuples(sends, st.sampled_from([1, 2, FAILURE_THRESHOLD])), max_size=20)
    return runs.map(lambda parts: [send for send, times in parts for _ in range(times)])


def run(
    history: list[tuple[str, Verdict, float]], counts: Callable[[str, Verdict], bool] = lambda *_: True
) -> list[tuple[int, float, bool]]:
    """Return the state after each send. Permits of the sends that do not count are given back unused."""
    breaker, now_s, states = Breaker(), 0.0, []
    for uid, verdict, pause_s in history:
        now_s += pause_s
        if breaker.capacity(1, now_s):
            permit = breaker.acquire(uid)
            permit.record(verdict, now_s) if counts(uid, verdict) else permit.release()
        states.append((breaker.capacity(5, now_s), breaker.wait_s(now_s), breaker.is_stopped))
    return states


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


def test_refusals_without_a_request_do_not_keep_the_breaker_closed() -> None:
    between: list[Verdict] = [DOWN, REFUSED_UNSENT]
    assert after(*between * (FAILURE_THRESHOLD - 1)).capacity(5, 0.0) == 5
    assert after(*between * FAILURE_THRESHOLD).capacity(5, 0.0) == 0


def test_probe_refused_without_a_request_leaves_the_breaker_open() -> None:
    for breaker in (after(*[DOWN] * FAILURE_THRESHOLD), after(Misconfigured("403", "InvalidProviderToken"))):
        is_stopped = breaker.is_stopped
        for _ in range(3):
            assert breaker.capacity(5, STOPPED_S) == 1
            breaker.acquire("mallory").record(REFUSED_UNSENT, STOPPED_S)

        assert (breaker.is_open, breaker.is_stopped, breaker.capacity(5, STOPPED_S)) == (True, is_stopped, 1)


def test_unreachable_provider_opens_the_breaker_for_one_user() -> None:
    breaker = Breaker()
    for _ in range(FAILURE_THRESHOLD):
        breaker.acquire("alice").record(UNREACHABLE, 0.0)

    assert breaker.capacity(5, 0.0) == 0


@pytest.mark.parametrize("verdict", [DOWN, Unknown("silent")])
def test_failing_device_does_not_open_the_breaker(verdict: Verdict) -> None:
    """FCM answers 500, and Mozilla 502, to single tokens for weeks."""
    assert failed(FAILURE_THRESHOLD - 1, replies=100, verdict=verdict).capacity(5, 0.0) == 5
    assert failed(FAILURE_THRESHOLD, verdict=verdict).capacity(5, 0.0) == 0


def test_other_users_probe_before_those_whose_sends_failed() -> None:
    breaker = failed(FAILURE_THRESHOLD, verdict=DOWN)

    assert (breaker.wait_s(FIRST_PAUSE_S, "u0"), breaker.wait_s(FIRST_PAUSE_S, "alice")) == (OTHERS_FIRST_S, 0.0)
    assert breaker.wait_s(FIRST_PAUSE_S + OTHERS_FIRST_S, "u0") == 0.0
    breaker.acquire("alice").record(Sent("200"), FIRST_PAUSE_S)
    assert (breaker.wait_s(FIRST_PAUSE_S, "u0"), breaker.capacity(5, FIRST_PAUSE_S)) == (0.0, 5)


def test_failed_probe_of_a_user_that_failed_before_extends_the_pause() -> None:
    """If only one user is active in an outage, its retries must not follow each other at once."""
    breaker, at_s = failed(FAILURE_THRESHOLD, verdict=DOWN), FIRST_PAUSE_S + OTHERS_FIRST_S
    breaker.acquire("u0").record(DOWN, at_s)

    assert breaker.wait_s(at_s) == 2 * FIRST_PAUSE_S


@given(probes=st.lists(st.integers(0, FAILURE_THRESHOLD - 1), max_size=20))
def test_failed_probes_of_such_users_do_not_delay_others(probes: list[int]) -> None:
    """Else one user whose events always fail would keep a receiver paused that works for all others."""
    breaker, now_s, probed = failed(FAILURE_THRESHOLD, verdict=DOWN), FIRST_PAUSE_S, set[int]()
    for n in probes:
        now_s += max(breaker.wait_s(now_s), breaker.wait_s(now_s, f"u{n}"))
        breaker.acquire(f"u{n}").record(DOWN, now_s)

        assert breaker.wait_s(now_s, f"u{n}") > 0.0
        assert (breaker.wait_s(now_s, "alice") == 0.0) is (n in probed)
        probed.add(n)
    now_s += breaker.wait_s(now_s)
    breaker.acquire("alice").record(Sent("200"), now_s)
    assert not breaker.is_open and breaker.wait_s(now_s, "u0") == 0.0


def failed(users: int, replies: int = 1, verdict: Verdict = THROTTLED) -> Breaker:
    """Return a breaker after failed sends to each of `users` users at 0 s."""
    breaker = Breaker()
    for n in range(users * replies):
        breaker.acquire(f"u{n % users}").record(verdict, 0.0)
    return breaker


def test_throttled_users_open_the_breaker() -> None:
    """The waiting deliveries lose no attempt."""
    assert failed(FAILURE_THRESHOLD - 1).capacity(5, 0.0) == 5
    assert failed(FAILURE_THRESHOLD).capacity(5, 29.9) == 0
    assert failed(FAILURE_THRESHOLD).capacity(5, 30.0) == 1
    assert failed(FAILURE_THRESHOLD, verdict=Retry(3_600.0, "429", "")).capacity(5, LONGEST_PAUSE_S) == 1


def test_answers_about_the_content_of_mails_do_not_open_the_breaker() -> None:
    """A key with limits sends such an item to many users. If each delayed the next probe, e-mails waited for hours."""
    assert failed(100, verdict=Retry(None, "421", "the mail: 4.7.0 try again later")).capacity(5, 0.0) == 5
    assert failed(FAILURE_THRESHOLD, verdict=Retry(None, "421", "RCPT: 4.7.0 too many")).capacity(5, 0.0) == 0


def test_throttled_endpoint_opens_its_breaker() -> None:
    """Without a user, for example from a webhook, throttling concerns the provider."""
    assert after(*[THROTTLED] * (FAILURE_THRESHOLD - 1)).capacity(5, 0.0) == 5
    assert after(*[THROTTLED] * FAILURE_THRESHOLD).capacity(5, 29.9) == 0
    between: list[Verdict] = [THROTTLED, Sent("200")]
    assert after(*between * FAILURE_THRESHOLD).capacity(5, 0.0) == 5


def test_throttled_device_does_not_open_the_breaker() -> None:
    assert failed(FAILED_USERS - 1, replies=100).capacity(5, 0.0) == 5
    assert failed(FAILED_USERS, replies=100).capacity(5, 0.0) == 5


def test_throttled_users_are_forgotten_after_a_success() -> None:
    breaker = failed(FAILURE_THRESHOLD - 1)
    breaker.acquire("alice").record(Sent("200"), 0.0)
    breaker.acquire("bob").record(THROTTLED, 0.0)

    assert breaker.capacity(5, 0.0) == 5


def test_pause_is_the_shortest_that_a_throttled_user_was_given() -> None:
    breaker = Breaker()
    for n in range(FAILURE_THRESHOLD):
        breaker.acquire(f"u{n}").record(Retry(3_600.0 if n % 2 else 5.0, "429", "TooManyRequests"), 0.0)

    assert (breaker.capacity(5, 4.9), breaker.capacity(5, 5.0)) == (0, 1)


def test_throttled_device_cannot_occupy_the_probe() -> None:
    breaker = failed(FAILURE_THRESHOLD)
    for _ in range(100):
        assert breaker.capacity(5, 30.0) == 1
        breaker.acquire("u0").record(THROTTLED, 30.0)
    breaker.acquire("alice").record(Sent("200"), 30.0)

    assert (breaker.capacity(5, 30.0), breaker.is_open) == (5, False)


def test_probe_of_another_throttled_user_extends_the_pause() -> None:
    breaker = failed(FAILURE_THRESHOLD, verdict=Retry(None, "429", ""))
    breaker.acquire("alice").record(Retry(None, "429", ""), FIRST_PAUSE_S)

    assert (breaker.capacity(5, 3 * FIRST_PAUSE_S - 0.1), breaker.capacity(5, 3 * FIRST_PAUSE_S)) == (0, 1)


def test_throttled_probes_of_few_users_leave_the_pause_as_it_is() -> None:
    breaker = after(*[DOWN] * FAILURE_THRESHOLD)
    for n in range(FAILED_USERS - 1):
        breaker.acquire(f"u{n}").record(THROTTLED, FIRST_PAUSE_S)

    assert (breaker.is_open, breaker.capacity(5, FIRST_PAUSE_S)) == (True, 1)


def test_number_of_throttled_users_is_bounded() -> None:
    breaker = failed(2 * MAX_FAILED_USERS)

    assert breaker.failed_users == MAX_FAILED_USERS


@given(histories(users=FAILED_USERS - 1))
def test_throttling_of_few_users_changes_nothing(history: list[tuple[str, Verdict, float]]) -> None:
    assert run(history) == run(history, lambda _, verdict: not is_throttling(verdict))


@given(histories(users=2))
def test_refusals_without_a_request_change_nothing(history: list[tuple[str, Verdict, float]]) -> None:
    assert run(history) == run(history, lambda _, verdict: verdict != REFUSED_UNSENT)


@given(histories(users=12))
def test_repeated_throttling_of_a_user_changes_nothing(history: list[tuple[str, Verdict, float]]) -> None:
    """Between two replies that are not failures, only the first throttled reply of each user counts."""
    throttled_before: set[str] = set()

    def is_first(uid: str, verdict: Verdict) -> bool:
        if isinstance(verdict, Sent | Refused) and verdict != REFUSED_UNSENT:
            throttled_before.clear()
        is_repeated = is_throttling(verdict) and uid in throttled_before
        throttled_before.update([uid] if is_throttling(verdict) else [])
        return not is_repeated

    assert run(history) == run(history, is_first)


@given(
    asked=st.lists(st.none() | st.floats(0.0, 3_600.0), min_size=FAILURE_THRESHOLD, max_size=FAILURE_THRESHOLD),
    others=st.lists(st.integers(0, FAILURE_THRESHOLD - 1), max_size=30),
)
def test_throttling_of_many_users_opens_the_breaker(asked: list[float | None], others: list[int]) -> None:
    """The pause is at most the shortest one that a user was given, or the breaker's own."""
    breaker = Breaker()
    for n in [*others, *range(FAILURE_THRESHOLD)]:
        breaker.acquire(f"u{n}").record(Retry(asked[n], "429", "QUOTA_EXCEEDED"), 0.0)

    assert breaker.capacity(5, 0.0) == 0
    assert breaker.wait_s(0.0) == max(FIRST_PAUSE_S, min(LONGEST_PAUSE_S, *(each or 0.0 for each in asked)))


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


def test_probe_without_a_result_is_replaced() -> None:
    """A relay may take minutes to check one address. Mails to others must not wait for it."""
    breaker, at_s = after(*[DOWN] * FAILURE_THRESHOLD), FIRST_PAUSE_S + SLOW_PROBE_S
    slow = breaker.acquire("mallory", FIRST_PAUSE_S)
    assert (breaker.capacity(5, at_s - 0.1), breaker.capacity(5, at_s)) == (0, 1)
    probe = breaker.acquire("alice", at_s)

    slow.record(DOWN, at_s + 1.0)
    assert breaker.capacity(5, at_s + 1.0) == 0  # the second probe is in flight
    probe.record(DOWN, at_s + 1.0)
    assert breaker.wait_s(at_s + 1.0) == 2 * FIRST_PAUSE_S  # only its failure extends the pause


def test_late_success_of_a_replaced_probe_closes_the_breaker() -> None:
    breaker, at_s = after(*[DOWN] * FAILURE_THRESHOLD), FIRST_PAUSE_S + SLOW_PROBE_S
    slow, probe = breaker.acquire("mallory", FIRST_PAUSE_S), breaker.acquire("alice", at_s)
    slow.record(Sent("200"), at_s)
    assert (breaker.is_open, breaker.capacity(5, at_s)) == (False, 5)

    probe.record(DOWN, at_s)
    assert not breaker.is_open


@given(slow=st.lists(st.booleans(), max_size=20))
def test_slow_probes_delay_others_by_a_bounded_time(slow: list[bool]) -> None:
    """Each slow probe fails late, or has no verdict."""
    breaker, now_s, probes = after(*[DOWN] * FAILURE_THRESHOLD), FIRST_PAUSE_S, []
    for n in range(len(slow)):
        probes.append(breaker.acquire(f"m{n}", now_s))
        now_s += SLOW_PROBE_S
    for permit, is_failing in zip(probes[:-1], slow, strict=False):
        if is_failing:
            permit.record(DOWN, now_s)

    assert (breaker.capacity(5, now_s), breaker.wait_s(now_s, "alice")) == (1, 0.0)


def test_misconfiguration_stops_until_a_probe_succeeds() -> None:
    breaker = after(Misconfigured("403", "InvalidProviderToken"))
    assert (breaker.is_stopped, breaker.capacity(5, STOPPED_S - 1)) == (True, 0)

    breaker.acquire().record(Sent("200"), STOPPED_S)
    assert (breaker.is_stopped, breaker.capacity(5, STOPPED_S)) == (False, 5)


def test_other_users_probe_before_those_whose_messages_stopped_the_channel() -> None:
    """A device chooses its APNs topic, and a user the address of its e-mails: a provider may reject only these."""
    breaker = Breaker()
    breaker.acquire("mallory").record(REJECTED, 0.0)

    assert (breaker.wait_s(STOPPED_S, "mallory"), breaker.wait_s(STOPPED_S, "alice")) == (REJECTED_LAST_S, 0.0)
    assert breaker.wait_s(STOPPED_S + REJECTED_LAST_S, "mallory") == 0.0


def test_user_that_was_rejected_probes_soon_in_a_later_outage() -> None:
    """If our credentials were wrong for a while, all users were rejected."""
    breaker = after(Misconfigured("403", "InvalidProviderToken"))
    breaker.acquire("mallory").record(REJECTED, 0.0)
    breaker.acquire("alice").record(Sent("200"), STOPPED_S)
    for _ in range(FAILURE_THRESHOLD):
        breaker.acquire("alice").record(UNREACHABLE, STOPPED_S)

    assert breaker.wait_s(STOPPED_S + FIRST_PAUSE_S, "mallory") == OTHERS_FIRST_S


def test_user_stops_the_channel_once_while_others_are_accepted() -> None:
    breaker, now_s = Breaker(), 0.0
    breaker.acquire("mallory").record(REJECTED, now_s)
    for _ in range(100):
        now_s += STOPPED_S
        breaker.acquire("alice").record(Sent("200"), now_s)
        breaker.acquire("mallory").record(REJECTED, now_s)

        assert (breaker.is_stopped, breaker.capacity(5, now_s), breaker.wait_s(now_s, "alice")) == (False, 5, 0.0)
        assert breaker.wait_s(now_s, "mallory") == STOPPED_S


def test_rejected_credentials_stop_the_channel_again() -> None:
    """Another user stops it at once; if only users that stopped it before are active, the last success is old."""
    for uid, at_s in (("alice", STOPPED_S), (None, STOPPED_S), ("mallory", STOPPED_S + TRUSTED_S)):
        breaker = Breaker()
        breaker.acquire("mallory").record(REJECTED, 0.0)
        breaker.acquire("alice").record(Sent("200"), STOPPED_S)
        breaker.acquire(uid).record(REJECTED, at_s)

        assert (breaker.is_stopped, breaker.capacity(5, at_s + STOPPED_S - 1)) == (True, 0)


def test_temporary_rejection_does_not_confirm_the_credentials() -> None:
    """A relay that rejects the login answers 454 to too many tries, before it has accepted anything."""
    breaker = Breaker()
    for uid in ("alice", "bob"):
        breaker.acquire(uid).record(REJECTED, 0.0)
    breaker.acquire("alice").record(Retry(None, "454", "login: too many attempts"), STOPPED_S)
    breaker.acquire("bob").record(REJECTED, STOPPED_S)

    assert breaker.is_stopped


def test_success_ends_the_pause_of_all_users() -> None:
    breaker = Breaker()
    for uid in ("alice", "bob"):
        breaker.acquire(uid).record(REJECTED, 0.0)
    breaker.acquire("carol").record(Sent("200"), 1.0)

    assert (breaker.wait_s(1.0, "alice"), breaker.wait_s(1.0, "bob")) == (0.0, 0.0)


def test_users_whose_messages_stopped_the_channel_are_bounded() -> None:
    breaker = Breaker()
    for n in range(MAX_FAILED_USERS + 1):
        breaker.acquire(f"u{n}").record(REJECTED, 0.0)

    assert breaker.wait_s(STOPPED_S, "u0") == 0.0 < breaker.wait_s(STOPPED_S, "u1")


@given(st.lists(st.tuples(st.sampled_from(["m0", "m1", "m2"]), st.sampled_from([0.0, 2.0, 60.0])), max_size=40))
def test_users_stop_the_channel_at_most_once_each(rejections: list[tuple[str, float]]) -> None:
    """The messages of a few users are always rejected, and all others are accepted."""
    breaker, now_s, stops = Breaker(), 0.0, 0
    for uid, pause_s in rejections:
        now_s += pause_s
        now_s += breaker.wait_s(now_s, "alice")
        breaker.acquire("alice").record(Sent("200"), now_s)
        now_s += breaker.wait_s(now_s, uid)
        breaker.acquire("alice").record(Sent("200"), now_s)
        breaker.acquire(uid).record(REJECTED, now_s)
        stops += breaker.is_stopped

    assert stops == len({uid for uid, _ in rejections})
