"""One intent, once: entered in the ledger, looked at, claimed, sent, settled (architecture: "Delivery").

"Claimed, attempt n" stands in the ledger before the provider is called, and the verdict after. Who dies in between
leaves a claim whose lease runs out; an alert is then sent again, since its collapse id makes the two one.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import structlog

from gregor.clock import Clock
from gregor.core.limits import DAY_US, SECOND_US
from gregor.core.notify.intents import EMAIL, WEBHOOK, Intent, IntentKind
from gregor.core.notify.ledger import (
    Claim,
    DeliveryAttempt,
    DeliveryHistory,
    DeliveryRecord,
    DeliveryState,
    NotClaimed,
    NotYet,
)
from gregor.store.contract.store import Store, Unavailable

from .channels.contract import DeliveryChannel, OutgoingMessage
from .channels.verdict import Misconfigured, RecipientGone, Refused, Retry, Sent, Unknown, Verdict
from .decide.decision import Decider, SendDecision
from .metrics import DeliveryMetrics
from .throttle.breaker import Breaker, Permit
from .throttle.pace import Pace

log = structlog.get_logger(__name__)

FIRST_PAUSE_S: Final = 2.0
LONGEST_PAUSE_S: Final = 600.0
BUSY_S: Final = 1.0
"""When one looks again at what another has, or at a place that is taken."""
AWAY_S: Final = 0.5
"""When the verdict is written again, where the store could not be reached."""
FAILED_S: Final = 30.0
"""When what failed by itself is tried again."""
BUDGET_US: Final = DAY_US
"""How long something is tried whose item does not expire before."""


@dataclass(frozen=True, slots=True)
class DeliveryContext:
    """What one channel works with. ``channel`` is ``None`` where the provider is not set up.

    ``deadline_s``: how long a provider may take.
    """

    name: str
    channel: DeliveryChannel[Any] | None
    store: Store
    looker: Decider
    clock: Clock
    figures: DeliveryMetrics
    breaker: Breaker
    deadline_s: float = 15.0
    pace: Pace = field(default_factory=lambda: Pace(None))

    @property
    def lease_s(self) -> float:
        """How long a claim, and what was taken from the queue, stay with who took it."""
        return 2 * self.deadline_s


async def attempt(trade: DeliveryContext, intent: Intent, turn: Permit | None = None) -> int | None:
    """Bring one intent forward. When to look again (µs), or ``None`` where nothing more is to be done for it.

    ``turn``: of the breaker, where it was taken already. Raises ``Unavailable``: then nothing is known to be done, and
    the same call is repeated later.
    """
    turn = turn or trade.breaker.began()
    try:
        return await _attempt(trade, intent, turn)
    finally:
        turn.passed()


async def _attempt(trade: DeliveryContext, intent: Intent, turn: Permit) -> int | None:
    now_us, since_s = trade.clock.now_us(), trade.clock.monotonic()
    look = await _look(trade, intent, now_us)
    try:
        claim = await _claim(trade, intent, look.place, now_us)
        if isinstance(claim, Claim):
            return await _claimed(trade, claim.delivery, look, since_s, turn)
        return _when(claim, now_us + round(BUSY_S * SECOND_US))
    finally:
        if look.turn is not None:
            look.turn.passed()


async def fail(trade: DeliveryContext, intent: Intent) -> int | None:
    """An attempt failed by itself, before anything was handed over. When to try again; ``None`` where never."""
    now_us = trade.clock.now_us()
    claim = await _claim(trade, intent, "", now_us)
    if isinstance(claim, Claim):
        return await _put_back(trade, claim.delivery, "", FAILED_S)
    return _when(claim, now_us + round(FAILED_S * SECOND_US))


async def _claim(
    trade: DeliveryContext, intent: Intent, place: str, now_us: int, *, is_early: bool = False
) -> Claim | NotClaimed | NotYet:
    lease_until_us = now_us + round(trade.lease_s * SECOND_US)
    return await trade.store.ledger.claim(intent, place, now_us, lease_until_us, is_early=is_early)


def _when(claim: NotClaimed | NotYet, busy_us: int) -> int | None:
    """When to look again at what cannot be claimed."""
    if isinstance(claim, NotYet):
        return claim.until_us
    return busy_us if claim is NotClaimed.BUSY else None


async def _look(trade: DeliveryContext, intent: Intent, now_us: int) -> SendDecision:
    if trade.channel is None:
        return SendDecision(skip_reasons="no_provider")
    return await trade.looker.look(intent, now_us)


async def _claimed(
    trade: DeliveryContext, delivery: DeliveryRecord, look: SendDecision, since_s: float, turn: Permit
) -> int | None:
    if look.compose is None or trade.channel is None:
        return await _hold(trade, delivery, look)
    if trade.clock.monotonic() - since_s > trade.deadline_s:
        # This process stood still: what it saw is old, and its claim may be over before the provider answers.
        return await _put_back(trade, delivery, look.place)
    others = await _claim_others(trade, look)
    named = await _named(trade, look, [delivery, *others])
    if named is None:
        return trade.clock.now_us() + round(BUSY_S * SECOND_US)
    delivery, *others = named
    try:
        message = look.compose([other.intent for other in others])
    except Exception:
        log.exception("A message could not be made; it is tried again.", channel=trade.name)
        trade.figures.failures.labels(trade.name).inc()
        for other in others:
            await _put_back(trade, other, "")
        return await _put_back(trade, delivery, look.place, FAILED_S)
    verdict = await _send(trade, trade.channel, message, (turn, look.turn))
    return await _follow(trade, delivery, look, others, verdict, since_s)


async def _send(
    trade: DeliveryContext, channel: DeliveryChannel[Any], message: OutgoingMessage, turns: tuple[Permit, Permit | None]
) -> Verdict:
    """Hand it over; what came of it, whatever happens."""
    began_s = trade.clock.monotonic()
    try:
        verdict = await channel.send(message, trade.deadline_s)
    except Exception as error:
        log.exception("A channel failed by itself.", channel=trade.name)
        trade.figures.failures.labels(trade.name).inc()
        verdict = Unknown(f"the channel failed: {type(error).__name__}")
    for turn in turns:
        if turn is not None:
            turn.ended(verdict, trade.clock.monotonic())
    trade.figures.attempts.labels(trade.name, verdict.name).inc()
    trade.figures.send_seconds.labels(trade.name).observe(max(0.0, trade.clock.monotonic() - began_s))
    return verdict


async def _follow(
    trade: DeliveryContext,
    delivery: DeliveryRecord,
    look: SendDecision,
    others: list[DeliveryRecord],
    verdict: Verdict,
    since_s: float,
) -> int | None:
    """Write the verdict, and do what follows from it."""
    age_us = trade.clock.now_us() - delivery.history.begun_us
    trade.figures.age_seconds.labels(trade.name).observe(max(0, age_us) / SECOND_US)
    until_s = since_s + trade.lease_s
    if isinstance(verdict, RecipientGone) and look.forget is not None and await look.forget(verdict):
        trade.figures.tokens_forgotten.labels(trade.name).inc()
    settling = _settle(trade, delivery, look.place, verdict, look.expires_us, until_s)
    if others:
        # In one write, so that nobody finds half of it.
        along = (_follow_along(trade, delivery.intent.kind, other, verdict, until_s) for other in others)
        settled, _ = await asyncio.gather(settling, asyncio.gather(*along))
    else:
        settled = await settling
    if isinstance(verdict, Misconfigured | RecipientGone | Refused) or settled.state is DeliveryState.DEAD:
        log.warning("It was not taken.", channel=trade.name, verdict=verdict.name, detail=verdict_detail(verdict))
    return settled.history.next_us


async def _follow_along(
    trade: DeliveryContext, lead: IntentKind, other: DeliveryRecord, verdict: Verdict, until_s: float
) -> None:
    """Write the verdict for one that went along. That a push is refused for what it shows ends no withdrawal in it."""
    if isinstance(verdict, Refused) and lead is not other.intent.kind is IntentKind.WITHDRAW:
        await _put_back(trade, other, "")
    else:
        await _settle(trade, other, "", verdict, None, until_s)


async def _claim_others(trade: DeliveryContext, look: SendDecision) -> list[DeliveryRecord]:
    """Those deliveries that the same message tells, and that nobody else has."""
    if not look.also:
        return []
    now_us = trade.clock.now_us()
    await trade.store.ledger.plan(look.also, DeliveryState.PLANNED, None, now_us)
    # Before its time, too: a message goes there anyway.
    claims = await asyncio.gather(*(_claim(trade, each, "", now_us, is_early=True) for each in look.also))
    return [claim.delivery for claim in claims if isinstance(claim, Claim)]


async def _named(
    trade: DeliveryContext, look: SendDecision, claimed: list[DeliveryRecord]
) -> list[DeliveryRecord] | None:
    """Write on each claim which message tells it: who dies after that leaves no doubt what may have gone out.

    ``None`` where a claim is ours no more: this process stood still for so long that another may be sending.
    """
    if look.name is None:
        return claimed
    name = look.name([each.intent for each in claimed[1:]])
    named = [
        msgspec.structs.replace(each, history=msgspec.structs.replace(each.history, mail=name)) for each in claimed
    ]
    are_ours = await asyncio.gather(*(trade.store.ledger.note(each) for each in named))
    return named if all(are_ours) else None


async def _settle(
    trade: DeliveryContext,
    delivery: DeliveryRecord,
    place: str,
    verdict: Verdict,
    expires_us: int | None,
    until_s: float,
) -> Settlement:
    """Write what a verdict makes of a claim; a set-up that is wrong burns no attempt.

    Where the store is away this waits for it, as long as nobody else can have the delivery (``until_s``, monotonic):
    what was sent and not written down would be sent again.
    """
    settled = settlement(verdict, delivery, expires_us, trade.clock.now_us())
    counts = not isinstance(verdict, Misconfigured)
    while True:
        try:
            await trade.store.ledger.record_outcome(delivery, place, settled.state, settled.history, counts=counts)
        except Unavailable:
            if trade.clock.monotonic() >= until_s:
                raise
            await asyncio.sleep(AWAY_S)
        else:
            return settled


async def _hold(trade: DeliveryContext, delivery: DeliveryRecord, look: SendDecision) -> int | None:
    """Nothing goes out: say why. When to look again, where it only waits."""
    if look.is_told:
        history = delivery.history.ended(None, trade.clock.now_us())
        await trade.store.ledger.record_outcome(delivery, look.place, DeliveryState.SENT, history, counts=False)
        return None
    reason = look.skip_reasons or "dismissed"
    trade.figures.held.labels(trade.name, reason).inc()
    now_us = trade.clock.now_us()
    if look.until_us is not None:
        state, history = DeliveryState.WAITING, delivery.history.waiting(reason, now_us, look.until_us)
    elif look.is_dead:
        state, history = DeliveryState.DEAD, delivery.history.ended(reason, now_us)
    else:
        state, history = (
            DeliveryState.CANCELLED,
            msgspec.structs.replace(delivery.history.ended(reason, now_us), event=""),
        )
    await trade.store.ledger.record_outcome(delivery, look.place, state, history, counts=False)
    return look.until_us


async def _put_back(trade: DeliveryContext, delivery: DeliveryRecord, place: str, after_s: float = 0.0) -> int | None:
    """Nothing was handed over: the claim goes back and counts for nothing. When to look again; ``None``: too late."""
    now_us = trade.clock.now_us()
    next_us = now_us + round(after_s * SECOND_US)
    state, history = DeliveryState.RETRY, msgspec.structs.replace(delivery.history, reason=None, next_us=next_us)
    if _waits(delivery, now_us):
        state, history = DeliveryState.WAITING, delivery.history
    elif next_us >= history.begun_us + BUDGET_US:
        state, history = DeliveryState.DEAD, history.ended("failed", next_us)
    await trade.store.ledger.record_outcome(delivery, place, state, history, counts=False)
    return history.next_us


def _waits(delivery: DeliveryRecord, now_us: int) -> bool:
    """Whether a claim was given before its time: it went along with something, and in the queue it waits still."""
    history = delivery.history
    return history.reason is not None and (history.next_us or 0) > now_us


_WHY_GONE: Final = {EMAIL: "suppressed", WEBHOOK: "webhook_gone"}


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a verdict makes of a delivery; ``story.next_us``: when it is tried again."""

    state: DeliveryState
    history: DeliveryHistory


def settlement(verdict: Verdict, delivery: DeliveryRecord, expires_us: int | None, now_us: int) -> Settlement:
    """What follows from a verdict. PURE, but for the jitter."""
    history = _told(verdict, delivery, now_us)
    shows = delivery.intent.kind is not IntentKind.WITHDRAW  # what shows nothing may come twice, and must come
    match verdict:
        case Sent():
            return Settlement(DeliveryState.SENT, msgspec.structs.replace(history, event=""))
        case RecipientGone():
            reason = _WHY_GONE.get(delivery.intent.channel, "device_gone")
            return Settlement(DeliveryState.DEAD, history.ended(reason, now_us))
        case Refused():
            return Settlement(DeliveryState.DEAD, history.ended(None, now_us))
        case Unknown() if shows and any(not each.has_outcome for each in delivery.history.attempts):
            return Settlement(DeliveryState.UNKNOWN, history)
    if not shows and _waits(delivery, now_us):
        before = delivery.history
        return Settlement(
            DeliveryState.WAITING, msgspec.structs.replace(history, reason=before.reason, next_us=before.next_us)
        )
    next_us = now_us + round(pause_s(verdict, delivery.tries) * SECOND_US)
    until_us = delivery.history.begun_us + BUDGET_US
    if expires_us is not None:
        until_us = min(until_us, expires_us)
    if next_us >= until_us:
        return Settlement(DeliveryState.DEAD, history.ended("budget", now_us))
    state = DeliveryState.UNKNOWN if isinstance(verdict, Unknown) else DeliveryState.RETRY
    return Settlement(state, msgspec.structs.replace(history, next_us=next_us))


def pause_s(verdict: Verdict, n: int) -> float:
    """Seconds until the next attempt: what the provider asked for, and full jitter below a cap that doubles.

    The cap holds for those who ask for a second each time, too: a day of that would be 86,400 attempts.
    """
    cap_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(max(0, n - 1), 16))
    asked_s = verdict.after_s if isinstance(verdict, Retry) else None
    return (asked_s or 0.0) + random.uniform(0.0, cap_s)


def verdict_detail(verdict: Verdict) -> str:
    """The provider's own words; none where it took it."""
    return "" if isinstance(verdict, Sent) else verdict.detail


def _told(verdict: Verdict, delivery: DeliveryRecord, now_us: int) -> DeliveryHistory:
    """The story with one attempt more; a set-up that is wrong burns none."""
    if isinstance(verdict, Misconfigured):
        return msgspec.structs.replace(delivery.history, reason=None, next_us=None)
    status = verdict.name if isinstance(verdict, Unknown) else verdict.status or verdict.name
    provider_id = verdict.provider_id if isinstance(verdict, Sent) else None
    told = DeliveryAttempt(now_us, status, provider_id, verdict_detail(verdict))
    return delivery.history.attempted(told)
