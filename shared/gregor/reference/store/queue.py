"""Executable specification: never runs in production. The queue of a channel."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from gregor.core.limits import SECOND_US
from gregor.core.notify.intents import Intent
from gregor.store.contract.queue import DueIntents, QueuedIntent, QueueSizes


class MemoryQueueReader:
    """The contract of the queue reader in memory. ``monotonic``: seconds, for the idle time of claimed entries."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._numbers = itertools.count(1)
        self._fresh: deque[QueuedIntent] = deque()
        self._taken: dict[bytes, tuple[float, QueuedIntent]] = {}
        self._waiting: dict[Intent, int] = {}
        self._enqueued_s: dict[bytes, float] = {}
        self._came = asyncio.Event()

    async def enqueue(self, intents: Sequence[Intent], at_us: int = 0) -> list[Intent]:
        """Add intents to this channel; see ``contract.Deliveries.enqueue``."""
        if at_us:
            self._waiting.update(dict.fromkeys(intents, at_us))
        else:
            fresh = [QueuedIntent(str(next(self._numbers)).encode(), intent) for intent in intents]
            self._fresh.extend(fresh)
            self._enqueued_s |= {each.entry: self._monotonic() for each in fresh}
            self._came.set()
        return []

    async def remove_waiting(self, intents: Sequence[Intent]) -> None:
        """See ``contract.DeliveryQueueWriter.remove_waiting``."""
        for intent in intents:
            self._waiting.pop(intent, None)

    def waiting(self) -> dict[Intent, int]:
        """Return the postponed intents and their times (µs)."""
        return dict(self._waiting)

    async def claim(self, most: int, wait_s: float) -> list[QueuedIntent]:
        """See ``contract.Queue.claim``."""
        if not self._fresh:
            self._came.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._came.wait()
        return self._hold([self._fresh.popleft() for _ in range(min(most, len(self._fresh)))])

    async def reclaim(self, idle_s: float, most: int) -> list[QueuedIntent]:
        """See ``contract.Queue.reclaim``."""
        since_s = self._monotonic() - idle_s
        return self._hold([taken for at_s, taken in self._taken.values() if at_s <= since_s][:most])

    async def renew(self, taken: Sequence[QueuedIntent]) -> None:
        """See ``contract.Queue.renew``."""
        self._hold([each for each in taken if each.entry in self._taken])

    async def ack(self, taken: Sequence[QueuedIntent]) -> None:
        """See ``contract.Queue.ack``."""
        for each in taken:
            self._taken.pop(each.entry, None)
            self._enqueued_s.pop(each.entry, None)

    async def retry_later(self, taken: QueuedIntent, at_us: int) -> None:
        """See ``contract.Queue.retry_later``."""
        self._waiting[taken.intent] = at_us
        await self.ack([taken])

    async def enqueue_due(
        self, now_us: int, most: int, wait_s: Callable[[str], float] | None = None, most_examined: int = 0
    ) -> DueIntents:
        """See ``contract.Queue.enqueue_due``."""
        due = sorted((at_us, n, intent) for n, (intent, at_us) in enumerate(self._waiting.items()) if at_us <= now_us)
        available = delayed = 0
        for _, _, intent in due[: max(most, most_examined)]:
            later_s = 0.0 if wait_s is None else wait_s(intent.uid)
            if later_s > 0.0:
                self._waiting[intent] = now_us + round(later_s * SECOND_US)
                delayed += 1
            else:
                del self._waiting[intent]
                await self.enqueue([intent])
                available += 1
            if available == most:
                break
        return DueIntents(available, delayed)

    async def prune(self, is_over: Callable[[Intent], Awaitable[bool]]) -> int:
        """See ``contract.Queue.prune``."""
        entries = (*self._fresh, *(taken for _, taken in self._taken.values()))
        over = [each for each in entries if await is_over(each.intent)]
        late = [intent for intent in list(self._waiting) if await is_over(intent)]
        self._fresh = deque(each for each in self._fresh if each not in over)
        await self.ack(over)
        for intent in late:
            self._waiting.pop(intent, None)
        return len(over) + len(late)

    async def sizes(self, now_us: int) -> QueueSizes:
        """See ``contract.Queue.sizes``: nothing is quarantined."""
        oldest_s = min(self._enqueued_s.values(), default=self._monotonic())
        age_s = self._monotonic() - oldest_s
        return QueueSizes(len(self._fresh), len(self._taken), len(self._waiting), 0, age_s)

    async def close(self) -> None:
        """Do nothing."""

    def _hold(self, taken: list[QueuedIntent]) -> list[QueuedIntent]:
        now_s = self._monotonic()
        self._taken.update((each.entry, (now_s, each)) for each in taken)
        return taken
