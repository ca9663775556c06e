"""Whether a delayed message may still be committed: its senders can lose their rights while it waits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from gregor.core.ids import BACKEND
from gregor.core.messages.delayed import DelayedMessage

from .contract.access import Access, ServiceKey
from .contract.store import Store, Unavailable

PAUSE_S: Final = 1.0
"""After a failed read of a service key, one further read is tried in this time; every other one fails at once."""


class SenderKeys:
    """Reads the service keys of delayed messages, and fails at once while their shard is away.

    All keys of a deployment are on one shard. If each read waited for it, the users of delayed messages would take all
    places of the scheduler. ``monotonic`` returns seconds.
    """

    def __init__(self, access: Access, monotonic: Callable[[], float]) -> None:
        self._access = access
        self._monotonic = monotonic
        self._retry_at_s: float | None = None

    async def key(self, key_id: str) -> ServiceKey | None:
        """Return a service key, or ``None`` if it was deleted. Raises ``Unavailable``."""
        if self._retry_at_s is not None:
            now_s = self._monotonic()
            if now_s < self._retry_at_s:
                raise Unavailable(f"the service keys could not be read less than {PAUSE_S:g} s ago")
            self._retry_at_s = now_s + PAUSE_S
        try:
            found = await self._access.key(key_id)
        except Unavailable:
            self._retry_at_s = self._monotonic() + PAUSE_S
            raise
        self._retry_at_s = None
        return found


async def may_still_send(
    store: Store,
    uid: str,
    message: DelayedMessage,
    read_key: Callable[[str], Awaitable[ServiceKey | None]] | None = None,
) -> bool:
    """Return whether a key that sent the message still exists, or a device token that sent it is not revoked.

    ``read_key``: reads a service key (default: from the store).
    """
    read_key = read_key or store.access.key
    for key_id in reversed(message.key_ids):
        if await read_key(key_id) is not None:
            return True
    if not message.was_sent_without_key:
        return False
    if message.sender.device == BACKEND:
        return True
    revoked_us = await store.devices.revoked_before(uid, message.sender.device)
    return revoked_us is None or not message.is_revoked(revoked_us)
