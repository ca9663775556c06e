"""Due work while one shard is unreachable, hangs or is full: other users, and other work, are not affected."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gregor.core.messages.delayed import DelayedMessage
from gregor.core.messages.model import Sender
from gregor.core.notify.ledger import PlannedDeliveries
from gregor.core.rate_limit import RateLimiter
from gregor.store.contract.agenda import Agenda, DueWork
from gregor.store.contract.devices import Registration
from gregor.store.contract.store import Unavailable
from gregor_scheduler.due_loop import SLOW_CLAIM_S, DueLoop
from gregor_scheduler.handlers.dispatch import MAX_WORK, DueHandlers
from tests.support.builders import NOW, NOW_US, SECOND_US, item, message
from tests.support.wait import wait_until
from tests.unit.scheduler.conftest import LEASE_US, SchedulerHarness, build

AWAY, HERE = "alice", [f"u{n}" for n in range(40)]


class ShardedAgenda:
    """An agenda in which the partition of ``AWAY`` is on another server."""

    def __init__(self, agenda: Agenda, away: int) -> None:
        self._agenda = agenda
        self.away = away
        self.is_known_away = False
        self.claim_away: Callable[[], Awaitable[None]] = unavailable
        self.claims_away = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._agenda, name)

    async def next_due_times(self) -> dict[int, int | None]:
        times = await self._agenda.next_due_times()
        if self.is_known_away:
            del times[self.away]
        return times

    async def claim(self, partition: int, *arguments: int) -> list[str]:
        if partition == self.away:
            self.claims_away += 1
            await self.claim_away()
        return await self._agenda.claim(partition, *arguments)


async def unavailable() -> None:
    raise Unavailable("the shard is away")


async def due_users(harness: SchedulerHarness) -> tuple[ShardedAgenda, DueLoop]:
    """Make a reminder due for each user. Returns the agenda, and a due loop on it."""
    await harness.create("a", uid=AWAY, remind_at=[NOW + 5])
    [away] = [each for each, at_us in (await harness.store.agenda.next_due_times()).items() if at_us is not None]
    for uid in HERE:
        await harness.create("a", uid=uid, remind_at=[NOW + 5])
    harness.announcements()
    harness.clock.advance(6)
    agenda = ShardedAgenda(harness.store.agenda, away)
    handlers = DueHandlers(harness.context, RateLimiter(1e9, 1_000_000))
    return agenda, DueLoop(agenda, handlers, harness.clock, harness.metrics, LEASE_US)


async def test_unknown_partition_is_counted_and_skipped(harness: SchedulerHarness) -> None:
    agenda, due_loop = await due_users(harness)
    agenda.is_known_away = True

    await due_loop.run_due()

    assert len(harness.announcements()) == len(HERE) and agenda.claims_away == 0
    assert harness.metrics.due_unknown._value.get() == 1


async def test_failing_claim_leaves_the_others_served(
    harness: SchedulerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    agenda, due_loop = await due_users(harness)
    # The failing partition comes first, in the first of two batches.
    monkeypatch.setattr(random, "shuffle", lambda due: due.sort(key=lambda partition: partition != agenda.away))

    with pytest.raises(Unavailable):
        await due_loop.run_due()
    await due_loop.stop()

    assert len(harness.announcements()) == len(HERE)


async def test_hanging_claim_delays_only_its_own_users(harness: SchedulerHarness) -> None:
    agenda, due_loop = await due_users(harness)
    answered = asyncio.Event()
    agenda.claim_away = lambda: answered.wait()  # type: ignore[assignment,return-value]
    began_s = asyncio.get_running_loop().time()

    ticking = asyncio.create_task(due_loop.tick(for_s=60))
    await wait_until(lambda: len(harness.payloads) >= len(HERE), "the users of the other shards got their reminders")
    assert asyncio.get_running_loop().time() - began_s < 4 * SLOW_CLAIM_S
    await harness.create("b", uid=HERE[0], remind_at=[NOW + 5])
    await wait_until(lambda: len(harness.payloads) >= len(HERE) + 2, "a later reminder of the other shards")
    assert agenda.claims_away == 1, "no second claim waits for the same server"
    answered.set()
    await wait_until(lambda: len(harness.payloads) >= len(HERE) + 3, "the late claim is served")
    await due_loop.stop()
    await ticking


class HangingUsers:
    """Due work of users, of which those not in ``HERE`` wait for a server until ``answered``."""

    def __init__(self, agenda: Agenda, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answered = asyncio.Event()
        self.waiting: list[str] = []
        self._due_work = agenda.due_work
        monkeypatch.setattr(agenda, "due_work", self.due_work)

    async def due_work(self, uid: str, *arguments: int) -> list[DueWork]:
        if uid not in HERE:
            self.waiting.append(uid)
            await self.answered.wait()
        return await self._due_work(uid, *arguments)


async def remind(harness: SchedulerHarness, *uids: str) -> None:
    """Make a reminder due for each user."""
    for uid in uids:
        await harness.create("a", uid=uid, remind_at=[NOW + 5])
    harness.announcements()


async def test_users_who_wait_for_a_dead_shard_leave_their_places_to_others(
    harness: SchedulerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them waits 2.5 s: also those whose server ended after the claim, or who need another shard."""
    monkeypatch.setattr("gregor_scheduler.due_loop.MAX_USERS", 8)
    users, away = HangingUsers(harness.store.agenda, monkeypatch), [f"away{n}" for n in range(16)]
    await remind(harness, *away)
    harness.clock.advance(6)
    ticking = asyncio.create_task(harness.due_loop.tick(for_s=60))
    await wait_until(lambda: len(users.waiting) == len(away), "all places are taken")
    await remind(harness, *HERE)

    await wait_until(lambda: len(harness.payloads) >= len(HERE), "the users of the other shards got their reminders")
    users.answered.set()
    await wait_until(lambda: len(harness.payloads) >= len(HERE) + len(away), "the others got theirs")
    await harness.due_loop.stop()
    await ticking


async def test_users_who_wait_for_a_dead_shard_do_not_delay_further_partitions(
    harness: SchedulerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round claims 32 partitions at a time. It must not wait for the users of one batch before the next."""
    monkeypatch.setattr("gregor_scheduler.due_loop.SLOW_USER_S", 60.0)
    users, away = HangingUsers(harness.store.agenda, monkeypatch), [f"away{n}" for n in range(100)]
    await remind(harness, *away, *HERE)
    harness.clock.advance(6)

    running = asyncio.create_task(harness.due_loop.run_due())
    await wait_until(lambda: len(harness.payloads) >= len(HERE), "the users of the other shards got their reminders")
    users.answered.set()
    await running

    assert len(harness.announcements()) == len(HERE) + len(away)


async def test_user_who_is_still_served_after_the_lease_is_not_served_twice(
    harness: SchedulerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under overload, the second execution would take the time that the first one lacks."""
    users = HangingUsers(harness.store.agenda, monkeypatch)
    await harness.create("a", uid=AWAY, remind_at=[NOW + 5, NOW + 50])
    harness.announcements()
    harness.clock.advance(6)
    ticking = asyncio.create_task(harness.due_loop.tick(for_s=1e6))
    await wait_until(lambda: users.waiting == [AWAY], "the user is served")

    harness.clock.advance(LEASE_US / SECOND_US + 1)
    await remind(harness, *HERE)
    await wait_until(lambda: len(harness.payloads) >= len(HERE), "a later round served the others")
    users.answered.set()
    await wait_until(lambda: len(harness.payloads) > len(HERE), "the reminder fired")
    await harness.due_loop.stop()
    await ticking
    assert users.waiting == [AWAY] and len(harness.announcements()) == len(HERE) + 1

    times = await harness.store.agenda.next_due_times()
    assert NOW_US + 50 * SECOND_US in times.values(), "the end of the work released the renewed lease"


class FullLedger:
    """A ledger on a server that refuses what needs memory. Counts the refusals."""

    def __init__(self) -> None:
        self.refusals = 0

    async def plan(self, *_: Any) -> PlannedDeliveries:
        self.refusals += 1
        assert self.refusals < 100, "an attempt makes the user due again at once, without end"
        raise Unavailable("OOM command not allowed")


async def full_server(monkeypatch: pytest.MonkeyPatch) -> tuple[SchedulerHarness, FullLedger]:
    """Return a scheduler with pushes that fall due after a second, on a server that is full."""
    harness, ledger = await build({"told": {"title": "News", "push": {"after": "1s"}}}), FullLedger()
    await harness.store.devices.put_device(
        "alice", "phone", Registration(push={"provider": "apns", "token": "t1"}), NOW_US
    )
    monkeypatch.setattr(harness.store.ledger, "plan", ledger.plan)
    return harness, ledger


@pytest.mark.parametrize("count", [3, MAX_WORK + 3])
async def test_user_of_a_full_server_is_tried_once_a_lease(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Their due times are the oldest: if they were due again at once, they would take the places of the others."""
    harness, ledger = await full_server(monkeypatch)
    await harness.create(*(f"i{n}" for n in range(count)), category="told")
    reads, due_work = list[int](), harness.store.agenda.due_work

    async def counted(uid: str, now_us: int, most: int, skip: int = 0) -> list[DueWork]:
        reads.append(skip)
        return await due_work(uid, now_us, most, skip)

    monkeypatch.setattr(harness.store.agenda, "due_work", counted)
    await harness.advance(1 + 2 * LEASE_US / SECOND_US, 0.5)

    assert ledger.refusals == 3, "at once, and at the end of each lease"
    assert len(reads) == 3 * (count // MAX_WORK + 1)


@pytest.mark.parametrize("count", [3, MAX_WORK + 3])
async def test_full_server_still_expires_and_reminds(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Expiries free the memory that the others wait for, so they must not wait behind them."""
    harness, _ = await full_server(monkeypatch)
    await harness.create(*(f"i{n}" for n in range(count)), category="told", expires=NOW + 20)
    await harness.create("r", "s", remind_at=[NOW + 10])
    harness.announcements()

    await harness.advance(11)
    assert harness.announced() == ["remind r +10", "remind s +10"]
    await harness.advance(10)
    assert await harness.live_ids() == ["r", "s"]
    assert harness.published() == []


async def test_unreachable_user_is_tried_once_a_lease(
    harness: SchedulerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind of work would wait for the same server in turn."""
    await harness.create("a", remind_at=[NOW + 5], expires=NOW + 6)
    calls = list[str]()

    async def fail(uid: str, *_: Any) -> None:
        calls.append(uid)
        assert len(calls) < 100, "an attempt makes the user due again at once, without end"
        raise Unavailable("the shard is away")

    monkeypatch.setattr(harness.store.users, "commit", fail)
    monkeypatch.setattr(harness.store.users, "commit_due", fail)
    await harness.advance(8, 0.5)

    assert calls == ["alice", "alice"], "the reminder, then whether the shard answers"


async def test_shard_of_the_service_keys_is_asked_once_while_it_is_away(
    harness: SchedulerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look-up waits for seconds. Users who wait for it would take the places of those of the other shards."""
    access = harness.store.access
    key, read_key, reads = (await access.create_key(["ingest"]))[0].id, access.key, list[str]()
    document = message({"a": item()}, message_id="m")
    for uid in HERE:
        kept = DelayedMessage(document, Sender(), NOW_US, (key,)).encode()
        await harness.store.agenda.delay(uid, "m", kept, NOW_US + 5 * SECOND_US)
    await harness.create("r", uid=HERE[0], remind_at=[NOW + 5])
    harness.announcements()

    async def fail(key_id: str) -> None:
        reads.append(key_id)
        raise Unavailable("the shard is away")

    monkeypatch.setattr(access, "key", fail)
    await harness.advance(6)
    assert len(reads) == 1 and harness.announced() == ["remind r +5"]
    monkeypatch.setattr(access, "key", read_key)
    await harness.advance(LEASE_US / SECOND_US)

    assert len(harness.announcements()) == len(HERE)
