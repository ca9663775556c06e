"""The mail budget of a user: mails above it fold into the next one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gregor_delivery.channels.verdict import Misconfigured, Refused, Retry, Sent, Unknown, Verdict
from gregor_delivery.decide.mail import MailDecider
from gregor_delivery.throttle.user_budget import MAX_USERS, UserBudget
from tests.support.builders import NOW_US, SECOND_US
from tests.unit.delivery.mail_harness import LINKS, DeliveryHarness, build

BUDGET = 3


async def harness_with_budget() -> DeliveryHarness:
    harness = await build()
    decider = MailDecider(harness.store, harness.registry, LINKS, "gregor.example", UserBudget(BUDGET))
    harness.context = replace(harness.context, decider=decider)
    return harness


async def test_mails_above_the_budget_fold_into_the_next_mail() -> None:
    harness = await harness_with_budget()
    ids = [f"i{n}" for n in range(20)]
    for each in ids:
        await harness.create(each)
        await harness.pass_time(61)

    assert len(harness.subjects) <= BUDGET + 20 * 61 * BUDGET // 3_600
    assert await harness.outcome("i19") == ("waiting", "mail_budget")
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
    assert await harness.outcome("d") == ("waiting", "mail_budget")

    await harness.dismiss("d")
    await harness.pass_time(1_300)

    assert len(harness.subjects) == BUDGET
    assert await harness.outcome("d") == ("cancelled", "dismissed")


@pytest.mark.parametrize(
    ("verdict", "is_spent"),
    [
        (Sent("250"), True),
        (Unknown("silent"), True),
        (Refused("554", "spam"), True),
        (Retry(None, None, "cannot connect"), False),
        (Misconfigured("535", "login"), False),
    ],
)
def test_only_mails_that_the_relay_saw_are_counted(verdict: Verdict, is_spent: bool) -> None:
    budget = UserBudget(1)
    budget.permit("alice", NOW_US).record(verdict, 0.0)

    assert budget.wait_us("alice", NOW_US) == (3_600 * SECOND_US if is_spent else 0)
    assert budget.wait_us("bob", NOW_US) == 0


def test_remembered_users_are_bounded() -> None:
    budget = UserBudget(1)
    for n in range(MAX_USERS + 1):
        budget.permit(f"u{n}", NOW_US).record(Sent("250"), 0.0)

    assert budget.remembered == MAX_USERS
