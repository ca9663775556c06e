"""Index of the stored items of a user, live and gone, for reads of the past."""

from __future__ import annotations

from typing import Final, NamedTuple

from gregor.core.category_filter import pack_category_filter
from gregor.core.ids import is_allowed
from gregor.core.items.read_cost import PAST_NS_PER_BYTE
from gregor.core.items.sync import View
from gregor.core.limits import Limits
from gregor.cpu_meter import spend
from gregor.redis.commands import RedisCommands, Script
from gregor.store.redis import scripts
from gregor.store.redis.errors import result_of, results_of
from gregor.store.redis.keys import UserKeys

from .record_codec import COUNTS, decode_gone, decode_gone_hidings

NAMES_PAGE: Final = 500
"""Names that one script reads: about 0.5 ms of server time."""


class StoredItemIndex(NamedTuple):
    """The stored items of the categories of a view.

    Attributes:
        entries: (created seq, id), the newest first.
        exceeds_bounds: Whether `collect` must remove gone items or bodies. Then read the index again.
    """

    entries: list[tuple[int, str]]
    exceeds_bounds: bool


class RedisItemIndex:
    """Reads the index: first all names, then the created seqs of gone items in pages.

    An item that leaves between the steps is in the index once. An item whose record is collected between them is
    missing.
    """

    def __init__(self, connection: RedisCommands, limits: Limits, page: int = NAMES_PAGE) -> None:
        self._connection = connection
        self._limits = limits
        self._page = page
        self._created_seqs = scripts.load(*scripts.HISTORY)

    @property
    def all_scripts(self) -> tuple[Script, ...]:
        """The scripts of this part, for ``RedisStore.prepare``."""
        return (self._created_seqs,)

    async def read(self, keys: UserKeys, view: View) -> StoredItemIndex:
        """Return the index of a view."""
        # Live items first: an item that leaves between the two reads is then in the second.
        live = self._connection.call("ZRANGE", keys.live, 0, -1, "WITHSCORES")
        gone = self._connection.call("ZRANGE", keys.gone, 0, -1)
        counts = self._connection.call("HGET", keys.state, COUNTS)
        members, gone_members, raw_counts = await results_of([live, gone, counts])
        created: dict[str, int] = {}
        for member, score in zip(members[::2], members[1::2], strict=True):
            item_id, category = member.decode().split("\0")
            if is_allowed(view.category_filter, category):
                created[item_id] = int(score)
        # Without hidings, whose member has the device after a NUL.
        names = [member for member in gone_members if b"\0" not in member]
        gone_names = []
        for start in range(0, len(names), self._page):
            page = names[start : start + self._page]
            arguments = (pack_category_filter(view.category_filter), *page)
            *seqs, size = await result_of(self._connection.evalsha(self._created_seqs, (keys.state,), arguments))
            spend(PAST_NS_PER_BYTE * size)
            for name, seq in zip(page, seqs, strict=True):
                if seq:
                    gone_names.append(name)
                if seq not in (b"", b"o"):
                    created[name.decode()] = int(seq)
        entries = sorted(((seq, item_id) for item_id, seq in created.items()), reverse=True)
        gone_hidings = decode_gone_hidings(raw_counts or b"")
        return StoredItemIndex(entries, await self._exceeds_bounds(keys, gone_names, gone_hidings))

    async def _exceeds_bounds(self, keys: UserKeys, gone_names: list[bytes], gone_hidings: int) -> bool:
        if len(gone_names) + gone_hidings > self._limits.history:
            return True
        beyond = len(gone_names) - self._limits.history_bodies - 1
        if beyond < 0:
            return False
        # Bodies are trimmed oldest first: if the newest item beyond the bound has none, all older ones have none.
        raw = await result_of(self._connection.call("HGET", keys.state, gone_names[beyond]))
        return raw is not None and raw[:1] == b"G" and bool(decode_gone("", raw).live.item.body)
