"""The data for an item's timeline: acknowledgements, reminders and deliveries with their times, in every store."""

from __future__ import annotations

from gregor.core.items.sync import View
from gregor.core.messages.model import Sender
from gregor.core.notify.intents import FRAME, Intent, IntentKind
from gregor.core.notify.ledger import Claim, DeliveryAttempt, DeliveryState
from gregor.core.notify.timeline import MAX_ACKNOWLEDGEMENTS, Acknowledgement, build_timeline
from gregor.store.contract.store import Store
from tests.support.agendas import at
from tests.support.builders import BACKEND, NOW_US, creating, dismissing, raise_seq

PHONE = Intent("alice", "a", IntentKind.ITEM, "apns", "phone", seq=1, at_us=at(10))
DESK = View("desk", ("mail", "news"))


async def test_acknowledgements_are_kept_with_times(store: Store) -> None:
    await raise_seq(store, 7)
    for view, seq, second in ((DESK, 3, 1), (View("phone"), 2, 2), (DESK, 3, 3), (DESK, 2, 4), (DESK, 7, 5)):
        await store.devices.acknowledge("alice", view, seq, at(second))

    assert await store.devices.acknowledgements("alice") == [
        Acknowledgement(DESK, 0, 3, at(1)),
        Acknowledgement(View("phone"), 0, 2, at(2)),
        Acknowledgement(DESK, 3, 7, at(5)),
    ]
    assert await store.devices.acknowledgements("bob") == []


async def test_newest_acknowledgements_are_kept(store: Store) -> None:
    await raise_seq(store, MAX_ACKNOWLEDGEMENTS + 2)
    for seq in range(1, MAX_ACKNOWLEDGEMENTS + 3):
        await store.devices.acknowledge("alice", DESK, seq, at(seq))

    kept = await store.devices.acknowledgements("alice")

    assert len(kept) == MAX_ACKNOWLEDGEMENTS
    assert (kept[0].since, kept[-1].until) == (2, MAX_ACKNOWLEDGEMENTS + 2)
    assert await store.devices.acknowledged("alice") == {DESK: MAX_ACKNOWLEDGEMENTS + 2}


async def test_timeline_from_stored_data(store: Store) -> None:
    await store.users.commit("alice", creating("a", now_us=at(0)))
    await store.devices.acknowledge("alice", DESK, 1, at(2))
    fired = Intent("alice", "a", IntentKind.REMIND, FRAME, "", 0, 2, at(5))
    await store.ledger.plan([fired], DeliveryState.SENT, None, at(5))
    await store.ledger.plan([PHONE], DeliveryState.PLANNED, None, at(10))
    claim = await store.ledger.claim(PHONE, "", at(11), at(20))
    assert isinstance(claim, Claim)
    waiting = claim.delivery.history.waiting("quiet_hours", at(11), at(30))
    await store.ledger.record_outcome(claim.delivery, "", DeliveryState.WAITING, waiting, counts=False)
    claim = await store.ledger.claim(PHONE, "", at(30), at(40))
    assert isinstance(claim, Claim)
    sent = claim.delivery.history.attempted(DeliveryAttempt(at(31), "200"))
    await store.ledger.record_outcome(claim.delivery, "", DeliveryState.SENT, sent)
    await store.users.commit("alice", dismissing("a", now_us=at(60), sender=Sender("desk")))

    entry = await store.users.item("alice", "a", BACKEND, at(61))
    told = await store.ledger.of_item("alice", "a")
    assert entry is not None
    events = build_timeline(entry, told, await store.devices.acknowledgements("alice"), BACKEND)

    assert [((event.at_us - NOW_US) // 1_000_000, event.name) for event in events] == [
        (0, "created"),
        (2, "acked"),
        (5, "reminded"),
        (10, "planned"),
        (11, "waiting"),
        (31, "sent"),
        (60, "dismissed"),
    ]
