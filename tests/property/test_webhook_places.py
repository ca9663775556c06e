"""Slow endpoints leave places to others, and the calls that wait for them are decided rarely."""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from itertools import count, islice
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gregor.clock import ManualClock
from gregor_delivery.channels.http_pool import CONNECTIONS
from gregor_delivery.channels.verdict import Retry, Sent
from gregor_delivery.throttle.breaker import Permit
from gregor_delivery.throttle.user_places import PLACES_OF_USER
from gregor_delivery.throttle.web_push_origins import APNS_SANDBOX, APPLE, SHARE_FIXED, WebPushOrigins
from gregor_delivery.throttle.webhook_endpoints import LONGEST_TURN_S, MAX_CONCURRENT, SHARE, WebhookEndpoints
from tests.property.test_webhook_pauses import Receiver
from tests.support.builders import NOW_US

OTHERS = 6
"""Endpoints that use up all the places that they may. A new one then still finds some."""


@given(st.lists(st.tuples(st.integers(0, OTHERS - 1), st.booleans()), max_size=400))
@example([(name, True) for name in range(OTHERS) for _ in range(MAX_CONCURRENT)])
def test_busy_endpoints_leave_places(steps: list[tuple[int, bool]]) -> None:
    endpoints, permits = WebhookEndpoints(), list[tuple[str, Permit]]()
    for number, is_call in steps:
        name = f"w{number}"
        if is_call and endpoints.wait_s(name, 0.0) == 0.0:
            permits.append((name, endpoints.acquire(name, 0.0)))
        elif not is_call and permits:
            permits.pop(number % len(permits))[1].record(Sent("204"), 0.0)

        held = [sum(holder == f"w{n}" for holder, _ in permits) for n in range(OTHERS)]
        assert max(held) <= MAX_CONCURRENT and sum(held) < CONNECTIONS
        assert endpoints.wait_s("new", 0.0) == 0.0


@given(st.lists(st.tuples(st.integers(0, 2_000), st.booleans()), max_size=400))
@example([(name, True) for name in range(200)])
@example([(name % 7, True) for name in range(400)])
def test_origins_below_wildcards_leave_half_of_the_places(steps: list[tuple[int, bool]]) -> None:
    """A device can choose any number of origins below a wildcard, and all of them may hang."""
    origins, permits = WebPushOrigins(("push.example", "*.wild.example"), ManualClock(NOW_US)), list[Permit]()
    for number, is_push in steps:
        origin = f"o{number}.wild.example"
        uid = f"mallory{number % 40}"
        if is_push and origins.wait_s(origin, uid) == 0.0:
            permits.append(origins.acquire(origin, uid))
        elif not is_push and permits:
            permits.pop(number % len(permits)).record(Sent("201"), 0.0)
        assert len(permits) <= CONNECTIONS // 2

    fixed = 0
    while origins.wait_s("push.example", f"u{fixed}") == 0.0:
        origins.acquire("push.example", f"u{fixed}")
        fixed += 1
    assert fixed >= CONNECTIONS * 2 // 5, "of the other half, a fixed origin leaves some to further ones"
    assert origins.wait_s(APPLE, "alice") == 0.0


@given(st.floats(0.01, 14.0), st.integers(1, 400))
@example(14.0, 400)
def test_waiting_calls_return_in_the_pace_of_a_slow_receiver(call_s: float, waiting: int) -> None:
    """Each call is decided a few times, and the receiver gets calls without a longer gap."""
    receiver = Receiver(0.0, call_s)
    calls = asyncio.run(receiver.run([n / 50 for n in range(waiting)]))

    busy_s = waiting / 50 + waiting * call_s / MAX_CONCURRENT
    assert sum(call.decisions for call in calls) <= 8 * waiting
    assert max(call.sent_s or 0.0 for call in calls) <= 3 * busy_s + 2 * call_s + 10.0


@given(st.floats(5.0, 14.0), st.floats(60.0, 900.0), st.integers(3, 6))
@example(14.0, 1_800.0, 10)
@settings(max_examples=15)
def test_slow_phase_of_a_receiver_delays_no_later_calls(call_s: float, slow_s: float, calls_a_second: int) -> None:
    """Calls that wait for a slow receiver leave no turns behind when it has become fast."""
    endpoints, arrivals = WebhookEndpoints(), round(slow_s * calls_a_second)
    _finish(endpoints, [n / calls_a_second for n in range(arrivals)], lambda now_s: call_s if now_s < slow_s else 0.02)
    first_s, second_s = slow_s + 1_000.0, slow_s + 1_100.0

    # Without calls in between, the first burst still waits in the old pace: 68 calls by 32 places.
    assert max(_finish(endpoints, [first_s] * 100, lambda _: 0.02)) <= first_s + 3 * call_s
    assert max(_finish(endpoints, [second_s] * 100, lambda _: 0.02)) <= second_s + 5.0


@pytest.mark.parametrize("burst_after_s", [60.0, 300.0])
def test_new_calls_after_a_slow_phase_do_not_wait_in_its_pace(burst_after_s: float) -> None:
    """Calls of the slow phase still wait, up to ten minutes, but the receiver has become fast."""
    waiting, burst_s = [n / 5 for n in range(5 * 600)], 600.0 + burst_after_s
    answered_s = _finish(
        WebhookEndpoints(), [*waiting, *[burst_s] * 100], lambda now_s: 14.0 if now_s < 600.0 else 0.02
    )

    assert sum(burst_s < at_s <= burst_s + 5.0 for at_s in answered_s) >= 100


@pytest.mark.parametrize("waiting", [500, 2_000])
def test_calls_that_wait_for_a_receiver_with_free_places_are_decided_rarely(waiting: int) -> None:
    """Two of 32 calls of about a second end together all the time, so a place is free although thousands wait."""
    random, waits_s = Random(waiting), list[float]()
    answered_s = _finish(WebhookEndpoints(), [0.0] * waiting, lambda _: random.uniform(0.5, 1.5), waits_s)

    assert len(waits_s) <= 4 * waiting
    assert max(answered_s) <= 3 * waiting / MAX_CONCURRENT + 10.0


def _finish(
    endpoints: WebhookEndpoints,
    arrivals_s: list[float],
    call_s: Callable[[float], float],
    waits_s: list[float] | None = None,
) -> list[float]:
    """Send calls that arrive at these times to one receiver. Return when each was answered.

    ``waits_s`` gets the pause of each call that waits.
    """
    numbers, answered_s, waits_s = count(), list[float](), [] if waits_s is None else waits_s
    due: list[tuple[float, int, Permit | None]] = [(at_s, next(numbers), None) for at_s in arrivals_s]
    while due:
        now_s, _, permit = heapq.heappop(due)
        if permit is not None:
            permit.record(Sent("204"), now_s)
            answered_s.append(now_s)
        elif endpoints.wait_s("slow", now_s):
            waits_s.append(endpoints.turn_s("slow", now_s))
            heapq.heappush(due, (now_s + waits_s[-1], next(numbers), None))
        else:
            heapq.heappush(due, (now_s + call_s(now_s), next(numbers), endpoints.acquire("slow", now_s)))
    return answered_s


def _receiver(name: str) -> tuple[Callable[[str], float], Callable[[str], Permit]]:
    """Return `wait_s` and `acquire` of a webhook or an origin, as functions of the user."""
    if name == "hook":
        endpoints = WebhookEndpoints()
        return partial(endpoints.wait_s, name, 0.0), partial(endpoints.acquire, name, 0.0)
    origins = WebPushOrigins(("push.example", "*.wild.example"), ManualClock(NOW_US))
    return partial(origins.wait_s, name), partial(origins.acquire, name)


@pytest.mark.parametrize("name", ["hook", "push.example", "x.wild.example", APNS_SANDBOX])
@given(steps=st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=200))
@example([(n // 8, True) for n in range(40)])
@example([(n % 5, True) for n in range(200)])
def test_five_users_leave_a_place_to_a_sixth(name: str, steps: list[tuple[int, bool]]) -> None:
    """A user without calls in flight starts one, whatever five other users have started and ended."""
    wait_s, acquire = _receiver(name)
    permits = list[tuple[int, Permit]]()
    for number, is_call in steps:
        if is_call and wait_s(f"m{number}") == 0.0:
            permits.append((number, acquire(f"m{number}")))
        elif not is_call and permits:
            permits.pop(number % len(permits))[1].record(Sent("204"), 0.0)

        assert max(Counter(user for user, _ in permits).values(), default=0) <= PLACES_OF_USER
        assert wait_s("new") == 0.0


@pytest.mark.parametrize("name", ["hook", "push.example", "x.wild.example", APNS_SANDBOX])
def test_burst_of_a_user_to_an_idle_receiver_has_all_places_of_a_user(name: str) -> None:
    wait_s, acquire = _receiver(name)
    for _ in range(PLACES_OF_USER):
        assert wait_s("alice") == 0.0
        acquire("alice")
    assert wait_s("alice") > 0.0


@given(st.floats(1.0, 15.0), st.sampled_from([(1, 2), (1, 60), (3, 20), (4, 10), (5, 2), (5, 10)]))
@example(14.0, (5, 10))
@settings(max_examples=10)
def test_receiver_that_is_slow_for_a_few_users_delays_no_other(slow_s: float, rates: tuple[int, int]) -> None:
    """The receiver answers the events of others in 0.2 s. Each slow user has 900 events, then 10 a second.

    ``rates``: number of slow users, and of the events of others in a second.
    """
    (users, calls_a_second), endpoints, numbers = rates, WebhookEndpoints(), count()
    slow = [f"mallory{n}" for n in range(users)]
    own = [(at_s, uid) for uid in slow for at_s in (*[0.0] * 900, *(n / 10 for n in range(600)))]
    others = [(5.0 + n / calls_a_second, f"u{n % 50}") for n in range(30 * calls_a_second)]
    due: list[tuple[float, int, str, float, Permit | None]]
    due = [(at_s, next(numbers), uid, at_s, None) for at_s, uid in (*own, *others)]
    heapq.heapify(due)
    latest_s, waits, in_flight, most = 0.0, 0, Counter[str](), 0
    while due:
        now_s, _, uid, made_s, permit = heapq.heappop(due)
        is_own = uid in slow
        if permit is not None:
            permit.record(Sent("204"), now_s)
            in_flight[uid] -= 1
            latest_s = latest_s if is_own else max(latest_s, now_s - made_s)
        elif endpoints.wait_s("hook", now_s, uid):
            waits += is_own
            again_s = now_s + endpoints.turn_s("hook", now_s, uid)
            heapq.heappush(due, (again_s, next(numbers), uid, made_s, None))
        else:
            in_flight[uid] += 1
            most = max(most, in_flight[uid])
            ends_s = now_s + (slow_s if is_own else 0.2)
            heapq.heappush(due, (ends_s, next(numbers), uid, made_s, endpoints.acquire("hook", now_s, uid)))

    assert latest_s <= 3.0
    assert (most, waits <= 14 * len(own)) == (PLACES_OF_USER, True)


def _turns_s(endpoints: WebhookEndpoints, hanging: int, hung_s: float) -> list[float]:
    """Return the turns of 500 waiting calls. Until ``hung_s``, ``hanging`` calls of one user hang, 14 s each."""
    began = deque((n / 10, endpoints.acquire("hook", n / 10, "mallory")) for n in range(hanging))
    while began and began[0][0] + 14.0 < hung_s:
        began_s, permit = began.popleft()
        permit.record(Retry(None, None, "no response", is_unanswered=True), began_s + 14.0)
        began.append((began_s + 14.0, endpoints.acquire("hook", began_s + 14.0, "mallory")))
    users = (f"u{n}" for n in count())
    while endpoints.wait_s("hook", hung_s, uid := next(users)) == 0.0:
        endpoints.acquire("hook", hung_s, uid)
    return [endpoints.turn_s("hook", hung_s, uid) for uid in islice(users, 500)]


@pytest.mark.parametrize(("most", "share"), [(MAX_CONCURRENT, SHARE), (CONNECTIONS, SHARE_FIXED)])
@given(st.integers(1, PLACES_OF_USER), st.floats(2.0, 1_000.0))
@example(1, 14.0)
@example(PLACES_OF_USER, 1_000.0)
def test_hanging_calls_of_a_user_delay_no_turns_of_others(most: int, share: float, hanging: int, hung_s: float) -> None:
    """The calls of one user hang for up to 17 minutes. Then the items of 500 others end at the same moment."""
    turns_s = _turns_s(WebhookEndpoints(most, share=share), hanging, hung_s)

    assert max(turns_s) <= 2 * max(_turns_s(WebhookEndpoints(most, share=share), 0, hung_s)) + 1.0


@given(st.floats(0.0, 1.0))
def test_silent_receiver_slows_the_turns_before_its_first_call_ends(between_s: float) -> None:
    """Otherwise each waiting call is decided twice a second. ``between_s``: the time in which the calls begin."""
    endpoints = WebhookEndpoints()
    for n in range(MAX_CONCURRENT):
        endpoints.acquire("hook", n * between_s / MAX_CONCURRENT, f"u{n}")

    turns_s = [endpoints.turn_s("hook", 14.0, f"w{n}") for n in range(500)]
    assert max(turns_s) >= 0.9 * 500 * 14.0 / MAX_CONCURRENT


def test_turns_are_never_far_away() -> None:
    endpoints = WebhookEndpoints(1)
    endpoints.acquire("slow", 0.0).record(Sent("204"), 1_000.0)
    endpoints.acquire("slow", 0.0)

    assert 0.9 * LONGEST_TURN_S < max(endpoints.turn_s("slow", 1_000.0) for _ in range(1_000)) <= LONGEST_TURN_S
