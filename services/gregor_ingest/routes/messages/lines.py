"""The lines of a batch: rate limit, parsing, planning, committing and encoding, each with its own result."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from starlette.types import Scope

from gregor.core.errors import Problem, drop_tracebacks, field_problem
from gregor.core.ids import is_user_id, user_id_error
from gregor.core.items.sync import View
from gregor.core.json_text import decode_json
from gregor.core.limits import Limits
from gregor.core.messages.cost import text_weight
from gregor.core.messages.delayed import DelayedMessage
from gregor.core.messages.encode import encode_receipt
from gregor.core.messages.model import Commit, Message, Receipt, Sender
from gregor.core.messages.parse import parse_message
from gregor.core.messages.parse_fast import parse_fast
from gregor.core.rate_limit import rate_limited
from gregor.cpu_meter import metered
from gregor.store.contract.replication import ReplicationMark
from gregor.store.contract.store import Unavailable
from gregor.web.request import message_too_large
from gregor_ingest.auth.actor import Actor
from gregor_ingest.context import IngestContext
from gregor_ingest.rate_limits import MESSAGES, CallerRateLimiter

from .durability import with_durability
from .messages import authorize_message

MAX_UIDS: Final = 1_000
"""Users that one line may name."""
MAX_UIDS_BYTES: Final = MAX_UIDS * 131 + 10
"""Bytes that ``uids`` adds to a line at most: 128 letters, two quotes and a comma for each user."""

PAUSE_BYTES: Final = 65_536
"""Bytes of lines that are read without yielding to the event loop: some milliseconds at worst."""


class BatchEntry(msgspec.Struct):
    """One pair of line and uid.

    ``work``: the planned message; ``result``: set when it is done, or at once if it is invalid.

    ``uid`` is ``None`` if the line names no user. ``view``: the view of the sender, in which a receipt is written.
    ``result``: the receipt of a commit, the encoded receipt of a delayed message, or the error. ``weight``: its part of
    the rate limit; ``paid``: the part that was charged to a device before the line was read.
    """

    line: int
    uid: str | None
    work: Commit | DelayedMessage | None = None
    view: View | None = None
    not_before_us: int | None = None
    result: Receipt | bytes | Problem | None = None
    weight: int = 1
    paid: int = 0

    @property
    def is_reset(self) -> bool:
        """Whether the entry reset its user, or will do so later."""
        is_reset = self.work.is_reset if self.work is not None else False
        is_refused = isinstance(self.result, Problem) and self.result.code != "not_replicated"
        return is_reset and not is_refused

    @property
    def receipt(self) -> bytes | None:
        """The encoded receipt; ``None`` if the entry has an error, or no result yet."""
        result = self.result
        if isinstance(result, Receipt) and isinstance(self.work, Commit) and self.view is not None:
            return encode_receipt(result, self.view, self.work.external is not None)
        return result if isinstance(result, bytes) else None

    def release(self) -> None:
        """Keep only the result: the message takes more memory, and the client may read slowly."""
        self.result, self.work, self.view = self.receipt or self.result, None, None

    def require_replicas(self, replicas: int, required: int) -> None:
        """Add the number of replicas to the receipt, or replace it by ``not_replicated`` if they are too few."""
        receipt = self.receipt
        if receipt is not None:
            try:
                self.result = with_durability(receipt, replicas, required)
            except Problem as problem:
                self.result = drop_tracebacks(problem)


# --- Reading


class LineLimiter:
    """Charges the lines of one batch to the rate limit of its caller."""

    def __init__(self, actor: Actor, scope: Scope, rate_limiter: CallerRateLimiter) -> None:
        self.actor = actor
        self.scope = scope
        self._rate_limiter = rate_limiter

    async def check(self, weight: int = 1) -> None:
        """Take one line of this weight. Raise ``rate_limited`` if that is too much."""
        await self._rate_limiter.check_message(self.actor, self.scope, weight)

    async def charge(self, weight: int) -> None:
        """Take more for a line that is being done: the rate limit can go into debt."""
        await self._rate_limiter.charge_message(self.actor, self.scope, weight)

    async def take_as_many_as_possible(self, weights: Sequence[int], taken: int = 0) -> tuple[int, float]:
        """Take as many of the first lines as possible. Returns how many, and the seconds until the next one.

        ``taken``: what was taken for them before.
        """
        if not any(weights):
            return len(weights), 0.0
        granted = 0
        wait_s = 0.0
        step = count = len(weights)
        # Halving finds the largest part that fits in a few calls, whatever the burst is.
        while step and granted < count:
            step = min(step, count - granted)
            part = weights[granted : granted + step]
            wait_s = await self._rate_limiter.take(self.actor, self.scope, part, taken=taken) if any(part) else 0.0
            if wait_s == 0:
                granted += step
            else:
                step //= 2
        return granted, wait_s


class LineReader:
    """Turns the lines of one caller into entries, each planned or rejected.

    Each line of a device is charged before it is read (``take``): reading an invalid one costs as much as a valid one.
    """

    def __init__(self, limiter: LineLimiter, context: IngestContext) -> None:
        actor = self._actor = limiter.actor
        self._limiter = limiter
        self._taken = 0
        self._wait_s = 0.0
        self._bytes = 0
        self._empty_bytes = 0
        self._submitter = context.submitter
        self._limits = context.limits
        # The fast path skips the checks of the general one, so it is for keys that may create for every user.
        is_unrestricted = actor.key is not None and actor.has_scope("ingest")
        self._fast_role = actor.sender_and_view(None) if is_unrestricted else None

    async def check_rate(self) -> None:
        """Take the first line of a device. Raise ``rate_limited`` if there is none left."""
        if self._actor.caller is not None:
            await self._limiter.check()
            self._taken = 1

    async def take(self, lines: Sequence[bytes]) -> None:
        """Take the weight of these lines from a device's rate limit. Those above it are rejected without being read."""
        if self._actor.caller is None or not lines:
            return
        weights = [text_weight(len(raw)) for raw in lines]
        first = self._taken  # 1 if check_rate took 1 for the first of these lines
        weights[0] -= first
        # The wait for that line includes what check_rate takes again when the batch is repeated.
        granted, wait_s = await self._limiter.take_as_many_as_possible(weights[:first], taken=first)
        if granted == first:
            more, wait_s = await self._limiter.take_as_many_as_possible(weights[first:])
            granted += more
        self._taken, self._wait_s = granted, wait_s

    async def take_empty(self, size_bytes: int) -> None:
        """Take the weight of empty lines from a device's rate limit. Raise ``rate_limited`` if that is too much."""
        if self._actor.caller is None or not size_bytes:
            return
        before = text_weight(self._empty_bytes)
        self._empty_bytes += size_bytes
        if weight := text_weight(self._empty_bytes) - before:
            await self._limiter.check(weight)

    def is_pause_due(self, raw: bytes) -> bool:
        """Return whether to yield to the event loop before this line is read."""
        self._bytes += len(raw)
        if self._bytes < PAUSE_BYTES:
            return False
        self._bytes = 0
        return True

    def read(self, number: int, raw: bytes) -> list[BatchEntry]:
        """Return the entries of a line: one for each uid, or a single one with an error if the line names no user."""
        if self._actor.caller is not None:
            if not self._taken:
                return [BatchEntry(number, self._actor.caller.uid, result=rate_limited(MESSAGES, self._wait_s))]
            self._taken -= 1
        if self._fast_role is not None and len(raw) <= self._limits.message_bytes:
            plain = parse_fast(raw, self._limits)
            if plain is not None and plain[0] is not None:
                return self._plan(number, (plain[0],), plain[1], {}, *self._fast_role, 0)
        return self._read_general(number, raw)

    def _read_general(self, number: int, raw: bytes) -> list[BatchEntry]:
        named: list[str] = []
        try:
            _check_size(len(raw) - MAX_UIDS_BYTES, self._limits)
            document = decode_json(raw, self._limits, has_stand_ins=True)
            named = _pop_uids(document)
            _check_uids(raw, named, self._actor, self._limits)
            message = parse_message(document, self._limits)
            sender, view = authorize_message(message, self._actor)
        except Problem as problem:
            drop_tracebacks(problem)
            return [BatchEntry(number, uid, result=problem) for uid in named or (None,)]
        paid = 0 if self._actor.caller is None else text_weight(len(raw))
        return self._plan(number, named, message, document, sender, view, paid)

    def _plan(
        self,
        number: int,
        uids: Sequence[str],
        message: Message,
        document: dict[str, Any],
        sender: Sender,
        view: View,
        paid: int,
    ) -> list[BatchEntry]:
        work: Commit | DelayedMessage
        try:
            # Planned once for all users of the line: nothing in a commit depends on the user.
            work = self._submitter.plan(message, sender)
        except Problem as problem:
            drop_tracebacks(problem)
            return [BatchEntry(number, uid, result=problem) for uid in uids]
        if message.not_before_us is not None:
            key_id = "" if self._actor.key is None else self._actor.key.id
            work = self._submitter.delay_message(message, document, sender, key_id, self._actor.issued_us)
        weight = max(paid, self._submitter.weight(message, is_device=self._actor.caller is not None))
        return [BatchEntry(number, uid, work, view, message.not_before_us, None, weight, paid) for uid in uids]


def _pop_uids(document: Any) -> list[str]:
    """Return the users that a line names, and remove them from it: the rest of the line is a message."""
    if not isinstance(document, dict):
        raise Problem("invalid", "A line must be an object.")
    uid, uids = document.pop("uid", None), document.pop("uids", None)
    if uid is not None and uids is not None:
        raise field_problem("invalid", "/uids", "A line has either uid or uids. Remove one of them.")
    if uids is None:
        if uid is None:
            raise field_problem("missing_field", "/uid", "A line needs a uid, or uids.")
        uids = [uid]
    elif not isinstance(uids, list) or not uids:
        raise field_problem("invalid", "/uids", "uids must be an array of at least one uid.")
    elif len(uids) > MAX_UIDS:
        raise field_problem("too_many", "/uids", f"A line may name at most {MAX_UIDS} users. Split it.")
    for index, name in enumerate(uids):
        if not is_user_id(name):
            pointer = "/uid" if uid is not None else f"/uids/{index}"
            raise field_problem("invalid_id", pointer, user_id_error(name))
    return uids


def _check_size(size: int, limits: Limits) -> None:
    if size > limits.message_bytes:
        raise message_too_large(limits.message_bytes)


def _check_uids(raw: bytes, uids: Sequence[str], actor: Actor, limits: Limits) -> None:
    """Check the size of the message, without its list of users, and that a device token names its own user."""
    _check_size(len(raw) - sum(len(uid) + 3 for uid in uids) - len('"uids":[],'), limits)
    if actor.caller is None:
        return
    if any(uid != actor.caller.uid for uid in uids):
        raise Problem("forbidden", "The device token belongs to another user.")
    if len(uids) > 1:
        raise field_problem("too_many", "/uids", "A line of a device names its user once.")


# --- Submitting


class BatchSubmission:
    """Submits the planned entries of one batch, and waits for replicas if the caller asks for that."""

    def __init__(self, limiter: LineLimiter, context: IngestContext, *, is_replicated: bool) -> None:
        self.limiter = limiter
        self._authorizer = context.authorizer
        self._submitter = context.submitter
        self._replication = context.store.replication
        self._is_replicated = is_replicated
        self._burst = context.limits.device_burst
        self._paid = 0
        self._has_accepted = False

    async def submit(self, entries: Sequence[BatchEntry], *, is_first: bool) -> None:
        """Submit entries in order; afterwards each one has its result.

        ``is_first``: nothing of the batch was submitted before. Then an error of the whole batch (``Unavailable``,
        ``no_replicas``, or a caller who has lost its rights) is raised, and nothing is committed; later it is the
        result of each entry.
        """
        pending = await self._take_from_limit(entries)
        try:
            # Entries before these may have waited for replicas.
            await self._authorizer.confirm(self.limiter.scope)
            mark = await self._prepare(pending)
            await self._commit(pending)
        except (Unavailable, Problem) as error:
            if is_first:
                raise
            problem = drop_tracebacks(error if isinstance(error, Problem) else error.problem())
            for entry in pending:
                entry.result = entry.result or problem
            return
        if mark is not None:
            # One wait covers all entries of a server, whatever their number.
            confirmed = await self._replication.confirm(mark)
            for entry in pending:
                entry.require_replicas(confirmed[str(entry.uid)], self._replication.required)

    async def _prepare(self, pending: Sequence[BatchEntry]) -> ReplicationMark | None:
        if not self._is_replicated or not pending:
            return None
        return await self._replication.prepare([str(entry.uid) for entry in pending])

    async def _take_from_limit(self, entries: Sequence[BatchEntry]) -> list[BatchEntry]:
        """Return the valid entries that the rate limit allows; the others get their error."""
        pending = [entry for entry in entries if entry.work is not None]
        # Each line of a device was charged before it was read (LineReader.take). Invalid lines of keys count too:
        # reading them was the larger part of the work.
        is_key = self.limiter.actor.caller is None
        weights, paid = [entry.weight - entry.paid for entry in pending], [entry.paid for entry in entries]
        # Less than the burst: with nothing left to take, all heavy lines would be accepted at once, as debts.
        taken = max(max(paid, default=0), min(sum(paid), self._burst - 1))
        granted, wait_s = await self.limiter.take_as_many_as_possible(weights, taken)
        self._paid += sum(paid)
        # The texts of a batch can use all that is left of the rate, again at each repeat. So one line is accepted as a
        # debt, but only if the texts cost as much as this line, or a whole burst. Without this condition, each of many
        # small batches would get a debt.
        if weights and not (is_key or granted or self._has_accepted) and self._paid >= min(weights[0], self._burst):
            await self.limiter.charge(weights[0])
            granted = 1
        self._has_accepted = self._has_accepted or granted > 0
        if is_key:
            await self.limiter.take_as_many_as_possible([1] * (len(entries) - len(pending)))
        for entry in pending[granted:]:
            entry.result = rate_limited(MESSAGES, wait_s)
        return pending[:granted]

    async def _commit(self, pending: Sequence[BatchEntry]) -> None:
        # Delayed messages go to the agenda with one call each: they are rare in batches.
        await asyncio.gather(
            *[metered(self._delay(entry)) for entry in pending if isinstance(entry.work, DelayedMessage)]
        )
        to_commit = [entry for entry in pending if isinstance(entry.work, Commit)]
        commits = [(str(entry.uid), entry.work) for entry in to_commit if isinstance(entry.work, Commit)]
        results = await self._submitter.commit_many(commits)
        for entry, result in zip(to_commit, results, strict=True):
            entry.result = result
        extra_weight = sum(result.extra_weight for result in results)
        if extra_weight:
            await self.limiter.charge(extra_weight)

    async def _delay(self, entry: BatchEntry) -> None:
        if not isinstance(entry.work, DelayedMessage) or entry.uid is None or entry.not_before_us is None:
            return
        try:
            entry.result = await self._submitter.delay(entry.uid, entry.work, entry.not_before_us, self.limiter.charge)
        except Problem as problem:
            entry.result = drop_tracebacks(problem)
        except Unavailable as error:
            entry.result = error.problem()
