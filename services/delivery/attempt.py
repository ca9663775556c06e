"""One intent, once: entered in the ledger, looked at, claimed, sent, settled (architecture: "Delivery").

"Claimed, attempt n" stands in the ledger before the provider is called, and the verdict after. Who dies in between
leaves a claim whose lease runs out; an alert is then sent again, since its collapse id makes the two one.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import structlog

from gregor.clock import Clock
from gregor.core.intents import Intent
from gregor.core.ledger import Attempt, Claimed, Delivery, NotClaimed, State, Story
from gregor.core.limits import DAY_US, SECOND_US
from gregor.store.contract import Store

from .breaker import Breaker
from .channels.contract import Channel
from .figures import Figures
from .look import Look, Looker
from .verdict import Gone, Misconfigured, Refused, Retry, Sent, Unknown, Verdict

log = structlog.get_logger(__name__)

DEADLINE_S: Final = 15.0
"""How long a provider may take: FCM is not given up before 10 s (its guidance)."""
LEASE_S: Final = 2 * DEADLINE_S
"""How long a claim, and what was taken from the queue, stay with who took it."""
FIRST_PAUSE_S: Final = 2.0
LONGEST_PAUSE_S: Final = 600.0
BUSY_S: Final = 1.0
"""When one looks again at what another has, or at a place that is taken."""
BUDGET_US: Final = DAY_US
"""How long something is tried whose item does not expire before."""


@dataclass(frozen=True, slots=True)
class Trade:
    """What one channel works with. ``channel`` is ``None`` where the provider is not set up."""

    name: str
    channel: Channel[Any] | None
    store: Store
    looker: Looker
    clock: Clock
    figures: Figures
    breaker: Breaker


async def attempt(trade: Trade, intent: Intent) -> int | None:
    """Bring one intent forward. When to look again (µs), or ``None`` where nothing more is to be done for it.

    Raises ``Unavailable``: then nothing is known to be done, and the same call is repeated later.
    """
    now_us = trade.clock.now_us()
    ledger = trade.store.ledger
    await ledger.plan([intent], State.PLANNED, None, intent.at_us or now_us)
    look = await _look(trade, intent, now_us)
    claim = await ledger.claim(intent, look.place, now_us, now_us + round(LEASE_S * SECOND_US))
    match claim:
        case Claimed():
            return await _claimed(trade, claim, look)
        case NotClaimed.BUSY:
            trade.breaker.passed()
            return now_us + round(BUSY_S * SECOND_US)
        case _:
            trade.breaker.passed()
            return None


async def _look(trade: Trade, intent: Intent, now_us: int) -> Look:
    if trade.channel is None:
        return Look(why_not="no_provider")
    return await trade.looker.look(intent, now_us)


async def _claimed(trade: Trade, claim: Claimed, look: Look) -> int | None:
    delivery = claim.delivery
    if look.compose is None or trade.channel is None:
        return await _hold(trade, delivery, look)
    others = await _claim_others(trade, look)
    began_s = trade.clock.monotonic()
    verdict = await trade.channel.send(look.compose([other.intent for other in others]), DEADLINE_S)
    now_us = trade.clock.now_us()
    trade.breaker.ended(verdict, trade.clock.monotonic())
    trade.figures.attempts.labels(trade.name, verdict.name).inc()
    trade.figures.send_seconds.labels(trade.name).observe(max(0.0, trade.clock.monotonic() - began_s))
    trade.figures.age_seconds.labels(trade.name).observe(max(0, now_us - delivery.story.planned_us) / SECOND_US)
    if isinstance(verdict, Gone) and look.forget is not None and await look.forget(verdict):
        trade.figures.tokens_forgotten.labels(trade.name).inc()
    settled = await _settle(trade, delivery, look.place, verdict, look.expires_us)
    for other in others:
        await _settle(trade, other, "", verdict, None)
    if isinstance(verdict, Misconfigured | Gone | Refused) or settled.state is State.DEAD:
        log.warning("It was not taken.", channel=trade.name, verdict=verdict.name, detail=verdict_detail(verdict))
    return settled.story.next_us


async def _claim_others(trade: Trade, look: Look) -> list[Delivery]:
    """Those deliveries that the same message tells, and that nobody else has."""
    if not look.also:
        return []
    now_us = trade.clock.now_us()
    await trade.store.ledger.plan(look.also, State.PLANNED, None, now_us)
    claims = [
        await trade.store.ledger.claim(each, "", now_us, now_us + round(LEASE_S * SECOND_US)) for each in look.also
    ]
    return [claim.delivery for claim in claims if isinstance(claim, Claimed)]


async def _settle(trade: Trade, delivery: Delivery, place: str, verdict: Verdict, expires_us: int | None) -> Settlement:
    """Write what a verdict makes of a claim; a set-up that is wrong burns no attempt."""
    settled = settlement(verdict, delivery, expires_us, trade.clock.now_us())
    counts = not isinstance(verdict, Misconfigured)
    await trade.store.ledger.settle(delivery, place, settled.state, settled.story, counts=counts)
    return settled


async def _hold(trade: Trade, delivery: Delivery, look: Look) -> int | None:
    """Nothing goes out: say why. When to look again, where it only waits."""
    trade.breaker.passed()
    reason = look.why_not or "dismissed"
    trade.figures.held.labels(trade.name, reason).inc()
    story = msgspec.structs.replace(delivery.story, reason=reason, next_us=look.until_us)
    state = State.CANCELLED if look.until_us is None else State.WAITING
    await trade.store.ledger.settle(delivery, look.place, state, story, counts=False)
    return look.until_us


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a verdict makes of a delivery; ``story.next_us``: when it is tried again."""

    state: State
    story: Story


def settlement(verdict: Verdict, delivery: Delivery, expires_us: int | None, now_us: int) -> Settlement:
    """What follows from a verdict. PURE, but for the jitter."""
    story = _told(verdict, delivery, now_us)
    match verdict:
        case Sent():
            return Settlement(State.SENT, story)
        case Gone():
            return Settlement(State.DEAD, msgspec.structs.replace(story, reason="device_gone"))
        case Refused():
            return Settlement(State.DEAD, story)
        case Unknown() if any(each.status == Unknown.name for each in delivery.story.attempts):
            return Settlement(State.UNKNOWN, story)
    next_us = now_us + round(pause_s(verdict, delivery.n) * SECOND_US)
    until_us = delivery.story.planned_us + BUDGET_US
    if expires_us is not None:
        until_us = min(until_us, expires_us)
    if next_us >= until_us:
        return Settlement(State.DEAD, msgspec.structs.replace(story, reason="budget"))
    state = State.UNKNOWN if isinstance(verdict, Unknown) else State.RETRY
    return Settlement(state, msgspec.structs.replace(story, next_us=next_us))


def pause_s(verdict: Verdict, n: int) -> float:
    """Seconds until the next attempt: what the provider asked for, and full jitter below a cap that doubles."""
    cap_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(max(0, n - 1), 16))
    jitter_s = random.uniform(0.0, cap_s)
    asked_s = verdict.after_s if isinstance(verdict, Retry) else None
    return jitter_s if asked_s is None else asked_s + min(jitter_s, asked_s / 10 + 1.0)


def verdict_detail(verdict: Verdict) -> str:
    """The provider's own words; none where it took it."""
    return "" if isinstance(verdict, Sent) else verdict.detail


def _told(verdict: Verdict, delivery: Delivery, now_us: int) -> Story:
    """The story with one attempt more; a set-up that is wrong burns none."""
    if isinstance(verdict, Misconfigured):
        return msgspec.structs.replace(delivery.story, reason=None, next_us=None)
    status = verdict.name if isinstance(verdict, Unknown) else verdict.status or verdict.name
    provider_id = verdict.provider_id if isinstance(verdict, Sent) else None
    told = Attempt(now_us, status, provider_id, verdict_detail(verdict))
    attempts = (*delivery.story.attempts, told)
    return msgspec.structs.replace(delivery.story, reason=None, next_us=None, attempts=attempts)
