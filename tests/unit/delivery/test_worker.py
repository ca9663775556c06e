"""The worker over the memory store: content of pushes, skipped pushes, and the consequences of verdicts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import pytest

from gregor.core.items.sync import View
from gregor.core.notify.contact import parse_contact, parse_preferences
from gregor.core.notify.intents import PUSH_CHANNELS
from gregor.core.notify.ledger import DeliveryState
from gregor.reference.store import MemoryQueueReader
from gregor.store.contract.devices import DeviceSession, PushRegistrar, Registration
from gregor_delivery.attempt import RETRY_BUDGET_US, attempt
from gregor_delivery.channels.contract import PushMessage
from gregor_delivery.channels.verdict import Misconfigured, RecipientGone, Refused, Retry, Sent, Unknown, Verdict
from gregor_delivery.throttle.breaker import (
    FAILURE_THRESHOLD,
    FIRST_PAUSE_S,
    REJECTED_LAST_S,
    SLOW_PROBE_S,
    STOPPED_S,
    Breaker,
)
from gregor_delivery.throttle.paced_users import PacedUsers
from gregor_delivery.throttle.user_places import PLACES_OF_USER
from gregor_delivery.worker import FIRST_RETRIES, Worker
from tests.support.builders import NOW_US, SECOND_US, SEED
from tests.support.wait import wait_until
from tests.unit.delivery.harness import DeliveryHarness, FakeChannel
from tests.unit.delivery.sample_categories import ENTRIES, TOKEN

RATE = 10
"""Waiting deliveries of a user that become available in a second."""


async def test_content_of_a_push(harness: DeliveryHarness) -> None:
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


async def test_duplicate_intent_sends_nothing(harness: DeliveryHarness) -> None:
    intent = await harness.create("a")
    await attempt(harness.context, intent)

    assert await attempt(harness.context, replace(intent, at_us=NOW_US + 5)) is None
    assert len(harness.provider.pushes) == 1


async def test_dismissed_item_is_not_sent(harness: DeliveryHarness) -> None:
    intent = await harness.create("a")
    await harness.dismiss("a")

    assert await attempt(harness.context, intent) is None
    assert (harness.provider.pushes, await harness.outcome("a")) == ([], (DeliveryState.CANCELLED, "dismissed"))


async def test_expired_item_is_not_sent(harness: DeliveryHarness) -> None:
    intent = await harness.create("a", expires="+30")
    harness.clock.advance(30.0)

    assert await attempt(harness.context, intent) is None
    assert (harness.provider.pushes, await harness.outcome("a")) == ([], (DeliveryState.CANCELLED, "expired"))


async def test_acknowledged_item_is_not_sent(harness: DeliveryHarness) -> None:
    intent = await harness.create("a")
    await harness.store.devices.acknowledge("alice", View("phone"), intent.seq, NOW_US)

    await attempt(harness.context, intent)
    assert (harness.provider.pushes, await harness.outcome("a")) == ([], (DeliveryState.CANCELLED, "acked"))


async def test_stale_categories_are_refreshed(harness: DeliveryHarness) -> None:
    intent = await harness.create("a", category="fresh")
    await harness.store.categories.apply({**ENTRIES, "fresh": {"title": "new", "push": {"after": "0s"}}}, NOW_US, 1)

    assert await attempt(harness.context, intent) is None
    assert [push.title for push in harness.provider.pushes] == ["new"]


async def test_category_without_push_is_no_channel(harness: DeliveryHarness) -> None:
    intent = await harness.create("a", category="mute")

    await attempt(harness.context, intent)
    assert (harness.provider.pushes, await harness.outcome("a")) == ([], (DeliveryState.CANCELLED, "no_channel"))


async def test_preference_suppresses_the_push(harness: DeliveryHarness) -> None:
    await harness.store.contacts.put_preferences("alice", parse_preferences({"news": {"push": False}}))
    intent = await harness.create("a")

    assert await attempt(harness.context, intent) is None
    assert (harness.provider.pushes, await harness.outcome("a")) == ([], (DeliveryState.CANCELLED, "preference"))


async def test_push_waits_for_the_end_of_quiet_hours(harness: DeliveryHarness) -> None:
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


async def test_device_in_foreground_gets_no_push(harness: DeliveryHarness) -> None:
    intent = await harness.create("a")
    session = DeviceSession("s", "c", "g", NOW_US, foreground=True)
    await harness.store.devices.open_session("alice", "phone", session, NOW_US, 60 * SECOND_US)

    await attempt(harness.context, intent)
    assert (harness.provider.pushes, await harness.outcome("a")) == ([], (DeliveryState.CANCELLED, "present"))


async def test_foreground_of_other_categories_does_not_suppress_a_push(harness: DeliveryHarness) -> None:
    intent = await harness.create("a")
    session = DeviceSession("s", "c", "g", NOW_US, True, ("alarm",))
    await harness.store.devices.open_session("alice", "phone", session, NOW_US, 60 * SECOND_US)

    await attempt(harness.context, intent)
    assert (len(harness.provider.pushes), await harness.outcome("a")) == (1, (DeliveryState.SENT, None))


async def test_token_of_another_device_gets_no_push(harness: DeliveryHarness) -> None:
    intent = await harness.create("a")
    await harness.store.devices.put_device("bob", "phone", Registration("ios", TOKEN), NOW_US)

    await attempt(harness.context, intent)
    assert (harness.provider.pushes, await harness.outcome("a")) == ([], (DeliveryState.CANCELLED, "token_moved"))


async def test_registration_with_foreign_token_is_not_used(harness: DeliveryHarness) -> None:
    """A process that died while the token moved to another device leaves such a registration."""
    intent = await harness.create("a")
    harness.store._data.push_holders["apns:t1"] = ("bob", "phone")

    await attempt(harness.context, intent)
    assert (harness.provider.pushes, await harness.outcome("a")) == ([], (DeliveryState.CANCELLED, "token_moved"))


async def test_push_of_a_category_that_the_registration_excludes_is_not_sent(harness: DeliveryHarness) -> None:
    intent = await harness.create("a")
    limited = Registration("ios", TOKEN, registrar=PushRegistrar(("alarm",), NOW_US))
    await harness.store.devices.put_device("alice", "phone", limited, NOW_US)

    await attempt(harness.context, intent)
    assert (harness.provider.pushes, await harness.outcome("a")) == ([], (DeliveryState.CANCELLED, "category_filter"))


async def test_deleted_device_gets_no_push(harness: DeliveryHarness) -> None:
    intent = await harness.create("a")
    await harness.store.devices.forget_device("alice", "phone", NOW_US, SEED)

    await attempt(harness.context, intent)
    assert await harness.outcome("a") == (DeliveryState.CANCELLED, "device_gone")


async def test_missing_credentials_are_no_provider(harness: DeliveryHarness) -> None:
    intent = await harness.create("a")

    assert await attempt(replace(harness.context, channel=None), intent) is None
    assert await harness.outcome("a") == (DeliveryState.CANCELLED, "no_provider")


async def test_retry_after_is_obeyed(harness: DeliveryHarness) -> None:
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


async def test_retry_beyond_expiry_is_dead(harness: DeliveryHarness) -> None:
    harness.provider.verdicts = [Retry(60.0, "503", "down"), Retry(60.0, "503", "down")]
    short, long = await harness.create("a", expires="+30"), await harness.create("b")

    assert await attempt(harness.context, short) is None
    assert await harness.outcome("a") == (DeliveryState.DEAD, "budget")
    harness.clock.advance(RETRY_BUDGET_US / SECOND_US - 10)
    assert await attempt(harness.context, long) is None
    assert await harness.outcome("b") == (DeliveryState.DEAD, "budget")


async def test_unknown_alert_is_resent_once(harness: DeliveryHarness) -> None:
    harness.provider.verdicts = [Unknown("deadline"), Unknown("deadline")]
    intent = await harness.create("a")

    assert await attempt(harness.context, intent) is not None
    assert await harness.outcome("a") == (DeliveryState.UNKNOWN, None)
    harness.clock.advance(10.0)
    assert await attempt(harness.context, intent) is None
    assert await harness.outcome("a") == (DeliveryState.UNKNOWN, None)
    assert await attempt(harness.context, intent) is None  # as the second copy of an intent would request
    assert len({push.collapse_id for push in harness.provider.pushes}) == 1


async def test_refused_message_keeps_the_token(harness: DeliveryHarness) -> None:
    harness.provider.verdicts = [Refused("400", "BadDeviceToken")]
    intent = await harness.create("a")

    assert await attempt(harness.context, intent) is None
    assert await harness.outcome("a") == (DeliveryState.DEAD, None)
    known = await harness.store.devices.device("alice", "phone", NOW_US)
    assert known is not None and known[0].push == TOKEN


@pytest.mark.parametrize(("since_us", "stays"), [(NOW_US, True), (NOW_US + 1, False), (None, False)])
async def test_dead_token_is_deleted_unless_renewed(
    harness: DeliveryHarness, since_us: int | None, stays: bool
) -> None:
    harness.provider.verdicts = [RecipientGone("410", "Unregistered", since_us)]
    intent = await harness.create("a")

    await attempt(harness.context, intent)
    assert await harness.outcome("a") == (DeliveryState.DEAD, "device_gone")
    known = await harness.store.devices.device("alice", "phone", NOW_US)
    assert known is not None and (known[0].push is not None) is stays


async def test_misconfiguration_counts_no_attempt(harness: DeliveryHarness) -> None:
    harness.provider.verdicts = [Misconfigured("403", "InvalidProviderToken")]
    intent = await harness.create("a")

    assert await attempt(harness.context, intent) is not None
    entry = await harness.entry("a")
    assert (entry.state, entry.n, entry.history.attempts) == (DeliveryState.RETRY, 0, ())
    assert harness.context.breaker.is_stopped


async def test_pushes_with_one_collapse_id_are_serial(harness: DeliveryHarness) -> None:
    """If both were in flight, the older one could arrive last and stay on the screen."""
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


async def test_claim_of_a_dead_worker_expires(harness: DeliveryHarness) -> None:
    intent = await harness.create("a")
    await harness.store.ledger.plan([intent], DeliveryState.PLANNED, None, NOW_US)
    await harness.store.ledger.claim(intent, "", NOW_US, NOW_US + round(harness.context.lease_s * SECOND_US))

    assert await attempt(harness.context, intent) is not None
    assert harness.provider.pushes == []
    harness.clock.advance(harness.context.lease_s)
    assert await attempt(harness.context, intent) is None
    assert len(harness.provider.pushes) == 1


@dataclass
class ClosableChannel(FakeChannel):
    """Notes whether a send was under way when it was closed, or followed."""

    sending: int = 0
    is_closed: bool = False
    was_misused: bool = False

    async def send(self, message: PushMessage, deadline_s: float) -> Verdict:
        self.was_misused |= self.is_closed
        self.sending += 1
        try:
            return await super().send(message, deadline_s)
        finally:
            self.sending -= 1

    async def close(self) -> None:
        self.was_misused |= self.sending > 0
        self.is_closed = True


async def test_replaced_channel_is_closed_after_its_sends(harness: DeliveryHarness) -> None:
    old, new = ClosableChannel(hold=asyncio.Event()), ClosableChannel()
    queue = MemoryQueueReader(harness.clock.monotonic)
    worker = Worker(replace(harness.context, channel=old), queue)
    running = asyncio.create_task(worker.run())
    await queue.enqueue([await harness.create("a")])
    await wait_until(lambda: old.pushes, "the push is on its way")

    worker.replace_channel(new)
    await queue.enqueue([await harness.create("b")])
    await wait_until(lambda: new.pushes, "the next push has the new credentials")
    assert not old.is_closed
    assert old.hold is not None
    old.hold.set()
    await wait_until(lambda: old.is_closed, "the channel before is closed")
    worker.stop()
    await running
    await worker.close_channel()

    assert new.is_closed and not old.was_misused and not new.was_misused
    assert (len(old.pushes), len(new.pushes)) == (1, 1)
    assert [(await harness.outcome(item))[0] for item in "ab"] == [DeliveryState.SENT] * 2


async def test_worker_drains_on_stop(harness: DeliveryHarness) -> None:
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


async def test_outage_counts_no_attempts(
    harness: DeliveryHarness,
) -> None:
    queue = MemoryQueueReader(harness.clock.monotonic)
    worker = Worker(harness.context, queue)
    harness.provider.verdicts = [Misconfigured("403", "InvalidProviderToken")]
    running = asyncio.create_task(worker.run())
    first = await harness.create("a")
    await queue.enqueue([first])
    await wait_until(lambda: queue.waiting(), "it is postponed")
    await queue.enqueue([await harness.create("b")])
    await wait_until(lambda: len(queue.waiting()) == 2, "the next is postponed too")
    assert len(harness.provider.pushes) == 1

    harness.clock.advance(STOPPED_S + REJECTED_LAST_S)
    await wait_until(lambda: len(harness.provider.pushes) == 3, "all go out")
    worker.stop()
    await running
    assert {(await harness.outcome(name))[0] for name in ("a", "b")} == {DeliveryState.SENT}


@pytest.mark.parametrize(
    "verdict", [Retry(3_600.0, "429", "QUOTA_EXCEEDED"), Retry(None, "500", "INTERNAL"), Unknown("no response")]
)
async def test_failing_device_does_not_stop_the_channel(harness: DeliveryHarness, verdict: Verdict) -> None:
    failing = [verdict] * (4 * FAILURE_THRESHOLD)
    harness.provider.verdicts = list(failing)
    queue = MemoryQueueReader(harness.clock.monotonic)
    worker = Worker(harness.context, queue)
    running = asyncio.create_task(worker.run())
    for n in range(1, len(failing) + 1):
        await queue.enqueue([await harness.create(f"a{n}")])
        await wait_until(lambda: len(queue.waiting()) == n, "the push waits for its retry")  # noqa: B023

    await queue.enqueue([await harness.create("b")])
    await wait_until(lambda: len(harness.provider.pushes) > len(failing), "the next push is sent at once")
    worker.stop()
    await running
    assert (await harness.outcome("b"))[0] is DeliveryState.SENT


async def test_pushes_of_a_failing_device_do_not_probe_first(harness: DeliveryHarness) -> None:
    """Each failed probe extends the pause for all users, up to a minute."""
    for uid in ("alice", *(f"u{n}" for n in range(1, FAILURE_THRESHOLD))):
        harness.context.breaker.acquire(uid).record(Retry(None, "500", "INTERNAL"), harness.clock.monotonic())
    queue = MemoryQueueReader(harness.clock.monotonic)
    await queue.enqueue([await harness.create(f"a{n}") for n in range(50)])
    await queue.enqueue([await harness.create_for("bob")])
    harness.clock.advance(FIRST_PAUSE_S)
    running = asyncio.create_task((worker := Worker(harness.context, queue)).run())
    await wait_until(lambda: harness.provider.pushes, "a push is the probe")
    worker.stop()
    await running

    assert [push.uid for push in harness.provider.pushes] == ["bob"]
    assert (len(queue.waiting()), harness.context.breaker.is_open) == (50, False)


class HangingChannel(FakeChannel):
    """Answers the pushes to alice only at the end of the test."""

    async def send(self, message: PushMessage, deadline_s: float) -> Verdict:
        if message.uid != "alice":
            self.pushes.append(message)
            return Sent("200")
        return await super().send(message, deadline_s)


async def test_push_that_hangs_as_a_probe_delays_no_other_user(harness: DeliveryHarness) -> None:
    """A mail relay may take ten minutes to answer about one address."""
    answers = asyncio.Event()
    provider, queue = HangingChannel(hold=answers), MemoryQueueReader(harness.clock.monotonic)
    context = replace(harness.context, channel=provider)
    for _ in range(FAILURE_THRESHOLD):
        context.breaker.acquire().record(Retry(None, None, "cannot connect"), harness.clock.monotonic())
    await queue.enqueue([await harness.create("a"), await harness.create_for("bob")])
    harness.clock.advance(FIRST_PAUSE_S)
    running = asyncio.create_task((worker := Worker(context, queue)).run())
    await wait_until(lambda: provider.pushes, "the push to alice is the probe")

    harness.clock.advance(SLOW_PROBE_S)
    await wait_until(lambda: len(provider.pushes) == 2, "the push to bob is the next probe")
    assert not context.breaker.is_open
    answers.set()
    worker.stop()
    await running


class RejectingChannel(FakeChannel):
    """Rejects each push to alice with our credentials, as APNs does for some topics that a device may choose."""

    async def send(self, message: PushMessage, deadline_s: float) -> Verdict:
        self.verdicts = [Misconfigured("403", "Forbidden")] if message.uid == "alice" else []
        return await super().send(message, deadline_s)


async def test_pushes_that_stopped_the_channel_do_not_probe_first(harness: DeliveryHarness) -> None:
    provider, queue = RejectingChannel(), MemoryQueueReader(harness.clock.monotonic)
    context = replace(harness.context, channel=provider)
    running = asyncio.create_task((worker := Worker(context, queue)).run())
    await queue.enqueue([await harness.create("a0")])
    await wait_until(lambda: context.breaker.is_stopped, "the channel stops")
    await queue.enqueue([await harness.create(f"a{n}") for n in range(1, 50)])
    await queue.enqueue([await harness.create_for("bob")])
    harness.clock.advance(STOPPED_S)
    await wait_until(lambda: not context.breaker.is_stopped, "the probe goes to bob")
    assert [push.uid for push in provider.pushes][:2] == ["alice", "bob"]

    harness.clock.advance(REJECTED_LAST_S)
    await wait_until(lambda: len(provider.pushes) > 2, "alice is rejected again")
    await queue.enqueue([await harness.create_for("carol")])
    await wait_until(lambda: "carol" in [push.uid for push in provider.pushes], "carol does not wait")
    worker.stop()
    await running

    assert not context.breaker.is_open


async def test_hanging_provider_does_not_delay_others(harness: DeliveryHarness) -> None:
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


@pytest.mark.parametrize("channel", PUSH_CHANNELS)
async def test_hanging_pushes_of_a_user_leave_places_to_others(harness: DeliveryHarness, channel: str) -> None:
    """A provider may answer one device late, or never."""
    queue, hangs = MemoryQueueReader(harness.clock.monotonic), asyncio.Event()
    harness.provider.hold = hangs
    own, other = [await harness.create(f"a{n}") for n in range(40)], await harness.create_for("bob")
    await queue.enqueue(own)
    worker = Worker(replace(harness.context, name=channel), queue, PLACES_OF_USER + 1)
    running = asyncio.create_task(worker.run())
    await wait_until(lambda: len(harness.provider.pushes) >= PLACES_OF_USER, "the places of the user are taken")
    await queue.enqueue([other])
    await wait_until(lambda: harness.provider.pushes[-1].uid == "bob", "the push of another user is sent")

    waiting = [each for each in own if (await harness.entry(each.item)).state is DeliveryState.PLANNED]
    assert len(harness.provider.pushes) == PLACES_OF_USER + 1
    assert len(waiting) == len(queue.waiting()) == len(own) - PLACES_OF_USER
    hangs.set()
    while len(harness.provider.pushes) <= len(own):
        sent = len(harness.provider.pushes)
        harness.clock.advance(1.0)
        await wait_until(lambda: len(harness.provider.pushes) > sent, "more places are free")  # noqa: B023
    worker.stop()
    await running


async def test_new_push_passes_due_retries(harness: DeliveryHarness) -> None:
    queue, new = MemoryQueueReader(harness.clock.monotonic), await harness.create("new")

    class Channel(FakeChannel):
        async def send(self, message: PushMessage, deadline_s: float) -> Verdict:
            if not self.pushes:
                await queue.enqueue([new])
            return await super().send(message, deadline_s)

    channel = Channel()
    await queue.enqueue([await harness.create_for(f"u{n}") for n in range(40)], NOW_US)
    worker = Worker(replace(harness.context, channel=channel), queue)
    running = asyncio.create_task(worker.run())
    await wait_until(lambda: len(channel.pushes) == 41, "all pushes are sent")
    worker.stop()
    await running

    sent = [push.data["id"] for push in channel.pushes]
    assert sent.index("new") <= 2 * FIRST_RETRIES


async def test_step_of_the_clock_does_not_change_the_pace_of_waiting_deliveries(harness: DeliveryHarness) -> None:
    """The clock was an hour ahead when the user's waiting pushes were sent: the next ones waited an hour."""
    queue, pace = MemoryQueueReader(harness.clock.monotonic), PacedUsers(RATE, 2 * FIRST_RETRIES)
    worker = Worker(replace(harness.context, waiting_pace=pace), queue)
    running = asyncio.create_task(worker.run())
    harness.clock.step(3_600)
    await queue.enqueue([await harness.create(f"a{n}") for n in range(2 * FIRST_RETRIES)], NOW_US)
    await wait_until(lambda: len(harness.provider.pushes) == 2 * FIRST_RETRIES, "the burst is sent")
    harness.clock.step(-3_600)
    await queue.enqueue([await harness.create("next")], NOW_US)
    await wait_until(lambda: max(queue.waiting().values(), default=0) > NOW_US, "it waits for its turn")
    harness.clock.advance(1 / RATE)
    await wait_until(lambda: len(harness.provider.pushes) == 2 * FIRST_RETRIES + 1, "the next push is sent")
    worker.stop()
    await running


async def test_deliveries_of_a_user_that_are_due_together_delay_no_other_user(harness: DeliveryHarness) -> None:
    """A device can save up thousands during its own quiet hours."""
    queue, pace = MemoryQueueReader(harness.clock.monotonic), PacedUsers(RATE, 2 * FIRST_RETRIES)
    saved_up = [await harness.create(f"a{n}") for n in range(100)]
    due, new = await harness.create_for("bob"), await harness.create_for("carol")
    await queue.enqueue([*saved_up, due], NOW_US)
    worker = Worker(replace(harness.context, waiting_pace=pace), queue)
    running = asyncio.create_task(worker.run())
    await wait_until(lambda: any(push.uid == "bob" for push in harness.provider.pushes), "the due push is sent")
    await queue.enqueue([new])
    await wait_until(lambda: any(push.uid == "carol" for push in harness.provider.pushes), "the new push is sent")

    assert len(harness.provider.pushes) == 2 + 2 * FIRST_RETRIES
    last_s = (max(queue.waiting().values()) - NOW_US) / SECOND_US
    assert last_s == pytest.approx((100 - 2 * FIRST_RETRIES) / RATE, abs=0.01)
    for turn in (1, 2, 3):
        harness.clock.advance(0.5)
        sent = 2 + 2 * FIRST_RETRIES + turn * RATE // 2
        await wait_until(lambda: len(harness.provider.pushes) == sent, "the share of half a second")  # noqa: B023
    worker.stop()
    await running
