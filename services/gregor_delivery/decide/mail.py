"""Decides whether a user gets an e-mail, which waiting items it covers, and builds it (semantics.md L15).

One mail covers everything that waits. Its name is written to the record of each covered delivery before the mail is
sent. A mail that may have arrived is sent again only under the same name, with nothing in it that was not there before.

If the relay rejects the content of a mail, one of its items may be the cause. Its deliveries are then mailed by halves,
and no other delivery joins them.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from operator import itemgetter
from typing import Final

import msgspec

from gregor.auth.unsubscribe_links import UnsubscribeLinks
from gregor.clock import Clock, SystemClock
from gregor.core.items.sync import LiveItem, View
from gregor.core.limits import SECOND_US
from gregor.core.messages.model import RemovalReason
from gregor.core.notify import escalation
from gregor.core.notify.aggregation import is_summary
from gregor.core.notify.contact import QUIET_HOURS, Contact, Preferences, is_channel_allowed, quiet_until
from gregor.core.notify.escalation import USER, Audience, NotificationCause
from gregor.core.notify.intents import EMAIL, Intent, IntentKind
from gregor.core.notify.ledger import DeliveryBudget, DeliveryHistory, DeliveryRecord, DeliveryState
from gregor.registries.categories import CategoryRegistry
from gregor.rendering.renderer import TemplateItem
from gregor.store.audience import AudienceReader
from gregor.store.contract.store import Store
from gregor_delivery.channels.contract import MailMessage
from gregor_delivery.channels.smtp.responses import is_about_content
from gregor_delivery.channels.verdict import RecipientGone
from gregor_delivery.throttle.paced_users import PacedUsers

from .decision import AlreadySent, ClaimFirst, Postpone, SendDecision, SendNow, Skip
from .mail_rendering import render_mail

MAX_ITEMS: Final = 100
"""Items that one mail covers, the longest waiting first. The others wait for the next mail."""
MAX_DELIVERIES: Final = 2_000
"""Deliveries of these items that one mail covers. An item has one delivery, and one more for each of 16 reminders."""
BYTES_IN_LOOP: Final = 8_192
"""Bytes of items above which a mail is rendered in a thread: 66 items of 16 KB took 0.15 s."""
MAX_BYTES: Final = 262_144
"""Bytes of items (as JSON) that one mail covers; the rest waits for the next mail. HTML may be six times as long."""
DEFERRALS: Final = 8
"""Temporary rejections of content after which a delivery is mailed separately: about 4 minutes of retries."""
MAX_ITEMS_READ: Final = 2_000
"""Newest items that are considered for one mail: all live items of a user, unless `Limits.live` is raised."""
FULL_READS: Final = 0.5
"""Reads of these items and their deliveries, a second for each user. A read of 2,000 items takes 70 ms."""
FULL_READS_BURST: Final = 10
"""Burst of these reads. One mail covers all waiting items, so a user seldom needs several reads."""
RECORDS_PER_READ: Final = 4_000
"""Delivery records that count as one more read. To read one takes 8 µs, and to build the mail takes as long again."""
PART_READS: Final = 0.25
"""Reads a second for parts of rejected mails. The rate is separate, because the parts must not delay other mails."""
RECORDS_PER_PART_READ: Final = 16_000
"""The same for a part. It is larger, because a division takes ten or more parts, which are read at half the rate."""
MAIL_PACE: Final = "mail_pace"
"""Reason of an e-mail that waits until its user may have another of these reads."""
LOCK: Final = "mail"
"""One mail to a user at a time: a concurrent one would cover the same items."""
_WAITING: Final = (DeliveryState.PLANNED, DeliveryState.WAITING, DeliveryState.RETRY)


@dataclass(frozen=True, slots=True)
class _MailContext:
    """State of a user when a mail is decided. `items`: items a mail may cover, by id, with their mail timers (µs)."""

    uid: str
    items: dict[str, tuple[LiveItem, int | None]]
    records: list[DeliveryRecord]
    contact: Contact
    preferences: Preferences
    audience: Audience
    now_us: int


class MailDecider:
    """`Decider` of e-mails. `links`: makes the unsubscribe links. `host`: the domain of Message-IDs. `budget`: mails of
    each user; `None` for no limit. The next mail covers everything that waits for it.
    """

    def __init__(
        self,
        store: Store,
        registry: CategoryRegistry,
        links: UnsubscribeLinks | None,
        host: str,
        budget: DeliveryBudget | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._store = store
        self._audiences = AudienceReader(store.devices)
        self._registry = registry
        self._links = links
        self._host = host
        self._budget = budget
        self._clock = clock or SystemClock()
        self._full_reads = PacedUsers(FULL_READS, FULL_READS_BURST)
        self._part_reads = PacedUsers(PART_READS, FULL_READS_BURST)

    # --- the decision ---

    async def decide(self, intent: Intent, now_us: int) -> Skip | Postpone | ClaimFirst:
        """Decide from the current state. Raises `Unavailable`."""
        context = await self._read_context(intent, now_us)
        held = await self._skip_or_postpone(intent, context)
        if held is not None:
            return held
        return ClaimFirst(LOCK, self._budget, lambda claimed: self._decide_claimed(intent, claimed, context))

    async def _decide_claimed(self, intent: Intent, claimed: DeliveryRecord, context: _MailContext) -> SendDecision:
        """Decide with the other items. No other mail to the user is decided or sent meanwhile."""
        now_us = context.now_us
        is_part = _is_separate(claimed)
        reads, rate = (self._part_reads, PART_READS) if is_part else (self._full_reads, FULL_READS)
        wait_s = reads.wait_s(intent.uid, self._clock.monotonic())
        if wait_s > 0.0:
            # At random, because a mail covers the oldest deliveries: their turns in a row would pass without a mail.
            return Postpone(MAIL_PACE, now_us + round(random.uniform(1 / rate, wait_s) * SECOND_US))
        context = await self._with_companions(intent, context)
        further_reads = len(context.records) // (RECORDS_PER_PART_READ if is_part else RECORDS_PER_READ)
        reads.charge(intent.uid, further_reads, self._clock.monotonic())
        if intent.item not in context.items:  # it left meanwhile
            return Skip(await self._removal_reason(intent, now_us))
        # The record as it was before this claim: the claim itself looks like a request without an outcome.
        name = _possibly_sent_mail(msgspec.structs.replace(claimed, n=claimed.n - 1))
        if name is not None and any(
            each.history.mail == name and each.state is DeliveryState.SENT for each in context.records
        ):
            return AlreadySent()
        if name is not None:
            companions = self._companions_of_mail(intent, name, context)
        elif is_part:
            companions = self._part_of_rejected_mail(intent, claimed.history, context)
        else:
            companions = self._waiting_companions(intent, context)
        item, _ = context.items[intent.item]
        return SendNow(
            compose=lambda others: self._build(context, intent, others, name or _mail_name((intent, *others))),
            companions=tuple(islice(companions, MAX_DELIVERIES - 1)),
            message_name=lambda others: name or _mail_name((intent, *others)),
            lock=LOCK,
            expires_us=item.expires_us,
            on_gone=lambda gone: self._suppress(context.contact, gone, now_us),
            budget=self._budget,
            is_separable=None if name is not None else lambda refused: is_about_content(refused.status, refused.detail),
            is_long=lambda others: _item_bytes(context, intent, others) > BYTES_IN_LOOP,
        )

    async def _read_context(self, intent: Intent, now_us: int) -> _MailContext:
        """Return the state that decides about the item of the intent, without other items and without records."""
        uid, contacts = intent.uid, self._store.contacts
        # First, because it may wait: the other values are then as new as the decision.
        audience = await self._audiences.wait_and_read(uid, intent.at_us, now_us)
        item, contact, preferences = await asyncio.gather(
            self._store.agenda.live_item(uid, intent.item),
            contacts.contact(uid),
            contacts.preferences(uid),
        )
        if item is not None and self._registry.current.resolve(item.category).email is None:
            await self._registry.refresh()  # the scheduler may know a newer policy than this process
        items: dict[str, tuple[LiveItem, int | None]] = {} if item is None else {item.id: (item, None)}
        return _MailContext(uid, items, [], contact, preferences, audience, now_us)

    async def _with_companions(self, intent: Intent, context: _MailContext) -> _MailContext:
        """Return the context with all items that the mail may cover and their records."""
        uid, categories = context.uid, self._registry.current
        listed = await self._store.agenda.mailable(
            uid, intent.item, lambda category: categories.resolve(category).email is not None, MAX_ITEMS_READ
        )
        items = {item.id: (item, timer_us) for item, timer_us in listed}
        ids = dict.fromkeys((intent.item, *items))
        ledgers = await asyncio.gather(*(self._store.ledger.of_item(uid, each) for each in ids))
        records = [each for entries in ledgers for each in entries if each.intent.channel == EMAIL]
        return replace(context, items=items, records=records)

    async def _skip_or_postpone(self, intent: Intent, context: _MailContext) -> Skip | Postpone | None:
        """Return why no mail is sent for the intent now; `None` if one is."""
        if intent.item not in context.items:
            return Skip(await self._removal_reason(intent, context.now_us))
        skip_reason = self._skip_reason(intent, context)
        if skip_reason is not None:
            return Skip(skip_reason)
        if await self._store.suppressions.suppression(context.contact.email or "") is not None:
            return Skip("suppressed")
        until_us = self._quiet_until(context.items[intent.item][0], context)
        return Postpone(QUIET_HOURS, until_us) if until_us > context.now_us else None

    async def _removal_reason(self, intent: Intent, now_us: int) -> str:
        entry = await self._store.users.item(intent.uid, intent.item, View(), now_us)
        if entry is not None and entry.gone is None:
            return "no_channel"  # the item is live, but its category has no e-mail any more
        return (
            "expired"
            if entry is not None and entry.gone and entry.gone.reason is RemovalReason.EXPIRED
            else "dismissed"
        )

    def _skip_reason(self, intent: Intent, context: _MailContext) -> str | None:
        """Apply the rules of `core.notify.escalation` (absence counts from `intent.at_us`), then the preferences."""
        item, _ = context.items[intent.item]
        policy = self._registry.current.resolve(item.category)
        cause = NotificationCause(intent.kind, intent.seq, intent.at_us, intent.n)
        decision = escalation.decide_email(context.uid, item, cause, policy, context.audience, context.now_us)
        if decision.skip_reasons:
            return decision.skip_reasons[USER]
        if context.contact.email is None:
            return "no_address"
        return None if is_channel_allowed(context.preferences, item.category, "email") else "preference"

    def _quiet_until(self, item: LiveItem, context: _MailContext) -> int:
        is_urgent = self._registry.current.resolve(item.category).urgent
        return context.now_us if is_urgent else quiet_until(context.contact, context.now_us)

    # --- companions: other deliveries that the same mail covers ---

    def _waiting_companions(self, intent: Intent, context: _MailContext) -> Iterator[Intent]:
        """Yield the other waiting deliveries of as many items as fit into one mail, the longest waiting items first."""
        covered, left = {intent.item}, MAX_BYTES - len(context.items[intent.item][0].json)
        for each in self._waiting_by_age(context):
            if each.key == intent.key or (each.item not in covered and (left <= 0 or len(covered) >= MAX_ITEMS)):
                continue
            if not self._may_cover(each, context):
                continue
            if each.item not in covered:
                left -= len(context.items[each.item][0].json)
                if left < 0:
                    continue
                covered.add(each.item)
            yield each

    def _waiting_by_age(self, context: _MailContext) -> Iterator[Intent]:
        """Yield all waiting deliveries, the oldest first: those in the queue, then those that are not due yet."""
        known = {each.intent.key for each in context.records}
        free = (each for each in context.records if _is_free(each, context.now_us) and not _is_separate(each))
        waiting = [(each.history.begun_us, each.history.seq, _since_planned(each)) for each in free]
        for item, timer_us in context.items.values():
            kind = IntentKind.SUMMARY if is_summary(item.id) else IntentKind.ITEM
            email = self._registry.current.resolve(item.category).email
            if timer_us is not None and email is not None:
                timed = Intent(context.uid, item.id, kind, EMAIL, USER, 0, item.seq, timer_us - email.after_us)
                if timed.key not in known:
                    waiting.append((timer_us, item.seq, timed))
        # By age, because a sender of many newer items could otherwise delay the mails of other senders for hours.
        waiting.sort(key=itemgetter(0, 1))
        return (each for _, _, each in waiting)

    def _companions_of_mail(self, intent: Intent, name: str | None, context: _MailContext) -> Iterator[Intent]:
        """Yield the deliveries that the mail of that name covered and that are still to be delivered."""
        covered = (_since_planned(each) for each in context.records if each.history.mail == name)
        return (each for each in covered if each.key != intent.key and self._may_cover(each, context))

    def _part_of_rejected_mail(
        self, intent: Intent, history: DeliveryHistory, context: _MailContext
    ) -> Iterator[Intent]:
        """Yield the companions for a part of a rejected mail: half of its items, or all that remain if some have left.

        The part is always smaller than the rejected mail. If the last attempt failed for another reason, such as a lost
        connection, the same mail is sent again.
        """
        separate = [each for each in context.records if _is_free(each, context.now_us) and _is_separate(each)]
        left = list(self._companions_of_mail(intent, history.mail, replace(context, records=separate)))
        last = history.attempts[-1]
        is_rejected = is_about_content(last.status, last.detail) and _mail_name((intent, *left)) == history.mail
        others = list(dict.fromkeys(each.item for each in left if each.item != intent.item))
        part = {intent.item, *others[: len(others) // 2 if is_rejected else None]}
        return (each for each in left if each.item in part)

    def _may_cover(self, intent: Intent, context: _MailContext) -> bool:
        if intent.item not in context.items or self._skip_reason(intent, context) is not None:
            return False
        return self._quiet_until(context.items[intent.item][0], context) <= context.now_us

    # --- the message ---

    def _build(self, context: _MailContext, intent: Intent, others: Sequence[Intent], name: str) -> MailMessage:
        items = _covered_items(context, intent, others)
        items.sort(key=lambda item: (item.created_us, item.seq), reverse=True)
        link = "" if self._links is None else self._links.link(context.uid, (item.category for item in items))
        template_items = [TemplateItem.of_json(item.id, item.json, context.uid) for item in items]
        rendered = render_mail(template_items, self._registry.renderer, context.contact.locale, link)
        return MailMessage(
            to=context.contact.email or "",
            locale=context.contact.locale or "",
            subject=rendered.subject,
            text=rendered.text,
            html=rendered.html,
            message_id=f"<{name}@{self._host}>",
            unsubscribe_url=link or None,
        )

    async def _suppress(self, contact: Contact, gone: RecipientGone, now_us: int) -> bool:
        """Suppress an address whose mailbox does not exist: no mail goes there again."""
        if contact.email is None:
            return False
        await self._store.suppressions.suppress(contact.email, "bounce", now_us)
        return True


def _covered_items(context: _MailContext, intent: Intent, others: Sequence[Intent]) -> list[LiveItem]:
    return [context.items[item_id][0] for item_id in dict.fromkeys(each.item for each in (intent, *others))]


def _item_bytes(context: _MailContext, intent: Intent, others: Sequence[Intent]) -> int:
    return sum(len(item.json) for item in _covered_items(context, intent, others))


def _is_separate(record: DeliveryRecord) -> bool:
    """Return whether the relay rejected mails that covered the delivery for their content, since its last replay."""
    attempts = (each for each in record.history.attempts if each.at_us >= (record.history.replayed_us or 0))
    about_content = [each.status for each in attempts if is_about_content(each.status, each.detail)]
    return any(status.startswith("5") for status in about_content) or len(about_content) >= DEFERRALS


def _is_free(record: DeliveryRecord, now_us: int) -> bool:
    """Return whether the delivery waits and no mail that covered it may have arrived."""
    is_waiting = record.state in _WAITING or (record.state is DeliveryState.CLAIMED and record.lease_until_us <= now_us)
    return is_waiting and _possibly_sent_mail(record) is None


def _possibly_sent_mail(record: DeliveryRecord) -> str | None:
    """Return the name of the mail that covered the delivery and may have arrived; `None` if there is none."""
    return record.history.mail if record.has_unknown_outcome else None


def _since_planned(record: DeliveryRecord) -> Intent:
    """Return the intent, dated by when it was planned: presence counts from then."""
    return replace(record.intent, at_us=record.history.planned_us)


def _mail_name(intents: Sequence[Intent]) -> str:
    """Return the name of the mail that covers exactly these intents: the same for every attempt."""
    keys = sorted("/".join(map(str, intent.key)) for intent in intents)
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()[:40]
