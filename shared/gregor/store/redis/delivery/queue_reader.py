"""The reading side of a delivery queue in Redis: a stream with a consumer group, a sorted set of waiting intents."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from gregor.core.formats import UnknownFormat, first_byte
from gregor.core.limits import SECOND_US
from gregor.core.notify.intents import ENTRY_FORMAT, Intent, IntentKind
from gregor.core.times import MAX_TIME_US
from gregor.redis.address import UrlSource
from gregor.redis.client import RedisClient
from gregor.redis.connection import Argument
from gregor.redis.errors import RedisUnavailable, ReplyError
from gregor.redis.tracking import KeyTracker, TrackedRead
from gregor.store.contract.queue import NONE_DUE, DueIntents, QueuedIntent, QueueSizes
from gregor.store.contract.store import Unavailable
from gregor.store.redis import scripts
from gregor.store.redis.errors import StoreFull, result_of, results_of
from gregor.store.redis.keys import Keys

GROUP: Final = "delivery"
READER_TIMEOUT_S: Final = 10.0
"""How long the server may be silent on the blocking connection; every wait is shorter."""
MAX_WAIT_S: Final = 5.0
MAX_QUARANTINED: Final = 10_000
"""About how many entries that cannot be parsed are kept for an operator."""
QUARANTINE_MS: Final = 14 * 86_400_000
"""For how long they are kept."""
CONSUMER_EXPIRY_S: Final = 3_600.0
"""Idle time after which the consumer of an ended process is removed from the group."""
_REMOVE_IDLE_S: Final = 60.0
"""The least time between two searches for such consumers."""

_BEGIN: Final = b"0-0"
_FIELDS: Final = msgspec.json.Decoder(dict[str, str])
_BATCH_SIZE: Final = 500
"""Entries that are read together when all are read."""
_log = logging.getLogger(__name__)


class RedisQueueReader:
    """``DeliveryQueueReader`` over two connections: one for blocking reads, one for everything else.

    ``tracker``: reports when an intent begins to wait. Without it, every ``enqueue_due`` asks the server.
    """

    def __init__(self, url: UrlSource, namespace: str, channel: str, tracker: KeyTracker | None = None) -> None:
        keys = Keys(namespace)
        self._channel = channel
        self._stream, self._waiting, self._quarantine = (
            keys.stream(channel),
            keys.waiting(channel),
            keys.quarantine(channel),
        )
        self._consumer = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._reader = RedisClient(url, name="gregor-reader", timeout_s=READER_TIMEOUT_S)
        self._client = RedisClient(url)
        # They move what is stored already, and deliveries free memory.
        self._retry_later_script = scripts.load("queue/retry_later", flags="allow-oom")
        self._enqueue_due_script = scripts.load("queue/enqueue_due", flags="allow-oom")
        self._quarantine_script = scripts.load("queue/quarantine")
        self._remove_idle_script = scripts.load("queue/remove_idle_consumers")
        self._first_waiting = (
            None if tracker is None else TrackedRead(tracker, "ZRANGE", self._waiting, 0, 0, "WITHSCORES")
        )
        self._reclaim_cursor: bytes = _BEGIN
        self._acked: list[bytes] = []
        self._ack_task: asyncio.Future[None] | None = None
        self._consumer_expiry_s = CONSUMER_EXPIRY_S
        self._remove_idle_at_s = 0.0

    async def open(self) -> None:
        """Connect and create the consumer group, if the server has room. Raises ``Unavailable``."""
        try:
            await self._client.open()
            await self._reader.open()
        except ConnectionError as error:
            await self.close()
            raise Unavailable(str(error)) from error
        with suppress(StoreFull):  # the group may exist; if not, a later command creates it
            await self._make_group()

    # ---- claiming

    async def claim(self, most: int, wait_s: float) -> list[QueuedIntent]:
        """See ``DeliveryQueueReader.claim``."""
        # BLOCK 0 would wait forever.
        wait_ms = max(1, round(min(wait_s, MAX_WAIT_S) * 1_000))
        command = ("XREADGROUP", "GROUP", GROUP, self._consumer, "COUNT", most, "BLOCK", wait_ms)
        reply = await self._group_command(self._reader, *command, "STREAMS", self._stream, ">")
        return await self._read(reply[0][1]) if reply else []

    async def reclaim(self, idle_s: float, most: int) -> list[QueuedIntent]:
        """See ``DeliveryQueueReader.reclaim``. One call examines ten times ``most`` entries; the next call
        continues from there.
        """
        idle_ms = round(idle_s * 1_000)
        command = ("XAUTOCLAIM", self._stream, GROUP, self._consumer, idle_ms, self._reclaim_cursor, "COUNT", most)
        reply = await self._group_command(self._client, *command)
        if not reply:
            self._reclaim_cursor = _BEGIN
            return []
        # XAUTOCLAIM returns where the next call continues; 0-0 means that it has seen the whole pending list.
        self._reclaim_cursor, entries, *deleted = reply
        if deleted and deleted[0]:
            _log.error("queue.claimed_entries_deleted stream=%s count=%d", self._stream, len(deleted[0]))
        now_s = asyncio.get_running_loop().time()
        if self._reclaim_cursor == _BEGIN and now_s >= self._remove_idle_at_s:
            self._remove_idle_at_s = now_s + _REMOVE_IDLE_S
            arguments = (GROUP, str(round(self._consumer_expiry_s * 1_000)))
            await result_of(self._client.evalsha(self._remove_idle_script, (self._stream,), arguments))
        return await self._read(entries)

    async def renew(self, taken: Sequence[QueuedIntent]) -> None:
        """See ``DeliveryQueueReader.renew``."""
        if taken:
            # Without FORCE, XCLAIM ignores acknowledged entries. If another process has reclaimed an entry, both work
            # on it in any case, and the ledger decides.
            entries = [each.entry for each in taken]
            command = ("XCLAIM", self._stream, GROUP, self._consumer, 0)
            await self._group_command(self._client, *command, *entries, "JUSTID")

    # ---- finishing and retrying

    async def ack(self, claimed: Sequence[QueuedIntent]) -> None:
        """See ``DeliveryQueueReader.ack``. Acks of one event loop iteration are coalesced."""
        if not claimed:
            return
        # One XACK and one XDEL serve all acks of a loop iteration.
        self._acked += [each.entry for each in claimed]
        if self._ack_task is None:
            self._ack_task = asyncio.ensure_future(self._flush_acks())
        await asyncio.shield(self._ack_task)

    async def _flush_acks(self) -> None:
        entries, self._acked, self._ack_task = self._acked, [], None
        # If Redis executes only the first command, XAUTOCLAIM acknowledges the deleted entries. In the other order they
        # would stay in the stream for ever.
        await results_of(
            (
                self._client.call("XDEL", self._stream, *entries),
                self._client.call("XACK", self._stream, GROUP, *entries),
            )
        )

    async def retry_later(self, claimed: QueuedIntent, at_us: int) -> None:
        """See ``DeliveryQueueReader.retry_later``."""
        arguments = (GROUP, claimed.entry, str(at_us), encode_intent(claimed.intent))
        await result_of(self._client.evalsha(self._retry_later_script, (self._stream, self._waiting), arguments))

    async def enqueue_due(
        self, now_us: int, most: int, wait_s: Callable[[str], float] | None = None, most_examined: int = 0
    ) -> DueIntents:
        """See ``DeliveryQueueReader.enqueue_due``."""
        if not await self._may_be_due(now_us):
            return NONE_DUE
        command = ("ZRANGEBYSCORE", self._waiting, "-inf", now_us, "LIMIT", 0, max(most, most_examined))
        arguments: list[Argument] = [str(now_us), str(MAX_QUARANTINED)]
        left = most
        for member in await result_of(self._client.call(*command)):
            later_s = 0.0 if wait_s is None or (uid := _owner(member)) is None else wait_s(uid)
            arguments += (str(now_us + round(later_s * SECOND_US)) if later_s > 0.0 else "", member)
            left -= later_s <= 0.0
            if not left:
                break
        if len(arguments) == 2:
            return NONE_DUE
        keys = (self._stream, self._waiting, self._quarantine)
        return DueIntents(*await result_of(self._client.evalsha(self._enqueue_due_script, keys, arguments)))

    async def _may_be_due(self, now_us: int) -> bool:
        """Return whether a waiting intent may be due; without a command while nothing has changed."""
        if self._first_waiting is None:
            return True
        try:
            first = await self._first_waiting.reply()
        except (RedisUnavailable, ReplyError):
            return True
        return bool(first) and float(first[0][1]) <= now_us

    # ---- cleanup

    async def prune(self, is_over: Callable[[Intent], Awaitable[bool]]) -> int:
        """See ``DeliveryQueueReader.prune``.

        Entries that cannot be parsed stay for ``claim``, which quarantines them.
        """
        dropped, start = 0, b"-"
        while entries := await result_of(self._client.call("XRANGE", self._stream, start, "+", "COUNT", _BATCH_SIZE)):
            readable = [(entry, self._parse(_fields_of, raw)) for entry, raw in entries]
            over = [
                QueuedIntent(entry, intent)
                for entry, intent in readable
                if intent is not None and await is_over(intent)
            ]
            await self.ack(over)
            dropped, start = dropped + len(over), b"(" + entries[-1][0]
        cursor = b"0"
        while True:
            cursor, raw = await result_of(self._client.call("ZSCAN", self._waiting, cursor, "COUNT", _BATCH_SIZE))
            for member in raw[::2]:
                intent = self._parse(_FIELDS.decode, member)
                if intent is not None and await is_over(intent):
                    dropped += await result_of(self._client.call("ZREM", self._waiting, member))
            if cursor == b"0":
                return dropped

    async def sizes(self, now_us: int) -> QueueSizes:
        """See ``DeliveryQueueReader.sizes``."""
        client, stream = self._client, self._stream
        entries, first, waiting, quarantined = await results_of(
            (
                client.call("XLEN", stream),
                client.call("XRANGE", stream, "-", "+", "COUNT", 1),
                client.call("ZCARD", self._waiting),
                client.call("XLEN", self._quarantine),
            )
        )
        pending = await self._group_command(client, "XPENDING", stream, GROUP)
        # Finished entries are deleted, so the others are claimed or not. Redis does not know the lag of such a stream.
        claimed = min(entries, pending[0] if pending else 0)
        oldest_us = 1_000 * int(first[0][0].partition(b"-")[0]) if first else now_us
        return QueueSizes(entries - claimed, claimed, waiting, quarantined, max(0, now_us - oldest_us) / SECOND_US)

    def _parse(self, fields_of: Callable[[Any], Mapping[str, str]], raw: Any) -> Intent | None:
        """Return the intent of an entry, or ``None`` if it cannot be parsed."""
        try:
            return _intent(self._channel, fields_of(raw))
        except (KeyError, ValueError):
            return None

    async def close(self) -> None:
        """Close both connections."""
        await self._reader.close()
        await self._client.close()

    # ---- helpers

    async def _group_command(self, client: RedisClient, *command: Argument) -> Any:
        """Return the reply of a command on the group. If the group is missing (the server lost its data), create
        it; return ``None``.
        """
        try:
            return await result_of(client.call(*command))
        except ReplyError as problem_of_reply:
            if problem_of_reply.code not in ("NOGROUP", "UNBLOCKED"):
                raise
            await self._make_group()
            return None

    async def _make_group(self) -> None:
        try:
            await result_of(self._client.call("XGROUP", "CREATE", self._stream, GROUP, "0", "MKSTREAM"))
        except ReplyError as problem_of_reply:
            if problem_of_reply.code != "BUSYGROUP":
                raise

    async def _read(self, entries: Sequence[Any]) -> list[QueuedIntent]:
        """Return the intents of these entries. Quarantine entries that cannot be parsed: they would block the queue.

        Entries of a later format are left to a later release.
        """
        found = []
        for entry, raw in (each for each in entries if each and each[1]):
            try:
                found.append(QueuedIntent(bytes(entry), _intent(self._channel, _fields_of(raw))))
            except UnknownFormat as error:
                # It stays claimed: a process of a later release gets it by ``reclaim``.
                _log.error("queue.entry_unreadable stream=%s entry=%s reason=%s", self._stream, entry, error)
            except (KeyError, ValueError):
                arguments = (GROUP, entry, str(MAX_QUARANTINED), str(QUARANTINE_MS), *raw)
                await result_of(
                    self._client.evalsha(self._quarantine_script, (self._stream, self._quarantine), arguments)
                )
                _log.error(
                    "queue.entry_quarantined stream=%s entry=%s redis_key=%s", self._stream, entry, self._quarantine
                )
        return found


# ---- encoding of intents


async def open_queue_reader(
    url: UrlSource, namespace: str, channel: str, tracker: KeyTracker | None = None
) -> RedisQueueReader:
    """Return a connected queue reader. Raises ``Unavailable``. ``tracker``: of the same server."""
    queue = RedisQueueReader(url, namespace, channel, tracker)
    await queue.open()
    return queue


def encode_intent(intent: Intent) -> bytes:
    """Return an intent as a member of the waiting set; equal intents are one member."""
    return msgspec.json.encode(intent.fields())


class _Owned(msgspec.Struct):
    uid: str


_OWNED: Final = msgspec.json.Decoder(_Owned)


def _owner(member: bytes) -> str | None:
    """Return the user of a waiting intent; ``None`` if it cannot be parsed."""
    try:
        return _OWNED.decode(member).uid
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _fields_of(raw: Sequence[bytes]) -> dict[str, str]:
    """Return the fields of a stream entry. Raises ``ValueError`` if they are not text."""
    return {name.decode(): value.decode() for name, value in zip(raw[::2], raw[1::2], strict=True)}


def _intent(channel: str, fields: Mapping[str, str]) -> Intent:
    """Return the intent of an entry's fields. Raises ``KeyError``, ``ValueError`` or ``UnknownFormat``."""
    if (entry_format := fields.get("format", ENTRY_FORMAT)) != ENTRY_FORMAT:
        raise UnknownFormat("queue entry", first_byte(entry_format))
    uid, item, device = fields["uid"], fields["item"], fields["device"]
    n, seq, at_us = int(fields["n"]), int(fields["seq"]), int(fields["at_us"])
    # The ledger's keys separate names by slashes.
    if not uid or not item or "/" in uid + item + device or min(n, seq, at_us) < 0 or at_us > MAX_TIME_US:
        raise ValueError("the entry has a name with a slash, an empty name, or a number out of range")
    kind, event, traceparent = IntentKind(fields["intent"]), fields.get("event", ""), fields.get("traceparent", "")
    return Intent(uid, item, kind, channel, device, n, seq, at_us, event, traceparent)
