"""Verdicts that arrive while the store is unavailable: they wait for it, and nothing is sent again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from gregor.core.limits import SECOND_US
from gregor.core.notify.intents import Intent
from gregor.core.notify.ledger import DeliveryHistory, DeliveryRecord, DeliveryState
from gregor.reference.store import MemoryQueueReader, MemoryStore
from gregor.reference.store.devices import MemoryDevices
from gregor.reference.store.ledger import MemoryLedger
from gregor.store.contract.devices import Registration
from gregor.store.contract.queue import DueIntents, QueuedIntent
from gregor.store.contract.store import Store, Unavailable, UnreadableValue
from gregor.store.redis.errors import StoreFull
from gregor_delivery import attempt as attempts
from gregor_delivery import worker as workers
from gregor_delivery.attempt import FORGET_RETRY_S, attempt
from gregor_delivery.channels.verdict import RecipientGone
from gregor_delivery.worker import RECLAIM_AFTER_OUTAGE_S, VERDICT_WAIT_S, Worker
from tests.support.wait import wait_until
from tests.unit.delivery.harness import DeliveryHarness, FakeChannel
from tests.unit.delivery.mail_harness import build as build_mail

LONG_S = 10_000.0
"""Longer than any claim."""


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "STORE_RETRY_S", 0.01)
    monkeypatch.setattr(workers, "STORE_RETRY_S", 0.01)
    monkeypatch.setattr(workers, "POLL_TIMEOUT_S", 0.1)
    monkeypatch.setattr(workers, "MAINTENANCE_INTERVAL_S", 0.01)


class UnavailableLedger(MemoryLedger):
    """A ledger that can be unavailable when an outcome is written. Counts the refused writes."""

    def __init__(self, other: MemoryLedger, error: Unavailable | None = None) -> None:
        self.__dict__.update(other.__dict__)
        self.is_away = True
        self.refused = 0
        self._error = error or Unavailable("the ledger is away")

    async def record_outcome(
        self,
        delivery: DeliveryRecord,
        place: str,
        state: DeliveryState,
        history: DeliveryHistory,
        *,
        counts: bool = True,
    ) -> bool:
        if self.is_away:
            self.refused += 1
            raise self._error
        return await super().record_outcome(delivery, place, state, history, counts=counts)


class UnavailableDevices(MemoryDevices):
    """Devices that can be unavailable when a push token is deleted. Counts the refused deletions."""

    def __init__(self, other: MemoryDevices) -> None:
        self.__dict__.update(other.__dict__)
        self.is_unavailable = True
        self.refused = 0

    async def remove_push(self, uid: str, device: str, registration: Registration) -> bool:
        if self.is_unavailable:
            self.refused += 1
            raise Unavailable("the devices are unavailable")
        return await super().remove_push(uid, device, registration)


class QueueOfProcess(MemoryQueueReader):
    """The view that one process has of a queue. It can be unavailable."""

    def __init__(self, other: MemoryQueueReader) -> None:
        self.__dict__.update(other.__dict__)
        self.is_away = False
        self.rounds = self.renewals = self.refused = 0
        self.reclaimed: list[Intent] = []

    def _check(self) -> None:
        if self.is_away:
            self.refused += 1
            raise Unavailable("the queue is away")

    async def claim(self, most: int, timeout_s: float) -> list[QueuedIntent]:
        """Claim, unless Redis is away."""
        self._check()
        return await super().claim(most, timeout_s)

    async def enqueue_due(self, *arguments: Any) -> DueIntents:
        """Enqueue due intents, and count the rounds of the maintenance."""
        self._check()
        self.rounds += 1
        return await super().enqueue_due(*arguments)

    async def reclaim(self, idle_s: float, most: int) -> list[QueuedIntent]:
        """Reclaim, and record the intents."""
        self._check()
        found = await super().reclaim(idle_s, most)
        self.reclaimed += [each.intent for each in found]
        return found

    async def renew(self, taken: Sequence[QueuedIntent]) -> None:
        """Renew, unless Redis is away."""
        self._check()
        await super().renew(taken)
        self.renewals += len(taken)

    async def ack(self, taken: Sequence[QueuedIntent]) -> None:
        """Remove the intents, unless Redis is away."""
        self._check()
        await super().ack(taken)

    async def retry_later(self, taken: QueuedIntent, at_us: int) -> None:
        """Postpone, unless Redis is away."""
        self._check()
        await super().retry_later(taken, at_us)

    async def maintain(self) -> None:
        """Wait until the process has done some rounds of its maintenance."""
        before = self.rounds
        await wait_until(lambda: self.rounds >= before + 3, "some rounds of the maintenance")


def unavailable(store: Store, error: Unavailable | None = None) -> UnavailableLedger:
    """Let the store be unavailable for outcomes from now on."""
    assert isinstance(store, MemoryStore)
    ledger = store._ledger = UnavailableLedger(store.ledger, error)
    return ledger


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("the connection is lost"),
        Unavailable("READONLY You can't write against a read only replica."),
        StoreFull("OOM command not allowed when used memory > 'maxmemory'."),
    ],
    ids=["lost", "readonly", "oom"],
)
async def test_verdict_waits_longer_than_its_claim(harness: DeliveryHarness, error: Unavailable) -> None:
    ledger = unavailable(harness.store, error)
    sending = asyncio.create_task(attempt(harness.context, await harness.create("a")))
    await wait_until(lambda: ledger.refused, "the verdict waits")
    harness.clock.advance(LONG_S)
    refused = ledger.refused
    await wait_until(lambda: sending.done() or ledger.refused > refused + 2, "the verdict still waits")
    ledger.is_away = False

    assert await sending is None
    assert ((await harness.outcome("a"))[0], len(harness.provider.pushes)) == (DeliveryState.SENT, 1)


async def test_message_is_retried_if_its_recipient_cannot_be_deleted(harness: DeliveryHarness) -> None:
    """The attempt ends: the shard of the recipients may be away for hours, and other users need the places."""
    assert isinstance(harness.store, MemoryStore)
    devices = harness.store._devices = UnavailableDevices(harness.store.devices)
    gone = RecipientGone("410", "Unregistered")
    harness.provider.verdicts = [gone, gone]
    intent = await harness.create("a")
    async with asyncio.timeout(5):
        again_us = await attempt(harness.context, intent)
    assert again_us is not None
    assert again_us >= harness.clock.now_us() + FORGET_RETRY_S * SECOND_US
    assert ((await harness.outcome("a"))[0], devices.refused) == (DeliveryState.RETRY, 1)

    devices.is_unavailable = False
    harness.clock.advance(60)
    assert await attempt(harness.context, intent) is None
    assert (await harness.outcome("a"), len(harness.provider.pushes)) == ((DeliveryState.DEAD, "device_gone"), 2)
    registration = await devices.registration("alice", "phone")
    assert registration is not None and registration.push is None


async def test_delivery_that_expires_before_its_recipient_can_be_deleted_is_recorded_as_gone(
    harness: DeliveryHarness,
) -> None:
    assert isinstance(harness.store, MemoryStore)
    harness.store._devices = UnavailableDevices(harness.store.devices)
    harness.provider.verdicts = [RecipientGone("410", "Unregistered")]

    assert await attempt(harness.context, await harness.create("a", expires="+20s")) is None
    assert await harness.outcome("a") == (DeliveryState.DEAD, "device_gone")


async def test_verdict_of_each_delivery_of_a_mail_waits() -> None:
    harness = await build_mail()
    await harness.create("a")
    await harness.create("b")
    harness.clock.advance(60)
    await harness.due.due_loop.run_due()
    ledger = unavailable(harness.store)
    first, *_ = harness.handed()
    sending = asyncio.create_task(attempt(harness.context, first))
    await wait_until(lambda: ledger.refused >= 2, "both verdicts wait")
    harness.clock.advance(LONG_S)
    refused = ledger.refused
    await wait_until(lambda: sending.done() or ledger.refused > refused + 4, "both verdicts still wait")
    ledger.is_away = False

    assert await sending is None
    assert [await harness.outcome(each) for each in "ab"] == [("sent", None)] * 2
    assert len(harness.relay.mails) == 1


async def test_verdict_of_an_unreadable_delivery_ends_with_its_claim(harness: DeliveryHarness) -> None:
    """The store is not away: the delivery stays unreadable until this process is upgraded."""
    ledger = unavailable(harness.store, UnreadableValue("delivery", 200))
    sending = asyncio.create_task(attempt(harness.context, await harness.create("a")))
    await wait_until(lambda: ledger.refused, "the verdict waits")
    harness.clock.advance(harness.context.lease_s)

    with pytest.raises(UnreadableValue):
        await sending


async def test_waiting_verdict_is_written_before_claims_are_reclaimed(harness: DeliveryHarness) -> None:
    ledger, queue = unavailable(harness.store), MemoryQueueReader(harness.clock.monotonic)
    mine, other = queues = QueueOfProcess(queue), QueueOfProcess(queue)
    processes = [Worker(harness.context, each) for each in queues]
    other.is_away = True
    running = [asyncio.create_task(process.run()) for process in processes]
    await queue.enqueue([await harness.create("a")])
    await wait_until(lambda: ledger.refused, "the verdict waits")
    other.is_away = False
    await other.maintain()
    harness.clock.advance(RECLAIM_AFTER_OUTAGE_S)
    await other.maintain()

    mine.is_away = other.is_away = True
    refused = other.refused
    await wait_until(lambda: other.refused > refused + 3, "both processes notice the outage")
    harness.clock.advance(LONG_S)
    other.is_away = False
    await other.maintain()
    assert other.reclaimed == []
    mine.is_away = ledger.is_away = False
    await wait_until(lambda: mine.renewals or not queue._taken, "the process has its queue entry again")
    harness.clock.advance(RECLAIM_AFTER_OUTAGE_S)
    await other.maintain()

    for process in processes:
        process.stop()
    await asyncio.gather(*running)
    assert (await harness.entry("a")).state is DeliveryState.SENT
    assert (len(harness.provider.pushes), other.reclaimed) == (1, [])


async def test_new_process_reclaims_nothing_at_once(harness: DeliveryHarness) -> None:
    """It may have been started by the outage that others wait for."""
    queue = QueueOfProcess(MemoryQueueReader(harness.clock.monotonic))
    await queue.enqueue([await harness.create("a")])
    await queue.claim(1, 0.0)
    harness.clock.advance(LONG_S)
    worker = Worker(harness.context, queue)
    running = asyncio.create_task(worker.run())
    await queue.maintain()
    assert queue.reclaimed == []

    harness.clock.advance(RECLAIM_AFTER_OUTAGE_S)
    await wait_until(lambda: harness.provider.pushes, "the push of the dead process is sent")
    worker.stop()
    await running


async def test_waiting_verdicts_leave_their_places_and_are_bounded(harness: DeliveryHarness) -> None:
    """One shard may be away for hours. The users of the others need the places."""
    ledger, queue = unavailable(harness.store), MemoryQueueReader(harness.clock.monotonic)
    users, pushes = [f"u{n}" for n in range(7)], harness.provider.pushes
    await queue.enqueue([await harness.create_for(uid) for uid in users])
    worker = Worker(harness.context, queue, max_in_flight=2)
    running = asyncio.create_task(worker.run())
    for sent in (2, 4, 4):
        await wait_until(lambda: len(worker._tasks) == sent, "all places are used")  # noqa: B023
        refused = ledger.refused
        await wait_until(lambda: ledger.refused > refused + 9, "the verdicts wait")  # noqa: B023
        assert len(pushes) == sent
        harness.clock.advance(VERDICT_WAIT_S)

    ledger.is_away = False
    await wait_until(lambda: len(pushes) == len(users), "all pushes are sent")
    worker.stop()
    await running
    assert sorted(push.uid for push in pushes) == users


async def test_process_with_a_waiting_verdict_ends_at_the_end_of_its_drain(harness: DeliveryHarness) -> None:
    ledger, queue = unavailable(harness.store), MemoryQueueReader(harness.clock.monotonic)
    await queue.enqueue([await harness.create("a")])
    worker = Worker(harness.context, queue)
    running = asyncio.create_task(worker.run())
    await wait_until(lambda: ledger.refused, "the verdict waits")
    worker.replace_channel(FakeChannel())
    worker.stop()
    running.cancel()

    async with asyncio.timeout(5):
        await asyncio.gather(running, return_exceptions=True)
        await worker.close_channel()
    for task in worker._tasks:
        task.cancel()
