"""What is done when something is due. Each act is safe to repeat: whoever dies in the middle leaves it to the next."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from gregor.core.errors import Problem
from gregor.core.limits import SECOND_US
from gregor.core.messages.delayed import decode_delayed_message
from gregor.core.messages.model import Commit
from gregor.core.messages.plan import plan
from gregor.core.notify import escalation
from gregor.core.notify.aggregation import is_summary
from gregor.core.notify.escalation import EscalationDecision, NotificationCause
from gregor.core.notify.intents import FRAME, Intent, IntentKind
from gregor.core.notify.ledger import DeliveryState
from gregor.core.rate_limit import RateLimiter
from gregor.store.audience import load_audience
from gregor.store.contract.agenda import CompletedWork, DueWork, WorkKind
from gregor.store.contract.store import Unavailable
from gregor_scheduler.context import Parts
from gregor_scheduler.delivery_publisher import StreamsAway

from .aggregation import end_window
from .redelivery import hand_over_again
from .webhook_events import told
from .withdrawals import take_back

_log = structlog.get_logger(__name__)

PUT_OFF_US: Final = 600 * SECOND_US
"""Over how long is spread what cannot be done now: garbage, where much of it is due at once; a queue that is full."""


@dataclass(slots=True)
class Outcome:
    """What became of what was due. ``held``: what is to be tried again; all that is neither took itself away."""

    done: list[CompletedWork] = field(default_factory=list)
    held: list[DueWork] = field(default_factory=list)


class Acts:
    """What can be done. ``collecting``: how many users' garbage may be collected now."""

    def __init__(self, parts: Parts, collecting: RateLimiter) -> None:
        self._parts = parts
        self._collecting = collecting

    async def do(self, uid: str, works: Sequence[DueWork]) -> Outcome:
        """Do what is due of a user, oldest first.

        A reminder that comes to light when the one before it has fired takes its place in the order of time.
        """
        pending = [_ranked(work) for work in works]
        heapq.heapify(pending)
        outcome = Outcome()
        while pending:
            work = heapq.heappop(pending)[-1]
            try:
                ended, more = await self._act(uid, work)
            except Unavailable as trouble:
                self._count(work, "unavailable")
                _log.warning("Something due waits: a store cannot be reached.", reason=str(trouble))
                outcome.held.append(work)
                if isinstance(trouble, StreamsAway):
                    continue
                break
            except Exception:
                self._count(work, "failed")
                _log.exception("Something due failed; it is tried again.", kind=work.kind.name)
                outcome.held.append(work)
                continue
            self._count(work, "done")
            late_us = max(0, self._parts.clock.now_us() - work.at_us)
            self._parts.figures.lateness.labels(work.kind.name.lower()).observe(late_us / SECOND_US)
            if ended is not None:
                outcome.done.append(ended)
            for each in more:
                heapq.heappush(pending, _ranked(each))
        return outcome

    def _count(self, work: DueWork, outcome: str) -> None:
        self._parts.figures.timers.labels(work.kind.name.lower(), outcome).inc()

    async def _act(self, uid: str, work: DueWork) -> tuple[CompletedWork | None, list[DueWork]]:
        """What became of the work (``None``: the act itself took it off the agenda), and what it brought to light."""
        match work.kind:
            case WorkKind.EXPIRE:
                await self._parts.store.users.commit_due(uid, self._parts.clock.now_us())
                return None, []
            case WorkKind.FORGET:
                return await self._forget(uid, work), []
            case WorkKind.DEVICES:
                return CompletedWork(
                    work, await self._parts.store.devices.forget_inactive(uid, self._parts.clock.now_us())
                ), []
            case WorkKind.REMIND:
                return await self._remind(uid, work)
            case WorkKind.FOLLOW | WorkKind.PUSH | WorkKind.MAIL:
                return await self._escalate(uid, work), []
            case WorkKind.WINDOW:
                return await end_window(self._parts, uid, work), []
            case WorkKind.LEFT:
                again = [await take_back(self._parts, uid, work), await self._tell(uid, work)]
                return CompletedWork(work, min((each.again_us for each in again if each.again_us), default=None)), []
            case WorkKind.OVERDUE:
                return await hand_over_again(self._parts, uid, work), []
            case WorkKind.HIDDEN | WorkKind.ACKED | WorkKind.SETTLED:
                return await self._tell(uid, work), []
            case WorkKind.DELAYED:
                return await self._commit_delayed(uid, work), []

    async def _forget(self, uid: str, work: DueWork) -> CompletedWork | None:
        """Collect garbage, as long as not too much is due at once; the rest at some moment of the next minutes."""
        now_us = self._parts.clock.now_us()
        if not self._collecting.try_acquire(self._parts.clock.monotonic()):
            return CompletedWork(work, self._some_time_later())
        await self._parts.store.users.commit_due(uid, now_us)
        return None

    async def _remind(self, uid: str, work: DueWork) -> tuple[CompletedWork | None, list[DueWork]]:
        item, now_us = work.item, self._parts.clock.now_us()
        if item is None:
            return CompletedWork(work), []
        has_follow_up = escalation.has_channels(self._parts.registry.current.resolve(item.category))
        remind = Commit(now_us, self._parts.epoch_seed(), remind=(item.id, work.n), has_follow_up=has_follow_up)
        receipt = await self._parts.store.users.commit(uid, remind)
        if receipt.is_unchanged:
            return CompletedWork(work), []
        await self._note_reminder(uid, work, receipt.seq)
        more: list[DueWork] = []
        following = item.remind_at_us[work.n + 1 : work.n + 2]
        if following and following[0] <= now_us and (item.expires_us is None or following[0] < item.expires_us):
            more.append(DueWork(work.kind, work.name, following[0], work.entry, item, work.n + 1))
        if has_follow_up:
            entry = f"n{item.id}\0{work.n}\0{receipt.seq}".encode()
            more.append(DueWork(WorkKind.FOLLOW, work.name, now_us, entry, item, work.n, receipt.seq))
        return None, more

    async def _note_reminder(self, uid: str, work: DueWork, seq: int) -> None:
        """For the item's timeline. Who dies before this leaves the timeline alone without it: the reminder fired."""
        now_us = self._parts.clock.now_us()
        fired = Intent(uid, work.name, IntentKind.REMIND, FRAME, "", work.n, seq, now_us)
        await self._parts.store.ledger.plan([fired], DeliveryState.SENT, None, now_us)

    async def _escalate(self, uid: str, work: DueWork) -> CompletedWork:
        """Decide from the state of now who is to be told, and hand that over."""
        self._parts.handover.check()
        decision = await self._decide(uid, work)
        return await self._hand_over(work, (*decision.intents, *await self._refuse(decision)))

    async def _refuse(self, decision: EscalationDecision) -> list[Intent]:
        """Note what was decided against. What an act that did not come to its end decided for is returned: that stands,
        and whoever sends it looks once more."""
        reasons: dict[str, list[Intent]] = {}
        for intent, reason in decision.refused:
            reasons.setdefault(reason, []).append(intent)
        plan, now_us = self._parts.store.ledger.plan, self._parts.clock.now_us()
        noted = await asyncio.gather(
            *(plan(each, DeliveryState.CANCELLED, why, now_us) for why, each in reasons.items())
        )
        fresh = [intent for intents in noted for intent in intents]
        return [intent for intent, _ in decision.refused if intent not in fresh]

    async def _tell(self, uid: str, work: DueWork) -> CompletedWork:
        """Hand over for the webhooks what happened to an item; where none wants it, the streams may be away."""
        intents = await told(self._parts, uid, work)
        if intents:
            self._parts.handover.check()
        return await self._hand_over(work, intents)

    async def _hand_over(self, work: DueWork, intents: Sequence[Intent]) -> CompletedWork:
        full: list[Intent] = []
        if intents:
            # The ledger has it before the queue: whoever takes it finds it there, a mail tells all that waits, and what
            # the queue loses is known.
            await self._parts.store.ledger.plan(intents, DeliveryState.PLANNED, None, self._parts.clock.now_us())
            full = await self._parts.handover.give(intents)
            for intent in intents:
                figure = self._parts.figures.put_off if intent in full else self._parts.figures.handed_over
                figure.labels(intent.channel).inc()
        # Nothing is dropped: what finds no room stays on the agenda, where it is decided anew; of one key they are one.
        return CompletedWork(work, self._some_time_later() if full else None)

    def _some_time_later(self) -> int:
        """A moment of the next minutes, so that what is put off does not come back all at once (µs)."""
        return self._parts.clock.now_us() + random.randrange(SECOND_US, PUT_OFF_US)

    async def _decide(self, uid: str, work: DueWork) -> EscalationDecision:
        item, now_us = work.item, self._parts.clock.now_us()
        if item is None:
            return EscalationDecision()
        policy = self._parts.registry.current.resolve(item.category)
        if not escalation.has_channels(policy):
            # Who planned this knew of a channel: its categories may be newer than ours.
            await self._parts.registry.refresh()
            policy = self._parts.registry.current.resolve(item.category)
        there = await load_audience(self._parts.store.devices, uid, now_us)
        if work.kind is WorkKind.FOLLOW:
            occasion = NotificationCause(IntentKind.REMIND, work.seq, work.at_us, work.n)
            wanted = ((policy.push, escalation.decide_pushes), (policy.email, escalation.decide_email))
            decided = [by(uid, item, occasion, policy, there, now_us) for channel, by in wanted if channel is not None]
            return sum(decided, EscalationDecision())
        kind = IntentKind.SUMMARY if is_summary(item.id) else IntentKind.ITEM
        channel, decide = (
            (policy.push, escalation.decide_pushes)
            if work.kind is WorkKind.PUSH
            else (policy.email, escalation.decide_email)
        )
        since_us = work.at_us - (channel.after_us if channel is not None else 0)
        return decide(uid, item, NotificationCause(kind, work.seq, since_us), policy, there, now_us)

    async def _commit_delayed(self, uid: str, work: DueWork) -> CompletedWork:
        """Commit a message whose time has come; it is stamped now. A refusal is final: nobody is there to be told."""
        parts = self._parts
        raw = await parts.store.agenda.delayed(uid, work.name)
        if raw is None:
            return CompletedWork(work)
        kept = decode_delayed_message(raw)
        try:
            entries = parts.registry.current
            message = kept.message(parts.limits)
            commit = plan(message, kept.sender, parts.clock.now_us(), parts.epoch_seed(), parts.limits, entries)
            await parts.store.users.commit(uid, commit)
        except Problem as problem:
            parts.figures.delayed_refused.labels(problem.code).inc()
            _log.error("A delayed message is refused at its time.", code=problem.code, reason=problem.detail)
        return CompletedWork(work)


def _ranked(work: DueWork) -> tuple[bool, int, bytes, DueWork]:
    """The order of what is done: the oldest first; garbage last, since whoever collects it gives the lease away."""
    return work.kind is WorkKind.FORGET, work.at_us, work.entry, work
