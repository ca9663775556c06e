"""Webhook events: removed, hidden and acknowledged items, and outcomes of deliveries."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from gregor.core.items.sync import Full, View
from gregor.core.messages.model import Sender
from gregor.core.notify.intents import WEBHOOK, Intent, IntentKind
from gregor.core.notify.ledger import OVERDUE_US, OVERFLOW, Claim, DeliveryAttempt, DeliveryHistory, DeliveryState
from gregor.core.notify.webhook_events import Webhook, webhook_and_call_id
from gregor.reference.store import MemoryQueueWriter
from gregor.store.contract.agenda import WorkKind
from gregor_scheduler.handlers.acknowledgements import MAX_EVENTS, MAX_ITEMS, PAUSE_US
from gregor_scheduler.user_shares import UserShares
from tests.support.builders import LIMITS, NOW_US, SECOND_US, item, message
from tests.unit.scheduler.conftest import SchedulerHarness, build

PUSHED = {"news": {"title": "x", "push": {"after": 1}}}
ALL = Webhook("wh_all", "https://a.example/", (("whsec_A", None),))
ACKS = replace(ALL, id="wh_acks", events=("item.acked",))
PHONE = Sender("phone")


async def with_webhooks(*webhooks: Webhook, **built: Any) -> SchedulerHarness:
    """Return a harness whose processes know these webhooks."""
    harness = await build(**built)
    for webhook in webhooks:
        await harness.store.webhooks.put(webhook, await harness.store.webhooks.version())
    harness.store.recorded_events.removals = harness.store.recorded_events.acknowledgements = bool(webhooks)
    return harness


def events(harness: SchedulerHarness) -> list[dict[str, Any]]:
    """Return the data of the events published since the last call."""
    found = [
        {"to": webhook_and_call_id(intent)[0], "type": body["type"], **body["data"]}
        for intent in harness.queue.intents
        if intent.channel == "webhook"
        for body in [json.loads(intent.event)]
    ]
    harness.queue.intents.clear()
    return found


def event_lines(harness: SchedulerHarness) -> list[str]:
    return [
        f"{each['to']} {each['type']} {each['id']} {each['device']} {each['reason']} {each['seq']}"
        for each in events(harness)
    ]


async def test_removals_are_published_once() -> None:
    harness = await with_webhooks(ALL, ACKS)
    await harness.create("a", "b", "c", expires="+5")
    await harness.submit(message(ids=["a"]), PHONE)
    await harness.dismiss("b")
    await harness.due_loop.run_due()
    assert event_lines(harness) == [
        "wh_all item.dismissed a phone dismissed 2",
        "wh_all item.dismissed b None dismissed 3",
    ]

    await harness.advance(6)

    assert event_lines(harness) == ["wh_all item.expired c None expired 4"]
    await harness.advance(60)
    assert event_lines(harness) == []


async def test_hidden_copy_and_final_removal_are_events() -> None:
    harness = await with_webhooks(ALL)
    await harness.create("a", for_device="*")

    await harness.submit(message(ids=["a"]), PHONE)
    await harness.dismiss("a")
    await harness.due_loop.run_due()

    assert [(each["device"], each["for_device"], each["seq"]) for each in events(harness)] == [
        ("phone", "*", 2),
        (None, "*", 3),
    ]


async def test_ack_events_cover_live_items_only() -> None:
    harness = await with_webhooks(ACKS)
    for item_id in ("a", "b", "c"):
        await harness.create(item_id)
    await harness.submit(message({"mine": item(for_device="tablet")}))
    await harness.store.devices.acknowledge("alice", View("phone"), 1, NOW_US)
    await harness.dismiss("b")
    await harness.store.devices.acknowledge("alice", View("phone"), 4, NOW_US)
    await harness.store.devices.acknowledge("alice", View("desk", ("mail",)), 4, NOW_US)

    await harness.due_loop.run_due()

    assert event_lines(harness) == ["wh_acks item.acked a phone None 1", "wh_acks item.acked c phone None 3"]


async def acknowledge(harness: SchedulerHarness, *views: View, seq: int | None = None) -> None:
    """Acknowledge these views up to a seq (default: that of the user), and execute due work."""
    now_us = harness.clock.now_us()
    if seq is None:
        seq = (await harness.store.users.state("alice", View(), now_us)).seq
    for view in views:
        await harness.store.devices.acknowledge("alice", view, seq, now_us)
    await harness.due_loop.run_due()


async def create_many(harness: SchedulerHarness, count: int) -> None:
    for start in range(0, count, 100):
        await harness.create(*(f"i{n:04}" for n in range(start, min(start + 100, count))))


async def test_device_reports_an_item_once() -> None:
    """Before, each new view repeated the events of all live items: 22 connections of a token stopped a scheduler."""
    harness = await with_webhooks(ACKS)
    await harness.create("a", "b")
    news = View("phone", ("news",))
    await acknowledge(harness, news)
    assert event_lines(harness) == ["wh_acks item.acked a phone None 1", "wh_acks item.acked b phone None 1"]
    for intent in [each.intent for name in "ab" for each in await harness.store.ledger.of_item("alice", name)]:
        await record_outcome(harness, intent, DeliveryState.SENT)

    await acknowledge(harness, *(View("phone", ("news", f"p{n}")) for n in range(30)), View("phone", ("news.a",)))
    assert event_lines(harness) == []
    await acknowledge(harness, View("phone"))
    assert event_lines(harness) == [], "nothing is known of its other categories, but the ledger has the events"
    await acknowledge(harness, View("desk", ("news",)))
    assert event_lines(harness) == ["wh_acks item.acked a desk None 1", "wh_acks item.acked b desk None 1"]


async def test_hashed_view_reports_its_items() -> None:
    harness = await with_webhooks(ACKS)
    await harness.create("a")
    await harness.create("b", category="other")

    long = View("phone", (*(f"{n}{'x' * 100}" for n in range(9)), "news"))
    await acknowledge(harness, long, seq=2)
    await harness.create("c")
    await acknowledge(harness, long, seq=3)

    assert [line.split()[2] for line in event_lines(harness)] == ["a", "c"]


async def test_acknowledgement_of_many_items_is_published_in_parts() -> None:
    harness = await with_webhooks(ACKS, ALL)
    await create_many(harness, 300)
    now_us = harness.clock.now_us()
    await harness.store.devices.acknowledge("alice", View("phone"), 3, now_us)
    [work] = await harness.store.agenda.due_work("alice", now_us, 9)

    first = await harness.due_loop._handlers.handle("alice", [work], 0)
    assert [each.again_us for each in first.completed] == [now_us + PAUSE_US]
    assert len(harness.queue.intents) == MAX_EVENTS

    await harness.advance(3)
    assert {intent.key for intent in harness.queue.intents} == set[Any]() | {
        each.intent.key for n in range(300) for each in await harness.store.ledger.of_item("alice", f"i{n:04}")
    }
    assert len({intent.key for intent in harness.queue.intents}) == 600


async def test_full_stream_delays_acknowledged_items() -> None:
    harness = await with_webhooks(ACKS, queue=MemoryQueueWriter(most=1))
    for seq, name in enumerate("ab", 1):
        await harness.create(name)
        await acknowledge(harness, View("phone"), seq=seq)
    assert [line.split()[2] for line in event_lines(harness)] == ["a"]

    await harness.advance(601, step_s=60.0)

    assert [line.split()[2] for line in event_lines(harness)] == ["b"]


async def test_acknowledgement_above_the_share_plans_nothing() -> None:
    harness = await with_webhooks(ACKS)
    shares = UserShares(10.0)
    shares.burst = 200  # fewer than the items
    harness.context.publisher._shares = shares
    await create_many(harness, 300)
    await acknowledge(harness, View("phone"))
    assert len(harness.queue.intents) == 3 * MAX_ITEMS
    reads, read = list[View](), harness.store.users.state

    async def noted(uid: str, view: View, now_us: int) -> Full:
        reads.append(view)
        return await read(uid, view, now_us)

    harness.store.users.state = noted  # type: ignore[method-assign]
    await acknowledge(harness, View("desk"), seq=3)

    assert (reads, len(harness.queue.intents)) == ([], 3 * MAX_ITEMS)
    assert len(await harness.store.ledger.of_user("alice", 999)) == 3 * MAX_ITEMS
    await harness.advance(60)
    assert len({intent.key for intent in harness.queue.intents}) == 600


async def test_category_prefix_filters_events() -> None:
    of_mail = replace(ALL, id="wh_mail", prefixes=("mail",))
    harness = await with_webhooks(of_mail)
    await harness.create("a")
    await harness.create("m", category="mail.new")

    await harness.dismiss("a", "m")
    await harness.due_loop.run_due()

    assert event_lines(harness) == ["wh_mail item.dismissed m None dismissed 3"]


async def test_no_webhook_no_event() -> None:
    harness = await build(PUSHED)
    await harness.create("a")

    await harness.dismiss("a")
    await harness.due_loop.run_due()

    assert events(harness) == []


async def test_full_stream_delays_events() -> None:
    harness = await with_webhooks(ALL, queue=MemoryQueueWriter(most=1))
    await harness.create("a", "b")
    await harness.dismiss("a", "b")

    await harness.due_loop.run_due()
    assert [line.split()[2] for line in event_lines(harness)] == ["a"]
    await harness.advance(601, step_s=60.0)

    assert [line.split()[2] for line in event_lines(harness)] == ["b"]


async def test_events_behind_too_many_newer_items_are_given_up() -> None:
    """They are counted like other dead letters, and leave the queue in which they wait."""
    queue = MemoryQueueWriter()
    harness = await with_webhooks(ALL, queue=queue, limits=replace(LIMITS, delivered=4))
    await harness.create("a", "b", "c")
    for item_id in ("a", "b", "c"):
        await harness.dismiss(item_id)
        await harness.due_loop.run_due()
        queue.delayed[queue.intents[-1]] = NOW_US  # the receiver is down
        await harness.advance(1)

    assert [intent.item for intent in queue.intents] == ["b", "c"]
    assert harness.metrics.dead.labels("webhook")._value.get() == 1
    page = await harness.store.dead_letters.page(None, 9, "webhook", harness.clock.now_us())
    assert [(each.intent.item, each.history.reason) for each in page.letters] == [("a", OVERFLOW)]


def set_share(harness: SchedulerHarness, rate: float, burst: int) -> None:
    """Let each user have this share of deliveries."""
    shares = UserShares(rate)
    shares.burst = burst
    harness.context.publisher._shares = shares


async def agenda_of(harness: SchedulerHarness) -> list[WorkKind]:
    """Return the kinds of all work on the agenda of alice."""
    far_us = harness.clock.now_us() + 10 * OVERDUE_US
    return [work.kind for work in await harness.store.agenda.due_work("alice", far_us, 9_999)]


async def test_events_above_the_share_wait_in_the_queue() -> None:
    """Before, the work was retried until the share sufficed: for ever, if items were removed all the time."""
    harness = await with_webhooks(ALL)
    set_share(harness, 10.0, 4)
    await harness.create("p", for_device="*")
    await harness.create(*"abcdefg")
    await harness.submit(message(ids=["p"]), PHONE)
    await harness.dismiss(*"abcdefg")
    await harness.due_loop.run_due()

    now_us, kinds = harness.clock.now_us(), await agenda_of(harness)
    assert WorkKind.LEFT not in kinds and WorkKind.HIDDEN not in kinds
    assert len(harness.queue.intents) == len({each.key for each in harness.queue.intents}) == 8
    assert len(harness.queue.delayed) == 4
    assert all(now_us <= at_us <= now_us + 0.4 * SECOND_US for at_us in harness.queue.delayed.values())


async def test_outcomes_above_the_share_wait_in_the_queue() -> None:
    harness = await with_deliveries(ALL)
    set_share(harness, 10.0, 1)
    for device in ("phone", "tablet"):
        await record_outcome(harness, replace(PUSH, device=device), DeliveryState.SENT)
    await harness.due_loop.run_due()

    assert WorkKind.SETTLED not in await agenda_of(harness)
    assert (len(harness.queue.intents), len(harness.queue.delayed)) == (2, 1)


async def test_items_whose_events_are_above_the_share_are_bounded() -> None:
    """Before, the work after each removal kept the deliveries of its item: one user held 25,000 of them."""
    limits = replace(LIMITS, delivered=20)
    harness = await with_webhooks(ALL, limits=limits)
    set_share(harness, 0.01, 4)
    for n in range(60):
        await harness.create(f"i{n:02}")
        skipped = [replace(PUSH, item=f"i{n:02}")]
        await harness.store.ledger.plan(skipped, DeliveryState.CANCELLED, "present", harness.clock.now_us())
        await harness.dismiss(f"i{n:02}")
        await harness.due_loop.run_due()

    records = await harness.store.ledger.of_user("alice", 999)
    events_of = [each for each in records if each.intent.channel == WEBHOOK]
    given_up = harness.metrics.dead.labels("webhook")._value.get()
    assert len({each.intent.item for each in records}) <= 20 + limits.delivered_step
    assert sum(not each.is_over for each in events_of) <= limits.delivered_waiting + limits.delivered_step
    assert len([kind for kind in await agenda_of(harness) if kind in (WorkKind.LEFT, WorkKind.OVERDUE)]) <= 21
    assert (len(harness.queue.delayed), given_up) == (10, 50), "each event waits, or is counted as given up"
    unfinished = {each.intent.key for each in events_of if not each.is_over}
    assert {each.key for each in harness.queue.delayed} == unfinished


async def test_repeated_event_has_the_same_key() -> None:
    harness = await with_webhooks(ALL)
    await harness.create("a")
    await harness.dismiss("a")
    [left] = [
        work for work in await harness.store.agenda.due_work("alice", harness.clock.now_us(), 9) if work.name == "a"
    ]

    first = await harness.due_loop._handlers.handle("alice", [left], 0)
    second = await harness.due_loop._handlers.handle("alice", [left], 0)

    assert first.completed == second.completed
    one, other = (replace(intent, at_us=0) for intent in harness.queue.intents)
    assert one == other


PUSH = Intent("alice", "a", IntentKind.ITEM, "apns", "phone", seq=1, at_us=NOW_US)


async def record_outcome(
    harness: SchedulerHarness, intent: Intent, state: DeliveryState, reason: str | None = None
) -> None:
    """Claim a delivery and record its outcome, as a delivery worker does."""
    ledger, now_us = harness.store.ledger, harness.clock.now_us()
    await ledger.plan([intent], DeliveryState.PLANNED, None, now_us)
    claim = await ledger.claim(intent, "", now_us, now_us + 1)
    assert isinstance(claim, Claim)
    attempts = (*claim.delivery.history.attempts, DeliveryAttempt(now_us, "200"))
    await ledger.record_outcome(
        claim.delivery, "", state, DeliveryHistory(now_us, intent.seq, reason, attempts=attempts)
    )


async def with_deliveries(*webhooks: Webhook) -> SchedulerHarness:
    harness = await with_webhooks(*webhooks)
    harness.store.recorded_events.removals = harness.store.recorded_events.acknowledgements = False
    harness.store.recorded_events.deliveries = True
    await harness.create("other")
    return harness


async def test_sent_and_dead_deliveries_are_events() -> None:
    harness = await with_deliveries(replace(ALL, prefixes=("news",)), replace(ALL, id="wh_mail", prefixes=("mail",)))
    await harness.create("a")

    await record_outcome(harness, PUSH, DeliveryState.SENT)
    await record_outcome(harness, replace(PUSH, device="tablet"), DeliveryState.DEAD, "device_gone")
    await harness.due_loop.run_due()

    found = events(harness)
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


async def test_second_death_after_replay_is_a_new_event() -> None:
    harness = await with_deliveries(ALL)
    await harness.create("a")
    await record_outcome(harness, PUSH, DeliveryState.DEAD, "budget")
    await harness.due_loop.run_due()
    first = list(harness.queue.intents)
    await harness.store.ledger.move(PUSH, (DeliveryState.DEAD,), DeliveryState.PLANNED)

    await record_outcome(harness, PUSH, DeliveryState.DEAD, "budget")
    await harness.due_loop.run_due()

    again = harness.queue.intents[len(first) :]
    assert len(first) == len(again) == 1
    assert first[0].key != again[0].key


async def test_replayed_delivery_is_no_event() -> None:
    harness = await with_deliveries(ALL)
    await record_outcome(harness, PUSH, DeliveryState.DEAD, "budget")
    await harness.store.ledger.move(PUSH, (DeliveryState.DEAD,), DeliveryState.PLANNED)

    await harness.due_loop.run_due()

    assert events(harness) == []


async def test_withdrawn_push_counts_as_sent() -> None:
    harness = await with_deliveries(ALL)
    await record_outcome(harness, PUSH, DeliveryState.SENT)
    await harness.store.ledger.move(PUSH, (DeliveryState.SENT,), DeliveryState.WITHDRAWN)

    await harness.due_loop.run_due()

    assert [(each["type"], each["category"]) for each in events(harness)] == [("delivery.sent", None)]
