"""Timeline of an item: all known events of the item and of its deliveries, ordered by time (http.md, "Reads"). Pure.

It is built from stored data: the history, the delivery ledger, the acknowledgements. A reader that is a device sees
its own pushes and acknowledgements, and the e-mails of the user.

Other places have the same rules: see semantics.md, "Where each rule lives".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from gregor.core.ids import BACKEND, EVERY_DEVICE
from gregor.core.items.sync import HistoryEntry, Removal, View
from gregor.core.messages.model import RemovalReason
from gregor.core.rate_limit import Bucket
from gregor.core.times import format_time

from .acknowledged_views import shows_category
from .intents import EMAIL, FRAME, Intent, IntentKind
from .ledger import DeliveryAttempt, DeliveryRecord, DeliveryState

MAX_DUE_BEFORE_ACKNOWLEDGEMENT: Final = 2_500
"""Due entries of a user from which acknowledgements are ignored if webhooks want them.

The next acknowledgement covers their items. Without this bound a device
could add entries of 2.5 KB faster than the schedulers complete them. A dismissal of all items adds 2,000.
"""
ACKNOWLEDGED_ITEMS: Final = Bucket("acknowledged", 300.0, 20_000)
"""Items of a user that acknowledgements may cover if webhooks want them. Acknowledgements of more are ignored, too.

A scheduler reads each item, also if it was reported before. The bucket is ten times the live items of a user.
"""
ACKNOWLEDGEMENT_COST: Final = 5
"""Items that an acknowledgement is charged for in addition to those that it covers."""
MAX_ACKNOWLEDGEMENTS: Final = 500
"""Acknowledgements kept with their time for each user, the newest ones."""

Members = dict[str, Any]


class _TimelineItem(msgspec.Struct):
    for_device: str | None


_item: Final = msgspec.json.Decoder(_TimelineItem).decode


class Acknowledgement(msgspec.Struct, frozen=True):
    """A view showed its user everything after ``since`` up to ``until``, at that time."""

    view: View
    since: int
    until: int
    at_us: int


class TimelineEvent(msgspec.Struct, frozen=True):
    """One event of a timeline. ``members``: its other members in JSON."""

    at_us: int
    name: str
    members: Members = {}

    def json(self) -> bytes:
        """Return the event as JSON."""
        return msgspec.json.encode({"at": msgspec.Raw(format_time(self.at_us)), "event": self.name, **self.members})


# ---- the timeline


def build_timeline(
    entry: HistoryEntry, deliveries: Sequence[DeliveryRecord], shown: Iterable[Acknowledgement], view: View
) -> list[TimelineEvent]:
    """Return the events of an item that ``view`` may see, by time; at the same time causes come before effects."""
    events = [TimelineEvent(entry.created_us, "created")]
    fired = [each for each in deliveries if each.intent.channel == FRAME]
    events += [TimelineEvent(each.history.planned_us, "reminded", {"n": each.intent.n}) for each in fired]
    causes = [(entry.seq, 0), *((each.history.seq, each.intent.n) for each in fired)]
    events += _acked(entry, causes, shown, view)
    if entry.gone is not None:
        events.append(_left(entry.gone))
    for each in deliveries:
        if _is_of(each.intent, view):
            events += _of_delivery(each)
    return sorted(events, key=lambda event: event.at_us)


def _is_of(intent: Intent, view: View) -> bool:
    """Return whether the delivery was for the user, and visible to the view."""
    if intent.kind is IntentKind.EVENT or intent.channel == FRAME:
        return False
    return view.device in (BACKEND, intent.device) or intent.channel == EMAIL


def _acked(
    entry: HistoryEntry, causes: Sequence[tuple[int, int]], shown: Iterable[Acknowledgement], view: View
) -> Iterator[TimelineEvent]:
    """Yield when each device showed the creation or a reminder, as long as the item was live."""
    for_device = _item(entry.json).for_device
    known: set[tuple[int, str]] = set()
    for each in sorted(shown, key=lambda each: each.at_us):
        device = each.view.device
        is_shown = shows_category(each.view.category_filter, entry.category)
        is_held = is_shown and for_device in (None, EVERY_DEVICE, device)
        is_late = entry.gone is not None and each.at_us >= entry.gone.at_us
        if not is_held or is_late or view.device not in (BACKEND, device):
            continue
        for seq, n in causes:
            if each.since < seq <= each.until and (seq, device) not in known:
                known.add((seq, device))
                yield TimelineEvent(each.at_us, "acked", {"device": device, "n": n})


def _left(gone: Removal) -> TimelineEvent:
    if gone.reason is RemovalReason.EXPIRED:
        return TimelineEvent(gone.at_us, "expired")
    return TimelineEvent(gone.at_us, "dismissed", {"device": gone.device or None, "detail": gone.reason.wire_name})


# ---- deliveries


def _of_delivery(delivery: DeliveryRecord) -> Iterator[TimelineEvent]:
    """Yield the events of one delivery. A withdrawal has no event until it has a result."""
    intent, state, history = delivery.intent, delivery.state, delivery.history
    where = {"channel": intent.channel, "device": intent.device or None, "n": intent.n, "intent": intent.kind.value}
    is_decided_against = state is DeliveryState.CANCELLED and history.since_us is None
    if not is_decided_against and intent.kind is not IntentKind.WITHDRAW:
        yield TimelineEvent(history.planned_us, "planned", where)
    for replay in history.replays:
        yield TimelineEvent(replay.dead_us, "dead", {**where, "detail": replay.why})
        yield TimelineEvent(replay.at_us, "planned", where)
    for wait in history.waits:
        until = msgspec.Raw(format_time(wait.until_us))
        yield TimelineEvent(wait.at_us, "waiting", {**where, "detail": wait.reason, "until": until})
    for attempt in history.attempts:
        name = _request_event(delivery, attempt)
        if name is not None:
            # a folded push has a reason: it was sent as a part of another one
            detail = history.reason if name == "sent" and history.reason else attempt.status
            yield TimelineEvent(attempt.at_us, name, {**where, "detail": detail})
    if state is DeliveryState.SENT and history.since_us is not None:
        yield TimelineEvent(history.since_us, "sent", {**where, "detail": None})
    if state in (DeliveryState.CANCELLED, DeliveryState.DEAD):
        yield TimelineEvent(history.last_us, state.wire_name, {**where, "detail": history.why})


def _request_event(delivery: DeliveryRecord, attempt: DeliveryAttempt) -> str | None:
    """Return the event of a request to a provider; None if another event covers it."""
    state, history = delivery.state, delivery.history
    if any(attempt.at_us == replay.dead_us for replay in history.replays):
        return None
    if attempt is not history.attempts[-1]:
        return "retry"
    if state is DeliveryState.DEAD and attempt.at_us == history.since_us:
        return None
    is_taken = state in (DeliveryState.SENT, DeliveryState.WITHDRAWN) and attempt.has_outcome
    if is_taken or (state is DeliveryState.UNKNOWN and delivery.is_over):
        return "withdrawn" if delivery.intent.kind is IntentKind.WITHDRAW else "sent"
    return "retry"
