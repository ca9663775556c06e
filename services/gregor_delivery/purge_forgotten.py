"""Users who were forgotten leave the queue too, whatever it is that what names them there waits for."""

from __future__ import annotations

from typing import Final

from gregor.clock import Clock
from gregor.core.limits import SECOND_US
from gregor.core.notify.intents import Intent
from gregor.store.contract.queue import DeliveryQueueReader
from gregor.store.contract.store import Store
from gregor.store.deleted_users import DELETED_USERS_KEPT_US, deleted_user_hash

SWEEP_S: Final = 20.0
"""How often it is looked; a user is out of the queues within a minute."""
LATE_US: Final = 90 * SECOND_US
"""So long after a user was forgotten somebody who still had one of its deliveries in hand may put it back."""


class ForgottenUserPurger:
    """Sweeps one queue."""

    def __init__(self, store: Store, queue: DeliveryQueueReader, clock: Clock) -> None:
        self._store = store
        self._queue = queue
        self._clock = clock
        self._since_us = DELETED_USERS_KEPT_US
        """How far back it is looked: at first as far as can be, for who was forgotten while nobody swept."""

    async def sweep(self) -> int:
        """Drop what is of users who were forgotten lately; how much. Raises ``Unavailable``."""
        forgotten = await self._store.users.deleted_since(self._clock.now_us() - self._since_us)
        dropped = 0
        if forgotten:

            async def is_over(intent: Intent) -> bool:
                return deleted_user_hash(intent.uid) in forgotten and not await self._is_known(intent)

            dropped = await self._queue.prune(is_over)
        self._since_us = LATE_US
        return dropped

    async def _is_known(self, intent: Intent) -> bool:
        """Whether the ledger knows it: then it is of one who has that name anew."""
        entries = await self._store.ledger.of_item(intent.uid, intent.item)
        return any(each.intent.key == intent.key for each in entries)
