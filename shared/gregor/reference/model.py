"""Executable specification: never runs in production. A user's state: items, stored dismissals, and the rest.

Records are frozen. Only ``UserState`` changes, by ``commit.apply_outcome`` and ``retention.collect``. See
semantics.md, "Where each rule lives".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from msgspec import Struct

from gregor.core.ids import BACKEND, EVERY_DEVICE, is_allowed
from gregor.core.items.sync import NO_EPOCH, ZERO_DIGEST, Removal, StoredExternal, UserPosition, View
from gregor.core.messages.model import Creation, ItemTimerKind, ResolvedInterval, Sender

NEVER_US = (1 << 56) - 1
"""Later than every valid time (7 bytes): nothing is to be collected."""


class ItemRecord(Struct, frozen=True, gc=False):
    """A known item: live (``gone`` is None) or gone. ``seq`` is that of its creation.

    ``hidings``: device to when and why it dismissed this ``"*"`` item for itself; kept after the item is gone, because
    older cursors need it. ``is_trimmed``: the body was deleted, as ``item.json`` shows. ``has_follow_up``: one of its
    reminders had one (``Commit.has_follow_up``).
    """

    item: Creation
    seq: int
    gone: Removal | None = None
    hidings: Mapping[str, Removal] = {}
    is_trimmed: bool = False
    has_follow_up: bool = False

    @property
    def is_timed(self) -> bool:
        """Whether a user who was away may have been notified, by push or e-mail."""
        return self.has_follow_up or any(timer.kind is not ItemTimerKind.WINDOW for timer in self.item.timers)

    @property
    def entries(self) -> int:
        """How many entries of the history it is when it is gone: itself, and the hidings that began with it."""
        return 1 + sum(hiding.seq == self.seq for hiding in self.hidings.values())

    @property
    def is_shared(self) -> bool:
        """Whether its leaf is in the digest of the view of all devices (``for_device`` null or ``"*"``)."""
        return self.item.for_device in (None, EVERY_DEVICE)

    def is_of(self, view: View) -> bool:
        """Return whether the item is for ``view``, by device and category, live or gone."""
        is_for = view.device == BACKEND or self.is_shared or self.item.for_device == view.device
        return is_for and is_allowed(view.category_filter, self.item.category)

    def left(self, view: View) -> Removal | None:
        """Return when and why the item left ``view``, if it is for it; None while it is there.

        A hiding is always before the end for all devices. The backend's view ignores hidings.
        """
        return self.hidings.get(view.device, self.gone) if view.device != BACKEND else self.gone

    def is_in(self, view: View) -> bool:
        """Return whether ``view`` shows the item now."""
        return self.is_of(view) and self.left(view) is None


class DismissalEffect(Enum):
    """The effect of a dismissal on an item (semantics.md L8)."""

    NOTHING = 0
    HIDES = 1
    ENDS = 2


def dismissal_effect(sender: Sender, item: Creation) -> DismissalEffect:
    """Return the effect of a dismissal of ``item`` by ``sender``, whenever the two meet (L8)."""
    if not is_allowed(sender.category_filter, item.category):
        return DismissalEffect.NOTHING
    if sender.device == BACKEND or item.for_device is None or item.for_device == sender.device:
        return DismissalEffect.ENDS
    return DismissalEffect.HIDES if item.for_device == EVERY_DEVICE else DismissalEffect.NOTHING


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A stored dismissal of an unknown id. Its retention counts from ``at_us``, its last acceptance.

    ``seq``: that of the user after its last acceptance.
    """

    sender: Sender
    at_us: int
    seq: int = 0


@dataclass(frozen=True, slots=True)
class StoredInterval:
    """A stored interval, and the device that sent it (``""``: the backend).

    ``at_us``: its retention counts from here: its acceptance, or its end if that is later. The sender's category
    filter is not stored: it covers the whole interval, or the interval was rejected.
    """

    device: str
    span: ResolvedInterval
    at_us: int


IntervalKey = tuple[str, bool]
"""A category (False) or a prefix (True): the key of stored intervals."""


@dataclass(frozen=True, slots=True)
class KeptExternal:
    """An external message and the time of its acceptance."""

    at_us: int
    external: StoredExternal


@dataclass(slots=True)
class UserState:
    """The whole state of one user.

    ``floor``: no delta is possible from cursors below it. ``horizon_us``: None if nothing was forgotten (L4).
    ``external_floor``: the greatest seq of a deleted external message. ``forgotten``: device to the seq at which it
    was forgotten. ``message_ids``: key to (content, expiry). ``agenda``: see ``reference.agenda``. ``digest``: of the
    view of all devices, ignoring hidings. ``collect_at_us``: before this time nothing expires by age.
    """

    epoch: bytes = NO_EPOCH
    seq: int = 0
    generation: int = 0
    floor: int = 0
    horizon_us: int | None = None
    digest: bytes = ZERO_DIGEST
    live: dict[str, ItemRecord] = field(default_factory=dict)
    gone: dict[str, ItemRecord] = field(default_factory=dict)
    tombstones: dict[str, tuple[Tombstone, ...]] = field(default_factory=dict)
    spans: dict[IntervalKey, tuple[StoredInterval, ...]] = field(default_factory=dict)
    message_ids: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    externals: list[KeptExternal] = field(default_factory=list)
    external_floor: int = 0
    forgotten: dict[str, int] = field(default_factory=dict)
    agenda: dict[str, int] = field(default_factory=dict)
    collect_at_us: int = NEVER_US

    def record(self, item_id: str) -> ItemRecord | None:
        """Return the record of an id, live or gone."""
        return self.live.get(item_id) or self.gone.get(item_id)

    @property
    def is_seen(self) -> bool:
        """Whether a commit stored anything: one without effect that is not remembered creates no user."""
        is_remembering = bool(self.tombstones or self.spans or self.message_ids) or self.horizon_us is not None
        return self.seq > 0 or is_remembering

    @property
    def live_bytes(self) -> int:
        """JSON of all live items, in bytes."""
        return sum(len(record.item.json) for record in self.live.values())

    @property
    def head(self) -> UserPosition:
        """The position, and the digest of the view of all devices."""
        return UserPosition(self.epoch, self.seq, self.digest)
