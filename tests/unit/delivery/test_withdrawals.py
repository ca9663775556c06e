"""Taking pushes back: with what a device is told of it, when, how often, and what the ledger says then."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from gregor.core.items.sync import View
from gregor.core.notify.intents import Intent, IntentKind
from gregor.core.notify.ledger import DeliveryState, PendingWithdrawals
from gregor.store.contract.devices import Registration
from gregor_delivery.attempt import attempt
from gregor_delivery.channels.contract import PushMessage
from gregor_delivery.channels.push_payload import apns_payload, fcm_parts, webpush_payload
from gregor_delivery.channels.verdict import Misconfigured, RecipientGone, Refused, Retry, Unknown, Verdict
from gregor_delivery.decide.withdrawals import ALONE_BYTES, BESIDE_BYTES, carried, naming, taken_back
from tests.support.builders import DAY_US, HOUR_US, NOW_US, SECOND_US
from tests.support.pushes import push, withdrawal
from tests.support.wait import wait_until
from tests.unit.delivery.house import House
from tests.unit.delivery.types_of_news import TOKEN


def withdrawing(intent: Intent, **changes: Any) -> Intent:
    """The withdrawal of what an intent told."""
    return replace(intent, **{"kind": IntentKind.WITHDRAW, **changes})


async def told(house: House, *ids: str, **fields: Any) -> list[Intent]:
    """Pushes that were sent, of items that are dismissed; returns their withdrawals, which are planned."""
    intents = [await house.create(item_id, **fields) for item_id in ids]
    for intent in intents:
        assert await attempt(house.trade, intent) is None
    await house.dismiss(*ids)
    house.provider.pushes.clear()
    found = [withdrawing(intent, at_us=house.clock.now_us()) for intent in intents]
    for intent in found:
        await house.store.ledger.plan([intent], DeliveryState.PLANNED, None, intent.at_us)
    return found


async def state(house: House, item_id: str, kind: IntentKind = IntentKind.ITEM) -> tuple[DeliveryState, str | None]:
    """Where the delivery of a kind stands, and why."""
    [found] = [each for each in await house.store.ledger.of_item("alice", item_id) if each.intent.kind is kind]
    return found.state, found.history.reason


async def test_a_withdrawal_shows_nothing_and_says_what_goes_and_what_is_left(house: House) -> None:
    await house.create("left")
    await house.create("quiet", category="mute")
    [lead] = await told(house, "a")

    assert await attempt(house.trade, lead) is None

    [silent] = house.provider.pushes
    assert (silent.kind, silent.title, silent.text, silent.sound, silent.badge) == ("background", "", "", None, 1)
    assert (silent.token, silent.topic, silent.sandbox) == ("t1", "com.example", True)
    assert silent.expires_us == NOW_US + DAY_US
    copy = await house.store.users.state("alice", View("phone"), NOW_US)
    assert silent.data == {
        "v": 1,
        "uid": "alice",
        "kind": "withdraw",
        "id": None,
        "category": None,
        "link": None,
        "badge": 1,
        "withdraw": ["a"],
        "cursor": silent.data["cursor"],
    }
    assert silent.data["cursor"].endswith(f"-{copy.seq}")
    assert await state(house, "a") == (DeliveryState.WITHDRAWN, None)
    assert await state(house, "a", IntentKind.WITHDRAW) == (DeliveryState.SENT, None)


async def test_all_that_waits_for_a_device_goes_in_one_push(house: House) -> None:
    first, second, third = await told(house, "a", "b", "c")

    for intent in (second, first, third):
        assert await attempt(house.trade, intent) is None

    [silent] = house.provider.pushes
    assert silent.data["withdraw"] == ["b", "a", "c"]
    assert [await state(house, each) for each in "abc"] == [(DeliveryState.WITHDRAWN, None)] * 3


async def test_the_next_push_that_shows_something_takes_the_withdrawals_along(house: House) -> None:
    first, second = await told(house, "a", "b")

    await attempt(house.trade, await house.create("news"))
    assert await attempt(house.trade, first) is None
    assert await attempt(house.trade, second) is None

    [alert] = house.provider.pushes
    assert (alert.kind, alert.data["id"], alert.data["withdraw"]) == ("alert", "news", ["a", "b"])
    assert await state(house, "a") == (DeliveryState.WITHDRAWN, None)
    assert (await house.store.ledger.withdrawals("alice", "phone", "apns")) == PendingWithdrawals()


async def test_what_could_not_be_told_along_is_tried_again(house: House) -> None:
    [lead] = await told(house, "a")
    house.provider.verdicts = [Retry(5.0, "503", "busy")]
    await attempt(house.trade, await house.create("news"))
    assert (await state(house, "a", IntentKind.WITHDRAW))[0] is DeliveryState.RETRY
    assert (await state(house, "a"))[0] is DeliveryState.SENT

    house.clock.advance(10)
    await attempt(house.trade, lead)

    assert await state(house, "a") == (DeliveryState.WITHDRAWN, None)
    assert [each.kind for each in house.provider.pushes] == ["alert", "background"]


async def test_a_device_is_woken_three_times_an_hour_and_then_waits(house: House) -> None:
    for n, item_id in enumerate("abc"):
        house.clock.advance(60)
        [lead] = await told(house, item_id)
        assert await attempt(house.trade, lead) is None, n
    [fourth, fifth] = await told(house, "d", "e")

    again_us = await attempt(house.trade, fourth)

    assert again_us == NOW_US + 60 * SECOND_US + HOUR_US
    assert await state(house, "d", IntentKind.WITHDRAW) == (DeliveryState.WAITING, "budget")
    assert house.provider.pushes == []
    house.clock.advance((again_us - house.clock.now_us()) / SECOND_US)
    assert await attempt(house.trade, fifth) is None
    assert await attempt(house.trade, fourth) is None
    assert [each.data["withdraw"] for each in house.provider.pushes] == [["e", "d"]]
    assert [await state(house, each) for each in "de"] == [(DeliveryState.WITHDRAWN, None)] * 2


async def test_what_waits_to_wake_a_device_goes_along_before_its_time(house: House) -> None:
    for item_id in "abc":
        [lead] = await told(house, item_id)
        await attempt(house.trade, lead)
    [fourth] = await told(house, "d")
    await attempt(house.trade, fourth)

    await attempt(house.trade, await house.create("news"))

    [alert] = house.provider.pushes
    assert alert.data["withdraw"] == ["d"]
    assert await state(house, "d") == (DeliveryState.WITHDRAWN, None)


async def test_going_along_wakes_nobody(house: House) -> None:
    for item_id in "abcdef":
        [_] = await told(house, item_id)
        await attempt(house.trade, await house.create(f"news-{item_id}"))
    [lead] = await told(house, "z")

    assert await attempt(house.trade, lead) is None
    assert [each.kind for each in house.provider.pushes] == ["background"]


@pytest.mark.parametrize(
    ("channel", "waits"),
    [("apns", True), ("fcm", False)],
)
async def test_systems_that_ration_nothing_are_told_at_once(house: House, channel: str, waits: bool) -> None:
    known = PendingWithdrawals((), (NOW_US, NOW_US - 1, NOW_US - 2))
    lead = Intent("alice", "a", IntentKind.WITHDRAW, channel, "phone", at_us=NOW_US)

    look = taken_back(withdrawal(), lead, known, NOW_US)

    assert (look.compose is None) is waits
    assert (look.until_us is not None) is waits


async def test_browsers_are_told_with_the_next_push_or_quietly_never(house: House) -> None:
    """They let nobody push without showing something."""
    lead = Intent("alice", "a", IntentKind.WITHDRAW, "webpush", "phone", at_us=NOW_US)
    known = PendingWithdrawals((lead,), ())

    early = taken_back(withdrawal(), lead, known, NOW_US)
    late = taken_back(withdrawal(), lead, known, NOW_US + DAY_US)

    assert (early.compose, early.skip_reasons, early.until_us) == (None, "budget", NOW_US + DAY_US)
    assert (late.compose, late.skip_reasons, late.until_us) == (None, "budget", None)
    assert carried(known, None) == (lead,)


async def test_a_withdrawal_that_came_too_late_ends_quietly(house: House) -> None:
    [lead] = await told(house, "a")
    house.clock.advance(DAY_US / SECOND_US)

    assert await attempt(house.trade, lead) is None

    assert await state(house, "a", IntentKind.WITHDRAW) == (DeliveryState.CANCELLED, "budget")
    assert await state(house, "a") == (DeliveryState.SENT, None)
    assert house.provider.pushes == []


@pytest.mark.parametrize("how", ["moved", "changed", "bare", "forgotten"])
async def test_nothing_goes_to_a_token_that_moved(house: House, how: str) -> None:
    [lead] = await told(house, "a")
    devices = house.store.devices
    if how == "moved":
        await devices.put_device("bob", "tablet", Registration("ios", TOKEN), NOW_US)
    elif how == "changed":
        await devices.put_device("alice", "phone", Registration(push={"provider": "fcm", "token": "t"}), NOW_US)
    elif how == "bare":
        await devices.put_device("alice", "phone", Registration(), NOW_US)
    else:
        await devices.forget_device("alice", "phone", NOW_US, b"abc")

    assert await attempt(house.trade, lead) is None

    reason = "device_gone" if how == "forgotten" else "token_moved"
    assert await state(house, "a", IntentKind.WITHDRAW) == (DeliveryState.CANCELLED, reason)
    assert house.provider.pushes == []


async def test_a_dead_token_is_forgotten_by_a_withdrawal_too(house: House) -> None:
    [lead] = await told(house, "a")
    house.provider.verdicts = [RecipientGone("410", "Unregistered")]

    assert await attempt(house.trade, lead) is None

    known = await house.store.devices.device("alice", "phone", NOW_US)
    assert known is not None and known[0].push is None
    assert (await state(house, "a", IntentKind.WITHDRAW))[0] is DeliveryState.DEAD


async def test_one_withdrawal_at_a_time_is_on_its_way_to_a_device(house: House) -> None:
    [first] = await told(house, "a")
    house.provider.hold = asyncio.Event()
    sending = asyncio.create_task(attempt(house.trade, first))
    await wait_until(lambda: house.provider.pushes, "the first is on its way")
    second = withdrawing(first, item="b")
    await house.store.ledger.plan([second], DeliveryState.PLANNED, None, NOW_US)

    assert await attempt(house.trade, second) is not None
    assert len(house.provider.pushes) == 1
    house.provider.hold.set()
    await sending
    assert await attempt(house.trade, second) is None
    assert [each.data["withdraw"] for each in house.provider.pushes] == [["a"], ["b"]]


async def test_a_withdrawal_is_never_sent_twice_but_by_who_died_over_it(house: House) -> None:
    [lead] = await told(house, "a")
    house.provider.hold = asyncio.Event()
    sending = asyncio.create_task(attempt(house.trade, lead))
    await wait_until(lambda: house.provider.pushes, "it is on its way")
    sending.cancel()  # its process is killed
    await asyncio.gather(sending, return_exceptions=True)
    house.provider.hold = None
    assert await attempt(house.trade, lead) is not None
    assert len(house.provider.pushes) == 1

    house.clock.advance(house.trade.lease_s)
    assert await attempt(house.trade, lead) is None
    assert await attempt(house.trade, lead) is None

    assert len(house.provider.pushes) == 2
    assert len({each.collapse_id for each in house.provider.pushes}) == 1
    assert await state(house, "a") == (DeliveryState.WITHDRAWN, None)


async def test_a_push_that_is_refused_leaves_what_it_took_along_to_go_by_itself(house: House) -> None:
    """It may have been refused for what it shows; where the token was meant, that is found out alone."""
    [lead] = await told(house, "a")
    house.provider.verdicts = [Refused("400", "PayloadTooLarge")]

    await attempt(house.trade, await house.create("news"))
    assert (await state(house, "a", IntentKind.WITHDRAW))[0] is DeliveryState.RETRY
    assert await attempt(house.trade, lead) is None

    assert await state(house, "a") == (DeliveryState.WITHDRAWN, None)


async def beyond_the_budget(house: House) -> tuple[Intent, int]:
    """A withdrawal, of the item `d`, that has to wait since three of the hour were sent; and until when (µs)."""
    for item_id in "abc":
        [lead] = await told(house, item_id)
        await attempt(house.trade, lead)
    [fourth] = await told(house, "d")
    until_us = await attempt(house.trade, fourth)
    assert until_us is not None
    return fourth, until_us


@pytest.mark.parametrize(
    "verdict",
    [Refused("400", "PayloadTooLarge"), Retry(5.0, "503", "busy"), Unknown("no answer"), Misconfigured("403", "key")],
    ids=lambda verdict: verdict.name,
)
async def test_what_went_along_before_its_time_waits_on_where_that_told_nothing(house: House, verdict: Verdict) -> None:
    """Nobody looks at it before its time but the next push: the ledger says so."""
    fourth, until_us = await beyond_the_budget(house)
    house.provider.verdicts = [verdict]
    house.clock.advance(60)

    await attempt(house.trade, await house.create("news"))

    [entry] = [each for each in await house.store.ledger.of_item("alice", "d") if each.intent.key == fourth.key]
    assert (entry.state, entry.history.reason, entry.history.next_us) == (DeliveryState.WAITING, "budget", until_us)
    assert await attempt(house.trade, fourth) == until_us
    await attempt(house.trade, await house.create("more"))
    assert await state(house, "d") == (DeliveryState.WITHDRAWN, None)
    assert [each.data["withdraw"] for each in house.provider.pushes] == [["d"], ["d"]]


async def test_what_has_waited_until_its_time_is_tried_again_as_anything_is(house: House) -> None:
    fourth, until_us = await beyond_the_budget(house)
    house.clock.advance((until_us - house.clock.now_us()) / SECOND_US)
    house.provider.verdicts = [Retry(5.0, "503", "busy")]

    again_us = await attempt(house.trade, fourth)

    assert again_us is not None and again_us >= until_us + 5 * SECOND_US
    assert await state(house, "d", IntentKind.WITHDRAW) == (DeliveryState.RETRY, None)


async def test_a_withdrawal_that_is_refused_by_itself_is_dead_with_all_that_it_named(house: House) -> None:
    first, _ = await told(house, "a", "b")
    house.provider.verdicts = [Refused("400", "BadDeviceToken")]

    assert await attempt(house.trade, first) is None

    assert [(await state(house, each, IntentKind.WITHDRAW))[0] for each in "ab"] == [DeliveryState.DEAD] * 2
    assert (await state(house, "a"))[0] is DeliveryState.SENT


async def test_a_withdrawal_that_may_not_have_come_is_tried_until_it_did(house: House) -> None:
    """It shows nothing, so it may come twice; what it takes back must not stay."""
    [lead] = await told(house, "a")
    house.provider.verdicts = [Unknown("no answer")] * 4

    again_us = await attempt(house.trade, lead)
    while again_us is not None:
        house.clock.advance((again_us - house.clock.now_us()) / SECOND_US)
        again_us = await attempt(house.trade, lead)

    assert len(house.provider.pushes) == 5
    assert await state(house, "a") == (DeliveryState.WITHDRAWN, None)


def test_no_id_that_a_push_names_is_cut_off_it() -> None:
    long = "i" * 128
    many = tuple(
        Intent("u" * 128, f"{n:03}{long[3:]}", IntentKind.WITHDRAW, "apns", "d" * 128, at_us=NOW_US) for n in range(99)
    )
    link = "https://example.com/" + "é" * 100
    beside = carried(PendingWithdrawals(many), link)
    alone = taken_back(withdrawal(), many[5], PendingWithdrawals(many), NOW_US)
    assert alone.compose is not None
    data = {
        "v": 1,
        "uid": "u" * 128,
        "kind": "item",
        "id": long,
        "category": "c" * 128,
        "link": link,
        "cursor": "0" * 40,
    }
    alert = naming(push(title="t" * 900, text="x" * 9_000, data=data), beside)
    silent = alone.compose(alone.also)
    assert isinstance(silent, PushMessage)

    for made, count in ((alert, len(beside)), (silent, 1 + len(alone.also))):
        named = made.data["withdraw"]
        assert len(named) == count > 3
        for wire in (apns_payload(made), webpush_payload(made), fcm_parts(made).data["gregor"].encode()):
            assert all(each.encode() in wire for each in named)
            assert len(wire) <= 4_096
    assert sum(len(each.item) + 3 for each in beside) + len(link.encode()) <= BESIDE_BYTES
    assert sum(len(each) + 3 for each in silent.data["withdraw"]) <= ALONE_BYTES
    assert carried(PendingWithdrawals(many), "l" * 2_000) == ()
