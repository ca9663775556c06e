"""The state of users in Redis. Each method runs one or two scripts: `core` decides, Lua commits (architecture.md).

If due work is found (an expiry, a reset of all users, a collection), the script changes nothing and returns ``due`` or
``generation``. The due work is then committed first, as a separate commit, and the call is repeated.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from gregor.core.category_filter import pack_category_filter
from gregor.core.errors import Problem
from gregor.core.ids import Prefixes
from gregor.core.items.digest import leaf, total
from gregor.core.items.read_cost import (
    COLLECT_NS_PER_US,
    COLLECT_US_PER_UNIT,
    HIDING_NS_PER_BYTE,
    PAST_NS_PER_BYTE,
    sync_charge_ns,
)
from gregor.core.items.sync import (
    NO_EPOCH,
    Cursor,
    Delta,
    Full,
    HistoryEntry,
    SyncResult,
    Unchanged,
    UserPosition,
    UserSizes,
    View,
)
from gregor.core.limits import Limits
from gregor.core.messages.model import Commit, Receipt, RemovalReason, eviction_commit
from gregor.cpu_meter import spend, spend_commit
from gregor.redis.commands import RedisCommands, Script
from gregor.redis.connection import pack_script
from gregor.redis.errors import ReplyError
from gregor.redis.reads import call_each_node, read_each_node
from gregor.store.contract.store import CommitResult, Unavailable
from gregor.store.contract.webhooks import RecordedEvents
from gregor.store.exported import StoredEntry
from gregor.store.redis import scripts
from gregor.store.redis.devices.device_state import RedisDevices
from gregor.store.redis.errors import result_of, result_or_raise, results_of, results_of_reached
from gregor.store.redis.keys import Keys, UserKeys
from gregor.telemetry import failure_log

from .commit_command import CommitCommands, split_batches
from .commit_reply import FAST_BYTES, charged_ns, problem_of_reply, receipt_fast, receipt_general
from .delete_user import RedisUserDeletion
from .digest_check import RedisDigestCheck
from .export_user import RedisUserExport
from .interval_search import SEARCH_PAGE, SearchPage, pack_found, pack_page_search, search_commit
from .item_index import NAMES_PAGE, RedisItemIndex
from .record_codec import (
    COUNTS,
    DRAIN,
    GENERAL,
    HEAD,
    NO_HEAD,
    REHEARSAL,
    SEARCH_HERE,
    GoneRecord,
    LiveRecord,
    UserHead,
    decode_bodies,
    decode_device_dismissals,
    decode_gone,
    decode_head,
    decode_live,
    pack_reader,
    record_kind,
)
from .sync_reply import SyncReply

_HISTORY_PAGE: Final = 200
_HISTORY_MOST: Final = 1_000
"""Records that a read of the history fetches at once: first, and if those were not enough."""

_MAX_ATTEMPTS: Final = 8
"""Attempts between commits of due work. Two are usual; more mean that clocks differ widely."""

_DEFAULT_SPREAD_S: Final = 30
"""Spread of a reset of all users if the stored one is missing."""
_RETRY_REPLIES: Final = (b"due", b"generation", b"keys", b"grow", b"search")
"""Replies of ``commit`` after which it is sent again: due work, a reset, missing keys, another script or a search come
first."""
_MAX_SEARCHES: Final = 3
"""Searches for one commit. If something spoiled each of them, its script scans all items itself."""


class ScriptPages(NamedTuple):
    """Limits of one script run, because other users wait for its end. Tests use small ones.

    Attributes:
        search: Live items, to find those of intervals.
        collect: Entries of the history, to collect it: about 2 ms of server time.
        history: Gone items, to read the history: about 0.5 ms.
    """

    search: int = SEARCH_PAGE
    collect: int = 2_000
    history: int = NAMES_PAGE


class _Collection(NamedTuple):
    """Number of removed records, and the CPU time of Redis in µs."""

    forgotten: int
    took_us: int


ALL_PAGES: Final = ScriptPages()
"""Production limits."""


class RedisUsers:
    """``Users`` over one Redis-protocol server.

    ``devices`` disconnects users who are deleted; for the other arguments see ``RedisStore``.
    """

    def __init__(
        self,
        connection: RedisCommands,
        keys: Keys,
        limits: Limits,
        devices: RedisDevices,
        *,
        allow_oom: bool = True,
        recorded_events: RecordedEvents,
        general: bool = False,
        pages: ScriptPages = ALL_PAGES,
    ) -> None:
        self._connection = connection
        self._failures = failure_log()
        self._keys = keys
        self._limits = limits
        self._pages = pages
        self._devices = devices
        self._recorded_events = recorded_events
        self._calls = CommitCommands(keys, limits, allow_oom=allow_oom, general=general, search_page=pages.search)
        self._sync = scripts.load(*scripts.SYNC)
        self._due = scripts.load(*scripts.DUE_HOUSEKEEPING)
        self._collect = scripts.load(*scripts.COLLECT, flags="allow-oom" if allow_oom else "")
        self._item_index = RedisItemIndex(connection, limits, pages.history)
        self._reset = scripts.load("users/reset_partition")
        self._deletion = RedisUserDeletion(connection, keys, devices.remove_pushes, allow_oom=allow_oom)
        self._export = RedisUserExport(connection, keys)
        self._digest_check = RedisDigestCheck(connection, keys)

    @property
    def all_scripts(self) -> tuple[Script, ...]:
        """The scripts of this part, for ``RedisStore.prepare``."""
        own = (self._sync, self._due, self._collect, self._reset)
        parts = (self._item_index, self._deletion, self._digest_check)
        return (*self._calls.scripts, *own, *(script for part in parts for script in part.all_scripts))

    # ---- writing

    async def commit(self, uid: str, commit: Commit) -> Receipt:
        """See ``Users.commit``."""
        return await self._finish_commit(uid, commit, await result_of(self._send(uid, commit)))

    async def commit_many(self, commits: Sequence[tuple[str, Commit]]) -> list[CommitResult]:
        """See ``Users.commit_many``. All commits of a batch are sent before the first reply is awaited."""
        results: list[CommitResult] = []
        # All commands of a batch are in flight before the first reply is awaited.
        for together in split_batches(commits):
            calls = self._calls.of_many(together, records_removals=self._recorded_events.removals)
            for (uid, commit), reply in zip(together, await self._connection.run_many(calls), strict=True):
                if type(reply) is bytes and len(reply) == FAST_BYTES and not commit.max_live:
                    results.append(receipt_fast(commit, reply))  # a final receipt
                else:
                    results.append(await self._result(uid, commit, reply))
        return results

    async def _result(self, uid: str, commit: Commit, reply: Any) -> CommitResult:
        """Return the result of one commit of many."""
        try:
            return await self._finish_commit(uid, commit, result_or_raise(reply))
        except (Problem, Unavailable) as error:
            # Python 3.13 keeps a returned value in the frame, which the traceback refers to: a reference cycle.
            return error.with_traceback(None)
        except ReplyError as error:
            # A bug, or a damaged record of this user. The other users must get their results.
            self._failures.record("users.commit_failed", time.monotonic(), "error", error=str(error))
            detail = "The state of this user cannot be changed. Search the server log for users.commit_failed."
            return Problem("internal", detail)

    async def rehearse(self, uid: str, commit: Commit) -> Receipt:
        """See ``Users.rehearse``."""
        commit = replace(commit, max_live=())
        return await self._finish_commit(uid, commit, await result_of(self._send(uid, commit, REHEARSAL)), REHEARSAL)

    def _send(
        self, uid: str, commit: Commit, options: int = 0, *, may_add: bool = False, search: bytes | None = None
    ) -> Awaitable[Any]:
        removals = self._recorded_events.removals
        call = self._calls.of(uid, commit, options, records_removals=removals, may_add=may_add, search=search)
        return self._connection.run(call)

    async def _finish_commit(self, uid: str, commit: Commit, reply: Any, options: int = 0) -> Receipt:
        """Return the receipt of a reply. If due work was found, commit it and send the message again."""
        may_add, search, searches, searched_bytes, collected_us = False, None, 0, list[int](), 0
        for _ in range(_MAX_ATTEMPTS):
            if isinstance(reply, bytes):
                receipt = receipt_fast(commit, reply)
                hint = reply[FAST_BYTES:]
            elif reply[0] == b"moved":
                return Receipt(reply[1], reply[2], is_unchanged=True)
            elif reply[0] in (b"ok", b"same"):
                spend_commit(charged_ns(reply))
                receipt = receipt_general(reply, sum(searched_bytes))
                hint = reply[6]
            elif reply[0] in _RETRY_REPLIES:
                if reply[0] == b"due":
                    collected_us += await self._commit_due(uid, commit.now_us)
                elif reply[0] == b"generation":
                    await self._reset_first(uid, commit.now_us, commit.epoch_seed)
                elif reply[0] == b"search":
                    may_search = searches < _MAX_SEARCHES
                    search = await self._search(uid, commit, searched_bytes) if may_search else SEARCH_HERE
                    searches += 1
                else:
                    options |= GENERAL
                    may_add = may_add or reply[0] == b"grow"
                reply = await result_of(self._send(uid, commit, options, may_add=may_add, search=search))
                continue
            else:
                spend_commit(charged_ns(reply))
                raise problem_of_reply(reply, self._limits, sum(searched_bytes))
            if hint:
                collected_us += (await self._run_collection(uid, commit.now_us)).took_us
            extra_weight = collected_us // COLLECT_US_PER_UNIT
            if (following := eviction_commit(commit, receipt)) is not None:
                extra_weight += (await self.commit(uid, following)).extra_weight
            return replace(receipt, extra_weight=receipt.extra_weight + extra_weight) if extra_weight else receipt
        raise _clocks_disagree()

    async def _search(self, uid: str, commit: Commit, searched_bytes: list[int]) -> bytes | None:
        """Find the items of a commit's intervals page by page; ``None`` if due work must be committed first.

        Appends the bytes to charge for each page to ``searched_bytes``. Raises ``Problem`` if the items of one page are
        too many to dismiss.
        """
        wanted = search_commit(commit)
        pages: list[SearchPage] = []
        while not pages or pages[-1].next_seq:
            argument = pack_page_search(self._pages.search, pages[-1].next_seq if pages else 0, commit)
            reply = await result_of(self._send(uid, wanted, search=argument))
            if reply[0] in _RETRY_REPLIES:
                return None
            spend_commit(charged_ns(reply))
            if reply[0] != b"page":
                raise problem_of_reply(reply, self._limits, sum(searched_bytes))
            pages.append(SearchPage(*reply[1:]))
            searched_bytes.append(pages[-1].charged_bytes)
        return pack_found(pages)

    async def _commit_due(self, uid: str, now_us: int) -> int:
        """Remove the expired items in one commit (L6), and collect what passed its retention or is over the bounds.

        Returns the CPU time of Redis for the collection, in µs.
        """
        collected_us = 0
        ids, to_collect = await result_of(
            self._connection.evalsha(self._due, (self._keys.of_user(uid).agenda,), (str(now_us),))
        )
        if to_collect:
            collected_us += (await self._run_collection(uid, now_us, skips_history=to_collect == b"m")).took_us
        expiry = Commit(
            now_us=now_us,
            epoch_seed=NO_EPOCH,
            ids=tuple(item_id.decode() for item_id in ids),
            reason=RemovalReason.EXPIRED,
        )
        reply = await result_of(self._send(uid, expiry, DRAIN))
        if reply[0] == b"ok" and reply[6]:
            collected_us += (await self._run_collection(uid, now_us)).took_us
        return collected_us

    async def _reset_first(self, uid: str, now_us: int, epoch_seed: bytes) -> None:
        # The process that finds the new generation may not have received the publication.
        raw = await result_of(self._connection.call("GET", self._keys.last_reset_of_user(uid)))
        spread_s = _DEFAULT_SPREAD_S if raw is None else int(raw.split()[1])
        flush = Commit(now_us=now_us, epoch_seed=epoch_seed, is_reset=True, spread_s=spread_s)
        await result_of(self._send(uid, flush, DRAIN))  # expired items may be due as well: they follow

    async def reset_partitions(self, number: int, partitions: Sequence[int], spread_s: int) -> frozenset[int]:
        """See ``Users.reset_partitions``."""
        keys = [(self._keys.generation(each), self._keys.last_reset(each)) for each in partitions]
        arguments = (number, spread_s)

        async def send(places: Sequence[int]) -> list[Any]:
            calls = ((self._reset, pack_script(self._reset.sha, keys[place], arguments)) for place in places)
            return await self._connection.run_many(list(calls))

        replies = await read_each_node(self._connection, [generation for generation, _ in keys], send)
        return frozenset(partitions[place] for place in results_of_reached(replies))

    async def announce_reset(self, spread_s: int) -> None:
        """See ``Users.announce_reset``: any server of a cluster publishes to all."""
        document = b"F" + b"\0\0" + spread_s.to_bytes(2, "big")
        connected = [node for node in self._connection.nodes if node.connected]
        publish = connected[0].call if connected else self._connection.call
        await result_of(publish("PUBLISH", self._keys.reset_channel, document))

    async def delete_user(self, uid: str, now_us: int) -> None:
        """See ``Users.delete_user``. Connections are closed first, because they must not write anything afterwards."""
        await self._devices.disconnect_user(uid, now_us)
        await self._deletion.delete(uid, now_us)

    async def deleted_since(self, since_us: int) -> frozenset[str]:
        """See ``Users.deleted_since``."""
        return await self._deletion.deleted_since(since_us)

    async def collect(self, uid: str, now_us: int) -> int:
        """See ``Users.collect``."""
        return (await self._run_collection(uid, now_us)).forgotten

    async def _run_collection(self, uid: str, now_us: int, *, skips_history: bool = False) -> _Collection:
        keys, limits, forgotten, took_us = self._keys.of_user(uid), self._limits, 0, 0
        numbers = (
            now_us,
            limits.retention_us,
            limits.history,
            limits.history_bodies,
            limits.history_body_age_us,
            limits.external_age_us,
            self._pages.collect,
        )
        arguments, place = [*map(str, numbers), uid, str(limits.future_us), "1" if skips_history else ""], b""
        while True:
            count, more, place, script_us = await result_of(
                self._connection.evalsha(self._collect, keys.collect, (*arguments, place))
            )
            forgotten += int(count)
            took_us += int(script_us)
            spend(COLLECT_NS_PER_US * int(script_us))
            if not more:
                return _Collection(forgotten, took_us)

    # ---- reading

    async def sync(
        self,
        uid: str,
        view: View,
        cursor: Cursor | None,
        digest: bytes | None,
        now_us: int,
        systems: Prefixes = None,
        epoch_seed: bytes = b"\0\0\1",
    ) -> SyncResult:
        """See ``Users.sync``."""
        # A view with a category filter needs all live items: their leaves are summed to the view's digest.
        mode = "f" if cursor is None else "s" if view.category_filter is None else "a"
        read = await self._read(uid, view, mode, cursor, digest, now_us)
        if (start := read.beginning) is not None:
            read = await self._read(uid, view, "f", start, None, now_us)
            return read.full(*read.externals(systems, now_us - self._limits.external_age_us))
        externals, gap = read.externals(systems, now_us - self._limits.external_age_us)
        change = read.change()
        is_equal = digest == read.digest
        if (read.is_unchanged and (digest is None or is_equal)) or (cursor is None and is_equal):
            return Unchanged(read.head.epoch, read.head.seq, read.digest, externals, gap)
        if change is not None and not read.is_full_smaller(change):
            create, dismiss = change
            return Delta(read.head.epoch, read.head.seq, read.digest, create, dismiss, externals, gap)
        if mode == "s" and not read.is_whole:
            full = await self._read(uid, view, "f", cursor, digest, now_us)
            externals, gap = full.externals(systems, now_us - self._limits.external_age_us)
            return full.full(externals, gap)
        return read.full(externals, gap)

    async def state(self, uid: str, view: View, now_us: int) -> Full:
        """See ``Users.state``."""
        return (await self._read(uid, view, "f", None, None, now_us)).full()

    async def heads(self, uids: Sequence[str]) -> list[UserPosition | None]:
        """See ``Users.heads``."""
        raws = await results_of(self._connection.call("HGET", self._keys.of_user(uid).state, HEAD) for uid in uids)
        return [_head(raw) for raw in raws]

    async def reachable_heads(self, uids: Sequence[str]) -> dict[str, UserPosition | None]:
        """See ``Users.reachable_heads``."""
        reads = [("HGET", self._keys.of_user(uid).state, HEAD) for uid in uids]
        reached = results_of_reached(await call_each_node(self._connection, reads))
        return {uids[place]: _head(raw) for place, raw in reached.items()}

    async def wrong_digests(self, uid: str) -> list[str]:
        """See ``Users.wrong_digests``."""
        return await self._digest_check.wrong_digests(uid)

    async def sizes(self, uid: str) -> UserSizes:
        """See ``Users.sizes``."""
        keys = self._keys.of_user(uid)
        counts = [self._connection.call("ZCARD", key) for key in (keys.live, keys.gone, keys.delivered)]
        stored = self._connection.call("HMGET", keys.state, HEAD, COUNTS)
        live, gone, delivered, (head, raw_counts) = await results_of([*counts, stored])
        live_bytes = decode_head(head).live_bytes if head else 0
        dismissals = decode_device_dismissals(raw_counts or b"")
        return UserSizes(int(live), int(gone), int(delivered), live_bytes, dismissals)

    def stored(self, uid: str) -> AsyncIterator[StoredEntry]:
        """See ``Users.stored``."""
        return self._export.stored(uid)

    async def item(self, uid: str, item_id: str, view: View, now_us: int) -> HistoryEntry | None:
        """See ``Users.item``."""
        keys = self._keys.of_user(uid)
        await self.commit_due(uid, now_us)
        entries = await self._history_entries(keys, [(item_id, None)], view)
        if entries and entries[0].gone and not entries[0].is_trimmed and await self._may_have_more_bodies(keys):
            await self.collect(uid, now_us)
            entries = await self._history_entries(keys, [(item_id, None)], view)
        return entries[0] if entries else None

    async def _may_have_more_bodies(self, keys: UserKeys) -> bool:
        """Return whether more gone items may have a body than the history keeps."""
        counts = await result_of(self._connection.call("HGET", keys.state, COUNTS))
        seq, bodies = decode_bodies(counts or b"")
        later = await result_of(self._connection.call("ZCOUNT", keys.gone, f"({seq}", "+inf"))
        return bodies + int(later) > self._limits.history_bodies

    async def history(
        self, uid: str, view: View, before: tuple[int, str] | None, limit: int, now_us: int
    ) -> list[HistoryEntry]:
        """See ``Users.history``."""
        keys = self._keys.of_user(uid)
        index = await self._index(keys, uid, view, now_us)
        wanted = [entry for entry in index if before is None or entry < before]
        entries: list[HistoryEntry] = []
        start, size = 0, max(limit, _HISTORY_PAGE)
        # A view may show few of the stored items: small pages would be thousands of calls.
        while start < len(wanted) and len(entries) < limit:
            page = [(item_id, seq) for seq, item_id in wanted[start : start + size]]
            entries += await self._history_entries(keys, page, view)
            start, size = start + size, _HISTORY_MOST
        return entries[:limit]

    async def state_at(self, uid: str, view: View, at_us: int, now_us: int) -> Full:
        """See ``Users.state_at``. The position is the current one."""
        keys = self._keys.of_user(uid)
        index = await self._index(keys, uid, view, now_us)
        head = await self._head(keys)
        records = await self._records(keys, [(item_id, seq) for seq, item_id in index])
        items = [
            record.live.stored() for record in records if record.live.is_for(view) and record.was_shown(view, at_us)
        ]
        digest = total(leaf(item.id, item.json) for item in items)
        return Full(head.epoch, head.seq, digest, tuple(items))

    async def _read(
        self, uid: str, view: View, mode: str, cursor: Cursor | None, digest: bytes | None, now_us: int
    ) -> SyncReply:
        """Return the reply of the script ``sync``, after committing due work."""
        keys = self._keys.of_user(uid)
        tag = cursor.tag if cursor else ""
        is_own = tag[6:] == view.tag and len(tag) >= 6
        epoch = bytes.fromhex(tag[:6]) if is_own and _is_hex(tag[:6]) else b""
        is_digest_cheap = view.category_filter is None or digest is None
        reader = pack_reader(mode, cursor, epoch, view.device, now_us, is_quick=is_digest_cheap)
        arguments = (reader, pack_category_filter(view.category_filter))
        for _ in range(_MAX_ATTEMPTS):
            reply = await result_of(self._connection.evalsha(self._sync, keys.sync, arguments))
            if reply[0] == b"due":
                await self._commit_due(uid, now_us)
            elif reply[0] == b"generation":
                await self._reset_first(uid, now_us, NO_EPOCH)
            else:
                read = SyncReply(reply, view, cursor, epoch)
                spend(sync_charge_ns(read.examined, read.cpu_us))
                for _ in read.decode():
                    await asyncio.sleep(0)
                spend(HIDING_NS_PER_BYTE * read.hiding_bytes)
                return read
        raise _clocks_disagree()

    async def commit_due(self, uid: str, now_us: int) -> None:
        """See ``Users.commit_due``; also used by reads that do not run ``sync`` (L6)."""
        keys = self._keys.of_user(uid)
        for _ in range(_MAX_ATTEMPTS):
            head = await self._head(keys)
            if not head.wake_us or head.wake_us > now_us:
                return
            await self._commit_due(uid, now_us)
        raise _clocks_disagree()

    async def _head(self, keys: UserKeys) -> UserHead:
        raw = await result_of(self._connection.call("HGET", keys.state, HEAD))
        return decode_head(raw) if raw else NO_HEAD

    async def _index(self, keys: UserKeys, uid: str, view: View, now_us: int) -> list[tuple[int, str]]:
        """Return (created seq, id) of every stored item of the categories of a view, the newest first."""
        await self.commit_due(uid, now_us)
        index = await self._item_index.read(keys, view)
        if index.exceeds_bounds:
            await self.collect(uid, now_us)
            index = await self._item_index.read(keys, view)
        return index.entries

    async def _records(self, keys: UserKeys, wanted: Sequence[tuple[str, int | None]]) -> list[LiveRecord | GoneRecord]:
        """Return the records of these (id, created seq) in order, without missing ones and tombstones."""
        if not wanted:
            return []
        raws = await result_of(self._connection.call("HMGET", keys.state, *(item_id for item_id, _ in wanted)))
        spend(PAST_NS_PER_BYTE * sum(len(raw) for raw in raws if raw is not None))
        found: list[LiveRecord | GoneRecord] = []
        for (item_id, seq), raw in zip(wanted, raws, strict=True):
            letter = None if raw is None else record_kind(raw)
            if letter == b"G":
                found.append(decode_gone(item_id, raw))
            elif letter == b"L":
                live = decode_live(item_id, seq or 0, raw)
                if seq is None:
                    score = await result_of(
                        self._connection.call("ZSCORE", keys.live, f"{item_id}\0{live.item.category}")
                    )
                    live.seq = int(score or 0)
                found.append(live)
        return found

    async def _history_entries(
        self, keys: UserKeys, wanted: Sequence[tuple[str, int | None]], view: View
    ) -> list[HistoryEntry]:
        records = await self._records(keys, wanted)
        return [record.entry(view) for record in records if record.live.is_for(view)]


def _is_hex(text: str) -> bool:
    return len(text) == 6 and all(c in "0123456789abcdef" for c in text)


def _head(raw: bytes | None) -> UserPosition | None:
    if raw is None:
        return None
    head = decode_head(raw)
    return UserPosition(head.epoch, head.seq, head.digest)


def _clocks_disagree() -> Unavailable:
    return Unavailable(f"due work remained after {_MAX_ATTEMPTS} commits; check that the clocks of all hosts agree")
