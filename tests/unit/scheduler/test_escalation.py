"""Who is told, in which time, by which channel (semantics.md L15; architecture: "Delivery", "When")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from gregor.core.items.sync import View
from gregor.core.messages.model import Sender
from gregor.core.notify.intents import Intent, IntentKind
from gregor.reference.store import MemoryQueueWriter
from gregor.store.contract.devices import DeviceSession, Registration
from gregor.store.contract.store import Unavailable
from gregor_scheduler.delivery_publisher import CLOSED_S
from gregor_scheduler.handlers.dispatch import PUT_OFF_US
from tests.support.builders import NOW_US, SECOND_US, message
from tests.unit.scheduler.conftest import House, build

APNS = {"provider": "apns", "token": "t1"}
FCM = {"provider": "fcm", "token": "t2"}
MINUTE_US = 60 * SECOND_US


def entry(**more: Any) -> dict[str, Any]:
    return {"news": {"title": "News", **more}}


@pytest.fixture
async def house() -> House:
    """News are pushed after 10 s and mailed after a minute; alice has two phones with push and a desk without."""
    made = await build(entry(push={"after": "10s"}, email={"after": "60s"}))
    await made.store.devices.put_device("alice", "desk", Registration(), NOW_US)
    await made.store.devices.put_device("alice", "phone", Registration(push=APNS), NOW_US)
    await made.store.devices.put_device("alice", "tablet", Registration(push=FCM), NOW_US)
    return made


async def connect(house: House, device: str, name: str = "s", *, foreground: bool = False) -> DeviceSession:
    session = DeviceSession(name, f"c-{device}-{name}", "g", house.clock.now_us(), foreground)
    await house.store.devices.open_session("alice", device, session, house.clock.now_us(), 10 * MINUTE_US)
    return session


async def test_devices_with_push_get_it_after_the_grace_and_the_user_a_mail_later(house: House) -> None:
    await house.create("a")

    await house.pass_time(9)
    assert house.handed() == []
    await house.pass_time(1)
    assert house.handed() == ["item a apns phone", "item a fcm tablet"]
    await house.pass_time(49)
    assert house.handed() == []
    await house.pass_time(1)
    assert house.handed() == ["item a email"]
    await house.pass_time(100)
    assert house.handed() == []


async def test_an_intent_says_whom_what_and_because_of_which_event(house: House) -> None:
    await house.create("z", category="other")
    await house.create("a")

    await house.pass_time(10)

    first = Intent("alice", "a", IntentKind.ITEM, "apns", "phone", 0, 2, NOW_US + 10 * SECOND_US)
    assert house.deliveries.intents[0] == first
    assert first.fields() == {
        "uid": "alice",
        "item": "a",
        "intent": "item",
        "n": "0",
        "device": "phone",
        "seq": "2",
        "at_us": str(NOW_US + 10 * SECOND_US),
    }


@pytest.mark.parametrize("times", [{}, {"expires": "+10"}, {"expires": "+12"}])
async def test_nothing_goes_out_for_what_is_dismissed_or_expired(house: House, times: dict[str, str]) -> None:
    await house.create("a", **times)
    if not times:
        await house.dismiss("a")
        await house.pass_time(100)
        assert house.handed() == []
    else:
        await house.pass_time(100)
        assert house.handed() == ([] if times["expires"] == "+10" else ["item a apns phone", "item a fcm tablet"])


async def test_a_category_without_channels_hands_nothing_over(house: House) -> None:
    await house.create("a", category="other")
    await house.pass_time(100)

    assert house.handed() == []
    assert await house.store.agenda.due_work("alice", NOW_US + 10**12, 9) == []


async def test_categories_that_are_newer_than_this_process_knows_are_asked_for(house: House) -> None:
    """Who planned the push knew of it; what is not handed over at its time never is."""
    await house.create("a", category="news.fresh")
    await house.store.categories.apply({"news": {"title": "News"}}, NOW_US, 1)
    await house.registry.refresh()
    await house.store.categories.apply(entry(push={"after": "10s"}), NOW_US, 2)
    await house.pass_time(10)

    assert house.handed() == ["item a apns phone", "item a fcm tablet"]


async def test_a_device_that_showed_the_event_gets_no_push_and_then_nobody_a_mail(house: House) -> None:
    receipt = await house.create("a")
    await house.store.devices.acknowledge("alice", View("phone"), receipt.seq, NOW_US)

    await house.pass_time(10)
    assert house.handed() == ["item a fcm tablet"]
    await house.pass_time(90)
    assert house.handed() == []


@pytest.mark.parametrize(
    ("view", "seq"),
    [(View("phone", ("mail",)), 9), (View("phone"), 0)],
    ids=["of a view that does not hold it", "of what came before"],
)
async def test_other_acknowledgements_stop_nothing(house: House, view: View, seq: int) -> None:
    await house.create("a")
    await house.store.devices.acknowledge("alice", view, seq, NOW_US)

    await house.pass_time(60)

    assert house.handed() == ["item a apns phone", "item a fcm tablet", "item a email"]


async def test_an_acknowledgement_of_a_filtered_view_that_holds_the_item_counts(house: House) -> None:
    receipt = await house.create("a")
    await house.store.devices.acknowledge("alice", View("phone", ("mail", "news")), receipt.seq, NOW_US)

    await house.pass_time(10)

    assert house.handed() == ["item a fcm tablet"]


async def test_a_device_in_the_foreground_gets_no_push_and_one_in_the_background_does(house: House) -> None:
    await connect(house, "phone", foreground=True)
    await connect(house, "tablet")
    await house.create("a")

    await house.pass_time(10)

    assert house.handed() == ["item a fcm tablet"]


@pytest.mark.parametrize(
    ("unless", "was_there", "is_mailed"),
    [
        ("foreground", "foreground", False),
        ("foreground", "online", True),
        ("foreground", "before", True),
        ("online", "online", False),
        ("online", "before", True),
        ("acked", "foreground", True),
        ("acked", "acked", False),
        ("foreground", "acked", False),
    ],
)
async def test_a_mail_goes_unless_somebody_was_there_as_the_category_says(
    unless: str, was_there: str, is_mailed: bool
) -> None:
    house = await build(entry(email={"after": "60s", "unless": unless}))
    await house.store.devices.put_device("alice", "desk", Registration(), NOW_US)
    if was_there == "before":
        session = await connect(house, "desk", foreground=True)
        house.clock.advance(5)
        await house.store.devices.close_session("alice", "desk", session, house.clock.now_us())
        house.clock.advance(5)
    receipt = await house.create("a")
    await house.pass_time(20)
    if was_there in ("foreground", "online"):
        session = await connect(house, "desk", foreground=was_there == "foreground")
        await house.pass_time(5)
        await house.store.devices.close_session("alice", "desk", session, house.clock.now_us())
    elif was_there == "acked":
        await house.store.devices.acknowledge("alice", View("desk"), receipt.seq, NOW_US)

    await house.pass_time(60)

    assert house.handed() == (["item a email"] if is_mailed else [])


async def test_an_item_for_one_device_is_pushed_to_it_alone(house: House) -> None:
    await house.create("a", for_device="phone")

    await house.pass_time(10)

    assert house.handed() == ["item a apns phone"]


async def test_a_device_that_dismissed_its_own_copy_gets_no_push_and_nobody_a_mail(house: House) -> None:
    await house.create("a", for_device="*")
    await house.say(message(ids=["a"]), Sender("phone"))

    await house.pass_time(10)
    assert house.handed() == ["item a fcm tablet"]
    await house.pass_time(60)
    assert house.handed() == []


async def test_a_reminder_is_handed_over_at_its_time_to_those_who_are_not_there(house: House) -> None:
    receipt = await house.create("a", remind_at=["+300", "+400"])
    await house.store.devices.acknowledge("alice", View("tablet"), receipt.seq, NOW_US)
    await house.pass_time(299)
    await connect(house, "tablet", foreground=True)
    house.handed()

    await house.pass_time(1)

    assert house.deliveries.intents[0] == Intent(
        "alice", "a", IntentKind.REMIND, "apns", "phone", 0, 2, NOW_US + 300 * SECOND_US
    )
    assert house.handed() == ["remind a apns phone"]
    await house.pass_time(100)
    assert house.deliveries.intents[0].n == 1


class Broken(MemoryQueueWriter):
    """Streams that are away until told otherwise."""

    is_away = True
    tries = 0

    async def enqueue(self, intents: Sequence[Intent], at_us: int = 0) -> list[Intent]:
        self.tries += 1
        if self.is_away:
            raise Unavailable("the streams are away")
        return await super().enqueue(intents, at_us)


async def test_what_cannot_be_handed_over_is_tried_again_and_holds_nothing_else_up() -> None:
    deliveries = Broken()
    house = await build(entry(push={"after": "10s"}), deliveries=deliveries)
    await house.store.devices.put_device("alice", "phone", Registration(push=APNS), NOW_US)
    await house.create("a", remind_at=["+11"], expires="+400")
    house.told()

    await house.pass_time(11)
    assert house.happened() == ["remind a +11"]
    await house.pass_time(49)
    assert house.told() == [] and deliveries.intents == []
    deliveries.is_away = False
    await house.pass_time(20)

    assert sorted(house.handed()) == ["item a apns phone", "remind a apns phone"]
    await house.pass_time(100)
    assert house.handed() == []


async def test_what_finds_no_room_in_its_stream_waits_on_the_agenda_and_is_decided_anew() -> None:
    """A provider that is down for a day must not cost anybody a push, nor the scheduler its pace."""
    deliveries = MemoryQueueWriter(most=0)
    house = await build(entry(push={"after": "10s"}), deliveries=deliveries)
    await house.store.devices.put_device("alice", "phone", Registration(push=APNS), NOW_US)
    await house.create("a", "b")

    await house.pass_time(20)
    assert house.handed() == []
    await house.dismiss("b")
    deliveries.most = None
    await house.pass_time(PUT_OFF_US / SECOND_US, step_s=5)

    assert house.handed() == ["item a apns phone"]


async def test_however_much_waits_for_the_streams_the_other_work_of_a_user_is_done_in_its_time() -> None:
    deliveries = Broken()
    house = await build(entry(push={"after": "1s"}), deliveries=deliveries)
    await house.store.devices.put_device("alice", "phone", Registration(push=APNS), NOW_US)
    await house.create(*(f"i{n}" for n in range(100)))
    await house.create("a", remind_at=["+2", "+5"], expires="+8")
    await house.create("d", remind_at=["+3"], category="plain")
    house.told()

    await house.pass_time(8)

    assert house.happened() == ["remind a +2", "remind d +3", "remind a +5", "expired a"]
    deliveries.is_away = False
    await house.pass_time(30)
    assert len(house.handed()) == 100


async def test_while_the_streams_are_away_they_are_seldom_tried() -> None:
    deliveries = Broken()
    house = await build(entry(push={"after": "1s"}), deliveries=deliveries)
    for n in range(20):
        await house.store.devices.put_device(f"u{n}", "phone", Registration(push={**APNS, "token": f"t{n}"}), NOW_US)
        await house.create("a", uid=f"u{n}")
        await house.pass_time(1)

    assert 1 <= deliveries.tries <= 20 / CLOSED_S + 1
