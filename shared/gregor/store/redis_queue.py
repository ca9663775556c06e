"""The queue of a channel on the queue Redis: a stream with a consumer group, and a due set; see ``queue.Queue``."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from gregor.core.intents import Intent, IntentKind

from . import scripts
from .contract import Unavailable
from .keys import Keys
from .link import Link, ReplyError
from .queue import Taken
from .replies import answer, answers

GROUP: Final = "delivery"
SILENCE_S: Final = 10.0
"""How long the server may be silent on the connection that waits; every wait is shorter."""
LONGEST_WAIT_S: Final = 5.0


class RedisQueue:
    """``queue.Queue`` over two connections: one that waits, and one for all else."""

    def __init__(self, url: str, namespace: str, channel: str) -> None:
        keys = Keys(namespace)
        self._channel = channel
        self._stream, self._waiting = keys.stream(channel), keys.waiting(channel)
        self._consumer = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._reader = Link(url, name="gregor-reader", timeout_s=SILENCE_S)
        self._link = Link(url)
        self._put_off = scripts.load("put_off")
        self._bring_back = scripts.load("bring_back")

    async def open(self) -> None:
        """Connect, and make the group. Raises ``Unavailable``."""
        try:
            await self._link.open()
            await self._reader.open()
        except ConnectionError as trouble:
            await self.close()
            raise Unavailable(str(trouble)) from trouble
        await self._make_group()

    async def take(self, most: int, wait_s: float) -> list[Taken]:
        """See ``queue.Queue.take``."""
        wait_ms = max(1, round(min(wait_s, LONGEST_WAIT_S) * 1_000))
        command = ("XREADGROUP", "GROUP", GROUP, self._consumer, "COUNT", most, "BLOCK", wait_ms)
        reply = await self._of_group(self._reader, *command, "STREAMS", self._stream, ">")
        return self._read(reply[0][1]) if reply else []

    async def reclaim(self, idle_s: float, most: int) -> list[Taken]:
        """See ``queue.Queue.reclaim``. Entries that the stream has dropped meanwhile do not come."""
        idle_ms = round(idle_s * 1_000)
        command = ("XAUTOCLAIM", self._stream, GROUP, self._consumer, idle_ms, "0-0", "COUNT", most)
        reply = await self._of_group(self._link, *command)
        return self._read(reply[1]) if reply else []

    async def done(self, taken: Sequence[Taken]) -> None:
        """See ``queue.Queue.done``."""
        if not taken:
            return
        entries = [each.entry for each in taken]
        await answers(
            (
                self._link.call("XACK", self._stream, GROUP, *entries),
                self._link.call("XDEL", self._stream, *entries),
            )
        )

    async def put_off(self, taken: Taken, at_us: int) -> None:
        """See ``queue.Queue.put_off``."""
        arguments = (GROUP, taken.entry, str(at_us), msgspec.json.encode(taken.intent.fields()))
        await answer(self._link.evalsha(self._put_off, (self._stream, self._waiting), arguments))

    async def bring_back(self, now_us: int, most: int) -> int:
        """See ``queue.Queue.bring_back``."""
        arguments = (str(now_us), str(most))
        return int(await answer(self._link.evalsha(self._bring_back, (self._stream, self._waiting), arguments)))

    async def close(self) -> None:
        """Close both connections."""
        await self._reader.close()
        await self._link.close()

    async def _of_group(self, link: Link, *command: str | int) -> Any:
        """The reply; a group that is gone (a server that came back empty) is made again, and then there is nothing."""
        try:
            return await answer(link.call(*command))
        except ReplyError as refusal:
            if refusal.code not in ("NOGROUP", "UNBLOCKED"):
                raise
            await self._make_group()
            return None

    async def _make_group(self) -> None:
        try:
            await answer(self._link.call("XGROUP", "CREATE", self._stream, GROUP, "0", "MKSTREAM"))
        except ReplyError as refusal:
            if refusal.code != "BUSYGROUP":
                raise

    def _read(self, entries: Sequence[Any]) -> list[Taken]:
        return [Taken(bytes(entry[0]), _intent(self._channel, entry[1])) for entry in entries if entry and entry[1]]


async def open_queue(url: str, namespace: str, channel: str) -> RedisQueue:
    """Connected. Raises ``Unavailable`` where the server cannot be reached."""
    queue = RedisQueue(url, namespace, channel)
    await queue.open()
    return queue


def _intent(channel: str, raw: Sequence[bytes]) -> Intent:
    """An intent from the fields of its entry."""
    fields = {name.decode(): value.decode() for name, value in zip(raw[::2], raw[1::2], strict=True)}
    return Intent(
        fields["uid"],
        fields["item"],
        IntentKind(fields["intent"]),
        channel,
        fields["device"],
        int(fields["n"]),
        int(fields["seq"]),
        int(fields["at_us"]),
    )
