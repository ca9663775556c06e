"""Whether a user is still to be told by mail, of what else at once, and the mail that tells it (semantics.md L15).

One mail tells all that waits. Which deliveries it told stands in the ledger before it goes out, under its name, so that
one that may have arrived is only ever sent again under that name, with nothing in it that was not there before.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from gregor.auth.unsubscribe_links import UnsubscribeLinks
from gregor.core.items.sync import LiveItem, View
from gregor.core.messages.model import RemovalReason
from gregor.core.notify import escalation
from gregor.core.notify.aggregation import is_summary
from gregor.core.notify.contact import QUIET_HOURS, Contact, Preferences, is_channel_allowed, quiet_until
from gregor.core.notify.escalation import USER, Audience, NotificationCause
from gregor.core.notify.intents import EMAIL, Intent, IntentKind
from gregor.core.notify.ledger import DeliveryRecord, DeliveryState
from gregor.registries.categories import CategoryRegistry
from gregor.rendering.renderer import TemplateItem
from gregor.store.audience import load_audience
from gregor.store.contract.store import Store
from gregor_delivery.channels.contract import MailMessage
from gregor_delivery.channels.verdict import RecipientGone

from .decision import SendDecision
from .mail_rendering import write

MOST_TOLD: Final = 100
"""Deliveries that one mail tells; what is over waits for the next."""
MOST_READ: Final = 1_000
"""Items that are looked at for one mail, the newest: most were told before."""
PLACE: Final = "mail"
"""One mail to a user at a time: the second would tell what the first tells."""
_WAITS: Final = (DeliveryState.PLANNED, DeliveryState.WAITING, DeliveryState.RETRY)


@dataclass(frozen=True, slots=True)
class _MailContext:
    """What is known of a user at the moment of a mail. `items`: what may be told, by id, with its mail timer (µs)."""

    uid: str
    items: dict[str, tuple[LiveItem, int | None]]
    ledger: list[DeliveryRecord]
    contact: Contact
    preferences: Preferences
    audience: Audience
    now_us: int


class MailDecider:
    """`look.Decider` of mail. `links`: how unsubscribe links are made. `host`: what Message-IDs end with."""

    def __init__(self, store: Store, registry: CategoryRegistry, links: UnsubscribeLinks | None, host: str) -> None:
        self._store = store
        self._registry = registry
        self._links = links
        self._host = host

    async def look(self, intent: Intent, now_us: int) -> SendDecision:
        """Decide from the state of now. Raises `Unavailable`."""
        scene = await self._scene(intent, now_us)
        mine = next((each for each in scene.ledger if each.intent.key == intent.key), None)
        held = await self._held(intent, scene)
        if held is not None:
            return held
        item, _ = scene.items[intent.item]
        name = None if mine is None else _bound_to(mine)
        if name is not None and any(
            each.history.mail == name and each.state is DeliveryState.SENT for each in scene.ledger
        ):
            return SendDecision(is_told=True)
        also = self._also_bound(intent, name, scene) if name is not None else self._also_free(intent, scene)
        return SendDecision(
            compose=lambda others: self._mail(scene, intent, others, name or _name_of((intent, *others))),
            also=tuple(islice(also, MOST_TOLD - 1)),
            name=lambda others: name or _name_of((intent, *others)),
            place=PLACE,
            expires_us=item.expires_us,
            forget=lambda gone: self._suppress(scene.contact, gone, now_us),
        )

    async def _scene(self, intent: Intent, now_us: int) -> _MailContext:
        uid, contacts = intent.uid, self._store.contacts
        listed = await self._mailable(intent)
        if intent.item not in {item.id for item, _ in listed}:
            await self._registry.refresh()  # who handed it over knew of a mail: its categories may be newer than ours
            listed = await self._mailable(intent)
        names = {intent.item, *(item.id for item, _ in listed)}
        contact, preferences, there, ledgers = await asyncio.gather(
            contacts.contact(uid),
            contacts.preferences(uid),
            load_audience(self._store.devices, uid, now_us),
            asyncio.gather(*(self._store.ledger.of_item(uid, name) for name in names)),
        )
        ledger = [each for entries in ledgers for each in entries if each.intent.channel == EMAIL]
        items = {item.id: (item, timer_us) for item, timer_us in listed}
        return _MailContext(uid, items, ledger, contact, preferences, there, now_us)

    async def _mailable(self, intent: Intent) -> list[tuple[LiveItem, int | None]]:
        entries = self._registry.current
        return await self._store.agenda.mailable(
            intent.uid, intent.item, lambda category: entries.resolve(category).email is not None, MOST_READ
        )

    async def _held(self, intent: Intent, scene: _MailContext) -> SendDecision | None:
        """Why nothing goes out for this now; `None` where it does."""
        if intent.item not in scene.items:
            return SendDecision(skip_reasons=await self._why_gone(intent, scene.now_us))
        skip_reasons = self._why_not(intent, scene)
        if skip_reasons is not None:
            return SendDecision(skip_reasons=skip_reasons)
        if await self._store.suppressions.suppression(scene.contact.email or "") is not None:
            return SendDecision(skip_reasons="suppressed")
        until_us = self._quiet_until(scene.items[intent.item][0], scene)
        if until_us > scene.now_us:
            return SendDecision(skip_reasons=QUIET_HOURS, until_us=until_us)
        return None

    async def _why_gone(self, intent: Intent, now_us: int) -> str:
        entry = await self._store.users.item(intent.uid, intent.item, View(), now_us)
        if entry is not None and entry.gone is None:
            return "no_provider"  # it is live, but its category sends no mail any more
        return (
            "expired"
            if entry is not None and entry.gone and entry.gone.reason is RemovalReason.EXPIRED
            else "dismissed"
        )

    def _why_not(self, intent: Intent, scene: _MailContext) -> str | None:
        """As `core.escalation` and the preferences say; `at_us` of the intent: until then nobody was there."""
        item, _ = scene.items[intent.item]
        policy = self._registry.current.resolve(item.category)
        occasion = NotificationCause(intent.kind, intent.seq, intent.at_us, intent.n)
        decision = escalation.decide_email(scene.uid, item, occasion, policy, scene.audience, scene.now_us)
        if decision.skip_reasons:
            return decision.skip_reasons[USER]
        if scene.contact.email is None:
            return "no_provider"
        return None if is_channel_allowed(scene.preferences, item.category, "email") else "preference"

    def _quiet_until(self, item: LiveItem, scene: _MailContext) -> int:
        is_urgent = self._registry.current.resolve(item.category).urgent
        return scene.now_us if is_urgent else quiet_until(scene.contact, scene.now_us)

    def _also_free(self, intent: Intent, scene: _MailContext) -> Iterator[Intent]:
        """All else that waits: what was handed over, and what would be soon, nobody having been there since."""
        known = {each.intent.key for each in scene.ledger}
        waiting = [_told_of(each) for each in scene.ledger if _is_free(each, scene.now_us)]
        for item, timer_us in scene.items.values():
            kind = IntentKind.SUMMARY if is_summary(item.id) else IntentKind.ITEM
            email = self._registry.current.resolve(item.category).email
            if timer_us is not None and email is not None:
                timed = Intent(scene.uid, item.id, kind, EMAIL, USER, 0, item.seq, timer_us - email.after_us)
                if timed.key not in known:
                    waiting.append(timed)
        return (each for each in waiting if each.key != intent.key and self._may_tell(each, scene))

    def _also_bound(self, intent: Intent, name: str, scene: _MailContext) -> Iterator[Intent]:
        """What the mail of that name told, as far as it is still to be told."""
        told = (each for each in scene.ledger if each.history.mail == name)
        return (
            _told_of(each) for each in told if each.intent.key != intent.key and self._may_tell(_told_of(each), scene)
        )

    def _may_tell(self, intent: Intent, scene: _MailContext) -> bool:
        if intent.item not in scene.items or self._why_not(intent, scene) is not None:
            return False
        return self._quiet_until(scene.items[intent.item][0], scene) <= scene.now_us

    def _mail(self, scene: _MailContext, intent: Intent, others: Sequence[Intent], name: str) -> MailMessage:
        items = [scene.items[item_id][0] for item_id in dict.fromkeys(each.item for each in (intent, *others))]
        items.sort(key=lambda item: (item.created_us, item.seq), reverse=True)
        link = "" if self._links is None else self._links.link(scene.uid, (item.category for item in items))
        shown = [TemplateItem.of_json(item.id, item.json, scene.uid) for item in items]
        written = write(shown, self._registry.renderer, scene.contact.locale, link)
        return MailMessage(
            to=scene.contact.email or "",
            locale=scene.contact.locale or "",
            subject=written.subject,
            text=written.text,
            html=written.html,
            message_id=f"<{name}@{self._host}>",
            unsubscribe_url=link or None,
        )

    async def _suppress(self, contact: Contact, gone: RecipientGone, now_us: int) -> bool:
        """The relay says that there is no such mailbox: nothing goes there any more."""
        if contact.email is None:
            return False
        await self._store.suppressions.suppress(contact.email, "bounce", now_us)
        return True


def _is_free(delivery: DeliveryRecord, now_us: int) -> bool:
    """Whether it waits, and any mail may tell it: none went out that did."""
    is_waiting = delivery.state in _WAITS or (
        delivery.state is DeliveryState.CLAIMED and delivery.lease_until_us <= now_us
    )
    return is_waiting and _bound_to(delivery) is None


def _bound_to(delivery: DeliveryRecord) -> str | None:
    """The mail that told it and may have arrived; `None` where there is none. A call that has no outcome may have."""
    return delivery.history.mail if delivery.is_unsure else None


def _told_of(delivery: DeliveryRecord) -> Intent:
    """The intent of a delivery, as of when nobody was known to be there last."""
    return replace(delivery.intent, at_us=delivery.history.planned_us)


def _name_of(intents: Sequence[Intent]) -> str:
    """The name of the mail that tells exactly these: the same at each attempt."""
    keys = sorted("/".join(map(str, intent.key)) for intent in intents)
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()[:40]
