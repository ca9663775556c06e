"""Whether a device is still to be told of an item by a push, and the push that tells it."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from typing import Any, Final

from gregor.core.items.sync import LiveItem, StoredItem, View
from gregor.core.messages.model import RemovalReason
from gregor.core.notify import escalation
from gregor.core.notify.contact import QUIET_HOURS, is_channel_allowed, quiet_until
from gregor.core.notify.escalation import Audience, AudienceDevice, NotificationCause
from gregor.core.notify.intents import Intent, IntentKind
from gregor.registries.categories import CategoryRegistry
from gregor.rendering.renderer import TemplateItem
from gregor.store.contract.devices import Registration
from gregor.store.contract.push_context import PushContext
from gregor.store.contract.store import Store
from gregor_delivery.channels.contract import PushMessage
from gregor_delivery.channels.verdict import RecipientGone

from .decision import SendDecision
from .withdrawals import USEFUL_US, carried, naming, taken_back

COLLAPSE_BYTES: Final = 18
"""Of a hash: 24 characters, which every provider takes (Web Push: 32, APNs: 64 bytes)."""


class PushDecider:
    """``look.Decider`` of pushes: the item as the device has it, acknowledgements, presence, registration."""

    def __init__(self, store: Store, registry: CategoryRegistry) -> None:
        self._store = store
        self._registry = registry

    async def look(self, intent: Intent, now_us: int) -> SendDecision:
        """Decide from the state of now. Raises ``Unavailable``."""
        scene = await self._store.push_contexts.read(intent.uid, intent.device, intent.channel, intent.item, now_us)
        if scene is None:
            return SendDecision(skip_reasons="device_gone")
        if not await self._is_reached(intent, scene.registration):
            return SendDecision(skip_reasons="token_moved")
        if intent.kind is IntentKind.WITHDRAW:
            look = taken_back(self._silent(intent, scene), intent, scene.withdrawals, now_us)
            return replace(look, forget=lambda gone: self._forget(intent, scene.registration, gone))
        item = scene.item
        if item is None:
            return SendDecision(skip_reasons=await self._why_gone(intent, now_us))
        if self._registry.current.resolve(item.category).push is None:
            await self._registry.refresh()  # who handed it over knew of a push: its categories may be newer than ours
        skip_reasons = self._why_not(intent, item, scene, now_us)
        if skip_reasons is not None:
            return SendDecision(skip_reasons=skip_reasons)
        if not is_channel_allowed(scene.preferences, item.category, "push"):
            return SendDecision(skip_reasons="preference")
        push_now = self._push(intent, item, scene)
        until_us = now_us if push_now.urgent else quiet_until(scene.contact, now_us)
        if until_us > now_us:
            return SendDecision(skip_reasons=QUIET_HOURS, until_us=until_us)
        return SendDecision(
            compose=lambda others: naming(push_now, others),
            also=carried(scene.withdrawals, push_now.data["link"]),
            place=f"{push_now.device}/{push_now.collapse_id}",
            expires_us=item.expires_us,
            forget=lambda gone: self._forget(intent, scene.registration, gone),
        )

    async def _is_reached(self, intent: Intent, registration: Registration) -> bool:
        """Whether the device still has a push token of this channel, and that is its own."""
        push = registration.push
        if push is None or push.get("provider") != intent.channel:
            return False
        return await self._store.devices.owns_push_token(intent.uid, intent.device, registration)

    async def _forget(self, intent: Intent, registration: Registration, gone: RecipientGone) -> bool:
        """Forget a dead token; but not one that was registered after the provider saw it dead."""
        if gone.since_us is not None and registration.push_since_us >= gone.since_us:
            return False
        return await self._store.devices.remove_push(intent.uid, intent.device, registration)

    async def _why_gone(self, intent: Intent, now_us: int) -> str:
        entry = await self._store.users.item(intent.uid, intent.item, View(intent.device), now_us)
        is_expired = entry is not None and entry.gone is not None and entry.gone.reason is RemovalReason.EXPIRED
        return "expired" if is_expired else "dismissed"

    def _why_not(self, intent: Intent, item: StoredItem, scene: PushContext, now_us: int) -> str | None:
        """As ``core.escalation`` says; the copy is the device's own, so what is in it is for it, and not hidden."""
        policy = self._registry.current.resolve(item.category)
        audience = Audience({intent.device: AudienceDevice(intent.channel, scene.presence.foreground)}, scene.acks)
        occasion = NotificationCause(intent.kind, intent.seq, intent.at_us, intent.n)
        decision = escalation.decide_pushes(intent.uid, _live(item), occasion, policy, audience, now_us)
        return decision.skip_reasons.get(intent.device)

    def _push(self, intent: Intent, item: StoredItem, scene: PushContext) -> PushMessage:
        entries, renderer = self._registry.current, self._registry.renderer
        policy = entries.resolve(item.category)
        shown = TemplateItem.of_json(item.id, item.json, intent.uid)
        words = renderer.rendered(shown, scene.registration.locale or scene.contact.locale) or {}
        registered = scene.registration.push or {}
        badge = entries.badge(scene.counts)
        return PushMessage(
            uid=intent.uid,
            device=intent.device,
            token=registered.get("token") or "",
            topic=registered.get("topic"),
            sandbox=bool(registered.get("sandbox")),
            kind="alert",
            title=words.get("title") or "",
            text=words.get("text") or "",
            sound=policy.push.sound if policy.push is not None else None,
            badge=badge,
            collapse_id=collapse_id(intent.uid, item, renderer.collapse(shown)),
            expires_us=item.expires_us,
            urgent=policy.urgent,
            data=_data(intent, item, scene, words.get("link"), badge),
        )

    def _silent(self, intent: Intent, scene: PushContext) -> PushMessage:
        """A push that shows nothing: it wakes the app, which takes away what is withdrawn."""
        registered = scene.registration.push or {}
        badge = self._registry.current.badge(scene.counts)
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
            collapse_id=_hashed(f"w\0{intent.uid}\0{intent.item}"),
            expires_us=intent.at_us + USEFUL_US,
            urgent=False,
            data=_data(intent, None, scene, None, badge),
        )


def collapse_id(uid: str, item: StoredItem, shared: str | None) -> str:
    """What a push replaces on the screen: pushes of the same item, or of the category's items with the same words."""
    return _hashed(f"i\0{uid}\0{item.id}" if shared is None else f"c\0{uid}\0{item.category}\0{shared}")


def _hashed(name: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(name.encode()).digest()[:COLLAPSE_BYTES]).decode()


def _data(intent: Intent, item: StoredItem | None, scene: PushContext, link: str | None, badge: int) -> dict[str, Any]:
    """The `gregor` object (protocol.md, "What a push carries"); without an item that of a withdrawal."""
    return {
        "v": 1,
        "uid": intent.uid,
        "kind": intent.kind.value if intent.kind in (IntentKind.REMIND, IntentKind.WITHDRAW) else "item",
        "id": item.id if item is not None else None,
        "category": item.category if item is not None else None,
        "link": link,
        "badge": badge,
        "withdraw": [],
        "cursor": str(scene.cursor),
    }


def _live(item: StoredItem) -> LiveItem:
    return LiveItem(item.id, item.category, None, item.created_us, item.seq, item.expires_us, (), item.json)
