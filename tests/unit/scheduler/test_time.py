"""Expiry, reminders and delayed messages, in their time (semantics.md L6, L7)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gregor.core.limits import SECOND_US
from gregor.core.messages.delayed import DelayedMessage
from gregor.core.messages.model import Sender
from gregor.core.rate_limit import RateLimiter
from gregor_scheduler.handlers.dispatch import Acts
from tests.support.builders import BACKEND, DAY_US, LIMITS, NOW, NOW_US, Document, item, message
from tests.unit.scheduler.conftest import House, build


async def test_an_item_expires_at_its_bound_and_not_before(house: House) -> None:
    await house.create("a", expires="+10")
    house.told()

    await house.pass_time(9)
    assert house.told() == []
    await house.pass_time(1)
    assert house.happened() == ["expired a"]


async def test_a_reminder_fires_in_its_time(house: House) -> None:
    await house.create("a", remind_at=["+5", "+8"])
    house.told()

    await house.pass_time(4)
    assert house.told() == []
    await house.pass_time(1)
    assert house.happened() == ["remind a +5"]
    await house.pass_time(20)
    assert house.happened() == ["remind a +8"]


async def test_an_item_with_both_is_reminded_of_and_then_expires(house: House) -> None:
    await house.create("a", remind_at=["+5"], expires="+6")
    house.told()

    await house.pass_time(10)

    assert house.happened() == ["remind a +5", "expired a"]


async def test_an_item_dismissed_before_it_is_due_makes_nothing(house: House) -> None:
    await house.create("a", remind_at=["+5"], expires="+6")
    await house.pass_time(4)
    await house.dismiss("a")
    house.told()

    await house.pass_time(10)

    assert house.told() == [] and house.deliveries.intents == []


async def test_after_an_outage_what_was_missed_happens_late_once_and_in_order(house: House) -> None:
    await house.create("a", remind_at=["+5", "+10", "+30", "+50"])
    await house.create("b", remind_at=["+20", "+40"])
    await house.create("c", expires="+35")
    house.told()

    house.clock.advance(45)
    await house.drain.run_due()

    # What has expired is gone before anything else is done with the user (L6).
    assert sorted(house.happened(), key=lambda said: said != "expired c") == [
        "expired c",
        "remind a +5",
        "remind a +10",
        "remind b +20",
        "remind a +30",
        "remind b +40",
    ]
    await house.drain.run_due()
    assert house.told() == []


async def test_a_reminder_is_not_made_up_for_once_its_item_has_expired(house: House) -> None:
    await house.create("a", remind_at=["+5"], expires="+10")
    house.told()

    house.clock.advance(60)
    await house.drain.run_due()

    assert house.happened() == ["expired a"]


async def test_a_reminder_whose_item_goes_between_claim_and_act_fires_for_nobody() -> None:
    house = await build({"": {"title": "News", "push": {}}})
    await house.create("a", remind_at=["+5"])
    house.clock.advance(6)
    works = await house.store.agenda.due_work("alice", house.clock.now_us(), 64, 0)
    await house.dismiss("a")
    house.told()

    outcome = await Acts(house.parts, RateLimiter(1e9, 1)).do("alice", works)

    assert [done.work for done in outcome.done] == works and outcome.held == []
    assert house.told() == [] and house.handed() == []
    assert await house.store.ledger.of_item("alice", "a") == []


async def test_a_user_with_more_due_than_one_lease_does_is_served_to_the_end(house: House) -> None:
    for start in range(0, 200, 100):
        await house.create(*(f"i{n}" for n in range(start, start + 100)), remind_at=[NOW + 5])
    house.told()

    house.clock.advance(6)
    await house.drain.run_due()

    assert len(house.told()) == 200
    assert house.figures.timers.labels("remind", "done")._value.get() == 200


async def test_a_claim_that_died_is_served_when_its_lease_is_over(house: House) -> None:
    await house.create("a", remind_at=["+5"])
    house.told()
    house.clock.advance(6)
    for partition in range(1_024):
        await house.store.agenda.claim(partition, house.clock.now_us(), house.clock.now_us() + 15 * SECOND_US, 9)

    await house.pass_time(14)
    assert house.told() == []
    await house.pass_time(1)
    assert house.happened() == ["remind a +5"]


async def delay(house: House, document: Document, seconds: float, sender: Sender | None = None) -> None:
    kept = DelayedMessage(document, sender or Sender())
    await house.store.agenda.delay("alice", document["id"], kept.encode(), NOW_US + round(seconds * SECOND_US))


async def test_a_delayed_message_is_committed_and_stamped_in_its_time(house: House) -> None:
    await delay(house, message({"a": item(expires="+60")}, message_id="m"), 10)

    await house.pass_time(9)
    assert await house.live() == []
    await house.pass_time(1)
    assert await house.live() == ["a"]
    (entry,) = (await house.store.users.state("alice", BACKEND, house.clock.now_us())).items
    assert (entry.created_us, entry.expires_us) == (NOW_US + 10 * SECOND_US, NOW_US + 70 * SECOND_US)
    assert await house.store.agenda.delayed("alice", "m") is None


async def test_a_delayed_message_acts_for_its_sender(house: House) -> None:
    await house.create("a", for_device="*")
    await delay(house, message(ids=["a"], message_id="m"), 5, Sender("phone"))

    await house.pass_time(6)

    entry = await house.store.users.item("alice", "a", BACKEND, house.clock.now_us())
    assert entry is not None and entry.gone is None
    (record,) = (await house.store.agenda.category_items("alice", "news", "*"))[1]
    assert record.hidden_by == {"phone"}


async def test_a_delayed_message_that_is_refused_in_its_time_is_counted_and_goes(house: House) -> None:
    await delay(house, message({"a": item(created=NOW + 9_000)}, message_id="m"), 5)
    await delay(house, {"system": "gregor", "body": {}, "id": "n"}, 5)

    await house.pass_time(6)

    assert await house.live() == []
    assert house.figures.delayed_refused.labels("created_in_future")._value.get() == 1
    assert await house.store.agenda.delayed("alice", "m") is None
    assert await house.store.agenda.delayed("alice", "n") is None


async def test_garbage_is_collected_and_a_burst_of_it_is_spread(house: House) -> None:
    house = await build(collecting=RateLimiter(0.001, 3))
    uids = [f"user{n}" for n in range(40)]
    for uid in uids:
        await house.create("a", uid=uid, created=NOW)
        await house.say(message(ids=["a"]), uid=uid)
    house.clock.advance(8 * DAY_US / SECOND_US)
    now_us = house.clock.now_us()

    await house.drain.run_due()

    entries = [await house.store.users.item(uid, "a", BACKEND, NOW_US) for uid in uids]
    assert sum(entry is not None and entry.is_trimmed for entry in entries) == 3
    firsts = sorted(at_us for at_us in await house.store.agenda.next_due_times() if at_us is not None)
    postponed = [at_us for at_us in firsts if at_us <= now_us + 600 * SECOND_US]
    assert len(postponed) >= 30 and postponed[-1] - postponed[0] > 200 * SECOND_US


async def test_a_device_that_nobody_saw_for_the_retention_is_forgotten(house: House) -> None:
    await house.store.devices.ensure_device("alice", "old", NOW_US)

    house.clock.advance(LIMITS.retention_us / SECOND_US)
    await house.drain.run_due()

    assert await house.store.devices.devices("alice", house.clock.now_us()) == {}
    assert await house.store.agenda.due_work("alice", NOW_US + 10**15, 9) == []


@pytest.mark.parametrize("kind", ["remind", "expire"])
async def test_lateness_is_measured_from_the_moment_that_it_was_due(house: House, kind: str) -> None:
    times: dict[str, Any] = {"remind": {"remind_at": ["+5"]}, "expire": {"expires": "+5"}}
    await house.create("a", **times[kind])

    house.clock.advance(7)
    await house.drain.run_due()

    assert house.figures.lateness.labels(kind)._sum.get() == 2


async def test_two_schedulers_side_by_side_do_each_thing_once(house: House) -> None:
    for n in range(30):
        await house.create("a", uid=f"u{n}", remind_at=[NOW + 5])
    house.told()
    house.clock.advance(6)

    await asyncio.gather(house.drain.run_due(), house.drain.run_due())

    assert len(house.told()) == 30
