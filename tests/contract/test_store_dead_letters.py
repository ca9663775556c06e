"""Dead letters, in every store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from gregor.core.notify.intents import CHANNELS, EMAIL, WEBHOOK, Intent, IntentKind
from gregor.core.notify.ledger import (
    Claim,
    DeliveryAttempt,
    DeliveryHistory,
    DeliveryRecord,
    DeliveryReplay,
    DeliveryState,
    NotClaimed,
    delivery_key,
    delivery_path,
)
from gregor.store.contract.agenda import CompletedWork, WorkKind
from gregor.store.contract.dead_letters import DeadLetterPosition
from gregor.store.contract.store import Store
from tests.contract.conftest import MakeStore
from tests.support.agendas import entries
from tests.support.builders import DAY_US, LIMITS, NOW_US, SECOND_US, creating

PHONE = Intent("alice", "a", IntentKind.ITEM, "apns", "phone", seq=7, at_us=NOW_US)
EVENT = Intent("alice", "a", IntentKind.EVENT, WEBHOOK, "wh_a:b2c", at_us=NOW_US, event='{"type":"item.acked"}')
REFUSED = (DeliveryAttempt(NOW_US, "400", None, "BadDeviceToken"),)
NEVER_MIND = DeliveryHistory(NOW_US, 7, attempts=REFUSED)


@pytest.fixture(autouse=True)
async def users(store: Store) -> None:
    """Create the users of these intents."""
    for uid in ("alice", "bob", "carol"):
        await store.users.commit(uid, creating("a", "b"))


async def end(
    store: Store, intent: Intent, state: DeliveryState = DeliveryState.DEAD, at_us: int = NOW_US
) -> DeliveryRecord:
    """Plan and claim a delivery, and record its outcome at that time. Returns the claim."""
    await store.ledger.plan([intent], DeliveryState.PLANNED, None, NOW_US)
    claim = await store.ledger.claim(intent, "", at_us, at_us + SECOND_US)
    assert isinstance(claim, Claim), claim
    history = replace_story(claim.delivery.history, at_us)
    assert await store.ledger.record_outcome(claim.delivery, "", state, history)
    return claim.delivery


def replace_story(history: DeliveryHistory, at_us: int) -> DeliveryHistory:
    """Refused at that moment."""
    return DeliveryHistory(history.planned_us, history.seq, attempts=REFUSED, event=history.event, since_us=at_us)


async def listed(store: Store, channel: str | None = None, limit: int = 100, now_us: int = NOW_US) -> list[str]:
    """Return the paths of all dead letters, page by page."""
    found: list[str] = []
    before: DeadLetterPosition | None = None
    while True:
        page = await store.dead_letters.page(before, limit, channel, now_us)
        found += [delivery_path(each.intent) for each in page.letters]
        assert len(page.letters) <= limit
        if page.after is None:
            return found
        before = page.after


@pytest.mark.parametrize(
    "state", [state for state in DeliveryState if state not in (DeliveryState.CLAIMED, DeliveryState.DEAD)]
)
async def test_only_dead_deliveries_are_dead_letters(store: Store, state: DeliveryState) -> None:
    await end(store, PHONE, state)

    assert await listed(store) == []
    assert not await store.dead_letters.replay(PHONE, NOW_US)


async def test_dead_letter_has_its_full_history(store: Store) -> None:
    await end(store, PHONE)
    await end(store, EVENT, at_us=NOW_US + 1)

    page = await store.dead_letters.page(None, 9, None, NOW_US + 1)

    kept = {delivery_key(each.intent): each for each in await store.ledger.of_item("alice", "a")}
    assert page.letters == (kept[delivery_key(EVENT)], kept[delivery_key(PHONE)])
    assert [(each.state, each.n, each.history.attempts) for each in page.letters] == [
        (DeliveryState.DEAD, 1, REFUSED)
    ] * 2
    assert [each.history.last_us for each in page.letters] == [NOW_US + 1, NOW_US]
    assert page.letters[0].intent.event == EVENT.event


async def test_dead_letter_pages_are_exact(make_store: MakeStore) -> None:
    """Many of one user, few of others, many at the same moment: one order, for any page size."""

    async def holds(given_up: Sequence[tuple[str, str, int, int]], limit: int, channel: str | None) -> None:
        store = await make_store(LIMITS)
        for uid in ("alice", "bob", "carol"):
            await store.users.commit(uid, creating("a"))
        for uid, by, n, second in given_up:
            intent = Intent(uid, "a", IntentKind.REMIND, by, "phone", n, at_us=NOW_US)
            await end(store, intent, at_us=NOW_US + second * SECOND_US)
        places = {
            (second, f"{uid}/a/remind/{n}/phone/{by}") for uid, by, n, second in given_up if channel in (None, by)
        }
        expected = [path for _, path in sorted(places, reverse=True)]
        assert await listed(store, channel, limit, NOW_US + DAY_US) == expected

    many = [("alice", "apns", n, n % 3) for n in range(25)]
    few = [(uid, by, 0, 1) for uid in ("bob", "carol") for by in ("apns", "fcm")]
    for limit, channel in ((4, None), (1, "fcm"), (9, "apns")):
        await holds([*many, *few], limit, channel)


async def test_many_dead_letters_of_one_moment(store: Store) -> None:
    """A store examines them in parts, and must neither skip nor repeat one between two parts."""
    for n in range(60):
        await end(store, replace(PHONE, kind=IntentKind.REMIND, n=n, channel="apns" if n in (0, 30, 59) else "fcm"))
    await end(store, replace(PHONE, uid="bob"))
    every = sorted([f"alice/a/remind/{n}/phone/fcm" for n in range(60) if n not in (0, 30, 59)], reverse=True)
    others = ["bob/a/item/0/phone/apns", *(f"alice/a/remind/{n}/phone/apns" for n in (59, 30, 0))]

    assert await listed(store, "apns", 1) == others
    assert await listed(store, "fcm", 25) == every
    assert await listed(store, "email", 1) == []
    assert await listed(store, limit=25) == sorted(every + others, reverse=True)
    assert await store.dead_letters.purge("email", None) == 0
    assert await store.dead_letters.purge("apns", NOW_US) == 0
    assert await store.dead_letters.purge("apns", NOW_US + 1) == 4
    assert await listed(store) == every


async def test_dead_letters_are_kept_for_the_retention(make_store: MakeStore) -> None:
    store = await make_store(replace(LIMITS, retention_us=2 * DAY_US))
    await store.users.commit("alice", creating("a", "b"))
    await end(store, PHONE)

    assert await listed(store, now_us=NOW_US + 2 * DAY_US - 1) == ["alice/a/item/0/phone/apns"]
    assert await listed(store, now_us=NOW_US + 2 * DAY_US) == []


async def test_replay_keeps_earlier_attempts(store: Store) -> None:
    later_us = NOW_US + 3 * DAY_US
    old = await end(store, PHONE)

    assert await store.dead_letters.replay(PHONE, later_us)

    assert await listed(store) == []
    [planned] = await store.ledger.of_item("alice", "a")
    assert (planned.state, planned.n, planned.tries, planned.intent) == (DeliveryState.PLANNED, 1, 1, PHONE)
    assert planned.history == DeliveryHistory(
        NOW_US, 7, attempts=REFUSED, replays=(DeliveryReplay(NOW_US, "400", later_us),)
    )
    assert planned.history.begun_us == later_us
    assert not await store.ledger.record_outcome(old, "", DeliveryState.SENT, NEVER_MIND), (
        "a worker that woke up after its lease"
    )
    claim = await store.ledger.claim(PHONE, "", later_us, later_us + SECOND_US)
    assert isinstance(claim, Claim) and (claim.before, claim.delivery.n) == (DeliveryState.PLANNED, 2)


async def test_replayed_event_is_decided_again(store: Store) -> None:
    """The event itself does not change; a replay only renews the decision whether it is still useful."""
    await end(store, EVENT)

    assert await store.dead_letters.replay(EVENT, NOW_US + DAY_US)

    [planned] = await store.ledger.of_item("alice", "a")
    assert planned.intent == replace(EVENT, at_us=NOW_US + DAY_US)


async def test_replayed_withdrawal_is_pending_again(store: Store) -> None:
    withdrawal = replace(PHONE, kind=IntentKind.WITHDRAW, seq=0)
    await end(store, withdrawal)
    assert (await store.ledger.withdrawals("alice", "phone", "apns")).waiting == ()

    assert await store.dead_letters.replay(withdrawal, NOW_US + SECOND_US)

    assert (await store.ledger.withdrawals("alice", "phone", "apns")).waiting == (withdrawal,)


async def test_replay_adds_an_agenda_entry(store: Store) -> None:
    """A scheduler that read the agenda before the replay, and completes after it, must not remove the entry."""
    await end(store, PHONE)
    replayed_us = NOW_US + DAY_US
    [work] = await store.agenda.due_work("alice", replayed_us, 9)

    assert await store.dead_letters.replay(PHONE, replayed_us)
    await store.agenda.complete("alice", replayed_us, [CompletedWork(work)])

    assert await entries(store) == [(WorkKind.OVERDUE, "a", DAY_US // SECOND_US)]


async def test_concurrent_replays_succeed_once(store: Store) -> None:
    await end(store, PHONE)

    done = await asyncio.gather(*(store.dead_letters.replay(PHONE, NOW_US + n) for n in range(5)))

    assert sorted(done) == [False] * 4 + [True]
    assert isinstance(await store.ledger.claim(PHONE, "", NOW_US + 9, NOW_US + SECOND_US), Claim)
    assert await store.ledger.claim(PHONE, "", NOW_US + 9, NOW_US + SECOND_US) is NotClaimed.TAKEN


async def test_replayed_delivery_can_die_again(store: Store) -> None:
    await end(store, PHONE)
    assert await store.dead_letters.replay(PHONE, NOW_US + SECOND_US)

    await end(store, PHONE, at_us=NOW_US + 2 * SECOND_US)

    assert await listed(store, now_us=NOW_US + DAY_US) == ["alice/a/item/0/phone/apns"]


async def test_dropped_letter_stays_dead_in_the_ledger(store: Store) -> None:
    other = replace(PHONE, device="tablet")
    await end(store, PHONE)
    await end(store, other)

    await store.dead_letters.drop(PHONE)
    await store.dead_letters.drop(PHONE)

    assert await listed(store) == ["alice/a/item/0/tablet/apns"]
    assert not await store.dead_letters.replay(PHONE, NOW_US)
    assert [each.state for each in await store.ledger.of_item("alice", "a")] == [DeliveryState.DEAD] * 2


async def test_purge_by_channel_and_time(store: Store) -> None:
    for number, (uid, channel) in enumerate((uid, each) for uid in ("alice", "bob") for each in (*CHANNELS, EMAIL)):
        await end(store, replace(PHONE, uid=uid, channel=channel, n=number), at_us=NOW_US + number)
    every = await listed(store, now_us=NOW_US + DAY_US)

    assert await store.dead_letters.purge("fcm", NOW_US + 1) == 0
    assert await store.dead_letters.purge("fcm", NOW_US + 2) == 1
    assert await store.dead_letters.purge("fcm", None) == 1
    assert await store.dead_letters.purge(None, NOW_US + 3) == 2
    assert await listed(store, now_us=NOW_US + DAY_US) == [
        path for path in every if not path.endswith("/fcm") and int(path.split("/")[3]) > 2
    ]
    assert await store.dead_letters.purge(None, None) == len(every) - 4
    assert await store.dead_letters.purge(None, None) == 0


async def test_dead_letters_are_deleted_with_the_user(store: Store) -> None:
    for uid in ("alice", "bob"):
        await end(store, replace(PHONE, uid=uid))
    for n in range(25):
        await end(store, replace(PHONE, kind=IntentKind.REMIND, n=n))

    await store.users.delete_user("alice", NOW_US)

    assert await listed(store) == ["bob/a/item/0/phone/apns"]
    assert not await store.dead_letters.replay(PHONE, NOW_US)
