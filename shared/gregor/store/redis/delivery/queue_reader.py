"""The queue of a channel on the queue Redis: a stream with a consumer group, and a due set; see
``queue.DeliveryQueueReader``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from gregor.core.notify.intents import Intent, IntentKind
from gregor.core.times import MAX_TIME_US
from gregor.redis.client import RedisClient
from gregor.redis.connection import Argument
from gregor.redis.errors import ReplyError
from gregor.store.contract.queue import QueuedIntent
from gregor.store.contract.store import Unavailable
from gregor.store.redis import scripts
from gregor.store.redis.errors import result_of, results_of
from gregor.store.redis.keys import Keys

GROUP: Final = "delivery"
READER_TIMEOUT_S: Final = 10.0
"""How long the server may be silent on the connection that waits; every wait is shorter."""
MAX_WAIT_S: Final = 5.0
MAX_QUARANTINED: Final = 10_000
"""Entries that nobody could read are kept, about so many, for people to look at."""
CONSUMER_EXPIRY_S: Final = 3_600.0
"""How long a process was silent whose name the group forgets."""

_BEGIN: Final = b"0-0"
_FIELDS: Final = msgspec.json.Decoder(dict[str, str])
_BATCH_SIZE: Final = 500
"""Entries that are read in one go where all are looked at."""
_log = logging.getLogger(__name__)


class RedisQueueReader:
    """``queue.DeliveryQueueReader`` over two connections: one that waits, and one for all else."""

    def __init__(self, url: str, namespace: str, channel: str) -> None:
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
        self._retry_later_script = scripts.load("queue/retry_later")
        self._enqueue_due_script = scripts.load("queue/enqueue_due")
        self._quarantine_script = scripts.load("queue/quarantine")
        self._remove_idle_script = scripts.load("queue/remove_idle_consumers")
        self._reclaim_cursor: bytes = _BEGIN
        self._acked: list[bytes] = []
        self._ack_task: asyncio.Future[None] | None = None
        self._consumer_expiry_s = CONSUMER_EXPIRY_S

    async def open(self) -> None:
        """Connect, and make the group. Raises ``Unavailable``."""
        try:
            await self._client.open()
            await self._reader.open()
        except ConnectionError as error:
            await self.close()
            raise Unavailable(str(error)) from error
        await self._make_group()

    async def claim(self, most: int, wait_s: float) -> list[QueuedIntent]:
        """See ``queue.DeliveryQueueReader.take``."""
        wait_ms = max(1, round(min(wait_s, MAX_WAIT_S) * 1_000))
        command = ("XREADGROUP", "GROUP", GROUP, self._consumer, "COUNT", most, "BLOCK", wait_ms)
        reply = await self._group_command(self._reader, *command, "STREAMS", self._stream, ">")
        return await self._read(reply[0][1]) if reply else []

    async def reclaim(self, idle_s: float, most: int) -> list[QueuedIntent]:
        """See ``queue.DeliveryQueueReader.reclaim``. One call looks at ten times ``most``; the next one goes on
        from there.
        """
        idle_ms = round(idle_s * 1_000)
        command = ("XAUTOCLAIM", self._stream, GROUP, self._consumer, idle_ms, self._reclaim_cursor, "COUNT", most)
        reply = await self._group_command(self._client, *command)
        if not reply:
            self._reclaim_cursor = _BEGIN
            return []
        self._reclaim_cursor, entries, *deleted = reply
        if deleted and deleted[0]:
            _log.error("Somebody deleted %d entries of %s that were claimed.", len(deleted[0]), self._stream)
        if self._reclaim_cursor == _BEGIN:
            arguments = (GROUP, str(round(self._consumer_expiry_s * 1_000)))
            await result_of(self._client.evalsha(self._remove_idle_script, (self._stream,), arguments))
        return await self._read(entries)

    async def ack(self, claimed: Sequence[QueuedIntent]) -> None:
        """See ``queue.DeliveryQueueReader.done``. Those that end in one turn of the event loop are crossed off
        together.
        """
        if not claimed:
            return
        self._acked += [each.entry for each in claimed]
        if self._ack_task is None:
            self._ack_task = asyncio.ensure_future(self._flush_acks())
        await asyncio.shield(self._ack_task)

    async def _flush_acks(self) -> None:
        entries, self._acked, self._ack_task = self._acked, [], None
        await results_of(
            (
                self._client.call("XACK", self._stream, GROUP, *entries),
                self._client.call("XDEL", self._stream, *entries),
            )
        )

    async def retry_later(self, claimed: QueuedIntent, at_us: int) -> None:
        """See ``queue.DeliveryQueueReader.retry_later``."""
        arguments = (GROUP, claimed.entry, str(at_us), encode_intent(claimed.intent))
        await result_of(self._client.evalsha(self._retry_later_script, (self._stream, self._waiting), arguments))

    async def enqueue_due(self, now_us: int, most: int) -> int:
        """See ``queue.DeliveryQueueReader.enqueue_due``."""
        arguments = (str(now_us), str(most), str(MAX_QUARANTINED))
        keys = (self._stream, self._waiting, self._quarantine)
        return int(await result_of(self._client.evalsha(self._enqueue_due_script, keys, arguments)))

    async def prune(self, is_over: Callable[[Intent], Awaitable[bool]]) -> int:
        """See ``queue.DeliveryQueueReader.prune``. What cannot be read stays for whoever takes it."""
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

    def _parse(self, fields_of: Callable[[Any], Mapping[str, str]], raw: Any) -> Intent | None:
        """An intent, where it is one."""
        try:
            return _intent(self._channel, fields_of(raw))
        except (KeyError, ValueError):
            return None

    async def close(self) -> None:
        """Close both connections."""
        await self._reader.close()
        await self._client.close()

    async def _group_command(self, client: RedisClient, *command: Argument) -> Any:
        """The reply; a group that is gone (a server that came back empty) is made again, and then there is nothing."""
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
        """What can be read of these entries; the others are set quarantine, so that none of them stands in the way."""
        found = []
        for entry, raw in (each for each in entries if each and each[1]):
            try:
                found.append(QueuedIntent(bytes(entry), _intent(self._channel, _fields_of(raw))))
            except (KeyError, ValueError):
                arguments = (GROUP, entry, str(MAX_QUARANTINED), *raw)
                await result_of(
                    self._client.evalsha(self._quarantine_script, (self._stream, self._quarantine), arguments)
                )
                _log.error("Entry %s of %s is no intent; it is kept in %s.", entry, self._stream, self._quarantine)
        return found


async def open_queue_reader(url: str, namespace: str, channel: str) -> RedisQueueReader:
    """Connected. Raises ``Unavailable`` where the server cannot be reached."""
    queue = RedisQueueReader(url, namespace, channel)
    await queue.open()
    return queue


def encode_intent(intent: Intent) -> bytes:
    """An intent as it waits for its time; one that waits twice is one."""
    return msgspec.json.encode(intent.fields())


def _fields_of(raw: Sequence[bytes]) -> dict[str, str]:
    """The fields of an entry of the stream. ValueError where they are no text."""
    return {name.decode(): value.decode() for name, value in zip(raw[::2], raw[1::2], strict=True)}


def _intent(channel: str, fields: Mapping[str, str]) -> Intent:
    """An intent from the fields of its entry. KeyError or ValueError where it is none."""
    uid, item, device = fields["uid"], fields["item"], fields["device"]
    n, seq, at_us = int(fields["n"]), int(fields["seq"]), int(fields["at_us"])
    # A slash parts the names in the keys of the ledger.
    if not uid or not item or "/" in uid + item + device or min(n, seq, at_us) < 0 or at_us > MAX_TIME_US:
        raise ValueError("no intent has such names or numbers")
    return Intent(uid, item, IntentKind(fields["intent"]), channel, device, n, seq, at_us, fields.get("event", ""))
