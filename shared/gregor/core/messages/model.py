"""Messages, items, commits and receipts: frozen values, checked once.

Times are Unix microseconds (``_us``); an offset is microseconds after ``created``. ``encode`` makes JSON of them.

Other places have the same rules: see semantics.md, "Where each rule lives".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from msgspec import Struct

from gregor.core.ids import BACKEND, Prefixes

# ---- messages as sent


@dataclass(frozen=True, slots=True)
class Offset:
    """A time given as ``+`` and a duration: microseconds after the item's ``created``."""

    us: int


# gc=False: structs that are made for each message are frozen and without cycles, so the garbage collector need not
# track them.
class NewItem(Struct, frozen=True, gc=False):
    """One entry of ``create`` as sent: without server timestamp, and its offsets not resolved.

    ``body`` is the body's canonical JSON (RFC 8785; ``b"null"`` if absent). ``remind_at`` is sorted, without repeats.
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
    """One entry of ``dismiss.intervals`` as sent. ``is_prefix``: ``category`` is a prefix (``""``: everything)."""

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
    """A message of any other system: delivered, never part of the state.

    ``body`` is the JSON that clients get. In a commit the member ``device`` follows it, if a device sent the message.
    """

    system: str
    body: bytes


@dataclass(frozen=True, slots=True)
class UserReset:
    """A message that starts a new epoch: ``flush`` on the wire (semantics.md L14)."""


class Message(Struct, frozen=True, gc=False):
    """One message: its content, its idempotency id if any, and the device that it names as its sender if any.

    ``not_before_us``: when it is to be committed; ``None`` for now.
    """

    content: Update | ExternalMessage | UserReset
    id: str | None = None
    device: str | None = None
    not_before_us: int | None = None


# ---- senders and reasons


@dataclass(frozen=True, slots=True)
class Sender:
    """A device, or the backend (``device == ""``), and the category and system prefixes it is limited to.

    ``issued_us``: when the device token of the sender was issued; 0 without a token (a service key, or the server).
    """

    device: str = BACKEND
    category_filter: Prefixes = None
    systems: Prefixes = field(default=None, compare=False)
    issued_us: int = field(default=0, compare=False)


BY_BACKEND = Sender()
"""The backend, without limits."""


class RemovalReason(Enum):
    """The reason for which an item left the state (semantics.md, "History"). The value is the letter in the store."""

    DISMISSED = "d"
    INTERVAL = "i"
    EXPIRED = "x"
    AGGREGATED = "a"
    DISPLACED = "p"

    @property
    def wire_name(self) -> str:
        """The value on the wire."""
        return self.name.lower()

    @property
    def is_announced(self) -> bool:
        """Whether live frames contain the reason: only if the server removed the item."""
        return self in (RemovalReason.EXPIRED, RemovalReason.AGGREGATED, RemovalReason.DISPLACED)


class ItemTimerKind(Enum):
    """The work that a timer of an item starts. The value is the first letter of its entry in the user's agenda."""

    PUSH = "p"
    MAIL = "q"
    WINDOW = "w"


@dataclass(frozen=True, slots=True)
class ItemTimer:
    """Work that a creation schedules, in addition to its expiry and reminders.

    A dismissal removes push and mail timers.

    A window is shared by all items of a category and ``for_device``: the first item opens it, later ones do not move
    it.
    """

    kind: ItemTimerKind
    at_us: int


# ---- commits


class Creation(Struct, frozen=True, gc=False):
    """An item ready to be committed: with timestamp, times and hashes. No byte of it changes after this.

    ``fingerprint`` (8 bytes) hashes the content as sent: it distinguishes a duplicate from a conflict (L2). ``leaf``
    (32 bytes) is the item's share of the digest (L10). ``json`` is the item that clients get, ``body`` its body alone.
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
    """An interval ready to be committed. ``end_us``: its end; for an open one (``is_open``), the time of the message.

    ``matches_own``: creations of the same message that this interval matches except by time, if the server sets the
    times of all of them. If all of them are known already, the message is a repeat and acts as its first commit did
    (L3).
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
    """The identity of a message, by which a repeat is recognised: a key of (sender, system, id), a hash of its content,
    and its expiry.

    ``is_remembered`` is false if the content alone makes the message idempotent: then its id is only compared.
    """

    key: str
    content: bytes
    is_remembered: bool
    keep_us: int


# One flat struct for all kinds of commits, not a union of small ones. It is made for each message; a union adds a
# second object and an isinstance test in each of the two codecs, and their code gets longer. Ten fields are shared.
class Commit(Struct, frozen=True, gc=False):
    """One message of one user, planned: the store applies it as a whole or not at all.

    ``now_us``: the clock of the process that planned it. ``epoch_seed``: 3 bytes that name the epoch if this creates
    the user. Exactly one of these groups is used: creations, ids and spans (intervals); ``external``; ``is_reset``;
    ``forget_device``; ``remind`` (item, index of the reminder); ``keep`` (categories, with the live items that
    may stay).

    ``reason``: why its dismissals by id happen; if it is ``DISMISSED``, intervals use ``INTERVAL``. ``has_follow_up``:
    the reminder also goes to devices that are offline, so the agenda keeps work for it. ``is_conditional``: nothing
    changes unless all of ``ids`` are live and hidden by no device, and all creations become live. ``is_for_known``:
    nothing changes unless the user is known (``Agenda.known_users``): it may have been deleted since it was read.
    ``max_live``: limits of the categories of its creations; the store then commits a ``keep`` of them.
    ``records_removals``: the agenda records each item that leaves, even without timers (see
    ``RecordedEvents.removals``). ``trace``: the packed context of a sampled message, for its announcement.
    """

    now_us: int
    epoch_seed: bytes
    sender: Sender = BY_BACKEND
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
    keep: tuple[tuple[str, int], ...] = ()
    is_conditional: bool = False
    is_for_known: bool = False
    max_live: tuple[tuple[str, int], ...] = ()
    records_removals: bool = False
    spread_s: int = 30
    trace: bytes = b""


def eviction_commit(commit: Commit, receipt: Receipt) -> Commit | None:
    """Return the commit that displaces the oldest items if ``commit`` may exceed the ``max_live`` of a category."""
    if not commit.max_live or not receipt.created:
        return None
    return Commit(
        commit.now_us,
        commit.epoch_seed,
        reason=RemovalReason.DISPLACED,
        keep=commit.max_live,
        records_removals=commit.records_removals,
    )


# ---- receipts


class IgnoredReason(Enum):
    """The reason for which a creation did not result in a live item (http.md, "Messages"): the first that applies."""

    CONFLICT = "conflict"
    DISMISSED = "dismissed"
    EXPIRED = "expired"
    DUPLICATE = "duplicate"
    STALE = "stale"


class Receipt(Struct, frozen=True, gc=False):
    """The effect of a commit. ``dismissed``: ids that left the sender's view. ``is_unchanged``: it had no effect.

    ``hidden_by``: of a dry run only, created items with the devices that dismissed them before.
    ``extra_weight``: the weight of the commit beyond that of its message, which is charged to a device. One unit is
    64 KiB of records that Redis wrote (``cost.EXTRA_BYTES_PER_UNIT``), or 50 items that it hid. It is also 128 KiB that
    Redis read, to displace items or of remembered intervals. If the CPU time of the commit is worth more, that counts
    instead: one unit for each 5 ms. The time of its interval search is added. The removal of a device costs three units
    for 50 items that it makes visible, or ten times its CPU time. 0 in the memory store.
    """

    epoch: bytes
    seq: int
    is_unchanged: bool = False
    created: tuple[str, ...] = ()
    dismissed: tuple[str, ...] = ()
    ignored: tuple[tuple[str, IgnoredReason], ...] = ()
    hidden_by: tuple[tuple[str, frozenset[str]], ...] = ()
    extra_weight: int = 0
