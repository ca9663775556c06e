"""The ledger of deliveries: what became of each thing that was to be told (architecture: "Delivery"; protocol.md).

One entry a key ``(user, item, intent, n, device, channel)``. "Claimed, attempt n" is written before the network call
and the verdict after, so that a process that dies in between leaves a claim whose lease runs out, and nobody sends
twice without knowing it. Pure values; the store moves them.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from enum import Enum

import msgspec

from gregor.core.limits import DAY_US, HOUR_US, SECOND_US

from .intents import Intent, IntentKind


class DeliveryState(Enum):
    """Where a delivery stands; the value is the letter that the store keeps, the name its word on the wire."""

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
    def word(self) -> str:
        """The word on the wire."""
        return self.name.lower()

    @property
    def is_over(self) -> bool:
        """Whether nothing more will be sent for it."""
        return self in (DeliveryState.SENT, DeliveryState.CANCELLED, DeliveryState.WITHDRAWN, DeliveryState.DEAD)


MAX_ATTEMPTS = 20
"""Of one delivery so many attempts are kept, so that what is tried for a day stays small."""


class DeliveryAttempt(msgspec.Struct, frozen=True, array_like=True):
    """One call to a provider. ``status``: its answer in words or digits; never holds a token or an address."""

    at_us: int
    status: str
    provider_id: str | None = None
    detail: str = ""

    @property
    def has_outcome(self) -> bool:
        """Whether the provider said what became of it; else it may have arrived."""
        return self.status != DeliveryState.UNKNOWN.word


MAX_WAITS = 8
"""Of one delivery so many waits are kept."""


class DeliveryWait(msgspec.Struct, frozen=True, array_like=True):
    """Why it was not sent when it was looked at, and until when it waited."""

    at_us: int
    reason: str
    until_us: int


MAX_REPLAYS = 8
"""Of one delivery so many replays are kept."""


class DeliveryReplay(msgspec.Struct, frozen=True, array_like=True):
    """When it was dead, and why (a reason, or the provider's answer); and when somebody wanted it tried anew."""

    dead_us: int
    why: str | None
    at_us: int


class DeliveryHistory(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is told of a delivery beside its state. ``planned_us``: when it was handed over; ``seq``: its cause.

    ``attempts``: the newest ``MOST_ATTEMPTS``. ``next_us``: when it is tried again, or looked at again. ``reason``: why
    it waits or was cancelled (a word of protocol.md, "deliveries"). ``mail``: the name of the mail that told it, or may
    have: the same for all that it told. ``since_us``: when it came to be cancelled, dead, or sent without a call of its
    own; ``None`` also where it was entered so. ``waits``: the newest ``MOST_WAITS``. ``dropped``: how many older
    attempts had an outcome. ``replays``: the newest ``MOST_REPLAYS``.
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
        """When somebody wanted it tried anew last."""
        return self.replays[-1].at_us if self.replays else None

    @property
    def why(self) -> str | None:
        """Why it ended: the reason, or the last answer of the provider."""
        return self.reason or (self.attempts[-1].status if self.attempts else None)

    @property
    def begun_us(self) -> int:
        """Since when it is tried: a replay begins anew."""
        return self.replayed_us or self.planned_us

    @property
    def last_us(self) -> int:
        """When something was done about it last."""
        return self.since_us or (self.attempts[-1].at_us if self.attempts else self.planned_us)

    def waiting(self, reason: str, now_us: int, until_us: int) -> DeliveryHistory:
        """The story of one that waits. A reason that goes on is one wait."""
        at_us, waits = now_us, self.waits
        if waits and waits[-1].reason == reason:
            at_us, waits = waits[-1].at_us, waits[:-1]
        waits = (*waits, DeliveryWait(at_us, reason, until_us))[-MAX_WAITS:]
        return msgspec.structs.replace(self, reason=reason, next_us=until_us, waits=waits)

    def attempted(self, attempt: DeliveryAttempt) -> DeliveryHistory:
        """The story with one call more, of which nothing is known yet but its answer."""
        attempts = (*self.attempts, attempt)
        dropped = self.dropped + sum(each.has_outcome for each in attempts[:-MAX_ATTEMPTS])
        kept = attempts[-MAX_ATTEMPTS:]
        return msgspec.structs.replace(self, reason=None, next_us=None, attempts=kept, dropped=dropped)

    def ended(self, reason: str | None, now_us: int) -> DeliveryHistory:
        """The story of one that is cancelled or dead."""
        return msgspec.structs.replace(self, reason=reason, next_us=None, since_us=now_us)

    def replayed(self, now_us: int) -> DeliveryHistory:
        """The story of a dead one that is tried anew. Its attempts stay, and so does its end."""
        replays = (*self.replays, DeliveryReplay(self.last_us, self.why, now_us))[-MAX_REPLAYS:]
        return msgspec.structs.replace(self, reason=None, next_us=None, since_us=None, replays=replays)


def new_history(intent: Intent, reason: str | None, now_us: int) -> DeliveryHistory:
    """The story of what enters the ledger."""
    return DeliveryHistory(intent.at_us or now_us, intent.seq, reason, event=intent.event)


class DeliveryRecord(msgspec.Struct, frozen=True):
    """One entry, read. ``n``: how often a provider was called for it, the call under way included.

    ``lease_until_us``: of a claim its end; of what waits the moment before which nobody gets it; else 0.
    """

    intent: Intent
    state: DeliveryState
    n: int
    lease_until_us: int
    history: DeliveryHistory

    @property
    def is_over(self) -> bool:
        """Whether nothing more will be sent for it; also where nobody will ever know whether it arrived."""
        return self.state.is_over or (self.state is DeliveryState.UNKNOWN and self.history.next_us is None)

    @property
    def is_unsure(self) -> bool:
        """Whether a call to the provider has no outcome: it said nothing, who called died over it, or is calling."""
        return self.n > self.history.dropped + sum(each.has_outcome for each in self.history.attempts)

    def is_waiting_beyond(self, reason: str, until_us: int) -> bool:
        """Whether it waits for that, and longer."""
        return self.state is DeliveryState.WAITING and self.history.reason == reason and self.lease_until_us > until_us

    @property
    def is_hastened(self) -> bool:
        """Whether somebody wants that what waits is looked at before the time until which it was to wait."""
        return self.state is DeliveryState.WAITING and self.lease_until_us < (self.history.next_us or 0)

    @property
    def tries(self) -> int:
        """As ``n``, since a replay began anew."""
        replayed_us = self.history.replayed_us
        if replayed_us is None:
            return self.n
        return 1 + sum(attempt.at_us >= replayed_us for attempt in self.history.attempts)


LONGEST_WAIT_US = 2 * DAY_US
"""What waits was planned no longer ago: it is tried for a day, and the longest wait, for quiet hours, is below one."""
OVERDUE_US = 15 * 60 * SECOND_US
"""How long after something was planned it is asked what became of it: by then it is over, or waits for its time."""
WAKING_US = HOUR_US
"""How long it is remembered that a device was woken for a withdrawal: systems ration that by the hour."""


class PendingWithdrawals(msgspec.Struct, frozen=True):
    """Of one device and channel. ``waiting``: those that are not over, the oldest first. ``woken_us``: when one was
    sent by itself in the last hour, not with something that is shown anyway."""

    waiting: tuple[Intent, ...] = ()
    woken_us: tuple[int, ...] = ()


def is_webhook_event(intent: Intent, state: DeliveryState) -> bool:
    """Whether backends may want to hear that a delivery came to this state: it told the user, or never will."""
    is_of_user = intent.kind not in (IntentKind.WITHDRAW, IntentKind.EVENT)
    return is_of_user and state in (DeliveryState.SENT, DeliveryState.DEAD)


def delivery_key(intent: Intent) -> str:
    """The key of a delivery within its item."""
    return f"{intent.kind.value}/{intent.n}/{intent.device}/{intent.channel}"


def delivery_path(intent: Intent) -> str:
    """The key of a delivery among those of all users; no name holds a slash."""
    return f"{intent.uid}/{intent.item}/{delivery_key(intent)}"


def parse_delivery_path(path: str) -> Intent:
    """The intent of a path, as far as its key says it. ``ValueError`` where it is none."""
    uid, item, kind, n, device, channel = path.split("/")
    return Intent(uid, item, IntentKind(kind), channel, device, int(n))


def encode_delivery_id(intent: Intent) -> str:
    """The name of a delivery on the wire: opaque, the same for ever, one a key."""
    return urlsafe_b64encode(delivery_path(intent).encode()).rstrip(b"=").decode()


def decode_delivery_id(name: str) -> Intent | None:
    """The intent of a name, as far as its key says it; ``None`` where no delivery can have that name."""
    try:
        intent = parse_delivery_path(urlsafe_b64decode(name + "=" * (-len(name) % 4)).decode())
    except ValueError:
        return None
    return intent if encode_delivery_id(intent) == name else None


def rebuild_intent(intent: Intent, history: DeliveryHistory) -> Intent:
    """The intent of an entry with what its story keeps of it. What happened is decided to be told anew by a replay; of
    whom to tell it stays true since when they were not there."""
    at_us = history.begun_us if intent.kind is IntentKind.EVENT else history.planned_us
    it = intent  # (`replace` costs twice as much, and each claim makes one)
    return Intent(it.uid, it.item, it.kind, it.channel, it.device, it.n, history.seq, at_us, history.event)


class Claim(msgspec.Struct, frozen=True):
    """A claim that was given. ``before``: the state it was in (``CLAIMED``: a worker died over it, so that what it
    sent may have arrived)."""

    delivery: DeliveryRecord
    before: DeliveryState


class NotYet(msgspec.Struct, frozen=True):
    """It waits until ``until_us``: for its next attempt, or its next look."""

    until_us: int


class NotClaimed(Enum):
    """Why there is nothing to do now."""

    ABSENT = "no such delivery: the user was forgotten, or its time is over"
    OVER = "it was sent, cancelled, withdrawn, is dead, or nobody will ever know"
    BUSY = "another worker has it, or another delivery to the same device and place on its screen"
