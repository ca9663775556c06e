"""Webhooks, in every store."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gregor.core.errors import Problem
from gregor.core.limits import DAY_US, HOUR_US
from gregor.core.notify.webhook_events import Webhook
from gregor.registries.webhooks import WebhookEditor
from gregor.store.contract.store import Store
from gregor.store.contract.webhooks import MAX_WEBHOOKS
from gregor.store.service_keys import MAX_SECRETS
from tests.support.builders import NOW_US
from tests.support.store_backends import StoreUnderTest

A = Webhook("wh_a", "https://a.example/hook?x=1", (("whsec_AAAA", None),), created_us=NOW_US)
B = Webhook(
    "wh_b",
    "https://b.example",
    (("whsec_BBBB", None), ("whsec_CCCC", NOW_US + 9)),
    ("item.acked",),
    ("mail", "user.joined"),
    "ünïcode",
    NOW_US,
    NOW_US + 1,
    "410",
)


async def test_new_store_has_no_webhooks(store: Store) -> None:
    assert await store.webhooks.version() == 0
    assert await store.webhooks.all() == (0, ())


async def test_webhooks_round_trip_by_id(store: Store) -> None:
    assert await store.webhooks.put(B, 0)
    assert await store.webhooks.put(A, 1)

    assert await store.webhooks.all() == (2, (A, B))
    assert await store.webhooks.version() == 2


async def test_putting_a_webhook_replaces_it(store: Store) -> None:
    changed = replace(A, name="mine")
    await store.webhooks.put(A, 0)

    assert await store.webhooks.put(changed, 1)

    assert await store.webhooks.all() == (2, (changed,))


async def test_unexpected_version_changes_nothing(store: Store) -> None:
    assert not await store.webhooks.put(A, 1)
    assert await store.webhooks.put(A, 0)
    assert not await store.webhooks.put(replace(A, name="late"), 0)

    assert await store.webhooks.all() == (1, (A,))


async def test_concurrent_updates_of_a_version_succeed_once(store: Store) -> None:
    done = await asyncio.gather(*(store.webhooks.put(replace(A, name=str(n)), 0) for n in range(10)))

    assert sorted(done) == [False] * 9 + [True]


async def test_webhook_is_deleted_once(store: Store) -> None:
    await store.webhooks.put(A, 0)
    await store.webhooks.put(B, 1)

    assert await store.webhooks.delete("wh_a")
    assert not await store.webhooks.delete("wh_a")

    assert await store.webhooks.all() == (3, (B,))


async def test_webhooks_are_bounded(store: Store) -> None:
    for n in range(MAX_WEBHOOKS):
        await store.webhooks.put(replace(A, id=f"wh_{n:03}"), n)

    with pytest.raises(Problem) as refused:
        await store.webhooks.put(A, MAX_WEBHOOKS)
    assert await store.webhooks.put(replace(A, id="wh_000", name="changed"), MAX_WEBHOOKS)
    await store.webhooks.delete("wh_001")

    assert refused.value.code == "too_many"
    assert await store.webhooks.put(A, MAX_WEBHOOKS + 2)


async def test_rotating_again_keeps_the_expiry_of_earlier_secrets(store: Store) -> None:
    """An operator repeats a rotation after the answer was lost: the receiver still knows only the first secret."""
    editor = WebhookEditor(store.webhooks)
    await store.webhooks.put(A, 0)
    for hours in range(3):
        await editor.rotate(A.id, NOW_US + hours * HOUR_US, DAY_US)

    _, [rotated] = await store.webhooks.all()

    newest, third, second, first = (secret for secret, _ in rotated.secrets)
    assert first == A.secrets[0][0]
    assert rotated.signing(NOW_US + DAY_US - 1) == (newest, third, second, first)
    for hours, still_valid in enumerate([(newest, third, second), (newest, third), (newest,)]):
        assert rotated.signing(NOW_US + hours * HOUR_US + DAY_US) == still_valid


async def test_secrets_of_a_webhook_are_bounded(store: Store) -> None:
    editor = WebhookEditor(store.webhooks)
    made = [await editor.create("https://a.example", None, None, None, NOW_US)]
    for _ in range(MAX_SECRETS + 3):
        rotated = await editor.rotate(made[0].id, NOW_US, DAY_US)
        assert rotated is not None
        made.append(rotated)
    newest_first = tuple(webhook.secrets[0][0] for webhook in reversed(made))

    later = await editor.rotate(made[0].id, NOW_US + DAY_US, DAY_US)

    assert made[-1].signing(NOW_US) == newest_first[:MAX_SECRETS]
    assert later is not None and [until_us for _, until_us in later.secrets] == [None, NOW_US + 2 * DAY_US]


async def test_each_webhook_change_is_published(backend: StoreUnderTest) -> None:
    recorder = await backend.record_webhooks()

    await backend.store.webhooks.put(A, 0)
    await backend.store.webhooks.put(A, 0)
    await backend.store.webhooks.put(replace(A, name="x"), 1)
    await backend.store.webhooks.delete("wh_b")
    await backend.store.webhooks.delete("wh_a")

    assert await recorder.first(3) == [b"1", b"2", b"3"]
