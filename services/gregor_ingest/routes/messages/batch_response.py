"""The response of a batch: encodes its entries in pieces, and writes them while the batch is processed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import msgspec
from starlette.types import Send

from gregor.core.errors import Problem
from gregor.web.request import JSON
from gregor_ingest.request import NDJSON

from .lines import BatchEntry

PIECE_BYTES: Final = 262_144
"""Bytes of a response that are encoded without yielding to the event loop: some milliseconds."""
MAX_WAITING_BYTES: Final = 2_097_152
"""Unread bytes of an NDJSON response above which the batch waits for the client.

10,000 short entries fit in: some clients read nothing until they have sent everything.
"""
MAX_REPEATED_BYTES: Final = 512
"""Longest error that is sent again for each user of its line."""
_SAME_ERROR: Final = "Same error as the first entry of this line, which has its detail and errors."

_encode: Final = msgspec.json.Encoder().encode


class EntryEncoder:
    """Encodes the entries of one batch, in order. An error that several entries share is encoded once.

    A long error is written only for the first user of its line: it can take 40 KB, and a line may name 1,000 users.
    """

    def __init__(self) -> None:
        self._problem: Problem | None = None
        self._line = -1
        self._full = self._repeated = b""

    def pieces(self, entries: Sequence[BatchEntry], separator: bytes) -> Iterator[bytes]:
        """Yield the encoded entries in pieces of about ``PIECE_BYTES``."""
        parts: list[bytes] = []
        size = 0
        for entry in entries:
            parts.append(encoded := self.encode(entry))
            size += len(encoded)
            if size >= PIECE_BYTES:
                yield separator.join(parts)
                parts, size = [], 0
        if parts:
            yield separator.join(parts)

    def encode(self, entry: BatchEntry) -> bytes:
        """Return the entry of the response as JSON."""
        uid = b"null" if entry.uid is None else b'"%s"' % entry.uid.encode()
        receipt, result = entry.receipt, entry.result
        if receipt is not None:
            return b'{"line":%d,"uid":%s,"receipt":%s}' % (entry.line, uid, receipt)
        problem = result if isinstance(result, Problem) else Problem("internal", "The line was not processed.")
        return b'{"line":%d,"uid":%s,"problem":%s}' % (entry.line, uid, self._encode_problem(entry.line, problem))

    def _encode_problem(self, line: int, problem: Problem) -> bytes:
        is_repeated = problem is self._problem and line == self._line
        if problem is not self._problem:
            self._full = self._repeated = _encode(problem.frame())
            if len(self._full) > MAX_REPEATED_BYTES:
                self._repeated = _encode(replace(problem, detail=_SAME_ERROR, errors=()).frame())
        self._problem, self._line = problem, line
        return self._repeated if is_repeated else self._full


async def respond_with_array(send: Send, entries: Sequence[BatchEntry]) -> None:
    """Write the entries as a JSON array: a short one at once, a long one in pieces as fast as the client reads."""
    pieces = EntryEncoder().pieces(entries, b",")
    held = b"[" + next(pieces, b"")
    is_started = False
    for piece in pieces:
        if not is_started:
            await _start(send, JSON)
            is_started = True
        await send({"type": "http.response.body", "body": held, "more_body": True})
        await asyncio.sleep(0)
        held = b"," + piece
    if is_started:
        await send({"type": "http.response.body", "body": held + b"]"})
    else:
        await _respond(send, JSON, held + b"]")


class NdjsonResponse:
    """The response of an NDJSON batch. A separate task writes it, because some clients first send everything.

    A response in one piece is written without the task.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._encoder = EntryEncoder()
        self._last = b""
        self._out: asyncio.Queue[bytes] = asyncio.Queue()
        self._waiting_bytes = 0
        self._has_room = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None

    async def add(self, entries: Sequence[BatchEntry], *, is_last: bool) -> None:
        """Write entries. Wait while the client leaves more than ``MAX_WAITING_BYTES`` unread.

        ``is_last``: the last piece waits for ``finish``.
        """
        for piece in self._encoder.pieces(entries, b"\n"):
            if self._last:
                await self._write()
                await asyncio.sleep(0)
            self._last = piece + b"\n"
        if not is_last:
            await self._write()

    async def finish(self, *entries: BatchEntry) -> None:
        """Write these entries and the rest, and wait until the server has them."""
        self._last += b"".join([self._encoder.encode(entry) + b"\n" for entry in entries])
        if self._writer is None:
            await _respond(self._send, NDJSON, self._last)
            return
        if self._last:
            self._out.put_nowait(self._last)
        self._out.put_nowait(b"")
        await self._writer

    def cancel(self) -> None:
        """Write nothing more: a writer that waits for more would never end."""
        if self._writer is not None:
            self._writer.cancel()

    async def _write(self) -> None:
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_response())
        data, self._last = self._last, b""
        self._waiting_bytes += len(data)
        self._out.put_nowait(data)
        while self._waiting_bytes > MAX_WAITING_BYTES and not self._writer.done():
            self._has_room.clear()
            await self._has_room.wait()

    async def _write_response(self) -> None:
        try:
            await _start(self._send, NDJSON)
            while data := await self._out.get():
                await self._send({"type": "http.response.body", "body": data, "more_body": True})
                self._waiting_bytes -= len(data)
                self._has_room.set()
            await self._send({"type": "http.response.body", "body": b""})
        finally:
            self._has_room.set()


async def _respond(send: Send, kind: str, body: bytes) -> None:
    await _start(send, kind, (b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.body", "body": body})


async def _start(send: Send, kind: str, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind.encode()), *headers]})
