"""The worker of one channel: takes what is to be told, many at a time, as long as its provider is well.

Nothing waits in a worker's hands: what is to be tried later goes to the due set of the queue. While the provider is
down nothing is taken, and so no attempt is burnt; another channel does not notice.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from gregor.core.limits import SECOND_US
from gregor.store.contract.queue import DeliveryQueueReader, QueuedIntent
from gregor.store.contract.store import Unavailable

from .attempt import BUDGET_US, FAILED_S, DeliveryContext, attempt, fail
from .purge_forgotten import SWEEP_S, ForgottenUserPurger
from .throttle.breaker import Permit

log = structlog.get_logger(__name__)

MOST_IN_FLIGHT: Final = 250
"""Of one channel and process; providers take far more, but what is taken here is not taken by another process."""
AT_ONCE: Final = 100
WAIT_S: Final = 0.5
"""How long one read waits for work; the longest that the end of a process waits for it."""
UPKEEP_S: Final = 0.25
"""How often it is looked whether something has waited long enough."""
RECLAIM_S: Final = 5.0
PARKED_S: Final = 2.0
"""When one looks again at what came while the provider was down."""
AWAY_S: Final = 1.0


class Worker:
    """One channel of one process."""

    def __init__(
        self, trade: DeliveryContext, queue: DeliveryQueueReader, most_in_flight: int = MOST_IN_FLIGHT
    ) -> None:
        self._trade = trade
        self._queue = queue
        self._most = most_in_flight
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()
        self._sweeper = ForgottenUserPurger(trade.store, queue, trade.clock)
        self._reclaim_at_s = 0.0
        self._was_stopped = False
        self._is_stopping = False

    async def run(self) -> None:
        """Take and tell until ``stop``; returns when what was taken has ended."""
        beside = [asyncio.create_task(self._keep_up()), asyncio.create_task(self._sweep())]
        try:
            while not self._is_stopping:
                try:
                    await self._round()
                except Unavailable as trouble:
                    log.warning("The queue cannot be reached.", channel=self._trade.name, reason=str(trouble))
                    await asyncio.sleep(AWAY_S)
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
        while self._tasks:
            await asyncio.wait(self._tasks)

    def stop(self) -> None:
        """Take nothing more: ``run`` comes to its end."""
        self._is_stopping = True

    async def _round(self) -> None:
        """Take as many as there is room for, and begin them."""
        self._ended.clear()
        self._show()
        room = self._room()
        if room == 0:
            await self._wait_for_room()
            return
        for taken in await self._queue.claim(min(room, AT_ONCE), WAIT_S):
            await self._enter(taken)

    def _room(self) -> int:
        now_s = self._trade.clock.monotonic()
        return self._trade.pace.room(self._trade.breaker.room(self._most - len(self._tasks), now_s), now_s)

    async def _wait_for_room(self) -> None:
        """Until something in flight ends, or the pace lets one go; or for a little, where the breaker is open."""
        wait_s = self._trade.pace.wait_s(self._trade.clock.monotonic())
        if wait_s > 0:
            await asyncio.sleep(min(wait_s, UPKEEP_S))
            return
        try:
            async with asyncio.timeout(UPKEEP_S):
                await self._ended.wait()
        except TimeoutError:
            pass

    async def _keep_up(self) -> None:
        """Bring back what has waited, and take over what the dead left."""
        while True:
            await asyncio.sleep(UPKEEP_S)
            try:
                await self._queue.enqueue_due(self._trade.clock.now_us(), 1_000)
                await self._reclaim()
            except Unavailable:
                await asyncio.sleep(AWAY_S)
            except Exception:
                log.exception("The upkeep of a queue failed.", channel=self._trade.name)

    async def _sweep(self) -> None:
        """Take out of the queue what is of users who were forgotten."""
        while True:
            try:
                await self._sweeper.sweep()
            except Unavailable:
                pass  # the next time
            except Exception:
                log.exception("The sweep of a queue failed.", channel=self._trade.name)
            await asyncio.sleep(SWEEP_S)

    async def _reclaim(self) -> None:
        now_s = self._trade.clock.monotonic()
        room = self._room()
        if now_s < self._reclaim_at_s or room == 0 or self._is_stopping:
            return
        self._reclaim_at_s = now_s + RECLAIM_S
        for taken in await self._queue.reclaim(self._trade.lease_s + RECLAIM_S, min(room, AT_ONCE)):
            await self._enter(taken)

    async def _enter(self, taken: QueuedIntent) -> None:
        """Begin it; or put it off, where the provider came to be left alone while this waited for work."""
        if self._room() == 0:
            await self._queue.retry_later(taken, self._trade.clock.now_us() + round(PARKED_S * SECOND_US))
            return
        self._trade.pace.began(self._trade.clock.monotonic())
        task = asyncio.create_task(self._bring_forward(taken, self._trade.breaker.began()))
        self._tasks.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._ended.set()

    async def _bring_forward(self, taken: QueuedIntent, turn: Permit) -> None:
        """One attempt; whatever happens, the intent stays in the queue or is over."""
        try:
            again_us = await self._attempt(taken, turn)
            if again_us is None:
                await self._queue.ack([taken])
            else:
                await self._queue.retry_later(taken, again_us)
        except Unavailable as trouble:
            # It is left in the queue: whoever finds it idle takes it over.
            self._trade.figures.failures.labels(self._trade.name).inc()
            log.warning("A delivery waits: a store cannot be reached.", channel=self._trade.name, reason=str(trouble))

    async def _attempt(self, taken: QueuedIntent, turn: Permit) -> int | None:
        try:
            return await attempt(self._trade, taken.intent, turn)
        except Unavailable:
            raise
        except Exception:
            self._trade.figures.failures.labels(self._trade.name).inc()
            log.exception("A delivery failed by itself; it is tried again.", channel=self._trade.name)
        try:
            return await fail(self._trade, taken.intent)
        except Unavailable:
            raise
        except Exception:
            # Not even the ledger can be written: nobody will ever be told more of this one than the log says.
            log.exception("What became of a delivery cannot be written down.", channel=self._trade.name)
            now_us = self._trade.clock.now_us()
            return now_us + round(FAILED_S * SECOND_US) if now_us < taken.intent.at_us + BUDGET_US else None

    def _show(self) -> None:
        """The state of the provider, as figures; and in the log where somebody must do something."""
        name, breaker = self._trade.name, self._trade.breaker
        self._trade.figures.parked.labels(name).set(breaker.is_open)
        self._trade.figures.stopped.labels(name).set(breaker.is_stopped)
        if breaker.is_stopped != self._was_stopped:
            self._was_stopped = breaker.is_stopped
            if breaker.is_stopped:
                log.error(
                    "A provider refuses our credentials or set-up: nothing is sent until that is mended.", channel=name
                )
            else:
                log.info("A provider takes us again.", channel=name)
