"""The bodies of batches while they arrive: splits NDJSON into lines, and limits the memory for each caller."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final, TypeAlias

from gregor.cooperative import KeyedSemaphore
from gregor.core.errors import Problem
from gregor_ingest.auth.actor import Actor

Lines: TypeAlias = list[tuple[int, bytes]]
"""Lines with their numbers, from 0."""
LineGroup: TypeAlias = tuple[Lines, int, bool]
"""Lines that arrived together, the bytes of empty lines between them, and whether they are the last ones."""
Hold: TypeAlias = Callable[[int], None]
"""Sets how many bytes of a body are in memory. Raises ``rate_limited`` if its caller then has too many."""

MAX_FULL_BODIES: Final = 16
"""Bodies of batches of one caller that a process keeps in memory if each has the largest size."""
MAX_DECODED_BODIES: Final = 2
"""JSON arrays of the largest size that a process decodes and processes at once for one caller; of short ones, more.

An array of 8 MiB takes up to 140 MB when it is decoded, if it consists of empty lists.
"""
RETRY_S: Final = 1.0
"""When a caller with too many batches in memory may try again."""


class BodyMemory:
    """Bounds the memory of the batches of each service key and device: connections alone would allow gigabytes."""

    def __init__(self) -> None:
        self._bytes: Counter[str] = Counter()
        self._decoded_bytes: Counter[str] = Counter()
        self._turns = KeyedSemaphore(1)
        self._has_room = asyncio.Event()

    @asynccontextmanager
    async def decoding(self, actor: Actor, size: int, max_bytes: int) -> AsyncIterator[None]:
        """Wait until an array of ``size`` bytes may be decoded. When the context ends, the next one may be.

        The arrays of one caller are decoded in their order. They delay no other caller.
        """
        owner, decoded = _owner(actor), self._decoded_bytes
        # Without turns, a large array would starve while smaller ones that arrive later find room.
        async with self._turns.of(owner):
            while decoded[owner] and decoded[owner] + size > MAX_DECODED_BODIES * max_bytes:
                self._has_room.clear()
                await self._has_room.wait()
            decoded[owner] += size
        try:
            yield
        finally:
            _release(decoded, owner, size)
            self._has_room.set()

    @contextmanager
    def holding(self, actor: Actor, max_bytes: int) -> Iterator[Hold]:
        """Count the body of a request until the context ends. ``max_bytes``: the largest body of this caller."""
        owner, held = _owner(actor), 0

        def hold(size: int) -> None:
            nonlocal held
            self._bytes[owner] += size - held
            held = size
            if self._bytes[owner] > MAX_FULL_BODIES * max_bytes:
                detail = "Too many batches of this key or device are in memory. Send fewer at once."
                raise Problem("rate_limited", detail, retry_after_s=RETRY_S)

        try:
            yield hold
        finally:
            _release(self._bytes, owner, held)


def _release(counts: Counter[str], owner: str, size: int) -> None:
    counts[owner] -= size
    if not counts[owner]:
        del counts[owner]


def _owner(actor: Actor) -> str:
    return str(actor.key_id) if actor.caller is None else f"{actor.caller.uid}/{actor.caller.device}"


async def read_array(source: AsyncIterator[tuple[bytes, bool]], hold: Hold) -> bytes:
    """Return the whole body."""
    body = bytearray()  # not the parts: a body may arrive in parts of two bytes
    async for chunk, _ in source:
        body += chunk
        hold(len(body))
    return bytes(body)


class _UnfinishedLine:
    """The received part of an unfinished line. Of a line that is too long, only the length is kept."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._begin()

    def _begin(self) -> None:
        self._line = bytearray()  # not the parts: a line may arrive in parts of two bytes
        self._size = 0
        self._is_blank = True

    @property
    def kept_bytes(self) -> int:
        """The bytes in memory."""
        return len(self._line)

    def add(self, part: bytes) -> None:
        """Add a part of the line."""
        self._size += len(part)
        self._is_blank = self._is_blank and not part.strip()
        if self._size <= self._max_bytes:
            self._line += part
        else:
            self._line = bytearray()

    def take(self) -> tuple[bytes, int]:
        """Return the line and begin the next one. Also returns the bytes that were dropped of a long empty line.

        A line that is too long is replaced by a shorter one that is still too long.
        """
        line, dropped = bytes(self._line), 0
        if self._size > self._max_bytes:
            line, dropped = (b"", self._size) if self._is_blank else (b"-" * (self._max_bytes + 1), 0)
        self._begin()
        return line, dropped


async def read_lines(
    source: AsyncIterator[tuple[bytes, bool]], hold: Hold, max_line_bytes: int
) -> AsyncGenerator[LineGroup, None]:
    """Yield the complete lines of each chunk. Empty lines are only counted.

    A line above ``max_line_bytes`` that arrives in several chunks is replaced by a shorter one that is still too long.
    """
    number = 0
    unfinished = _UnfinishedLine(max_line_bytes)
    async for chunk, is_last in source:
        first, *others = chunk.split(b"\n")
        unfinished.add(first)
        hold(unfinished.kept_bytes)
        if is_last:
            others.append(b"")  # the last line may lack a line break
        elif not others:
            continue
        begun, dropped = unfinished.take()
        complete = [begun, *others[:-1]]
        unfinished.add(others[-1])
        found = [(number + index, line) for index, line in enumerate(complete) if line.strip()]
        empty_bytes = 0
        if len(found) < len(complete):
            empty_bytes = sum(map(len, complete)) + len(complete) - sum(len(line) + 1 for _, line in found)
        yield found, empty_bytes + dropped, is_last
        number += len(complete)
