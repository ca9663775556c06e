"""Delivery of webhook events: signature, retries, dead letters and disabled webhooks, isolated by endpoint."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from gregor.clock import ManualClock
from gregor.core.limits import DAY_US, SECOND_US
from gregor.core.notify.intents import Intent
from gregor.core.notify.ledger import DeliveryRecord, DeliveryState
from gregor.core.notify.webhook_events import (
    Webhook,
    WebhookEvent,
    WebhookEventType,
    webhook_and_call_id,
    webhook_intents,
)
from gregor.dev.fakes.http1 import FakeResponse, ServerFault
from gregor.dev.fakes.webhook import FakeWebhookReceiver
from gregor.reference.store import MemoryStore
from gregor.registries.webhooks import WebhookEditor, WebhookRegistry
from gregor.store.service_keys import MAX_SECRETS
from gregor_delivery.attempt import DeliveryContext, attempt
from gregor_delivery.channels.webhook import WebhookChannel
from gregor_delivery.decide.webhook import WebhookDecider
from gregor_delivery.metrics import DeliveryMetrics
from gregor_delivery.throttle.breaker import FAILURE_THRESHOLD, FIRST_PAUSE_S, LONGEST_PAUSE_S, Breaker
from gregor_delivery.throttle.webhook_endpoints import WebhookEndpoints
from tests.support.builders import LIMITS, NOW_US, creating
from tests.support.wait import wait_until

GONE = WebhookEvent(
    WebhookEventType.DISMISSED, "alice", "a", "news", NOW_US, 7, NOW_US, device="phone", reason="dismissed"
)
DEADLINE_S = 5.0


@dataclass
class DeliveryHarness:
    """Webhooks with their receivers, and the delivery of events to them."""

    store: MemoryStore
    clock: ManualClock
    context: DeliveryContext
    editor: WebhookEditor
    registry: WebhookRegistry
    stack: AsyncExitStack
    receivers: dict[str, FakeWebhookReceiver] = field(default_factory=dict)

    async def webhook(self, *answers: FakeResponse | ServerFault) -> Webhook:
        """Register a webhook, and run its receiver with these first responses."""
        receiver = FakeWebhookReceiver("", self.clock.now_us)
        await receiver.start()
        self.stack.push_async_callback(receiver.close)
        made = await self.editor.create(receiver.url, None, None, None, NOW_US)
        receiver.secret = made.secrets[0][0]
        receiver.answers.extend(answers)
        self.receivers[made.id] = receiver
        return made

    async def deliver(self, webhook: Webhook, item: str = "a", uid: str = "alice") -> int | None:
        """Attempt the event of an item once; returns when to attempt it again."""
        return await self.attempt(self.event(webhook, item, uid))

    async def fail(self, webhook: Webhook) -> None:
        """Attempt one event of each of ten users: if all fail, the circuit breaker opens."""
        for n in range(FAILURE_THRESHOLD):
            await self.deliver(webhook, uid=f"u{n}")

    async def attempt(self, event: Intent) -> int | None:
        await self.store.ledger.plan([event], DeliveryState.PLANNED, None, NOW_US)
        return await attempt(self.context, event)

    def event(self, webhook: Webhook, item: str = "a", uid: str = "alice") -> Intent:
        [intent] = webhook_intents([replace(GONE, item=item, uid=uid)], [webhook], NOW_US)
        return intent

    async def entry(self, webhook: Webhook, item: str = "a") -> DeliveryRecord:
        wanted = self.event(webhook, item).key
        [found] = [each for each in await self.store.ledger.of_item("alice", item) if each.intent.key == wanted]
        return found

    async def outcome(self, webhook: Webhook, item: str = "a") -> tuple[DeliveryState, str | None]:
        entry = await self.entry(webhook, item)
        return entry.state, entry.history.reason

    def wait_until(self, at_us: int | None) -> None:
        assert at_us is not None
        self.clock.advance(max(0, at_us - self.clock.now_us()) / SECOND_US)


@pytest.fixture
async def harness() -> AsyncIterator[DeliveryHarness]:
    clock, store = ManualClock(NOW_US), MemoryStore(LIMITS)
    editor, registry = WebhookEditor(store.webhooks), WebhookRegistry(store)
    channel = WebhookChannel(clock, is_loopback_allowed=True)
    decider = WebhookDecider(registry, editor, clock, WebhookEndpoints(max_concurrent=2))
    metrics = DeliveryMetrics(CollectorRegistry())
    context = DeliveryContext("webhook", channel, store, decider, clock, metrics, Breaker(None), DEADLINE_S)
    async with AsyncExitStack() as stack:
        for uid in ("alice", "mallory", *(f"u{n}" for n in range(FAILURE_THRESHOLD))):
            await store.users.commit(uid, creating("a"))
        await channel.open()
        stack.push_async_callback(channel.close)
        yield DeliveryHarness(store, clock, context, editor, registry, stack)


async def test_event_arrives_once_and_signed(harness: DeliveryHarness) -> None:
    webhook = await harness.webhook()

    assert await harness.deliver(webhook) is None
    assert await harness.deliver(webhook) is None

    [call] = harness.receivers[webhook.id].calls
    _, call_id = webhook_and_call_id(harness.event(webhook))
    assert (call.headers["webhook-id"], call.headers["content-type"]) == (call_id, "application/json")
    assert call.body.decode() == GONE.body()
    entry = await harness.entry(webhook)
    assert (entry.state, entry.history.attempts[0].status, entry.history.event) == (DeliveryState.SENT, "204", "")


async def test_failed_call_is_retried_under_its_id(harness: DeliveryHarness) -> None:
    webhook = await harness.webhook(
        FakeResponse(500), ServerFault.DROP, FakeResponse(429, headers={"retry-after": "30"})
    )
    receiver, retries = harness.receivers[webhook.id], []

    for _ in range(3):
        again_us = await harness.deliver(webhook)
        retries.append(await harness.outcome(webhook))
        harness.wait_until(again_us)
    assert await harness.deliver(webhook) is None

    assert retries == [(DeliveryState.RETRY, None)] * 3
    assert len({call.headers["webhook-id"] for call in receiver.calls}) == len(receiver.events) == 1
    assert [each.status for each in (await harness.entry(webhook)).history.attempts] == ["500", "retry", "429", "204"]
    assert harness.clock.now_us() >= NOW_US + 30 * SECOND_US


async def test_call_is_a_dead_letter_after_a_day(
    harness: DeliveryHarness,
) -> None:
    webhook = await harness.webhook(*[FakeResponse(503)] * 2)
    harness.wait_until(await harness.deliver(webhook))
    harness.clock.advance(DAY_US / SECOND_US)

    assert await harness.deliver(webhook) is None

    entry = await harness.entry(webhook)
    assert (entry.state, entry.history.reason, len(entry.history.attempts)) == (DeliveryState.DEAD, "budget", 2)
    assert entry.intent.event == GONE.body()


async def test_410_disables_the_webhook(harness: DeliveryHarness) -> None:
    webhook, other = await harness.webhook(FakeResponse(410)), await harness.webhook()

    for item in ("a", "b"):
        await harness.deliver(webhook, item)
        await harness.deliver(other, item)

    assert await harness.outcome(webhook, "a") == (DeliveryState.DEAD, "webhook_gone")
    assert await harness.outcome(webhook, "b") == (DeliveryState.CANCELLED, "webhook_gone")
    assert [len(harness.receivers[each.id].calls) for each in (webhook, other)] == [1, 2]
    _, kept = await harness.store.webhooks.all()
    record = {each.id: (each.disabled_us, each.why_disabled) for each in kept}
    assert record == {webhook.id: (NOW_US, "410"), other.id: (None, None)}


async def test_reenabled_webhook_is_called(harness: DeliveryHarness) -> None:
    webhook = await harness.webhook(FakeResponse(410))
    await harness.deliver(webhook, "a")

    await harness.editor.change(webhook.id, lambda kept: kept.enabled(NOW_US + 1))

    assert await harness.deliver(webhook, "b") is None
    assert await harness.outcome(webhook, "b") == (DeliveryState.SENT, None)


async def test_410_of_a_former_url_leaves_the_webhook_enabled(harness: DeliveryHarness) -> None:
    """The call began before the webhook moved, so the answer does not concern the new URL."""
    webhook, other = await harness.webhook(FakeResponse(410)), await harness.webhook()
    await harness.registry.refresh()
    harness.receivers[other.id].secret = webhook.secrets[0][0]
    await harness.editor.change(webhook.id, lambda kept: replace(kept, url=other.url))

    again_us = await harness.deliver(webhook)
    retried = await harness.outcome(webhook)
    harness.wait_until(again_us)
    assert await harness.deliver(webhook) is None

    assert retried == (DeliveryState.RETRY, None)
    assert await harness.outcome(webhook) == (DeliveryState.SENT, None)
    assert [each.status for each in (await harness.entry(webhook)).history.attempts] == ["410", "204"]
    assert [len(harness.receivers[each.id].calls) for each in (webhook, other)] == [1, 1]
    kept = {each.id: each for each in (await harness.store.webhooks.all())[1]}
    assert (kept[webhook.id].url, kept[webhook.id].disabled_us) == (other.url, None)


async def test_410_of_a_call_before_the_webhook_was_enabled_again_is_retried(harness: DeliveryHarness) -> None:
    webhook = await harness.webhook(FakeResponse(410))
    await harness.registry.refresh()
    await harness.editor.disable(webhook, NOW_US, "410")
    await harness.editor.change(webhook.id, lambda kept: kept.enabled(NOW_US + 1))

    harness.wait_until(await harness.deliver(webhook))
    assert await harness.deliver(webhook) is None

    assert await harness.outcome(webhook) == (DeliveryState.SENT, None)
    _, [kept] = await harness.store.webhooks.all()
    assert kept.disabled_us is None


async def test_410_of_a_webhook_that_was_moved_and_disabled_is_a_dead_letter(harness: DeliveryHarness) -> None:
    webhook = await harness.webhook(FakeResponse(410))
    await harness.registry.refresh()
    moved = replace(webhook, url="https://other.example/", disabled_us=NOW_US + 1)
    await harness.editor.change(webhook.id, lambda _: moved)

    assert await harness.deliver(webhook) is None

    assert await harness.outcome(webhook) == (DeliveryState.DEAD, "webhook_gone")


@pytest.mark.parametrize("change", [{"prefixes": ("mail",)}, {"events": ("item.expired",)}])
async def test_narrowed_webhook_gets_no_waiting_event_outside_of_its_filter(
    harness: DeliveryHarness, change: dict[str, Any]
) -> None:
    webhook = await harness.webhook(FakeResponse(503))
    harness.wait_until(await harness.deliver(webhook))

    await harness.editor.change(webhook.id, lambda kept: replace(kept, **change))
    await harness.registry.refresh()

    assert await harness.deliver(webhook) is None
    assert await harness.outcome(webhook) == (DeliveryState.CANCELLED, "webhook_filter")
    assert len(harness.receivers[webhook.id].calls) == 1


async def test_narrowed_webhook_gets_no_replayed_event_outside_of_its_filter(harness: DeliveryHarness) -> None:
    webhook = await harness.webhook(*[FakeResponse(503)] * 2)
    harness.wait_until(await harness.deliver(webhook))
    harness.clock.advance(DAY_US / SECOND_US)
    await harness.deliver(webhook)
    dead = await harness.entry(webhook)
    assert dead.state is DeliveryState.DEAD

    await harness.editor.change(webhook.id, lambda kept: replace(kept, prefixes=("mail",)))
    await harness.registry.refresh()
    assert await harness.store.dead_letters.replay(dead.intent, harness.clock.now_us())

    assert await harness.attempt((await harness.entry(webhook)).intent) is None
    assert await harness.outcome(webhook) == (DeliveryState.CANCELLED, "webhook_filter")
    assert len(harness.receivers[webhook.id].calls) == 2


@pytest.mark.parametrize("change", [{"prefixes": ("news",)}, {"events": ("item.dismissed",)}, {"prefixes": None}])
async def test_widened_webhook_gets_its_events_at_once(harness: DeliveryHarness, change: dict[str, Any]) -> None:
    """The scheduler may know the change before this process."""
    webhook = await harness.webhook()
    await harness.editor.change(webhook.id, lambda kept: replace(kept, prefixes=("mail",), events=("item.expired",)))
    await harness.registry.refresh()
    await harness.editor.change(webhook.id, lambda kept: replace(kept, **{"prefixes": None, "events": None} | change))

    assert await harness.deliver(webhook) is None
    assert await harness.outcome(webhook) == (DeliveryState.SENT, None)


async def test_deleted_webhook_cancels_its_calls(harness: DeliveryHarness) -> None:
    webhook = await harness.webhook(FakeResponse(500))
    harness.wait_until(await harness.deliver(webhook))

    await harness.store.webhooks.delete(webhook.id)
    await harness.context.decider._webhooks.refresh()  # type: ignore[attr-defined]
    assert await harness.deliver(webhook) is None

    entry = await harness.entry(webhook)
    assert (entry.state, entry.history.reason, entry.intent.event) == (DeliveryState.CANCELLED, "webhook_gone", "")
    assert len(harness.receivers[webhook.id].calls) == 1


async def test_rotation_signs_with_both_secrets(harness: DeliveryHarness) -> None:
    webhook = await harness.webhook()
    await harness.editor.rotate(webhook.id, NOW_US, DAY_US)
    await harness.deliver(webhook, "a")  # the receiver still checks with the old secret

    harness.clock.advance(DAY_US / SECOND_US)
    await harness.deliver(webhook, "b")

    [first, second] = harness.receivers[webhook.id].calls
    assert len(first.headers["webhook-signature"].split()) == 2
    assert len(second.headers["webhook-signature"].split()) == 1
    assert [event["data"]["id"] for event in harness.receivers[webhook.id].events.values()] == ["a"]


async def test_receiver_with_the_first_secret_accepts_calls_after_repeated_rotations(harness: DeliveryHarness) -> None:
    webhook = await harness.webhook()
    for _ in range(MAX_SECRETS - 1):
        await harness.editor.rotate(webhook.id, NOW_US, DAY_US)

    await harness.deliver(webhook)

    [call] = harness.receivers[webhook.id].calls
    assert len(call.headers["webhook-signature"].split()) == MAX_SECRETS
    assert await harness.outcome(webhook) == (DeliveryState.SENT, None)
    assert harness.receivers[webhook.id].events


async def test_breaker_of_an_endpoint_saves_attempts(
    harness: DeliveryHarness,
) -> None:
    down, well = await harness.webhook(*[FakeResponse(500)] * FAILURE_THRESHOLD), await harness.webhook()
    await harness.fail(down)

    again_us = await harness.deliver(down)
    await harness.deliver(well)

    assert await harness.outcome(down) == (DeliveryState.WAITING, "receiver_down")
    assert (await harness.entry(down)).n == 0
    assert await harness.outcome(well) == (DeliveryState.SENT, None)
    harness.wait_until(again_us)
    assert await harness.deliver(down) is None
    assert await harness.outcome(down) == (DeliveryState.SENT, None)
    assert not harness.context.breaker.is_open


@pytest.mark.parametrize("answer", [FakeResponse(500), FakeResponse(429), ServerFault.DROP])
async def test_failing_events_of_a_user_stop_no_other_user(
    harness: DeliveryHarness, answer: FakeResponse | ServerFault
) -> None:
    """A device chooses ids and numbers of items, and a receiver may have an error that concerns only these."""
    webhook = await harness.webhook(*[answer] * 2 * FAILURE_THRESHOLD)
    for n in range(2 * FAILURE_THRESHOLD):
        await harness.deliver(webhook, f"x{n}", "mallory")

    assert await harness.deliver(webhook) is None
    assert await harness.outcome(webhook) == (DeliveryState.SENT, None)


async def test_unreachable_receiver_is_down_for_all_users(harness: DeliveryHarness) -> None:
    webhook = await harness.webhook()
    await harness.receivers[webhook.id].close()
    for n in range(FAILURE_THRESHOLD):
        await harness.deliver(webhook, f"x{n}", "mallory")
    await harness.deliver(webhook)

    assert await harness.outcome(webhook) == (DeliveryState.WAITING, "receiver_down")


async def test_event_of_another_user_probes_a_receiver_first(harness: DeliveryHarness) -> None:
    webhook = await harness.webhook(*[FakeResponse(500)] * FAILURE_THRESHOLD)
    await harness.fail(webhook)
    harness.clock.advance(FIRST_PAUSE_S)

    await harness.deliver(webhook, "b", "u0")
    assert len(harness.receivers[webhook.id].calls) == FAILURE_THRESHOLD
    assert await harness.deliver(webhook) is None
    assert await harness.deliver(webhook, "c", "u0") is None


async def test_postponed_call_is_a_dead_letter_after_a_day(harness: DeliveryHarness) -> None:
    down = await harness.webhook(*[FakeResponse(500)] * FAILURE_THRESHOLD)
    await harness.fail(down)
    late = replace(harness.event(down), at_us=NOW_US - DAY_US + SECOND_US)

    assert await harness.attempt(late) is None

    assert await harness.outcome(down) == (DeliveryState.DEAD, "budget")
    assert (await harness.entry(down)).intent.event == GONE.body()


async def test_postponed_call_is_tried_at_the_end_of_its_day(harness: DeliveryHarness) -> None:
    """The pause grows with the outage, but never beyond the day: an endpoint that is back then gets the event."""
    down = await harness.webhook(*[FakeResponse(500)] * (FAILURE_THRESHOLD + 1))
    await harness.fail(down)
    harness.clock.advance(DAY_US / SECOND_US - 800.0)
    await harness.deliver(down, "probe")

    again_us = await harness.deliver(down)

    assert again_us == NOW_US + DAY_US - 1
    harness.wait_until(again_us)
    assert await harness.deliver(down) is None
    assert await harness.outcome(down) == (DeliveryState.SENT, None)


async def test_hanging_endpoint_does_not_delay_others(harness: DeliveryHarness) -> None:
    hanging, well = await harness.webhook(*[ServerFault.HANG] * 2), await harness.webhook()
    calls = [asyncio.create_task(harness.deliver(hanging, uid=f"u{n}")) for n in range(2)]
    await wait_until(lambda: len(harness.receivers[hanging.id].calls) == 2, "both places are taken")

    assert await harness.deliver(hanging) is not None
    assert await harness.deliver(well) is None

    assert await harness.outcome(hanging) == (DeliveryState.WAITING, "receiver_busy")
    assert len(harness.receivers[hanging.id].calls) == 2
    await harness.receivers[hanging.id].close()
    await asyncio.gather(*calls)
    harness.clock.advance(LONGEST_PAUSE_S)
    await harness.deliver(hanging)
    assert (await harness.entry(hanging)).n == 1  # the permits of the endpoint are free again


@pytest.mark.parametrize("url", ["https://10.0.0.8/hook", "https://localhost.localdomain/hook"])
async def test_private_address_is_never_called(
    harness: DeliveryHarness, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def inside(*_: Any, **__: Any) -> list[Any]:
        return [(2, 1, 6, "", ("10.0.0.8", 443))]

    monkeypatch.setattr(socket, "getaddrinfo", inside)
    webhook = await harness.editor.create(url, None, None, None, NOW_US)

    assert await harness.deliver(webhook) is None

    entry = await harness.entry(webhook)
    assert entry.state is DeliveryState.DEAD
    assert [each.detail for each in entry.history.attempts] == ["the URL does not resolve to a public address"]


async def test_redirect_is_not_followed(harness: DeliveryHarness) -> None:
    inner = await harness.webhook()
    webhook = await harness.webhook(FakeResponse(302, headers={"location": harness.receivers[inner.id].url}))

    assert await harness.deliver(webhook) is not None

    assert harness.receivers[inner.id].calls == []
    assert (await harness.entry(webhook)).history.attempts[0].status == "302"


async def test_replayed_call_may_wait_first(harness: DeliveryHarness) -> None:
    """The replay comes a day later and has its own retry budget."""
    webhook = await harness.webhook(*[FakeResponse(500)] * 500)
    while (again_us := await harness.deliver(webhook)) is not None:
        harness.wait_until(again_us)
    dead = await harness.entry(webhook)
    assert (dead.state, dead.history.reason) == (DeliveryState.DEAD, "budget")
    await harness.fail(webhook)
    receiver = harness.receivers[webhook.id]
    receiver.answers.clear()
    receiver.calls.clear()

    replayed_us = harness.clock.now_us()
    assert await harness.store.dead_letters.replay(dead.intent, replayed_us)
    again = (await harness.entry(webhook)).intent
    harness.wait_until(await harness.attempt(again))
    assert (await harness.outcome(webhook)) == (DeliveryState.WAITING, "receiver_down")
    assert await harness.attempt(again) is None

    assert (await harness.outcome(webhook))[0] is DeliveryState.SENT
    assert len(receiver.calls) == 1 and again.at_us == replayed_us
