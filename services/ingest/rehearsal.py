"""``?dry_run=true``: what a message would do, and who would be told of what it creates, when, or why not (protocol.md).

Nothing is done. What would go out is decided from the state of now, by the same pure rules as when it is due.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gregor.core import escalation
from gregor.core.encoding import encode_receipt
from gregor.core.errors import Problem
from gregor.core.escalation import Around, Occasion
from gregor.core.intents import EMAIL, IntentKind
from gregor.core.messages import Commit, Creation, TimerKind
from gregor.core.sync import LiveItem, View
from gregor.core.times import seconds
from gregor.store.around import around

from .parts import Parts


def is_rehearsal(query: dict[str, str]) -> bool:
    """Whether ``dry_run`` is asked for. ``invalid`` for anything but ``true`` and ``false``."""
    said = query.get("dry_run", "false")
    if said not in ("true", "false"):
        raise Problem("invalid", "dry_run is true or false.")
    return said == "true"


async def rehearse(uid: str, commit: Commit, view: View, is_external: bool, parts: Parts) -> bytes:
    """The receipt as the message would have it, with ``dry_run`` and ``deliveries``."""
    receipt = await parts.store.users.rehearse(uid, commit)
    made = [creation for creation in commit.creations if creation.id in receipt.created]
    deliveries: list[dict[str, Any]] = []
    if any(creation.timers for creation in made):
        there = await around(parts.store.devices, uid, commit.now_us)
        for creation in made:
            deliveries += _deliveries(uid, creation, receipt.seq + 1, there, commit.now_us, parts)
    told = msgspec.json.encode(deliveries)
    return encode_receipt(receipt, view, is_external)[:-1] + b',"dry_run":true,"deliveries":' + told + b"}"


def _deliveries(
    uid: str, creation: Creation, seq: int, there: Around, now_us: int, parts: Parts
) -> list[dict[str, Any]]:
    """One entry a device and channel that the item's type tells: when, or the reason why not."""
    policy = parts.registry.current.resolve(creation.category)
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
    occasion = Occasion(IntentKind.ITEM, seq, now_us)
    entries: list[dict[str, Any]] = []
    for timer in creation.timers:
        if timer.kind is TimerKind.WINDOW:
            continue
        decide = escalation.pushes if timer.kind is TimerKind.PUSH else escalation.mail
        decision = decide(uid, item, occasion, policy, there, now_us)
        at = msgspec.Raw(seconds(timer.at_us))
        none = EMAIL if timer.kind is TimerKind.MAIL else None
        for intent in decision.intents:
            entries.append(_entry(creation.id, intent.channel, intent.device, at, None))
        for device, reason in decision.why_not.items():
            entries.append(_entry(creation.id, none, device, None, reason))
    return entries


def _entry(item: str, channel: str | None, device: str, at: msgspec.Raw | None, reason: str | None) -> dict[str, Any]:
    return {"item": item, "intent": "item", "channel": channel, "device": device or None, "at": at, "reason": reason}
