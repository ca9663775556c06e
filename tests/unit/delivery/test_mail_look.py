"""Who is told by mail, when, and who is not and why (semantics.md L15; delivery.md), over a store in memory."""

from __future__ import annotations

from typing import Any

import pytest

from gregor.core.items.sync import View
from gregor.core.notify.contact import NO_CONTACT
from gregor_delivery.channels.verdict import RecipientGone
from tests.support.builders import NOW_US, SECOND_US
from tests.unit.delivery.mail_house import ADDRESS, NEWS, House, build


@pytest.fixture
async def house() -> House:
    """Alice is away; news are mailed after a minute."""
    return await build()


async def test_a_user_who_is_away_gets_one_mail_at_its_time(house: House) -> None:
    await house.create("a")

    await house.pass_time(59)
    assert house.relay.mails == []
    await house.pass_time(600)
    [mail] = house.relay.mails
    assert (mail.to, mail.subject) == (ADDRESS, "about a")
    assert await house.outcome("a") == ("sent", None)


@pytest.mark.parametrize(
    ("unless", "was_there", "is_told"),
    [
        ("foreground", "foreground", False),
        ("foreground", "online", True),
        ("online", "online", False),
        ("acked", "foreground", True),
        ("acked", "acked", False),
        ("foreground", "acked", False),
    ],
)
async def test_a_mail_goes_unless_somebody_was_there_in_the_window(unless: str, was_there: str, is_told: bool) -> None:
    house = await build({"news": {**NEWS, "email": {"after": "60s", "unless": unless}}})
    receipt = await house.create("a")
    await house.pass_time(20)
    if was_there == "acked":
        await house.store.devices.acknowledge("alice", View("desk"), receipt.seq, NOW_US)
    else:
        session = await house.connect(foreground=was_there == "foreground")
        await house.pass_time(5)
        await house.leave(session)

    await house.pass_time(120)

    assert bool(house.relay.mails) is is_told


async def test_what_is_dismissed_one_second_before_is_not_told(house: House) -> None:
    await house.create("a")
    await house.pass_time(59)
    await house.dismiss("a")

    await house.pass_time(120)
    assert house.relay.mails == []


async def test_a_device_that_hid_its_copy_has_seen_it(house: House) -> None:
    await house.create("a", for_device="*")
    await house.dismiss("a", device="desk")

    await house.pass_time(120)
    assert house.relay.mails == []


@pytest.mark.parametrize(("expires", "is_told"), [("+59", False), ("+60", False), ("+61", True)])
async def test_what_expires_before_its_mail_is_not_told(house: House, expires: str, is_told: bool) -> None:
    await house.create("a", expires=expires)

    await house.pass_time(300)
    assert bool(house.relay.mails) is is_told


# What happens between the hand-over and the sending: the queue was long, or quiet hours passed.


async def waiting(**fields: Any) -> House:
    """A mail that waits for the end of quiet hours. NOW is 22:13:20 UTC."""
    house = await build({"news": NEWS, "alarm": {**NEWS, "urgent": True}})
    await house.contact(quiet_hours={"from": "22:00", "to": "23:00"})
    await house.create("a", **fields)
    await house.pass_time(60)
    assert await house.outcome("a") == ("waiting", "quiet_hours")
    return house


QUIET_S = 46 * 60 + 40
"""From NOW to 23:00."""


async def test_in_quiet_hours_a_mail_waits_for_their_end() -> None:
    house = await waiting()

    await house.pass_time(QUIET_S - 61, 60)
    assert house.relay.mails == []
    await house.pass_time(2)
    assert house.subjects == ["about a"]
    [entry] = await house.entries("a")
    assert (entry.n, entry.history.attempts[0].at_us) == (1, NOW_US + QUIET_S * SECOND_US)


async def test_an_urgent_category_does_not_wait() -> None:
    house = await waiting()
    await house.create("b", category="alarm")

    await house.pass_time(60)
    assert house.subjects == ["about b"]
    await house.pass_time(QUIET_S, 60)
    assert house.subjects == ["about b", "about a"]


@pytest.mark.parametrize("what", ["dismissed", "expired", "acked", "present", "preference", "no_provider"])
async def test_what_is_seen_or_not_wanted_while_it_waits_is_cancelled_with_the_reason(what: str) -> None:
    house = await waiting(**({"expires": "+120"} if what == "expired" else {}))
    if what == "dismissed":
        await house.dismiss("a")
    elif what == "acked":
        await house.store.devices.acknowledge("alice", View("desk"), 1, NOW_US)
    elif what == "present":
        await house.leave(await house.connect(foreground=True))
    elif what == "preference":
        await house.prefer({"news": {"email": False}})
    elif what == "no_provider":
        await house.store.contacts.put_contact("alice", NO_CONTACT)

    await house.pass_time(QUIET_S, 60)
    assert (house.relay.mails, await house.outcome("a")) == ([], ("cancelled", what))


async def test_who_was_there_before_the_item_came_is_not_there(house: House) -> None:
    await house.leave(await house.connect(foreground=True))
    await house.pass_time(5)
    await house.create("a")

    await house.pass_time(60)
    assert house.subjects == ["about a"]


async def test_preferences_decide_by_the_longest_prefix(house: House) -> None:
    await house.prefer({"*": {"email": False}, "news.good": {"email": True}})
    await house.create("a")
    await house.create("b", category="news.good")

    await house.pass_time(60)
    assert house.subjects == ["about b"]
    assert await house.outcome("a") == ("cancelled", "preference")


async def test_a_user_without_an_address_is_a_reason(house: House) -> None:
    await house.store.contacts.put_contact("alice", NO_CONTACT)
    await house.create("a")

    await house.pass_time(60)
    assert (house.relay.mails, await house.outcome("a")) == ([], ("cancelled", "no_provider"))


async def test_a_category_that_sends_no_mail_any_more_is_a_reason(house: House) -> None:
    await house.create("a")
    await house.pass_time(59)
    house.clock.advance(1)
    await house.due.drain.run_due()
    await house.store.categories.apply({"news": {"title": "x"}}, NOW_US, 1)
    await house.registry.refresh()

    await house.deliver()
    assert (house.relay.mails, await house.outcome("a")) == ([], ("cancelled", "no_provider"))


async def test_nothing_goes_to_an_address_that_is_suppressed(house: House) -> None:
    await house.store.suppressions.suppress("Alice@example.com", "complaint", NOW_US)
    await house.create("a")

    await house.pass_time(60)
    assert (house.relay.mails, await house.outcome("a")) == ([], ("cancelled", "suppressed"))


async def test_an_address_that_the_relay_calls_dead_is_suppressed_by_itself(house: House) -> None:
    house.relay.verdicts = [RecipientGone("550", "RCPT: 5.1.1 no such user")]
    await house.create("a")
    await house.pass_time(60)
    assert await house.outcome("a") == ("dead", "suppressed")

    await house.create("b")
    await house.pass_time(60)
    assert (len(house.relay.mails), await house.outcome("b")) == (1, ("cancelled", "suppressed"))
    kept = await house.store.suppressions.suppression(ADDRESS)
    assert kept is not None and (kept.reason, kept.email) == ("bounce", ADDRESS)


async def test_categories_that_are_newer_than_this_process_knows_are_asked_for(house: House) -> None:
    await house.create("a")
    await house.pass_time(59)
    house.registry.current = type(house.registry.current)({}, {})
    house.registry.version = 0

    await house.pass_time(1)
    assert house.subjects == ["about a"]


async def test_a_reminder_is_mailed_at_its_time_and_a_summary_as_its_category_says() -> None:
    house = await build(
        {"news": {**NEWS, "aggregate": {"window": "30s", "at_least": 2, "title": "{{ count }} news"}}, "bill": NEWS}
    )
    await house.create("a", "b")
    await house.create("c", category="bill", remind_at=["+300"])

    await house.pass_time(89)
    assert house.subjects == ["2 news (+1)"], "the summary waited already when the bill was due"
    await house.pass_time(211)
    assert house.subjects == ["2 news (+1)", "about c"]
    assert [each.intent.kind.value for each in await house.entries("c")] == ["item", "remind"]
