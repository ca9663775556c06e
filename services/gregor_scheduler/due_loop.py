"""Finds what is due, takes it with a lease, has it done, takes it off the agenda: claim, act, settle.

Partitions are visited in a random order, so that schedulers side by side seldom meet; where they do, a claim gives each
user to one of them. Whoever dies leaves its users to the others when the lease is over. A user who takes long (an
aggregator that hangs, a queue that does not answer) is served to the end beside the next rounds: nobody waits for it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Final

import structlog

from gregor.clock import Clock
from gregor.core.limits import SECOND_US
from gregor.store.contract.agenda import Agenda, CompletedWork, DueWork
from gregor.store.contract.store import Unavailable

from .handlers.dispatch import Acts
from .metrics import Figures

_log = structlog.get_logger(__name__)

MOST_USERS: Final = 500
"""Users served at a time: what is done in a fraction of a lease even where Redis is slow."""
MOST_WORKS: Final = 64
"""Entries of a user's agenda done under one lease; the rest at the next claim."""
SIDE_BY_SIDE: Final = 32
"""Partitions claimed from, and users acted on, in one write."""
QUANTUM_S: Final = 0.1
"""The shortest between two looks, where nobody waits: a look costs the server a ms, whatever is due."""
SLOW_S: Final = 0.5
"""How long a round waits for the users that it serves."""
POLL_S: Final = 0.5
"""The longest between two looks: work that comes meanwhile may be due before all that was known."""
PAUSE_S: Final = 1.0
"""The pause after a store could not be reached."""


class Drain:
    """The loop over what is due, a slice of time for each tick.

    ``lease_us``: how long a claimed user is left to who claimed it; also how long what is held waits for the next try.
    """

    def __init__(self, agenda: Agenda, acts: Acts, clock: Clock, figures: Figures, lease_us: int) -> None:
        self._agenda = agenda
        self._lease_us = lease_us
        self._acts = acts
        self._clock = clock
        self._figures = figures
        self._turn = asyncio.Lock()
        self._serving: set[asyncio.Task[None]] = set()
        self._is_awaited = False
        self.is_stopping = False

    async def tick(self, for_s: float = 1.0) -> bool:
        """Do what is due, and what becomes due, for so many seconds; a tick that was slow never piles up others.

        The next tick takes over without a gap; where one waits for that already, a further one does nothing: ``False``,
        at once.
        """
        if self._is_awaited:
            return False
        self._is_awaited = True
        try:
            await self._turn.acquire()
        finally:
            self._is_awaited = False
        try:
            until_s = self._clock.monotonic() + for_s
            while not self.is_stopping:
                wait_s = await self._round()
                left_s = until_s - self._clock.monotonic()
                if left_s <= 0:
                    break
                await asyncio.sleep(min(wait_s, left_s))
        finally:
            self._turn.release()
        return True

    async def stop(self) -> None:
        """Take nothing more; returns when what was taken is done."""
        self.is_stopping = True
        async with self._turn:
            await self._end_serving()

    async def run_due(self) -> int:
        """Do all that is due now. How many users were due."""
        count = 0
        while True:
            taken, _ = await self._take()
            await self._end_serving()
            if not taken:
                return count
            count += taken

    async def _round(self) -> float:
        """Do what is due now; how long to wait for the next (s)."""
        try:
            with self._figures.tick_seconds.time():
                taken, wait_s = await self._take()
            return 0.0 if taken >= MOST_USERS else wait_s
        except Unavailable as trouble:
            _log.warning("The store cannot be reached; what is due waits.", reason=str(trouble))
            return PAUSE_S

    async def _take(self) -> tuple[int, float]:
        """Claim some of the users that are due, and act: how many, and how long until to look again (s)."""
        now_us = self._clock.now_us()
        firsts = await self._agenda.next_due_times()
        due = [partition for partition, at_us in enumerate(firsts) if at_us is not None and at_us <= now_us]
        oldest_us = min((at_us for at_us in firsts if at_us is not None), default=None)
        lag_us = 0 if oldest_us is None else max(0, now_us - oldest_us)
        self._figures.due_lag.set(lag_us / SECOND_US)
        if not due:
            next_s = POLL_S if oldest_us is None else (oldest_us - now_us) / SECOND_US
            return 0, min(POLL_S, max(QUANTUM_S, next_s))
        random.shuffle(due)
        taken = 0
        for start in range(0, len(due), SIDE_BY_SIDE):
            if self.is_stopping or taken >= MOST_USERS or len(self._serving) >= MOST_USERS:
                break
            taken += await self._visit(due[start : start + SIDE_BY_SIDE])
        return taken, QUANTUM_S

    async def _visit(self, partitions: Sequence[int]) -> int:
        """Claim from these partitions, and do what is due of who was claimed."""
        now_us = self._clock.now_us()
        lease_until_us = now_us + self._lease_us
        most = max(1, (MOST_USERS - len(self._serving)) // len(partitions))
        claims = (self._agenda.claim(partition, now_us, lease_until_us, most) for partition in partitions)
        uids = [uid for claimed in await asyncio.gather(*claims) for uid in claimed]
        tasks = [asyncio.create_task(self._serve(uid, lease_until_us)) for uid in uids]
        for task in tasks:
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        if tasks:
            ended, slow = await asyncio.wait(tasks, timeout=SLOW_S)
            for task in slow:
                task.add_done_callback(_tell_failure)
            errors = [error for task in ended if (error := task.exception()) is not None]
            if errors:
                raise errors[0]
        return len(uids)

    async def _end_serving(self) -> None:
        """Wait for whoever is being served."""
        while self._serving:
            await asyncio.wait(self._serving)

    async def _serve(self, uid: str, lease_until_us: int) -> None:
        """Do what is due of one user. What is held stays for the next try, and keeps nothing else waiting."""
        now_us = self._clock.now_us()
        done: list[CompletedWork] = []
        held: list[DueWork] = []
        acted = 0
        while True:
            works = await self._agenda.due_work(uid, now_us, MOST_WORKS, len(done) + len(held))
            outcome = await self._acts.do(uid, works)
            done += outcome.done
            held += outcome.held
            acted += len(works) - len(outcome.held)
            if len(works) < MOST_WORKS or acted >= MOST_WORKS:
                break
        await self._agenda.complete(uid, lease_until_us, done, held, lease_until_us)


def _tell_failure(task: asyncio.Task[None]) -> None:
    """What went wrong with a user for whom no round waited; the lease brings it back."""
    error = None if task.cancelled() else task.exception()
    if error is not None:
        _log.warning("Something due waits.", reason=f"{type(error).__name__}: {error}")
