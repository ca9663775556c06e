"""The budgets of a user in the delivery ledger, in every store."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gregor.core.notify.intents import Intent, IntentKind
from gregor.core.notify.ledger import (
    FOLD_GRACE_US,
    MAX_FOLDED,
    Claim,
    DeliveryBudget,
    DeliveryState,
    NotClaimed,
    OverBudget,
    mail_budget,
    push_budget,
)
from gregor.store.contract.store import Store
from tests.support.builders import HOUR_US, NOW_US, SECOND_US, creating

PHONE = Intent("alice", "a", IntentKind.ITEM, "apns", "phone", seq=7, at_us=NOW_US)
TWO = push_budget(2)
STEP_US = HOUR_US // 2


@pytest.fixture(autouse=True)
async def alice(store: Store) -> None:
    """Return a store in which alice exists, with planned pushes of many items."""
    await store.users.commit("alice", creating("a"))


async def claim(
    store: Store,
    item: str,
    budget: DeliveryBudget = TWO,
    now_us: int = NOW_US,
    *,
    device: str = "phone",
    channel: str = "apns",
) -> Claim | OverBudget | NotClaimed:
    """Plan a push of an item, and claim it with the budget."""
    intent = replace(PHONE, item=item, device=device, channel=channel)
    await store.ledger.plan([intent], DeliveryState.PLANNED, None, now_us)
    claimed = await store.ledger.claim(intent, "", now_us, now_us + SECOND_US, budget=budget)
    assert isinstance(claimed, Claim | OverBudget | NotClaimed)
    return claimed


async def test_claims_above_the_budget_are_refused(store: Store) -> None:
    assert isinstance(await claim(store, "a"), Claim)
    assert isinstance(await claim(store, "b", device="tablet"), Claim)

    assert await claim(store, "c") == OverBudget(NOW_US + STEP_US)
    assert await claim(store, "d") == OverBudget(NOW_US + STEP_US + FOLD_GRACE_US)
    assert await claim(store, "e", device="tablet") == OverBudget(NOW_US + STEP_US)
    states = [entry.state for item in "cd" for entry in await store.ledger.of_item("alice", item)]
    assert states == [DeliveryState.PLANNED] * 2


async def test_next_claim_gets_the_deliveries_above_the_budget(store: Store) -> None:
    for item in "abdce":
        await claim(store, item)
    await claim(store, "t", device="tablet")

    taken = await claim(store, "c", now_us=NOW_US + STEP_US)
    assert isinstance(taken, Claim)
    assert [each.item for each in taken.folded] == ["d", "e"]
    assert {(each.device, each.channel, each.kind, each.uid) for each in taken.folded} == {
        ("phone", "apns", IntentKind.ITEM, "alice")
    }
    after = await claim(store, "f", now_us=NOW_US + 2 * STEP_US)
    assert isinstance(after, Claim) and after.folded == ()


async def test_one_message_folds_a_bounded_number(store: Store) -> None:
    for n in range(MAX_FOLDED + 4):
        await claim(store, f"i{n:04}")

    taken = await claim(store, "last", now_us=NOW_US + STEP_US)
    assert isinstance(taken, Claim)
    assert [each.item for each in taken.folded] == [f"i{n:04}" for n in range(2, MAX_FOLDED + 2)]
    rest = await claim(store, "later", now_us=NOW_US + 2 * STEP_US)
    assert isinstance(rest, Claim)
    assert [each.item for each in rest.folded] == [f"i{n:04}" for n in range(MAX_FOLDED + 2, MAX_FOLDED + 4)]


async def test_budget_given_back_can_be_used(store: Store) -> None:
    one = push_budget(1)
    assert isinstance(await claim(store, "a", one), Claim)
    await store.ledger.give_back("alice", one, NOW_US)

    assert isinstance(await claim(store, "b", one), Claim)
    assert isinstance(await claim(store, "c", one), OverBudget)


async def test_busy_and_finished_deliveries_cost_no_budget(store: Store) -> None:
    one = push_budget(1)
    await store.ledger.plan([PHONE], DeliveryState.PLANNED, None, NOW_US)
    await store.ledger.claim(PHONE, "", NOW_US, NOW_US + SECOND_US)

    assert await claim(store, "a", one) is NotClaimed.TAKEN
    assert isinstance(await claim(store, "b", one), Claim)


async def test_budgets_of_pushes_and_mails_are_separate(store: Store) -> None:
    mails = mail_budget(1)
    for item in "ab":
        await claim(store, item)
    assert isinstance(await claim(store, "c", mails, device="", channel="email"), Claim)

    assert await claim(store, "d", mails, device="", channel="email") == OverBudget(NOW_US + HOUR_US)
    assert await claim(store, "e", mails, device="", channel="email") == OverBudget(NOW_US + HOUR_US)
    taken = await claim(store, "f", mails, NOW_US + HOUR_US, device="", channel="email")
    assert isinstance(taken, Claim) and taken.folded == ()


async def test_deleted_user_has_a_new_budget(store: Store) -> None:
    for item in "abcd":
        await claim(store, item)
    await store.users.delete_user("alice", NOW_US)
    await store.users.commit("alice", creating("a"))

    taken = await claim(store, "z")
    assert isinstance(taken, Claim) and taken.folded == ()
