"""The ledger records what the scheduler publishes, what it skips, and why."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from gregor.core.items.sync import View
from gregor.core.messages.model import Sender
from gregor.core.notify.intents import FRAME, Intent
from gregor.core.notify.ledger import DeliveryHistory
from gregor.reference.store import MemoryQueueWriter
from gregor.store.contract.devices import DeviceSession, Registration
from gregor.store.contract.store import Unavailable
from gregor_scheduler.handlers.publishing import SPREAD_US
from gregor_scheduler.user_shares import MIN_BURST, UserShares
from tests.support.builders import NOW_US, SECOND_US, message
from tests.unit.scheduler.conftest import SchedulerHarness, build

NEWS = {"news": {"title": "News", "push": {"after": "10s"}, "email": {"after": "60s"}}}


async def build_with_devices(queue: MemoryQueueWriter | None = None) -> SchedulerHarness:
    """Return a harness with a desk without push, and a phone and a tablet with push."""
    made = await build(NEWS, queue=queue)
    for device, push in (("desk", None), ("phone", "apns"), ("tablet", "fcm")):
        registration = Registration(push={"provider": push, "token": device} if push else None)
        await made.store.devices.put_device("alice", device, registration, NOW_US)
    return made


@pytest.fixture
async def harness() -> SchedulerHarness:
    return await build_with_devices()


async def records(harness: SchedulerHarness, item: str = "a") -> dict[str, tuple[str, str | None]]:
    """Return state and reason of each delivery, by kind, number and device."""
    found = await harness.store.ledger.of_item("alice", item)
    return {
        f"{each.intent.kind.value} {each.intent.n} {each.intent.device or each.intent.channel}": (
            each.state.wire_name,
            each.history.reason,
        )
        for each in found
    }


async def open_foreground(harness: SchedulerHarness, device: str) -> None:
    """Keep a device in the foreground for the next ten minutes."""
    session = DeviceSession("s", f"c-{device}", "g", harness.clock.now_us(), foreground=True)
    await harness.store.devices.open_session("alice", device, session, harness.clock.now_us(), 600 * SECOND_US)


async def test_ledger_records_planned_and_skipped(harness: SchedulerHarness) -> None:
    await open_foreground(harness, "phone")
    await harness.create("a")

    await harness.advance(60)

    assert harness.published() == ["item a fcm tablet"]
    assert await records(harness) == {
        "item 0 phone": ("cancelled", "present"),
        "item 0 tablet": ("planned", None),
        "item 0 email": ("cancelled", "present"),
    }
    [phone] = [each for each in await harness.store.ledger.of_item("alice", "a") if each.intent.device == "phone"]
    assert phone.history == DeliveryHistory(NOW_US + 10 * SECOND_US, 1, "present")


async def test_acked_or_hidden_item_skips_the_device(harness: SchedulerHarness) -> None:
    receipt = await harness.create("a", for_device="*")
    await harness.store.devices.acknowledge("alice", View("phone"), receipt.seq, NOW_US)
    await harness.submit(message(ids=["a"]), Sender("tablet"))

    await harness.advance(60)

    assert harness.published() == []
    assert await records(harness) == {
        "item 0 phone": ("cancelled", "acked"),
        "item 0 tablet": ("cancelled", "dismissed"),
        "item 0 email": ("cancelled", "acked"),
    }


async def test_reminder_uses_only_channels_of_its_type() -> None:
    harness = await build({"news": {"title": "News", "push": {"after": "10s"}}})
    await harness.store.devices.put_device(
        "alice", "phone", Registration(push={"provider": "apns", "token": "1"}), NOW_US
    )
    await harness.create("a", remind_at=["+20", "+30"])
    await harness.advance(20)
    await open_foreground(harness, "phone")
    await harness.advance(10)

    assert await records(harness) == {
        "item 0 phone": ("planned", None),
        "remind 0 frame": ("sent", None),
        "remind 0 phone": ("planned", None),
        "remind 1 frame": ("sent", None),
        "remind 1 phone": ("cancelled", "present"),
    }


async def test_fired_reminder_is_recorded_without_channels() -> None:
    harness = await build()
    await harness.create("a", remind_at=["+20", "+30", "+40"])
    await harness.advance(35)

    fired = await harness.store.ledger.of_item("alice", "a")

    assert [(each.intent.channel, each.intent.n) for each in fired] == [(FRAME, 0), (FRAME, 1)]
    assert [(each.history.planned_us - NOW_US, each.history.seq) for each in fired] == [
        (20 * SECOND_US, 2),
        (30 * SECOND_US, 3),
    ]
    assert harness.published() == []


async def test_pushes_above_the_share_are_not_recorded_until_they_pass(harness: SchedulerHarness) -> None:
    """A token can cause hundreds of reminders a second, each for up to 64 devices."""
    harness.context.publisher._shares = shares = UserShares(1e-6)
    shares.take("alice", "fcm", shares.burst, harness.clock.monotonic())
    await harness.create("a")

    await harness.advance(10)
    assert harness.published() == ["item a apns phone"]
    assert await records(harness) == {"item 0 phone": ("planned", None)}
    counters = harness.metrics.above_share, harness.metrics.postponed
    assert [each.labels("fcm")._value.get() for each in counters] == [1, 0]
    harness.context.publisher._shares = UserShares(None)
    await harness.advance(SPREAD_US / SECOND_US, 30)

    assert "item a fcm tablet" in harness.published()
    assert (await records(harness))["item 0 tablet"] == ("planned", None)


async def test_skipped_pushes_above_the_share_are_not_recorded(harness: SchedulerHarness) -> None:
    harness.context.publisher._shares = UserShares(1e-6)
    await open_foreground(harness, "phone")
    await open_foreground(harness, "tablet")
    ids = [f"i{n}" for n in range(MIN_BURST)]
    await harness.create(*ids)

    await harness.advance(10)

    found = [await records(harness, each) for each in ids]
    assert sum(map(len, found)) == MIN_BURST and harness.published() == []
    assert {record for each in found for record in each.values()} == {("cancelled", "present")}


async def test_removed_push_channel_is_recorded(harness: SchedulerHarness) -> None:
    await harness.create("a")
    await harness.store.categories.apply({"news": {"title": "News", "email": {"after": "60s"}}}, NOW_US, 1)
    await harness.categories.refresh()

    await harness.advance(10)

    assert await records(harness) == {
        "item 0 phone": ("cancelled", "no_channel"),
        "item 0 tablet": ("cancelled", "no_channel"),
    }


class UnavailableQueue(MemoryQueueWriter):
    """A delivery queue that is unavailable until ``is_unavailable`` is reset."""

    is_unavailable = True

    async def enqueue(self, intents: Sequence[Intent], at_us: int = 0) -> list[Intent]:
        if self.is_unavailable:
            raise Unavailable("the queue is unavailable")
        return await super().enqueue(intents, at_us)


async def test_planned_push_is_published_after_queue_outage() -> None:
    """The ledger was written before the queue failed. The delivery service decides again before it sends."""
    queue = UnavailableQueue()
    harness = await build_with_devices(queue)
    await harness.create("a")
    await harness.advance(10)
    assert (await records(harness))["item 0 phone"] == ("planned", None)
    await open_foreground(harness, "phone")
    queue.is_unavailable = False

    await harness.advance(40)

    assert set(harness.published()) == {"item a apns phone", "item a fcm tablet"}
    assert (await records(harness))["item 0 phone"] == ("planned", None)
