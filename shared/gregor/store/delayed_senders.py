"""Whether a delayed message may still be committed: its senders can lose their rights while it waits."""

from __future__ import annotations

from gregor.core.ids import BACKEND
from gregor.core.messages.delayed import DelayedMessage

from .contract.store import Store


async def may_still_send(store: Store, uid: str, message: DelayedMessage) -> bool:
    """Return whether a key that sent the message still exists, or a device token that sent it is not revoked."""
    for key_id in reversed(message.key_ids):
        if await store.access.key(key_id) is not None:
            return True
    if not message.was_sent_without_key:
        return False
    if message.sender.device == BACKEND:
        return True
    revoked_us = await store.devices.revoked_before(uid, message.sender.device)
    return revoked_us is None or not message.is_revoked(revoked_us)
