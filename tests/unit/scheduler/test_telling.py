"""What happened to items is handed over for the webhooks that want to hear of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from gregor.core.items.sync import View
from gregor.core.messages.model import Sender
from gregor.core.notify.intents import Intent, IntentKind
from gregor.core.notify.ledger import Claim, DeliveryAttempt, DeliveryHistory, DeliveryState
from gregor.core.notify.webhook_events import Webhook, webhook_and_call_id
from gregor.reference.store import MemoryQueueWriter
from tests.support.builders import NOW_US, item, message
from tests.unit.scheduler.conftest import House, build

PUSHED = {"news": {"title": "x", "push": {"after": 1}}}
ALL = Webhook("wh_all", "https://a.example/", (("whsec_A", None),))
ACKS = replace(ALL, id="wh_acks", events=("item.acked",))
PHONE = Sender("phone")


async def with_webhooks(*webhooks: Webhook, **built: Any) -> House:
    """A house whose processes know of these webhooks."""
    house = await build(**built)
    for webhook in webhooks:
        await house.store.webhooks.put(webhook, await house.store.webhooks.version())
    house.store.recorded_events.removals = house.store.recorded_events.acknowledgements = bool(webhooks)
    return house


def events(house: House) -> list[dict[str, Any]]:
    """What was handed over for webhooks since the last call, without what is told of it elsewhere."""
    found = [
        {"to": webhook_and_call_id(intent)[0], "type": body["type"], **body["data"]}
        for intent in house.deliveries.intents
        if intent.channel == "webhook"
        for body in [json.loads(intent.event)]
    ]
    house.deliveries.intents.clear()
    return found


def words(house: House) -> list[str]:
    return [
        f"{each['to']} {each['type']} {each['id']} {each['device']} {each['reason']} {each['seq']}"
        for each in events(house)
    ]


async def test_what_devices_and_time_end_is_told_once() -> None:
    house = await with_webhooks(ALL, ACKS)
    await house.create("a", "b", "c", expires="+5")
    await house.say(message(ids=["a"]), PHONE)
    await house.dismiss("b")
    await house.drain.run_due()
    assert words(house) == ["wh_all item.dismissed a phone dismissed 2", "wh_all item.dismissed b None dismissed 3"]

    await house.pass_time(6)

    assert words(house) == ["wh_all item.expired c None expired 4"]
    await house.pass_time(60)
    assert words(house) == []


async def test_a_device_that_hides_its_copy_is_told_of_and_so_is_the_end_of_all_copies() -> None:
    house = await with_webhooks(ALL)
    await house.create("a", for_device="*")

    await house.say(message(ids=["a"]), PHONE)
    await house.dismiss("a")
    await house.drain.run_due()

    assert [(each["device"], each["for_device"], each["seq"]) for each in events(house)] == [
        ("phone", "*", 2),
        (None, "*", 3),
    ]


async def test_what_a_device_showed_is_told_of_each_item_that_it_still_holds() -> None:
    house = await with_webhooks(ACKS)
    for item_id in ("a", "b", "c"):
        await house.create(item_id)
    await house.say(message({"mine": item(for_device="tablet")}))
    await house.store.devices.acknowledge("alice", View("phone"), 1, NOW_US)
    await house.dismiss("b")
    await house.store.devices.acknowledge("alice", View("phone"), 4, NOW_US)
    await house.store.devices.acknowledge("alice", View("desk", ("mail",)), 4, NOW_US)

    await house.drain.run_due()

    assert words(house) == ["wh_acks item.acked a phone None 1", "wh_acks item.acked c phone None 3"]


async def test_only_what_a_webhook_wants_is_handed_over() -> None:
    of_mail = replace(ALL, id="wh_mail", prefixes=("mail",))
    house = await with_webhooks(of_mail)
    await house.create("a")
    await house.create("m", category="mail.new")

    await house.dismiss("a", "m")
    await house.drain.run_due()

    assert words(house) == ["wh_mail item.dismissed m None dismissed 3"]


async def test_what_leaves_where_there_is_no_webhook_is_no_event() -> None:
    house = await build(PUSHED)
    await house.create("a")

    await house.dismiss("a")
    await house.drain.run_due()

    assert events(house) == []


async def test_where_the_stream_is_full_it_is_told_later_and_nothing_is_lost() -> None:
    house = await with_webhooks(ALL, deliveries=MemoryQueueWriter(most=1))
    await house.create("a", "b")
    await house.dismiss("a", "b")

    await house.drain.run_due()
    assert [line.split()[2] for line in words(house)] == ["a"]
    await house.pass_time(601, step_s=60.0)

    assert [line.split()[2] for line in words(house)] == ["b"]


async def test_a_scheduler_that_dies_after_it_handed_over_leaves_the_same_event_again() -> None:
    house = await with_webhooks(ALL)
    await house.create("a")
    await house.dismiss("a")
    [left] = [work for work in await house.store.agenda.due_work("alice", house.clock.now_us(), 9) if work.name == "a"]

    first = await house.drain._acts.do("alice", [left])
    second = await house.drain._acts.do("alice", [left])

    assert first.done == second.done
    one, other = (replace(intent, at_us=0) for intent in house.deliveries.intents)
    assert one == other


PUSH = Intent("alice", "a", IntentKind.ITEM, "apns", "phone", seq=1, at_us=NOW_US)


async def settle(house: House, intent: Intent, state: DeliveryState, reason: str | None = None) -> None:
    """What the delivery service does with one attempt."""
    ledger, now_us = house.store.ledger, house.clock.now_us()
    await ledger.plan([intent], DeliveryState.PLANNED, None, now_us)
    claim = await ledger.claim(intent, "", now_us, now_us + 1)
    assert isinstance(claim, Claim)
    attempts = (*claim.delivery.history.attempts, DeliveryAttempt(now_us, "200"))
    await ledger.record_outcome(
        claim.delivery, "", state, DeliveryHistory(now_us, intent.seq, reason, attempts=attempts)
    )


async def with_deliveries(*webhooks: Webhook) -> House:
    house = await with_webhooks(*webhooks)
    house.store.recorded_events.removals = house.store.recorded_events.acknowledgements = False
    house.store.recorded_events.deliveries = True
    await house.create("other")
    return house


async def test_what_was_sent_and_what_is_dead_is_told_with_its_category() -> None:
    house = await with_deliveries(replace(ALL, prefixes=("news",)), replace(ALL, id="wh_mail", prefixes=("mail",)))
    await house.create("a")

    await settle(house, PUSH, DeliveryState.SENT)
    await settle(house, replace(PUSH, device="tablet"), DeliveryState.DEAD, "device_gone")
    await house.drain.run_due()

    found = events(house)
    assert [(each["to"], each["type"], each["device"], each["reason"]) for each in found] == [
        ("wh_all", "delivery.sent", "phone", None),
        ("wh_all", "delivery.dead", "tablet", "device_gone"),
    ]
    assert {name: found[0][name] for name in ("category", "channel", "intent", "n", "status", "seq")} == {
        "category": "news",
        "channel": "apns",
        "intent": "item",
        "n": 0,
        "status": "200",
        "seq": 1,
    }


async def test_one_that_dies_again_after_a_replay_is_told_again() -> None:
    house = await with_deliveries(ALL)
    await house.create("a")
    await settle(house, PUSH, DeliveryState.DEAD, "budget")
    await house.drain.run_due()
    first = list(house.deliveries.intents)
    await house.store.ledger.move(PUSH, (DeliveryState.DEAD,), DeliveryState.PLANNED)

    await settle(house, PUSH, DeliveryState.DEAD, "budget")
    await house.drain.run_due()

    again = house.deliveries.intents[len(first) :]
    assert len(first) == len(again) == 1
    assert first[0].key != again[0].key


async def test_one_that_was_taken_up_again_before_it_is_told_is_not() -> None:
    house = await with_deliveries(ALL)
    await settle(house, PUSH, DeliveryState.DEAD, "budget")
    await house.store.ledger.move(PUSH, (DeliveryState.DEAD,), DeliveryState.PLANNED)

    await house.drain.run_due()

    assert events(house) == []


async def test_one_that_was_withdrawn_since_was_sent_all_the_same() -> None:
    house = await with_deliveries(ALL)
    await settle(house, PUSH, DeliveryState.SENT)
    await house.store.ledger.move(PUSH, (DeliveryState.SENT,), DeliveryState.WITHDRAWN)

    await house.drain.run_due()

    assert [(each["type"], each["category"]) for each in events(house)] == [("delivery.sent", None)]
