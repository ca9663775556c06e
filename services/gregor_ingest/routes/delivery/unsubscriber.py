"""Unsubscriptions by links, paced for each user: anyone who has a link can send it again and again.

An objection must hold, so no request is refused. Requests that wait share one change of the preferences.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from gregor.clock import Clock, monotonic_us
from gregor.cooperative import KeyedSemaphore
from gregor.core.messages.cost import text_weight
from gregor.core.rate_limit import Bucket, LocalBuckets
from gregor.store.contract.contacts import Contacts

UNITS_A_SECOND: Final = 50.0
"""The pace of a user, in units of ``text_weight`` beyond the first. A change of 159 KB is followed by a 0.4 s pause."""


@dataclass(frozen=True, slots=True)
class _Change:
    """A change of preferences that has not begun. Further requests add their categories."""

    categories: dict[str, None]
    task: asyncio.Task[None]


class Unsubscriber:
    """Ends e-mails of users. In one process, one task at a time changes the preferences of a user."""

    def __init__(self, contacts: Contacts, clock: Clock) -> None:
        self._contacts = contacts
        self._clock = clock
        self._turns = KeyedSemaphore(1)
        self._spent = LocalBuckets()
        self._waiting: dict[str, _Change] = {}

    async def end_mails(self, uid: str, categories: Iterable[str]) -> None:
        """Unsubscribe a user from mails of these categories (``Contacts.end_mails``), after the pause if there is one.

        Raises ``Unavailable``.
        """
        change = self._waiting.get(uid)
        if change is None:
            ended: dict[str, None] = {}
            change = self._waiting[uid] = _Change(ended, asyncio.create_task(self._run(uid, ended)))
        change.categories.update(dict.fromkeys(categories))
        # The change serves other requests, too: it must not end with this one.
        await asyncio.shield(change.task)

    async def _run(self, uid: str, categories: dict[str, None]) -> None:
        bucket = (Bucket(uid, UNITS_A_SECOND, 1),)
        async with self._turns.of(uid):
            try:
                await asyncio.sleep(self._spent.take(bucket, 0, monotonic_us(self._clock)).wait_s)
            finally:
                # A later request needs another change: this one would miss its categories.
                del self._waiting[uid]
            weight = text_weight(await self._contacts.preferences_bytes(uid))
            await self._contacts.end_mails(uid, tuple(categories))
            self._spent.charge(bucket, weight - 1, monotonic_us(self._clock))
