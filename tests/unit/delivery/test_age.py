"""The age of a delivery, from which alerts conclude that pushes are late: waits that its user causes do not count."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gregor.core.notify.contact import parse_contact
from gregor.core.notify.ledger import MAIL_BUDGET, DeliveryAttempt, push_budget
from gregor.core.rate_limit import RateLimiter
from gregor.reference.store import MemoryQueueReader
from gregor_delivery.age import was_held_up
from gregor_delivery.attempt import attempt
from gregor_delivery.channels.verdict import Misconfigured, Refused, Retry, Sent, Unknown, Verdict
from gregor_delivery.decide.push import BADGE_PACE, PushDecider
from gregor_delivery.throttle.breaker import FAILURE_THRESHOLD
from gregor_delivery.throttle.user_places import PLACES_OF_USER
from gregor_delivery.throttle.user_waits import MAX_USERS, UserWaits
from gregor_delivery.worker import Worker
from tests.support.builders import NOW_US, SECOND_US
from tests.support.wait import wait_until
from tests.unit.delivery.harness import DeliveryHarness

LATE_S = 30.0


def count_late(harness: DeliveryHarness) -> tuple[int, int]:
    """Return the number of observed pushes, and of those that were late."""
    samples = {
        (each.name.rpartition("_")[2], each.labels.get("le")): int(each.value)
        for metric in harness.context.metrics.age_seconds.collect()
        for each in metric.samples
    }
    count = samples.get(("count", None), 0)
    return count, count - samples.get(("bucket", str(LATE_S)), 0)


async def finish(harness: DeliveryHarness, item: str) -> None:
    """Attempt the push of an item at the times at which it is due, until it is finished."""
    again_us = await attempt(harness.context, (await harness.entry(item)).intent)
    while again_us is not None:
        harness.clock.advance(max(0, again_us - harness.clock.now_us()) / SECOND_US)
        again_us = await attempt(harness.context, (await harness.entry(item)).intent)


async def test_quiet_hours_do_not_make_a_push_late(harness: DeliveryHarness) -> None:
    """A device may set its own quiet hours: with 1,000 pushes an hour, one token raised an alert for all."""
    await harness.store.contacts.put_contact("alice", parse_contact({"quiet_hours": {"from": "22:00", "to": "07:00"}}))
    await harness.create("a")

    await finish(harness, "a")

    assert harness.clock.now_us() - NOW_US > 8 * 3_600 * SECOND_US
    assert (len(harness.provider.pushes), count_late(harness)) == (1, (0, 0))


async def test_budget_of_a_user_does_not_make_a_push_late(harness: DeliveryHarness) -> None:
    harness.context = replace(
        harness.context, decider=PushDecider(harness.store, harness.registry, None, push_budget(1), harness.clock)
    )
    for item in "ab":
        await harness.create(item)

    for item in "ab":
        await finish(harness, item)

    assert harness.clock.now_us() - NOW_US >= 3_600 * SECOND_US
    assert (len(harness.provider.pushes), count_late(harness)) == (2, (1, 0))


@pytest.mark.parametrize(
    ("verdicts", "counts"),
    [
        ([], (1, 0)),
        ([Retry(300, "429", "of this device")], (0, 0)),
        ([Retry(300, "503", "for this device"), Retry(300, "421", "of this device")], (0, 0)),
        ([Retry(300, "503", "for this device")], (0, 0)),
        ([Unknown("silent for this device")], (0, 0)),
        ([Retry(300, None, "unreachable")], (1, 1)),
        ([Refused("400", "BadDeviceToken")], (0, 0)),
    ],
)
async def test_failures_of_one_device_make_no_push_late(
    harness: DeliveryHarness, verdicts: list[Verdict], counts: tuple[int, int]
) -> None:
    """A push is observed once, when the provider accepts it. A device cannot make the provider unreachable."""
    harness.provider.verdicts = list(verdicts)
    await harness.create("a")

    await finish(harness, "a")

    assert count_late(harness) == counts


@pytest.mark.parametrize("tries", [0, 1])
async def test_pushes_are_late_after_an_outage_of_the_provider(harness: DeliveryHarness, tries: int) -> None:
    """Pushes with an attempt during the outage count, too."""
    breaker, down = harness.context.breaker, Retry(None, "503", "down")
    harness.provider.verdicts = [down] * tries
    intent = await harness.create("a")
    for _ in range(tries):
        await attempt(harness.context, intent)
    for n in range(FAILURE_THRESHOLD):
        breaker.acquire(f"u{n}").record(down, harness.clock.monotonic())
    assert breaker.is_open
    harness.clock.advance(600.0)
    breaker.acquire("bob").record(Sent("200"), harness.clock.monotonic())

    await finish(harness, "a")

    assert count_late(harness) == (1, 1)


async def test_outage_before_a_push_says_nothing_about_it(harness: DeliveryHarness) -> None:
    harness.context.breaker.acquire().record(Misconfigured("403", "wrong key"), harness.clock.monotonic())
    harness.context.breaker.acquire().record(Sent("200"), harness.clock.monotonic())
    harness.clock.advance(1.0)
    harness.provider.verdicts = [Retry(300, "503", "for this device")]
    await harness.create("a")

    await finish(harness, "a")

    assert count_late(harness) == (0, 0)


async def test_push_that_is_rejected_for_its_device_alone_is_not_late(harness: DeliveryHarness) -> None:
    rejected = Misconfigured("403", "Forbidden")
    harness.context.breaker.acquire("alice").record(rejected, harness.clock.monotonic())
    harness.context.breaker.acquire("bob").record(Sent("200"), harness.clock.monotonic())
    harness.clock.advance(1.0)
    harness.provider.verdicts = [rejected]
    await attempt(harness.context, await harness.create("a"))
    assert not harness.context.breaker.is_open
    harness.clock.advance(600.0)

    await finish(harness, "a")

    assert count_late(harness) == (0, 0)


async def test_push_to_another_device_of_a_rejected_user_is_not_late(harness: DeliveryHarness) -> None:
    """Only this user waits for 60 s, because one of its devices was rejected."""
    breaker, clock = harness.context.breaker, harness.clock
    for uid, verdict in (("alice", Misconfigured("403", "Forbidden")), ("bob", Sent("200"))) * 2:
        breaker.acquire(uid).record(verdict, clock.monotonic())
    clock.advance(1.0)
    queue = MemoryQueueReader(clock.monotonic)
    await queue.enqueue([await harness.create("a")])
    worker = Worker(harness.context, queue)
    running = asyncio.create_task(worker.run())
    await wait_until(lambda: len(queue.waiting()) == 1, "the push waits")
    clock.advance(61.0)
    await wait_until(lambda: harness.provider.pushes, "the push is sent")
    worker.stop()
    await running

    assert not breaker.is_open
    assert count_late(harness) == (0, 0)


async def test_pushes_that_wait_for_a_place_of_their_user_are_not_late(harness: DeliveryHarness) -> None:
    """A provider may answer one device late, and the device creates 90 items. Only pushes of other users count."""
    queue, hangs = MemoryQueueReader(harness.clock.monotonic), asyncio.Event()
    harness.provider.hold = hangs
    own, other = [await harness.create(f"a{n}") for n in range(PLACES_OF_USER + 4)], await harness.create_for("bob")
    await queue.enqueue([*own, other])
    worker = Worker(harness.context, queue)
    running = asyncio.create_task(worker.run())
    await wait_until(lambda: len(queue.waiting()) == 4, "the other pushes wait")
    await wait_until(lambda: len(harness.provider.pushes) == PLACES_OF_USER + 1, "the other pushes are in flight")
    hangs.set()
    await wait_until(lambda: count_late(harness)[0] > 0, "the first pushes are accepted")

    harness.clock.advance(60.0)
    await wait_until(lambda: len(harness.provider.pushes) == len(own) + 1, "all pushes are sent")
    worker.stop()
    await running

    assert count_late(harness) == (1, 0)


async def test_pushes_that_wait_for_a_reached_rate_count(harness: DeliveryHarness) -> None:
    """If the rate of the channel is used up, even the few devices of one user wait for the user's share."""
    queue = MemoryQueueReader(harness.clock.monotonic)
    worker = Worker(replace(harness.context, rate_limiter=RateLimiter(4.0)), queue)
    await queue.enqueue([await harness.create(f"a{n}") for n in range(PLACES_OF_USER - 1)])
    running = asyncio.create_task(worker.run())
    await wait_until(lambda: queue.waiting(), "some pushes wait")
    while (sent := len(harness.provider.pushes)) < PLACES_OF_USER - 1:
        harness.clock.advance(5.0)
        await wait_until(lambda sent=sent: len(harness.provider.pushes) > sent, "the next pushes")
    worker.stop()
    await running

    assert (len(harness.provider.pushes), count_late(harness)[0]) == (PLACES_OF_USER - 1, PLACES_OF_USER - 1)


async def test_pushes_that_wait_for_another_push_of_their_group_are_not_late(harness: DeliveryHarness) -> None:
    """Only one push with the same collapse id is in flight to a device."""
    harness.provider.hold = asyncio.Event()
    first, second = [await harness.create(each, category="count") for each in "ab"]
    sending = asyncio.create_task(attempt(harness.context, first))
    await wait_until(lambda: len(harness.provider.pushes) == 1, "the first push is in flight")
    assert await attempt(harness.context, second) is not None
    harness.provider.hold.set()
    await sending
    harness.clock.advance(60.0)

    await finish(harness, "b")

    assert (len(harness.provider.pushes), count_late(harness)) == (2, (0, 0))


def test_remembered_waits_are_bounded() -> None:
    waits = UserWaits()
    for n in range(MAX_USERS + 1):
        waits.add(f"u{n}", float(n))

    assert (waits.has_waited("u0", 0.0), waits.has_waited("u1", 1.0), waits.has_waited("u1", 1.5)) == (
        False,
        True,
        False,
    )


@pytest.mark.parametrize(
    ("reason", "is_own", "is_held_up"),
    [
        ("receiver_down", False, False),
        ("receiver_busy", False, False),
        ("receiver_down", True, True),
        ("receiver_busy", True, True),
        (BADGE_PACE, False, True),
        (MAIL_BUDGET, False, True),
    ],
)
async def test_waits_for_a_shared_receiver_count(
    harness: DeliveryHarness, reason: str, is_own: bool, is_held_up: bool
) -> None:
    """A device can make up a Web Push origin below a wildcard: a wait for it is a wait for the device."""
    await harness.create("a")
    history = (await harness.entry("a")).history.waiting(reason, NOW_US, NOW_US + 600 * SECOND_US)

    assert was_held_up(history, is_own_receiver=is_own) is is_held_up


async def test_failures_before_a_wait_for_a_shared_receiver_count(harness: DeliveryHarness) -> None:
    await harness.create("a")
    failed = (await harness.entry("a")).history.attempted(DeliveryAttempt(NOW_US, "503", None, ""))

    assert was_held_up(failed)
    assert not was_held_up(failed.waiting("receiver_down", NOW_US, NOW_US + 600 * SECOND_US))
