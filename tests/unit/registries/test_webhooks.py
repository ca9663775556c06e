"""What a process holds of the webhooks, and how they are changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gregor.core.limits import Limits
from gregor.core.notify.webhook_events import EventType, Webhook
from gregor.core.notify.webhook_signature import key_of
from gregor.redis.pubsub import MemoryFeed
from gregor.reference.store import MemoryStore
from gregor.registries.webhooks import WebhookEditor, WebhookRegistry
from tests.support.builders import NOW_US
from tests.support.wait import wait_until

NEVER_S = 3_600.0
DAY_US = 86_400_000_000


class Ground:
    """A store, its feed, an editor, and registries that are closed in the end."""

    def __init__(self) -> None:
        self.feed = MemoryFeed()
        self.store = MemoryStore(Limits(), self.feed)
        self.editor = WebhookEditor(self.store.webhooks)
        self.opened: list[WebhookRegistry] = []

    async def registry(self, *, hears: bool = True, check_s: float = NEVER_S) -> WebhookRegistry:
        made = WebhookRegistry(self.store, self.feed if hears else None, check_s=check_s)
        self.opened.append(made)
        await made.follow()
        return made

    async def create(self, *events: str) -> Webhook:
        return await self.editor.create("https://a.example/hook", events or None, None, None, NOW_US)


@pytest.fixture
async def ground() -> AsyncIterator[Ground]:
    made = Ground()
    yield made
    for registry in made.opened:
        await registry.close()
    await made.feed.close()


async def test_a_process_begins_with_what_holds_and_hears_of_changes(ground: Ground) -> None:
    first = await ground.create()
    registry = await ground.registry()
    assert registry.get(first.id) == first

    second = await ground.create()
    await wait_until(lambda: registry.get(second.id) == second, "the new one is heard of")
    await ground.store.webhooks.delete(first.id)

    await wait_until(lambda: list(registry.current) == [second], "the deleted one is gone")


async def test_one_that_was_not_told_is_found_by_looking(ground: Ground) -> None:
    deaf = await ground.registry(hears=False, check_s=0.01)

    made = await ground.create()

    await wait_until(lambda: deaf.get(made.id) == made, "it is found")


async def test_the_store_notes_what_somebody_wants_to_hear_of_and_nothing_else(ground: Ground) -> None:
    registry, store = await ground.registry(hears=False), ground.store
    noted = []

    for events in ((), ("delivery.sent",), ("item.acked",), ("item.expired",)):
        if events:
            await ground.create(*events)
        await registry.refresh()
        noted.append((store.users.is_watched, store.devices.is_watched))
    for webhook in registry.current:
        await ground.editor.disable(webhook.id, NOW_US, "410")
    await registry.refresh()

    assert noted == [(False, False), (False, False), (False, True), (True, True)]
    assert (store.users.is_watched, store.devices.is_watched) == (False, False)
    assert not registry.wants(*EventType)


async def test_of_what_happened_it_knows_who_wanted_to_hear_then(ground: Ground) -> None:
    registry = await ground.registry(hears=False)
    made = await ground.create()

    await registry.as_of(NOW_US, NOW_US + 10)
    assert registry.get(made.id) is not None
    await ground.store.webhooks.delete(made.id)
    await registry.as_of(NOW_US + 9, NOW_US + 20)
    assert registry.get(made.id) is not None  # it looked since then
    await registry.as_of(NOW_US + 10, NOW_US + 20)

    assert registry.get(made.id) is None


async def test_a_new_webhook_has_an_id_and_a_secret_of_its_own(ground: Ground) -> None:
    made = [await ground.create("item.expired", "item.acked", "item.expired") for _ in range(2)]

    assert len({each.id for each in made}) == len({each.secrets for each in made}) == 2
    assert made[0].events == ("item.acked", "item.expired")
    assert [len(key_of(secret)) for secret in made[0].signing(NOW_US)] == [32]


async def test_a_rotated_secret_signs_for_its_time_beside_the_new_one(ground: Ground) -> None:
    made = await ground.create()
    [(first, _)] = made.secrets

    once = await ground.editor.rotate(made.id, NOW_US, DAY_US)
    assert once is not None
    (second, _), old = once.secrets
    twice = await ground.editor.rotate(made.id, NOW_US + 1, DAY_US)

    assert second != first and old == (first, NOW_US + DAY_US)
    assert twice is not None and [until_us for _, until_us in twice.secrets] == [None, NOW_US + 1 + DAY_US]
    assert first not in twice.signing(NOW_US + 1)
    assert await ground.editor.rotate("wh_none", NOW_US, DAY_US) is None


async def test_a_webhook_is_disabled_once_and_says_why(ground: Ground) -> None:
    made = await ground.create()

    await ground.editor.disable(made.id, NOW_US + 1, "410")
    kept = await ground.editor.disable(made.id, NOW_US + 2, "later")

    assert kept is not None and (kept.disabled_us, kept.why_disabled) == (NOW_US + 1, "410")
    assert await ground.store.webhooks.version() == 2
    assert await ground.editor.disable("wh_none", NOW_US, "410") is None


async def test_changes_at_the_same_time_lose_nothing_of_each_other(ground: Ground) -> None:
    await asyncio.gather(*(ground.create() for _ in range(6)))

    _, kept = await ground.store.webhooks.all()
    assert len(kept) == 6
