"""Decisions about mail: sent, postponed or skipped with which reason (semantics.md L15; delivery.md)."""

from __future__ import annotations

import asyncio
import re
from secrets import token_hex
from typing import Any

import pytest

from gregor.core.items.sync import LiveItem, View
from gregor.core.limits import Limits
from gregor.core.notify.contact import NO_CONTACT, parse_contact, parse_preferences
from gregor.core.notify.intents import EMAIL, Intent, IntentKind
from gregor.registries.categories import CategoryRegistry
from gregor.store.contract.devices import DeviceSession
from gregor.store.contract.store import Unavailable
from gregor.store.redis.store import RedisStore
from gregor_delivery.attempt import attempt
from gregor_delivery.channels.verdict import RecipientGone, Retry
from gregor_delivery.decide import mail
from gregor_delivery.decide.decision import ClaimFirst, Postpone, Skip
from gregor_delivery.decide.mail import FULL_READS, FULL_READS_BURST, MAIL_PACE, MailDecider
from tests.support.builders import NOW_US, SECOND_US, creating, dismissing
from tests.support.servers import open_client
from tests.support.wait import wait_until
from tests.unit.delivery.mail_harness import ADDRESS, NEWS, DeliveryHarness, build


@pytest.fixture
async def harness() -> DeliveryHarness:
    """Alice is absent; news are mailed after a minute."""
    return await build()


async def test_absent_user_gets_one_mail(harness: DeliveryHarness) -> None:
    await harness.create("a")

    await harness.pass_time(59)
    assert harness.relay.mails == []
    await harness.pass_time(600)
    [mail] = harness.relay.mails
    assert (mail.to, mail.subject) == (ADDRESS, "about a")
    assert await harness.outcome("a") == ("sent", None)


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
async def test_presence_in_the_window_cancels_the_mail(unless: str, was_there: str, is_told: bool) -> None:
    harness = await build({"news": {**NEWS, "email": {"after": "60s", "unless": unless}}})
    receipt = await harness.create("a")
    await harness.pass_time(20)
    if was_there == "acked":
        await harness.store.devices.acknowledge("alice", View("desk"), receipt.seq, NOW_US)
    else:
        session = await harness.connect(foreground=was_there == "foreground")
        await harness.pass_time(5)
        await harness.leave(session)

    await harness.pass_time(120)

    assert bool(harness.relay.mails) is is_told


async def test_item_dismissed_just_before_is_not_mailed(harness: DeliveryHarness) -> None:
    await harness.create("a")
    await harness.pass_time(59)
    await harness.dismiss("a")

    await harness.pass_time(120)
    assert harness.relay.mails == []


async def test_dismissal_on_one_device_counts_as_seen(harness: DeliveryHarness) -> None:
    await harness.create("a", for_device="*")
    await harness.dismiss("a", device="desk")

    await harness.pass_time(120)
    assert harness.relay.mails == []


@pytest.mark.parametrize(("expires", "is_told"), [("+59", False), ("+60", False), ("+61", True)])
async def test_expired_item_is_not_mailed(harness: DeliveryHarness, expires: str, is_told: bool) -> None:
    await harness.create("a", expires=expires)

    await harness.pass_time(300)
    assert bool(harness.relay.mails) is is_told


# --- events between enqueueing and sending: the queue was long, or quiet hours passed ---


async def waiting(**fields: Any) -> DeliveryHarness:
    """Return a harness with a mail that waits for the end of quiet hours. NOW is 22:13:20 UTC."""
    harness = await build({"news": NEWS, "alarm": {**NEWS, "urgent": True}})
    await harness.contact(quiet_hours={"from": "22:00", "to": "23:00"})
    await harness.create("a", **fields)
    await harness.pass_time(60)
    assert await harness.outcome("a") == ("waiting", "quiet_hours")
    return harness


QUIET_S = 46 * 60 + 40
"""From NOW to 23:00."""


async def test_mail_waits_for_the_end_of_quiet_hours() -> None:
    harness = await waiting()

    await harness.pass_time(QUIET_S - 61, 60)
    assert harness.relay.mails == []
    await harness.pass_time(2)
    assert harness.subjects == ["about a"]
    [entry] = await harness.entries("a")
    assert (entry.n, entry.history.attempts[0].at_us) == (1, NOW_US + QUIET_S * SECOND_US)


async def test_urgent_category_ignores_quiet_hours() -> None:
    harness = await waiting()
    await harness.create("b", category="alarm")

    await harness.pass_time(60)
    assert harness.subjects == ["about b"]
    await harness.pass_time(QUIET_S, 60)
    assert harness.subjects == ["about b", "about a"]


@pytest.mark.parametrize("what", ["dismissed", "expired", "acked", "present", "preference", "no_address"])
async def test_waiting_mail_is_cancelled_with_its_reason(what: str) -> None:
    harness = await waiting(**({"expires": "+120"} if what == "expired" else {}))
    if what == "dismissed":
        await harness.dismiss("a")
    elif what == "acked":
        await harness.store.devices.acknowledge("alice", View("desk"), 1, NOW_US)
    elif what == "present":
        await harness.leave(await harness.connect(foreground=True))
    elif what == "preference":
        await harness.prefer({"news": {"email": False}})
    elif what == "no_address":
        await harness.store.contacts.put_contact("alice", NO_CONTACT)

    await harness.pass_time(QUIET_S, 60)
    assert (harness.relay.mails, await harness.outcome("a")) == ([], ("cancelled", what))


async def test_presence_before_the_item_does_not_count(harness: DeliveryHarness) -> None:
    await harness.leave(await harness.connect(foreground=True))
    await harness.pass_time(5)
    await harness.create("a")

    await harness.pass_time(60)
    assert harness.subjects == ["about a"]


async def test_longest_preference_prefix_wins(harness: DeliveryHarness) -> None:
    await harness.prefer({"*": {"email": False}, "news.good": {"email": True}})
    await harness.create("a")
    await harness.create("b", category="news.good")

    await harness.pass_time(60)
    assert harness.subjects == ["about b"]
    assert await harness.outcome("a") == ("cancelled", "preference")


async def test_user_without_address_is_no_address(harness: DeliveryHarness) -> None:
    await harness.store.contacts.put_contact("alice", NO_CONTACT)
    await harness.create("a")

    await harness.pass_time(60)
    assert (harness.relay.mails, await harness.outcome("a")) == ([], ("cancelled", "no_address"))


async def test_category_without_email_is_no_channel(harness: DeliveryHarness) -> None:
    await harness.create("a")
    await harness.pass_time(59)
    harness.clock.advance(1)
    await harness.due.due_loop.run_due()
    await harness.store.categories.apply({"news": {"title": "x"}}, NOW_US, 1)
    await harness.registry.refresh()

    await harness.deliver()
    assert (harness.relay.mails, await harness.outcome("a")) == ([], ("cancelled", "no_channel"))


async def test_suppressed_address_gets_no_mail(harness: DeliveryHarness) -> None:
    await harness.store.suppressions.suppress("Alice@example.com", "complaint", NOW_US)
    await harness.create("a")

    await harness.pass_time(60)
    assert (harness.relay.mails, await harness.outcome("a")) == ([], ("cancelled", "suppressed"))


async def test_dead_mailbox_is_suppressed(harness: DeliveryHarness) -> None:
    harness.relay.verdicts = [RecipientGone("550", "RCPT: 5.1.1 no such user")]
    await harness.create("a")
    await harness.pass_time(60)
    assert await harness.outcome("a") == ("dead", "suppressed")

    await harness.create("b")
    await harness.pass_time(60)
    assert (len(harness.relay.mails), await harness.outcome("b")) == (1, ("cancelled", "suppressed"))
    kept = await harness.store.suppressions.suppression(ADDRESS)
    assert kept is not None and (kept.reason, kept.email) == ("bounce", ADDRESS)


async def test_stale_categories_are_refreshed(harness: DeliveryHarness) -> None:
    await harness.create("a")
    await harness.pass_time(59)
    harness.registry.current = type(harness.registry.current)({}, {})
    harness.registry.version = 0

    await harness.pass_time(1)
    assert harness.subjects == ["about a"]


async def test_reminder_and_summary_mails() -> None:
    harness = await build(
        {"news": {**NEWS, "aggregate": {"window": "30s", "at_least": 2, "title": "{{ count }} news"}}, "bill": NEWS}
    )
    await harness.create("a", "b")
    await harness.create("c", category="bill", remind_at=["+300"])

    await harness.pass_time(89)
    assert harness.subjects == ["2 news (+1)"], "the summary waited already when the bill was due"
    await harness.pass_time(211)
    assert harness.subjects == ["2 news (+1)", "about c"]
    assert [each.intent.kind.value for each in await harness.entries("c")] == ["item", "remind"]


# --- cost

REASONS = ["preference", "dismissed", "no_channel", "no_address", "suppressed", "quiet_hours", None]


@pytest.mark.redis
@pytest.mark.parametrize("reason", REASONS)
async def test_no_other_item_is_read_before_the_claim(redis_server: str, reason: str | None) -> None:
    counts = [await count_commands(redis_server, reason, companions) for companions in (0, 50)]

    assert counts[0] <= 25
    assert counts[1] == counts[0]


async def count_commands(url: str, reason: str | None, companions: int) -> int:
    """Return how many commands a decision takes that ends with `reason` while other items are live."""
    async with open_client(url) as client:
        store = RedisStore(client, Limits(), f"test-{token_hex(4)}")
        await store.categories.apply({"news": NEWS, "plain": {"title": "x"}}, NOW_US, 0)
        registry = CategoryRegistry(store)
        await registry.refresh()
        quiet = {"quiet_hours": {"from": "22:00", "to": "23:00"}} if reason == "quiet_hours" else {}
        contact = NO_CONTACT if reason == "no_address" else parse_contact({"email": ADDRESS, **quiet})
        await store.contacts.put_contact("alice", contact)
        if reason == "preference":
            await store.contacts.put_preferences("alice", parse_preferences({"*": {"email": False}}))
        if reason == "suppressed":
            await store.suppressions.suppress(ADDRESS, "bounce", NOW_US)
        await store.users.commit("alice", creating("a", category="plain" if reason == "no_channel" else "news"))
        if companions:
            await store.users.commit("alice", creating(*map(str, range(companions)), category="news"))
        if reason == "dismissed":
            await store.users.commit("alice", dismissing("a"))
        await client.call("CONFIG", "RESETSTAT")

        decision = await MailDecider(store, registry, None, "gregor.example").decide(
            Intent("alice", "a", IntentKind.ITEM, EMAIL, seq=1, at_us=NOW_US), NOW_US
        )

        assert isinstance(decision, ClaimFirst) if reason is None else isinstance(decision, Skip | Postpone)
        assert getattr(decision, "skip_reason", None) == reason
        stats = await client.call("INFO", "commandstats")
        return sum(int(line.split(b"calls=")[1].split(b",")[0]) for line in stats.splitlines() if b"calls=" in line)


def count_full_reads(harness: DeliveryHarness) -> list[str]:
    """Return a list to which each read of all items for a mail adds its user."""
    reads: list[str] = []
    mailable = harness.store.agenda.mailable

    async def noted(uid: str, *rest: Any) -> list[tuple[LiveItem, int | None]]:
        reads.append(uid)
        return await mailable(uid, *rest)

    harness.store.agenda.mailable = noted  # type: ignore[assignment,method-assign]
    return reads


async def test_delivery_that_cannot_be_claimed_reads_no_other_item(harness: DeliveryHarness) -> None:
    """While a slow relay has one mail, each other delivery of the user is decided once a second."""
    await harness.create(*(f"i{n}" for n in range(30)))
    harness.clock.advance(60)
    await harness.due.due_loop.run_due()
    first, *others = harness.handed()
    reads = count_full_reads(harness)
    harness.relay.hold = asyncio.Event()
    sending = asyncio.create_task(attempt(harness.context, first))
    await wait_until(lambda: harness.relay.mails, "the mail is on its way")
    await harness.create("later")

    times = await asyncio.gather(*(attempt(harness.context, each) for each in others))

    assert (reads, set(times)) == (["alice"], {harness.clock.now_us() + SECOND_US})
    harness.relay.hold.set()
    assert await sending is None


async def test_read_of_many_deliveries_counts_as_several(
    harness: DeliveryHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, each read of 30,000 deliveries of a user took 0.2 s: each item had 16 reminders."""
    monkeypatch.setattr(mail, "RECORDS_PER_READ", 100)
    for start in range(0, 400, 50):
        await harness.create(*(f"i{n}" for n in range(start, start + 50)))
    reads = count_full_reads(harness)
    harness.relay.verdicts = [Retry(60.0, "452", "RCPT: 4.2.2 mailbox full")] * 40

    await harness.pass_time(60)
    assert len(reads) == FULL_READS_BURST // 5
    assert await harness.outcome("i399") == ("waiting", MAIL_PACE)
    await harness.pass_time(30)
    assert len(reads) <= (FULL_READS_BURST + 30 * FULL_READS) // 5


async def test_other_items_are_read_at_a_pace(harness: DeliveryHarness) -> None:
    """The relay defers mail to a user with many items: each item could start an attempt at any time."""
    ids = [f"i{n}" for n in range(900)]
    for start in range(0, len(ids), 50):
        await harness.create(*ids[start : start + 50])
    reads = count_full_reads(harness)
    harness.relay.verdicts = [Retry(60.0, "452", "RCPT: 4.2.2 mailbox full")] * 40

    await harness.pass_time(60)
    assert len(reads) == FULL_READS_BURST
    assert await harness.outcome("i400") == ("waiting", MAIL_PACE)
    await harness.pass_time(30)
    assert len(reads) <= FULL_READS_BURST + 30 * FULL_READS

    await harness.pass_time(300)  # the turns are at random times
    assert harness.relay.verdicts == [], "it accepts mails again"
    listed = " ".join(mail.text for mail in harness.relay.mails[40:])
    assert sorted(re.findall(r"about (i\d+)", listed)) == sorted(ids), "each item is mailed once"
    assert {await harness.outcome(each) for each in ids} == {("sent", None)}
    await harness.pass_time(2_000, 10)
    assert len(harness.relay.mails) == 49, "deliveries that still wait for their turn find that they were sent"


async def test_step_of_the_clock_delays_no_mail(harness: DeliveryHarness) -> None:
    """The clock was an hour ahead when a mail was sent: the user's next mail came an hour late."""
    await harness.create("a")
    harness.clock.advance(60)
    await harness.due.due_loop.run_due()
    harness.clock.step(3_600)
    await harness.deliver()
    assert await harness.outcome("a") == ("sent", None)
    harness.clock.step(-3_600)

    await harness.create("b")
    await harness.pass_time(60)

    assert await harness.outcome("b") == ("sent", None)


async def test_failed_read_of_other_items_ends_the_claim(harness: DeliveryHarness) -> None:
    await harness.create("a", "b")
    harness.clock.advance(60)
    await harness.due.due_loop.run_due()
    [intent, other] = harness.handed()
    mailable = harness.store.agenda.mailable
    harness.store.agenda.mailable = unavailable  # type: ignore[assignment,method-assign]
    with pytest.raises(Unavailable):
        await attempt(harness.context, intent)
    harness.store.agenda.mailable = mailable  # type: ignore[method-assign]

    assert await attempt(harness.context, other) is None
    assert [await harness.outcome(each) for each in "ab"] == [("sent", None)] * 2
    assert [each.n for name in "ab" for each in await harness.entries(name)] == [1, 1], "no request was counted before"


async def unavailable(*_: Any) -> None:
    """Fail like an unavailable store."""
    raise Unavailable("the connection was lost")


async def test_decisions_about_much_presence_share_a_read(redis_server: str) -> None:
    """Each read of 512 connections with long filters takes Redis 10 ms."""
    prefixes = (*(f"a{n:03}" + ".b" * 61 for n in range(100)), "news")
    async with open_client(redis_server) as client:
        store = RedisStore(client, Limits(), f"test-{token_hex(4)}")
        await store.categories.apply({"news": NEWS}, NOW_US)
        registry = CategoryRegistry(store)
        await registry.refresh()
        await store.users.commit("alice", creating("a", category="news"))
        await store.devices.ensure_device("alice", "desk", NOW_US)
        for n in range(8):
            opened = DeviceSession(f"s{n}", f"c{n}", "g", NOW_US, True, prefixes)
            await store.devices.open_session("alice", "desk", opened, NOW_US, 60 * SECOND_US)
        decider = MailDecider(store, registry, None, "gregor.example")
        intents = [Intent("alice", "a", IntentKind.ITEM, EMAIL, seq=1, at_us=NOW_US + n) for n in range(20)]
        await client.call("CONFIG", "RESETSTAT")

        decisions = await asyncio.gather(*(decider.decide(each, NOW_US + 20) for each in intents))

        assert decisions == [Skip("present")] * 20
        stats = await client.call("INFO", "commandstats")
        [calls] = [line for line in stats.splitlines() if line.startswith(b"cmdstat_hgetall:")]
        assert calls.split(b",")[0] == b"cmdstat_hgetall:calls=3", calls
