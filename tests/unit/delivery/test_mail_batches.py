"""One mail covers everything that waits, and is sent once in spite of retries and crashes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace

import msgspec
import pytest

from gregor.core.items.sync import View
from gregor.core.notify.contact import NO_CONTACT
from gregor.core.notify.intents import EMAIL, Intent, IntentKind
from gregor.core.notify.ledger import DeliveryRecord, DeliveryState, PlannedDeliveries
from gregor.core.notify.unsubscribe_token import parse_token
from gregor.reference.store.ledger import MemoryLedger
from gregor.reference.store.store import MemoryStore
from gregor.registries.categories import CategoryRegistry
from gregor.store.contract.store import Unavailable
from gregor_delivery.attempt import attempt
from gregor_delivery.channels.smtp.channel import mail_deadline_s
from gregor_delivery.channels.verdict import Misconfigured, Refused, Retry, Unknown
from gregor_delivery.decide import mail
from gregor_delivery.decide.mail import BYTES_IN_LOOP, MAX_BYTES, MAX_ITEMS, MailDecider
from gregor_delivery.decide.mail_rendering import MAX_LISTED_LINK, MAX_LISTED_TEXT
from tests.support.builders import NOW_US, SECOND_US
from tests.support.wait import wait_until
from tests.unit.delivery.harness import StallingDecider
from tests.unit.delivery.mail_harness import KEY, LINKS, NEWS, DeliveryHarness, build

LEASE_S = 30.0


@pytest.fixture
async def harness() -> DeliveryHarness:
    """News are mailed after a minute, bills after an hour, alarms at once and in quiet hours."""
    return await build(
        {
            "news": NEWS,
            "bill": {**NEWS, "email": {"after": "1h"}},
            "alarm": {**NEWS, "email": {"after": "1s"}, "urgent": True},
            "odd": {**NEWS, "text": "{{ 1 / 0 }}"},
        }
    )


def items_of_mail(harness: DeliveryHarness, n: int) -> list[str]:
    """Return the items of the n-th mail, in its order."""
    lines = harness.relay.mails[n].text.splitlines()
    return [line.rpartition(" ")[2] for line in lines if line.startswith(("* about ", "about "))]


async def test_one_mail_covers_all_waiting_items(harness: DeliveryHarness) -> None:
    await harness.create("a")
    await harness.pass_time(10)
    await harness.create("b", category="bill")
    await harness.pass_time(10)
    await harness.create("c")

    await harness.pass_time(7_200, 10)

    assert (harness.subjects, items_of_mail(harness, 0)) == (["about c (+2)"], ["c", "b", "a"])
    stories = [(await harness.entries(name))[0].history for name in "abc"]
    assert len({history.mail for history in stories}) == 1
    assert [await harness.outcome(name) for name in "abc"] == [("sent", None)] * 3
    assert harness.relay.mails[0].message_id == f"<{stories[0].mail}@gregor.example>"


async def test_later_item_gets_the_next_mail(harness: DeliveryHarness) -> None:
    await harness.create("a")
    await harness.pass_time(61)
    await harness.create("b")
    await harness.pass_time(120)

    assert harness.subjects == ["about a", "about b"]
    assert len({mail.message_id for mail in harness.relay.mails}) == 2


async def test_seen_item_is_not_covered(harness: DeliveryHarness) -> None:
    seen = await harness.create("seen")
    await harness.store.devices.acknowledge("alice", View("desk"), seen.seq, NOW_US)
    await harness.leave(await harness.connect(foreground=True))
    await harness.pass_time(5)
    await harness.create("gone")
    await harness.create("off", category="bill")
    await harness.create("a")
    await harness.dismiss("gone")
    await harness.prefer({"bill": {"email": False}})

    await harness.pass_time(60)
    assert items_of_mail(harness, 0) == ["a"]


async def test_urgent_mail_in_quiet_hours_covers_no_others(harness: DeliveryHarness) -> None:
    await harness.contact(quiet_hours={"from": "22:00", "to": "07:00"})
    await harness.create("a")
    await harness.create("b", category="alarm")

    await harness.pass_time(120)
    assert [items_of_mail(harness, n) for n in range(len(harness.relay.mails))] == [["b"]]
    await harness.pass_time(9 * 3_600, 60)
    assert [items_of_mail(harness, n) for n in range(len(harness.relay.mails))] == [["b"], ["a"]]


async def test_mail_covers_at_most_a_hundred_items(harness: DeliveryHarness) -> None:
    for start in range(0, 130, 65):
        await harness.create(*(f"i{n:03}" for n in range(start, start + 65)))

    await harness.pass_time(60)
    assert sorted(len(items_of_mail(harness, n)) for n in range(2)) == [30, 100]
    assert len(harness.relay.mails) == 2
    assert len({*items_of_mail(harness, 0), *items_of_mail(harness, 1)}) == 130


async def test_reminders_do_not_count_as_items_of_a_mail(harness: DeliveryHarness) -> None:
    """Before, an e-mail covered only six items with 16 reminders each, and 1,900 items took 320 e-mails."""
    for start in range(0, 130, 65):
        await harness.create(*(f"i{n:03}" for n in range(start, start + 65)), remind_at=["+58", "+59"])

    await harness.pass_time(90, 60)

    assert [len(items_of_mail(harness, n)) for n in range(len(harness.relay.mails))] == [MAX_ITEMS, 30]
    states = [each.state for n in range(130) for each in await harness.entries(f"i{n:03}")]
    assert states == [DeliveryState.SENT] * 130 * 3


async def test_deliveries_of_a_mail_are_bounded(harness: DeliveryHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each delivery takes several steps in Redis, so a higher limit of reminders must not enlarge the mail."""
    monkeypatch.setattr(mail, "MAX_DELIVERIES", 5)
    await harness.create("a", "b", "c", remind_at=["+58", "+59"])

    await harness.pass_time(60, 60)
    assert len(items_of_mail(harness, 0)) == 3
    states = [each.state for name in "abc" for each in await harness.entries(name)]
    assert len(harness.relay.mails) == 2 and states == [DeliveryState.SENT] * 9


async def test_item_counts_once_for_the_size_of_a_mail(harness: DeliveryHarness) -> None:
    fields = {"remind_at": ["+58", "+59"], "body": {"filler": "x" * 16_000}}
    await harness.create(*(f"i{n}" for n in range(MAX_BYTES // 20_000)), **fields)

    await harness.pass_time(60, 60)

    assert len(harness.relay.mails) == 1


async def test_mail_has_a_bounded_size() -> None:
    """60 items of 16 KB, whose titles HTML escapes sixfold, made a mail of 14 MB: relays accept 10 MB."""
    join = {"title": "{{ body.user }} joined", "link": "/users/{{ body.user }}", "email": {"after": "60s"}}
    harness = await build({"news": join})
    for start in range(0, 60, 15):
        await harness.create(*(f"i{n}" for n in range(start, start + 15)), body={"user": "'" * 16_000})

    await harness.pass_time(120)

    assert [(await harness.outcome(f"i{n}"))[0] for n in range(60)] == ["sent"] * 60
    assert len(harness.relay.mails) == -(-60 // (MAX_BYTES // 16_000))
    assert max(len(mail.html or "") + len(mail.text) for mail in harness.relay.mails) < 2 * MAX_BYTES


async def test_long_titles_and_links_of_a_list_are_shortened() -> None:
    harness = await build(
        {"news": {"title": "{{ body.title }}", "link": "/{{ body.link }}", "email": {"after": "60s"}}}
    )
    await harness.create("a", body={"title": "t" * 3_000, "link": "l" * MAX_LISTED_LINK})
    await harness.create("b", body={"title": "short", "link": "short"})
    await harness.pass_time(60)

    [mail] = harness.relay.mails
    assert "\n* " + "t" * (MAX_LISTED_TEXT - 1) + "…\n" in mail.text and "llll" not in mail.text
    assert "* short\n  /short" in mail.text
    assert mail.html is not None and "llll" not in mail.html and 'href="/short"' in mail.html


async def test_oldest_waiting_items_are_mailed_first(harness: DeliveryHarness) -> None:
    for start in range(0, 300, 50):
        await harness.create(*(f"i{n:03}" for n in range(start, start + 50)))
        harness.clock.advance(1)

    await harness.pass_time(60, 60)

    listed = [items_of_mail(harness, n) for n in range(3)]
    assert listed == [[f"i{n:03}" for n in reversed(range(start, start + 100))] for start in (0, 100, 200)]


async def test_flood_of_another_category_does_not_pass_a_waiting_item(harness: DeliveryHarness) -> None:
    """A service key that is limited to one category keeps thousands of its items waiting."""
    harness.relay.verdicts = [Retry(600.0, "451", "END: 4.3.0 try later")]
    await harness.create("invoice", category="alarm")
    await harness.pass_time(2)
    for start in range(0, 1_300, 100):
        await harness.create(*(f"i{n:04}" for n in range(start, start + 100)))

    await harness.pass_time(60, 60)

    assert items_of_mail(harness, 1)[-1] == "invoice"


async def test_items_before_their_time_do_not_pass_a_due_item(harness: DeliveryHarness) -> None:
    for start in range(0, 200, 100):
        await harness.create(*(f"b{n:03}" for n in range(start, start + 100)), category="bill")
    harness.clock.advance(60)
    await harness.create("due", "too", category="alarm")

    await harness.pass_time(2)

    assert len(items_of_mail(harness, 0)) == 100
    assert {"due", "too"} <= {*items_of_mail(harness, 0)}


async def test_item_with_due_reminder_is_listed_once(harness: DeliveryHarness) -> None:
    await harness.create("a", remind_at=["+60"])

    await harness.pass_time(120)
    assert [items_of_mail(harness, n) for n in range(len(harness.relay.mails))] == [["a"]]
    assert [each.state for each in await harness.entries("a")] == [DeliveryState.SENT, DeliveryState.SENT]


async def test_unsubscribe_link_covers_the_categories(harness: DeliveryHarness) -> None:
    await harness.create("a")
    await harness.create("b", category="bill")
    await harness.pass_time(60)

    [mail] = harness.relay.mails
    assert mail.unsubscribe_url is not None and mail.unsubscribe_url.startswith(
        "https://gregor.example/v1/unsubscribe/"
    )
    assert parse_token([KEY], mail.unsubscribe_url.rpartition("/")[2]) == ("alice", ("bill", "news"))
    assert mail.text.endswith(f"\nUnsubscribe: {mail.unsubscribe_url}")
    assert mail.html is not None and mail.unsubscribe_url in mail.html


# --- retries ---


async def test_rejected_mail_is_retried_with_new_items(harness: DeliveryHarness) -> None:
    harness.relay.verdicts = [Retry(30.0, "451", "END: 4.3.0 try later")]
    await harness.create("a", "b")

    await harness.pass_time(120)
    first, second = harness.relay.mails
    assert (first.message_id, first.text) == (second.message_id, second.text)
    assert [await harness.outcome(name) for name in "ab"] == [("sent", None)] * 2


async def test_items_during_an_outage_join_the_mail(harness: DeliveryHarness) -> None:
    harness.relay.verdicts = [Retry(600.0, "421", "greeting: 4.3.2 down")]
    await harness.create("a")
    await harness.pass_time(60)
    await harness.create("b")

    await harness.pass_time(1_200, 10)
    assert [items_of_mail(harness, n) for n in range(len(harness.relay.mails))] == [["a"], ["b", "a"]]
    assert harness.relay.mails[0].message_id != harness.relay.mails[1].message_id, "another mail has another name"


async def test_unknown_mail_is_resent_under_its_name(
    harness: DeliveryHarness,
) -> None:
    harness.relay.verdicts = [Unknown("the mail was written, and not answered"), Unknown("nor this time")]
    await harness.create("a", "b")
    await harness.pass_time(60)
    await harness.dismiss("b")
    await harness.create("c")

    await harness.pass_time(3_600, 10)
    first, second, third = harness.relay.mails
    assert first.message_id == second.message_id != third.message_id
    assert [items_of_mail(harness, n) for n in range(3)] == [["b", "a"], ["a"], ["c"]]
    assert await harness.outcome("a") == ("unknown", None)
    assert await harness.outcome("c") == ("sent", None)


async def test_possibly_sent_companion_joins_no_other_mail(
    harness: DeliveryHarness,
) -> None:
    harness.relay.verdicts = [Unknown("dropped"), Retry(600.0, "421", "down")]
    await harness.create("a")
    await harness.create("b", category="bill")
    await harness.pass_time(65)
    await harness.create("c", category="alarm")
    await harness.pass_time(60)

    await harness.pass_time(4_000, 10)
    assert [items_of_mail(harness, n) for n in range(len(harness.relay.mails))] == [
        ["b", "a"],
        ["b", "a"],
        ["c"],
        ["b", "a"],
    ]
    assert await harness.outcome("b") == ("sent", None)


async def test_early_companion_shares_the_verdict(harness: DeliveryHarness) -> None:
    harness.relay.verdicts = [Unknown("dropped")]
    await harness.contact(quiet_hours={"from": "22:00", "to": "07:00"})
    await harness.create("a")
    await harness.pass_time(120)
    assert await harness.outcome("a") == ("waiting", "quiet_hours")
    await harness.contact()

    await harness.create("b", category="alarm")
    await harness.pass_time(1)

    assert items_of_mail(harness, 0) == ["b", "a"]
    assert [await harness.outcome(name) for name in "ab"] == [("unknown", None)] * 2


async def test_unknown_mail_stays_bound_after_a_rejection(harness: DeliveryHarness) -> None:
    harness.relay.verdicts = [Unknown("dropped"), Retry(30.0, "451", "try later")]
    await harness.create("a")
    await harness.pass_time(65)
    await harness.create("b")

    await harness.pass_time(600)
    names = [mail.message_id for mail in harness.relay.mails]
    assert len(names) == 4 and len(set(names[:2])) == 1
    assert sorted(items_of_mail(harness, n) for n in range(4)) == [["a"], ["a"], ["a"], ["b"]]
    assert len({mail.message_id for mail in harness.relay.mails if "about a" in mail.text}) == 1


async def test_crash_after_send_keeps_the_mail_name(harness: DeliveryHarness) -> None:
    """The claims keep the name of the mail: the next worker sends that mail and no other."""
    await harness.create("a", "b")
    harness.relay.hold = asyncio.Event()
    harness.clock.advance(60)
    await harness.due.due_loop.run_due()
    handed = harness.handed()
    harness.queue += [(0, intent) for intent in handed]
    dying = asyncio.create_task(attempt(harness.context, handed[0]))
    await wait_until(lambda: harness.relay.mails, "the mail is on its way")
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)
    harness.relay.hold = None
    await harness.create("c")

    await harness.pass_time(300)
    first, *others = harness.relay.mails
    assert [mail.message_id for mail in others].count(first.message_id) == 1
    assert sorted(map(tuple, (items_of_mail(harness, n) for n in range(3)))) == [("b", "a"), ("b", "a"), ("c",)]
    assert [await harness.outcome(name) for name in "abc"] == [("sent", None)] * 3


async def test_crash_before_naming_frees_the_companions(harness: DeliveryHarness) -> None:
    await harness.create("a", "b")
    await harness.pass_time(50)
    intents = [Intent("alice", name, IntentKind.ITEM, EMAIL, "", 0, 1, NOW_US) for name in "ab"]
    await harness.store.ledger.plan(intents, DeliveryState.PLANNED, None, harness.clock.now_us())
    for intent in intents:
        until_us = harness.clock.now_us() + round(LEASE_S * SECOND_US)
        await harness.store.ledger.claim(intent, "", harness.clock.now_us(), until_us)

    await harness.pass_time(300)
    assert [items_of_mail(harness, n) for n in range(len(harness.relay.mails))] == [["b", "a"]]


class FailingLedger(MemoryLedger):
    """A ledger whose method with the name ``fails`` (``plan`` or ``note``) raises ``Unavailable``.

    ``passes_s``: the time that passes in each failing call.
    ``lost_replies``: the number of calls of ``note`` whose replies are lost.
    """

    def __init__(self, harness: DeliveryHarness, other: MemoryLedger, fails: str) -> None:
        self.__dict__.update(other.__dict__)
        self.fails = fails
        self.passes_s = 0.0
        self.lost_replies = 0
        self._harness = harness

    async def plan(
        self, intents: Sequence[Intent], state: DeliveryState, reason: str | None, now_us: int
    ) -> PlannedDeliveries:
        if self.fails == "plan":
            raise Unavailable("the store is full")
        return await super().plan(intents, state, reason, now_us)

    async def note(self, delivery: DeliveryRecord, place: str) -> bool:
        if self.fails == "note":
            self._harness.clock.advance(self.passes_s)
            raise Unavailable("the connection was lost")
        is_ours = await super().note(delivery, place)
        if self.lost_replies:
            self.lost_replies -= 1
            raise Unavailable("the reply was lost")
        return is_ours


def replace_ledger(harness: DeliveryHarness, fails: str) -> FailingLedger:
    """Let the store of a harness have a ledger that fails."""
    store = harness.store
    assert isinstance(store, MemoryStore)
    store._ledger = FailingLedger(harness, store._ledger, fails)
    return store._ledger


async def test_store_error_before_the_send_holds_a_mail_back_for_seconds(harness: DeliveryHarness) -> None:
    """Not for the timeout of a slow relay, which begins with the send."""
    harness.context = replace(harness.context, send_timeout_s=mail_deadline_s(600.0))
    ledger = replace_ledger(harness, "note")
    await harness.create("a")
    harness.clock.advance(60)
    await harness.due.due_loop.run_due()
    [intent] = harness.handed()
    ledger.passes_s = harness.context.deadline_s + 1
    with pytest.raises(Unavailable):
        await attempt(harness.context, intent)
    ledger.fails = ""

    harness.clock.advance(harness.context.claim_lease_s)

    assert harness.context.claim_lease_s == LEASE_S
    harness.relay.hold = asyncio.Event()
    sending = asyncio.create_task(attempt(harness.context, intent))
    await wait_until(lambda: harness.relay.mails, "the mail is on its way")
    harness.clock.advance(harness.context.lease_s - 1)
    again_us = await attempt(harness.context, intent)
    assert again_us is not None and len(harness.relay.mails) == 1, "the relay may take its time"
    harness.relay.hold.set()
    assert await sending is None


async def test_lost_reply_before_the_send_does_not_hold_a_mail_back(
    harness: DeliveryHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claims already last for the timeout of a slow relay, and a later attempt would find them taken."""
    monkeypatch.setattr("gregor_delivery.attempt.STORE_RETRY_S", 0.001)
    await harness.create("a", "b")
    harness.clock.advance(60)
    await harness.due.due_loop.run_due()
    replace_ledger(harness, "").lost_replies = 3

    first, _ = harness.handed()
    assert await attempt(harness.context, first) is None

    assert [items_of_mail(harness, n) for n in range(len(harness.relay.mails))] == [["b", "a"]]
    assert [await harness.outcome(name) for name in "ab"] == [("sent", None)] * 2


async def test_mail_leaves_a_full_store_without_new_companions(harness: DeliveryHarness) -> None:
    ledger = replace_ledger(harness, "")
    await harness.create("a")
    await harness.create("b", category="bill")
    harness.clock.advance(60)
    await harness.due.due_loop.run_due()
    ledger.fails = "plan"

    await harness.deliver()

    assert (harness.subjects, await harness.outcome("a")) == (["about a"], ("sent", None))
    ledger.fails = ""
    await harness.pass_time(3_600, 10)
    assert harness.subjects == ["about a", "about b"]


async def test_mail_of_an_old_decision_claims_no_other_deliveries(harness: DeliveryHarness) -> None:
    """If the bill were claimed and put back, it would be due now instead of in an hour."""
    await harness.create("a")
    await harness.create("b", category="bill")
    harness.clock.advance(60)
    await harness.due.due_loop.run_due()
    [intent] = harness.handed()
    stalling = StallingDecider(harness.context.decider, harness.clock, harness.context.deadline_s + 1)

    assert await attempt(replace(harness.context, decider=stalling), intent) == harness.clock.now_us()

    assert await harness.outcome("a") == ("retry", None)
    assert [(each.state, each.n) for each in await harness.entries("b")] == []
    assert harness.relay.mails == []


async def test_mail_that_is_too_late_returns_its_deliveries(harness: DeliveryHarness) -> None:
    """The worker stalled after it had written the name of the mail: the next mail may cover other items."""
    await harness.create("a", "b")
    harness.clock.advance(60)
    await harness.due.due_loop.run_due()
    note, stalls = harness.store.ledger.note, [harness.context.deadline_s + 1]

    async def stalling(delivery: DeliveryRecord, place: str) -> bool:
        is_ours = await note(delivery, place)
        harness.clock.advance(stalls.pop() if stalls else 0.0)
        return is_ours

    harness.store.ledger.note = stalling  # type: ignore[method-assign]
    first, _ = harness.handed()
    assert await attempt(harness.context, first) == harness.clock.now_us()
    assert harness.relay.mails == []
    assert [await harness.outcome(name) for name in "ab"] == [("retry", None)] * 2

    await harness.dismiss(first.item)
    for name in "ab":
        [entry] = await harness.entries(name)
        await attempt(harness.context, entry.intent)
    assert [items_of_mail(harness, n) for n in range(len(harness.relay.mails))] == [["b" if first.item == "a" else "a"]]


async def test_companion_of_a_sent_mail_is_sent(harness: DeliveryHarness) -> None:
    """Half of the verdicts were written when the store became unavailable."""
    await harness.create("a", "b")
    await harness.pass_time(60)
    [entry] = await harness.entries("b")
    unwritten = msgspec.structs.replace(entry.history, attempts=())
    await harness.store.ledger.move(entry.intent, [DeliveryState.SENT], DeliveryState.PLANNED, unwritten)
    claim_us = harness.clock.now_us()
    await harness.store.ledger.claim(entry.intent, "", claim_us, claim_us + SECOND_US)
    harness.queue.append((0, entry.intent))

    await harness.pass_time(60)
    assert (len(harness.relay.mails), await harness.outcome("b")) == (1, ("sent", None))


@pytest.mark.parametrize(
    ("verdict", "outcome"),
    [
        (Refused("554", "RCPT: 5.7.1 refused"), ("dead", None)),
        (Refused("554", "DATA: 5.5.1 no valid recipients"), ("dead", None)),
        (Misconfigured("535", "login"), ("retry", None)),
    ],
)
async def test_verdict_applies_to_all_companions(
    harness: DeliveryHarness, verdict: Refused | Misconfigured, outcome: tuple[str, str | None]
) -> None:
    harness.relay.verdicts = [verdict]
    await harness.create("a")
    await harness.create("b", category="bill")
    await harness.pass_time(60)

    assert [await harness.outcome(name) for name in "ab"] == [outcome] * 2
    assert harness.context.breaker.is_stopped is isinstance(verdict, Misconfigured)


async def test_long_mail_is_rendered_in_a_thread(harness: DeliveryHarness) -> None:
    threads: list[threading.Thread] = []
    registry = CategoryRegistry(harness.store, count_failure=lambda _: threads.append(threading.current_thread()))
    await registry.open()
    decider = MailDecider(harness.store, registry, LINKS, "gregor.example", clock=harness.clock)
    harness.context = replace(harness.context, decider=decider)

    async def threads_of_a_mail(filler: str) -> set[bool]:
        threads.clear()
        # Its text divides by zero, which calls `count_failure`.
        await harness.create(*(f"{len(filler)}-{n}" for n in range(3)), category="odd", body={"filler": filler})
        await harness.pass_time(60)
        return {each is threading.main_thread() for each in threads}

    assert await threads_of_a_mail("x") == {True}
    assert await threads_of_a_mail("x" * (BYTES_IN_LOOP // 2)) == {False}
    assert len(harness.relay.mails) == 2
    await registry.close()


async def test_two_workers_send_one_mail(harness: DeliveryHarness) -> None:
    await harness.create("a", "b")
    harness.clock.advance(60)
    await harness.due.due_loop.run_due()
    intents = harness.handed()
    harness.relay.hold = asyncio.Event()
    working = [asyncio.create_task(attempt(harness.context, intent)) for intent in intents]
    await wait_until(lambda: harness.relay.mails, "one mail is on its way")
    await wait_until(lambda: sum(task.done() for task in working) == 1, "the other came to nothing")
    harness.relay.hold.set()

    again_us = sorted(await asyncio.gather(*working), key=lambda each: each or 0)
    assert (len(harness.relay.mails), again_us[0]) == (1, None)
    assert again_us[1] == harness.clock.now_us() + SECOND_US
    assert await attempt(harness.context, intents[1]) is None and await attempt(harness.context, intents[0]) is None
    assert len(harness.relay.mails) == 1


async def test_intent_enqueued_twice_sends_one_mail(harness: DeliveryHarness) -> None:
    await harness.create("a")
    await harness.pass_time(60)
    [entry] = await harness.entries("a")

    assert await attempt(harness.context, replace(entry.intent, at_us=harness.clock.now_us())) is None
    assert len(harness.relay.mails) == 1


async def test_cancelled_lead_leaves_companions_waiting(harness: DeliveryHarness) -> None:
    harness.relay.verdicts = [Retry(600.0, "421", "down")]
    await harness.create("a")
    await harness.create("b", category="bill")
    await harness.pass_time(60)
    await harness.dismiss("a")

    await harness.pass_time(3_600, 10)
    assert [items_of_mail(harness, n) for n in range(len(harness.relay.mails))] == [["b", "a"], ["b"]]


async def test_user_without_address_gets_no_mail(harness: DeliveryHarness) -> None:
    await harness.create("a", "b")
    await harness.store.contacts.put_contact("alice", NO_CONTACT)

    await harness.pass_time(60)
    assert [await harness.outcome(name) for name in "ab"] == [("cancelled", "no_address")] * 2
