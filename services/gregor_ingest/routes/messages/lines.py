"""The lines of a batch: what each says, to whom, and what became of it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from gregor.core.errors import Problem, at
from gregor.core.ids import is_name
from gregor.core.items.sync import View
from gregor.core.json_text import decode_json
from gregor.core.messages.delayed import Delayed, delayed
from gregor.core.messages.encode import encode_receipt
from gregor.core.messages.model import Commit, Receipt
from gregor.core.messages.parse import parse_message
from gregor.core.messages.parse_fast import read_plain
from gregor.core.messages.plan import plan
from gregor.store.contract.store import Unavailable
from gregor.web.request import message_too_large
from gregor_ingest.auth import Actor
from gregor_ingest.context import IngestContext

from .messages import keep, planned

MOST_UIDS: Final = 1_000
"""Users that one line may name (protocol.md, ``POST /v1/messages``)."""

MOST_USERS_BYTES: Final = MOST_UIDS * 131 + 10
"""What naming the users takes at most, beside the message: 128 letters, quotes and a comma each."""

_encode: Final = msgspec.json.Encoder().encode


class BatchEntry(msgspec.Struct):
    """One (line, uid): its commit, or the problem that it ended in. ``uid`` is ``None`` where the line names none.

    ``later``: a message to be kept until a time (µs), in place of a commit; ``kept`` is the receipt of that.
    """

    line: int
    uid: str | None
    commit: Commit | None = None
    view: View | None = None
    problem: Problem | None = None
    receipt: Receipt | None = None
    later: tuple[Delayed, int] | None = None
    kept: bytes | None = None

    @property
    def is_external(self) -> bool:
        """Whether it is a message of another system."""
        return self.commit is not None and self.commit.external is not None

    def encode(self) -> bytes:
        """The entry of the answer."""
        uid = b"null" if self.uid is None else b'"%s"' % self.uid.encode()
        if self.receipt is not None and self.view is not None:
            receipt = encode_receipt(self.receipt, self.view, self.is_external)
            return b'{"line":%d,"uid":%s,"receipt":%s}' % (self.line, uid, receipt)
        if self.kept is not None:
            return b'{"line":%d,"uid":%s,"receipt":%s}' % (self.line, uid, self.kept)
        problem = self.problem or Problem("internal", "A fault of the server.")
        return b'{"line":%d,"uid":%s,"problem":%s}' % (self.line, uid, _encode(problem.frame()))


class LineReader:
    """Reads the lines of one caller: what is the same in all of them is looked up once."""

    def __init__(self, actor: Actor, context: IngestContext) -> None:
        self._actor = actor
        self._parts = context
        self._limits = context.limits
        # Who may create for whomever it names: plain lines of others go the whole way.
        may_all = actor.key is not None and actor.has_scope("ingest")
        self._role = actor.sender_and_view(None) if may_all else None

    def read(self, number: int, raw: bytes) -> list[BatchEntry]:
        """The entries of a line, each planned or refused: one for each uid, or one where it names no users."""
        limits = self._limits
        if self._role is None or len(raw) > limits.message_bytes:
            return self._read_whole(number, raw)
        plain = read_plain(raw, limits)
        if plain is None or plain[0] is None:
            return self._read_whole(number, raw)
        uid, message = plain
        sender, view = self._role
        context = self._parts
        try:
            entries = context.registry.current
            commit = plan(message, sender, context.clock.now_us(), context.epoch_seed(), limits, entries)
        except Problem as problem:
            return [BatchEntry(number, uid, problem=problem)]
        return [BatchEntry(number, uid, commit, view)]

    def _read_whole(self, number: int, raw: bytes) -> list[BatchEntry]:
        """``read`` of a line that may say anything."""
        context = self._parts
        uids: Sequence[str | None] = (None,)
        try:
            _check_size(len(raw) - MOST_USERS_BYTES, context)
            document = decode_json(raw, context.limits, has_stand_ins=True)
            uids = named = _users(document)
            _check(raw, named, self._actor, context)
            message = parse_message(document, context.limits)
            commit, view = planned(message, self._actor, context)
        except Problem as problem:
            return [BatchEntry(number, uid, problem=problem) for uid in uids]
        if message.not_before_us is None:
            return [BatchEntry(number, uid, commit, view) for uid in uids]
        kept = delayed(document, message, commit.sender, secrets.token_hex(16))
        return [BatchEntry(number, uid, later=(kept, message.not_before_us)) for uid in uids]


def _users(document: Any) -> list[str]:
    """The users that a line names; takes them out of it, so that what stays is a message."""
    if not isinstance(document, dict):
        raise Problem("invalid", "A line must be an object.")
    uid, uids = document.pop("uid", None), document.pop("uids", None)
    if uid is not None and uids is not None:
        raise at("invalid", "/uids", "A line has a uid or uids, never both.")
    if uids is None:
        if uid is None:
            raise at("missing_field", "/uid", "A line names its uid, or uids.")
        uids = [uid]
        pointer = "/uid"
    elif not isinstance(uids, list) or not uids:
        raise at("invalid", "/uids", "uids is an array of at least one uid.")
    elif len(uids) > MOST_UIDS:
        raise at("too_many", "/uids", f"A line names at most {MOST_UIDS} users.")
    else:
        pointer = "/uids"
    for index, name in enumerate(uids):
        if not is_name(name):
            where = pointer if pointer == "/uid" else f"{pointer}/{index}"
            raise at("invalid_id", where, "A uid has 1 to 128 of A-Z a-z 0-9 . _ : @ -, the first a letter or digit.")
    return uids


def _check_size(size: int, context: IngestContext) -> None:
    if size > context.limits.message_bytes:
        raise message_too_large(context.limits.message_bytes)


def _check(raw: bytes, uids: Sequence[str], actor: Actor, context: IngestContext) -> None:
    """The bound of bytes is the message's own: naming many users takes nothing from it."""
    _check_size(len(raw) - sum(len(uid) + 3 for uid in uids) - len('"uids":[],'), context)
    if actor.caller is not None and any(uid != actor.caller.uid for uid in uids):
        raise Problem("forbidden", "The token is of another user.")


async def commit_entries(
    entries: Sequence[BatchEntry], actor: Actor, context: IngestContext, *, is_first: bool
) -> None:
    """Commit what is planned, in order; each entry then has its receipt or its problem.

    Where the store cannot be reached at the very first (``is_first``), nothing is known to be done and ``Unavailable``
    is raised; later each entry says so for itself.
    """
    planned_entries = [entry for entry in entries if entry.commit is not None or entry.later is not None]
    granted, wait_s = await _granted(actor, len(planned_entries), context)
    for entry in planned_entries[granted:]:
        entry.problem = Problem("rate_limited", f"Too many at once; wait {wait_s:.1f} s.", retry_after_s=wait_s)
    await asyncio.gather(*(_keep(entry, context) for entry in planned_entries[:granted] if entry.later is not None))
    due = [entry for entry in planned_entries[:granted] if entry.commit is not None]
    try:
        results = await context.store.users.commit_many([(str(e.uid), e.commit) for e in due if e.commit is not None])
    except Unavailable as trouble:
        if is_first:
            raise
        for entry in due:
            entry.problem = trouble.problem()
        return
    for entry, result in zip(due, results, strict=True):
        if isinstance(result, Problem):
            entry.problem = result
        else:
            entry.receipt = result
    context.count(results)


async def _keep(entry: BatchEntry, context: IngestContext) -> None:
    """Keep a delayed message; the entry then has its receipt or its problem."""
    if entry.later is None or entry.uid is None:
        return
    try:
        entry.kept = await keep(entry.uid, *entry.later, context)
    except Problem as problem:
        entry.problem = problem
    except Unavailable as trouble:
        entry.problem = trouble.problem()


async def _granted(actor: Actor, count: int, context: IngestContext) -> tuple[int, float]:
    """How many of ``count`` messages the caller's rate lets through now, and how long the next one has to wait."""
    granted = 0
    wait_s = 0.0
    step = count
    # Halving finds what fits in a few calls, whatever the burst is.
    while step and granted < count:
        step = min(step, count - granted)
        wait_s = await context.authorizer.take(actor, step)
        if wait_s == 0:
            granted += step
        else:
            step //= 2
    return granted, wait_s
