"""What the queue holds of users who were forgotten goes, whatever it waits for; and nothing else."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from gregor.core.notify.ledger import DeliveryState
from gregor.reference.store import MemoryQueueReader
from gregor_delivery.attempt import attempt
from gregor_delivery.channels.verdict import Retry
from gregor_delivery.purge_forgotten import LATE_US, ForgottenUserPurger
from gregor_delivery.worker import Worker
from tests.support.builders import HOUR_US, NOW_US, SECOND_US
from tests.support.wait import wait_until
from tests.unit.delivery.house import House


async def test_what_waits_of_a_forgotten_user_is_dropped_and_others_wait_on(house: House) -> None:
    queue = MemoryQueueReader(lambda: 0.0)
    intent = await house.create("a")
    of_bob = replace(intent, uid="bob")
    await queue.enqueue([intent, of_bob], NOW_US + HOUR_US)
    await queue.enqueue([intent])
    sweeper = ForgottenUserPurger(house.store, queue, house.clock)
    assert await sweeper.sweep() == 0

    await house.store.users.delete_user("alice", NOW_US)

    assert await sweeper.sweep() == 2
    assert queue.waiting() == {of_bob: NOW_US + HOUR_US}
    assert await queue.claim(9, 0.01) == []


async def test_what_is_put_back_soon_after_is_found_again(house: House) -> None:
    """By a worker that had it in hand, with a verdict that says: later."""
    queue = MemoryQueueReader(lambda: 0.0)
    intent = await house.create("a")
    sweeper = ForgottenUserPurger(house.store, queue, house.clock)
    await house.store.users.delete_user("alice", NOW_US)
    assert await sweeper.sweep() == 0
    await queue.enqueue([intent], NOW_US + HOUR_US)

    house.clock.advance(LATE_US / SECOND_US)
    assert await sweeper.sweep() == 1
    await queue.enqueue([intent], NOW_US + HOUR_US)
    house.clock.advance(1.0)
    assert await sweeper.sweep() == 0


async def test_a_sweeper_that_begins_looks_back_for_days(house: House) -> None:
    queue = MemoryQueueReader(lambda: 0.0)
    await queue.enqueue([await house.create("a")], NOW_US + 100 * HOUR_US)
    await house.store.users.delete_user("alice", NOW_US)
    house.clock.advance(47 * 3_600)

    assert await ForgottenUserPurger(house.store, queue, house.clock).sweep() == 1


async def test_who_has_the_name_anew_keeps_what_is_its_own(house: House) -> None:
    queue = MemoryQueueReader(lambda: 0.0)
    old = await house.create("old")
    await house.store.users.delete_user("alice", NOW_US)
    new = await house.create("new")
    await queue.enqueue([old, new], NOW_US + HOUR_US)

    assert await ForgottenUserPurger(house.store, queue, house.clock).sweep() == 1
    assert list(queue.waiting()) == [new]
    assert (await house.entry("new")).state is DeliveryState.PLANNED


async def test_a_worker_sweeps_its_queue(house: House) -> None:
    house.provider.verdicts = [Retry(600.0, "429", "TooManyRequests")]
    queue = MemoryQueueReader(house.clock.monotonic)
    intent = await house.create("a")
    again_us = await attempt(house.trade, intent)
    await queue.enqueue([intent], again_us or 0)
    await house.store.users.delete_user("alice", NOW_US)

    worker = Worker(house.trade, queue)
    running = asyncio.create_task(worker.run())
    await wait_until(lambda: queue.waiting() == {}, "it is swept")
    worker.stop()
    await running
