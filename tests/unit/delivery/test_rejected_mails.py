"""A relay rejects a mail because of one of its items: the other items are still mailed."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from gregor.core.notify.ledger import mail_budget
from gregor_delivery.channels.contract import MailMessage
from gregor_delivery.channels.verdict import Misconfigured, Refused, Retry, Unknown, Verdict
from gregor_delivery.decide import mail
from gregor_delivery.decide.mail import DEFERRALS, MailDecider
from tests.unit.delivery.mail_harness import LINKS, NEWS, DeliveryHarness, build

REJECTIONS = [
    Refused("554", "the mail: 5.7.1 spam"),
    Refused("552", "the mail: 5.3.4 too large"),
    Refused("552", "MAIL: 5.3.4 too large"),
]
DEFERRED = Retry(None, "451", "the mail: 4.7.1 try again")


@pytest.fixture
async def harness() -> DeliveryHarness:
    """News are mailed after a minute, bills after an hour; a list of items has their titles and texts."""
    return await build({"news": NEWS, "bill": {**NEWS, "email": {"after": "1h"}}})


def reject(harness: DeliveryHarness, verdict: Verdict, *bad: str) -> None:
    """Let the relay answer each mail about one of these items with the verdict."""
    harness.relay.judge = lambda mail: verdict if set(bad) & set(items_of(mail)) else None


def items_of(mail: MailMessage) -> list[str]:
    """Return the items of a mail, in its order."""
    lines = mail.text.splitlines()
    return [line.rpartition(" ")[2] for line in lines if line.startswith(("* about ", "about "))]


@pytest.mark.parametrize("verdict", REJECTIONS)
async def test_rejected_item_ends_no_other(harness: DeliveryHarness, verdict: Refused) -> None:
    reject(harness, verdict, "bad")
    await harness.create("a", "b", "bad", "c")
    await harness.create("d", category="bill")

    await harness.pass_time(4_000)

    outcomes = {name: await harness.outcome(name) for name in ("a", "b", "bad", "c", "d")}
    assert outcomes == {**dict.fromkeys("abcd", ("sent", None)), "bad": ("dead", None)}


async def test_rejected_mail_is_sent_by_halves(harness: DeliveryHarness) -> None:
    """A hundred waiting items cost a few mails, and no mail is sent twice."""
    reject(harness, REJECTIONS[0], "i042")
    await harness.create(*(f"i{n:03}" for n in range(50)))
    await harness.create(*(f"i{n:03}" for n in range(50, 100)))

    await harness.pass_time(3_600)

    mails = [items_of(mail) for mail in harness.relay.mails]
    rejected = [mail for mail in mails if "i042" in mail]
    accepted = sorted(item for mail in mails if "i042" not in mail for item in mail)
    assert accepted == [f"i{n:03}" for n in range(100) if n != 42]
    assert (len(rejected[0]), rejected[-1]) == (100, ["i042"])
    assert all(set(later) < set(earlier) for earlier, later in pairwise(rejected))
    assert len({mail.message_id for mail in harness.relay.mails}) == len(mails) <= 20
    assert await harness.outcome("i042") == ("dead", None)


async def test_rejected_mails_end_when_each_item_is_rejected(harness: DeliveryHarness) -> None:
    names = [f"i{n}" for n in range(9)]
    reject(harness, REJECTIONS[0], *names)
    await harness.create(*names)

    await harness.pass_time(3_600)

    assert [await harness.outcome(name) for name in names] == [("dead", None)] * 9
    assert len(harness.relay.mails) == 2 * 9 - 1


async def test_mail_that_is_too_long_for_the_mailbox_is_divided(harness: DeliveryHarness) -> None:
    too_long = Refused("552", "the mail: 5.2.3 Message length exceeds administrative limit")
    harness.relay.judge = lambda mail: too_long if len(items_of(mail)) > 2 else None
    await harness.create("a", "b", "c", "d")

    await harness.pass_time(3_600)

    assert [await harness.outcome(name) for name in "abcd"] == [("sent", None)] * 4


async def test_new_items_do_not_join_the_parts_of_a_rejected_mail(harness: DeliveryHarness) -> None:
    reject(harness, REJECTIONS[0], "bad")
    await harness.create("bad", "a")
    await harness.pass_time(60)
    await harness.create("new")

    await harness.pass_time(120)

    mails = [sorted(items_of(mail)) for mail in harness.relay.mails]
    assert (mails[0], sorted(mails[1:])) == (["a", "bad"], [["a"], ["bad"], ["new"]])


async def test_item_with_a_reminder_is_rejected_once(harness: DeliveryHarness) -> None:
    reject(harness, REJECTIONS[0], "bad")
    await harness.create("bad", remind_at=["+60"])

    await harness.pass_time(120)

    assert [each.state.wire_name for each in await harness.entries("bad")] == ["dead", "dead"]
    assert len(harness.relay.mails) == 1


async def test_division_separates_items_not_their_deliveries(harness: DeliveryHarness) -> None:
    reject(harness, REJECTIONS[0], "bad")
    await harness.create("a", "b", "bad", remind_at=["+58", "+59"])

    await harness.pass_time(180, 60)

    accepted = [item for mail in harness.relay.mails for item in items_of(mail) if "bad" not in items_of(mail)]
    assert sorted(accepted) == ["a", "b"], "each item is mailed once"
    states = {name: {each.state.wire_name for each in await harness.entries(name)} for name in ("a", "b", "bad")}
    assert states == {"a": {"sent"}, "b": {"sent"}, "bad": {"dead"}}


async def test_many_deliveries_hardly_delay_the_parts_of_a_rejected_mail(
    harness: DeliveryHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 30,000 deliveries of the user, sent ones too, each part took 34 s instead of 4 s."""
    monkeypatch.setattr(mail, "RECORDS_PER_READ", 30)
    monkeypatch.setattr(mail, "RECORDS_PER_PART_READ", 120)
    monkeypatch.setattr("random.uniform", lambda low, high: (low + high) / 2)  # else some backoffs take minutes
    names = [f"i{n:03}" for n in range(200)]
    reject(harness, REJECTIONS[0], names[0])
    for start in range(0, len(names), 50):
        await harness.create(*names[start : start + 50])

    await harness.pass_time(60 + 180)

    assert [await harness.outcome(name) for name in names[1:100]] == [("sent", None)] * 99


async def test_rejected_mails_leave_the_budget_to_others(harness: DeliveryHarness) -> None:
    """A rejected mail reaches no user. If it counted, 200 such items would delay another mail by an hour and a half."""
    budget = mail_budget(4)
    decider = MailDecider(harness.store, harness.registry, LINKS, "gregor.example", budget, harness.clock)
    harness.context = replace(harness.context, decider=decider)
    names = [f"i{n}" for n in range(9)]
    reject(harness, REJECTIONS[0], *names)
    await harness.create(*names)
    await harness.pass_time(180)
    await harness.create("good")

    await harness.pass_time(60)

    assert [await harness.outcome(name) for name in names] == [("dead", None)] * 9
    assert await harness.outcome("good") == ("sent", None)
    assert len(harness.relay.mails) == 2 * 9 - 1 + 1


async def test_parts_of_rejected_mails_delay_no_other_mail(harness: DeliveryHarness) -> None:
    """Before, the parts used all reads of the user: with 400 rejected items, another mail waited for 11 minutes."""
    names = [f"i{n:03}" for n in range(200)]
    reject(harness, REJECTIONS[0], *names)
    for part in range(4):
        await harness.create(*names[part::4])
    await harness.pass_time(70)
    await harness.create("good")

    await harness.pass_time(65)

    assert await harness.outcome("good") == ("sent", None)
    assert [await harness.outcome(name) for name in names] != [("dead", None)] * 200


async def test_outage_after_a_rejection_divides_no_further(harness: DeliveryHarness) -> None:
    busy = Retry(None, "450", "RCPT: 4.2.0 try again")
    harness.relay.verdicts = [REJECTIONS[0], *[busy] * 20]
    await harness.create(*(f"i{n}" for n in range(8)))

    await harness.pass_time(7_200)

    assert sorted({len(items_of(mail)) for mail in harness.relay.mails}) == [4, 8]
    assert [await harness.outcome(f"i{n}") for n in range(8)] == [("sent", None)] * 8


async def test_failed_logins_after_a_rejection_divide_no_further(harness: DeliveryHarness) -> None:
    """A failed login adds no attempt: the last stored attempt is still the rejected mail."""
    harness.relay.verdicts = [REJECTIONS[0], *[Misconfigured("535", "AUTH: 5.7.8 no")] * 20]
    await harness.create(*(f"i{n}" for n in range(8)))

    await harness.pass_time(7_200)

    assert sorted({len(items_of(mail)) for mail in harness.relay.mails}) == [4, 8]
    assert [await harness.outcome(f"i{n}") for n in range(8)] == [("sent", None)] * 8


async def test_replayed_mails_are_whole_again(harness: DeliveryHarness) -> None:
    names = ["a", "b", "c"]
    reject(harness, REJECTIONS[0], *names)
    await harness.create(*names)
    await harness.pass_time(600)
    reject(harness, REJECTIONS[0])
    sent = len(harness.relay.mails)

    for name in names:
        [entry] = await harness.entries(name)
        assert await harness.store.dead_letters.replay(entry.intent, harness.clock.now_us())
    await harness.pass_time(600)

    assert [sorted(items_of(mail)) for mail in harness.relay.mails[sent:]] == [names]


async def test_possibly_sent_mail_that_is_rejected_is_not_divided(harness: DeliveryHarness) -> None:
    """The first attempt may have arrived: a mail with another name would be a second copy."""
    harness.relay.verdicts = [Unknown("the mail was written, and not answered"), REJECTIONS[0]]
    await harness.create("a", "b")

    await harness.pass_time(3_600)

    first, second = harness.relay.mails
    assert first.message_id == second.message_id
    assert [await harness.outcome(name) for name in "ab"] == [("dead", None)] * 2


async def test_part_that_may_have_arrived_is_resent_under_its_name(harness: DeliveryHarness) -> None:
    harness.relay.verdicts = [REJECTIONS[0], Unknown("the mail was written, and not answered")]
    await harness.create("a", "b", "c", "d")

    await harness.pass_time(3_600)

    _, part, *others = harness.relay.mails
    assert [items_of(mail) for mail in others if mail.message_id == part.message_id] == [items_of(part)]
    assert sorted(item for mail in others for item in items_of(mail)) == ["a", "b", "c", "d"]
    assert [await harness.outcome(name) for name in "abcd"] == [("sent", None)] * 4


async def test_item_whose_mails_are_deferred_stops_no_other(harness: DeliveryHarness) -> None:
    """The relay rejects the content for now, again and again, and new such items join each mail."""
    bad = [f"bad{n}" for n in range(60)]
    reject(harness, DEFERRED, *bad)
    await harness.create("a", "b")
    for name in bad:
        await harness.create(name)
        await harness.pass_time(30)
    await harness.pass_time(3_600)

    assert [await harness.outcome(name) for name in "ab"] == [("sent", None)] * 2
    assert {(await harness.outcome(name))[0] for name in bad} == {"retry"}


async def test_outage_of_a_few_minutes_leaves_a_mail_whole(harness: DeliveryHarness) -> None:
    harness.relay.verdicts = [DEFERRED] * (DEFERRALS - 1)
    await harness.create("a", "b", "c")

    await harness.pass_time(3_600)

    assert len(harness.relay.mails) == DEFERRALS
    assert len({mail.message_id for mail in harness.relay.mails}) == 1


async def test_outage_of_the_relay_leaves_a_mail_whole(harness: DeliveryHarness) -> None:
    harness.relay.verdicts = [Retry(None, "450", "RCPT: 4.2.0 try again")] * (DEFERRALS + 2)
    await harness.create("a", "b", "c")

    await harness.pass_time(3_600)

    assert len({mail.message_id for mail in harness.relay.mails}) == 1
