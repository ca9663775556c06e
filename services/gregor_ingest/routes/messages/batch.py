"""``POST /v1/messages``: many messages, as a JSON array or streamed as NDJSON; one bad line never spoils another."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Final, TypeAlias

import msgspec
from starlette.types import Receive, Scope, Send

from gregor.core.errors import Problem
from gregor.web.request import JSON, body_chunks, media_type, read_body
from gregor_ingest.auth import Actor, access_rule
from gregor_ingest.context import IngestContext
from gregor_ingest.request import NDJSON, parse_query

from .lines import BatchEntry, LineReader, submit_entries

PATH: Final = "/v1/messages"
CHUNK: Final = 200
"""Entries committed at once: enough to share a round trip among, few enough that the first answers come soon."""

Lines: TypeAlias = list[tuple[int, bytes]]
"""Lines of a text with their numbers, from 0."""
Group: TypeAlias = tuple[Lines, bool]
"""Lines that came together, and whether they are the last ones."""

_RULE: Final = access_rule("POST", PATH)
_elements: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


class SendMessages:
    """The endpoint as an ASGI application."""

    def __init__(self, context: IngestContext) -> None:
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer each (line, uid) with its receipt or its problem, in order."""
        scope["gregor.operation"] = "sendMessages"
        context, headers = self._context, scope["gregor.headers"]
        actor = await context.authorizer.authorize(_RULE, headers.get(b"authorization"), {}, None)
        parse_query(scope["query_string"])
        kind = media_type(headers, JSON, NDJSON)
        for name in (b"idempotency-key", b"gregor-durability"):
            if name in headers:
                raise Problem("invalid", f"The header {name.decode().title()} is for one message; give lines an id.")
        if kind == JSON:
            raw = await read_body(headers, receive, context.limits.batch_bytes, self._too_many_bytes)
            await self._answer_array(raw, actor, send)
        else:
            source = body_chunks(headers, receive, context.limits.batch_bytes, self._too_many_bytes)
            await _NdjsonBatch(context, actor, send).run(read_lines(source))

    async def _answer_array(self, raw: bytes, actor: Actor, send: Send) -> None:
        context = self._context
        lines = _split_array(raw)
        if len(lines) > context.limits.batch:
            raise too_many_lines(context)
        entries: list[BatchEntry] = []
        reader = LineReader(actor, context)
        for number, line in enumerate(lines):
            entries += reader.read(number, line)
            if len(entries) > context.limits.batch_fanout:
                raise too_many_users(context)
        for start in range(0, len(entries), CHUNK):
            await submit_entries(
                entries[start : start + CHUNK], actor, context.authorizer, context.submitter, is_first=start == 0
            )
        await _answer(send, JSON, b"[" + b",".join([entry.encode() for entry in entries]) + b"]")

    def _too_many_bytes(self) -> Problem:
        return Problem("batch_too_large", f"A batch has at most {self._context.limits.batch_bytes} bytes. Split it.")


class _NdjsonBatch:
    """One NDJSON batch: reads, commits and answers at once.

    The answer is written by a task of its own, from a queue that the bounds of a batch bound: a client that reads only
    when it has sent everything must not stop the reading. Where all was read at once, there is nothing to stop, and the
    answer leaves in one piece.
    """

    def __init__(self, context: IngestContext, actor: Actor, send: Send) -> None:
        self._context = context
        self._actor = actor
        self._send = send
        self._reader = LineReader(actor, context)
        self._lines = 0
        self._entries = 0
        self._next_line = 0
        self._has_settled = False
        self._out: asyncio.Queue[bytes] = asyncio.Queue()
        self._last = b""
        self._writer: asyncio.Task[None] | None = None

    async def run(self, groups: AsyncIterator[Group]) -> None:
        """Serve the batch. A refusal of the whole before anything was done is raised; later it is the last entry."""
        try:
            async for group, is_last in groups:
                entries, refusal = self._read(group)
                if refusal is not None and not self._has_settled:
                    raise refusal
                await self._settle(entries, is_last)
                if refusal is not None:
                    raise refusal
        except Problem as problem:
            if not self._has_settled:
                raise
            self._last += BatchEntry(self._next_line, None, result=problem).encode() + b"\n"
        except BaseException:
            if self._writer is not None:
                self._writer.cancel()
            raise
        await self._finish()

    def _read(self, group: Lines) -> tuple[list[BatchEntry], Problem | None]:
        """The entries of the lines, and why the one at ``_next_line`` is where the batch ends, if it does."""
        entries: list[BatchEntry] = []
        limits = self._context.limits
        for number, raw in group:
            self._next_line = number
            self._lines += 1
            if self._lines > limits.batch:
                return entries, too_many_lines(self._context)
            found = self._reader.read(number, raw)
            self._entries += len(found)
            if self._entries > limits.batch_fanout:
                return entries, too_many_users(self._context)
            entries += found
            self._next_line = number + 1
        return entries, None

    async def _settle(self, entries: list[BatchEntry], is_last: bool) -> None:
        for start in range(0, len(entries), CHUNK):
            piece = entries[start : start + CHUNK]
            await submit_entries(
                piece, self._actor, self._context.authorizer, self._context.submitter, is_first=not self._has_settled
            )
            self._has_settled = True
            told = b"\n".join([entry.encode() for entry in piece]) + b"\n"
            if is_last and start + CHUNK >= len(entries):
                self._last = told
            else:
                self._write(told)

    def _write(self, data: bytes) -> None:
        if self._writer is None:
            self._writer = asyncio.create_task(self._drain())
        self._out.put_nowait(data)

    async def _drain(self) -> None:
        await _start(self._send, NDJSON)
        while data := await self._out.get():
            await self._send({"type": "http.response.body", "body": data, "more_body": True})
        await self._send({"type": "http.response.body", "body": b""})

    async def _finish(self) -> None:
        if self._writer is None:
            await _answer(self._send, NDJSON, self._last)
            return
        if self._last:
            self._out.put_nowait(self._last)
        self._out.put_nowait(b"")
        await self._writer


async def read_lines(source: AsyncIterator[tuple[bytes, bool]]) -> AsyncIterator[Group]:
    """The lines of a text as it comes in: as many at once as are there, and whether they are the last ones.

    Empty ones count, but are not given.
    """
    number = 0
    unfinished: list[bytes] = []
    async for chunk, is_last in source:
        first, *others = chunk.split(b"\n")
        unfinished.append(first)
        if is_last:
            others.append(b"")  # the last line needs no end of its own
        elif not others:
            continue
        complete = [b"".join(unfinished), *others[:-1]]
        unfinished = [others[-1]]
        if found := [(number + index, line) for index, line in enumerate(complete) if line.strip()]:
            yield found, is_last
        number += len(complete)


def _split_array(raw: bytes) -> list[bytes]:
    """The elements of a JSON array, undecoded: what is wrong inside one is that one's problem."""
    try:
        return [bytes(element) for element in _elements(raw)]
    except msgspec.ValidationError:
        raise Problem("invalid", "A batch is a JSON array of messages, or NDJSON with its own Content-Type.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        masked = _SURROGATE.sub(rb"\\u0000", raw)
        if masked == raw:
            raise Problem("malformed_json", f"The body is no JSON array: {error}.") from None
    # Half a surrogate pair stops the splitter: it is led past all of them, and the text cut as it came.
    elements, end = [], 0
    for element in _split_array(masked):
        begin = masked.index(element, end)
        end = begin + len(element)
        elements.append(raw[begin:end])
    return elements


async def _answer(send: Send, kind: str, body: bytes) -> None:
    await _start(send, kind, (b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.body", "body": body})


async def _start(send: Send, kind: str, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind.encode()), *headers]})


def too_many_lines(context: IngestContext) -> Problem:
    """The batch has more messages than one call may have."""
    return Problem("batch_too_large", f"A batch has at most {context.limits.batch} messages. Send the rest in another.")


def too_many_users(context: IngestContext) -> Problem:
    """The batch has more lines × uids than one call may have."""
    return Problem("batch_too_large", f"A batch has at most {context.limits.batch_fanout} lines × uids. Split it.")
