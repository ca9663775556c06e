"""Rewriting of stored values in the written format: a search through all keys of each server, page by page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec.structs import replace

from gregor.redis.commands import RedisCommands, RedisNode, Script, ScriptCall
from gregor.redis.connection import pack_script
from gregor.store.formats import RewritePosition

from . import scripts
from .errors import result_of, result_or_raise, results_of
from .keys import Keys

REWRITERS: Final[Mapping[str, tuple[str, ...]]] = {}
"""The script that rewrites a key in the newest format, by the kind of the key. Format 1 is the first: there are none.

KEYS 1: the key. Returns 1 if the script changed it, 0 if it has the newest format already.

The rewrite finds the keys by SCAN, which the Redis ACL denies until then: the release with the first script must add
``+scan`` for the scheduler to deploy/redis/users.acl and docs/security.md.
"""
_PAGE: Final = 500
"""Keys that one step examines: about a millisecond of the server."""


class RedisRewriting:
    """``Rewriting`` over Redis. ``rewriters``: the script of each kind of key, if not those of this release."""

    def __init__(self, connection: RedisCommands, keys: Keys, rewriters: Mapping[str, Script] | None = None) -> None:
        self._connection = connection
        self._keys = keys
        own = {kind: scripts.load(*parts) for kind, parts in REWRITERS.items()}
        self._scripts = own if rewriters is None else rewriters

    @property
    def all_scripts(self) -> tuple[Script, ...]:
        """The scripts of this part, for ``RedisStore.prepare``."""
        return tuple(self._scripts.values())

    async def rewrite_some(self, position: RewritePosition) -> RewritePosition:
        """See ``Rewriting.rewrite_some``."""
        if not self._scripts:
            return replace(position, is_complete=True)
        nodes = {node.name: node for node in self._connection.nodes}
        if position.left is None:
            sizes = await results_of(node.call("DBSIZE") for node in nodes.values())
            return replace(position, left=sorted(nodes), searched=0, total=sum(map(int, sizes)), rewritten=0)
        if not position.left:
            # A key that moved to a searched server was missed. A pass that rewrote nothing ends the search.
            return replace(position, left=None, is_complete=position.rewritten == 0)
        node = nodes.get(position.left[0])
        # A failover: the other servers may have keys that this pass has not seen.
        return RewritePosition() if node is None else await self._page(node, position)

    async def _page(self, node: RedisNode, position: RewritePosition) -> RewritePosition:
        server_id = node.server_id or ""
        # The cursor is a position in the hash table of one process.
        begin = position.cursor if server_id == position.server_id else "0"
        pattern = f"{self._keys.namespace}:*"
        cursor, found = await result_of(node.call("SCAN", begin, "MATCH", pattern, "COUNT", _PAGE))
        calls: list[ScriptCall] = []
        for key in found:
            script = self._scripts.get(self._keys.kind_of(key.decode()))
            if script is not None:
                calls.append((script, pack_script(script.sha, (key,), ())))
        replies = await self._connection.run_many(calls) if calls else []
        is_over = cursor == b"0"
        return replace(
            position,
            left=(position.left or [])[1:] if is_over else position.left,
            server_id="" if is_over else server_id,
            cursor=cursor.decode(),
            searched=min(position.total, position.searched + _PAGE),
            rewritten=position.rewritten + sum(int(result_or_raise(reply)) for reply in replies),
        )
