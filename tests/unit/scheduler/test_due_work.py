"""Expiries, reminders, delayed messages and cleanup run at their time (semantics.md L6, L7)."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

import pytest
from structlog.testing import capture_logs

from gregor.core.errors import Problem
from gregor.core.items.sync import LiveItem
from gregor.core.limits import SECOND_US
from gregor.core.messages.delayed import DelayedMessage
from gregor.core.messages.model import Commit, IgnoredReason, Receipt, Sender
from gregor.core.rate_limit import RateLimiter
from gregor.store.contract.access import ServiceKey
from gregor_scheduler.handlers.dispatch import MAX_WORK, SLOW_TURN_WORK, DueHandlers
from tests.support.agendas import ALICE, PARTITIONS
from tests.support.builders import BACKEND, DAY_US, LIMITS, NOW, NOW_US, Document, interval, item, message
from tests.unit.scheduler.conftest import SchedulerHarness, build


async def test_item_expires_at_its_time(harness: SchedulerHarness) -> None:
    await harness.create("a", expires="+10")
    harness.announcements()

    await harness.advance(9)
    assert harness.announcements() == []
    await harness.advance(1)
    assert harness.announced() == ["expired a"]


async def test_reminder_fires_at_its_time(harness: SchedulerHarness) -> None:
    await harness.create("a", remind_at=["+5", "+8"])
    harness.announcements()

    await harness.advance(4)
    assert harness.announcements() == []
    await harness.advance(1)
    assert harness.announced() == ["remind a +5"]
    await harness.advance(20)
    assert harness.announced() == ["remind a +8"]


async def test_reminder_fires_before_expiry(harness: SchedulerHarness) -> None:
    await harness.create("a", remind_at=["+5"], expires="+6")
    harness.announcements()

    await harness.advance(10)

    assert harness.announced() == ["remind a +5", "expired a"]


async def test_dismissed_item_has_no_due_work(harness: SchedulerHarness) -> None:
    await harness.create("a", remind_at=["+5"], expires="+6")
    await harness.advance(4)
    await harness.dismiss("a")
    harness.announcements()

    await harness.advance(10)

    assert harness.announcements() == [] and harness.queue.intents == []


async def test_missed_work_runs_once_in_order_after_outage(harness: SchedulerHarness) -> None:
    await harness.create("a", remind_at=["+5", "+10", "+30", "+50"])
    await harness.create("b", remind_at=["+20", "+40"])
    await harness.create("c", expires="+35")
    harness.announcements()

    harness.clock.advance(45)
    await harness.due_loop.run_due()

    # Expired items are removed before any other work of the user is executed (L6).
    assert sorted(harness.announced(), key=lambda said: said != "expired c") == [
        "expired c",
        "remind a +5",
        "remind a +10",
        "remind b +20",
        "remind a +30",
        "remind b +40",
    ]
    await harness.due_loop.run_due()
    assert harness.announcements() == []


async def test_missed_reminder_of_an_expired_item_is_skipped(harness: SchedulerHarness) -> None:
    await harness.create("a", remind_at=["+5"], expires="+10")
    harness.announcements()

    harness.clock.advance(60)
    await harness.due_loop.run_due()

    assert harness.announced() == ["expired a"]


async def test_reminder_of_an_item_removed_after_claim() -> None:
    harness = await build({"": {"title": "News", "push": {}}})
    await harness.create("a", remind_at=["+5"])
    harness.clock.advance(6)
    works = await harness.store.agenda.due_work("alice", harness.clock.now_us(), 64, 0)
    await harness.dismiss("a")
    harness.announcements()

    outcome = await DueHandlers(harness.context, RateLimiter(1e9, 1)).handle("alice", works, 0)

    assert [completed.work for completed in outcome.completed] == works and outcome.postponed == []
    assert harness.announcements() == [] and harness.published() == []
    assert await harness.store.ledger.of_item("alice", "a") == []


async def test_user_with_more_work_than_one_lease(harness: SchedulerHarness) -> None:
    for start in range(0, 200, 100):
        await harness.create(*(f"i{n}" for n in range(start, start + 100)), remind_at=[NOW + 5])
    harness.announcements()

    harness.clock.advance(6)
    await harness.due_loop.run_due()

    assert len(harness.announcements()) == 200
    assert harness.metrics.timers.labels("remind", "done")._value.get() == 200


@pytest.mark.parametrize(("commit_s", "turn"), [(0.0, MAX_WORK), (0.1, SLOW_TURN_WORK)], ids=["usual", "slow"])
async def test_user_with_a_backlog_delays_others_by_one_turn(
    harness: SchedulerHarness, monkeypatch: pytest.MonkeyPatch, commit_s: float, turn: int
) -> None:
    """A key can save up its rate for hundreds of reminders of each of many users. They must not take all places."""
    uids = [uid for uid in (f"u{n}" for n in range(9_000)) if PARTITIONS.of_user(uid) == ALICE][:2]
    commit = harness.store.users.commit

    async def slow_commit(uid: str, change: Commit) -> Receipt:
        harness.clock.advance(commit_s)
        return await commit(uid, change)

    for n in range(20):
        await harness.create(f"a{n}", remind_at=[NOW + 5 + k / 100 for k in range(16)])
    for number, uid in enumerate(uids):
        await harness.create(uid, uid=uid, remind_at=[NOW + 6 + number])
    harness.announcements()
    monkeypatch.setattr("gregor_scheduler.due_loop.MAX_USERS", 1)
    monkeypatch.setattr(harness.store.users, "commit", slow_commit)
    harness.clock.advance(8)
    await harness.due_loop.run_due()

    reminded = [announcement.entries[0].id for announcement in harness.announcements()]
    assert [reminded.index(uid) for uid in uids] == [turn, turn + 1] and len(reminded) == 322


async def test_failing_work_is_retried_with_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault that a client can trigger costs a bounded time, and does not delay other work of the user."""
    harness = await build({"c": {"title": "News", "aggregate": {"window": "10s", "at_least": 2}}})
    agenda, attempts, leases = harness.store.agenda, list[str](), list[int]()
    read_items, complete = agenda.category_items, agenda.complete

    class UnreadableGroups:
        seq = 0

        def of(self, category: str, for_device: str | None) -> list[LiveItem]:
            attempts.append(category)
            raise OverflowError(category)

    async def fail(uid: str, categories: Collection[str]) -> UnreadableGroups:
        return UnreadableGroups()

    async def count(*arguments: Any) -> None:
        leases.append(len(attempts) - sum(leases))
        await complete(*arguments)

    monkeypatch.setattr(agenda, "category_items", fail)
    monkeypatch.setattr(agenda, "complete", count)
    failing = MAX_WORK + 20
    await harness.create("a", "b", category="c.c0")
    for number in range(1, failing):
        await harness.create(f"i{number}", category=f"c.c{number}")
    await harness.create("z", remind_at=["+10.5"])
    harness.announcements()

    with capture_logs() as logs:
        await harness.advance(11)
        assert harness.announced() == ["remind z +10.5"] and max(leases) == MAX_WORK
        await harness.advance(3_600, 15)

    assert attempts.count("c.c0") == 8 and len(attempts) == 8 * failing
    assert harness.metrics.timers.labels("window", "failed")._value.get() == len(attempts)
    assert 0 < sum(line["event"] == "due_work.failed" for line in logs) < len(attempts) / 3
    monkeypatch.setattr(agenda, "category_items", read_items)
    await harness.advance(3_600, 15)
    assert len(await harness.live_ids()) == failing + 1, "a and b are one summary"


async def test_expired_lease_is_claimed_again(harness: SchedulerHarness) -> None:
    await harness.create("a", remind_at=["+5"])
    harness.announcements()
    harness.clock.advance(6)
    for partition in range(1_024):
        await harness.store.agenda.claim(partition, harness.clock.now_us(), harness.clock.now_us() + 15 * SECOND_US, 9)

    await harness.advance(14)
    assert harness.announcements() == []
    await harness.advance(1)
    assert harness.announced() == ["remind a +5"]


async def delay(
    harness: SchedulerHarness,
    document: Document,
    seconds: float,
    sender: Sender | None = None,
    key_id: str = "",
    issued_us: int = 0,
) -> None:
    kept = DelayedMessage(document, sender or Sender(), harness.clock.now_us(), (key_id,) if key_id else (), issued_us)
    await harness.store.agenda.delay("alice", document["id"], kept.encode(), NOW_US + round(seconds * SECOND_US))


async def test_delayed_message_is_stamped_when_committed(harness: SchedulerHarness) -> None:
    await delay(harness, message({"a": item(expires="+60")}, message_id="m"), 10)

    await harness.advance(9)
    assert await harness.live_ids() == []
    await harness.advance(1)
    assert await harness.live_ids() == ["a"]
    (entry,) = (await harness.store.users.state("alice", BACKEND, harness.clock.now_us())).items
    assert (entry.created_us, entry.expires_us) == (NOW_US + 10 * SECOND_US, NOW_US + 70 * SECOND_US)
    assert await harness.store.agenda.delayed("alice", "m") is None


@pytest.mark.parametrize("is_before", [True, False], ids=["used before", "used while it waits"])
async def test_delayed_message_is_committed_although_another_one_used_its_id(
    harness: SchedulerHarness, is_before: bool
) -> None:
    """Gregor has accepted the message. The other one may be from a key that may not cancel it."""
    other = message(intervals=[interval("sport", begin=0)], message_id="nightly")
    nightly = message(intervals=[interval("news", begin=0)], message_id="nightly")
    if is_before:
        await harness.submit(other)
    await delay(harness, nightly, 10)
    if not is_before:
        await harness.submit(other)
    await harness.create("a")
    await harness.advance(11)
    assert await harness.live_ids() == []

    await harness.create("b")
    await delay(harness, nightly, 0)
    await harness.advance(2)
    assert await harness.live_ids() == ["b"], "the same message again changes nothing"
    assert harness.metrics.delayed_refused.labels("id_reused")._value.get() == 0
    with pytest.raises(Problem) as refusal:
        await harness.submit(nightly)
    assert refusal.value.code == "id_reused"


async def test_delayed_message_keeps_its_sender(harness: SchedulerHarness) -> None:
    await harness.create("a", for_device="*")
    await delay(harness, message(ids=["a"], message_id="m"), 5, Sender("phone"))

    await harness.advance(6)

    entry = await harness.store.users.item("alice", "a", BACKEND, harness.clock.now_us())
    assert entry is not None and entry.gone is None
    (record,) = (await harness.store.agenda.category_items("alice", ["news"])).of("news", "*")
    assert record.hidden_by == {"phone"}


@pytest.mark.parametrize("device", ["phone", None])
async def test_delayed_message_of_a_revoked_device_is_dropped(harness: SchedulerHarness, device: str | None) -> None:
    await delay(harness, message({"a": item()}, message_id="m"), 10, Sender("phone"))
    await harness.advance(1)
    await harness.store.devices.revoke("alice", device, harness.clock.now_us(), harness.clock.now_us())
    await harness.advance(1)
    await delay(harness, message({"b": item()}, message_id="n"), 10, Sender("phone"))

    await harness.advance(10)

    assert await harness.live_ids() == ["b"]
    assert harness.metrics.delayed_refused.labels("forbidden")._value.get() == 1
    assert await harness.store.agenda.delayed("alice", "m") is None


async def test_flood_of_rejected_delayed_messages_does_not_flood_the_log(harness: SchedulerHarness) -> None:
    for number in range(100):
        await delay(harness, message({"a": item("not a category")}, message_id=f"m{number}"), 10)

    with capture_logs() as logs:
        await harness.advance(10)

    rejected = [line for line in logs if line["event"] == "delayed_message.rejected"]
    assert harness.metrics.delayed_refused.labels("invalid_id")._value.get() == 100
    assert 0 < len(rejected) < 50


async def test_delayed_message_is_revoked_with_its_token(harness: SchedulerHarness) -> None:
    """Neither kept because it came after the moment of the revocation, nor dropped because it came before."""
    moment_us = harness.clock.now_us() + 5 * SECOND_US
    tokens = {"old": moment_us, "new": moment_us + 1}
    for name, issued_us in tokens.items():
        early = message({f"{name}-early": item()}, message_id=f"{name}-early")
        await delay(harness, early, 20, Sender("phone"), issued_us=issued_us)
    await harness.advance(10)
    for name, issued_us in tokens.items():
        late = message({f"{name}-late": item()}, message_id=f"{name}-late")
        await delay(harness, late, 20, Sender("phone"), issued_us=issued_us)
    await harness.store.devices.revoke("alice", "phone", moment_us, harness.clock.now_us())

    await harness.advance(11)

    assert sorted(await harness.live_ids()) == ["new-early", "new-late"]


async def test_delayed_message_of_a_deleted_key_is_dropped(harness: SchedulerHarness) -> None:
    deleted, kept = [(await harness.store.access.create_key(["ingest"]))[0].id for _ in range(2)]
    for item_id, key in (("a", deleted), ("b", kept)):
        await delay(harness, message({item_id: item()}, message_id=item_id), 10, key_id=key)
    await harness.store.access.delete_key(deleted)

    await harness.advance(10)

    assert await harness.live_ids() == ["b"]


async def test_delayed_message_is_dropped_with_the_last_of_its_keys(harness: SchedulerHarness) -> None:
    keys = [(await harness.store.access.create_key(["ingest"]))[0].id for _ in range(3)]
    for item_id, key_ids in (("a", keys[:2]), ("b", keys[1:])):
        kept = DelayedMessage(message({item_id: item()}, message_id=item_id), Sender(), NOW_US, tuple(key_ids))
        await harness.store.agenda.delay("alice", item_id, kept.encode(), NOW_US + 10 * SECOND_US)
    for key in keys[:2]:
        await harness.store.access.delete_key(key)

    await harness.advance(10)

    assert await harness.live_ids() == ["b"]
    assert harness.metrics.delayed_refused.labels("forbidden")._value.get() == 1


async def test_delayed_message_of_an_expired_key_is_committed(
    harness: SchedulerHarness,
) -> None:
    """An expiry is planned, like a rotation: it must not drop an accepted message."""
    access, now_us = harness.store.access, harness.clock.now_us()
    expired, deleted = [
        (await access.create_key(["ingest"], now_us=now_us, expires_us=now_us + SECOND_US))[0].id for _ in range(2)
    ]
    for item_id, key in (("a", expired), ("b", deleted)):
        await delay(harness, message({item_id: item()}, message_id=item_id), 10, key_id=key)
    await harness.advance(5)
    await access.delete_key(deleted)

    await harness.advance(5)

    assert await harness.live_ids() == ["a"]


async def test_delayed_message_starts_no_deleted_user(
    harness: SchedulerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user is deleted between the read of the message and its commit."""
    key, _ = await harness.store.access.create_key(["ingest"])
    read_key = harness.store.access.key

    async def delete_first(key_id: str) -> ServiceKey | None:
        await harness.store.users.delete_user("alice", harness.clock.now_us())
        return await read_key(key_id)

    await delay(harness, message({"a": item()}, message_id="a"), 10, key_id=key.id)
    monkeypatch.setattr(harness.store.access, "key", delete_first)

    await harness.advance(10)

    assert await harness.store.users.heads(["alice"]) == [None]


async def test_rejected_delayed_message_is_counted_and_removed(harness: SchedulerHarness) -> None:
    await delay(harness, message({"a": item(created=NOW + 9_000)}, message_id="m"), 5)
    await delay(harness, {"system": "gregor", "body": {}, "id": "n"}, 5)

    await harness.advance(6)

    assert await harness.live_ids() == []
    assert harness.metrics.delayed_refused.labels("created_in_future")._value.get() == 1
    assert await harness.store.agenda.delayed("alice", "m") is None
    assert await harness.store.agenda.delayed("alice", "n") is None


async def test_ignored_creations_of_delayed_messages_are_counted_and_logged(harness: SchedulerHarness) -> None:
    """No caller waits for the receipt. A duplicate is not counted: its item exists."""
    await delay(harness, message({"a": item(), "b": item(), "c": item("sport"), "d": item()}, message_id="m"), 10)
    await harness.create("c", "d")
    await harness.submit(message(ids=["a", "b"]))

    with capture_logs() as logs:
        await harness.advance(11)

    counted = {reason: harness.metrics.delayed_ignored.labels(reason.value)._value.get() for reason in IgnoredReason}
    assert {reason: count for reason, count in counted.items() if count} == {
        IgnoredReason.DISMISSED: 2,
        IgnoredReason.CONFLICT: 1,
    }
    ignored = [line for line in logs if line["event"] == "delayed_message.ignored"]
    assert sorted((line["code"], line["reason"]) for line in ignored) == [
        ("conflict", "1 of 4 creations left no live item"),
        ("dismissed", "2 of 4 creations left no live item"),
    ]
    assert harness.metrics.delayed_refused.labels("conflict")._value.get() == 0


async def test_cleanup_is_throttled_and_spread(harness: SchedulerHarness) -> None:
    harness = await build(cleanup_limit=RateLimiter(0.001, 3))
    uids = [f"user{n}" for n in range(40)]
    for uid in uids:
        await harness.create("a", uid=uid, created=NOW)
        await harness.submit(message(ids=["a"]), uid=uid)
    harness.clock.advance(8 * DAY_US / SECOND_US)
    now_us = harness.clock.now_us()

    await harness.due_loop.run_due()

    entries = [await harness.store.users.item(uid, "a", BACKEND, NOW_US) for uid in uids]
    assert sum(entry is not None and entry.is_trimmed for entry in entries) == 3
    firsts = sorted(at_us for at_us in (await harness.store.agenda.next_due_times()).values() if at_us is not None)
    postponed = [at_us for at_us in firsts if at_us <= now_us + 600 * SECOND_US]
    assert len(postponed) >= 30 and postponed[-1] - postponed[0] > 200 * SECOND_US


async def test_absent_device_is_deleted_after_retention(harness: SchedulerHarness) -> None:
    await harness.store.devices.ensure_device("alice", "old", NOW_US)

    harness.clock.advance(LIMITS.retention_us / SECOND_US)
    await harness.due_loop.run_due()

    assert await harness.store.devices.list_devices("alice", harness.clock.now_us()) == {}
    assert await harness.store.agenda.due_work("alice", NOW_US + 10**15, 9) == []


@pytest.mark.parametrize("kind", ["remind", "expire"])
async def test_lateness_is_measured_from_due_time(harness: SchedulerHarness, kind: str) -> None:
    times: dict[str, Any] = {"remind": {"remind_at": ["+5"]}, "expire": {"expires": "+5"}}
    await harness.create("a", **times[kind])

    harness.clock.advance(7)
    await harness.due_loop.run_due()

    assert harness.metrics.lateness.labels(kind)._sum.get() == 2


async def test_concurrent_schedulers_execute_work_once(harness: SchedulerHarness) -> None:
    for n in range(30):
        await harness.create("a", uid=f"u{n}", remind_at=[NOW + 5])
    harness.announcements()
    harness.clock.advance(6)

    await asyncio.gather(harness.due_loop.run_due(), harness.due_loop.run_due())

    assert len(harness.announcements()) == 30
