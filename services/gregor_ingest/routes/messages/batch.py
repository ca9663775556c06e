"""``POST /v1/messages``: a batch of messages, as a JSON array or as an NDJSON stream.

Each line has its own result: an invalid line does not affect the others.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Final

import msgspec
from starlette.types import Receive, Scope, Send

from gregor.core.errors import Problem, drop_tracebacks
from gregor.core.json_text import split_array
from gregor.web.request import JSON, body_chunks, media_type
from gregor_ingest.auth.actor import Actor
from gregor_ingest.auth.rules import access_rule
from gregor_ingest.context import IngestContext
from gregor_ingest.rate_limits import MESSAGES
from gregor_ingest.request import NDJSON, parse_query

from .batch_body import BodyMemory, LineGroup, Lines, read_array, read_lines
from .batch_response import NdjsonResponse, respond_with_array
from .durability import asks_for_replicas
from .lines import MAX_UIDS_BYTES, BatchEntry, BatchSubmission, LineLimiter, LineReader

PATH: Final = "/v1/messages"
CHUNK_ENTRIES: Final = 200
"""Entries committed in one round trip: many enough to amortize it, few enough that the first results come soon."""

_RULE: Final = access_rule("POST", PATH)
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


class SendMessages:
    """The endpoint ``sendMessages`` as an ASGI application."""

    def __init__(self, context: IngestContext) -> None:
        self._context = context
        self._memory = BodyMemory()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond with the receipt or the error of each pair of line and uid, in order."""
        scope["gregor.operation"] = "sendMessages"
        # Authorization before the body: an unknown caller cannot make the process read a whole batch.
        actor = await self._context.authorizer.authorize(_RULE, scope)
        await self._context.rate_limiter.run(actor, scope, MESSAGES, self._respond(actor, scope, receive, send))

    async def _respond(self, actor: Actor, scope: Scope, receive: Receive, send: Send) -> None:
        context, headers = self._context, scope["gregor.headers"]
        limiter = LineLimiter(actor, scope, context.rate_limiter)
        reader = LineReader(limiter, context)
        # First, because a refused request costs as much as a valid one.
        await reader.check_rate()
        parse_query(scope["query_string"])
        kind = media_type(headers, JSON, NDJSON)
        if b"idempotency-key" in headers:
            raise Problem("invalid", "The header Idempotency-Key is for single messages; give each line an id.")
        submission = BatchSubmission(limiter, context, is_replicated=asks_for_replicas(headers))
        _, max_bytes = batch_limits(actor, context)
        source = body_chunks(headers, receive, max_bytes, lambda: batch_too_large(max_bytes))
        with self._memory.holding(actor, max_bytes) as hold:
            if kind == JSON:
                raw = await read_array(source, hold)
                async with self._memory.decoding(actor, len(raw), max_bytes):
                    await context.authorizer.confirm(scope)
                    entries = await self._process_array(raw, reader, submission, scope)
                del raw  # the client may read slowly
                await respond_with_array(send, entries)
            else:
                batch = _NdjsonBatch(context, submission, reader, scope, send)
                await batch.run(read_lines(source, hold, context.limits.message_bytes + MAX_UIDS_BYTES))

    async def _process_array(
        self, raw: bytes, reader: LineReader, submission: BatchSubmission, scope: Scope
    ) -> list[BatchEntry]:
        context, actor = self._context, submission.limiter.actor
        max_lines, _ = batch_limits(actor, context)
        lines = _split_array(raw, max_lines)
        await reader.take(lines)
        entries: list[BatchEntry] = []
        for number, line in enumerate(lines):
            if reader.is_pause_due(line):
                await asyncio.sleep(0)
            entries += reader.read(number, line)
            if len(entries) > context.limits.batch_fanout:
                raise batch_has_too_many_users(context)
        for start in range(0, len(entries), CHUNK_ENTRIES):
            chunk = entries[start : start + CHUNK_ENTRIES]
            await submission.submit(chunk, is_first=start == 0)
            await _audit_resets(chunk, actor, scope, context)
            for entry in chunk:
                entry.release()
        return entries


# --- NDJSON


class _NdjsonBatch:
    """One NDJSON batch: reads, commits and responds at the same time.

    A batch that arrives in one piece is answered in one piece, unless its response is long.
    """

    def __init__(
        self, context: IngestContext, submission: BatchSubmission, reader: LineReader, scope: Scope, send: Send
    ) -> None:
        self._context = context
        self._submission = submission
        self._scope = scope
        self._response = NdjsonResponse(send)
        self._reader = reader
        self._max_lines, _ = batch_limits(submission.limiter.actor, context)
        self._lines = 0
        self._entries = 0
        self._next_line = 0
        self._has_submitted = False

    async def run(self, groups: AsyncGenerator[LineGroup, None]) -> None:
        """Process the batch. An error of the whole batch is raised before the first commit; later it is an entry."""
        last: list[BatchEntry] = []
        try:
            # Closed, and its errors without their frames: these hold parts of the body while the client reads slowly.
            async with aclosing(groups):
                await self._process(groups)
        except Problem as problem:
            if not self._has_submitted:
                raise
            last = [BatchEntry(self._next_line, None, result=drop_tracebacks(problem))]
        # The client is gone, or the server stops.
        except BaseException:
            self._response.cancel()
            raise
        await self._response.finish(*last)

    async def _process(self, groups: AsyncIterator[LineGroup]) -> None:
        async for group, empty_bytes, is_last in groups:
            await self._context.authorizer.confirm(self._scope)
            await self._reader.take_empty(empty_bytes)
            entries, problem = await self._read(group)
            if problem is not None and not self._has_submitted:
                raise problem
            await self._submit(entries, is_last)
            if problem is not None:
                raise problem

    async def _read(self, group: Lines) -> tuple[list[BatchEntry], Problem | None]:
        """Return the entries of the lines, and the error that ends the batch at ``_next_line``, if there is one."""
        entries: list[BatchEntry] = []
        limits = self._context.limits
        await self._reader.take([raw for _, raw in group[: self._max_lines - self._lines]])
        for number, raw in group:
            self._next_line = number
            self._lines += 1
            if self._lines > self._max_lines:
                return entries, batch_has_too_many_lines(self._max_lines)
            if self._reader.is_pause_due(raw):
                await asyncio.sleep(0)
            found = self._reader.read(number, raw)
            self._entries += len(found)
            if self._entries > limits.batch_fanout:
                return entries, batch_has_too_many_users(self._context)
            entries += found
            self._next_line = number + 1
        return entries, None

    async def _submit(self, entries: list[BatchEntry], is_last: bool) -> None:
        context = self._context
        for start in range(0, len(entries), CHUNK_ENTRIES):
            piece = entries[start : start + CHUNK_ENTRIES]
            # Until the first chunk is submitted, a failing store fails the whole batch, which is then safe to retry.
            is_first = not self._has_submitted
            await self._submission.submit(piece, is_first=is_first)
            await _audit_resets(piece, self._submission.limiter.actor, self._scope, context)
            self._has_submitted = True
            for entry in piece:
                entry.release()
            await self._response.add(piece, is_last=is_last and start + CHUNK_ENTRIES >= len(entries))


# --- JSON arrays


def _split_array(raw: bytes, max_lines: int) -> list[bytes]:
    """Return the elements of a JSON array, not decoded: an error inside one must not affect the others."""
    try:
        lines = split_array(raw, max_lines)
    except msgspec.ValidationError:
        raise Problem("invalid", f"A batch must be a JSON array of messages, or {NDJSON}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        masked = _SURROGATE.sub(rb"\\u0000", raw)
        if masked == raw:
            raise Problem("malformed_json", f"The body is not a valid JSON array: {error}.") from None
    else:
        if lines is None:
            raise batch_has_too_many_lines(max_lines)
        return lines
    # The splitter refuses a lone surrogate, but that is an error of one line: mask all of them, then cut the original.
    elements, end = [], 0
    for element in _split_array(masked, max_lines):
        begin = masked.index(element, end)
        end = begin + len(element)
        elements.append(raw[begin:end])
    return elements


async def _audit_resets(entries: Sequence[BatchEntry], actor: Actor, scope: Scope, context: IngestContext) -> None:
    if not actor.has_scope("admin"):
        return
    for entry in entries:
        if entry.is_reset and entry.uid is not None:
            await context.audit.record_reset(scope, actor, entry.uid)


def batch_limits(actor: Actor, context: IngestContext) -> tuple[int, int]:
    """Return the most lines and the most bytes of a batch of this caller."""
    limits = context.limits
    if actor.caller is None:
        return limits.batch, limits.batch_bytes
    return min(limits.batch, limits.device_batch), min(limits.batch_bytes, limits.device_batch_bytes)


def batch_has_too_many_lines(max_lines: int) -> Problem:
    """Return the error for a batch with too many messages."""
    return Problem("batch_too_large", f"A batch has at most {max_lines} messages here. Send the rest in another.")


def batch_too_large(max_bytes: int) -> Problem:
    """Return the error for a batch with too many bytes."""
    return Problem("batch_too_large", f"A batch has at most {max_bytes} bytes here. Split it.")


def batch_has_too_many_users(context: IngestContext) -> Problem:
    """Return the error for a batch with too many pairs of line and uid."""
    return Problem("batch_too_large", f"A batch has at most {context.limits.batch_fanout} lines × uids. Split it.")
