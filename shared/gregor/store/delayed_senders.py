"""Whether a delayed message may still be committed: its senders can lose their rights while it waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Final

from gregor.cooperative import for_each
from gregor.core.ids import BACKEND
from gregor.core.messages.cost import senders_weight
from gregor.core.messages.delayed import DelayedMessage, decode_delayed_senders
from gregor.core.rate_limit import Bucket

from .contract.access import Access, ServiceKey
from .contract.agenda import CLAIMED
from .contract.store import Store, Unavailable

PAUSE_S: Final = 1.0
"""After a failed read of a service key, one further read is tried in this time; every other one fails at once."""
CHECK_INTERVAL_S: Final = 10.0
"""Seconds between two checks of the waiting messages of a user. 1 MiB of them take some 15 ms."""
PART_BYTES: Final = 262_144
"""A check reads so many bytes of messages at once, or one message. Redis and the process keep a copy of each."""

Charge = Callable[[int], Awaitable[None]]
"""Charges a weight to the sender of a message, even if its bucket then has less than nothing."""
ReadKey = Callable[[str], Awaitable[ServiceKey | None]]


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


async def may_still_send(store: Store, uid: str, message: DelayedMessage, read_key: ReadKey | None = None) -> bool:
    """Return whether a key that sent the message still exists, or a device token that sent it is not revoked.

    ``read_key``: reads a service key (default: from the store).
    """
    return await _Rights(store, uid, read_key or store.access.key).may_send(message)


class FullUsers:
    """Makes room in the delayed messages of full users: it checks one user at a time.

    One batch can name 200 full users at once, with 1 MiB of messages each.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._uid: str | None = None
        self._is_checked = asyncio.Event()

    async def make_room(self, uid: str, now_us: int, charge: Charge | None) -> bool:
        """Return whether there may be room for another message of this user. Raises ``Unavailable``.

        The messages of a batch come at once: each message of one user can use the room that one check makes.
        Other users get none meanwhile.
        """
        if self._uid is not None:
            if self._uid != uid:
                return False
            await self._is_checked.wait()
            return True
        self._uid, self._is_checked = uid, asyncio.Event()
        try:
            return await _cancel_dropped(self._store, uid, now_us, charge)
        finally:
            self._uid = None
            self._is_checked.set()


async def _cancel_dropped(store: Store, uid: str, now_us: int, charge: Charge | None) -> bool:
    """Cancel the waiting messages that would be dropped at their time. Returns whether there were any.

    They are looked for at most once in ``CHECK_INTERVAL_S`` for each user.
    """
    bucket = Bucket(f"delayed-senders/{uid}", 1 / CHECK_INTERVAL_S, 1)
    if (await store.access.take_all(uid, (bucket,), 1, now_us)).wait_s > 0:
        return False
    sizes = await store.agenda.delayed_sizes(uid)
    if charge is not None:
        await charge(senders_weight(len(sizes), sum(sizes.values())))
    rights, has_cancelled = _Rights(store, uid, store.access.key), False
    for message_ids in _parts(sizes):
        has_cancelled |= await _cancel_dropped_of(store, uid, message_ids, rights)
    return has_cancelled


async def _cancel_dropped_of(store: Store, uid: str, message_ids: list[str], rights: _Rights) -> bool:
    # A claimed message is being committed.
    stored = [raw for raw in await store.agenda.list_delayed(uid, message_ids) if not raw.startswith(CLAIMED)]
    waiting: list[tuple[bytes, DelayedMessage]] = []
    await for_each(stored, lambda raw: waiting.append((raw, decode_delayed_senders(raw))))
    has_cancelled = False
    for raw, message in waiting:
        if not await rights.may_send(message):
            # Not if it changed since it was read: a sender with rights may have repeated it.
            has_cancelled |= await store.agenda.cancel_delayed(uid, message.id, raw)
    return has_cancelled


def _parts(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Divide ids into parts with ``PART_BYTES`` at most, or with one id."""
    part: list[str] = []
    left = PART_BYTES
    for message_id, size in sizes.items():
        if part and size > left:
            yield part
            part, left = [], PART_BYTES
        part.append(message_id)
        left -= size
    if part:
        yield part


class _Rights:
    """Looks each key and device up once. A right that is lost never returns."""

    def __init__(self, store: Store, uid: str, read_key: ReadKey) -> None:
        self._store = store
        self._uid = uid
        self._read_key = read_key
        self._has_key: dict[str, bool] = {}
        self._revoked_us: dict[str, int | None] = {}

    async def may_send(self, message: DelayedMessage) -> bool:
        """See ``may_still_send``."""
        for key_id in reversed(message.key_ids):
            if key_id not in self._has_key:
                self._has_key[key_id] = await self._read_key(key_id) is not None
            if self._has_key[key_id]:
                return True
        if not message.was_sent_without_key:
            return False
        device = message.sender.device
        if device == BACKEND:
            return True
        if device not in self._revoked_us:
            self._revoked_us[device] = await self._store.devices.revoked_before(self._uid, device)
        revoked_us = self._revoked_us[device]
        return revoked_us is None or not message.is_revoked(revoked_us)
