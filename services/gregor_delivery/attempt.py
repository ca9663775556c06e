"""One delivery attempt: decide, claim the delivery in the ledger, send, record the verdict (delivery.md).

The ledger says "claimed, attempt n" before the provider is called, and the verdict afterwards. If a worker dies in
between, its lease expires and the delivery is attempted again. A push that is then sent twice replaces itself on the
screen, because both copies have the same collapse id. An e-mail is claimed in the middle of its decision, because the
second part is expensive.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec

from gregor.clock import Clock
from gregor.core.backoff import backoff_s
from gregor.core.limits import DAY_US, SECOND_US
from gregor.core.notify.intents import EMAIL, WEBHOOK, Intent, IntentKind
from gregor.core.notify.ledger import (
    Claim,
    DeliveryAttempt,
    DeliveryBudget,
    DeliveryHistory,
    DeliveryRecord,
    DeliveryState,
    NotClaimed,
    NotYet,
    OverBudget,
)
from gregor.core.rate_limit import RateLimiter
from gregor.core.trace_context import parse_traceparent
from gregor.store.contract.store import Store, Unavailable, UnreadableValue
from gregor.telemetry import LimitedLog, failure_log
from gregor.tracing import names
from gregor.tracing.tracer import NOT_SAMPLED, TRACING_OFF, Span, SpanKind, Tracer, current_span

from .age import was_held_up
from .channels.contract import DeliveryChannel, OutgoingMessage
from .channels.verdict import Misconfigured, RecipientGone, Refused, Retry, Sent, Unknown, Verdict
from .decide.decision import AlreadySent, ClaimFirst, Decider, Postpone, SendDecision, SendNow, Skip
from .metrics import DeliveryMetrics
from .throttle.breaker import Breaker, Permit, is_failure
from .throttle.over_budget import OverBudgetUsers
from .throttle.paced_users import PacedUsers, waiting_pace
from .throttle.user_waits import UserWaits

FIRST_BACKOFF_S: Final = 2.0
LONGEST_BACKOFF_S: Final = 600.0
BUSY_RETRY_S: Final = 1.0
"""Pause before an attempt if another worker holds the claim or the lock of the delivery; see `taken_retry_s`."""
STORE_RETRY_S: Final = 0.5
"""Pause between attempts to write a verdict while the store is unavailable."""
FORGET_RETRY_S: Final = 30.0
"""Shortest pause before a message is sent again because its dead recipient could not be deleted."""
INTERNAL_ERROR_RETRY_S: Final = 30.0
"""Pause after an attempt that failed with an exception of ours."""
DEFAULT_USER_RATE: Final = 10.0
"""Waiting deliveries of a user that become available in a second, if the settings are not given."""
FOLDED: Final = "folded"
"""Reason of a push above the user's budget that was sent as a part of a later push."""
RETRY_BUDGET_US: Final = DAY_US
"""How long a delivery is retried, unless its item expires earlier."""


_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class DeliveryContext:
    """The collaborators of one channel. `channel` is `None` if the provider has no credentials."""

    name: str
    channel: DeliveryChannel[Any] | None
    store: Store
    decider: Decider
    clock: Clock
    metrics: DeliveryMetrics
    breaker: Breaker
    deadline_s: float = 15.0
    """Timeout of one provider request; also the longest time from reading the state to sending."""
    send_timeout_s: float | None = None
    """Timeout of one provider request if it differs from `deadline_s`: mail relays may take minutes."""
    rate_limiter: RateLimiter = field(default_factory=lambda: RateLimiter(None))
    over_budget: OverBudgetUsers = field(default_factory=OverBudgetUsers)
    waiting_pace: PacedUsers = field(default_factory=lambda: waiting_pace(DEFAULT_USER_RATE))
    """Rate at which the waiting deliveries of a user become available: thousands may be due at one moment."""
    user_waits: UserWaits = field(default_factory=UserWaits)
    tracer: Tracer = TRACING_OFF
    failure_logs: defaultdict[tuple[str, str], LimitedLog] = field(default_factory=lambda: defaultdict(failure_log))
    """By event and kind."""

    @property
    def timeout_s(self) -> float:
        """Timeout of one provider request."""
        return self.deadline_s if self.send_timeout_s is None else self.send_timeout_s

    @property
    def lease_s(self) -> float:
        """Lease of the claim of a message that is being sent."""
        return self.deadline_s + self.timeout_s

    @property
    def claim_lease_s(self) -> float:
        """Lease of an intent from the queue, and of a claim before its message is sent.

        A worker or Redis that fails in this time must not hold an e-mail back for the timeout of a slow relay.
        """
        return 2 * self.deadline_s

    @property
    def taken_retry_s(self) -> float:
        """Pause before an attempt of a delivery that another worker has claimed.

        A slow relay may have an e-mail for minutes. Attempts every second would use up the rate of the channel.
        """
        return BUSY_RETRY_S if self.timeout_s <= self.deadline_s else self.claim_lease_s

    def log_failure(self, event: str, level: str = "warning", /, *, kind: str = "", **fields: object) -> None:
        """Log a failure, of which any user can cause as many as it has deliveries. The log is limited for each `kind`.

        `level`: "exception" for a line with a traceback.
        """
        failures = self.failure_logs[event, kind]
        failures.record(event, self.clock.monotonic(), level, channel=self.name, **fields)


# --- one attempt ---


async def attempt(context: DeliveryContext, intent: Intent, permit: Permit | None = None) -> int | None:
    """Attempt one delivery. Returns when to attempt it again (µs), or `None` if it is finished.

    `permit`: of the channel's circuit breaker, if the caller has acquired it. Raises `Unavailable` if the store cannot
    be reached: repeat the call later.
    """
    permit = permit or context.breaker.acquire(intent.uid, context.clock.monotonic())
    try:
        with _start_span(context, intent) or NOT_SAMPLED:
            return await _attempt(context, intent, permit)
    finally:
        permit.release()


def _start_span(context: DeliveryContext, intent: Intent) -> Span | None:
    """Return the span of an attempt, if the decision to notify is sampled."""
    if not intent.traceparent:
        return None
    span = context.tracer.resume(parse_traceparent(intent.traceparent), names.DELIVER, SpanKind.CONSUMER)
    if span is not None:
        span.attributes[names.CHANNEL] = context.name
    return span


async def fail(context: DeliveryContext, intent: Intent) -> int | None:
    """Record that an attempt raised an exception before anything was sent. Returns when to attempt it again."""
    now_us = context.clock.now_us()
    claim = await _claim(context, intent, "", now_us)
    if isinstance(claim, Claim):
        return await _put_back(context, claim.delivery, "", INTERNAL_ERROR_RETRY_S)
    return _retry_at(context, claim, now_us, INTERNAL_ERROR_RETRY_S)


async def _attempt(context: DeliveryContext, intent: Intent, permit: Permit) -> int | None:
    now_us, started_s = context.clock.now_us(), context.clock.monotonic()
    used_up = context.over_budget.budget(intent.uid, now_us)
    if used_up is not None and intent.kind is not IntentKind.WITHDRAW:
        # Without a decision, which reads all live items: a flood of deliveries above the budget must stay cheap.
        return await _wait_for_budget(context, intent, used_up)
    decision: SendDecision | ClaimFirst = Skip("no_provider")
    if context.channel is not None:
        decision = await context.decider.decide(intent, now_us)
    if not isinstance(decision, SendNow | ClaimFirst):
        claim = await _claim(context, intent, "", now_us)
        if isinstance(claim, Claim):
            return await _record_decision(context, claim.delivery, decision)
        return _retry_at(context, claim, now_us, BUSY_RETRY_S)
    try:
        claim = await _claim(context, intent, decision.lock, now_us, budget=decision.budget)
        if isinstance(claim, Claim):
            if isinstance(decision, ClaimFirst):
                return await _decide_claimed(context, claim, decision, started_s, permit)
            return await _send_claimed(context, claim, decision, started_s, permit)
        if isinstance(claim, OverBudget) and decision.budget is not None:
            context.over_budget.add(intent.uid, decision.budget, claim.until_us)
            return await _record_wait(context, intent, decision.budget, claim.until_us)
        if claim is NotClaimed.BUSY:
            context.user_waits.add(intent.uid, started_s)
        return _retry_at(context, claim, now_us, BUSY_RETRY_S)
    finally:
        if isinstance(decision, SendNow) and decision.permit is not None:
            decision.permit.release()


async def _decide_claimed(
    context: DeliveryContext, claim: Claim, first: ClaimFirst, started_s: float, permit: Permit
) -> int | None:
    """Complete the decision about a claimed delivery, and execute it. If the decision raises, the claim ends."""
    delivery = claim.delivery
    try:
        decision = await first.decide_claimed(delivery)
    except Exception:
        with suppress(Unavailable):
            await asyncio.gather(
                _give_back(context, delivery.intent, first.budget), _put_back(context, delivery, first.lock)
            )
        raise
    if isinstance(decision, SendNow):
        return await _send_claimed(context, claim, decision, started_s, permit)
    await _give_back(context, delivery.intent, first.budget)
    return await _record_decision(context, delivery, decision, first.lock)


async def _send_claimed(
    context: DeliveryContext, claim: Claim, decision: SendNow, started_s: float, permit: Permit
) -> int | None:
    delivery = claim.delivery
    # The turn comes before the check of the time, because the claim must last until the provider responds.
    if permit.turn is not None and (wait_s := permit.turn.use(context.clock.monotonic())) > 0.0:
        await asyncio.sleep(wait_s)
    if _is_too_old(context, started_s):
        # Checked before companions are claimed: to put back one that is not due yet would make it due at once.
        return await _put_all_back(context, decision, [delivery])
    companions = await _claim_companions(context, decision, claim.folded)
    named = await _record_message_name(context, decision, [delivery, *companions], started_s)
    if named is None:
        await _give_back(context, delivery.intent, decision.budget)
        return context.clock.now_us() + round(BUSY_RETRY_S * SECOND_US)
    if _is_too_old(context, started_s):
        # Checked again after the last call to the store, because another worker may withdraw the push meanwhile.
        return await _put_all_back(context, decision, [delivery, *companions])
    try:
        message = await _compose(decision, [each.intent for each in companions])
    except Exception:
        context.log_failure("delivery.compose_failed", "exception", retry_s=INTERNAL_ERROR_RETRY_S)
        context.metrics.failures.labels(context.name).inc()
        return await _put_all_back(context, decision, [delivery, *companions], INTERNAL_ERROR_RETRY_S)
    verdict = await _send(context, message, permit, decision)
    if not isinstance(verdict, Misconfigured):
        # A misconfiguration adds no attempt. The records then keep the mail name of their last attempt, because a
        # rejection in that attempt is about that mail.
        delivery, *companions = named
    return await _record_verdict(context, delivery, decision, companions, verdict, started_s)


def _is_too_old(context: DeliveryContext, started_s: float) -> bool:
    """Return whether the process stalled: its decision is out of date, and its lease may end before a response."""
    return context.clock.monotonic() - started_s > context.deadline_s


async def _compose(decision: SendNow, companions: list[Intent]) -> OutgoingMessage:
    if decision.is_long is None or not decision.is_long(companions):
        return decision.compose(companions)
    return await asyncio.to_thread(decision.compose, companions)


async def _send(context: DeliveryContext, message: OutgoingMessage, permit: Permit, decision: SendNow) -> Verdict:
    """Send the message; an exception of the channel counts as an unknown outcome."""
    if decision.is_separate:
        permit.release()  # another message may probe the channel meanwhile
    began_s = context.clock.monotonic()
    attempted = current_span()
    call = None if attempted is None else attempted.child(names.CALL_PROVIDER, SpanKind.CLIENT)
    try:
        verdict = await context.channel.send(message, context.timeout_s)  # type: ignore[union-attr]
    except Exception as error:
        context.log_failure("delivery.channel_failed", "exception")
        context.metrics.failures.labels(context.name).inc()
        verdict = Unknown(f"the channel failed: {type(error).__name__}")
    for each in (permit, decision.permit):
        if each is not None:
            each.record(verdict, context.clock.monotonic())
    if is_failure(verdict) and context.breaker.is_first_failure and not decision.is_separate:
        # A device that is throttled between the successes of others fails first at each of its pushes.
        context.log_failure("delivery.provider_failed", detail=verdict_detail(verdict))
    if call is not None:
        _end_span(call, context.name, verdict)
    context.metrics.attempts.labels(context.name, verdict.name).inc()
    took_s = max(0.0, context.clock.monotonic() - began_s)
    context.metrics.send_seconds.labels(context.name, verdict.name).observe(took_s)
    return verdict


def _end_span(call: Span, channel: str, verdict: Verdict) -> None:
    """End the span of a provider request. The id is the provider's own; no token or address is recorded."""
    call.attributes |= {names.CHANNEL: channel, names.VERDICT: verdict.name}
    if isinstance(verdict, Sent):
        call.attributes |= {names.PROVIDER_STATUS: verdict.status, names.PROVIDER_ID: verdict.provider_id or ""}
    else:
        call.error = verdict.name
    call.end()


# --- claims ---


async def _claim(
    context: DeliveryContext,
    intent: Intent,
    lock: str,
    now_us: int,
    *,
    is_early: bool = False,
    budget: DeliveryBudget | None = None,
) -> Claim | NotClaimed | NotYet | OverBudget:
    lease_until_us = now_us + round(context.claim_lease_s * SECOND_US)
    return await context.store.ledger.claim(intent, lock, now_us, lease_until_us, is_early=is_early, budget=budget)


def _retry_at(
    context: DeliveryContext, claim: NotClaimed | NotYet | OverBudget, now_us: int, busy_s: float
) -> int | None:
    """Return when to attempt again a delivery that was not claimed.

    `busy_s`: the shortest pause if another worker holds the claim or the lock.
    """
    if isinstance(claim, NotYet | OverBudget):
        return claim.until_us
    if claim is NotClaimed.TAKEN:
        return now_us + round(max(busy_s, context.taken_retry_s) * SECOND_US)
    return now_us + round(busy_s * SECOND_US) if claim is NotClaimed.BUSY else None


async def _claim_companions(
    context: DeliveryContext, decision: SendNow, folded: Sequence[Intent]
) -> list[DeliveryRecord]:
    """Claim the deliveries that the same message covers; those that another worker holds are left out.

    `folded`: deliveries above the budget. Those that the message may not cover now wait for their own time.
    """
    if not decision.companions and not folded:
        return []
    now_us = context.clock.now_us()
    if decision.companions:
        # A full Redis records no new deliveries. The message then covers only recorded ones.
        with suppress(Unavailable):
            await context.store.ledger.plan(decision.companions, DeliveryState.PLANNED, None, now_us)
    # Early, that is before their own time: a message goes to the same recipient anyway.
    claims = await asyncio.gather(
        *(_claim(context, each, "", now_us, is_early=True) for each in (*decision.companions, *folded))
    )
    claimed = [claim.delivery for claim in claims if isinstance(claim, Claim)]
    if not folded or decision.may_fold is None:
        return claimed
    waiting = [each for each in claimed if _is_folded(each, decision)]
    covered = await decision.may_fold([each.intent for each in waiting])
    left = [each for each in waiting if each.intent not in covered]
    await asyncio.gather(*(_put_back(context, each, "") for each in left))
    return [each for each in claimed if each not in left]


def _is_folded(companion: DeliveryRecord, decision: SendNow) -> bool:
    """Return whether the companion is a delivery above the push budget, not a withdrawal."""
    return decision.may_fold is not None and companion.intent.kind is not IntentKind.WITHDRAW


async def _record_message_name(
    context: DeliveryContext, decision: SendNow, claimed: list[DeliveryRecord], started_s: float
) -> list[DeliveryRecord] | None:
    """Write the name of the message to each record that it covers: a crash leaves no doubt about its content.

    From now on the lease lasts until the relay must have answered. Returns `None` if the lease of a claim expired
    meanwhile: another worker may be sending. Raises `Unavailable` if the store is unavailable until the decision is too
    old.
    """
    if decision.message_name is None:
        return claimed
    name = decision.message_name([each.intent for each in claimed[1:]])
    until_us = context.clock.now_us() + round(context.lease_s * SECOND_US)
    named = [
        msgspec.structs.replace(each, lease_until_us=until_us, history=msgspec.structs.replace(each.history, mail=name))
        for each in claimed
    ]
    while True:
        try:
            are_ours = await asyncio.gather(*(context.store.ledger.note(each, decision.lock) for each in named))
            return named if all(are_ours) else None
        except Unavailable as error:
            # If only the reply was lost, the lease lasts for many minutes: a later attempt would have to wait for it.
            if isinstance(error, UnreadableValue) or _is_too_old(context, started_s):
                raise
        await asyncio.sleep(STORE_RETRY_S)


# --- the budget of a user ---


async def _wait_for_budget(context: DeliveryContext, intent: Intent, budget: DeliveryBudget) -> int | None:
    """Let the delivery wait for the budget, which is used up. Returns when to decide it again (µs)."""
    now_us = context.clock.now_us()
    claim = await _claim(context, intent, "", now_us, budget=budget)
    if isinstance(claim, OverBudget):
        return await _record_wait(context, intent, budget, claim.until_us)
    if isinstance(claim, Claim):
        # Another process gave a message back meanwhile. Without the removal, the delivery would come back at once.
        context.over_budget.remove(intent.uid)
        await _give_back(context, intent, budget)
        return await _put_back(context, claim.delivery, "")
    return _retry_at(context, claim, now_us, BUSY_RETRY_S)


async def _record_wait(context: DeliveryContext, intent: Intent, budget: DeliveryBudget, until_us: int) -> int | None:
    """Record that the delivery waits for the budget. Returns when to decide it again (µs)."""
    now_us = context.clock.now_us()
    claim = await _claim(context, intent, "", now_us)
    if isinstance(claim, Claim):
        return await _record_decision(context, claim.delivery, Postpone(budget.name, until_us))
    return _retry_at(context, claim, now_us, BUSY_RETRY_S)


async def _give_back(context: DeliveryContext, intent: Intent, budget: DeliveryBudget | None) -> None:
    """Return the message to the budget: no provider processed it. If the store is unavailable, it counts."""
    if budget is not None:
        with suppress(Unavailable):
            await context.store.ledger.give_back(intent.uid, budget, context.clock.now_us())


# --- records after a send ---


async def _record_verdict(
    context: DeliveryContext,
    delivery: DeliveryRecord,
    decision: SendNow,
    companions: list[DeliveryRecord],
    verdict: Verdict,
    started_s: float,
) -> int | None:
    """Write the verdict to every record that the message covered. Returns when to attempt the delivery again."""
    if isinstance(verdict, Sent):
        _observe_age(context, delivery, decision)
    until_s = started_s + context.lease_s
    if isinstance(verdict, RecipientGone) and decision.on_gone is not None:
        verdict = await _forget_recipient(context, decision.on_gone, verdict)
    is_content_rejected = _rejects_content(decision, verdict)
    if isinstance(verdict, Retry | Misconfigured) or is_content_rejected:
        await _give_back(context, delivery.intent, decision.budget)
    if isinstance(verdict, Misconfigured):
        context.user_waits.add(delivery.intent.uid, context.clock.monotonic())
    recorded = verdict
    if (
        isinstance(verdict, Refused)
        and is_content_rejected
        and any(each.intent.item != delivery.intent.item for each in companions)
    ):
        recorded = Retry(None, verdict.status, verdict.detail)
    writing = _write(context, delivery, decision.lock, recorded, decision.expires_us, until_s)
    if companions:
        # Pipelined into one write: a reader never finds some of the records updated and others not.
        others = (
            _write_companion(context, delivery.intent.kind, decision, each, recorded, until_s) for each in companions
        )
        (state, again_us), _ = await asyncio.gather(writing, asyncio.gather(*others))
    else:
        state, again_us = await writing
    if isinstance(verdict, Misconfigured | RecipientGone | Refused) or state is DeliveryState.DEAD:
        name, detail = verdict.name, verdict_detail(verdict)
        context.log_failure("delivery.rejected", kind=name, verdict=name, attempt=delivery.n, detail=detail)
    return again_us


def _rejects_content(decision: SendNow, verdict: Verdict) -> bool:
    """Return whether the provider rejects the content of a message, and may accept parts of it."""
    return isinstance(verdict, Refused) and decision.is_separable is not None and decision.is_separable(verdict)


def _observe_age(context: DeliveryContext, delivery: DeliveryRecord, decision: SendNow) -> None:
    """Observe the age of a delivery that the provider accepted, unless its user or device delayed it."""
    age_s = max(0, context.clock.now_us() - delivery.history.begun_us) / SECOND_US
    begun_s = context.clock.monotonic() - age_s
    if not was_held_up(
        delivery.history,
        is_own_receiver=decision.is_own_receiver,
        has_waited_for_own=context.user_waits.has_waited(delivery.intent.uid, begun_s),
        was_provider_down=context.breaker.was_open(begun_s),
    ):
        context.metrics.age_seconds.labels(context.name).observe(age_s)


async def _forget_recipient(
    context: DeliveryContext, on_gone: Callable[[RecipientGone], Awaitable[bool | Retry]], gone: RecipientGone
) -> Verdict:
    """Delete a token or address that the provider reports as gone. Returns the verdict to record.

    If the store is unavailable, the message is retried: it was not shown, and a later verdict deletes the recipient.
    Waiting for the store would hold a place that other users need: perhaps only this shard is unavailable.
    """
    try:
        outcome = await on_gone(gone)
    except Unavailable:
        return Retry(FORGET_RETRY_S, gone.status, "the recipient is gone, but the store was unavailable", is_gone=True)
    if isinstance(outcome, Retry):
        return outcome
    if outcome:
        context.metrics.tokens_forgotten.labels(context.name).inc()
    return gone


async def _write_companion(
    context: DeliveryContext,
    lead: IntentKind,
    decision: SendNow,
    companion: DeliveryRecord,
    verdict: Verdict,
    until_s: float,
) -> None:
    """Write the verdict to a companion. A push that is refused for its visible content ends nothing else in it."""
    is_folded = _is_folded(companion, decision)
    is_withdrawal = lead is not companion.intent.kind is IntentKind.WITHDRAW
    if isinstance(verdict, Refused) and (is_folded or is_withdrawal):
        await _until_available(context, lambda: _put_back(context, companion, ""), until_s)
        return
    await _write(context, companion, "", verdict, None, until_s, reason=FOLDED if is_folded else None)
    if is_folded and isinstance(verdict, Sent):
        context.metrics.folded.labels(context.name).inc()


async def _write(
    context: DeliveryContext,
    delivery: DeliveryRecord,
    lock: str,
    verdict: Verdict,
    expires_us: int | None,
    until_s: float,
    *,
    reason: str | None = None,
) -> tuple[DeliveryState, int | None]:
    """Write the consequence of a verdict; an attempt that failed for our configuration is not counted.

    `until_s`: see `_until_available`. `reason`: recorded if the delivery was sent.
    Returns the state, and when to attempt the delivery again (µs).
    """
    update = ledger_update(verdict, delivery, expires_us, context.clock.now_us())
    if reason is not None and update.state is DeliveryState.SENT:
        update = LedgerUpdate(update.state, msgspec.structs.replace(update.history, reason=reason))
    counts = not isinstance(verdict, Misconfigured)
    again_us = await _until_available(
        context, lambda: _record(context, delivery, lock, update.state, update.history, counts=counts), until_s
    )
    return update.state, again_us


async def _until_available(
    context: DeliveryContext, write: Callable[[], Awaitable[_Result]], until_s: float
) -> _Result:
    """Write after a send, and retry until the store is available, even after the end of the lease.

    `write` must be idempotent: it may have taken effect before it failed.

    A verdict that is not recorded means that the message is sent again. If another worker has claimed the delivery
    meanwhile, the ledger refuses the write.

    `until_s`: the end of the lease (monotonic). A value that this release cannot read then raises `UnreadableValue`.
    """
    while True:
        try:
            return await write()
        except Unavailable as error:
            # The store is not away. The value stays unreadable until this process is upgraded.
            if isinstance(error, UnreadableValue) and context.clock.monotonic() >= until_s:
                raise
            await asyncio.sleep(STORE_RETRY_S)


# --- records without a send ---


async def _record_decision(
    context: DeliveryContext, delivery: DeliveryRecord, decision: Skip | Postpone | AlreadySent, lock: str = ""
) -> int | None:
    """Record why nothing is sent. Returns when to decide again."""
    now_us = context.clock.now_us()
    match decision:
        case AlreadySent():
            state, history = DeliveryState.SENT, delivery.history.ended(None, now_us)
        case Postpone():
            state, history = (
                DeliveryState.WAITING,
                delivery.history.waiting(decision.skip_reason, now_us, decision.until_us),
            )
        case Skip(is_dead_letter=True):
            state, history = DeliveryState.DEAD, delivery.history.ended(decision.skip_reason, now_us)
        case Skip():
            history = delivery.history.ended(decision.skip_reason, now_us)
            state, history = DeliveryState.CANCELLED, msgspec.structs.replace(history, event="")
    if not isinstance(decision, AlreadySent):
        context.metrics.held.labels(context.name, decision.skip_reason).inc()
    again_us = await _record(context, delivery, lock, state, history, counts=False)
    return again_us if isinstance(decision, Postpone) else None


async def _put_back(context: DeliveryContext, delivery: DeliveryRecord, lock: str, after_s: float = 0.0) -> int | None:
    """Return a claim without counting an attempt. Returns when to attempt it again; `None`: its budget is used up."""
    now_us = context.clock.now_us()
    next_us = now_us + round(after_s * SECOND_US)
    state, history = DeliveryState.RETRY, msgspec.structs.replace(delivery.history, reason=None, next_us=next_us)
    if _was_claimed_early(delivery, now_us):
        state, history = DeliveryState.WAITING, delivery.history
    elif next_us >= history.begun_us + RETRY_BUDGET_US:
        state, history = DeliveryState.DEAD, history.ended("failed", next_us)
    return await _record(context, delivery, lock, state, history, counts=False)


async def _put_all_back(
    context: DeliveryContext, decision: SendNow, claimed: Sequence[DeliveryRecord], after_s: float = 0.0
) -> int | None:
    """Return the claims of a message that is not sent, and its place in the budget of the user.

    `after_s`: the delay of the first delivery. Returns when to attempt it again; `None`: its retry budget is used up.
    """
    delivery, *companions = claimed
    await _give_back(context, delivery.intent, decision.budget)
    await asyncio.gather(*(_put_back(context, each, "") for each in companions))
    return await _put_back(context, delivery, decision.lock, after_s)


async def _record(
    context: DeliveryContext,
    delivery: DeliveryRecord,
    lock: str,
    state: DeliveryState,
    history: DeliveryHistory,
    *,
    counts: bool,
) -> int | None:
    """Write the new state of a delivery, and count it if it was given up. Returns when to attempt it again (µs)."""
    is_recorded = await context.store.ledger.record_outcome(delivery, lock, state, history, counts=counts)
    if not is_recorded and history.next_us is not None:
        # The user was deleted meanwhile, or another worker has claimed the delivery. The next claim finds out: a
        # deleted user must not stay in the queue until a retry that may be ten minutes away.
        return context.clock.now_us() + round(BUSY_RETRY_S * SECOND_US)
    if state is DeliveryState.DEAD:
        context.metrics.dead.labels(context.name).inc()
    return history.next_us


def _was_claimed_early(delivery: DeliveryRecord, now_us: int) -> bool:
    """Return whether the delivery was claimed as a companion before its time: the queue still holds it for later."""
    history = delivery.history
    return history.reason is not None and (history.next_us or 0) > now_us


# --- the consequence of a verdict ---

_GONE_REASON: Final = {EMAIL: "suppressed", WEBHOOK: "webhook_gone"}


@dataclass(frozen=True, slots=True)
class LedgerUpdate:
    """New state of a delivery; `history.next_us`: when it is attempted again."""

    state: DeliveryState
    history: DeliveryHistory


def ledger_update(verdict: Verdict, delivery: DeliveryRecord, expires_us: int | None, now_us: int) -> LedgerUpdate:
    """Return the state that follows from a verdict. PURE except for the jitter."""
    history = _with_attempt(verdict, delivery, now_us)
    is_visible = delivery.intent.kind is not IntentKind.WITHDRAW  # a withdrawal shows nothing: repeating it is harmless
    match verdict:
        case Sent():
            return LedgerUpdate(DeliveryState.SENT, msgspec.structs.replace(history, event=""))
        case RecipientGone():
            return LedgerUpdate(DeliveryState.DEAD, history.ended(_gone_reason(delivery.intent), now_us))
        case Refused():
            return LedgerUpdate(DeliveryState.DEAD, history.ended(None, now_us))
        case Unknown() if is_visible and any(not each.has_outcome for each in delivery.history.attempts):
            # The second unknown outcome is final: a third copy of something visible is worse than none.
            return LedgerUpdate(DeliveryState.UNKNOWN, history)
    if not is_visible and _was_claimed_early(delivery, now_us):
        before = delivery.history
        history = msgspec.structs.replace(history, reason=before.reason, next_us=before.next_us)
        return LedgerUpdate(DeliveryState.WAITING, history)
    next_us = now_us + round(retry_delay_s(verdict, delivery.tries) * SECOND_US)
    until_us = delivery.history.begun_us + RETRY_BUDGET_US
    if expires_us is not None:
        until_us = min(until_us, expires_us)
    if next_us >= until_us:
        is_gone = isinstance(verdict, Retry) and verdict.is_gone
        reason = _gone_reason(delivery.intent) if is_gone else "budget"
        return LedgerUpdate(DeliveryState.DEAD, history.ended(reason, now_us))
    state = DeliveryState.UNKNOWN if isinstance(verdict, Unknown) else DeliveryState.RETRY
    return LedgerUpdate(state, msgspec.structs.replace(history, next_us=next_us))


def _gone_reason(intent: Intent) -> str:
    return _GONE_REASON.get(intent.channel, "device_gone")


def retry_delay_s(verdict: Verdict, attempts: int) -> float:
    """Return the seconds until the next attempt: the provider's `Retry-After` plus backoff with full jitter.

    The backoff also applies to a provider that always asks for one second: a day of that would be 86,400 attempts.
    """
    asked_s = verdict.after_s if isinstance(verdict, Retry) else None
    return (asked_s or 0.0) + backoff_s(attempts - 1, FIRST_BACKOFF_S, LONGEST_BACKOFF_S, random.uniform)


def verdict_detail(verdict: Verdict) -> str:
    """Return the provider's own text; empty if the message was accepted."""
    return "" if isinstance(verdict, Sent) else verdict.detail


def _with_attempt(verdict: Verdict, delivery: DeliveryRecord, now_us: int) -> DeliveryHistory:
    """Append the attempt to the history, unless it failed for our configuration."""
    if isinstance(verdict, Misconfigured):
        return msgspec.structs.replace(delivery.history, reason=None, next_us=None)
    status = verdict.name if isinstance(verdict, Unknown) else verdict.status or verdict.name
    provider_id = verdict.provider_id if isinstance(verdict, Sent) else None
    return delivery.history.attempted(DeliveryAttempt(now_us, status, provider_id, verdict_detail(verdict)))
