"""Removes the intents of deleted users from a delivery queue, including those that wait for a retry."""

from __future__ import annotations

from typing import Final

from gregor.clock import Clock
from gregor.core.limits import SECOND_US
from gregor.core.notify.intents import Intent
from gregor.store.contract.queue import DeliveryQueueReader
from gregor.store.contract.store import Store
from gregor.store.deleted_users import DELETED_USERS_KEPT_US, user_id_hash

PURGE_INTERVAL_S: Final = 20.0
"""Pause between two purges: a deleted user leaves the queues within a minute."""
LATE_US: Final = 90 * SECOND_US
"""How long after a deletion a worker with an intent of that user in flight may still put it back into the queue."""


class ForgottenUserPurger:
    """Purges one queue."""

    def __init__(self, store: Store, queue: DeliveryQueueReader, clock: Clock) -> None:
        self._store = store
        self._queue = queue
        self._clock = clock
        # The first purge covers every deletion on record: no worker may have run since.
        self._since_us = clock.now_us() - DELETED_USERS_KEPT_US

    async def purge(self) -> int:
        """Remove the intents of users deleted lately and return how many were removed. Raises `Unavailable`."""
        started_us = self._clock.now_us()
        deleted = await self._store.users.deleted_since(self._since_us)
        removed = 0
        if deleted:

            async def is_of_deleted_user(intent: Intent) -> bool:
                return user_id_hash(intent.uid) in deleted and not await self._is_in_ledger(intent)

            removed = await self._queue.prune(is_of_deleted_user)
        # Not set after a failure: the next purge then covers the time of the failed purges, too.
        self._since_us = started_us - LATE_US
        return removed

    async def _is_in_ledger(self, intent: Intent) -> bool:
        """Return whether the ledger has the intent: it then belongs to a new user with the same id."""
        records = await self._store.ledger.of_item(intent.uid, intent.item)
        return any(each.intent.key == intent.key for each in records)
