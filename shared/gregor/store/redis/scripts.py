"""The Lua scripts of the store, read once from package data.

One file in `gregor/store/lua` is one atomic step. A script may be made of several files, joined. `codec.lua`,
`commit/category_filter.lua`, `commit/category_of_gone.lua`, `commit/next_housekeeping.lua`, `devices/lease_codec.lua`
and `devices/device_fields.lua` are prefixes of several scripts.

``COMMIT`` is loaded a second time, as ``COMMIT_AT_MAXMEMORY`` with ``#!lua flags=allow-oom``, for messages that free
memory. A server at its ``maxmemory`` refuses every script that may write, unless this flag is set, and dismissals must
work then too. What such a message must remember about unknown ids needs memory: then the script asks for the other one.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Final

from gregor.redis.commands import Script

# category_filter follows the fast path, because creating its functions takes 2 % of the time of that path.
_COMMIT: Final = ("commit/commit_fast", "commit/category_filter", "commit/next_housekeeping", "commit/commit")
COMMIT: Final = ("codec", *_COMMIT)
COMMIT_AT_MAXMEMORY: Final = ("codec", "at_maxmemory", *_COMMIT)
SYNC: Final = ("codec", "commit/category_filter", "commit/category_of_gone", "commit/sync")
DUE_HOUSEKEEPING: Final = ("codec", "commit/due_housekeeping")
COLLECT: Final = ("codec", "commit/next_housekeeping", "commit/collect")
HISTORY: Final = ("codec", "commit/category_filter", "commit/category_of_gone", "commit/history")
READ_DIGESTS: Final = ("users/read_digests",)
PUSH_CONTEXT: Final = ("codec", "devices/device_fields", "devices/push_context")

_READS: Final = frozenset(
    (
        *("commit/sync", "commit/due_housekeeping", "commit/history", "devices/push_context", "devices/read_device"),
        *("agenda/delayed_sizes", "agenda/due_work", "ledger/dead_letter_page"),
        *("deployment/list_suppressions", "users/read_digests"),
    )
)
"""Scripts that write nothing, so that a cluster client repeats them after a lost connection. A test checks it."""


@cache
def load(*parts: str, flags: str = "") -> Script:
    """Return the script made of these files, joined in order.

    Args:
        parts: Paths below `gregor/store/lua`, without ``.lua``.
        flags: Redis script flags for the first line, ``#!lua flags=…``.
    """
    folder = files("gregor.store").joinpath("lua")
    source = "".join(folder.joinpath(*f"{part}.lua".split("/")).read_text("utf-8") for part in parts)
    return Script(f"#!lua flags={flags}\n{source}" if flags else source, is_repeatable=parts[-1] in _READS)
