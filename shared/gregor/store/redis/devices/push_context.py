"""Push contexts in Redis: one script reads everything that decides a push.

Other places have the same rules: see semantics.md, "Where each rule lives".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from gregor.core.ids import Prefixes, is_allowed
from gregor.core.items.sync import StoredItem, View, cursor_for
from gregor.redis.commands import RedisCommands, Script
from gregor.store.contract.push_context import NO_LIMIT, PushContext
from gregor.store.contract.store import Unavailable
from gregor.store.gateways import LiveGateways
from gregor.store.redis import scripts
from gregor.store.redis.contacts import decode_contact, decode_preferences
from gregor.store.redis.delivery.ledger import decode_withdrawals
from gregor.store.redis.errors import result_of
from gregor.store.redis.keys import Keys
from gregor.store.redis.users.record_codec import NO_HEAD, decode_head, decode_live

from .device_codec import decode_acknowledged, decode_registration, leases_of, presence_of

_MAX_ATTEMPTS: Final = 8
"""Attempts to read between commits of due work. Two are usual; more mean that clocks differ widely."""
_WOKEN_FIELDS: Final = 64
"""Fields of the hash of withdrawals that say when a device was woken: one for each device and channel."""


class RedisPushContexts:
    """``PushContexts`` over one Redis-protocol server. ``commit_due`` commits the due work of a user."""

    def __init__(
        self,
        connection: RedisCommands,
        keys: Keys,
        gateways: LiveGateways,
        commit_due: Callable[[str, int], Awaitable[Any]],
    ) -> None:
        self._gateways = gateways
        self._connection = connection
        self._keys = keys
        self._commit_due = commit_due
        self._scene = scripts.load(*scripts.PUSH_CONTEXT)

    @property
    def all_scripts(self) -> tuple[Script, ...]:
        """The scripts of this part, for ``RedisStore.prepare``."""
        return (self._scene,)

    async def read(
        self,
        uid: str,
        device: str,
        channel: str,
        item: str,
        now_us: int,
        *,
        most_counted: int = NO_LIMIT,
        most_waiting: int = NO_LIMIT,
    ) -> PushContext | None:
        """See ``PushContexts.read``."""
        # A withdrawal has two fields, and a device that was woken has one.
        most_fields = 2 * most_waiting + _WOKEN_FIELDS
        arguments = (str(now_us), device, item, str(most_counted), channel, str(most_fields))
        keys = self._keys.of_user(uid).push_context
        for _ in range(_MAX_ATTEMPTS):
            reply = await result_of(self._connection.evalsha(self._scene, keys, arguments))
            if not reply:
                return None
            if len(reply) > 1:
                return _read(uid, device, channel, item, now_us, reply, self._gateways)
            await self._commit_due(uid, now_us)
        raise Unavailable(f"due work remained after {_MAX_ATTEMPTS} commits; check that the clocks of all hosts agree")


def _read(
    uid: str, device: str, channel: str, item: str, now_us: int, reply: Sequence[Any], gateways: LiveGateways
) -> PushContext:
    raw_known, presence, acks, contact, preferences, withdrawals, raw_head, counts, record, seq, is_complete = reply
    known, head = decode_registration(raw_known), decode_head(raw_head) if raw_head else NO_HEAD
    leases = leases_of(presence).get(device, ())
    registration = known.registration
    return PushContext(
        registration,
        presence_of((known,), leases, now_us, gateways),
        dict(decode_acknowledged(device.encode(), acks)),
        decode_contact(contact),
        decode_preferences(preferences),
        decode_withdrawals(uid, device, channel, withdrawals, is_complete=bool(is_complete)),
        _item(item, int(seq), record) if record else None,
        None if counts == b"" else _counts(counts, registration.push_filter),
        cursor_for(head.epoch, View(device, registration.push_filter), head.seq),
    )


def _counts(reply: Sequence[Any], category_filter: Prefixes) -> dict[str, int]:
    counts = {reply[i].decode(): reply[i + 1] for i in range(0, len(reply), 2)}
    return {category: count for category, count in counts.items() if is_allowed(category_filter, category)}


def _item(item: str, seq: int, record: bytes) -> StoredItem:
    return decode_live(item, seq, record).stored()
