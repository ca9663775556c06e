"""Withdrawals of pushes: payload, rate limits, companions and ledger states."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from gregor.core.items.sync import View
from gregor.core.notify.contact import parse_preferences
from gregor.core.notify.intents import Intent, IntentKind
from gregor.core.notify.ledger import DeliveryState, PendingWithdrawals
from gregor.store.contract.devices import PushRegistrar, Registration
from gregor.store.contract.push_context import NO_LIMIT
from gregor_delivery.attempt import attempt
from gregor_delivery.channels.contract import PushMessage
from gregor_delivery.channels.push_payload import apns_payload, fcm_content, webpush_payload
from gregor_delivery.channels.verdict import Misconfigured, RecipientGone, Refused, Retry, Unknown, Verdict
from gregor_delivery.decide.decision import Postpone, SendNow, Skip
from gregor_delivery.decide.push import MAX_WAITING
from gregor_delivery.decide.withdrawals import (
    SILENT_PUSH_ID_BYTES,
    VISIBLE_PUSH_ID_BYTES,
    carried_by_visible_push,
    decide_withdrawal,
    with_withdrawals,
)
from tests.support.builders import DAY_US, HOUR_US, NOW_US, SECOND_US, creating, dismissing
from tests.support.sample_pushes import push, withdrawal
from tests.support.wait import wait_until
from tests.unit.delivery.harness import DeliveryHarness
from tests.unit.delivery.sample_categories import TOKEN


def withdrawing(intent: Intent, **changes: Any) -> Intent:
    """Return the withdrawal of an intent's push."""
    return replace(intent, **{"kind": IntentKind.WITHDRAW, **changes})


async def planned_withdrawals(harness: DeliveryHarness, *ids: str, **fields: Any) -> list[Intent]:
    """Send pushes for items, dismiss the items, and return the planned withdrawals."""
    return await withdrawals_of(harness, *[await harness.create(item_id, **fields) for item_id in ids])


async def withdrawals_of(harness: DeliveryHarness, *intents: Intent) -> list[Intent]:
    """Send these pushes, dismiss their items, and return the planned withdrawals."""
    for intent in intents:
        assert await attempt(harness.context, intent) is None
    await harness.dismiss(*(intent.item for intent in intents))
    harness.provider.pushes.clear()
    found = [withdrawing(intent, at_us=harness.clock.now_us()) for intent in intents]
    for intent in found:
        await harness.store.ledger.plan([intent], DeliveryState.PLANNED, None, intent.at_us)
    return found


async def state(
    harness: DeliveryHarness, item_id: str, kind: IntentKind = IntentKind.ITEM
) -> tuple[DeliveryState, str | None]:
    """Return the state of the delivery of that kind, and the reason."""
    [found] = [each for each in await harness.store.ledger.of_item("alice", item_id) if each.intent.kind is kind]
    return found.state, found.history.reason


async def test_withdrawal_payload(harness: DeliveryHarness) -> None:
    await harness.create("left")
    await harness.create("quiet", category="mute")
    [lead] = await planned_withdrawals(harness, "a")

    assert await attempt(harness.context, lead) is None

    [silent] = harness.provider.pushes
    assert (silent.kind, silent.title, silent.text, silent.sound, silent.badge) == ("background", "", "", None, 1)
    assert (silent.token, silent.topic, silent.sandbox) == ("t1", "com.example", True)
    assert silent.expires_us == NOW_US + DAY_US
    copy = await harness.store.users.state("alice", View("phone"), NOW_US)
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
    assert await state(harness, "a") == (DeliveryState.WITHDRAWN, None)
    assert await state(harness, "a", IntentKind.WITHDRAW) == (DeliveryState.SENT, None)


async def test_withdrawals_share_one_silent_push(harness: DeliveryHarness) -> None:
    first, second, third = await planned_withdrawals(harness, "a", "b", "c")

    for intent in (second, first, third):
        assert await attempt(harness.context, intent) is None

    [silent] = harness.provider.pushes
    assert silent.data["withdraw"] == ["b", "a", "c"]
    assert [await state(harness, each) for each in "abc"] == [(DeliveryState.WITHDRAWN, None)] * 3


async def test_visible_push_carries_withdrawals(harness: DeliveryHarness) -> None:
    first, second = await planned_withdrawals(harness, "a", "b")

    await attempt(harness.context, await harness.create("news"))
    assert await attempt(harness.context, first) is None
    assert await attempt(harness.context, second) is None

    [alert] = harness.provider.pushes
    assert (alert.kind, alert.data["id"], alert.data["withdraw"]) == ("alert", "news", ["a", "b"])
    assert await state(harness, "a") == (DeliveryState.WITHDRAWN, None)
    assert (await harness.store.ledger.withdrawals("alice", "phone", "apns")) == PendingWithdrawals()


async def register_limited(harness: DeliveryHarness, *prefixes: str) -> None:
    """Register another push token of the phone, with a device token that is limited to these categories."""
    push = {**TOKEN, "token": "t2"}
    limited = Registration("ios", push, "it", registrar=PushRegistrar(prefixes, NOW_US))
    await harness.store.devices.put_device("alice", "phone", limited, NOW_US)


async def test_withdrawal_of_a_category_that_the_registration_excludes_is_skipped(harness: DeliveryHarness) -> None:
    intents = [await harness.create(name, category=category) for name, category in (("a", "news"), ("b", "alarm"))]
    outside, inside = await withdrawals_of(harness, *intents)
    await register_limited(harness, "alarm")

    assert await attempt(harness.context, inside) is None
    assert await attempt(harness.context, outside) is None

    assert [each.data["withdraw"] for each in harness.provider.pushes] == [["b"]]
    assert await state(harness, "a", IntentKind.WITHDRAW) == (DeliveryState.CANCELLED, "category_filter")


async def test_visible_push_carries_only_withdrawals_of_its_registration(harness: DeliveryHarness) -> None:
    intents = [await harness.create(name, category=category) for name, category in (("a", "news"), ("b", "alarm"))]
    await withdrawals_of(harness, *intents)
    await register_limited(harness, "alarm")
    await harness.create("c", category="news")

    await attempt(harness.context, await harness.create("d", category="alarm"))

    [alert] = harness.provider.pushes
    assert (alert.data["withdraw"], alert.badge) == (["b"], 1)


async def plan_gone(harness: DeliveryHarness, most: int, category: str = "") -> None:
    """Plan this number of withdrawals of items that were dismissed; without a category as an earlier release does."""
    for n in range(0, most, 100):
        ids = [f"{category}g{n + k:03}" for k in range(min(100, most - n))]
        await harness.store.users.commit("alice", creating(*ids, category=category or "alarm"))
        await harness.store.users.commit("alice", dismissing(*ids))
        first = Intent("alice", "", IntentKind.WITHDRAW, "apns", "phone", at_us=NOW_US, category=category)
        gone = [replace(first, item=each) for each in ids]
        await harness.store.ledger.plan(gone, DeliveryState.PLANNED, None, NOW_US)


def count_reads(harness: DeliveryHarness) -> tuple[list[str], list[int]]:
    """Return the items that are read one by one from now on, and the bound of waiting withdrawals in each context."""
    items, bounds = list[str](), list[int]()
    read_item, read_context = harness.store.users.item, harness.store.push_contexts.read

    async def item(uid: str, name: str, *args: Any) -> Any:
        items.append(name)
        return await read_item(uid, name, *args)

    async def context(*args: Any, most_waiting: int, **limits: Any) -> Any:
        bounds.append(most_waiting)
        return await read_context(*args, most_waiting=most_waiting, **limits)

    harness.store.users.item = item  # type: ignore[method-assign,assignment]
    harness.store.push_contexts.read = context  # type: ignore[method-assign,assignment]
    return items, bounds


async def test_push_reads_no_item_of_a_waiting_withdrawal(harness: DeliveryHarness) -> None:
    """The category is stored with the withdrawal. Before, 900 pushes with 900 withdrawals each made 810,000 reads."""
    await plan_gone(harness, 200, "news")
    await plan_gone(harness, 200, "alarm")
    await register_limited(harness, "alarm")
    intent = await harness.create("d", category="alarm")
    items, bounds = count_reads(harness)

    assert await attempt(harness.context, intent) is None

    [alert] = harness.provider.pushes
    room = VISIBLE_PUSH_ID_BYTES // len("alarmg000...")
    assert alert.data["withdraw"] == [f"alarmg{n:03}" for n in range(room)]
    assert (items, bounds) == ([], [MAX_WAITING, NO_LIMIT])


async def test_withdrawals_without_a_category_are_read_as_far_as_they_fit(harness: DeliveryHarness) -> None:
    """Earlier releases did not store the category."""
    await plan_gone(harness, 450)
    await register_limited(harness, "alarm")
    intent = await harness.create("d", category="alarm")
    items, _ = count_reads(harness)

    assert await attempt(harness.context, intent) is None

    [alert] = harness.provider.pushes
    assert alert.data["withdraw"] == items == [f"g{n:03}" for n in range(VISIBLE_PUSH_ID_BYTES // len("g000..."))]


async def test_push_that_is_not_sent_reads_no_waiting_withdrawal(harness: DeliveryHarness) -> None:
    await plan_gone(harness, 300)
    await register_limited(harness, "alarm")
    intent = await harness.create("d", category="alarm")
    await harness.store.contacts.put_preferences("alice", parse_preferences({"*": {"push": False}}))
    items, bounds = count_reads(harness)

    assert await attempt(harness.context, intent) is None

    assert await state(harness, "d") == (DeliveryState.CANCELLED, "preference")
    assert (items, bounds) == ([], [MAX_WAITING])


async def test_postponed_withdrawal_reads_no_other(harness: DeliveryHarness) -> None:
    for item_id in "abc":
        [lead] = await planned_withdrawals(harness, item_id, category="alarm")
        await attempt(harness.context, lead)
    await plan_gone(harness, 300, "alarm")
    await register_limited(harness, "alarm")
    items, bounds = count_reads(harness)

    waiting = Intent("alice", "alarmg007", IntentKind.WITHDRAW, "apns", "phone", at_us=NOW_US)
    assert await attempt(harness.context, waiting) is not None

    assert (items, bounds) == (["alarmg007"], [MAX_WAITING])


async def test_failed_carried_withdrawal_is_retried(harness: DeliveryHarness) -> None:
    [lead] = await planned_withdrawals(harness, "a")
    harness.provider.verdicts = [Retry(5.0, "503", "busy")]
    await attempt(harness.context, await harness.create("news"))
    assert (await state(harness, "a", IntentKind.WITHDRAW))[0] is DeliveryState.RETRY
    assert (await state(harness, "a"))[0] is DeliveryState.SENT

    harness.clock.advance(10)
    await attempt(harness.context, lead)

    assert await state(harness, "a") == (DeliveryState.WITHDRAWN, None)
    assert [each.kind for each in harness.provider.pushes] == ["alert", "background"]


async def test_silent_pushes_are_limited_per_hour(harness: DeliveryHarness) -> None:
    for n, item_id in enumerate("abc"):
        harness.clock.advance(60)
        [lead] = await planned_withdrawals(harness, item_id)
        assert await attempt(harness.context, lead) is None, n
    [fourth, fifth] = await planned_withdrawals(harness, "d", "e")

    again_us = await attempt(harness.context, fourth)

    assert again_us == NOW_US + 60 * SECOND_US + HOUR_US
    assert await state(harness, "d", IntentKind.WITHDRAW) == (DeliveryState.WAITING, "budget")
    assert harness.provider.pushes == []
    harness.clock.advance((again_us - harness.clock.now_us()) / SECOND_US)
    assert await attempt(harness.context, fifth) is None
    assert await attempt(harness.context, fourth) is None
    assert [each.data["withdraw"] for each in harness.provider.pushes] == [["e", "d"]]
    assert [await state(harness, each) for each in "de"] == [(DeliveryState.WITHDRAWN, None)] * 2


async def test_postponed_withdrawal_is_carried_early(harness: DeliveryHarness) -> None:
    for item_id in "abc":
        [lead] = await planned_withdrawals(harness, item_id)
        await attempt(harness.context, lead)
    [fourth] = await planned_withdrawals(harness, "d")
    await attempt(harness.context, fourth)

    await attempt(harness.context, await harness.create("news"))

    [alert] = harness.provider.pushes
    assert alert.data["withdraw"] == ["d"]
    assert await state(harness, "d") == (DeliveryState.WITHDRAWN, None)


async def test_carried_withdrawal_is_not_a_wakeup(harness: DeliveryHarness) -> None:
    for item_id in "abcdef":
        [_] = await planned_withdrawals(harness, item_id)
        await attempt(harness.context, await harness.create(f"news-{item_id}"))
    [lead] = await planned_withdrawals(harness, "z")

    assert await attempt(harness.context, lead) is None
    assert [each.kind for each in harness.provider.pushes] == ["background"]


@pytest.mark.parametrize(
    ("channel", "waits"),
    [("apns", True), ("fcm", False)],
)
async def test_only_apns_limits_silent_pushes(harness: DeliveryHarness, channel: str, waits: bool) -> None:
    known = PendingWithdrawals((), (NOW_US, NOW_US - 1, NOW_US - 2))
    lead = Intent("alice", "a", IntentKind.WITHDRAW, channel, "phone", at_us=NOW_US)

    decision = decide_withdrawal(withdrawal(), lead, known, NOW_US)

    assert isinstance(decision, Postpone if waits else SendNow)


async def test_browsers_get_no_silent_push(harness: DeliveryHarness) -> None:
    """Browsers require every push to show something."""
    lead = Intent("alice", "a", IntentKind.WITHDRAW, "webpush", "phone", at_us=NOW_US)
    known = PendingWithdrawals((lead,), ())

    early = decide_withdrawal(withdrawal(), lead, known, NOW_US)
    late = decide_withdrawal(withdrawal(), lead, known, NOW_US + DAY_US)

    assert early == Postpone("budget", NOW_US + DAY_US)
    assert late == Skip("budget")
    assert carried_by_visible_push(known, None) == (lead,)


async def test_late_withdrawal_is_cancelled(harness: DeliveryHarness) -> None:
    [lead] = await planned_withdrawals(harness, "a")
    harness.clock.advance(DAY_US / SECOND_US)

    assert await attempt(harness.context, lead) is None

    assert await state(harness, "a", IntentKind.WITHDRAW) == (DeliveryState.CANCELLED, "budget")
    assert await state(harness, "a") == (DeliveryState.SENT, None)
    assert harness.provider.pushes == []


@pytest.mark.parametrize("how", ["moved", "changed", "bare", "forgotten"])
async def test_moved_token_gets_no_withdrawal(harness: DeliveryHarness, how: str) -> None:
    [lead] = await planned_withdrawals(harness, "a")
    devices = harness.store.devices
    if how == "moved":
        await devices.put_device("bob", "tablet", Registration("ios", TOKEN), NOW_US)
    elif how == "changed":
        await devices.put_device("alice", "phone", Registration(push={"provider": "fcm", "token": "t"}), NOW_US)
    elif how == "bare":
        await devices.put_device("alice", "phone", Registration(), NOW_US)
    else:
        await devices.forget_device("alice", "phone", NOW_US, b"abc")

    assert await attempt(harness.context, lead) is None

    reason = "device_gone" if how == "forgotten" else "token_moved"
    assert await state(harness, "a", IntentKind.WITHDRAW) == (DeliveryState.CANCELLED, reason)
    assert harness.provider.pushes == []


async def test_withdrawal_deletes_a_dead_token(harness: DeliveryHarness) -> None:
    [lead] = await planned_withdrawals(harness, "a")
    harness.provider.verdicts = [RecipientGone("410", "Unregistered")]

    assert await attempt(harness.context, lead) is None

    known = await harness.store.devices.device("alice", "phone", NOW_US)
    assert known is not None and known[0].push is None
    assert (await state(harness, "a", IntentKind.WITHDRAW))[0] is DeliveryState.DEAD


async def test_one_withdrawal_at_a_time_per_device(harness: DeliveryHarness) -> None:
    [first] = await planned_withdrawals(harness, "a")
    harness.provider.hold = asyncio.Event()
    sending = asyncio.create_task(attempt(harness.context, first))
    await wait_until(lambda: harness.provider.pushes, "the first is on its way")
    second = withdrawing(first, item="b")
    await harness.store.ledger.plan([second], DeliveryState.PLANNED, None, NOW_US)

    assert await attempt(harness.context, second) is not None
    assert len(harness.provider.pushes) == 1
    harness.provider.hold.set()
    await sending
    assert await attempt(harness.context, second) is None
    assert [each.data["withdraw"] for each in harness.provider.pushes] == [["a"], ["b"]]


async def test_withdrawal_is_resent_only_after_a_crash(harness: DeliveryHarness) -> None:
    [lead] = await planned_withdrawals(harness, "a")
    harness.provider.hold = asyncio.Event()
    sending = asyncio.create_task(attempt(harness.context, lead))
    await wait_until(lambda: harness.provider.pushes, "it is on its way")
    sending.cancel()  # its process is killed
    await asyncio.gather(sending, return_exceptions=True)
    harness.provider.hold = None
    assert await attempt(harness.context, lead) is not None
    assert len(harness.provider.pushes) == 1

    harness.clock.advance(harness.context.lease_s)
    assert await attempt(harness.context, lead) is None
    assert await attempt(harness.context, lead) is None

    assert len(harness.provider.pushes) == 2
    assert len({each.collapse_id for each in harness.provider.pushes}) == 1
    assert await state(harness, "a") == (DeliveryState.WITHDRAWN, None)


async def test_refused_push_returns_its_withdrawals(harness: DeliveryHarness) -> None:
    """The push may be refused for its visible content; a bad token shows itself when the withdrawal is sent alone."""
    [lead] = await planned_withdrawals(harness, "a")
    harness.provider.verdicts = [Refused("400", "PayloadTooLarge")]

    await attempt(harness.context, await harness.create("news"))
    assert (await state(harness, "a", IntentKind.WITHDRAW))[0] is DeliveryState.RETRY
    assert await attempt(harness.context, lead) is None

    assert await state(harness, "a") == (DeliveryState.WITHDRAWN, None)


async def beyond_the_budget(harness: DeliveryHarness) -> tuple[Intent, int]:
    """Return a withdrawal of item `d` that is postponed by the hourly limit, and until when (µs)."""
    for item_id in "abc":
        [lead] = await planned_withdrawals(harness, item_id)
        await attempt(harness.context, lead)
    [fourth] = await planned_withdrawals(harness, "d")
    until_us = await attempt(harness.context, fourth)
    assert until_us is not None
    return fourth, until_us


@pytest.mark.parametrize(
    "verdict",
    [Refused("400", "PayloadTooLarge"), Retry(5.0, "503", "busy"), Unknown("no answer"), Misconfigured("403", "key")],
    ids=lambda verdict: verdict.name,
)
async def test_early_withdrawal_waits_on_after_a_failure(harness: DeliveryHarness, verdict: Verdict) -> None:
    """The ledger keeps its time: only another visible push may carry it earlier."""
    fourth, until_us = await beyond_the_budget(harness)
    harness.provider.verdicts = [verdict]
    harness.clock.advance(60)

    await attempt(harness.context, await harness.create("news"))

    [entry] = [each for each in await harness.store.ledger.of_item("alice", "d") if each.intent.key == fourth.key]
    assert (entry.state, entry.history.reason, entry.history.next_us) == (DeliveryState.WAITING, "budget", until_us)
    assert await attempt(harness.context, fourth) == until_us
    await attempt(harness.context, await harness.create("more"))
    assert await state(harness, "d") == (DeliveryState.WITHDRAWN, None)
    assert [each.data["withdraw"] for each in harness.provider.pushes] == [["d"], ["d"]]


async def test_due_withdrawal_is_retried(harness: DeliveryHarness) -> None:
    fourth, until_us = await beyond_the_budget(harness)
    harness.clock.advance((until_us - harness.clock.now_us()) / SECOND_US)
    harness.provider.verdicts = [Retry(5.0, "503", "busy")]

    again_us = await attempt(harness.context, fourth)

    assert again_us is not None and again_us >= until_us + 5 * SECOND_US
    assert await state(harness, "d", IntentKind.WITHDRAW) == (DeliveryState.RETRY, None)


async def test_refused_withdrawal_is_dead_with_companions(harness: DeliveryHarness) -> None:
    first, _ = await planned_withdrawals(harness, "a", "b")
    harness.provider.verdicts = [Refused("400", "BadDeviceToken")]

    assert await attempt(harness.context, first) is None

    assert [(await state(harness, each, IntentKind.WITHDRAW))[0] for each in "ab"] == [DeliveryState.DEAD] * 2
    assert (await state(harness, "a"))[0] is DeliveryState.SENT


async def test_unknown_withdrawal_is_retried(harness: DeliveryHarness) -> None:
    """A withdrawal shows nothing, so a second copy is harmless and a missing one is not."""
    [lead] = await planned_withdrawals(harness, "a")
    harness.provider.verdicts = [Unknown("no answer")] * 4

    again_us = await attempt(harness.context, lead)
    while again_us is not None:
        harness.clock.advance((again_us - harness.clock.now_us()) / SECOND_US)
        again_us = await attempt(harness.context, lead)

    assert len(harness.provider.pushes) == 5
    assert await state(harness, "a") == (DeliveryState.WITHDRAWN, None)


def test_withdrawn_ids_are_never_truncated() -> None:
    long = "i" * 128
    many = tuple(
        Intent("u" * 128, f"{n:03}{long[3:]}", IntentKind.WITHDRAW, "apns", "d" * 128, at_us=NOW_US) for n in range(99)
    )
    link = "https://example.com/" + "é" * 100
    beside = carried_by_visible_push(PendingWithdrawals(many), link)
    alone = decide_withdrawal(withdrawal(), many[5], PendingWithdrawals(many), NOW_US)
    assert isinstance(alone, SendNow)
    data = {
        "v": 1,
        "uid": "u" * 128,
        "kind": "item",
        "id": long,
        "category": "c" * 128,
        "link": link,
        "cursor": "0" * 40,
    }
    alert = with_withdrawals(push(title="t" * 900, text="x" * 9_000, data=data), beside)
    silent = alone.compose(alone.companions)
    assert isinstance(silent, PushMessage)

    for made, count in ((alert, len(beside)), (silent, 1 + len(alone.companions))):
        named = made.data["withdraw"]
        assert len(named) == count > 3
        for wire in (apns_payload(made), webpush_payload(made), fcm_content(made).data["gregor"].encode()):
            assert all(each.encode() in wire for each in named)
            assert len(wire) <= 4_096
    assert sum(len(each.item) + 3 for each in beside) + len(link.encode()) <= VISIBLE_PUSH_ID_BYTES
    assert sum(len(each) + 3 for each in silent.data["withdraw"]) <= SILENT_PUSH_ID_BYTES
    assert carried_by_visible_push(PendingWithdrawals(many), "l" * 2_000) == ()
