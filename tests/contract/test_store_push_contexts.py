"""Push contexts equal the separate reads of their parts, in every store (contract ``PushContexts``)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import product

import msgspec

from gregor.core.ids import is_allowed
from gregor.core.items.sync import View, cursor_for
from gregor.core.limits import Limits
from gregor.core.messages.model import Sender
from gregor.core.notify.contact import parse_contact, parse_preferences
from gregor.core.notify.intents import Intent, IntentKind
from gregor.core.notify.ledger import DeliveryState
from gregor.store.contract.devices import DeviceSession, PushRegistrar, Registration
from gregor.store.contract.push_context import PushContext
from gregor.store.contract.store import Store
from tests.support.builders import LIMITS, NOW, NOW_US, SECOND_US, creating, dismissing
from tests.support.resets import reset_all_users

PUSH = {"provider": "apns", "token": "t1"}
MakeStore = Callable[[Limits], Awaitable[Store]]
DEVICES = ("phone", "pho", "desk", "nobody")
ITEMS = ("all", "once", "twice", "of-phone", "of-desk", "gone", "soon", "never")


async def one_by_one(store: Store, uid: str, device: str, channel: str, item: str, now_us: int) -> PushContext | None:
    """Return the same context from one read for each part."""
    known = await store.devices.device(uid, device, now_us)
    if known is None:
        return None
    copy = await store.users.state(uid, View(device), now_us)
    push_filter = known[0].push_filter
    return PushContext(
        *known,
        {view: seq for view, seq in (await store.devices.acknowledged(uid)).items() if view.device == device},
        await store.contacts.contact(uid),
        await store.contacts.preferences(uid),
        await store.ledger.withdrawals(uid, device, channel),
        next((each for each in copy.items if each.id == item), None),
        Counter(each.category for each in copy.items if is_allowed(push_filter, each.category)),
        cursor_for(copy.epoch, View(device, push_filter), copy.seq),
    )


async def fill_state(store: Store) -> None:
    """Give alice three devices, two of them with a common name prefix, and data in every part."""
    for device in DEVICES[:-1]:
        await store.devices.put_device("alice", device, Registration("ios", {**PUSH, "token": device}, "it"), NOW_US)
    commits = [
        creating("all", category="a.b"),
        creating("once", "twice", for_device="*", category="a", remind_at=["+60", "+120"]),
        creating("of-phone", for_device="phone", remind_at=["+60"]),
        creating("of-desk", for_device="desk"),
        creating("gone", "soon", category="a", expires=NOW + 60),
        dismissing("gone"),
        dismissing("once", "twice", sender=Sender("pho")),
        dismissing("twice", sender=Sender("phone")),
    ]
    for commit in commits:
        await store.users.commit("alice", commit)
    await store.devices.acknowledge("alice", View("phone", ("a",)), 3, NOW_US)
    await store.devices.acknowledge("alice", View("desk"), 4, NOW_US)
    await store.contacts.put_contact("alice", parse_contact({"quiet_hours": {"from": "22:00", "to": "07:00"}}))
    await store.contacts.put_preferences("alice", parse_preferences({"a": {"push": False}}))
    for device, session, foreground in (("phone", "s", True), ("pho", "t", False)):
        opened = DeviceSession(session, f"c-{session}", "g", NOW_US, foreground)
        await store.devices.open_session("alice", device, opened, NOW_US, 30 * SECOND_US)
    gone = [Intent("alice", "gone", IntentKind.WITHDRAW, "apns", device, at_us=NOW_US) for device in ("phone", "pho")]
    await store.ledger.plan(gone, DeliveryState.PLANNED, None, NOW_US)


async def test_push_context_equals_single_reads(store: Store) -> None:
    await fill_state(store)
    for later_s in (0, 31, 61):
        now_us = NOW_US + later_s * SECOND_US
        for device, item in product(DEVICES, ITEMS):
            found = await store.push_contexts.read("alice", device, "apns", item, now_us)
            assert found == await one_by_one(store, "alice", device, "apns", item, now_us), (later_s, device, item)


async def test_push_context_counts_the_categories_of_the_registration(store: Store) -> None:
    await fill_state(store)
    limited = Registration("ios", PUSH, registrar=PushRegistrar(("a.b",), None))
    await store.devices.put_device("alice", "phone", limited, NOW_US)

    found = await store.push_contexts.read("alice", "phone", "apns", "once", NOW_US)

    assert found == await one_by_one(store, "alice", "phone", "apns", "once", NOW_US)
    assert found is not None and found.item is not None and found.counts == {"a.b": 1}


async def test_push_context_without_counts(store: Store) -> None:
    await fill_state(store)
    for device, item, most in product(DEVICES, ITEMS, (5, 6)):
        found = await store.push_contexts.read("alice", device, "apns", item, NOW_US, most_counted=most)
        expected = await one_by_one(store, "alice", device, "apns", item, NOW_US)
        if expected is not None and most == 5:
            expected = msgspec.structs.replace(expected, counts=None)
        assert found == expected, (device, item, most)


async def test_push_context_without_waiting_withdrawals(store: Store) -> None:
    await fill_state(store)
    gone = [Intent("alice", "gone", IntentKind.WITHDRAW, "apns", "desk", n, at_us=NOW_US) for n in range(300)]
    await store.ledger.plan(gone, DeliveryState.PLANNED, None, NOW_US)
    for device, most in product(DEVICES, (50, 302)):
        found = await store.push_contexts.read("alice", device, "apns", "all", NOW_US, most_waiting=most)
        expected = await one_by_one(store, "alice", device, "apns", "all", NOW_US)
        if expected is not None and most == 50:
            unread = msgspec.structs.replace(expected.withdrawals, waiting=(), is_complete=False)
            expected = msgspec.structs.replace(expected, withdrawals=unread)
        assert found == expected, (device, most)


async def test_push_context_excludes_unseen_items(store: Store) -> None:
    await fill_state(store)

    seen = {
        (device, item)
        for device, item in product(DEVICES[:-1], ITEMS)
        if (scene := await store.push_contexts.read("alice", device, "apns", item, NOW_US)) is not None
        if scene.item is not None
    }

    everybody = set(product(DEVICES[:-1], ("all", "soon")))
    assert seen == everybody | {
        *(("phone", "once"), ("desk", "once"), ("desk", "twice")),
        *(("phone", "of-phone"), ("desk", "of-desk")),
    }
    scene = await store.push_contexts.read("alice", "desk", "apns", "all", NOW_US)
    assert scene is not None and scene.counts == {"a.b": 1, "a": 3, "news": 1}


async def test_push_context_commits_due_work_first(store: Store) -> None:
    await fill_state(store)
    before = await store.push_contexts.read("alice", "phone", "apns", "soon", NOW_US)
    later_us = NOW_US + 60 * SECOND_US

    after = await store.push_contexts.read("alice", "phone", "apns", "soon", later_us)

    assert before is not None and after is not None
    assert before.item is not None and after.item is None
    assert after.cursor.seq == before.cursor.seq + 1
    await reset_all_users(store, 30)
    flushed = await store.push_contexts.read("alice", "phone", "apns", "soon", later_us)
    assert flushed is not None and flushed.cursor.tag[:6] != after.cursor.tag[:6]


async def test_push_context_of_a_device_alone_is_empty(store: Store) -> None:
    assert await store.push_contexts.read("alice", "phone", "apns", "a", NOW_US) is None
    await store.devices.put_device("alice", "phone", Registration("ios", PUSH), NOW_US)

    scene = await store.push_contexts.read("alice", "phone", "apns", "a", NOW_US)

    assert scene is not None
    assert (scene.item, scene.counts, scene.cursor.seq) == (None, {}, 0)
    assert scene == await one_by_one(store, "alice", "phone", "apns", "a", NOW_US)


async def test_push_context_counts_all_live_items(make_store: MakeStore) -> None:
    store = await make_store(replace(LIMITS, live=2_400))
    await store.devices.put_device("alice", "phone", Registration("ios", PUSH), NOW_US)
    for n in range(0, 2_400, 100):
        await store.users.commit("alice", creating(*(f"i{n + each}" for each in range(100)), category=f"c{n % 300}"))

    scene = await store.push_contexts.read("alice", "phone", "apns", "i2031", NOW_US)

    assert scene == await one_by_one(store, "alice", "phone", "apns", "i2031", NOW_US)
    assert scene is not None and scene.item is not None
    assert scene.counts == {"c0": 800, "c100": 800, "c200": 800}
