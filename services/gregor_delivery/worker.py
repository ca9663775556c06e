"""The delivery worker of one channel: takes intents from the queue and attempts many of them concurrently.

A worker keeps nothing for later: an intent that must wait goes back to the queue's due set. While the circuit breaker
is open the worker takes nothing, so no attempt is wasted, and the other channels are not affected. While the store
cannot be reached, the worker limits its attempts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any, Final

import structlog

from gregor.core.limits import SECOND_US
from gregor.store.contract.queue import NONE_DUE, DeliveryQueueReader, DueIntents, QueuedIntent
from gregor.store.contract.store import Unavailable

from .attempt import INTERNAL_ERROR_RETRY_S, RETRY_BUDGET_US, DeliveryContext, attempt, fail
from .channels.contract import DeliveryChannel
from .purge_forgotten import PURGE_INTERVAL_S, ForgottenUserPurger
from .throttle.breaker import Permit
from .throttle.rate_turns import RateTurns
from .throttle.store_outage import StoreOutage
from .throttle.user_places import PLACES_OF_USER, UserPlaces

log = structlog.get_logger(__name__)

MAX_IN_FLIGHT: Final = 250
"""Concurrent attempts of one channel in one process. Providers accept far more, but an intent that waits here cannot be
taken by another process."""
BATCH_SIZE: Final = 100
POLL_TIMEOUT_S: Final = 4.0
"""How long one read of the queue waits; also the longest delay of a shutdown by an idle worker.
Each channel sends one command for each wait."""
MAINTENANCE_INTERVAL_S: Final = 0.25
"""Pause between two checks for due retries."""
RETRY_PAUSE_S: Final = 0.01
FIRST_RETRIES: Final = 4
MAX_RETRIES: Final = 250
"""Retries that are due together are enqueued in parts, with this pause between them.

Each part has one retry more than the part before, so 1,000 take 0.4 s. Enqueued together, 30 retries held the event
loop for 7 ms, and new deliveries waited behind them."""
MAX_EXAMINED: Final = 1_000
"""Retries that are examined together while most of them must wait longer: 3 ms of Redis."""
RECLAIM_INTERVAL_S: Final = 10.0
RECLAIM_MARGIN_S: Final = 5.0
"""Time after the end of its lease for which an intent still belongs to the worker that claimed it."""
RECLAIM_AFTER_OUTAGE_S: Final = 5.0
"""Time without reclaims after the queue was unavailable, and after the start of a process.

The leases of intents end in an outage, but their workers may be alive. These reconnect within 2 s, and then write the
verdicts that waited."""
RENEW_INTERVAL_S: Final = RECLAIM_MARGIN_S / 2.5
"""Pause between two renewals of the intents whose attempts take longer, such as e-mails with a slow relay.

An intent is reclaimed only after the margin, which has time for two renewals."""
SIZES_INTERVAL_S: Final = 30.0
"""Pause between two reads of the sizes of the queue, for the metrics: five commands."""
PARKED_RETRY_S: Final = 2.0
"""Delay of an intent that was taken while the breaker opened."""
STORE_RETRY_S: Final = 1.0
VERDICT_WAIT_S: Final = 2.0
"""Time after its verdict for which an attempt keeps its place. A longer write of a verdict waits for Redis."""


class Worker:
    """Worker of one channel in one process."""

    def __init__(
        self,
        context: DeliveryContext,
        queue: DeliveryQueueReader,
        max_in_flight: int = MAX_IN_FLIGHT,
        may_claim: Callable[[], bool] = lambda: True,
    ) -> None:
        """`may_claim`: false while the clock is wrong; the worker then takes and makes available no intents."""
        self._context = context
        self._queue = queue
        self._max_in_flight = max_in_flight
        self._may_claim = may_claim
        self._tasks: dict[asyncio.Task[None], tuple[QueuedIntent, float, Permit]] = {}
        """The attempts in flight, in the order of their start: intent, start, permit."""
        self._replacing: set[asyncio.Task[None]] = set()
        self._attempt_ended = asyncio.Event()
        self._purger = ForgottenUserPurger(context.store, queue, context.clock)
        self._outage = StoreOutage()
        self._rate = RateTurns(context.rate_limiter)
        self._places = UserPlaces(context.name)
        self._renew_at_s = self._reclaim_at_s = 0.0
        self._has_queue_returned = True
        """Whether the queue has just become available, after an outage or after the start of this process."""
        self._was_stopped = False
        self._is_stopping = False

    # --- main loop ---

    async def run(self) -> None:
        """Work until `stop` is called; returns when all attempts in flight have ended."""
        work = (self._maintain_queue(), self._purge_forgotten(), self._publish_sizes())
        background = [asyncio.create_task(each) for each in work]
        try:
            while not self._is_stopping:
                try:
                    await self._take_batch()
                except Unavailable as error:
                    self._context.log_failure("delivery.queue_unavailable", reason=str(error))
                    await asyncio.sleep(STORE_RETRY_S)
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
        while self._tasks:
            await asyncio.wait(self._tasks)

    def stop(self) -> None:
        """Take no further intents: `run` drains and returns."""
        self._is_stopping = True

    def replace_channel(self, channel: DeliveryChannel[Any]) -> None:
        """Start further attempts with another open channel of the same provider, which has new credentials.

        The old channel is closed when its attempts have ended.
        """
        before, self._context = self._context.channel, replace(self._context, channel=channel)
        if before is not None:
            closing = asyncio.create_task(_close_after(set(self._tasks), before))
            self._replacing.add(closing)
            closing.add_done_callback(self._replacing.discard)

    async def close_channel(self) -> None:
        """Close the channel and the replaced channels. Attempts are in flight only if `run` was cancelled."""
        if self._context.channel is not None:
            await self._context.channel.close()
        if self._tasks:
            # The time of the drain is over, and a verdict may wait for the store without end.
            for closing in self._replacing:
                closing.cancel()
        await asyncio.gather(*self._replacing, return_exceptions=bool(self._tasks))

    async def _take_batch(self) -> None:
        """Take as many intents as there is capacity for, and start their attempts."""
        self._attempt_ended.clear()
        self._update_metrics()
        capacity = self._capacity()
        if capacity == 0:
            await self._wait_for_capacity()
            return
        await self._start(await self._queue.claim(min(capacity, BATCH_SIZE), POLL_TIMEOUT_S))

    def _capacity(self) -> int:
        if not self._may_claim():
            return 0
        now_s = self._context.clock.monotonic()
        free = self._context.breaker.capacity(self._free_places(now_s), now_s)
        return self._outage.capacity(self._rate.capacity(free, now_s), now_s)

    def _free_places(self, now_s: float) -> int:
        """Return how many attempts may start.

        Attempts that wait to write their verdict leave their places to others, because one shard may be away for hours.
        As many verdicts may wait as attempts may be in flight: they need memory.
        """
        since_s = now_s - VERDICT_WAIT_S
        old = takewhile(lambda each: each[1] <= since_s, self._tasks.values())
        verdicts_s = (permit.verdict_at_s for *_, permit in old)
        waiting = sum(1 for at_s in verdicts_s if at_s is not None and at_s <= since_s)
        return self._max_in_flight - len(self._tasks) + min(waiting, self._max_in_flight)

    async def _wait_for_capacity(self) -> None:
        """Wait until an attempt ends or the rate limiter refills; at most `MAINTENANCE_INTERVAL_S`."""
        wait_s = self._rate.wait_s(self._context.clock.monotonic()) or MAINTENANCE_INTERVAL_S
        try:
            async with asyncio.timeout(min(wait_s, MAINTENANCE_INTERVAL_S)):
                await self._attempt_ended.wait()
        except TimeoutError:
            pass

    # --- one intent ---

    async def _start(self, claimed: Sequence[QueuedIntent]) -> None:
        """Start an attempt of each intent, and put back those that have to wait."""
        if not self._may_claim():
            # The clock went wrong during the read and cannot date retries. The intents are reclaimed after the lease.
            return
        # Pipelined into one write: a failing device may have a thousand.
        await asyncio.gather(
            *(
                self._queue.retry_later(queued, self._context.clock.now_us() + round(wait_s * SECOND_US))
                for queued in claimed
                if (wait_s := self._start_one(queued)) > 0.0
            )
        )

    def _start_one(self, queued: QueuedIntent) -> float:
        """Start an attempt. Returns 0.0; or the seconds to wait if it was not started.

        It has to wait if the breaker opened while the read waited, or if its receiver is failing, or if its user has no
        free place. It also waits if another user's intent should probe first, or should use the rate of the channel.
        """
        now_s, receiver = self._context.clock.monotonic(), (queued.intent.uid, queued.intent.device)
        breaker = self._context.breaker
        parked_s = PARKED_RETRY_S if self._capacity() == 0 else breaker.wait_s(now_s, receiver[0])
        place_s, share_s = self._places.wait_s(receiver[0]), self._rate.wait_for_share_s(receiver[0], now_s)
        shared_s = self._outage.wait_s(receiver, now_s) or parked_s
        wait_s = shared_s or place_s or share_s
        if wait_s == 0.0:
            permit = breaker.acquire(receiver[0], now_s)
            permit.turn = self._rate.start(queued.intent.uid)
            self._places.start(receiver[0])
            self._outage.start(receiver, now_s)
            task = asyncio.create_task(self._process(queued, permit))
            self._tasks[task] = queued, now_s, permit
            task.add_done_callback(self._on_done)
        # A closed breaker pauses single users. If the rate of the channel is used up, a user with two devices waits for
        # the share, too.
        elif (not breaker.is_open and breaker.wait_s(now_s, receiver[0]) > 0.0) or (
            shared_s == 0.0 and (place_s > 0.0 or self._rate.attempts_of(receiver[0]) >= PLACES_OF_USER)
        ):
            self._context.user_waits.add(receiver[0], now_s)
        return wait_s

    def _on_done(self, task: asyncio.Task[None]) -> None:
        queued, *_ = self._tasks.pop(task)
        self._places.end(queued.intent.uid)
        self._attempt_ended.set()

    async def _process(self, queued: QueuedIntent, permit: Permit) -> None:
        """Attempt the delivery once; the intent then leaves the queue or waits in it."""
        clock, receiver = self._context.clock, (queued.intent.uid, queued.intent.device)
        try:
            again_us = await self._attempt(queued, permit)
            self._outage.end(receiver, clock.monotonic())
        except Unavailable as error:
            self._context.metrics.failures.labels(self._context.name).inc()
            self._context.log_failure("delivery.store_unavailable", reason=str(error))
            wait_s = self._outage.fail(error, receiver, clock.monotonic())
            again_us = clock.now_us() + round(wait_s * SECOND_US)
        try:
            if again_us is None:
                await self._queue.ack([queued])
            else:
                await self._queue.retry_later(queued, again_us)
        except Unavailable as error:
            # The intent stays claimed in the queue. A worker reclaims it after its lease, which ends without a renewal.
            self._context.metrics.failures.labels(self._context.name).inc()
            self._context.log_failure("delivery.queue_unavailable", reason=str(error))

    async def _attempt(self, queued: QueuedIntent, permit: Permit) -> int | None:
        try:
            return await attempt(self._context, queued.intent, permit)
        except Unavailable:
            raise
        except Exception:
            self._context.metrics.failures.labels(self._context.name).inc()
            self._context.log_failure("delivery.attempt_failed", "exception", retry_s=INTERNAL_ERROR_RETRY_S)
        try:
            return await fail(self._context, queued.intent)
        except Unavailable:
            raise
        except Exception:
            # The ledger cannot record this delivery: the log is the only trace of it.
            self._context.log_failure("delivery.record_failed", "exception")
            now_us = self._context.clock.now_us()
            is_over = now_us >= queued.intent.at_us + RETRY_BUDGET_US
            return None if is_over else now_us + round(INTERNAL_ERROR_RETRY_S * SECOND_US)

    # --- background tasks ---

    async def _maintain_queue(self) -> None:
        """Requeue due retries, renew the intents of this worker, and reclaim those of dead ones."""
        pause_s, retries, examined = MAINTENANCE_INTERVAL_S, FIRST_RETRIES, FIRST_RETRIES
        while True:
            await asyncio.sleep(pause_s)
            try:
                await self._renew()
                due = await self._enqueue_due(retries, examined)
                is_full = due.available + due.delayed >= retries
                # Retries of users above their pace cost little, and must not delay the retries behind them.
                examined = MAX_EXAMINED if due.delayed > due.available else retries
                pause_s = RETRY_PAUSE_S if is_full else MAINTENANCE_INTERVAL_S
                retries = min(retries + 1, MAX_RETRIES) if is_full else FIRST_RETRIES
                await self._reclaim()
            except Unavailable:
                self._has_queue_returned = True
                await asyncio.sleep(STORE_RETRY_S)
            except Exception:
                log.exception("delivery.maintenance_failed", channel=self._context.name)

    async def _enqueue_due(self, most: int, most_examined: int) -> DueIntents:
        """Make due retries available; the retries of users above their pace wait longer."""
        if not self._may_claim():
            return NONE_DUE
        clock, pace = self._context.clock, self._context.waiting_pace
        now_us, now_s = clock.now_us(), clock.monotonic()
        return await self._queue.enqueue_due(now_us, most, lambda uid: pace.wait_s(uid, now_s), most_examined)

    async def _renew(self) -> None:
        """Extend the leases of the intents in flight. If that fails, no mail is lost: the ledger decides."""
        now_s = self._context.clock.monotonic()
        if now_s < self._renew_at_s:
            return
        # Most attempts end before their first renewal, and cost no command.
        await self._queue.renew(
            [queued for queued, since_s, _ in self._tasks.values() if now_s - since_s >= RENEW_INTERVAL_S]
        )
        self._renew_at_s = now_s + RENEW_INTERVAL_S

    async def _reclaim(self) -> None:
        now_s = self._context.clock.monotonic()
        capacity = self._capacity()
        if capacity == 0 or self._is_stopping:
            return
        if self._has_queue_returned:
            self._has_queue_returned = False
            self._reclaim_at_s = now_s + RECLAIM_AFTER_OUTAGE_S
        if now_s < self._reclaim_at_s:
            return
        self._reclaim_at_s = now_s + RECLAIM_INTERVAL_S
        idle_s = self._context.claim_lease_s + RECLAIM_MARGIN_S
        most = min(capacity, BATCH_SIZE)
        reclaimed = await self._queue.reclaim(idle_s, most)
        if len(reclaimed) == most:
            self._reclaim_at_s = now_s  # there may be thousands after an outage
        await self._start(reclaimed)

    async def _purge_forgotten(self) -> None:
        while True:
            try:
                await self._purger.purge()
            except Unavailable:
                pass  # the next purge covers the same time
            except Exception:
                log.exception("delivery.purge_failed", channel=self._context.name)
            await asyncio.sleep(PURGE_INTERVAL_S)

    async def _publish_sizes(self) -> None:
        while True:
            try:
                sizes = await self._queue.sizes(self._context.clock.now_us())
            except Unavailable:
                pass  # the metrics keep the last known sizes; the worker reports the outage
            except Exception:
                log.exception("delivery.sizes_failed", channel=self._context.name)
            else:
                self._context.metrics.use_sizes(self._context.name, sizes)
            await asyncio.sleep(SIZES_INTERVAL_S)

    def _update_metrics(self) -> None:
        """Publish the breaker's state, and log when the provider starts or stops rejecting our credentials."""
        name, breaker = self._context.name, self._context.breaker
        self._context.metrics.parked.labels(name).set(breaker.is_open)
        self._context.metrics.in_flight.labels(name).set(len(self._tasks))
        self._context.metrics.stopped.labels(name).set(breaker.is_stopped)
        if breaker.is_stopped != self._was_stopped:
            self._was_stopped = breaker.is_stopped
            if breaker.is_stopped:
                log.error("delivery.channel_stopped", channel=name, fix="correct the credentials or the settings")
            else:
                log.info("delivery.channel_resumed", channel=name)


async def _close_after(attempts: set[asyncio.Task[None]], channel: DeliveryChannel[Any]) -> None:
    try:
        if attempts:
            await asyncio.wait(attempts)
    finally:
        await channel.close()
