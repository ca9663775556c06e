"""Planning: from a message to a commit, before the store is asked (semantics.md, "Laws").

The laws. The property test of each is in ``tests/property/test_laws.py``, and its name begins with ``test_L<n>_``. L7,
L11 and L15 are kept by timers, clients and delivery, and are tested there:

L1   One order: each message with an effect gets the next seq. Clocks decide nothing; times only order the display.
L2   Idempotent: applying a message again changes nothing; other content under a known id is a conflict.
L3   Order-free: dismissals are stored facts, for ids and intervals, and apply whenever the item arrives.
L4   Bounded memory, honest horizon: what was forgotten is reported as ``stale``, and never comes back.
L5   Atomic: a message is applied as a whole or not at all, and announced in the same step.
L6   Expiry is an event: from ``expires`` on an item is not shown, and it leaves by a normal dismissal.
L7   Reminders: each fires once, oldest first, never for an item that is gone.
L8   Devices: ``null`` for all, a name for one, ``"*"`` dismissed by each for itself; a dismissal acts for its sender.
L9   Resync is exact and cheap: unchanged, delta or full; ``apply(answer, copy) == view``.
L10  The digest proves it: a lane-wise sum over exactly what was sent.
L11  One way: a client changes its state only by sending a message and applying the response.
L12  No silent loss: gaps and forks are detected, and repaired by a resync.
L13  Late devices: the sync result has the external messages that are still kept, else ``external_gap``.
L14  Flush: a new epoch and nothing else.
L15  Push follows state: a push or an e-mail is decided at the moment of sending.

``plan`` decides everything that needs no state: timestamps, offsets, limits in time, rights of the sender, hashes. The
store decides the rest inside the commit.
"""

from __future__ import annotations

from typing import Final

from gregor.core.categories.body_schema import MAX_PATTERN_WORK, MAX_VALUE_WORK, BodySchema
from gregor.core.categories.policy import DEFAULT_POLICY, NO_POLICIES, CategoryPolicies, CategoryPolicy
from gregor.core.errors import field_problem
from gregor.core.ids import BACKEND, EVERY_DEVICE, GREGOR, covers, is_allowed
from gregor.core.items.codec import item_json
from gregor.core.items.digest import leaf
from gregor.core.json_text import escape_pointer
from gregor.core.limits import HOUR_US, Limits
from gregor.core.notify import escalation
from gregor.core.times import MAX_TIME_US, TIME_RANGE
from gregor.core.validation import ValidationErrors

from .fingerprint import content_hash, fingerprint
from .model import (
    Commit,
    Creation,
    ExternalMessage,
    Interval,
    ItemTimer,
    Message,
    MessageId,
    NewItem,
    Offset,
    ResolvedInterval,
    Sender,
    Update,
)

_TOO_MANY_BODIES: Final = (
    "The bodies of this message up to this one take too long to check: the patterns of their schemas are large, or "
    "many values are compared with numbers, lists or objects (enum, const, uniqueItems, multipleOf). "
    "Send fewer items in one message."
)


def plan(
    message: Message,
    sender: Sender,
    now_us: int,
    epoch_seed: bytes,
    limits: Limits,
    entries: CategoryPolicies = NO_POLICIES,
) -> Commit:
    """Return the commit of a message, at ``now_us`` by the clock of this process.

    Raises ``Problem``: ``forbidden``, ``category_not_allowed``, ``created_in_future``, ``end_in_future``,
    ``time_out_of_range``, ``schema``. ``epoch_seed``: 3 random bytes. ``sender``: the authenticated sender; the caller
    checks ``message.device``. ``entries``: the categories; they add default times and timers to creations, and
    validate bodies. They do not change the fingerprints by which repeats are recognised.
    """
    content = message.content
    if not isinstance(content, Update):
        external = content if isinstance(content, ExternalMessage) else None
        if external is not None and not is_allowed(sender.systems, external.system):
            detail = f'The sender may not send messages of the system "{external.system}": see the claim systems.'
            raise field_problem("forbidden", "/system", detail)
        if external is not None and sender.device != BACKEND:
            # "body" is the last member on the wire, so that a member after it needs no change of the stored forms.
            external = ExternalMessage(external.system, external.body + b',"device":"%s"' % sender.device.encode())
        message_id = _message_id(message, sender, now_us, (), limits) if message.id is not None else None
        return Commit(now_us, epoch_seed, sender, message_id=message_id, external=external, is_reset=external is None)
    errors = ValidationErrors()
    creations: tuple[Creation, ...] = ()
    if content.create:
        creations = _creations(content.create, sender, now_us, limits, entries, errors)
    spans: tuple[ResolvedInterval, ...] = ()
    if content.intervals:
        spans = _spans(content, sender, now_us, limits, errors)
    errors.raise_if_any()
    message_id = _message_id(message, sender, now_us, spans, limits) if message.id is not None else None
    max_live = entries.max_live(creation.category for creation in creations) if entries.has_bounds else ()
    return Commit(now_us, epoch_seed, sender, creations, content.ids, spans, message_id=message_id, max_live=max_live)


# ---- creations


def _creations(
    items: tuple[NewItem, ...],
    sender: Sender,
    now_us: int,
    limits: Limits,
    entries: CategoryPolicies,
    errors: ValidationErrors,
) -> tuple[Creation, ...]:
    """Return the items with times and hashes, in the order of the message."""
    made = []
    stamp_us = now_us
    pattern_work = value_work = 0
    for item in items:
        created_us = item.created_us
        if sender.device != BACKEND or sender.category_filter is not None:
            _check_rights(item, sender, errors)
        if created_us is None:
            # One microsecond apart: the items of a message keep their order on every screen.
            created_us = stamp_us
            stamp_us += 1
        elif created_us > now_us + limits.future_us:
            detail = f"created is over {limits.future_us // HOUR_US} h ahead of the server's clock."
            errors.add("created_in_future", _at(item, "times/created"), detail)
        policy = entries.resolve(item.category)
        if sender.device != BACKEND and not policy.devices_may_create:
            detail = f'Devices may not create items of "{item.category}" (devices_may_create = false).'
            errors.add("category_not_allowed", _at(item, "category"), detail)
        if policy.body_schema is not None:
            pattern_work += policy.body_schema.pattern_bytes * len(item.body)
            value_work += policy.body_schema.value_work(item.body)
            is_too_slow = pattern_work > MAX_PATTERN_WORK or value_work > MAX_VALUE_WORK
            _check_body(item, policy.body_schema, is_too_slow, errors)
        made.append(_creation(item, created_us, now_us, policy, errors))
    return tuple(made)


def _check_body(item: NewItem, schema: BodySchema, is_too_slow: bool, errors: ValidationErrors) -> None:
    """Check a body against its schema, unless the bodies of the message up to this one take too long."""
    at = _at(item, "body")
    if is_too_slow:
        errors.add("schema", at, _TOO_MANY_BODIES)
        return
    for error in schema.errors(item.body, at):
        errors.add("schema", error.pointer, error.detail)


def _creation(
    item: NewItem, created_us: int, now_us: int, policy: CategoryPolicy, errors: ValidationErrors
) -> Creation:
    expires_us: int | None = None
    remind_at_us: tuple[int, ...] = ()
    timers: tuple[ItemTimer, ...] = ()
    if policy is not DEFAULT_POLICY:
        expires_us, remind_at_us = policy.expires_us(created_us), policy.remind_at_us(created_us)
    if item.expires is not None:
        expires_us = _resolve(item, item.expires, created_us, "times/expires", errors)
    if item.remind_at:
        resolved = {_resolve(item, each, created_us, "times/remind_at", errors) for each in item.remind_at}
        remind_at_us = tuple(sorted(resolved))
    if policy is not DEFAULT_POLICY and policy.is_timed:
        timers = escalation.item_timers(policy, expires_us, now_us)
    json = item_json(item.body, item.category, item.for_device or "", created_us, expires_us, remind_at_us)
    return Creation(
        item.id,
        item.category,
        item.for_device,
        created_us,
        item.created_us is None,
        expires_us,
        remind_at_us,
        fingerprint(item),
        leaf(item.id, json),
        item.body,
        json,
        timers,
    )


def may_send(message: Message, sender: Sender, entries: CategoryPolicies = NO_POLICIES) -> bool:
    """Return whether the rights of a sender cover a message, whatever else is wrong with it. No device may reset."""
    content = message.content
    if isinstance(content, ExternalMessage):
        return is_allowed(sender.systems, content.system)
    if not isinstance(content, Update):
        return sender.device == BACKEND and sender.category_filter is None
    errors = ValidationErrors()
    for item in content.create:
        _check_rights(item, sender, errors)
    is_own_choice = sender.device == BACKEND or all(
        entries.resolve(item.category).devices_may_create for item in content.create
    )
    return (
        not errors.has_errors
        and is_own_choice
        and all(is_allowed(sender.category_filter, interval.category) for interval in content.intervals)
    )


def _check_rights(item: NewItem, sender: Sender, errors: ValidationErrors) -> None:
    if not is_allowed(sender.category_filter, item.category):
        errors.add("category_not_allowed", _at(item, "category"), f'The sender may not use "{item.category}".')
    if sender.device != BACKEND and item.for_device not in (None, EVERY_DEVICE, sender.device):
        detail = 'A device creates items for all devices (null), for each one ("*") or for itself.'
        errors.add("forbidden", _at(item, "for_device"), detail)


def _resolve(item: NewItem, when: int | Offset, created_us: int, member: str, errors: ValidationErrors) -> int:
    at_us = created_us + when.us if isinstance(when, Offset) else when
    if at_us <= MAX_TIME_US:
        return at_us
    errors.add("time_out_of_range", _at(item, member), TIME_RANGE)
    return created_us


def _at(item: NewItem, member: str) -> str:
    return f"/body/create/{escape_pointer(item.id)}/{member}"


# ---- intervals


def _spans(
    update: Update, sender: Sender, now_us: int, limits: Limits, errors: ValidationErrors
) -> tuple[ResolvedInterval, ...]:
    spans = []
    for index, interval in enumerate(update.intervals):
        at = f"/body/dismiss/intervals/{index}"
        if not is_allowed(sender.category_filter, interval.category):
            member = "category_prefix" if interval.is_prefix else "category"
            detail = f'The sender may not dismiss all of "{interval.category}".'
            errors.add("category_not_allowed", f"{at}/{member}", detail)
        if interval.end_us is not None and interval.end_us > now_us + limits.future_us:
            detail = f"The interval ends over {limits.future_us // HOUR_US} h ahead of the server's clock."
            errors.add("end_in_future", at + "/end", detail)
        span = _span(interval, update.create, now_us)
        if span.is_open or span.begin_us <= span.end_us:
            spans.append(span)
    return tuple(spans)


def _span(interval: Interval, items: tuple[NewItem, ...], now_us: int) -> ResolvedInterval:
    """Return the interval with its end resolved (L3).

    The end is the one in the message; else the latest explicit ``created`` of the creations it matches; else it is
    open.
    """
    begin_us, end_us = interval.begin_us or 0, interval.end_us
    own: tuple[str, ...] = ()
    if end_us is None:
        matched = [item for item in items if _matches(interval, item)]
        end_us = max((item.created_us for item in matched if item.created_us is not None), default=None)
        own = tuple(item.id for item in matched) if end_us is None else ()
    is_open = end_us is None
    return ResolvedInterval(
        interval.category,
        interval.is_prefix,
        begin_us,
        now_us if end_us is None else end_us,
        is_open,
        interval.skip,
        own,
    )


def _matches(interval: Interval, item: NewItem) -> bool:
    """Return whether the interval matches the item, except by time."""
    if item.id in interval.skip:
        return False
    return covers(interval.category, item.category) if interval.is_prefix else interval.category == item.category


# ---- idempotency


def _message_id(
    message: Message, sender: Sender, now_us: int, spans: tuple[ResolvedInterval, ...], limits: Limits
) -> MessageId:
    """Return how the message is recognised. It is remembered only if its effect depends on when it arrives (L2)."""
    content = message.content
    is_external = isinstance(content, ExternalMessage)
    is_dated = not isinstance(content, Update) or any(span.is_open and not span.matches_own for span in spans)
    system = content.system if isinstance(content, ExternalMessage) else GREGOR
    keep_us = now_us + (limits.external_age_us if is_external else limits.retention_us)
    return MessageId(
        f"{sender.device}\0{system}\0{message.id}", content_hash(message, sender.category_filter), is_dated, keep_us
    )
