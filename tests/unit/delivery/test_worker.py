"""From an intent to a push, over a store in memory: what goes out, what does not and why, and what follows."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gregor.core.items.sync import View
from gregor.core.notify.contact import parse_contact, parse_preferences
from gregor.core.notify.ledger import DeliveryState
from gregor.reference.store import MemoryQueueReader
from gregor.store.contract.devices import DeviceSession, Registration
from gregor_delivery.attempt import RETRY_BUDGET_US, attempt
from gregor_delivery.channels.verdict import Misconfigured, RecipientGone, Refused, Retry, Unknown
from gregor_delivery.throttle.breaker import Breaker
from gregor_delivery.worker import Worker
from tests.support.builders import NOW_US, SECOND_US, SEED
from tests.support.wait import wait_until
from tests.unit.delivery.harness import DeliveryHarness, FakeChannel
from tests.unit.delivery.sample_categories import ENTRIES, TOKEN


async def test_a_push_says_what_the_item_is_and_where_the_device_stands(harness: DeliveryHarness) -> None:
    await harness.create("quiet", category="mute")
    await harness.create("older")
    intent = await harness.create("a", expires="+60")

    assert await attempt(harness.context, intent) is None

    [push] = harness.provider.pushes
    assert (push.title, push.text, push.sound, push.badge, push.kind) == ("about a", "leggi", "default", 2, "alert")
    assert (push.token, push.topic, push.sandbox) == ("t1", "com.example", True)
    assert push.expires_us == NOW_US + 60 * SECOND_US
    copy = await harness.store.users.state("alice", View("phone"), NOW_US)
    assert push.data == {
        "v": 1,
        "uid": "alice",
        "kind": "item",
        "id": "a",
        "category": "news",
        "link": "app://news/a",
        "badge": 2,
        "withdraw": [],
        "cursor": push.data["cursor"],
    }
    assert push.data["cursor"].endswith(f"-{copy.seq}")
    entry = await harness.entry("a")
    assert (entry.state, entry.n, [each.provider_id for each in entry.history.attempts]) == (
        DeliveryState.SENT,
        1,
        ["id-1"],
    )


async def test_a_second_copy_of_an_intent_sends_nothing(harness: DeliveryHarness) -> None:
    intent = await harness.create("a")
    await attempt(harness.context, intent)

    assert await attempt(harness.context, replace(intent, at_us=NOW_US + 5)) is None
    assert len(harness.provider.pushes) == 1


async def test_what_is_dismissed_before_it_is_sent_is_not_sent(harness: DeliveryHarness) -> None:
    intent = await harness.create("a")
    await harness.dismiss("a")

    assert await attempt(harness.context, intent) is None
    assert (harness.provider.pushes, await harness.outcome("a")) == ([], (DeliveryState.CANCELLED, "dismissed"))


async def test_what_expired_before_it_is_sent_is_not_sent(harness: DeliveryHarness) -> None:
    intent = await harness.create("a", expires="+30")
    harness.clock.advance(30.0)

    assert await attempt(harness.context, intent) is None
    assert (harness.provider.pushes, await harness.outcome("a")) == ([], (DeliveryState.CANCELLED, "expired"))


async def test_what_the_device_has_shown_is_not_sent(harness: DeliveryHarness) -> None:
    intent = await harness.create("a")
    await harness.store.devices.acknowledge("alice", View("phone"), intent.seq, NOW_US)

    await attempt(harness.context, intent)
    assert (harness.provider.pushes, await harness.outcome("a")) == ([], (DeliveryState.CANCELLED, "acked"))


async def test_categories_that_are_newer_than_this_process_knows_are_asked_for(harness: DeliveryHarness) -> None:
    intent = await harness.create("a", category="fresh")
    await harness.store.categories.apply({**ENTRIES, "fresh": {"title": "new", "push": {"after": "0s"}}}, NOW_US, 1)

    assert await attempt(harness.context, intent) is None
    assert [push.title for push in harness.provider.pushes] == ["new"]


async def test_a_category_that_asks_for_no_push_any_more_gets_none(harness: DeliveryHarness) -> None:
    intent = await harness.create("a", category="mute")

    await attempt(harness.context, intent)
    assert (harness.provider.pushes, await harness.outcome("a")) == ([], (DeliveryState.CANCELLED, "no_channel"))


async def test_what_the_user_does_not_want_is_not_sent(harness: DeliveryHarness) -> None:
    await harness.store.contacts.put_preferences("alice", parse_preferences({"news": {"push": False}}))
    intent = await harness.create("a")

    assert await attempt(harness.context, intent) is None
    assert (harness.provider.pushes, await harness.outcome("a")) == ([], (DeliveryState.CANCELLED, "preference"))


async def test_in_quiet_hours_a_push_waits_for_their_end_unless_it_is_urgent(harness: DeliveryHarness) -> None:
    """NOW is 22:13:20 UTC."""
    quiet = parse_contact({"quiet_hours": {"from": "22:00", "to": "07:00"}})
    await harness.store.contacts.put_contact("alice", quiet)
    intent, urgent = await harness.create("a"), await harness.create("b", category="alarm")
    until_us = NOW_US + (8 * 3_600 + 46 * 60 + 40) * SECOND_US

    assert await attempt(harness.context, intent) == until_us
    entry = await harness.entry("a")
    assert (entry.state, entry.history.reason, entry.history.next_us, entry.n) == (
        DeliveryState.WAITING,
        "quiet_hours",
        until_us,
        0,
    )
    assert await attempt(harness.context, urgent) is None
    assert [push.data["id"] for push in harness.provider.pushes] == ["b"]

    harness.clock.advance((until_us - NOW_US) / SECOND_US)
    assert await attempt(harness.context, intent) is None
    assert (await harness.outcome("a")) == (DeliveryState.SENT, None)


async def test_nothing_is_sent_to_a_device_in_the_foreground(harness: DeliveryHarness) -> None:
    intent = await harness.create("a")
    session = DeviceSession("s", "c", "g", NOW_US, foreground=True)
    await harness.store.devices.open_session("alice", "phone", session, NOW_US, 60 * SECOND_US)

    await attempt(harness.context, intent)
    assert (harness.provider.pushes, await harness.outcome("a")) == ([], (DeliveryState.CANCELLED, "present"))


async def test_nothing_is_sent_to_a_token_that_is_another_devices_now(harness: DeliveryHarness) -> None:
    intent = await harness.create("a")
    await harness.store.devices.put_device("bob", "phone", Registration("ios", TOKEN), NOW_US)

    await attempt(harness.context, intent)
    assert (harness.provider.pushes, await harness.outcome("a")) == ([], (DeliveryState.CANCELLED, "token_moved"))


async def test_a_registration_whose_token_another_device_owns_already_is_not_used(harness: DeliveryHarness) -> None:
    """As a process leaves it that died while the token changed hands."""
    intent = await harness.create("a")
    harness.store._data.push_holders["apns:t1"] = ("bob", "phone")

    await attempt(harness.context, intent)
    assert (harness.provider.pushes, await harness.outcome("a")) == ([], (DeliveryState.CANCELLED, "token_moved"))


async def test_nothing_is_sent_to_a_device_that_is_gone(harness: DeliveryHarness) -> None:
    intent = await harness.create("a")
    await harness.store.devices.forget_device("alice", "phone", NOW_US, SEED)

    await attempt(harness.context, intent)
    assert await harness.outcome("a") == (DeliveryState.CANCELLED, "device_gone")


async def test_a_provider_without_credentials_is_a_reason_and_no_crash(harness: DeliveryHarness) -> None:
    intent = await harness.create("a")

    assert await attempt(replace(harness.context, channel=None), intent) is None
    assert await harness.outcome("a") == (DeliveryState.CANCELLED, "no_provider")


async def test_a_failure_that_passes_is_tried_again_when_the_provider_says(harness: DeliveryHarness) -> None:
    harness.provider.verdicts = [Retry(30.0, "429", "TooManyRequests")]
    intent = await harness.create("a")

    again_us = await attempt(harness.context, intent)
    assert again_us is not None and NOW_US + 30 * SECOND_US <= again_us <= NOW_US + 34 * SECOND_US
    entry = await harness.entry("a")
    assert (entry.state, entry.history.next_us, entry.history.attempts[0].status) == (
        DeliveryState.RETRY,
        again_us,
        "429",
    )

    harness.clock.advance((again_us - NOW_US) / SECOND_US)
    assert await attempt(harness.context, intent) is None
    entry = await harness.entry("a")
    assert (entry.state, entry.n, len(entry.history.attempts)) == (DeliveryState.SENT, 2, 2)


async def test_what_is_of_no_use_any_more_is_dead(harness: DeliveryHarness) -> None:
    harness.provider.verdicts = [Retry(60.0, "503", "down"), Retry(60.0, "503", "down")]
    short, long = await harness.create("a", expires="+30"), await harness.create("b")

    assert await attempt(harness.context, short) is None
    assert await harness.outcome("a") == (DeliveryState.DEAD, "budget")
    harness.clock.advance(RETRY_BUDGET_US / SECOND_US - 10)
    assert await attempt(harness.context, long) is None
    assert await harness.outcome("b") == (DeliveryState.DEAD, "budget")


async def test_an_alert_whose_fate_is_unknown_goes_out_once_more_in_the_same_place(harness: DeliveryHarness) -> None:
    harness.provider.verdicts = [Unknown("deadline"), Unknown("deadline")]
    intent = await harness.create("a")

    assert await attempt(harness.context, intent) is not None
    assert await harness.outcome("a") == (DeliveryState.UNKNOWN, None)
    harness.clock.advance(10.0)
    assert await attempt(harness.context, intent) is None
    assert await harness.outcome("a") == (DeliveryState.UNKNOWN, None)
    assert await attempt(harness.context, intent) is None  # as a second copy of the intent asks for
    assert len({push.collapse_id for push in harness.provider.pushes}) == 1


async def test_a_refused_message_is_dead_and_its_token_stays(harness: DeliveryHarness) -> None:
    harness.provider.verdicts = [Refused("400", "BadDeviceToken")]
    intent = await harness.create("a")

    assert await attempt(harness.context, intent) is None
    assert await harness.outcome("a") == (DeliveryState.DEAD, None)
    known = await harness.store.devices.device("alice", "phone", NOW_US)
    assert known is not None and known[0].push == TOKEN


@pytest.mark.parametrize(("since_us", "stays"), [(NOW_US, True), (NOW_US + 1, False), (None, False)])
async def test_a_dead_token_is_forgotten_unless_it_was_registered_since(
    harness: DeliveryHarness, since_us: int | None, stays: bool
) -> None:
    harness.provider.verdicts = [RecipientGone("410", "Unregistered", since_us)]
    intent = await harness.create("a")

    await attempt(harness.context, intent)
    assert await harness.outcome("a") == (DeliveryState.DEAD, "device_gone")
    known = await harness.store.devices.device("alice", "phone", NOW_US)
    assert known is not None and (known[0].push is not None) is stays


async def test_wrong_credentials_burn_no_attempt_and_stop_the_provider(harness: DeliveryHarness) -> None:
    harness.provider.verdicts = [Misconfigured("403", "InvalidProviderToken")]
    intent = await harness.create("a")

    assert await attempt(harness.context, intent) is not None
    entry = await harness.entry("a")
    assert (entry.state, entry.n, entry.history.attempts) == (DeliveryState.RETRY, 0, ())
    assert harness.context.breaker.is_stopped


async def test_two_pushes_for_one_place_never_go_out_side_by_side(harness: DeliveryHarness) -> None:
    """The older could land last, and stay."""
    harness.provider.hold = asyncio.Event()
    first, second = await harness.create("a", category="count"), await harness.create("b", category="count")
    sending = asyncio.create_task(attempt(harness.context, first))
    await wait_until(lambda: harness.provider.pushes, "the first is on its way")

    assert await attempt(harness.context, second) is not None
    assert len(harness.provider.pushes) == 1
    harness.provider.hold.set()
    await sending
    assert await attempt(harness.context, second) is None
    assert len({push.collapse_id for push in harness.provider.pushes}) == 1


async def test_what_a_dead_worker_had_claimed_goes_out_when_its_lease_is_over(harness: DeliveryHarness) -> None:
    intent = await harness.create("a")
    await harness.store.ledger.plan([intent], DeliveryState.PLANNED, None, NOW_US)
    await harness.store.ledger.claim(intent, "", NOW_US, NOW_US + round(harness.context.lease_s * SECOND_US))

    assert await attempt(harness.context, intent) is not None
    assert harness.provider.pushes == []
    harness.clock.advance(harness.context.lease_s)
    assert await attempt(harness.context, intent) is None
    assert len(harness.provider.pushes) == 1


async def test_a_worker_tells_what_is_handed_over_and_ends_with_what_it_took(harness: DeliveryHarness) -> None:
    queue = MemoryQueueReader(harness.clock.monotonic)
    worker = Worker(harness.context, queue)
    running = asyncio.create_task(worker.run())
    harness.provider.hold = asyncio.Event()
    await queue.enqueue([await harness.create("a")])
    await wait_until(lambda: harness.provider.pushes, "the push is on its way")

    worker.stop()
    harness.provider.hold.set()
    await running
    assert (await harness.outcome("a"))[0] is DeliveryState.SENT
    assert await queue.reclaim(0.0, 10) == []


async def test_a_worker_tries_again_what_waits_and_burns_nothing_while_the_provider_is_down(
    harness: DeliveryHarness,
) -> None:
    queue = MemoryQueueReader(harness.clock.monotonic)
    worker = Worker(harness.context, queue)
    harness.provider.verdicts = [Misconfigured("403", "InvalidProviderToken")]
    running = asyncio.create_task(worker.run())
    first = await harness.create("a")
    await queue.enqueue([first])
    await wait_until(lambda: queue.waiting(), "it is put off")
    await queue.enqueue([await harness.create("b")])
    await wait_until(lambda: len(queue.waiting()) == 2, "the next is put off too")
    assert len(harness.provider.pushes) == 1

    harness.clock.advance(60.0)
    await wait_until(lambda: len(harness.provider.pushes) == 3, "all go out")
    worker.stop()
    await running
    assert {(await harness.outcome(name))[0] for name in ("a", "b")} == {DeliveryState.SENT}


async def test_a_provider_that_hangs_keeps_no_place_and_no_time_of_another(harness: DeliveryHarness) -> None:
    hangs, well = asyncio.Event(), FakeChannel("fcm")
    harness.provider.hold = hangs
    queues = [MemoryQueueReader(harness.clock.monotonic) for _ in range(2)]
    other = replace(harness.context, name="fcm", channel=well, breaker=Breaker())
    workers = [Worker(harness.context, queues[0], 3), Worker(other, queues[1], 3)]
    running = [asyncio.create_task(worker.run()) for worker in workers]
    await queues[0].enqueue([await harness.create(f"a{n}") for n in range(6)])
    await wait_until(lambda: len(harness.provider.pushes) == 3, "the one has all its places taken")

    await queues[1].enqueue([await harness.create(f"b{n}") for n in range(9)])
    await wait_until(lambda: len(well.pushes) == 9, "the other tells all")

    assert len(harness.provider.pushes) == 3
    hangs.set()
    for worker in workers:
        worker.stop()
    await asyncio.gather(*running)
