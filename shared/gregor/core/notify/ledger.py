"""The delivery ledger: the state and history of each delivery (delivery.md, "One visible effect").

One record for each key ``(user, item, intent, n, device, channel)``. The claim with its attempt number is written
before the network request, the verdict after it. If a process dies in between, its lease expires, and the next attempt
is known to be a second one. Pure values; the store moves them.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from enum import Enum

import msgspec

from gregor.core.limits import DAY_US, HOUR_US, SECOND_US
from gregor.core.rate_limit import step_us, take

from .intents import Intent, IntentKind

# ---- the history of a delivery


class DeliveryState(Enum):
    """The state of a delivery. The value is the letter in the store; the name in lower case is the one on the wire."""

    PLANNED = "p"
    WAITING = "w"
    CLAIMED = "c"
    SENT = "s"
    RETRY = "r"
    UNKNOWN = "u"
    CANCELLED = "x"
    WITHDRAWN = "v"
    DEAD = "d"

    @property
    def wire_name(self) -> str:
        """The value on the wire."""
        return self.name.lower()

    @property
    def is_over(self) -> bool:
        """Whether nothing more will be sent for it."""
        return self in (DeliveryState.SENT, DeliveryState.CANCELLED, DeliveryState.WITHDRAWN, DeliveryState.DEAD)


MAX_ATTEMPTS = 20
"""Attempts kept of one delivery: a day of retries stays small."""


class DeliveryAttempt(msgspec.Struct, frozen=True, array_like=True):
    """One request to a provider. ``status``: its response as text, such as ``200``; never a token or an address."""

    at_us: int
    status: str
    provider_id: str | None = None
    detail: str = ""

    @property
    def has_outcome(self) -> bool:
        """Whether the provider answered. Otherwise the message may have been delivered."""
        return self.status != DeliveryState.UNKNOWN.wire_name


MAX_WAITS = 8
"""Waits kept of one delivery."""


class DeliveryWait(msgspec.Struct, frozen=True, array_like=True):
    """Why a due delivery was not sent, and until when it waited."""

    at_us: int
    reason: str
    until_us: int


MAX_REPLAYS = 8
"""Replays kept of one delivery."""


class DeliveryReplay(msgspec.Struct, frozen=True, array_like=True):
    """When and why a delivery was dead (a reason, or the provider's response), and when an operator replayed it."""

    dead_us: int
    why: str | None
    at_us: int


class DeliveryHistory(msgspec.Struct, frozen=True, omit_defaults=True):
    """The history of a delivery. ``planned_us``: when it was enqueued. ``seq``: its cause.

    ``event``: of a webhook, as JSON.

    ``attempts``, ``waits``, ``replays``: the newest ones. ``dropped``: older attempts that had an outcome.
    ``next_us``: the next attempt or decision. ``reason``: why it waits or was cancelled (delivery.md). ``mail``: the
    id of the e-mail that carried it, or may have; the same for all deliveries in that e-mail. ``since_us``: when it
    was cancelled, dead, or sent together with another one; None if it was so from the beginning.
    """

    planned_us: int
    seq: int = 0
    reason: str | None = None
    next_us: int | None = None
    attempts: tuple[DeliveryAttempt, ...] = ()
    event: str = ""
    mail: str | None = None
    since_us: int | None = None
    waits: tuple[DeliveryWait, ...] = ()
    dropped: int = 0
    replays: tuple[DeliveryReplay, ...] = ()

    @property
    def replayed_us(self) -> int | None:
        """The time of the last replay."""
        return self.replays[-1].at_us if self.replays else None

    @property
    def why(self) -> str | None:
        """Why it ended: the reason, or the last response of the provider."""
        return self.reason or (self.attempts[-1].status if self.attempts else None)

    @property
    def begun_us(self) -> int:
        """The start of its retries: the last replay, else when it was enqueued."""
        return self.replayed_us or self.planned_us

    @property
    def last_us(self) -> int:
        """The time of its last change."""
        return self.since_us or (self.attempts[-1].at_us if self.attempts else self.planned_us)

    def waiting(self, reason: str, now_us: int, until_us: int) -> DeliveryHistory:
        """Return the history with a wait. If the last wait has the same reason, it is extended."""
        at_us, waits = now_us, self.waits
        if waits and waits[-1].reason == reason:
            at_us, waits = waits[-1].at_us, waits[:-1]
        waits = (*waits, DeliveryWait(at_us, reason, until_us))[-MAX_WAITS:]
        return msgspec.structs.replace(self, reason=reason, next_us=until_us, waits=waits)

    def attempted(self, attempt: DeliveryAttempt) -> DeliveryHistory:
        """Return the history with one more attempt."""
        attempts = (*self.attempts, attempt)
        dropped = self.dropped + sum(each.has_outcome for each in attempts[:-MAX_ATTEMPTS])
        kept = attempts[-MAX_ATTEMPTS:]
        return msgspec.structs.replace(self, reason=None, next_us=None, attempts=kept, dropped=dropped)

    def ended(self, reason: str | None, now_us: int) -> DeliveryHistory:
        """Return the history of a cancelled or dead delivery."""
        return msgspec.structs.replace(self, reason=reason, next_us=None, since_us=now_us)

    def replayed(self, now_us: int) -> DeliveryHistory:
        """Return the history of a dead delivery that is tried again. Its attempts and its end stay in it."""
        replays = (*self.replays, DeliveryReplay(self.last_us, self.why, now_us))[-MAX_REPLAYS:]
        return msgspec.structs.replace(self, reason=None, next_us=None, since_us=None, replays=replays)


def new_history(intent: Intent, reason: str | None, now_us: int) -> DeliveryHistory:
    """Return the history of a new record."""
    return DeliveryHistory(intent.at_us or now_us, intent.seq, reason, event=intent.event)


# ---- records

OVERFLOW = "overflow"
"""Reason of a webhook event that was given up: too many newer items of its user, or too many events of its item."""


class DeliveryRecord(msgspec.Struct, frozen=True):
    """One record of the ledger. ``n``: requests to the provider, including one in progress.

    ``lease_until_us``: the end of a claim; for a waiting delivery the earliest time of the next claim; else 0.
    """

    intent: Intent
    state: DeliveryState
    n: int
    lease_until_us: int
    history: DeliveryHistory

    @property
    def is_over(self) -> bool:
        """Whether nothing more will be sent for it. That includes a delivery whose outcome will never be known."""
        return self.state.is_over or (self.state is DeliveryState.UNKNOWN and self.history.next_us is None)

    @property
    def has_unknown_outcome(self) -> bool:
        """Whether a request has no outcome: no response, a worker that died, or one in progress."""
        return self.n > self.history.dropped + sum(each.has_outcome for each in self.history.attempts)

    def is_waiting_beyond(self, reason: str, until_us: int) -> bool:
        """Return whether it waits for this reason, and longer than ``until_us``."""
        return self.state is DeliveryState.WAITING and self.history.reason == reason and self.lease_until_us > until_us

    def is_idle_event(self, now_us: int) -> bool:
        """Return whether it is a webhook event that still has to be sent and that no worker has claimed."""
        is_claimed = self.state is DeliveryState.CLAIMED and self.lease_until_us > now_us
        return self.intent.kind is IntentKind.EVENT and not self.is_over and not is_claimed

    def given_up(self, now_us: int) -> DeliveryRecord:
        """Return its dead letter with the reason ``OVERFLOW``."""
        return DeliveryRecord(self.intent, DeliveryState.DEAD, self.n, 0, self.history.ended(OVERFLOW, now_us))

    @property
    def is_expedited(self) -> bool:
        """Whether a waiting delivery is to be decided before the end of its wait."""
        return self.state is DeliveryState.WAITING and self.lease_until_us < (self.history.next_us or 0)

    @property
    def tries(self) -> int:
        """The number of requests since the last replay, including this one."""
        replayed_us = self.history.replayed_us
        if replayed_us is None:
            return self.n
        return 1 + sum(attempt.at_us >= replayed_us for attempt in self.history.attempts)


class PlannedDeliveries(msgspec.Struct, frozen=True):
    """The result of ``Ledger.plan``.

    ``new``: deliveries that were not in the ledger. ``given_up``: older events that became dead letters, as they wait
    in the queue.
    """

    new: list[Intent]
    given_up: list[Intent]


MAX_WAIT_US = 2 * DAY_US
"""Age of the oldest waiting delivery: a day of retries, and a wait for quiet hours that is under a day."""
MAX_EXAMINED = 20_000
"""Deliveries of a user that a change of quiet hours examines: 10 ms of Redis. A user gets at most 10 a second."""
OVERDUE_US = 15 * 60 * SECOND_US
"""Time after which the scheduler checks an enqueued delivery: by then it is over, or waits for a known time."""
WAKING_US = HOUR_US
"""Period in which wake-ups of a device for withdrawals are counted: mobile systems limit them by the hour."""


# ---- withdrawals and events

MAX_EVENTS_OF_ITEM = 1_000
"""Webhook events of one item. If there are more when the bound is applied, the oldest leave the ledger.

A device that dismisses an item and is forgotten, again and again, makes a new event each time. Settings bound the other
deliveries of an item: devices, reminders and channels.
"""
KEPT_EVENTS_OF_ITEM = 750
"""Webhook events of an item that remain when the bound has been applied."""
EVENT_BOUND_FROM = 2_048
"""The bound of events is applied only if an item has at least this number of deliveries; few items have."""
EVENT_BOUND_STEP = 256
"""Further deliveries of the item after which the bound is applied again."""
MAX_WAITING_OF_DEVICE = 500
"""Withdrawals that may wait for one device and channel. Further ones are cancelled when they are planned."""
MAX_WAITING_OF_USER = 2_000
"""Withdrawals that may wait for all devices of a user."""
TOO_MANY_WAIT = "budget"
"""Reason of a withdrawal that is cancelled because too many wait."""


class PendingWithdrawals(msgspec.Struct, frozen=True):
    """The withdrawals of one device and channel. ``waiting``: those that are not over, oldest first.

    ``woken_us``: times in the last hour at which a withdrawal was sent alone, not together with a visible push.
    ``is_complete``: false if ``waiting`` was not read, because the user has too many.
    """

    waiting: tuple[Intent, ...] = ()
    woken_us: tuple[int, ...] = ()
    is_complete: bool = True


def is_webhook_event(intent: Intent, state: DeliveryState) -> bool:
    """Return whether this state of a delivery is a webhook event: it reached the user, or never will."""
    is_of_user = intent.kind not in (IntentKind.WITHDRAW, IntentKind.EVENT)
    return is_of_user and state in (DeliveryState.SENT, DeliveryState.DEAD)


def is_event_bound_due(before: int, after: int) -> bool:
    """Return whether the bound of an item's events is due, if its number of deliveries grew from ``before``."""
    return after >= EVENT_BOUND_FROM and after // EVENT_BOUND_STEP > before // EVENT_BOUND_STEP


def surplus_events(events: Sequence[DeliveryRecord], now_us: int) -> tuple[list[DeliveryRecord], list[DeliveryRecord]]:
    """Return which webhook events of an item are to be forgotten, and which are to become dead letters.

    ``events``: all events of the item, the oldest first. Sent and other completed events are forgotten before dead
    letters. A new dead letter is not forgotten before the bound is applied again.
    """
    if len(events) <= MAX_EVENTS_OF_ITEM:
        return [], []
    excess = len(events) - KEPT_EVENTS_OF_ITEM
    over = sorted((each for each in events if each.is_over), key=lambda each: each.state is DeliveryState.DEAD)
    idle = [each for each in events if each.is_idle_event(now_us)]
    return over[:excess], idle[: max(0, excess - len(over))]


# ---- keys, paths and ids


def delivery_key(intent: Intent) -> str:
    """Return the key of a delivery within its item."""
    return f"{intent.kind.value}/{intent.n}/{intent.device}/{intent.channel}"


def delivery_path(intent: Intent) -> str:
    """Return the key of a delivery among those of all users. No name contains a slash."""
    return f"{intent.uid}/{intent.item}/{delivery_key(intent)}"


def parse_delivery_path(path: str) -> Intent:
    """Return the intent of a path, with the fields of its key. Raises ``ValueError`` if the path is malformed."""
    uid, item, kind, n, device, channel = path.split("/")
    return Intent(uid, item, IntentKind(kind), channel, device, int(n))


def encode_delivery_id(intent: Intent) -> str:
    """Return the id of a delivery on the wire: opaque, permanent, one for each key."""
    return urlsafe_b64encode(delivery_path(intent).encode()).rstrip(b"=").decode()


def decode_delivery_id(name: str) -> Intent | None:
    """Return the intent of a delivery id, with the fields of its key; None if the id is malformed."""
    try:
        intent = parse_delivery_path(urlsafe_b64decode(name + "=" * (-len(name) % 4)).decode())
    except ValueError:
        return None
    return intent if encode_delivery_id(intent) == name else None


def rebuild_intent(intent: Intent, history: DeliveryHistory) -> Intent:
    """Return the full intent of a record: the fields of its key, and those in its history.

    A replayed webhook event counts from the replay. A push or e-mail counts from when it was planned, because the
    absence of the user is measured from there.
    """
    at_us = history.begun_us if intent.kind is IntentKind.EVENT else history.planned_us
    it = intent  # `replace` costs twice as much, and each claim makes one
    return Intent(it.uid, it.item, it.kind, it.channel, it.device, it.n, history.seq, at_us, history.event)


# ---- claims

HOUR_S = 3_600
MAX_FOLDED = 500
"""Deliveries above the push budget that one push covers; the rest waits for the next push."""
MAX_FOLDED_KEPT = 10_000
"""Deliveries above the push budget that are found by the next push. Others are decided again at their time."""
FOLD_GRACE_US = 5 * SECOND_US
"""The first delivery above the budget is decided when the budget refills; the others follow after this time."""


FOLDED_LIFE_MS = DAY_US // 1_000
"""Lifetime of the list of these deliveries. Each of them also waits in the queue, with its own time."""


class DeliveryBudget(msgspec.Struct, frozen=True):
    """The messages that one user may get: ``per_hour`` an hour, and at once.

    ``name``: of its buckets, and the reason for which a delivery above the budget waits. ``folds``: whether the next
    message to the same device gets the deliveries that wait, in ``Claim.folded``. ``step_us``: the time in which one
    message more is allowed. All delivery processes share the buckets.
    """

    name: str
    per_hour: int
    folds: bool
    step_us: int

    @property
    def capacity_us(self) -> int:
        """The time in which an empty bucket becomes full."""
        return self.per_hour * self.step_us

    def take(self, full_at_us: int, count: int, now_us: int) -> tuple[int, float]:
        """Take ``count`` messages; see ``rate_limit.take``."""
        return take(full_at_us, self.per_hour / HOUR_S, self.per_hour, count, now_us)


PUSH_BUDGET = "push_budget"
MAIL_BUDGET = "mail_budget"


def push_budget(per_hour: int) -> DeliveryBudget:
    """Return the budget of the pushes that a user sees, on all devices and channels."""
    return DeliveryBudget(PUSH_BUDGET, per_hour, True, step_us(per_hour / HOUR_S))


def mail_budget(per_hour: int) -> DeliveryBudget:
    """Return the budget of e-mails; an e-mail covers everything that waits, so it needs no list."""
    return DeliveryBudget(MAIL_BUDGET, per_hour, False, step_us(per_hour / HOUR_S))


def fold_scope(intent: Intent) -> str:
    """Return the prefix that names the deliveries of one device and channel: one message can cover all of them."""
    return f"{intent.device}/{intent.channel}/"


class Claim(msgspec.Struct, frozen=True):
    """A successful claim. ``before``: the state before it. ``CLAIMED``: a worker died, and may have sent it.

    ``folded``: deliveries above the budget that this message can cover, with the fields of their keys.
    """

    delivery: DeliveryRecord
    before: DeliveryState
    folded: tuple[Intent, ...] = ()


class OverBudget(msgspec.Struct, frozen=True):
    """The user has got as many messages as the budget allows: decide again at ``until_us``."""

    until_us: int


class NotYet(msgspec.Struct, frozen=True):
    """The delivery waits until ``until_us``, for its next attempt or decision."""

    until_us: int


class NotClaimed(Enum):
    """Why a claim failed, if the delivery does not wait."""

    ABSENT = "unknown delivery: the user was deleted, or its retention is over"
    OVER = "it was sent, cancelled, withdrawn, is dead, or its outcome will never be known"
    TAKEN = "another worker has claimed it"
    BUSY = "another delivery with the same device and collapse id is claimed"
