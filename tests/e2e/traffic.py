"""Continuous writers, and devices that record their changes, for tests that break something meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any, Self

from gregor.client import AsyncProducer, Created, Device, DeviceTimings, ExternalReceived
from gregor.client.changes import Dismissed, ExternalGap
from gregor.client.messages import creation, dismissal
from tests.support.cluster import Cluster
from tests.support.wait import wait_until

QUICK = DeviceTimings(first_delay_s=0.05, max_delay_s=0.5)
CATEGORIES = ("mail", "mail.spam", "user.joined")


class Watcher:
    """A live device that counts how often each item came and went, and each external message."""

    def __init__(self, urls: Sequence[str], token: str, **options: Any) -> None:
        self.device = Device(urls, token, timings=QUICK, **options)
        self.created: Counter[str] = Counter()
        self.dismissed: Counter[str] = Counter()
        self.external: list[Any] = []
        self.gaps = 0
        self._changes = self.device.changes()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.device.__aenter__()
        self._task = asyncio.create_task(self._watch())
        await self.device.wait_until_synced()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.device.__aexit__(None, None, None)
        if self._task is not None:
            await self._task

    async def converges(self, producer: AsyncProducer, uid: str, name: str, timeout_s: float = 30) -> None:
        """Wait until its copy has the server's digest and its reader has received every change."""

        async def is_equal() -> bool:
            state = await producer.state(uid, device=name)
            return bool(self.device.digest == state["digest"] and self.received_items == state["items"].keys())

        await wait_until(is_equal, f"{name} has the server's digest", timeout_s)

    @property
    def received_items(self) -> set[str]:
        """Return the item ids according to the changes that the reader received."""
        return set((self.created - self.dismissed).keys())

    async def _watch(self) -> None:
        async for change in self._changes:
            match change:
                case Created():
                    self.created[change.id] += 1
                case Dismissed():
                    self.dismissed[change.id] += 1
                case ExternalReceived():
                    self.external.append(change.body)
                case ExternalGap():
                    self.gaps += 1


class Traffic:
    """Creations, dismissals and external messages for one user by several concurrent writers, until `stop`.

    `acknowledged`: messages that the server accepted. `dismissed`: item ids that a writer has dismissed.
    """

    def __init__(self, producers: Sequence[AsyncProducer], uid: str, writers: int = 4, external_every: int = 0) -> None:
        self.acknowledged: set[str] = set()
        self.dismissed: set[str] = set()
        self.external: list[int] = []
        self._producers = producers
        self._uid = uid
        self._writers = writers
        self._external_every = external_every
        self._numbers = itertools.count()
        self._is_over = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._write(number)) for number in range(self._writers)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_over = True
        await asyncio.gather(*self._tasks)

    async def go_on(self, messages: int) -> None:
        """Wait until so many more messages are acknowledged."""
        goal = len(self.acknowledged) + messages
        await wait_until(lambda: len(self.acknowledged) >= goal, f"{messages} more messages are taken", 60)

    async def _write(self, writer: int) -> None:
        dice = random.Random(writer)
        own: list[str] = []
        while not self._is_over:
            number = next(self._numbers)
            producer = self._producers[number % len(self._producers)]
            id_ = f"w{writer}-{number}"
            await producer.send(self._uid, creation(id_, dice.choice(CATEGORIES), {"n": number}))
            self.acknowledged.add(id_)
            own.append(id_)
            if len(own) > 20:
                gone = own.pop(dice.randrange(len(own)))
                await producer.send(self._uid, dismissal([gone]))
                self.dismissed.add(gone)
            if self._external_every and number % self._external_every == 0:
                await producer.send(self._uid, {"system": "kbfs", "body": number})
                self.external.append(number)


def producers_of(cluster: Cluster) -> list[AsyncProducer]:
    """A backend for each ingest, patient enough for a restart of the store."""
    return [AsyncProducer(url, cluster.key, timeout=120) for url in cluster.ingest_urls]
