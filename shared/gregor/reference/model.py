"""What is known of a user: items live and gone, facts that wait for items, what is kept beside the state.

Records are frozen; ``User`` is the one thing that changes, and only where an outcome of ``state.decide`` or
``retention.collect`` is taken over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from gregor.core.ids import BACKEND, EVERY_DEVICE, is_allowed
from gregor.core.items.sync import NO_EPOCH, ZERO_DIGEST, Removal, StoredExternal, UserPosition, View
from gregor.core.messages.model import OPEN_US, Creation, ItemTimerKind, ResolvedInterval, Sender


@dataclass(frozen=True, slots=True)
class ItemRecord:
    """A known item: live (``gone is None``) or gone. ``seq`` is that of its creation.

    ``hidings``: device to when and why it dismissed this ``"*"`` item for itself; kept when the item is gone, since
    cursors from before the hiding need it. ``is_trimmed``: the body went, ``item.json`` says so. ``is_followed``: one
    of its reminders was followed (``Commit.is_followed``).
    """

    item: Creation
    seq: int
    gone: Removal | None = None
    hidings: Mapping[str, Removal] = field(default_factory=dict)
    is_trimmed: bool = False
    has_follow_up: bool = False

    @property
    def is_timed(self) -> bool:
        """Whether somebody who was not looking may have been told of it, by push or mail."""
        return self.has_follow_up or any(timer.kind is not ItemTimerKind.WINDOW for timer in self.item.timers)

    @property
    def is_shared(self) -> bool:
        """Whether its leaf is in the digest of what every device sees (items of ``null`` and of ``"*"``)."""
        return self.item.for_device in (None, EVERY_DEVICE)

    def is_of(self, view: View) -> bool:
        """Whether ``view`` is one that the item is for: by device and category, whatever became of the item."""
        is_for = view.device == BACKEND or self.is_shared or self.item.for_device == view.device
        return is_for and is_allowed(view.category_filter, self.item.category)

    def left(self, view: View) -> Removal | None:
        """When and why the item left ``view``, one of those it is for; ``None`` while it is there.

        A hiding is always before the end for all; the backend's view knows no hidings.
        """
        return self.hidings.get(view.device, self.gone) if view.device != BACKEND else self.gone

    def is_in(self, view: View) -> bool:
        """Whether ``view`` shows the item now."""
        return self.is_of(view) and self.left(view) is None


class DismissalEffect(Enum):
    """What a dismissal by some sender does to an item (semantics.md L8)."""

    NOTHING = 0
    HIDES = 1
    ENDS = 2


def dismissal_effect(sender: Sender, item: Creation) -> DismissalEffect:
    """What a dismissal by ``sender`` that names ``item`` does to it, whenever the two meet (L8)."""
    if not is_allowed(sender.category_filter, item.category):
        return DismissalEffect.NOTHING
    if sender.device == BACKEND or item.for_device is None or item.for_device == sender.device:
        return DismissalEffect.ENDS
    return DismissalEffect.HIDES if item.for_device == EVERY_DEVICE else DismissalEffect.NOTHING


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A dismissal of an unknown id that stands until the retention after ``at_us``, the last time it was accepted."""

    sender: Sender
    at_us: int


@dataclass(frozen=True, slots=True)
class StoredInterval:
    """An interval that stands, and the device that set it (``""``: the backend).

    ``at_us``: what its retention counts from, its acceptance, or its end where that is later. The sender's category
    limits are not kept: they cover all that the interval speaks of, else it was refused.
    """

    device: str
    span: ResolvedInterval
    at_us: int


Branch = tuple[str, bool]
"""A category (``False``) or a prefix (``True``): what intervals are kept by."""


@dataclass(frozen=True, slots=True)
class KeptExternal:
    """An external message and when it was accepted."""

    at_us: int
    external: StoredExternal


@dataclass(slots=True)
class UserState:
    """All that the state of one user is made of.

    ``floor``: deltas from cursors below it cannot be told any more. ``horizon_us``: ``None`` where nothing was
    forgotten (L4). ``external_floor``: the greatest seq of an external message that is not kept any more.
    ``forgotten``: device to the seq at which it was forgotten. ``message_ids``: key to (content, kept until).
    ``agenda``: what is to be done when (``core.agenda``). ``digest``: that of what every device sees, hidings not
    subtracted. ``collect_at_us``: nothing is to be forgotten for its age before this moment.
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
    spans: dict[Branch, tuple[StoredInterval, ...]] = field(default_factory=dict)
    message_ids: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    externals: list[KeptExternal] = field(default_factory=list)
    external_floor: int = 0
    forgotten: dict[str, int] = field(default_factory=dict)
    agenda: dict[str, int] = field(default_factory=dict)
    collect_at_us: int = OPEN_US

    def record(self, item_id: str) -> ItemRecord | None:
        """What is known of an id, live or gone."""
        return self.live.get(item_id) or self.gone.get(item_id)

    @property
    def is_seen(self) -> bool:
        """Whether a commit left anything: one that had no effect and is not remembered makes no user."""
        is_remembering = bool(self.tombstones or self.spans or self.message_ids) or self.horizon_us is not None
        return self.seq > 0 or is_remembering

    @property
    def live_bytes(self) -> int:
        """JSON of all live items."""
        return sum(len(record.item.json) for record in self.live.values())

    @property
    def head(self) -> UserPosition:
        """Position and digest of what every device sees."""
        return UserPosition(self.epoch, self.seq, self.digest)
