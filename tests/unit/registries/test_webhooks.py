"""The webhook cache of a process, and the editor of webhooks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from gregor.core.limits import Limits
from gregor.core.notify.webhook_events import Webhook, WebhookEventType
from gregor.core.notify.webhook_signature import decode_secret
from gregor.redis.pubsub import MemoryPubSub
from gregor.reference.store import MemoryStore
from gregor.registries import versioned_cache
from gregor.registries.webhooks import WebhookEditor, WebhookRegistry
from tests.support.builders import NOW_US
from tests.support.wait import wait_until

NEVER_S = 3_600.0
DAY_US = 86_400_000_000


class Deployment:
    """A store, its pub/sub, an editor, and registries that the fixture closes."""

    def __init__(self) -> None:
        self.feed = MemoryPubSub()
        self.store = MemoryStore(Limits(), self.feed)
        self.editor = WebhookEditor(self.store.webhooks)
        self.opened: list[WebhookRegistry] = []

    async def registry(self, *, is_subscribed: bool = True, poll_s: float = NEVER_S) -> WebhookRegistry:
        made = WebhookRegistry(self.store, self.feed if is_subscribed else None, poll_s=poll_s)
        self.opened.append(made)
        await made.start()
        return made

    async def create(self, *events: str) -> Webhook:
        return await self.editor.create("https://a.example/hook", events or None, None, None, NOW_US)


@pytest.fixture
async def deployment() -> AsyncIterator[Deployment]:
    made = Deployment()
    yield made
    for registry in made.opened:
        await registry.close()
    await made.feed.close()


async def test_registry_loads_webhooks_and_follows_changes(deployment: Deployment) -> None:
    first = await deployment.create()
    registry = await deployment.registry()
    assert registry.get(first.id) == first

    second = await deployment.create()
    await wait_until(lambda: registry.get(second.id) == second, "the message invalidates the cache")
    await deployment.store.webhooks.delete(first.id)

    await wait_until(lambda: list(registry.current) == [second], "the deleted webhook leaves the cache")


async def test_poll_finds_a_change_without_a_message(deployment: Deployment) -> None:
    polling = await deployment.registry(is_subscribed=False, poll_s=0.01)

    made = await deployment.create()

    await wait_until(lambda: polling.get(made.id) == made, "the poll finds the webhook")


@pytest.mark.parametrize("is_subscribed", [True, False], ids=["gap", "poll"])
async def test_other_webhooks_with_the_same_version_are_loaded(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, is_subscribed: bool
) -> None:
    """Redis restarts empty or from an older snapshot, and the next change has the number of a lost one."""
    monkeypatch.setattr(versioned_cache, "RECHECK_S", 0.0 if not is_subscribed else NEVER_S)
    before = await deployment.create()
    registry = await deployment.registry(is_subscribed=is_subscribed, poll_s=NEVER_S if is_subscribed else 0.01)
    assert registry.get(before.id) == before

    deployment.store._webhooks = MemoryStore(Limits()).webhooks
    made = await WebhookEditor(deployment.store.webhooks).create("https://b.example", None, None, None, NOW_US)
    if is_subscribed:
        registry.gap(same_server=True)

    await wait_until(lambda: list(registry.current) == [made], "the stored webhook is loaded")


async def test_store_records_only_wanted_events(deployment: Deployment) -> None:
    registry, store = await deployment.registry(is_subscribed=False), deployment.store
    recorded = []

    for events in ((), ("delivery.sent",), ("item.acked",), ("item.expired",)):
        if events:
            await deployment.create(*events)
        await registry.refresh()
        recorded.append((store.recorded_events.removals, store.recorded_events.acknowledgements))
    for webhook in registry.current:
        await deployment.editor.disable(webhook, NOW_US, "410")
    await registry.refresh()

    assert recorded == [(False, False), (False, False), (False, True), (True, True)]
    assert (store.recorded_events.removals, store.recorded_events.acknowledgements) == (False, False)
    assert not registry.wants(*WebhookEventType)


async def test_cache_is_refreshed_for_events_newer_than_it(deployment: Deployment) -> None:
    registry = await deployment.registry(is_subscribed=False)
    made = await deployment.create()

    await registry.refresh_if_older_than(NOW_US, NOW_US + 10)
    assert registry.get(made.id) is not None
    await deployment.store.webhooks.delete(made.id)
    await registry.refresh_if_older_than(NOW_US + 9, NOW_US + 20)
    assert registry.get(made.id) is not None  # the cache was refreshed after this event
    await registry.refresh_if_older_than(NOW_US + 10, NOW_US + 20)

    assert registry.get(made.id) is None


async def test_created_webhooks_have_unique_ids_and_secrets(deployment: Deployment) -> None:
    made = [await deployment.create("item.expired", "item.acked", "item.expired") for _ in range(2)]

    assert len({each.id for each in made}) == len({each.secrets for each in made}) == 2
    assert made[0].events == ("item.acked", "item.expired")
    assert [len(decode_secret(secret)) for secret in made[0].signing(NOW_US)] == [32]


async def test_rotated_secret_signs_until_its_overlap_ends(deployment: Deployment) -> None:
    made = await deployment.create()
    [(first, _)] = made.secrets

    once = await deployment.editor.rotate(made.id, NOW_US, DAY_US)
    assert once is not None
    (second, _), old = once.secrets
    twice = await deployment.editor.rotate(made.id, NOW_US + 1, DAY_US)

    assert second != first and old == (first, NOW_US + DAY_US)
    assert twice is not None and [until_us for _, until_us in twice.secrets] == [None, NOW_US + 1 + DAY_US, old[1]]
    assert first in twice.signing(NOW_US + 1) and first not in twice.signing(NOW_US + DAY_US)
    assert await deployment.editor.rotate("wh_none", NOW_US, DAY_US) is None


async def test_disabling_twice_keeps_the_first_reason(deployment: Deployment) -> None:
    made = await deployment.create()

    await deployment.editor.disable(made, NOW_US + 1, "410")
    kept = await deployment.editor.disable(made, NOW_US + 2, "later")

    assert kept is not None and (kept.disabled_us, kept.why_disabled) == (NOW_US + 1, "410")
    assert await deployment.store.webhooks.version() == 2
    assert await deployment.editor.disable(replace(made, id="wh_none"), NOW_US, "410") is None


async def test_webhook_that_was_changed_since_its_call_stays_enabled(deployment: Deployment) -> None:
    moved, enabled, renamed = [await deployment.create() for _ in range(3)]
    await deployment.editor.change(moved.id, lambda kept: replace(kept, url="https://b.example/hook"))
    await deployment.editor.disable(enabled, NOW_US + 1, "410")
    await deployment.editor.change(enabled.id, lambda kept: kept.enabled(NOW_US + 2))
    await deployment.editor.change(renamed.id, lambda kept: replace(kept, name="CRM"))

    after = [await deployment.editor.disable(each, NOW_US + 3, "410") for each in (moved, enabled, renamed)]

    assert [each is not None and each.disabled_us for each in after] == [None, None, NOW_US + 3]


async def test_concurrent_changes_are_all_stored(deployment: Deployment) -> None:
    await asyncio.gather(*(deployment.create() for _ in range(6)))

    _, kept = await deployment.store.webhooks.all()
    assert len(kept) == 6
