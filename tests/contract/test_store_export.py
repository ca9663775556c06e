"""Laws of `Users.stored`: every store yields all that it keeps of a user."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from gregor.core.messages.model import RemovalReason, Sender
from gregor.core.notify.intents import Intent, IntentKind
from gregor.core.notify.ledger import Claim, DeliveryHistory, DeliveryState
from gregor.store import exported
from gregor.store.contract.access import Ticket
from gregor.store.contract.devices import DeviceSession, Registration
from gregor.store.contract.store import Store
from gregor.store.exported import StoredEntry
from tests.support.builders import (
    NOW,
    NOW_US,
    SECOND_US,
    creating,
    dismissing,
    external,
    interval,
    message,
    planned,
    sweeping,
)

PUSH = Intent("alice", "a", IntentKind.ITEM, "apns", "phone", at_us=NOW_US)
PHONE = Sender("phone")
Entry = TypeVar("Entry", bound=StoredEntry)


async def stored(store: Store, kind: type[Entry], uid: str = "alice") -> list[Entry]:
    return [entry async for entry in store.users.stored(uid) if isinstance(entry, kind)]


async def test_unknown_user_has_no_entries(store: Store) -> None:
    await store.users.commit("bob", creating("a"))

    assert [entry async for entry in store.users.stored("alice")] == []


async def test_items_come_live_and_gone_with_their_hidings(store: Store) -> None:
    await store.users.commit("alice", creating("every", for_device="*", body={"n": 1}))
    await store.users.commit("alice", creating("a", "b"))
    await store.users.commit("alice", dismissing("every", "b", sender=PHONE, now_us=NOW_US + 1))

    items = {entry.id: entry for entry in await stored(store, exported.StoredItemEntry)}

    assert set(items) == {"every", "a", "b"}
    assert (items["a"].seq, items["a"].gone, items["a"].hidings) == (2, None, {})
    gone, hidden = items["b"].gone, items["every"].hidings["phone"]
    assert gone is not None and (gone.at_us, gone.reason, gone.device) == (NOW_US + 1, RemovalReason.DISMISSED, "phone")
    assert (hidden.at_us, hidden.seq, items["every"].gone) == (NOW_US + 1, 3, None)
    assert b'"n":1' in items["every"].json and not items["every"].is_trimmed


async def test_remembered_dismissals_come_with_their_senders(store: Store) -> None:
    await store.users.commit("alice", dismissing("unknown", sender=Sender("phone", ("news",))))
    await store.users.commit("alice", dismissing("unknown", now_us=NOW_US + 1))
    await store.users.commit("alice", sweeping(interval(prefix="shop", end=NOW_US / SECOND_US, skip=["y", "x"])))
    await store.users.commit("alice", sweeping(interval("news", begin=1, end=2), sender=PHONE))

    tombstones = {each.device: each for each in await stored(store, exported.StoredTombstone)}
    intervals = {each.category: each for each in await stored(store, exported.RememberedInterval)}

    assert tombstones == {
        "phone": exported.StoredTombstone("unknown", "phone", NOW_US, ("news",)),
        "": exported.StoredTombstone("unknown", "", NOW_US + 1, None),
    }
    shop, news = intervals["shop"], intervals["news"]
    assert (shop.is_prefix, shop.device, shop.end_us, shop.skip) == (True, "", NOW_US, ("x", "y"))
    assert (news.is_prefix, news.device, news.begin_us, news.end_us) == (False, "phone", SECOND_US, 2 * SECOND_US)


async def test_interval_is_absorbed_by_one_that_exempts_no_other_id(store: Store) -> None:
    wide = [interval("news", begin=NOW - 100, end=NOW + n, skip=["a", "b", f"x{n}"]) for n in range(3)]
    await store.users.commit("alice", sweeping(*wide))
    narrow = [
        interval("news", begin=NOW - 50 + 5 * n, end=NOW - 48 + 5 * n, skip=["a", "b", "c", "d", f"x{n}"])
        for n in (3, 2, 4, 1, 0)
    ]
    await store.users.commit("alice", sweeping(*narrow))

    skips = {each.skip for each in await stored(store, exported.RememberedInterval)}

    assert skips == {*(("a", "b", f"x{n}") for n in range(3)), *(("a", "b", "c", "d", f"x{n}") for n in (3, 4))}


async def test_external_messages_come_with_their_ids(store: Store) -> None:
    for n in range(90):
        await store.users.commit("alice", planned(external(n, message_id=f"m{n}"), now_us=NOW_US + n))

    messages = await stored(store, exported.ExternalEntry)
    ids = await stored(store, exported.RememberedMessageId)

    assert [int(each.external.body) for each in messages] == list(range(90))
    assert [each.at_us for each in messages] == [NOW_US + n for n in range(90)]
    assert {(each.device, each.system, each.id) for each in ids} == {("", "kbfs", f"m{n}") for n in range(90)}


async def test_large_user_is_read_page_by_page(store: Store) -> None:
    names = [f"n{n}" for n in range(3 * exported.PAGE + 50)]
    for start in range(0, len(names), 100):
        await store.users.commit("alice", creating(*names[start : start + 100], expires="+60"))

    items = await stored(store, exported.StoredItemEntry)
    timers = [each.name for each in await stored(store, exported.AgendaEntry) if each.name[0] == "x"]

    assert sorted(each.id for each in items) == sorted(names)
    assert {each.seq for each in items} == set(range(1, 8))
    assert sorted(timers) == sorted(f"x{name}" for name in names)


async def test_deliveries_tell_which_are_dead_letters(store: Store) -> None:
    await store.users.commit("alice", creating("a", "b"))
    listed, purged, planned_push = PUSH, replace(PUSH, device="tv"), replace(PUSH, item="b")
    await store.ledger.plan([listed, purged, planned_push], DeliveryState.PLANNED, None, NOW_US)
    for intent in (listed, purged):
        claim = await store.ledger.claim(intent, "", NOW_US, NOW_US + SECOND_US)
        assert isinstance(claim, Claim)
        history = DeliveryHistory(NOW_US, since_us=NOW_US + 5)
        await store.ledger.record_outcome(claim.delivery, "", DeliveryState.DEAD, history)
    await store.dead_letters.drop(purged)

    found = {
        (each.record.intent.item, each.record.intent.device): each for each in await stored(store, exported.LedgerEntry)
    }

    assert {name: each.record.state for name, each in found.items()} == {
        ("a", "phone"): DeliveryState.DEAD,
        ("a", "tv"): DeliveryState.DEAD,
        ("b", "phone"): DeliveryState.PLANNED,
    }
    assert [name for name, each in found.items() if each.dead_letter_us is not None] == [("a", "phone")]


async def test_sessions_revocations_and_tickets_come(store: Store) -> None:
    session = DeviceSession("s", "c", "gateway", NOW_US, category_filter=("news",))
    await store.devices.put_device("alice", "phone", Registration(), NOW_US)
    await store.devices.open_session("alice", "phone", session, NOW_US, SECOND_US)
    await store.devices.revoke("alice", "tv", NOW_US, NOW_US)
    await store.devices.revoke("alice", None, NOW_US - 1, NOW_US)
    for _ in range(2):
        await store.access.create_ticket(Ticket("alice", "phone", False, None, None), NOW_US, SECOND_US)

    assert await stored(store, exported.FirstSeen) == [exported.FirstSeen("phone", NOW_US)]
    assert await stored(store, exported.SessionEntry) == [exported.SessionEntry("phone", session)]
    assert {each.device: each.issued_before_us for each in await stored(store, exported.RevocationEntry)} == {
        "tv": NOW_US,
        None: NOW_US - 1,
    }
    assert await stored(store, exported.TicketCount) == [exported.TicketCount(2)]


async def test_removed_devices_and_delayed_work_come(store: Store) -> None:
    await store.users.commit("alice", planned(message({"a": {"category": "news", "for_device": "phone"}})))
    await store.devices.put_device("alice", "phone", Registration(), NOW_US)
    await store.devices.forget_device("alice", "phone", NOW_US, b"123")
    await store.agenda.delay("alice", "later", b"{}", NOW_US + SECOND_US)

    assert [each.device for each in await stored(store, exported.RemovedDevice)] == ["phone"]
    assert exported.AgendaEntry("dlater", NOW_US + SECOND_US) in await stored(store, exported.AgendaEntry)
