"""Decides whether a device gets a push for an item, and builds the push.

Other places have the same rules: see semantics.md, "Where each rule lives".
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import compress
from typing import Any, Final

import msgspec

from gregor.clock import Clock, SystemClock
from gregor.core.ids import is_allowed
from gregor.core.items.sync import LiveItem, StoredItem, View
from gregor.core.limits import SECOND_US
from gregor.core.messages.model import RemovalReason
from gregor.core.notify import escalation
from gregor.core.notify.contact import QUIET_HOURS, is_channel_allowed, quiet_until
from gregor.core.notify.escalation import Audience, AudienceDevice, NotificationCause
from gregor.core.notify.intents import APNS, WEBPUSH, Intent, IntentKind
from gregor.core.notify.ledger import DeliveryBudget
from gregor.registries.categories import CategoryRegistry
from gregor.rendering.renderer import TemplateItem
from gregor.store.contract.devices import Registration
from gregor.store.contract.push_context import NO_LIMIT, PushContext
from gregor.store.contract.store import Store
from gregor_delivery.channels.contract import PushMessage
from gregor_delivery.channels.verdict import RecipientGone
from gregor_delivery.throttle.paced_users import PacedUsers
from gregor_delivery.throttle.web_push_origins import APNS_SANDBOX, WebPushOrigins, origin_of

from .decision import Postpone, SendDecision, SendNow, Skip
from .push_fold import PushFold, collapse_hash
from .withdrawals import LIFETIME_US, carried_by_visible_push, decide_withdrawal

MAX_COUNTED: Final = 100
"""Live items that are counted for a push that may not be sent: about 0.2 ms of Redis."""
MAX_WAITING: Final = 100
"""Waiting withdrawals of a user that are read for a push that may not be sent."""
FULL_READS: Final = 1.0
"""Reads of all live items for badges, a second for each user. Each takes Redis up to 5 ms."""
FULL_READS_BURST: Final = 50
"""Such reads that a user may have at once."""
BADGE_PACE: Final = "badge_pace"
"""Reason of a push that waits for its turn to count the items of its badge."""


class PushDecider:
    """`Decider` of pushes. Reads the item as the device sees it, acknowledgements, presence and the registration."""

    def __init__(
        self,
        store: Store,
        registry: CategoryRegistry,
        origins: WebPushOrigins | None = None,
        budget: DeliveryBudget | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`origins`: limits of the Web Push origins. `budget`: visible pushes of each user; `None` for no limit."""
        self._store = store
        self._registry = registry
        self._origins = origins
        self._budget = budget
        self._clock = clock or SystemClock()
        self._full_reads = PacedUsers(FULL_READS, FULL_READS_BURST)

    # --- the decision ---

    async def decide(self, intent: Intent, now_us: int) -> SendDecision:
        """Decide from the current state. Raises `Unavailable`."""
        # Only a push that is sent needs the badge and the withdrawals that it carries. If a user has many of them, most
        # deliveries wait or are skipped.
        decision, is_final = await self._decide_within(intent, now_us, MAX_COUNTED, MAX_WAITING)
        if is_final:
            return decision
        wait_s = self._full_reads.wait_s(intent.uid, self._clock.monotonic())
        if wait_s > 0.0:
            return Postpone(BADGE_PACE, now_us + round(wait_s * SECOND_US))
        decision, _ = await self._decide_within(intent, now_us, NO_LIMIT, NO_LIMIT)
        return decision

    async def _decide_within(
        self, intent: Intent, now_us: int, most_counted: int, most_waiting: int
    ) -> tuple[SendDecision, bool]:
        """Decide with at most these counts and withdrawals. Return the decision, and whether they were enough."""
        context = await self._store.push_contexts.read(
            intent.uid,
            intent.device,
            intent.channel,
            intent.item,
            now_us,
            most_counted=most_counted,
            most_waiting=most_waiting,
        )
        if context is None:
            return Skip("device_gone"), True
        registration = context.registration
        if not await self._holds_token(intent, registration):
            return Skip("token_moved"), True
        decision = await self._decide_registered(intent, _limited(context), now_us)
        if not isinstance(decision, SendNow):
            return decision, True
        is_complete = context.counts is not None and context.withdrawals.is_complete
        if is_complete and registration.push_filter is not None:
            decision = replace(decision, companions=await self._readable(decision.companions, context, now_us))
        origin = _origin(registration)
        if origin is not None and self._origins is not None:
            # Before the full read: a device can choose an origin that is down. Its pushes then wait for a day.
            held = _wait_for_origin(self._origins, origin, intent.uid, now_us)
            if held is not None:
                return held, True
            if is_complete:
                permit = self._origins.acquire(origin, intent.uid)
                decision = replace(
                    decision,
                    permit=permit,
                    is_separate=origin == APNS_SANDBOX,
                    is_own_receiver=self._origins.is_own(origin),
                )
        return decision, is_complete

    async def _readable(self, companions: Sequence[Intent], context: PushContext, now_us: int) -> tuple[Intent, ...]:
        """Return the withdrawals of items that the caller that registered the push token can read."""
        readable = await asyncio.gather(*(self._is_readable(each, context, now_us) for each in companions))
        return tuple(compress(companions, readable))

    async def _is_readable(self, intent: Intent, context: PushContext, now_us: int) -> bool:
        """Return whether the caller that registered the push token may read the item of a withdrawal."""
        push_filter = context.registration.push_filter
        if push_filter is None:
            return True
        if intent.category:
            return is_allowed(push_filter, intent.category)
        view = View(intent.device, push_filter)
        return await self._store.users.item(intent.uid, intent.item, view, now_us) is not None

    async def _decide_registered(self, intent: Intent, context: PushContext, now_us: int) -> SendDecision:
        if intent.kind is IntentKind.WITHDRAW:
            if not await self._is_readable(intent, context, now_us):
                return Skip("category_filter")
            silent = self._silent_push(intent, context)
            return decide_withdrawal(
                silent,
                intent,
                context.withdrawals,
                now_us,
                lambda gone: self._delete_token(intent, context.registration, gone),
            )
        return await self._decide_visible(intent, context, now_us)

    async def _decide_visible(self, intent: Intent, context: PushContext, now_us: int) -> SendDecision:
        item = context.item
        if item is None:
            return Skip(await self._removal_reason(intent, now_us))
        if self._registry.current.resolve(item.category).push is None:
            await self._registry.refresh()  # the scheduler may know a newer policy than this process
        skip_reason = self._skip_reason(intent, item, context, now_us)
        if skip_reason is not None:
            return Skip(skip_reason)
        push = self._visible_push(intent, item, context)
        until_us = now_us if push.urgent else quiet_until(context.contact, now_us)
        if until_us > now_us:
            return Postpone(QUIET_HOURS, until_us)
        fold = PushFold(
            push, lambda: self._items(intent, now_us), lambda other, of: self._may_fold(other, of, context, now_us)
        )
        return SendNow(
            compose=fold.compose,
            companions=carried_by_visible_push(context.withdrawals, push.data["link"]),
            lock=f"{push.device}/{push.collapse_id}",
            expires_us=item.expires_us,
            on_gone=lambda gone: self._delete_token(intent, context.registration, gone),
            budget=self._budget,
            may_fold=fold.select,
        )

    async def _items(self, intent: Intent, now_us: int) -> dict[str, StoredItem]:
        """Return the live items that the device sees."""
        copy = await self._store.users.state(intent.uid, View(intent.device), now_us)
        return {item.id: item for item in copy.items}

    def _may_fold(self, intent: Intent, item: StoredItem, context: PushContext, now_us: int) -> bool:
        """Return whether a delivery above the budget may be sent now, as a part of another push."""
        if self._skip_reason(intent, item, context, now_us) is not None:
            return False
        is_urgent = self._registry.current.resolve(item.category).urgent
        return is_urgent or quiet_until(context.contact, now_us) <= now_us

    def _skip_reason(self, intent: Intent, item: StoredItem, context: PushContext, now_us: int) -> str | None:
        """Apply the rules of `core.notify.escalation`, then the user's preferences."""
        policy = self._registry.current.resolve(item.category)
        device = AudienceDevice(intent.channel, context.presence.foreground_filters, context.registration.push_filter)
        audience = Audience({intent.device: device}, context.acks)
        cause = NotificationCause(intent.kind, intent.seq, intent.at_us, intent.n)
        decision = escalation.decide_pushes(intent.uid, _live(item), cause, policy, audience, now_us)
        reason = decision.skip_reasons.get(intent.device)
        if reason is None and not is_channel_allowed(context.preferences, item.category, "push"):
            return "preference"
        return reason

    async def _removal_reason(self, intent: Intent, now_us: int) -> str:
        entry = await self._store.users.item(intent.uid, intent.item, View(intent.device), now_us)
        is_expired = entry is not None and entry.gone is not None and entry.gone.reason is RemovalReason.EXPIRED
        return "expired" if is_expired else "dismissed"

    # --- push tokens ---

    async def _holds_token(self, intent: Intent, registration: Registration) -> bool:
        """Return whether the device has a push token of this channel that no other device took over since."""
        push = registration.push
        if push is None or push.get("provider") != intent.channel:
            return False
        return await self._store.devices.owns_push_token(intent.uid, intent.device, registration)

    async def _delete_token(self, intent: Intent, registration: Registration, gone: RecipientGone) -> bool:
        """Delete a dead token, unless it was registered after the provider saw it dead."""
        if gone.since_us is not None and registration.push_since_us >= gone.since_us:
            return False
        return await self._store.devices.remove_push(intent.uid, intent.device, registration)

    # --- the message ---

    def _visible_push(self, intent: Intent, item: StoredItem, context: PushContext) -> PushMessage:
        categories, renderer = self._registry.current, self._registry.renderer
        policy = categories.resolve(item.category)
        template_item = TemplateItem.of_json(item.id, item.json, intent.uid)
        texts = renderer.render_texts(template_item, context.registration.locale or context.contact.locale) or {}
        registered = context.registration.push or {}
        badge = categories.badge(context.counts or {})
        return PushMessage(
            uid=intent.uid,
            device=intent.device,
            token=registered.get("token") or "",
            topic=registered.get("topic"),
            sandbox=bool(registered.get("sandbox")),
            kind="alert",
            title=texts.get("title") or "",
            text=texts.get("text") or "",
            sound=policy.push.sound if policy.push is not None else None,
            badge=badge,
            collapse_id=collapse_id(intent.uid, item, renderer.collapse_key(template_item)),
            expires_us=item.expires_us,
            urgent=policy.urgent,
            data=_data(intent, item, context, texts.get("link"), badge),
        )

    def _silent_push(self, intent: Intent, context: PushContext) -> PushMessage:
        """Build a push that shows nothing and wakes the app, which removes the withdrawn notifications."""
        registered = context.registration.push or {}
        badge = self._registry.current.badge(context.counts or {})
        return PushMessage(
            uid=intent.uid,
            device=intent.device,
            token=registered["token"],
            topic=registered.get("topic"),
            sandbox=bool(registered.get("sandbox")),
            kind="background",
            title="",
            text="",
            sound=None,
            badge=badge,
            collapse_id=collapse_hash(f"w\0{intent.uid}\0{intent.item}"),
            expires_us=intent.at_us + LIFETIME_US,
            urgent=False,
            data=_data(intent, None, context, None, badge),
        )


def collapse_id(uid: str, item: StoredItem, shared: str | None) -> str:
    """Return the collapse id: shared by all pushes of the item or, if `shared` is given, of the category's group."""
    return collapse_hash(f"i\0{uid}\0{item.id}" if shared is None else f"c\0{uid}\0{item.category}\0{shared}")


def _limited(context: PushContext) -> PushContext:
    """Return the context without withdrawals of items that the caller that registered the push token cannot read.

    They are left from pushes before that registration, which may name another push token. Withdrawals of an unknown
    category stay: ``_readable`` checks those that the push carries.
    """
    push_filter, withdrawals = context.registration.push_filter, context.withdrawals
    if push_filter is None:
        return context
    kept = tuple(each for each in withdrawals.waiting if not each.category or is_allowed(push_filter, each.category))
    return msgspec.structs.replace(context, withdrawals=msgspec.structs.replace(withdrawals, waiting=kept))


def _origin(registration: Registration) -> str | None:
    """Return the origin that the device has chosen, empty if it is invalid; `None` if its provider has only one."""
    push = registration.push or {}
    if push.get("provider") != WEBPUSH:
        return APNS_SANDBOX if push.get("provider") == APNS and push.get("sandbox") else None
    token = push.get("token")
    return origin_of(str(token.get("endpoint"))) if isinstance(token, Mapping) else ""


def _wait_for_origin(origins: WebPushOrigins, origin: str, uid: str, now_us: int) -> Postpone | None:
    """Return why a push to an origin must wait, because the origin is down or busy; `None` if it may be sent now."""
    wait_s = origins.wait_s(origin, uid)
    if wait_s == 0.0:
        return None
    if origins.is_down(origin):
        # Jitter: the pushes that wait for one origin must not all return at once.
        reason, pause_s = "receiver_down", random.uniform(wait_s, 2 * wait_s)
    else:
        # A user whose pushes the origin rejects waits for the whole pause.
        reason, pause_s = "receiver_busy", max(wait_s, origins.turn_s(origin, uid))
    return Postpone(reason, now_us + round(pause_s * SECOND_US))


def _data(
    intent: Intent, item: StoredItem | None, context: PushContext, link: str | None, badge: int
) -> dict[str, Any]:
    """Build the `gregor` object (explanation/delivery.md, "What a push carries"); a withdrawal names no item."""
    return {
        "v": 1,
        "uid": intent.uid,
        "kind": intent.kind.value if intent.kind in (IntentKind.REMIND, IntentKind.WITHDRAW) else "item",
        "id": item.id if item is not None else None,
        "category": item.category if item is not None else None,
        "link": link,
        "badge": badge,
        "withdraw": [],
        "cursor": str(context.cursor),
    }


def _live(item: StoredItem) -> LiveItem:
    return LiveItem(item.id, item.category, None, item.created_us, item.seq, item.expires_us, (), item.json)
