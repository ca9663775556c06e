"""Events recorded for webhooks: hidings, acknowledgements and deliveries, in every store."""

from __future__ import annotations

from dataclasses import replace

from msgspec import structs

from gregor.core.ids import Prefixes
from gregor.core.items.sync import Removal, View
from gregor.core.messages.model import RemovalReason, Sender
from gregor.core.notify.acknowledged_views import shows_category
from gregor.core.notify.intents import Intent, IntentKind
from gregor.core.notify.ledger import Claim, DeliveryAttempt, DeliveryHistory, DeliveryState, delivery_key
from gregor.core.notify.timeline import (
    ACKNOWLEDGED_ITEMS,
    ACKNOWLEDGEMENT_COST,
    MAX_DUE_BEFORE_ACKNOWLEDGEMENT,
)
from gregor.store.contract.agenda import CompletedWork, WorkKind
from gregor.store.contract.store import Store
from tests.support.agendas import ALICE, at, entries, work_of
from tests.support.builders import SEED, creating, dismissing, interval, raise_seq, sweeping

PHONE, TABLET = Sender("phone"), Sender("tablet")


async def test_hidings_are_recorded_for_each_device(store: Store) -> None:
    await store.users.commit("alice", creating("a", "b", for_device="*"))
    store.recorded_events.removals = True

    await store.users.commit("alice", dismissing("a", now_us=at(1), sender=PHONE))
    await store.users.commit("alice", structs.replace(sweeping(interval("news"), now_us=at(2)), sender=TABLET))

    hidden = {
        (work.name, work.gone)
        for work in await store.agenda.due_work("alice", at(3), 9)
        if work.kind is WorkKind.HIDDEN and work.item is not None and work.seq == (work.gone.seq if work.gone else 0)
    }
    assert hidden == {
        ("a", Removal(at(1), RemovalReason.DISMISSED, "phone", 2)),
        ("a", Removal(at(2), RemovalReason.INTERVAL, "tablet", 3)),
        ("b", Removal(at(2), RemovalReason.INTERVAL, "tablet", 3)),
    }
    first_us = (await store.agenda.next_due_times())[ALICE]
    assert first_us is not None and first_us <= at(1)


async def test_hiding_is_kept_after_the_removal(store: Store) -> None:
    await store.users.commit("alice", creating("a", for_device="*"))
    store.recorded_events.removals = True
    await store.users.commit("alice", dismissing("a", now_us=at(1), sender=PHONE))
    await store.users.commit("alice", dismissing("a", now_us=at(2)))

    hidden, left = await work_of(store, WorkKind.HIDDEN), await work_of(store, WorkKind.LEFT)

    assert hidden.item == left.item
    assert hidden.item is not None and (hidden.item.seq, hidden.item.for_device) == (1, "*")
    assert (hidden.gone, left.gone) == (
        Removal(at(1), RemovalReason.DISMISSED, "phone", 2),
        Removal(at(2), RemovalReason.DISMISSED, None, 3),
    )


async def test_hiding_of_a_removed_device_has_no_item(store: Store) -> None:
    await store.devices.ensure_device("alice", "phone", at(0))
    await store.users.commit("alice", creating("a", for_device="*"))
    store.recorded_events.removals = True
    await store.users.commit("alice", dismissing("a", now_us=at(1), sender=PHONE))

    await store.devices.forget_device("alice", "phone", at(2), SEED)

    hidden = await work_of(store, WorkKind.HIDDEN)
    assert (hidden.name, hidden.item, hidden.gone, hidden.seq) == ("a", None, None, 0)


async def test_hidings_are_not_recorded_without_webhooks(store: Store) -> None:
    await store.users.commit("alice", creating("a", for_device="*"))

    await store.users.commit("alice", dismissing("a", now_us=at(1), sender=PHONE))
    await store.devices.acknowledge("alice", View("phone"), 1, at(1))

    assert await entries(store) == []


async def test_acknowledgement_records_the_shown_range(store: Store) -> None:
    view = View("phone", ("mail", "news"))
    await raise_seq(store, 9)
    await store.devices.acknowledge("alice", view, 3, at(0))
    store.recorded_events.acknowledgements = True

    for seq, seconds in ((5, 1), (4, 2), (5, 3), (9, 4)):
        await store.devices.acknowledge("alice", view, seq, at(seconds))
    await store.devices.acknowledge("alice", View("tablet"), 2, at(5))

    shown = [
        (work.at_us, work.name, work.view, work.n, work.seq)
        for work in await store.agenda.due_work("alice", at(6), 9)
        if work.kind is WorkKind.ACKED
    ]
    assert shown == [
        (at(1), "phone", view, 3, 5),
        (at(4), "phone", view, 5, 9),
        (at(5), "tablet", View("tablet"), 0, 2),
    ]


async def acked_entries(store: Store) -> list[tuple[str, Prefixes, int, int]]:
    """Return device, filter and range of each recorded acknowledgement, and remove them from the agenda."""
    works = [work for work in await store.agenda.due_work("alice", at(99), 99) if work.kind is WorkKind.ACKED]
    await store.agenda.complete("alice", at(99), [CompletedWork(work) for work in works])
    return sorted((w.name, w.view.category_filter if w.view else None, w.n, w.seq) for w in works)


async def test_new_view_records_only_categories_that_the_device_has_not_acknowledged(store: Store) -> None:
    await raise_seq(store, 10)
    store.recorded_events.acknowledgements = True
    phone, tablet = "phone", "tablet"
    steps: list[tuple[str, Prefixes, int, list[tuple[str, Prefixes, int, int]]]] = [
        ("watch", None, 0, []),
        ("watch", (), 0, []),
        ("watch", ("user",), 0, []),
        (phone, ("p1", "user"), 5, [(phone, ("p1", "user"), 0, 5)]),
        (phone, ("p2", "user"), 5, [(phone, ("p2",), 0, 5)]),
        (phone, ("user.joined", "user.left"), 5, []),
        (phone, ("users",), 5, [(phone, ("users",), 0, 5)]),
        (phone, ("p2", "user"), 7, [(phone, ("p2", "user"), 5, 7)]),
        (phone, ("p1", "p2.a"), 9, [(phone, ("p1", "p2.a"), 5, 9)]),
        (tablet, ("p2",), 7, [(tablet, ("p2",), 0, 7)]),
        (phone, None, 9, [(phone, None, 0, 9)]),
        (phone, ("zz",), 9, []),
        (phone, (), 9, [(phone, (), 0, 9)]),
        (phone, ("zz",), 10, [(phone, ("zz",), 9, 10)]),
    ]
    for device, prefixes, seq, expected in steps:
        await store.devices.acknowledge("alice", View(device, prefixes), seq, at(1))
        assert await acked_entries(store) == expected, (device, prefixes, seq)


async def test_long_filters_record_only_new_categories(store: Store) -> None:
    """Long filters are stored as hashes of their prefixes."""
    store.recorded_events.acknowledgements = True
    await raise_seq(store, 5)
    names = [f"{n:02}{'x' * 100}" for n in range(21)]
    first, second = View("phone", tuple(names[:20])), View("phone", tuple(names[1:]))
    await store.devices.acknowledge("alice", first, 5, at(1))
    assert len(await acked_entries(store)) == 1

    await store.devices.acknowledge("alice", second, 5, at(1))

    [(_, prefixes, since, until)] = await acked_entries(store)
    assert (len(prefixes or ()), since, until) == (1, 0, 5)
    assert [shows_category(prefixes, name) for name in names] == [False] * 20 + [True]


async def test_acknowledgement_entry_is_due_at_once(store: Store) -> None:
    await raise_seq(store, 2)
    store.recorded_events.acknowledgements = True
    await store.devices.acknowledge("alice", View("phone", ()), 2, at(1))

    assert await store.agenda.claim(ALICE, at(1), at(40), 5) == ["alice"]
    acked = await work_of(store, WorkKind.ACKED)
    await store.agenda.complete("alice", at(40), [CompletedWork(acked)])

    assert acked.view == View("phone", ())
    assert await entries(store) == []
    assert (await store.agenda.next_due_times())[ALICE] is None


PUSH = Intent("alice", "a", IntentKind.REMIND, "apns", "phone", n=1, seq=7, at_us=at(0))


async def _settle(store: Store, intent: Intent, state: DeliveryState, seconds: float) -> None:
    await store.users.commit("alice", creating("a"))
    await store.ledger.plan([intent], DeliveryState.PLANNED, None, at(0))
    claim = await store.ledger.claim(intent, "", at(seconds), at(seconds + 30))
    assert isinstance(claim, Claim)
    await store.ledger.record_outcome(
        claim.delivery, "", state, DeliveryHistory(at(0), 7, attempts=(DeliveryAttempt(at(seconds), "200"),))
    )


async def test_acknowledgements_are_ignored_while_much_work_is_due(store: Store) -> None:
    """A device must not add events faster than schedulers complete them. No item is lost: the next one covers all."""
    store.recorded_events.acknowledgements = store.recorded_events.removals = True
    for start in range(0, MAX_DUE_BEFORE_ACKNOWLEDGEMENT, 100):
        ids = [f"i{n}" for n in range(start, start + 100)]
        await store.users.commit("alice", creating(*ids))
        await store.users.commit("alice", dismissing(*ids))

    await store.devices.acknowledge("alice", View("phone"), 7, at(1))
    assert await store.devices.acknowledged("alice") == {}
    done = await store.agenda.due_work("alice", at(1), 10)
    await store.agenda.complete("alice", at(1), [CompletedWork(work) for work in done])
    await store.devices.acknowledge("alice", View("phone"), 9, at(2))

    assert await store.devices.acknowledged("alice") == {View("phone"): 9}


async def test_acknowledgements_of_too_many_items_are_ignored(store: Store) -> None:
    """Each view of a device may cover all live items. No item is lost: the next acknowledgement covers them."""
    store.recorded_events.acknowledgements = True
    for start in range(0, 300, 100):
        await store.users.commit("alice", creating(*(f"i{start + n}" for n in range(100))))
    cost, burst = 300 + ACKNOWLEDGEMENT_COST, ACKNOWLEDGED_ITEMS.burst
    views = [View(f"d{n % 9}", (f"p{n}",)) for n in range(burst // cost + 2)]

    for view in views[:-2]:
        await store.devices.acknowledge("alice", view, 3, at(1))
    recorded = await store.devices.acknowledged("alice")
    for view in views[-2:]:
        await store.devices.acknowledge("alice", view, 3, at(1))

    assert await store.devices.acknowledged("alice") == recorded
    await raise_seq(store, 9)
    await store.devices.acknowledge("alice", views[0], 9, at(1))
    assert (await store.devices.acknowledged("alice"))[views[0]] == 9, "without items it costs little"
    await store.devices.acknowledge("alice", views[-1], 3, at(1 + cost / ACKNOWLEDGED_ITEMS.rate))
    assert views[-1] in await store.devices.acknowledged("alice")


async def test_sent_and_dead_deliveries_are_recorded(store: Store) -> None:
    store.recorded_events.deliveries = True
    mail = replace(PUSH, kind=IntentKind.ITEM, n=0, channel="email", device="")

    await _settle(store, PUSH, DeliveryState.RETRY, 1)
    await _settle(store, PUSH, DeliveryState.SENT, 2)
    await _settle(store, mail, DeliveryState.DEAD, 3)
    await _settle(store, replace(PUSH, device="tablet"), DeliveryState.CANCELLED, 4)
    await _settle(store, replace(PUSH, kind=IntentKind.WITHDRAW), DeliveryState.SENT, 5)
    await _settle(
        store, replace(PUSH, kind=IntentKind.EVENT, channel="webhook", device="wh_a:x"), DeliveryState.SENT, 6
    )

    works = [work for work in await store.agenda.due_work("alice", at(9), 9) if work.kind is not WorkKind.OVERDUE]
    assert [(work.kind, work.name, work.delivery, work.at_us) for work in works] == [
        (WorkKind.SETTLED, "a", delivery_key(PUSH), at(2)),
        (WorkKind.SETTLED, "a", delivery_key(mail), at(3)),
    ]
    assert (await store.agenda.next_due_times())[ALICE] == at(2)


async def test_discarded_outcome_is_not_recorded(store: Store) -> None:
    store.recorded_events.deliveries = True
    await store.users.commit("alice", creating("a"))
    await store.ledger.plan([PUSH], DeliveryState.PLANNED, None, at(0))
    claim = await store.ledger.claim(PUSH, "", at(0), at(1))
    assert isinstance(claim, Claim)
    await store.ledger.claim(PUSH, "", at(2), at(30))

    assert not await store.ledger.record_outcome(claim.delivery, "", DeliveryState.SENT, claim.delivery.history)

    assert await store.agenda.due_work("alice", at(9), 9) == []


async def test_deliveries_are_not_recorded_without_webhooks(store: Store) -> None:
    await _settle(store, PUSH, DeliveryState.SENT, 1)

    assert await store.agenda.due_work("alice", at(9), 9) == []
