"""Keys of webhook events: users who are created again, repeated work, and events that an earlier release planned."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from gregor.core.items.sync import View
from gregor.core.notify.intents import WEBHOOK, Intent, IntentKind
from gregor.core.notify.ledger import DeliveryState
from gregor.core.notify.webhook_events import WebhookEvent
from tests.support.builders import message
from tests.unit.scheduler.conftest import SchedulerHarness
from tests.unit.scheduler.test_webhook_events import ALL, PHONE, event_lines, record_outcome, with_webhooks

Cause = tuple[str, str, str | None, int]
"""Type, item, device and seq of an event."""


def keys_by_cause(harness: SchedulerHarness) -> dict[Cause, str]:
    """Return the key of each event published since the last call."""
    found: dict[Cause, str] = {}
    for intent in harness.queue.intents:
        if intent.channel == WEBHOOK:
            body = json.loads(intent.event)
            data = body["data"]
            found[body["type"], data["id"], data["device"], data["seq"]] = intent.device
    harness.queue.intents.clear()
    return found


async def cause_events(harness: SchedulerHarness) -> dict[Cause, str]:
    """Cause an event of each kind of work."""
    await harness.create("a")
    await harness.create("b", for_device="*")
    await harness.create("c", expires="+5")
    await harness.store.devices.acknowledge("alice", View("phone"), 1, harness.clock.now_us())
    push = Intent("alice", "a", IntentKind.ITEM, "apns", "phone", seq=1, at_us=harness.clock.now_us())
    await record_outcome(harness, push, DeliveryState.SENT)
    await harness.due_loop.run_due()
    await harness.submit(message(ids=["b"]), PHONE)
    await harness.dismiss("a")
    await harness.advance(6)
    return keys_by_cause(harness)


async def test_user_who_is_created_again_gets_new_event_keys() -> None:
    """Before, a receiver that deduplicates dropped the events of the new user."""
    harness = await with_webhooks(ALL)
    harness.store.recorded_events.deliveries = True
    first = await cause_events(harness)
    await harness.store.users.delete_user("alice", harness.clock.now_us())
    await harness.advance(1)

    second = await cause_events(harness)

    assert {cause[0] for cause in first} == {"item.acked", "delivery.sent", "item.dismissed", "item.expired"}
    assert first.keys() == second.keys() and len(first) == 5
    assert len({*first.values(), *second.values()}) == 10


async def test_event_that_an_earlier_release_planned_keeps_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The earlier scheduler died before it completed the work."""
    harness = await with_webhooks(ALL)
    await harness.create("a")
    await harness.dismiss("a")
    now_us = harness.clock.now_us()
    [left] = [work for work in await harness.store.agenda.due_work("alice", now_us, 9) if work.name == "a"]
    with monkeypatch.context() as earlier:
        earlier.setattr(WebhookEvent, "key_for", WebhookEvent.earlier_key_for)
        await harness.due_loop._handlers.handle("alice", [left], 0)

    await harness.due_loop._handlers.handle("alice", [left], 0)

    one, other = (replace(intent, at_us=0) for intent in harness.queue.intents)
    assert one == other
    assert len(await harness.store.ledger.of_item("alice", "a")) == 1


async def test_item_that_an_earlier_release_reported_is_not_reported_again(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = await with_webhooks(ALL)
    await harness.create("a")
    with monkeypatch.context() as earlier:
        earlier.setattr(WebhookEvent, "key_for", WebhookEvent.earlier_key_for)
        await harness.store.devices.acknowledge("alice", View("phone", ("news",)), 1, harness.clock.now_us())
        await harness.due_loop.run_due()
    assert event_lines(harness) == ["wh_all item.acked a phone None 1"]

    await harness.store.devices.acknowledge("alice", View("phone"), 1, harness.clock.now_us())
    await harness.due_loop.run_due()

    assert event_lines(harness) == []
