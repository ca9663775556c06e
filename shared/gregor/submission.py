"""The submission pipeline: a message is planned, then committed, or delayed until its time.

Every way in uses the same ``Submitter``: one message over HTTP, a batch over HTTP, and the messages of devices at the
gateway. Callers authenticate, apply the rate limit and parse; the rest happens here.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from gregor.clock import Clock
from gregor.core.errors import Problem
from gregor.core.items.sync import View
from gregor.core.limits import Limits
from gregor.core.messages.cost import message_weight
from gregor.core.messages.delayed import (
    DelayedMessage,
    check_delay,
    decode_delayed_header,
    delay_message,
    is_repeat,
    with_sender,
)
from gregor.core.messages.encode import encode_receipt
from gregor.core.messages.model import Commit, ExternalMessage, Message, Receipt, Sender
from gregor.core.messages.plan import plan
from gregor.metrics.process import Metrics
from gregor.registries.categories import CategoryRegistry
from gregor.store.contract.agenda import CLAIMED, claimed
from gregor.store.contract.store import Store, Unavailable
from gregor.store.delayed_senders import Charge, FullUsers, may_still_send
from gregor.tracing import names
from gregor.tracing.tracer import Span, SpanKind

_ID_WAITS: Final = (
    "Another message waits under this id, or the same one from a sender with other limits, which would dismiss other "
    "items. Use a new id, or cancel that message first."
)


class Submitted(NamedTuple):
    """The user's seq after a submission (0 if the message is delayed), and its receipt as JSON."""

    seq: int
    receipt: bytes


class Submitter:
    """Plans messages, passes them to the store, and counts the accepted ones by outcome."""

    def __init__(
        self,
        store: Store,
        categories: CategoryRegistry,
        clock: Clock,
        limits: Limits,
        metrics: Metrics,
        reset_spread_s: int,
    ) -> None:
        """``reset_spread_s``: seconds over which the devices of a user get full copies after a reset."""
        self._store = store
        self._categories = categories
        self._clock = clock
        self._limits = limits
        self._reset_spread_s = reset_spread_s
        # ``labels()`` looks a child up under a lock: once here instead of once a message.
        self._with_effect = metrics.messages.labels("effect")
        self._without_effect = metrics.messages.labels("unchanged")
        self._delayed = metrics.messages.labels("delayed")
        self._full_users = FullUsers(store)

    def plan(self, message: Message, sender: Sender) -> Commit:
        """Return the commit of a message. A delayed message is planned for its time, so errors show at once.

        Raises ``Problem`` if the message breaks a rule that needs no state, such as a limit of its sender.
        """
        now_us = self._clock.now_us()
        if message.not_before_us is not None:
            check_delay(message.not_before_us, now_us, self._limits)
            now_us = max(now_us, message.not_before_us)
        commit = plan(message, sender, now_us, random.randbytes(3), self._limits, self._categories.current)
        return replace(commit, spread_s=self._reset_spread_s) if commit.is_reset else commit

    def weight(self, message: Message, *, is_device: bool) -> int:
        """Return the weight of a message. A device also pays for the default reminders of categories.

        A service key does not, because an editor of categories could otherwise use up its rate.
        """
        return message_weight(message, self._categories.current) if is_device else message_weight(message)

    async def submit(
        self,
        uid: str,
        message: Message,
        document: Mapping[str, Any],
        sender: Sender,
        view: View,
        key_id: str = "",
        issued_us: int = 0,
        span: Span | None = None,
        charge: Charge | None = None,
    ) -> Submitted:
        """Commit a message, or delay it if it has ``not_before``. Safe to repeat.

        ``document``: the JSON that the message was parsed from; only read if the message is delayed. ``view``: the view
        of the sender, in which the receipt is written. ``key_id``: the service key of the sender, if it has one.
        ``issued_us``: when the token of a device was issued. ``span``: of the request, if it is sampled.
        ``charge``: takes the weight of the message beyond the units that were taken before; see also ``delay``.

        Raises ``Problem``, or ``Unavailable`` if the store cannot be reached: then the message may or may not have been
        committed.
        """
        # The two lines of ``commit`` are repeated here to save a coroutine on the hot path.
        commit = self.plan(message, sender)
        if message.not_before_us is not None:
            delayed = self.delay_message(message, document, sender, key_id, issued_us)
            return Submitted(0, await self.delay(uid, delayed, message.not_before_us, charge))
        try:
            if span is None:
                receipt = await self._store.users.commit(uid, commit)
            else:
                receipt = await self._commit_traced(uid, commit, span)
        except Problem as problem:
            if problem.extra_weight and charge is not None:
                await charge(problem.extra_weight)
            raise
        (self._without_effect if receipt.is_unchanged else self._with_effect).inc()
        if receipt.extra_weight and charge is not None:
            await charge(receipt.extra_weight)
        return Submitted(receipt.seq, encode_receipt(receipt, view, isinstance(message.content, ExternalMessage)))

    async def _commit_traced(self, uid: str, commit: Commit, request: Span) -> Receipt:
        """Commit a sampled message: its announcement, and later work for its items, carry the context of the commit."""
        timed = [creation.id for creation in commit.creations if creation.timers or creation.remind_at_us]
        with request.child(names.COMMIT, SpanKind.CLIENT) as span:
            trace = span.context.pack()
            if timed:
                # Before the commit: a notification without a delay is due at once.
                with suppress(Unavailable):
                    await self._store.agenda.keep_trace(uid, timed, trace)
            receipt = await self._store.users.commit(uid, replace(commit, trace=trace))
            span.attributes[names.EFFECT] = "unchanged" if receipt.is_unchanged else "effect"
            return receipt

    async def commit(self, uid: str, commit: Commit) -> Receipt:
        """Commit a planned message; see ``submit``."""
        receipt = await self._store.users.commit(uid, commit)
        (self._without_effect if receipt.is_unchanged else self._with_effect).inc()
        return receipt

    async def commit_many(self, commits: Sequence[tuple[str, Commit]]) -> list[Receipt | Problem]:
        """Commit planned messages of several users, in order. A rejected message does not stop the others."""
        results = [
            each.problem() if isinstance(each, Unavailable) else each
            for each in await self._store.users.commit_many(commits)
        ]
        effects = unchanged = 0
        for result in results:
            if isinstance(result, Receipt):
                unchanged += result.is_unchanged
                effects += not result.is_unchanged
        if effects:
            self._with_effect.inc(effects)
        if unchanged:
            self._without_effect.inc(unchanged)
        return results

    def delay_message(
        self, message: Message, document: Mapping[str, Any], sender: Sender, key_id: str = "", issued_us: int = 0
    ) -> DelayedMessage:
        """Return the delayed form of a message. It gets a random id if its sender gave none."""
        new_id, now_us = secrets.token_hex(16), self._clock.now_us()
        return delay_message(document, message, sender, new_id, now_us, key_id, issued_us)

    async def delay(self, uid: str, message: DelayedMessage, not_before_us: int, charge: Charge | None = None) -> bytes:
        """Keep a message until its time; returns the receipt. Raises ``id_reused``, ``state_full`` or ``unauthorised``.

        The first content under an id is kept. A repeat adds its sender: if one of them loses its rights, the message is
        still committed for the others. ``charge``: for the search for messages that would be dropped, if the user has
        too many.
        """
        agenda, form = self._store.agenda, message.encode()
        # Each compare-and-set fails only if another call has changed the message meanwhile.
        while (kept := await self._keep(uid, message, form, not_before_us, charge)) != form:
            if is_repeat(kept, message, self._limits):
                repeated = with_sender(kept, message)
                if repeated is None:
                    break
                # A claimed message gets the sender too: its scheduler may die, and the next one decides again.
                new = claimed(repeated) if kept.startswith(CLAIMED) else repeated
                if await agenda.replace_delayed(uid, message.id, kept, new):
                    break
            elif await may_still_send(self._store, uid, decode_delayed_header(kept)):
                raise Problem("id_reused", _ID_WAITS)
            else:
                # It would be dropped at its time.
                await agenda.cancel_delayed(uid, message.id, kept)
        self._delayed.inc()
        return message.receipt(not_before_us)

    async def _keep(
        self, uid: str, message: DelayedMessage, form: bytes, not_before_us: int, charge: Charge | None
    ) -> bytes:
        """Store a delayed message, or return the one that is stored under its id."""
        agenda = self._store.agenda
        try:
            return await agenda.delay(uid, message.id, form, not_before_us, message.sender)
        except Problem as problem:
            if problem.code != "state_full" or not await self._full_users.make_room(uid, self._clock.now_us(), charge):
                raise
        return await agenda.delay(uid, message.id, form, not_before_us, message.sender)
