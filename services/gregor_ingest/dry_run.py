"""``?dry_run=true``: what a message would do, and who would be told of what it creates, when, or why not (protocol.md).

Nothing is done. What would go out is decided from the state of now, by the same pure rules as when it is due: who is in
the foreground now is told nothing in three days either. Of a delayed message "now" is its time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gregor.core.categories.policy import CategoryPolicy
from gregor.core.errors import Problem
from gregor.core.items.reminders import firing_reminders
from gregor.core.items.sync import LiveItem, View
from gregor.core.messages.encode import encode_receipt
from gregor.core.messages.model import Creation, ExternalMessage, ItemTimerKind, Message, Sender
from gregor.core.notify import escalation
from gregor.core.notify.contact import QUIET_HOURS, Contact, Preferences, is_channel_allowed, quiet_until
from gregor.core.notify.escalation import USER, Audience, EscalationDecision, NotificationCause, SkipReason
from gregor.core.notify.intents import EMAIL, IntentKind
from gregor.core.times import format_time
from gregor.store.audience import load_audience

from .context import IngestContext

_PREFERENCE: Final[SkipReason] = "preference"


def is_dry_run(query: dict[str, str]) -> bool:
    """Whether ``dry_run`` is asked for. ``invalid`` for anything but ``true`` and ``false``."""
    said = query.get("dry_run", "false")
    if said not in ("true", "false"):
        raise Problem("invalid", "dry_run is true or false.")
    return said == "true"


async def dry_run(uid: str, message: Message, sender: Sender, view: View, context: IngestContext) -> bytes:
    """The receipt as the message would have it, with ``dry_run`` and ``deliveries``."""
    commit = context.submitter.plan(message, sender)
    receipt = await context.store.users.rehearse(uid, commit)
    made = [creation for creation in commit.creations if creation.id in receipt.created]
    deliveries: list[dict[str, Any]] = []
    if any(escalation.has_channels(_policy(creation, context)) for creation in made):
        audience = await _audience(uid, commit.now_us, context)
        for creation in made:
            deliveries += _deliveries(creation, receipt.seq + 1, audience, _policy(creation, context))
    told = msgspec.json.encode(deliveries)
    return (
        encode_receipt(receipt, view, isinstance(message.content, ExternalMessage))[:-1]
        + b',"dry_run":true,"deliveries":'
        + told
        + b"}"
    )


@dataclass(frozen=True, slots=True)
class _Audience:
    """Who could be told, at the moment of the rehearsal."""

    uid: str
    now_us: int
    there: Audience
    contact: Contact
    preferences: Preferences
    is_suppressed: bool


async def _audience(uid: str, now_us: int, context: IngestContext) -> _Audience:
    contacts = context.store.contacts
    there, contact, preferences = await asyncio.gather(
        load_audience(context.store.devices, uid, now_us), contacts.contact(uid), contacts.preferences(uid)
    )
    email = contact.email
    is_suppressed = email is not None and await context.store.suppressions.suppression(email) is not None
    return _Audience(uid, now_us, there, contact, preferences, is_suppressed)


def _policy(creation: Creation, context: IngestContext) -> CategoryPolicy:
    return context.categories.current.resolve(creation.category)


def _deliveries(creation: Creation, seq: int, audience: _Audience, policy: CategoryPolicy) -> Iterator[dict[str, Any]]:
    """One entry for each event of the item, device and channel that its type tells: when, or the reason why not."""
    item = LiveItem(
        creation.id,
        creation.category,
        creation.for_device,
        creation.created_us,
        seq,
        creation.expires_us,
        creation.remind_at_us,
        creation.json,
    )
    event = NotificationCause(IntentKind.ITEM, seq, audience.now_us)
    for timer in creation.timers:
        if timer.kind is ItemTimerKind.PUSH:
            yield from _pushes(item, event, timer.at_us, audience, policy)
        elif timer.kind is ItemTimerKind.MAIL:
            yield from _mail(item, event, timer.at_us, audience, policy)
    for n in firing_reminders(creation, audience.now_us):
        at_us = max(audience.now_us, creation.remind_at_us[n])
        reminder = NotificationCause(IntentKind.REMIND, seq, audience.now_us, n)
        if policy.push is not None:
            yield from _pushes(item, reminder, at_us, audience, policy)
        if policy.email is not None:
            yield from _mail(item, reminder, at_us, audience, policy)


def _pushes(
    item: LiveItem, event: NotificationCause, at_us: int, audience: _Audience, policy: CategoryPolicy
) -> Iterator[dict[str, Any]]:
    decision = escalation.decide_pushes(audience.uid, item, event, policy, audience.there, audience.now_us)
    if not is_channel_allowed(audience.preferences, item.category, "push"):
        decision = EscalationDecision(
            skip_reasons={**{each.device: _PREFERENCE for each in decision.intents}, **decision.skip_reasons}
        )
    for intent in decision.intents:
        yield _told(item, event, intent.channel, intent.device, at_us, audience, policy)
    for device, reason in decision.skip_reasons.items():
        yield _entry(item, event, None, device, None, reason)
    if not decision.intents and not decision.skip_reasons:
        yield _entry(item, event, None, None, None, "no_device")  # there is no device at all


def _mail(
    item: LiveItem, event: NotificationCause, at_us: int, audience: _Audience, policy: CategoryPolicy
) -> Iterator[dict[str, Any]]:
    decision = escalation.decide_email(audience.uid, item, event, policy, audience.there, audience.now_us)
    reason: str | None = decision.skip_reasons.get(USER)
    if reason is None and audience.contact.email is None:
        reason = "no_address"
    if reason is None and not is_channel_allowed(audience.preferences, item.category, "email"):
        reason = _PREFERENCE
    if reason is None and audience.is_suppressed:
        reason = "suppressed"
    if reason is None:
        yield _told(item, event, EMAIL, None, at_us, audience, policy)
    else:
        yield _entry(item, event, EMAIL, None, None, reason)


def _told(
    item: LiveItem,
    event: NotificationCause,
    channel: str,
    device: str | None,
    at_us: int,
    audience: _Audience,
    policy: CategoryPolicy,
) -> dict[str, Any]:
    """What goes out, in quiet hours only at their end; nothing does where the item has expired by then."""
    until_us = at_us if policy.urgent else quiet_until(audience.contact, at_us)
    if item.is_expired(until_us):
        return _entry(item, event, channel, device, None, "expired")
    return _entry(item, event, channel, device, until_us, QUIET_HOURS if until_us > at_us else None)


def _entry(
    item: LiveItem,
    event: NotificationCause,
    channel: str | None,
    device: str | None,
    at_us: int | None,
    reason: str | None,
) -> dict[str, Any]:
    at = None if at_us is None else msgspec.Raw(format_time(at_us))
    told = {"item": item.id, "intent": event.kind.value, "n": event.n, "channel": channel, "device": device}
    return {**told, "at": at, "reason": reason}
