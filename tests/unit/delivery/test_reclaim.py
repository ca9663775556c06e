"""E-mails that a process has claimed in the queue: others reclaim them soon after its death, never while it sends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from gregor.core.notify.intents import Intent
from gregor.reference.store import MemoryQueueReader
from gregor.store.contract.queue import QueuedIntent
from gregor.store.contract.store import Unavailable
from gregor_delivery.__main__ import MAILS_IN_FLIGHT
from gregor_delivery.channels.smtp.channel import mail_deadline_s
from gregor_delivery.channels.smtp.pool import CONNECTIONS
from gregor_delivery.worker import RECLAIM_MARGIN_S, Worker
from tests.support.wait import wait_until
from tests.unit.delivery.harness import reach_first_reclaim
from tests.unit.delivery.mail_harness import DeliveryHarness, build

HELD_S = 35.0
"""Twice the deadline, and the margin."""


class RecordingQueue(MemoryQueueReader):
    """A queue that counts renewals and records what was reclaimed. ``fails``: postponing raises ``Unavailable``."""

    fails = False
    renewals = failures = 0

    def __init__(self, harness: DeliveryHarness) -> None:
        super().__init__(harness.clock.monotonic)
        self.reclaimed: list[Intent] = []

    async def reclaim(self, idle_s: float, most: int) -> list[QueuedIntent]:
        """Reclaim, and record the intents."""
        found = await super().reclaim(idle_s, most)
        self.reclaimed += [each.intent for each in found]
        return found

    async def renew(self, taken: Sequence[QueuedIntent]) -> None:
        """Renew, and count the intents."""
        await super().renew(taken)
        self.renewals += len(taken)

    async def retry_later(self, taken: QueuedIntent, at_us: int) -> None:
        """Postpone, unless Redis is away."""
        if self.fails:
            self.failures += 1
            raise Unavailable("the queue is away")
        await super().retry_later(taken, at_us)


@pytest.fixture
async def harness() -> DeliveryHarness:
    """The relay may take ten minutes for a mail."""
    harness = await build()
    harness.context = replace(harness.context, send_timeout_s=mail_deadline_s(600.0))
    return harness


async def due_mail(harness: DeliveryHarness) -> Intent:
    """Create an item, and return its mail, which is due."""
    await harness.create("a")
    harness.clock.advance(60)
    await harness.due.due_loop.run_due()
    [intent] = harness.handed()
    return intent


@asynccontextmanager
async def running(*workers: Worker) -> AsyncIterator[None]:
    """Run the workers."""
    tasks = [asyncio.create_task(worker.run()) for worker in workers]
    yield
    for worker in workers:
        worker.stop()
    await asyncio.gather(*tasks)


async def test_mail_of_a_dead_process_is_reclaimed_soon(harness: DeliveryHarness) -> None:
    """The mail never reached the relay, so it does not wait for the timeout of a slow relay."""
    queue = RecordingQueue(harness)
    await queue.enqueue([await due_mail(harness)])
    await queue.claim(1, 0.0)
    harness.clock.advance(HELD_S)

    worker = Worker(harness.context, queue)
    async with running(worker):
        await reach_first_reclaim(worker, harness.clock)
        await wait_until(lambda: harness.relay.mails, "the mail is sent")

    assert harness.context.claim_lease_s + RECLAIM_MARGIN_S == HELD_S
    assert await harness.outcome("a") == ("sent", None)


async def test_mail_that_could_not_be_postponed_is_reclaimed_soon(
    harness: DeliveryHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue was unavailable for a moment. The process lives, but no longer works on the mail."""
    queue, claim = RecordingQueue(harness), harness.store.ledger.claim

    async def fail(*_: object, **__: object) -> None:
        raise Unavailable("the store is away")

    monkeypatch.setattr(harness.store.ledger, "claim", fail)
    queue.fails = True
    worker = Worker(harness.context, queue)
    async with running(worker):
        await reach_first_reclaim(worker, harness.clock)
        await queue.enqueue([await due_mail(harness)])
        await wait_until(lambda: queue.failures, "the mail could not be postponed")
        monkeypatch.setattr(harness.store.ledger, "claim", claim)
        queue.fails = False
        harness.clock.advance(HELD_S)
        await wait_until(lambda: harness.relay.mails, "the mail is sent")


async def test_mail_with_a_slow_relay_stays_with_its_process(harness: DeliveryHarness) -> None:
    queue = RecordingQueue(harness)
    harness.relay.hold = asyncio.Event()
    await queue.enqueue([await due_mail(harness)])
    async with running(*(Worker(harness.context, queue) for _ in range(2))):
        await wait_until(lambda: harness.relay.mails, "the mail is on its way")
        for _ in range(60):
            before = queue.renewals
            harness.clock.advance(10)
            await wait_until(lambda: queue.renewals > before, "its process renews it")  # noqa: B023
        harness.relay.hold.set()

    assert (queue.reclaimed, queue.waiting(), len(harness.relay.mails)) == ([], {}, 1)
    assert await harness.outcome("a") == ("sent", None)


async def test_reclaimed_mail_that_is_with_a_relay_waits(harness: DeliveryHarness) -> None:
    """The process of the mail could not renew it. Attempts every second would use up the rate of the channel."""
    queue = RecordingQueue(harness)
    harness.relay.hold = asyncio.Event()
    intent = await due_mail(harness)
    await queue.enqueue([intent])
    holder = Worker(harness.context, queue)
    async with running(holder):
        await reach_first_reclaim(holder, harness.clock)
        await wait_until(lambda: harness.relay.mails, "the mail is on its way")
        holder._renew_at_s = float("inf")
        harness.clock.advance(HELD_S)
        await wait_until(lambda: queue.waiting(), "another attempt found the claim")

        assert queue.waiting() == {intent: harness.clock.now_us() + 30_000_000}
        harness.relay.hold.set()
    assert (await harness.entries("a"))[0].n == len(harness.relay.mails) == 1


def test_no_claimed_mail_waits_for_a_connection() -> None:
    """If the process died, such a mail would wait as long as a mail that the relay may have accepted."""
    assert MAILS_IN_FLIGHT <= CONNECTIONS
