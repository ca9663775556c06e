"""What enters the system and what it becomes: messages, items, commits, receipts. Frozen values, checked once.

Times are Unix microseconds (``_us``); an offset is microseconds after ``created``. JSON is made in ``wire``. What is
made for each message is out of the collector's sight (``gc=False``): frozen, and of parts that lead nowhere back.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from msgspec import Struct

from gregor.core.ids import BACKEND, Prefixes

OPEN_US = (1 << 56) - 1
"""An interval's end or an item's expiry that is not set: above every time that can be (7 bytes)."""


@dataclass(frozen=True, slots=True)
class Offset:
    """A time given as ``"+<seconds>"``: so many microseconds after the item's ``created``."""

    us: int


class NewItem(Struct, frozen=True, gc=False):
    """One entry of ``create``, as sent: nothing stamped, offsets not resolved.

    ``body`` is the body's canonical JSON (RFC 8785; ``b"null"`` where unset). ``remind_at`` is sorted, without repeats.
    """

    id: str
    category: str
    created_us: int | None
    expires: int | Offset | None
    remind_at: tuple[int | Offset, ...]
    for_device: str | None
    body: bytes


@dataclass(frozen=True, slots=True)
class Interval:
    """One entry of ``dismiss.intervals``, as sent. ``is_prefix``: ``category`` is a prefix (``""``: everything)."""

    category: str
    is_prefix: bool
    begin_us: int | None
    end_us: int | None
    skip: frozenset[str]


class Update(Struct, frozen=True, gc=False):
    """A message of system ``gregor`` that creates and dismisses."""

    create: tuple[NewItem, ...] = ()
    ids: tuple[str, ...] = ()
    intervals: tuple[Interval, ...] = ()


@dataclass(frozen=True, slots=True)
class ExternalMessage:
    """A message of any other system: delivered, never part of the state. ``body`` is JSON as it goes out."""

    system: str
    body: bytes


@dataclass(frozen=True, slots=True)
class UserReset:
    """A message that starts a new epoch (semantics.md L14)."""


class Message(Struct, frozen=True, gc=False):
    """One message: what it says, the id it is idempotent by (or none), the device it names as its sender (or none).

    ``not_before_us``: when it is to be committed; ``None``: now.
    """

    content: Update | ExternalMessage | UserReset
    id: str | None = None
    device: str | None = None
    not_before_us: int | None = None


@dataclass(frozen=True, slots=True)
class Sender:
    """Who acts: a device, or the backend (``device == ""``); and the category prefixes it is limited to."""

    device: str = BACKEND
    category_filter: Prefixes = None


class RemovalReason(Enum):
    """Why an item left the state (semantics.md, "History"); the value is the letter kept in records."""

    DISMISSED = "d"
    INTERVAL = "i"
    EXPIRED = "x"
    AGGREGATED = "a"
    DISPLACED = "p"

    @property
    def word(self) -> str:
        """The word on the wire."""
        return self.name.lower()

    @property
    def is_told(self) -> bool:
        """Whether a frame names it: only where the server made the dismissal (protocol.md, "live frame")."""
        return self in (RemovalReason.EXPIRED, RemovalReason.AGGREGATED, RemovalReason.DISPLACED)


class ItemTimerKind(Enum):
    """What a timer of an item is for; the value begins its entry in the user's agenda."""

    PUSH = "p"
    MAIL = "q"
    WINDOW = "w"


@dataclass(frozen=True, slots=True)
class ItemTimer:
    """Work that a creation asks for at a time, beside its expiry and reminders; a dismissal takes push and mail away.

    A window is one for all items of a category and ``for_device``: it opens with the first and is not moved by others.
    """

    kind: ItemTimerKind
    at_us: int


class Creation(Struct, frozen=True, gc=False):
    """An item ready to be committed: stamped, resolved, hashed. No byte of it changes any more.

    ``fingerprint`` (8 bytes) is of the content as sent and tells a duplicate from a conflict (L2); ``leaf`` (32 bytes)
    is the item's share of the digest (L10); ``json`` is the item exactly as it goes out, ``body`` its body alone.
    """

    id: str
    category: str
    for_device: str | None
    created_us: int
    is_stamped: bool
    expires_us: int | None
    remind_at_us: tuple[int, ...]
    fingerprint: bytes
    leaf: bytes
    body: bytes
    json: bytes
    timers: tuple[ItemTimer, ...] = ()


@dataclass(frozen=True, slots=True)
class ResolvedInterval:
    """An interval ready to be committed. ``end_us`` is its end, or for an open one (``is_open``) the message's stamp.

    ``matches_own``: the message names creations that this interval matches but for time, all stamped by the server; if
    every one of them is known already, the message is a repeat and acts as its first commit did (L3).
    """

    category: str
    is_prefix: bool
    begin_us: int
    end_us: int
    is_open: bool
    skip: frozenset[str]
    matches_own: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MessageId:
    """How a message is known again: key of (sender, system, id), hash of its content, and until when it is kept.

    ``is_remembered`` is false for messages that are idempotent by their content: their id is only compared.
    """

    key: str
    content: bytes
    is_remembered: bool
    keep_us: int


class Commit(Struct, frozen=True, gc=False):
    """One message of one user, planned: what the store applies whole or not at all.

    ``now_us`` is the clock of the process that planned it. ``reason`` is why its dismissals by id dismiss; intervals
    say ``interval`` where that is ``dismissed``. ``epoch_seed`` (3 bytes) names the epoch if this makes the user.
    Exactly one of the groups (creations, ids, spans), ``external``, ``is_flush``, ``forget_device``, ``remind`` (item
    and index of the reminder) and ``keep`` (category and how many of it may live) is used. ``is_followed``: somebody is
    to be told of this reminder who may not be online; that stands in the agenda until it is done. ``is_guarded``: holds
    only if every one of ``ids`` is live and hidden by none, and every creation becomes live; else nothing changes.
    ``max_live``: categories of its creations, and how many live items each may have; the store follows a commit that
    made any with a ``keep`` for each. ``is_watched``: what leaves by it stands in the agenda as having left, even where
    it had no timers (see ``Users.is_watched``).
    """

    now_us: int
    epoch_seed: bytes
    sender: Sender = Sender()
    creations: tuple[Creation, ...] = ()
    ids: tuple[str, ...] = ()
    spans: tuple[ResolvedInterval, ...] = ()
    reason: RemovalReason = RemovalReason.DISMISSED
    message_id: MessageId | None = None
    external: ExternalMessage | None = None
    is_reset: bool = False
    forget_device: str | None = None
    remind: tuple[str, int] | None = None
    has_follow_up: bool = False
    keep: tuple[str, int] | None = None
    is_conditional: bool = False
    max_live: tuple[tuple[str, int], ...] = ()
    is_watched: bool = False
    spread_s: int = 30


def eviction_commits(commit: Commit, receipt: Receipt) -> tuple[Commit, ...]:
    """The commits by which the oldest leave where ``commit`` made more of a category than may live (``displaced``)."""
    if not commit.max_live or not receipt.created:
        return ()
    return tuple(
        Commit(
            commit.now_us, commit.epoch_seed, reason=RemovalReason.DISPLACED, keep=bound, is_watched=commit.is_watched
        )
        for bound in commit.max_live
    )


class IgnoredReason(Enum):
    """Why a creation made nothing live (protocol.md, receipt); the first that applies."""

    CONFLICT = "conflict"
    DISMISSED = "dismissed"
    EXPIRED = "expired"
    DUPLICATE = "duplicate"
    STALE = "stale"


class Receipt(Struct, frozen=True, gc=False):
    """What a commit did. ``dismissed``: ids that left the sender's view. ``is_unchanged``: it had no effect."""

    epoch: bytes
    seq: int
    is_unchanged: bool = False
    created: tuple[str, ...] = ()
    dismissed: tuple[str, ...] = ()
    ignored: tuple[tuple[str, IgnoredReason], ...] = ()
