"""Escalation: which devices get a push for an item, when, and why not; the same for e-mail (semantics.md L15).

A creation gets timers by its category. At their time the decision is made again, from the current state. Everything
here is pure: the scheduler reads, asks, and enqueues. The skip reasons are those of delivery.md ("Skip reasons").

Other places have the same rules: see semantics.md, "Where each rule lives".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from gregor.core.categories.policy import CategoryPolicy
from gregor.core.ids import EVERY_DEVICE, Prefixes, is_allowed
from gregor.core.items.sync import LiveItem, View
from gregor.core.messages.model import ItemTimer, ItemTimerKind

from .acknowledged_views import CategoryIndex
from .intents import EMAIL, PUSH_CHANNELS, Intent, IntentKind

SkipReason = Literal[
    "dismissed", "expired", "acked", "present", "no_channel", "no_device", "category_filter", "preference"
]

USER: Final = ""
"""The empty device name of an e-mail, which goes to the user."""


# ---- values


@dataclass(frozen=True, slots=True)
class AudienceDevice:
    """A device as far as escalation needs it. ``provider``: of its push registration; None without one.

    ``foreground_filters``: the category filters of its connections in the foreground. ``category_filter``: the
    categories whose pushes the caller that registered the push token may read.
    """

    provider: str | None = None
    foreground_filters: tuple[Prefixes, ...] = ()
    category_filter: Prefixes = None


@dataclass(frozen=True, slots=True)
class Audience:
    """A user's devices, acknowledgements and presence at one moment.

    ``acks``: the seq up to which each view showed its user everything. ``online_us`` and ``foreground_us``: the last
    moment at which a device was online, or in the foreground without a category filter; now if one is, None if none
    ever was. ``foreground_filters``: the category filters of all connections in the foreground. ``stored_bytes``: the
    bytes that were read from the store.
    """

    devices: Mapping[str, AudienceDevice]
    acks: Mapping[View, int]
    online_us: int | None = None
    foreground_us: int | None = None
    foreground_filters: tuple[Prefixes, ...] = ()
    stored_bytes: int = field(default=0, compare=False)
    _acked: dict[str | None, CategoryIndex] = field(default_factory=dict, init=False, repr=False, compare=False)
    _shown: dict[str | None, CategoryIndex] = field(default_factory=dict, init=False, repr=False, compare=False)

    def acked_seq(self, device: str | None, category: str) -> int:
        """Return the highest seq up to which a device (None: any) has acknowledged a view with a category, or 0."""
        if self.acks and not self._acked:
            of_device: dict[str | None, list[tuple[Prefixes, int]]] = {}
            for view, seq in self.acks.items():
                for name in (view.device, None):
                    of_device.setdefault(name, []).append((view.category_filter, seq))
            self._acked.update((name, CategoryIndex(filters)) for name, filters in of_device.items())
        index = self._acked.get(device)
        return 0 if index is None else index.highest(category)

    def is_shown(self, category: str, device: str | None = None) -> bool:
        """Return whether a connection in the foreground sees a category. ``device``: only its connections count."""
        filters = self.foreground_filters if device is None else self.devices[device].foreground_filters
        if not filters:
            return False
        if device not in self._shown:
            self._shown[device] = CategoryIndex((prefixes, 1) for prefixes in filters)
        return bool(self._shown[device].highest(category))


@dataclass(frozen=True, slots=True)
class NotificationCause:
    """A creation, or a reminder (index ``n``): its ``seq`` and its time."""

    kind: IntentKind
    seq: int
    since_us: int
    n: int = 0


@dataclass(frozen=True, slots=True)
class EscalationDecision:
    """The intents to enqueue.

    ``skip_reasons``: device (``""``: the user, for e-mail) to the reason why it gets nothing.

    ``refused``: the intents that a registered channel would have carried, with their reason; none if the item is gone.
    """

    intents: tuple[Intent, ...] = ()
    skip_reasons: Mapping[str, SkipReason] = field(default_factory=dict)
    refused: tuple[tuple[Intent, SkipReason], ...] = ()

    def __add__(self, other: EscalationDecision) -> EscalationDecision:
        """Return both decisions as one."""
        skip_reasons = {**self.skip_reasons, **other.skip_reasons}
        return EscalationDecision(self.intents + other.intents, skip_reasons, self.refused + other.refused)


# ---- timers of a creation


def item_timers(
    policy: CategoryPolicy, expires_us: int | None, now_us: int, *, is_summary: bool = False
) -> tuple[ItemTimer, ...]:
    """Return the timers of an item that is created now, without those at or after its expiry.

    A summary opens no window.
    """
    wanted: list[ItemTimer] = []
    if policy.push is not None:
        wanted.append(ItemTimer(ItemTimerKind.PUSH, now_us + policy.push.after_us))
    if policy.email is not None:
        wanted.append(ItemTimer(ItemTimerKind.MAIL, now_us + policy.email.after_us))
    if policy.aggregate is not None and not is_summary:
        wanted.append(ItemTimer(ItemTimerKind.WINDOW, now_us + policy.aggregate.window_us))
    return tuple(timer for timer in wanted if expires_us is None or timer.at_us < expires_us)


# ---- decisions


def decide_pushes(
    uid: str,
    item: LiveItem | None,
    cause: NotificationCause,
    policy: CategoryPolicy,
    audience: Audience,
    now_us: int,
) -> EscalationDecision:
    """Decide the push for each device.

    A device gets it if the item is for it, it has push for the category, it has not shown the item yet, and it does
    not show the category in the foreground.
    """
    gone = _gone(item, now_us)
    if item is None or gone is not None:
        return EscalationDecision(skip_reasons=dict.fromkeys(audience.devices, gone or "dismissed"))
    intents: list[Intent] = []
    skip_reasons: dict[str, SkipReason] = {}
    refused: list[tuple[Intent, SkipReason]] = []
    for device, recipient in sorted(audience.devices.items()):
        if item.for_device not in (None, EVERY_DEVICE, device):
            continue
        refusal = _push_refusal(item, device, recipient, cause, policy, audience)
        channel = recipient.provider or ""
        intent = Intent(uid, item.id, cause.kind, channel, device, cause.n, cause.seq, now_us)
        if refusal is None:
            intents.append(intent)
            continue
        skip_reasons[device] = refusal
        if recipient.provider is not None:
            refused.append((intent, refusal))
    return EscalationDecision(tuple(intents), skip_reasons, tuple(refused))


def decide_email(
    uid: str,
    item: LiveItem | None,
    cause: NotificationCause,
    policy: CategoryPolicy,
    audience: Audience,
    now_us: int,
) -> EscalationDecision:
    """Decide the e-mail: it is sent unless a device has shown the item, or was present (``unless`` of the category)."""
    refusal = _gone(item, now_us)
    if item is None or refusal is not None:
        return EscalationDecision(skip_reasons={USER: refusal or "dismissed"})
    refusal = _mail_refusal(item, cause, policy, audience)
    intent = Intent(uid, item.id, cause.kind, EMAIL, USER, cause.n, cause.seq, now_us)
    return (
        EscalationDecision((intent,))
        if refusal is None
        else EscalationDecision((), {USER: refusal}, ((intent, refusal),))
    )


def has_channels(policy: CategoryPolicy) -> bool:
    """Return whether items of a category are sent by push or e-mail."""
    return policy.push is not None or policy.email is not None


# ---- skip reasons


def _gone(item: LiveItem | None, now_us: int) -> SkipReason | None:
    if item is None:
        return "dismissed"
    return "expired" if item.is_expired(now_us) else None


def _mail_refusal(
    item: LiveItem, cause: NotificationCause, policy: CategoryPolicy, audience: Audience
) -> SkipReason | None:
    if policy.email is None:
        return "no_channel"
    # A user who dismissed it on one device has seen it.
    if item.hidden_by or _is_acked(item, None, cause.seq, audience):
        return "acked"
    unless = policy.email.unless
    if unless == "foreground" and audience.is_shown(item.category):
        return "present"
    seen_us = {"foreground": audience.foreground_us, "online": audience.online_us, "acked": None}[unless]
    return "present" if seen_us is not None and seen_us >= cause.since_us else None


def _push_refusal(
    item: LiveItem,
    device: str,
    recipient: AudienceDevice,
    cause: NotificationCause,
    policy: CategoryPolicy,
    audience: Audience,
) -> SkipReason | None:
    if policy.push is None:
        return "no_channel"
    if recipient.provider not in PUSH_CHANNELS:
        return "no_device"
    if recipient.category_filter is not None and not is_allowed(recipient.category_filter, item.category):
        return "category_filter"
    if device in item.hidden_by:
        return "dismissed"
    if _is_acked(item, device, cause.seq, audience):
        return "acked"
    return "present" if audience.is_shown(item.category, device) else None


def _is_acked(item: LiveItem, device: str | None, seq: int, audience: Audience) -> bool:
    """Return whether a view with the item (of this device; None: of any) was shown up to the cause."""
    if item.for_device not in (None, EVERY_DEVICE):
        if device not in (None, item.for_device):
            return False
        device = item.for_device
    return audience.acked_seq(device, item.category) >= max(1, seq)
