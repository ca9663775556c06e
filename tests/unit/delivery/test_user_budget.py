"""The budgets of a user: mails and pushes above them fold into the next one."""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from gregor.core.notify.contact import parse_preferences
from gregor.core.notify.ledger import FOLD_GRACE_US, MAIL_BUDGET, PUSH_BUDGET, DeliveryState, mail_budget, push_budget
from gregor.store.contract.devices import PushRegistrar, Registration
from gregor.store.contract.push_context import NO_LIMIT, PushContext
from gregor_delivery.attempt import FOLDED, attempt
from gregor_delivery.channels.contract import PushMessage
from gregor_delivery.channels.verdict import Misconfigured, RecipientGone, Refused, Retry, Sent, Unknown, Verdict
from gregor_delivery.decide.mail import MailDecider
from gregor_delivery.decide.push import BADGE_PACE, FULL_READS, FULL_READS_BURST, MAX_COUNTED, PushDecider
from gregor_delivery.throttle.over_budget import MAX_USERS, OverBudgetUsers
from tests.support.builders import NOW_US, SECOND_US, creating
from tests.unit.delivery import mail_harness
from tests.unit.delivery.harness import DeliveryHarness
from tests.unit.delivery.sample_categories import TOKEN

BUDGET = 3
STEP_US = 3_600 * SECOND_US // BUDGET


def limit(harness: DeliveryHarness, per_hour: int = BUDGET) -> None:
    """Give the user of the harness a budget of pushes."""
    decider = PushDecider(harness.store, harness.registry, None, push_budget(per_hour), harness.clock)
    harness.context = replace(harness.context, decider=decider)


async def send(harness: DeliveryHarness, *ids: str) -> list[int | None]:
    """Create items and attempt their pushes. Returns when to attempt each again."""
    return [await attempt(harness.context, await harness.create(each)) for each in ids]


async def again(harness: DeliveryHarness, *ids: str) -> None:
    """Attempt the pushes of these items again."""
    for each in ids:
        await attempt(harness.context, (await harness.entry(each)).intent)


async def outcomes(harness: DeliveryHarness, ids: Sequence[str]) -> list[tuple[DeliveryState, str | None]]:
    return [await harness.outcome(each) for each in ids]


def stall(harness: DeliveryHarness, during: Callable[[], Awaitable[None]]) -> None:
    """Let the worker stall once, after it has claimed a delivery that its push covers too."""
    claim, stalls = harness.store.ledger.claim, [during]

    async def stalling(*args: Any, is_early: bool = False, **options: Any) -> Any:
        claimed = await claim(*args, is_early=is_early, **options)
        if is_early and stalls:
            await stalls.pop()()
        return claimed

    harness.store.ledger.claim = stalling  # type: ignore[method-assign]


def shown(push: PushMessage) -> tuple[str, int | None]:
    return push.title, push.data.get("count")


# --- pushes


async def test_pushes_above_the_budget_fold_into_the_next_push(harness: DeliveryHarness) -> None:
    limit(harness)
    times = await send(harness, *"abcdefg")
    start_us = harness.clock.now_us()

    assert len(harness.provider.pushes) == BUDGET
    assert await outcomes(harness, "defg") == [(DeliveryState.WAITING, PUSH_BUDGET)] * 4
    # the first of them is decided when the budget refills, and covers the others
    assert times[BUDGET:] == [start_us + STEP_US, *[start_us + STEP_US + FOLD_GRACE_US] * 3]

    harness.clock.advance(STEP_US / SECOND_US)
    await again(harness, *"d")
    assert shown(harness.provider.pushes[-1]) == ("about d (+3)", 4)
    assert await outcomes(harness, "defg") == [(DeliveryState.SENT, None), *[(DeliveryState.SENT, FOLDED)] * 3]

    harness.clock.advance(FOLD_GRACE_US / SECOND_US)
    await again(harness, *"efg")
    assert len(harness.provider.pushes) == BUDGET + 1


async def test_folded_pushes_replace_each_other(harness: DeliveryHarness) -> None:
    limit(harness)
    await send(harness, *"abcde")
    harness.clock.advance(STEP_US / SECOND_US)
    await again(harness, "d")
    await send(harness, "f", "g")
    harness.clock.advance(STEP_US / SECOND_US)
    await again(harness, "f")

    first, second = harness.provider.pushes[-2:]
    assert [shown(first), shown(second)] == [("about d (+1)", 2), ("about f (+1)", 2)]
    assert first.collapse_id == second.collapse_id != harness.provider.pushes[0].collapse_id


async def test_dismissed_items_are_not_folded(harness: DeliveryHarness) -> None:
    limit(harness)
    await send(harness, *"abcdef")
    await harness.dismiss("e")
    harness.clock.advance(STEP_US / SECOND_US)
    await again(harness, "d")

    assert shown(harness.provider.pushes[-1]) == ("about d (+1)", 2)
    assert await harness.outcome("e") == (DeliveryState.WAITING, PUSH_BUDGET)
    harness.clock.advance(FOLD_GRACE_US / SECOND_US)
    await again(harness, "e")
    assert await harness.outcome("e") == (DeliveryState.CANCELLED, "dismissed")


async def test_nothing_is_sent_if_all_waiting_items_are_dismissed(harness: DeliveryHarness) -> None:
    limit(harness)
    await send(harness, *"abcdef")
    await harness.dismiss(*"def")
    harness.clock.advance(STEP_US / SECOND_US + 60)
    await again(harness, *"def")

    assert len(harness.provider.pushes) == BUDGET
    assert await outcomes(harness, "def") == [(DeliveryState.CANCELLED, "dismissed")] * 3


async def test_fold_covers_only_the_categories_of_the_registration(harness: DeliveryHarness) -> None:
    limit(harness)
    await send(harness, *"abcd")
    await attempt(harness.context, await harness.create("outside", category="alarm"))
    limited = Registration("ios", TOKEN, "it", registrar=PushRegistrar(("news",), NOW_US))
    await harness.store.devices.put_device("alice", "phone", limited, NOW_US)

    harness.clock.advance(STEP_US / SECOND_US)
    await again(harness, "d")

    assert shown(harness.provider.pushes[-1]) == ("about d", None)


async def test_provider_keeps_a_folded_push_until_its_last_item_expires(harness: DeliveryHarness) -> None:
    limit(harness, 1)
    await harness.create("a")
    await attempt(harness.context, (await harness.entry("a")).intent)
    for item_id, expires in (("b", "+2h"), ("c", "+3h")):
        await attempt(harness.context, await harness.create(item_id, expires=expires))
    harness.clock.advance(3_600)
    await again(harness, "b")

    created_us = harness.clock.now_us() - 3_600 * SECOND_US
    assert harness.provider.pushes[-1].expires_us == created_us + 3 * 3_600 * SECOND_US


@pytest.mark.parametrize(
    ("verdict", "lead", "others"),
    [
        (Refused("400", "bad"), DeliveryState.DEAD, DeliveryState.WAITING),
        (Retry(None, "503", "later"), DeliveryState.RETRY, DeliveryState.RETRY),
        (RecipientGone("410", "gone"), DeliveryState.DEAD, DeliveryState.DEAD),
    ],
)
async def test_folded_deliveries_survive_a_failed_push(
    harness: DeliveryHarness, verdict: Verdict, lead: DeliveryState, others: DeliveryState
) -> None:
    limit(harness)
    await send(harness, *"abcdef")
    harness.clock.advance(STEP_US / SECOND_US)
    harness.provider.verdicts.append(verdict)
    await again(harness, "d")

    assert [state for state, _ in await outcomes(harness, "def")] == [lead, others, others]


async def test_worker_that_stalls_before_a_folded_push_does_not_send_it(harness: DeliveryHarness) -> None:
    """Its claims ended, and another worker found the items dismissed: no withdrawal would follow the push."""
    limit(harness)
    await send(harness, *"abcde")
    harness.clock.advance(STEP_US / SECOND_US)

    async def others_go_on() -> None:
        harness.clock.advance(harness.context.claim_lease_s + 1)
        await harness.dismiss("d", "e")
        await again(harness, "d", "e")

    stall(harness, others_go_on)
    await again(harness, "d")

    assert len(harness.provider.pushes) == BUDGET
    assert await outcomes(harness, "de") == [(DeliveryState.CANCELLED, "dismissed")] * 2


async def test_folded_push_that_is_too_late_returns_its_deliveries(harness: DeliveryHarness) -> None:
    limit(harness)
    await send(harness, *"abcde")
    harness.clock.advance(STEP_US / SECOND_US)

    async def wait() -> None:
        harness.clock.advance(harness.context.deadline_s + 1)

    stall(harness, wait)
    await again(harness, "d")

    assert len(harness.provider.pushes) == BUDGET
    assert await outcomes(harness, "de") == [(DeliveryState.RETRY, None)] * 2
    assert [(await harness.entry(each)).n for each in "de"] == [0, 0]
    await again(harness, "d")
    assert shown(harness.provider.pushes[-1]) == ("about d", None), "its place in the budget was returned"
    harness.clock.advance(STEP_US / SECOND_US)
    await again(harness, "e")
    assert await outcomes(harness, "de") == [(DeliveryState.SENT, None)] * 2


@pytest.mark.parametrize(
    ("verdict", "is_spent"),
    [
        (Sent("200"), True),
        (Unknown("silent"), True),
        (Refused("400", "bad"), True),
        (Retry(None, None, "cannot connect"), False),
        (Misconfigured("403", "key"), False),
    ],
)
async def test_only_processed_messages_count(harness: DeliveryHarness, verdict: Verdict, is_spent: bool) -> None:
    limit(harness, 1)
    harness.provider.verdicts.append(verdict)
    await send(harness, "a", "b")

    assert (await harness.outcome("b")) == (
        (DeliveryState.WAITING, PUSH_BUDGET) if is_spent else (DeliveryState.SENT, None)
    )


async def test_deliveries_above_the_budget_read_no_state(harness: DeliveryHarness) -> None:
    limit(harness)
    await send(harness, *"abcd")
    reads, read = list[str](), harness.store.push_contexts.read

    async def count(uid: str, device: str, channel: str, item: str, now_us: int, **limits: Any) -> PushContext | None:
        reads.append(item)
        return await read(uid, device, channel, item, now_us, **limits)

    harness.store.push_contexts.read = count  # type: ignore[method-assign]
    await send(harness, *"efg")

    assert reads == []
    assert await outcomes(harness, "efg") == [(DeliveryState.WAITING, PUSH_BUDGET)] * 3


async def test_push_that_is_not_sent_counts_no_items(harness: DeliveryHarness) -> None:
    """Counting 2,000 items takes Redis 4 ms, and a device can have 1,000 deliveries at once that are all skipped."""
    most = MAX_COUNTED
    for at in range(0, most, 100):
        await harness.store.users.commit("alice", creating(*(f"i{at + n}" for n in range(100)), category="news"))
    sent, skipped = await harness.create("a"), await harness.create("b")
    limits, read = list[int](), harness.store.push_contexts.read

    async def noted(*args: Any, most_counted: int, **others: Any) -> PushContext | None:
        limits.append(most_counted)
        return await read(*args, most_counted=most_counted, **others)

    harness.store.push_contexts.read = noted  # type: ignore[assignment,method-assign]
    await attempt(harness.context, sent)
    assert (limits, harness.provider.pushes[0].badge) == ([most, NO_LIMIT], most + 2)

    limits.clear()
    await harness.store.contacts.put_preferences("alice", parse_preferences({"*": {"push": False}}))
    await attempt(harness.context, skipped)
    assert (limits, await harness.outcome("b")) == ([most], (DeliveryState.CANCELLED, "preference"))


@pytest.mark.parametrize("step_s", [-3_600, 3_600])
async def test_step_of_the_clock_does_not_change_the_pace_of_badges(harness: DeliveryHarness, step_s: int) -> None:
    """After a step of an hour back, the user's next push came an hour late."""
    await harness.store.users.commit("alice", creating(*(f"i{n}" for n in range(MAX_COUNTED)), category="news"))
    await harness.store.users.commit("alice", creating("last", category="news"))
    await send(harness, *(f"x{n}" for n in range(FULL_READS_BURST)))
    harness.clock.step(step_s)

    [again_us] = await send(harness, "next")

    assert again_us == harness.clock.now_us() + round(SECOND_US / FULL_READS)
    harness.clock.advance(1 / FULL_READS)
    await again(harness, "next")
    assert await harness.outcome("next") == (DeliveryState.SENT, None)


async def test_reads_of_many_items_wait_for_their_turn(harness: DeliveryHarness) -> None:
    """All live items are read for each badge: up to 5 ms of Redis."""
    await harness.store.users.commit("alice", creating(*(f"i{n}" for n in range(MAX_COUNTED)), category="news"))
    await harness.store.users.commit("alice", creating("last", category="news"))
    ids = [f"x{n}" for n in range(FULL_READS_BURST + 2)]
    times = await send(harness, *ids)
    start_us = harness.clock.now_us()

    assert len(harness.provider.pushes) == FULL_READS_BURST
    step_us = round(SECOND_US / FULL_READS)
    assert times[FULL_READS_BURST:] == [start_us + step_us, start_us + 2 * step_us]
    assert await outcomes(harness, ids[-2:]) == [(DeliveryState.WAITING, BADGE_PACE)] * 2

    harness.clock.advance(2 * step_us / SECOND_US)
    await again(harness, *ids[-2:])
    assert await outcomes(harness, ids[-2:]) == [(DeliveryState.SENT, None)] * 2
    assert harness.provider.pushes[-1].badge == MAX_COUNTED + 1 + len(ids)


async def test_pushes_that_are_never_sent_read_many_items_rarely(harness: DeliveryHarness) -> None:
    """Such pushes use up no budget. Each delivery process reads for itself, so one may take only a part of Redis."""
    await harness.store.users.commit("alice", creating(*(f"i{n}" for n in range(MAX_COUNTED)), category="news"))
    intents = [await harness.create(f"x{n}") for n in range(300)]
    harness.provider.verdicts = [Retry(60.0, "429", "throttled")] * 10_000
    reads, read = list[int](), harness.store.push_contexts.read

    async def noted(*args: Any, most_counted: int, **others: Any) -> PushContext | None:
        reads.extend([1] if most_counted == NO_LIMIT else [])
        return await read(*args, most_counted=most_counted, **others)

    harness.store.push_contexts.read = noted  # type: ignore[assignment,method-assign]
    due = [(harness.clock.now_us(), n) for n in range(len(intents))]
    end_us = harness.clock.now_us() + 600 * SECOND_US
    while (first := heapq.heappop(due))[0] < end_us:
        harness.clock.advance(max(0, first[0] - harness.clock.now_us()) / SECOND_US)
        again_us = await attempt(harness.context, intents[first[1]])
        assert again_us is not None
        heapq.heappush(due, (again_us, first[1]))

    assert len(reads) <= FULL_READS_BURST + 600, "5 ms of Redis each second, more than 1,000 pushes an hour need"


def test_remembered_users_are_bounded() -> None:
    users = OverBudgetUsers()
    for n in range(MAX_USERS + 1):
        users.add(f"u{n}", push_budget(1), 10)

    assert len(users) == MAX_USERS
    assert users.budget("u0", 9) is None
    assert users.budget("u1", 9) == push_budget(1)
    assert users.budget("u1", 10) is None


async def test_pushes_above_the_budget_are_counted(harness: DeliveryHarness) -> None:
    limit(harness)
    await send(harness, *"abcdef")
    harness.clock.advance(STEP_US / SECOND_US)
    await again(harness, "d")

    metrics = harness.context.metrics
    assert metrics.held.labels("apns", PUSH_BUDGET)._value.get() == 3
    assert metrics.folded.labels("apns")._value.get() == 2


# --- mails


async def harness_with_budget() -> mail_harness.DeliveryHarness:
    harness = await mail_harness.build()
    decider = MailDecider(
        harness.store, harness.registry, mail_harness.LINKS, "gregor.example", mail_budget(BUDGET), harness.clock
    )
    harness.context = replace(harness.context, decider=decider)
    return harness


async def test_mails_above_the_budget_fold_into_the_next_mail() -> None:
    harness = await harness_with_budget()
    ids = [f"i{n}" for n in range(20)]
    for each in ids:
        await harness.create(each)
        await harness.pass_time(61)

    assert len(harness.subjects) <= BUDGET + 20 * 61 * BUDGET // 3_600
    assert await harness.outcome("i19") == ("waiting", MAIL_BUDGET)
    await harness.pass_time(1_300)
    assert await harness.outcome("i19") == ("sent", None)
    assert "(+" in harness.subjects[-1]
    assert {(await harness.outcome(each))[0] for each in ids} == {"sent"}
    listed = "".join(mail.text + mail.subject for mail in harness.relay.mails)
    assert all(f"about {each}" in listed for each in ids)


async def test_dismissed_item_above_the_budget_is_not_mailed() -> None:
    harness = await harness_with_budget()
    for each in "abcd":
        await harness.create(each)
        await harness.pass_time(61)
    assert await harness.outcome("d") == ("waiting", MAIL_BUDGET)

    await harness.dismiss("d")
    await harness.pass_time(1_300)

    assert len(harness.subjects) == BUDGET
    assert await harness.outcome("d") == ("cancelled", "dismissed")
