"""Which devices and addresses are notified, when, and by which channel (semantics.md L15)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from gregor.core.ids import Prefixes
from gregor.core.items.sync import View
from gregor.core.messages.model import Sender
from gregor.core.notify.escalation import Audience
from gregor.core.notify.intents import Intent, IntentKind
from gregor.core.notify.ledger import DeliveryState
from gregor.reference.store import MemoryQueueWriter
from gregor.store.contract.devices import DeviceSession, PushRegistrar, Registration
from gregor.store.contract.store import Unavailable
from gregor_scheduler.delivery_publisher import PAUSE_S
from gregor_scheduler.handlers.publishing import SPREAD_US
from gregor_scheduler.user_shares import UserShares
from tests.support.builders import NOW_US, SECOND_US, message
from tests.unit.scheduler.conftest import SchedulerHarness, build

APNS = {"provider": "apns", "token": "t1"}
FCM = {"provider": "fcm", "token": "t2"}
MINUTE_US = 60 * SECOND_US


def entry(**more: Any) -> dict[str, Any]:
    return {"news": {"title": "News", **more}}


@pytest.fixture
async def harness() -> SchedulerHarness:
    """News are pushed after 10 s and mailed after a minute; alice has two devices with push and one without."""
    made = await build(entry(push={"after": "10s"}, email={"after": "60s"}))
    await made.store.devices.put_device("alice", "desk", Registration(), NOW_US)
    await made.store.devices.put_device("alice", "phone", Registration(push=APNS), NOW_US)
    await made.store.devices.put_device("alice", "tablet", Registration(push=FCM), NOW_US)
    return made


async def connect(
    harness: SchedulerHarness, device: str, name: str = "s", *, foreground: bool = False, prefixes: Prefixes = None
) -> DeviceSession:
    session = DeviceSession(name, f"c-{device}-{name}", "g", harness.clock.now_us(), foreground, prefixes)
    await harness.store.devices.open_session("alice", device, session, harness.clock.now_us(), 10 * MINUTE_US)
    return session


async def test_push_after_its_delay_then_email(harness: SchedulerHarness) -> None:
    await harness.create("a")

    await harness.advance(9)
    assert harness.published() == []
    await harness.advance(1)
    assert harness.published() == ["item a apns phone", "item a fcm tablet"]
    await harness.advance(49)
    assert harness.published() == []
    await harness.advance(1)
    assert harness.published() == ["item a email"]
    await harness.advance(100)
    assert harness.published() == []


async def test_intent_names_item_device_and_cause(harness: SchedulerHarness) -> None:
    await harness.create("z", category="other")
    await harness.create("a")

    await harness.advance(10)

    first = Intent("alice", "a", IntentKind.ITEM, "apns", "phone", 0, 2, NOW_US + 10 * SECOND_US)
    assert harness.queue.intents[0] == first
    assert first.fields() == {
        "format": "1",
        "uid": "alice",
        "item": "a",
        "intent": "item",
        "n": "0",
        "device": "phone",
        "seq": "2",
        "at_us": str(NOW_US + 10 * SECOND_US),
    }


@pytest.mark.parametrize("times", [{}, {"expires": "+10"}, {"expires": "+12"}])
async def test_removed_item_is_not_notified(harness: SchedulerHarness, times: dict[str, str]) -> None:
    await harness.create("a", **times)
    if not times:
        await harness.dismiss("a")
        await harness.advance(100)
        assert harness.published() == []
    else:
        await harness.advance(100)
        assert harness.published() == ([] if times["expires"] == "+10" else ["item a apns phone", "item a fcm tablet"])


async def test_category_without_channels_publishes_nothing(harness: SchedulerHarness) -> None:
    await harness.create("a", category="other")
    await harness.advance(100)

    assert harness.published() == []
    assert await harness.store.agenda.due_work("alice", NOW_US + 10**12, 9) == []


async def test_newer_categories_are_loaded_on_demand(harness: SchedulerHarness) -> None:
    """The process that planned the push knew the channel, and this is the only chance to publish it."""
    await harness.create("a", category="news.fresh")
    await harness.store.categories.apply({"news": {"title": "News"}}, NOW_US, 1)
    await harness.categories.refresh()
    await harness.store.categories.apply(entry(push={"after": "10s"}), NOW_US, 2)
    await harness.advance(10)

    assert harness.published() == ["item a apns phone", "item a fcm tablet"]


async def test_push_registered_with_a_limited_token_is_only_for_its_categories(harness: SchedulerHarness) -> None:
    limited = Registration(push=APNS, registrar=PushRegistrar(("shop",), NOW_US))
    await harness.store.devices.put_device("alice", "phone", limited, NOW_US)
    await harness.create("a")

    await harness.advance(10)

    assert harness.published() == ["item a fcm tablet"]
    records = await harness.store.ledger.of_item("alice", "a")
    assert [(each.state, each.history.reason) for each in records if each.intent.device == "phone"] == [
        (DeliveryState.CANCELLED, "category_filter")
    ]


async def test_ack_suppresses_push_and_email(harness: SchedulerHarness) -> None:
    receipt = await harness.create("a")
    await harness.store.devices.acknowledge("alice", View("phone"), receipt.seq, NOW_US)

    await harness.advance(10)
    assert harness.published() == ["item a fcm tablet"]
    await harness.advance(90)
    assert harness.published() == []


@pytest.mark.parametrize(
    ("view", "seq"),
    [(View("phone", ("mail",)), 9), (View("phone"), 0)],
    ids=["other-view", "older-event"],
)
async def test_unrelated_ack_suppresses_nothing(harness: SchedulerHarness, view: View, seq: int) -> None:
    await harness.create("a")
    await harness.store.devices.acknowledge("alice", view, seq, NOW_US)

    await harness.advance(60)

    assert harness.published() == ["item a apns phone", "item a fcm tablet", "item a email"]


async def test_ack_of_a_filtered_view_counts(harness: SchedulerHarness) -> None:
    receipt = await harness.create("a")
    await harness.store.devices.acknowledge("alice", View("phone", ("mail", "news")), receipt.seq, NOW_US)

    await harness.advance(10)

    assert harness.published() == ["item a fcm tablet"]


async def test_foreground_device_gets_no_push(harness: SchedulerHarness) -> None:
    await connect(harness, "phone", foreground=True)
    await connect(harness, "tablet")
    await harness.create("a")

    await harness.advance(10)

    assert harness.published() == ["item a fcm tablet"]


@pytest.mark.parametrize(("prefixes", "is_present"), [(("shop",), False), (("news", "shop"), True), (None, True)])
async def test_foreground_counts_only_for_the_categories_of_its_connection(
    harness: SchedulerHarness, prefixes: Prefixes, is_present: bool
) -> None:
    await connect(harness, "phone", foreground=True, prefixes=prefixes)
    await harness.create("a")

    await harness.advance(60)

    shown = [] if is_present else ["item a apns phone"]
    assert harness.published() == [*shown, "item a fcm tablet", *([] if is_present else ["item a email"])]


@pytest.mark.parametrize("prefixes", [("shop",), ("news",)])
async def test_foreground_of_a_filtered_connection_that_has_ended_does_not_suppress_an_email(
    harness: SchedulerHarness, prefixes: Prefixes
) -> None:
    await harness.create("a")
    session = await connect(harness, "desk", foreground=True, prefixes=prefixes)
    await harness.advance(5)
    await harness.store.devices.close_session("alice", "desk", session, harness.clock.now_us())

    await harness.advance(55)

    assert harness.published()[-1] == "item a email"


@pytest.mark.parametrize(
    ("unless", "presence", "is_mailed"),
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
async def test_email_unless_presence_condition(unless: str, presence: str, is_mailed: bool) -> None:
    harness = await build(entry(email={"after": "60s", "unless": unless}))
    await harness.store.devices.put_device("alice", "desk", Registration(), NOW_US)
    if presence == "before":
        session = await connect(harness, "desk", foreground=True)
        harness.clock.advance(5)
        await harness.store.devices.close_session("alice", "desk", session, harness.clock.now_us())
        harness.clock.advance(5)
    receipt = await harness.create("a")
    await harness.advance(20)
    if presence in ("foreground", "online"):
        session = await connect(harness, "desk", foreground=presence == "foreground")
        await harness.advance(5)
        await harness.store.devices.close_session("alice", "desk", session, harness.clock.now_us())
    elif presence == "acked":
        await harness.store.devices.acknowledge("alice", View("desk"), receipt.seq, NOW_US)

    await harness.advance(60)

    assert harness.published() == (["item a email"] if is_mailed else [])


async def test_item_for_one_device_is_pushed_only_there(harness: SchedulerHarness) -> None:
    await harness.create("a", for_device="phone")

    await harness.advance(10)

    assert harness.published() == ["item a apns phone"]


async def test_hidden_copy_suppresses_push_and_email(harness: SchedulerHarness) -> None:
    await harness.create("a", for_device="*")
    await harness.submit(message(ids=["a"]), Sender("phone"))

    await harness.advance(10)
    assert harness.published() == ["item a fcm tablet"]
    await harness.advance(60)
    assert harness.published() == []


async def test_reminder_is_pushed_to_absent_devices(harness: SchedulerHarness) -> None:
    receipt = await harness.create("a", remind_at=["+300", "+400"])
    await harness.store.devices.acknowledge("alice", View("tablet"), receipt.seq, NOW_US)
    await harness.advance(299)
    await connect(harness, "tablet", foreground=True)
    harness.published()

    await harness.advance(1)

    assert harness.queue.intents[0] == Intent(
        "alice", "a", IntentKind.REMIND, "apns", "phone", 0, 2, NOW_US + 300 * SECOND_US
    )
    assert harness.published() == ["remind a apns phone"]
    await harness.advance(100)
    assert harness.queue.intents[0].n == 1


class UnavailableQueue(MemoryQueueWriter):
    """A delivery queue that is unavailable until ``is_unavailable`` is reset."""

    is_unavailable = True
    tries = 0

    async def enqueue(self, intents: Sequence[Intent], at_us: int = 0) -> list[Intent]:
        self.tries += 1
        if self.is_unavailable:
            raise Unavailable("the queue is unavailable")
        return await super().enqueue(intents, at_us)


async def test_queue_outage_delays_only_notifications() -> None:
    queue = UnavailableQueue()
    harness = await build(entry(push={"after": "10s"}), queue=queue)
    await harness.store.devices.put_device("alice", "phone", Registration(push=APNS), NOW_US)
    await harness.create("a", remind_at=["+11"], expires="+400")
    harness.announcements()

    await harness.advance(11)
    assert harness.announced() == ["remind a +11"]
    await harness.advance(49)
    assert harness.announcements() == [] and queue.intents == []
    queue.is_unavailable = False
    await harness.advance(20)

    assert sorted(harness.published()) == ["item a apns phone", "remind a apns phone"]
    await harness.advance(100)
    assert harness.published() == []


async def test_full_stream_postpones_and_decides_again() -> None:
    """A provider outage of a day must neither lose a push nor slow the scheduler."""
    queue = MemoryQueueWriter(most=0)
    harness = await build(entry(push={"after": "10s"}), queue=queue)
    await harness.store.devices.put_device("alice", "phone", Registration(push=APNS), NOW_US)
    await harness.create("a", "b")

    await harness.advance(20)
    assert harness.published() == []
    await harness.dismiss("b")
    queue.most = None
    await harness.advance(SPREAD_US / SECOND_US, step_s=5)

    assert harness.published() == ["item a apns phone"]


async def test_postponed_pushes_do_not_delay_other_work() -> None:
    queue = UnavailableQueue()
    harness = await build(entry(push={"after": "1s"}), queue=queue)
    await harness.store.devices.put_device("alice", "phone", Registration(push=APNS), NOW_US)
    await harness.create(*(f"i{n}" for n in range(100)))
    await harness.create("a", remind_at=["+2", "+5"], expires="+8")
    await harness.create("d", remind_at=["+3"], category="plain")
    harness.announcements()

    await harness.advance(8)

    assert harness.announced() == ["remind a +2", "remind d +3", "remind a +5", "expired a"]
    queue.is_unavailable = False
    await harness.advance(30)
    assert len(harness.published()) == 100


async def test_publisher_pauses_during_queue_outage() -> None:
    queue = UnavailableQueue()
    harness = await build(entry(push={"after": "1s"}), queue=queue)
    for n in range(20):
        await harness.store.devices.put_device(f"u{n}", "phone", Registration(push={**APNS, "token": f"t{n}"}), NOW_US)
        await harness.create("a", uid=f"u{n}")
        await harness.advance(1)

    assert 1 <= queue.tries <= 20 / PAUSE_S + 1


async def test_decisions_about_much_presence_wait_for_the_next_read(harness: SchedulerHarness) -> None:
    """Eight filters of 13 KB pause the reads for 16 ms. The pushes of other users do not wait."""
    prefixes = (*(f"a{n:03}" + ".b" * 61 for n in range(100)), "news")
    sessions = [await connect(harness, "phone", f"s{n}", foreground=True, prefixes=prefixes) for n in range(8)]
    await harness.store.devices.put_device("bob", "phone", Registration(push=APNS | {"token": "t3"}), NOW_US)
    await harness.create("a")
    await harness.create("b", uid="bob")
    harness.clock.advance(0.005)
    await harness.create("c")
    await harness.create("d", uid="bob")

    await harness.advance(9.995)
    assert sorted(harness.published()) == ["item a fcm tablet", "item b apns phone"]
    for each in sessions:
        await harness.store.devices.close_session("alice", "phone", each, harness.clock.now_us())
    await harness.advance(0.005)
    assert harness.published() == ["item d apns phone"]
    await harness.advance(0.02)
    assert harness.published() == ["item c apns phone", "item c fcm tablet"]
    assert harness.metrics.timers.labels("push", "paced")._value.get() == 1


async def test_pushes_above_the_share_wait_without_a_read(
    harness: SchedulerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device can cause hundreds of reminders a second, and each decision reads up to 64 devices."""
    harness.context.publisher._shares = shares = UserShares(1.0)
    for channel in ("apns", "fcm"):
        shares.take("alice", channel, shares.burst, harness.clock.monotonic() + 10)
    reads, read = list[str](), harness.store.devices.audience

    async def counted(uid: str, now_us: int) -> Audience:
        reads.append(uid)
        return await read(uid, now_us)

    monkeypatch.setattr(harness.store.devices, "audience", counted)
    await harness.create(*(f"i{n}" for n in range(50)))

    await harness.advance(10, 10)
    assert reads == ["alice"] and harness.published() == []
    await harness.advance(50, 50)
    assert len([each for each in harness.published() if each.endswith("email")]) == 50
    await harness.advance(4 * SPREAD_US / SECOND_US, 1)

    assert len({each for each in harness.published() if "email" not in each}) == 100
    assert len(reads) < 50 + 3 * 50
