"""``?dry_run=true``: the effect of a message, and each notification with its time or the reason for none.

Changes nothing.

Deliveries are decided for the present state by the same pure rules as at their time: a user in the foreground
now gets no e-mail in three days either. A delayed message is decided for its own time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from heapq import nsmallest
from typing import Any, Final

import msgspec

from gregor.core.categories.policy import CategoryPolicy
from gregor.core.errors import Problem
from gregor.core.ids import Prefixes, is_allowed, prefixes_of
from gregor.core.items.reminders import firing_reminders
from gregor.core.items.sync import LiveItem, View
from gregor.core.messages.encode import encode_receipt
from gregor.core.messages.model import Commit, Creation, ExternalMessage, ItemTimerKind, Message, Receipt, Sender
from gregor.core.notify import escalation
from gregor.core.notify.contact import QUIET_HOURS, Contact, Preferences, is_channel_allowed, quiet_until
from gregor.core.notify.escalation import USER, Audience, EscalationDecision, NotificationCause, SkipReason
from gregor.core.notify.intents import EMAIL, IntentKind
from gregor.cpu_meter import metered
from gregor.store.delayed_senders import Charge

from .context import IngestContext
from .schemas.fields import json_time_or_null
from .schemas.responses import PlannedDeliveryResponse

_PREFERENCE: Final[SkipReason] = "preference"
_MAX_SUGGESTIONS: Final = 5
"""Unknown categories of a message for which a similar name is looked up."""
_MAX_COMPARED: Final = 5
"""Names that are compared letter by letter with an unknown category."""


def is_dry_run(query: dict[str, str]) -> bool:
    """Return whether the query asks for a dry run. Raise ``invalid`` for a value other than ``true`` and ``false``."""
    value = query.get("dry_run", "false")
    if value not in ("true", "false"):
        raise Problem("invalid", "The query parameter dry_run must be true or false.")
    return value == "true"


async def dry_run(
    uid: str,
    message: Message,
    sender: Sender,
    view: View,
    context: IngestContext,
    charge: Charge,
    *,
    shows_deliveries: bool,
    is_device: bool = False,
) -> bytes:
    """Return the receipt that the message would get, with ``dry_run``, ``deliveries`` and ``warnings``.

    ``charge``: takes the weight of the message beyond the units that were taken before.

    Deliveries reveal devices, presence and contact. Unless ``shows_deliveries``, a warning replaces them;
    ``is_device``: only those to the device of the caller are shown.
    """
    commit = context.submitter.plan(message, sender)
    receipt = await _rehearse(uid, commit, context, charge)
    created = [creation for creation in commit.creations if creation.id in receipt.created]
    deliveries: list[PlannedDeliveryResponse] = []
    has_channels = any(escalation.has_channels(_policy(creation, context)) for creation in created)
    if has_channels and shows_deliveries:
        hidden_by = dict(receipt.hidden_by)
        recipient = await _load_recipient(uid, commit.now_us, context)
        for creation in created:
            hidden = hidden_by.get(creation.id, frozenset())
            planned = _deliveries(creation, hidden, receipt.seq + 1, recipient, _policy(creation, context))
            deliveries += [each for each in planned if each.device == view.device] if is_device else planned
            # 16 reminders for 64 devices take 6 ms an item; a message has up to 100 items.
            await asyncio.sleep(0)
    extra: dict[str, Any] = {"dry_run": True, "deliveries": deliveries}
    categories = (creation.category for creation in created)
    warnings = await _category_warnings(categories, sender.category_filter, context)
    if has_channels and not shows_deliveries:
        warnings.append("deliveries is empty: the service key lacks the scope devices.")
    if has_channels and is_device:
        warnings.append("deliveries has only the pushes to this device.")
    if warnings:
        extra["warnings"] = warnings
    # The encoder of receipts is hand-written; the members of the dry run are appended to its object.
    encoded = encode_receipt(receipt, view, isinstance(message.content, ExternalMessage))
    return encoded[:-1] + b"," + msgspec.json.encode(extra)[1:]


async def _rehearse(uid: str, commit: Commit, context: IngestContext, charge: Charge) -> Receipt:
    result: Receipt | Problem
    try:
        result = await context.store.users.rehearse(uid, commit)
    except Problem as problem:
        result = problem
    if result.extra_weight:
        await charge(result.extra_weight)
    if isinstance(result, Problem):
        raise result
    return result


async def _category_warnings(categories: Iterable[str], limits: Prefixes, context: IngestContext) -> list[str]:
    """Return a warning for each category without an entry if a similar name has one: probably a typo.

    Only the first few unknown categories are compared. No warning has a name outside of the ``limits`` of the caller.
    """
    names = context.categories.current.named
    unknown = [each for each in dict.fromkeys(categories) if names.keys().isdisjoint(prefixes_of(each)[1:])]
    suggested = [name for name in names if is_allowed(limits, name)] if unknown else []
    warnings = []
    for category in unknown[:_MAX_SUGGESTIONS]:
        if similar := _similar_name(category, suggested):
            warnings.append(f'No entry exists for the category "{category}"; did you mean "{similar}"?')
        await asyncio.sleep(0)
    return warnings


def _similar_name(category: str, names: Iterable[str]) -> str | None:
    # A ratio takes up to 1 ms: 100 categories and 200 names took 1.8 s. So it decides among the most similar only.
    nearest = nsmallest(_MAX_COMPARED, filter(None, names), key=lambda name: _difference(category, name))
    return next(iter(get_close_matches(category, nearest, 1, cutoff=0.7)), None)


def _difference(one: str, other: str) -> int:
    """Return the characters between the common beginning and the common end of two names."""
    begin = _equal_letters(one, other)
    end = _equal_letters(one[begin:][::-1], other[begin:][::-1])
    return max(len(one), len(other)) - begin - end


def _equal_letters(one: str, other: str) -> int:
    count = 0
    for letter, other_letter in zip(one, other, strict=False):
        if letter != other_letter:
            break
        count += 1
    return count


# --- The user to notify


@dataclass(frozen=True, slots=True)
class _Recipient:
    """The user to notify: devices, contact and preferences at the time of the dry run."""

    uid: str
    now_us: int
    audience: Audience
    contact: Contact
    preferences: Preferences
    is_suppressed: bool
    quiet_ends_us: dict[int, int] = field(default_factory=dict)

    def quiet_end_us(self, at_us: int) -> int:
        """Return ``quiet_until`` of the contact. It takes 0.07 ms, and all devices of an item ask for the same time."""
        if (end_us := self.quiet_ends_us.get(at_us)) is None:
            end_us = self.quiet_ends_us[at_us] = quiet_until(self.contact, at_us)
        return end_us


async def _load_recipient(uid: str, now_us: int, context: IngestContext) -> _Recipient:
    contacts = context.store.contacts
    audience, contact, preferences = await asyncio.gather(
        metered(context.store.devices.audience(uid, now_us)),
        metered(contacts.contact(uid)),
        metered(contacts.preferences(uid)),
    )
    email = contact.email
    is_suppressed = email is not None and await context.store.suppressions.suppression(email) is not None
    return _Recipient(uid, now_us, audience, contact, preferences, is_suppressed)


# --- Predicted deliveries


def _policy(creation: Creation, context: IngestContext) -> CategoryPolicy:
    return context.categories.current.resolve(creation.category)


def _deliveries(
    creation: Creation, hidden_by: frozenset[str], seq: int, recipient: _Recipient, policy: CategoryPolicy
) -> Iterator[PlannedDeliveryResponse]:
    """Yield an entry for each event of the item, device and channel: when it is delivered, or the reason why not."""
    item = LiveItem(
        creation.id,
        creation.category,
        creation.for_device,
        creation.created_us,
        seq,
        creation.expires_us,
        creation.remind_at_us,
        creation.json,
        hidden_by=hidden_by,
    )
    event = NotificationCause(IntentKind.ITEM, seq, recipient.now_us)
    for timer in creation.timers:
        if timer.kind is ItemTimerKind.PUSH:
            yield from _pushes(item, event, timer.at_us, recipient, policy)
        elif timer.kind is ItemTimerKind.MAIL:
            yield from _mail(item, event, timer.at_us, recipient, policy)
    for n in firing_reminders(creation, recipient.now_us):
        at_us = max(recipient.now_us, creation.remind_at_us[n])
        reminder = NotificationCause(IntentKind.REMIND, seq, recipient.now_us, n)
        if policy.push is not None:
            yield from _pushes(item, reminder, at_us, recipient, policy)
        if policy.email is not None:
            yield from _mail(item, reminder, at_us, recipient, policy)


def _pushes(
    item: LiveItem, event: NotificationCause, at_us: int, recipient: _Recipient, policy: CategoryPolicy
) -> Iterator[PlannedDeliveryResponse]:
    # The worker checks preferences when it sends; here they are applied to the decision at once.
    decision = escalation.decide_pushes(recipient.uid, item, event, policy, recipient.audience, recipient.now_us)
    if not is_channel_allowed(recipient.preferences, item.category, "push"):
        decision = EscalationDecision(
            skip_reasons={**{each.device: _PREFERENCE for each in decision.intents}, **decision.skip_reasons}
        )
    for intent in decision.intents:
        yield _planned(item, event, intent.channel, intent.device, at_us, recipient, policy)
    for device, reason in decision.skip_reasons.items():
        yield _entry(item, event, None, device, None, reason)
    if not decision.intents and not decision.skip_reasons:
        # A user without devices has no skip reasons either; an empty list would explain nothing.
        yield _entry(item, event, None, None, None, "no_device")


def _mail(
    item: LiveItem, event: NotificationCause, at_us: int, recipient: _Recipient, policy: CategoryPolicy
) -> Iterator[PlannedDeliveryResponse]:
    decision = escalation.decide_email(recipient.uid, item, event, policy, recipient.audience, recipient.now_us)
    reason: str | None = decision.skip_reasons.get(USER)
    if reason is None and recipient.contact.email is None:
        reason = "no_address"
    if reason is None and not is_channel_allowed(recipient.preferences, item.category, "email"):
        reason = _PREFERENCE
    if reason is None and recipient.is_suppressed:
        reason = "suppressed"
    if reason is None:
        yield _planned(item, event, EMAIL, None, at_us, recipient, policy)
    else:
        yield _entry(item, event, EMAIL, None, None, reason)


def _planned(
    item: LiveItem,
    event: NotificationCause,
    channel: str,
    device: str | None,
    at_us: int,
    recipient: _Recipient,
    policy: CategoryPolicy,
) -> PlannedDeliveryResponse:
    """Return the entry of a delivery. Quiet hours postpone it to their end; an item that expires before is skipped."""
    until_us = at_us if policy.urgent else recipient.quiet_end_us(at_us)
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
) -> PlannedDeliveryResponse:
    return PlannedDeliveryResponse(
        item=item.id,
        intent=event.kind.value,
        n=event.n,
        channel=channel,
        device=device,
        at=json_time_or_null(at_us),
        reason=reason,
    )
