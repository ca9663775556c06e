"""Comparing the stored digests of a user with the stored items; see ``contract.Users.wrong_digests``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gregor.core.items.digest import add, digest_items
from gregor.core.items.sync import View
from gregor.redis.commands import RedisCommands, Script
from gregor.store.redis import scripts
from gregor.store.redis.errors import result_of
from gregor.store.redis.keys import Keys

from .record_codec import NO_HEAD, LiveRecord, decode_head, decode_live, record_kind


class RedisDigestCheck:
    """Reads the digests and live items of a user in one step, so that a concurrent commit causes no difference."""

    def __init__(self, connection: RedisCommands, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys
        self._read = scripts.load(*scripts.READ_DIGESTS)

    @property
    def all_scripts(self) -> tuple[Script, ...]:
        """The scripts of this part, for ``RedisStore.prepare``."""
        return (self._read,)

    async def wrong_digests(self, uid: str) -> list[str]:
        """See ``Users.wrong_digests``."""
        keys = self._keys.of_user(uid)
        names = keys.state, keys.live, keys.devices
        reply = await result_of(self._connection.evalsha(self._read, names, ()))
        return _wrong(*reply) if reply else []


def _wrong(
    raw_head: bytes | None, devices: Sequence[bytes], lanes: Sequence[Any], ids: Sequence[bytes], records: Sequence[Any]
) -> list[str]:
    head = decode_head(raw_head) if raw_head else NO_HEAD
    # An id of the live index without a live record is in no sum: the digest shows the difference.
    live = [
        decode_live(item_id.decode(), 0, raw)
        for item_id, raw in zip(ids, records, strict=True)
        if raw and record_kind(raw) == b"L"
    ]
    views = {
        name.decode(): add(head.digest, raw) if raw else head.digest for name, raw in zip(devices, lanes, strict=True)
    }
    return [device for device, stored in views.items() if stored != _digest(live, View(device))]


def _digest(live: Sequence[LiveRecord], view: View) -> bytes:
    # The leaf in a record is not used: it may be the wrong value.
    return digest_items((each.id, each.item.json()) for each in live if each.is_in(view))
