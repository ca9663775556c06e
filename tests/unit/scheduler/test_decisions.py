"""What the scheduler decides stands in the ledger: what it hands over, what it does not, and why."""

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
from tests.support.builders import NOW_US, SECOND_US, message
from tests.unit.scheduler.conftest import House, build

NEWS = {"news": {"title": "News", "push": {"after": "10s"}, "email": {"after": "60s"}}}


async def furnished(deliveries: MemoryQueueWriter | None = None) -> House:
    """A desk without push, a phone and a tablet with it; news are pushed and mailed."""
    made = await build(NEWS, deliveries=deliveries)
    for device, push in (("desk", None), ("phone", "apns"), ("tablet", "fcm")):
        registration = Registration(push={"provider": push, "token": device} if push else None)
        await made.store.devices.put_device("alice", device, registration, NOW_US)
    return made


@pytest.fixture
async def house() -> House:
    return await furnished()


async def noted(house: House, item: str = "a") -> dict[str, tuple[str, str | None]]:
    """Kind, number and device to where the delivery stands, and why."""
    found = await house.store.ledger.of_item("alice", item)
    return {
        f"{each.intent.kind.value} {each.intent.n} {each.intent.device or each.intent.channel}": (
            each.state.word,
            each.history.reason,
        )
        for each in found
    }


async def look(house: House, device: str) -> None:
    """Somebody looks at a device for the next ten minutes."""
    session = DeviceSession("s", f"c-{device}", "g", house.clock.now_us(), foreground=True)
    await house.store.devices.open_session("alice", device, session, house.clock.now_us(), 600 * SECOND_US)


async def test_what_goes_out_is_planned_and_what_does_not_says_why(house: House) -> None:
    await look(house, "phone")
    await house.create("a")

    await house.pass_time(60)

    assert house.handed() == ["item a fcm tablet"]
    assert await noted(house) == {
        "item 0 phone": ("cancelled", "present"),
        "item 0 tablet": ("planned", None),
        "item 0 email": ("cancelled", "present"),
    }
    [phone] = [each for each in await house.store.ledger.of_item("alice", "a") if each.intent.device == "phone"]
    assert phone.history == DeliveryHistory(NOW_US + 10 * SECOND_US, 1, "present")


async def test_a_device_that_showed_it_or_dismissed_its_copy_says_so(house: House) -> None:
    receipt = await house.create("a", for_device="*")
    await house.store.devices.acknowledge("alice", View("phone"), receipt.seq, NOW_US)
    await house.say(message(ids=["a"]), Sender("tablet"))

    await house.pass_time(60)

    assert house.handed() == []
    assert await noted(house) == {
        "item 0 phone": ("cancelled", "acked"),
        "item 0 tablet": ("cancelled", "dismissed"),
        "item 0 email": ("cancelled", "acked"),
    }


async def test_a_reminder_speaks_of_the_channels_of_its_type_alone() -> None:
    house = await build({"news": {"title": "News", "push": {"after": "10s"}}})
    await house.store.devices.put_device(
        "alice", "phone", Registration(push={"provider": "apns", "token": "1"}), NOW_US
    )
    await house.create("a", remind_at=["+20", "+30"])
    await house.pass_time(20)
    await look(house, "phone")
    await house.pass_time(10)

    assert await noted(house) == {
        "item 0 phone": ("planned", None),
        "remind 0 frame": ("sent", None),
        "remind 0 phone": ("planned", None),
        "remind 1 frame": ("sent", None),
        "remind 1 phone": ("cancelled", "present"),
    }


async def test_a_reminder_that_fired_is_noted_with_its_moment_and_its_cause_though_nobody_is_told() -> None:
    house = await build()
    await house.create("a", remind_at=["+20", "+30", "+40"])
    await house.pass_time(35)

    fired = await house.store.ledger.of_item("alice", "a")

    assert [(each.intent.channel, each.intent.n) for each in fired] == [(FRAME, 0), (FRAME, 1)]
    assert [(each.history.planned_us - NOW_US, each.history.seq) for each in fired] == [
        (20 * SECOND_US, 2),
        (30 * SECOND_US, 3),
    ]
    assert house.handed() == []


async def test_a_type_that_asks_for_no_push_any_more_says_so(house: House) -> None:
    await house.create("a")
    await house.store.categories.apply({"news": {"title": "News", "email": {"after": "60s"}}}, NOW_US, 1)
    await house.registry.refresh()

    await house.pass_time(10)

    assert await noted(house) == {
        "item 0 phone": ("cancelled", "no_channel"),
        "item 0 tablet": ("cancelled", "no_channel"),
    }


class Broken(MemoryQueueWriter):
    """Streams that are away until told otherwise."""

    is_away = True

    async def enqueue(self, intents: Sequence[Intent], at_us: int = 0) -> list[Intent]:
        if self.is_away:
            raise Unavailable("the streams are away")
        return await super().enqueue(intents, at_us)


async def test_what_was_decided_for_stands_though_the_streams_were_away_and_somebody_came() -> None:
    """The ledger has it before the queue has; whoever sends it looks once more."""
    deliveries = Broken()
    house = await furnished(deliveries)
    await house.create("a")
    await house.pass_time(10)
    assert (await noted(house))["item 0 phone"] == ("planned", None)
    await look(house, "phone")
    deliveries.is_away = False

    await house.pass_time(40)

    assert set(house.handed()) == {"item a apns phone", "item a fcm tablet"}
    assert (await noted(house))["item 0 phone"] == ("planned", None)
