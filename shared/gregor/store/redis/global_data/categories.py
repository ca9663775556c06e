"""Category entries in Redis: one hash of the last versions, and a publication for each new one.

A set is small and rarely read: by each process at its start and after each change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gregor.redis.commands import RedisCommands, Script
from gregor.store.contract.store import KEPT_VERSIONS, CategorySet
from gregor.store.documents import decode_document
from gregor.store.redis import scripts
from gregor.store.redis.errors import result_of
from gregor.store.redis.keys import Keys


class _StoredCategories(msgspec.Struct):
    """The stored value of a version."""

    applied_us: int
    entries: dict[str, Any]


_DECODER: Final = msgspec.json.Decoder(_StoredCategories)


class RedisCategories:
    """``Categories`` over one Redis-protocol server."""

    def __init__(self, connection: RedisCommands, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys
        self._apply = scripts.load("deployment/apply_categories")

    @property
    def all_scripts(self) -> tuple[Script, ...]:
        """The scripts of this part, for ``RedisStore.prepare``."""
        return (self._apply,)

    async def version(self) -> int:
        """See ``Categories.version``."""
        return int(await result_of(self._connection.call("HGET", self._keys.categories, "version")) or 0)

    async def load(self, version: int | None = None) -> CategorySet | None:
        """See ``Categories.load``."""
        wanted = await self.version() if version is None else version
        raw = await result_of(self._connection.call("HGET", self._keys.categories, wanted))
        if raw is None:
            return None
        kept = decode_document(_DECODER, raw, "set of categories")
        return CategorySet(wanted, kept.entries, kept.applied_us)

    async def apply(self, entries: Mapping[str, Any], now_us: int, expected: int | None = None) -> int | None:
        """See ``Categories.apply``."""
        kept = msgspec.json.encode(_StoredCategories(now_us, dict(entries)))
        arguments = ("" if expected is None else expected, kept, KEPT_VERSIONS, self._keys.categories_channel)
        version = int(await result_of(self._connection.evalsha(self._apply, (self._keys.categories,), arguments)))
        return version or None
