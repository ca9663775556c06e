"""Cursors, views, and the results of a sync: how a reader gets up to date (semantics.md L9, http.md, "Reads")."""

from __future__ import annotations

import hashlib
import re
from base64 import b32encode
from collections.abc import Iterable
from dataclasses import dataclass

from msgspec import Struct

from gregor.core.ids import BACKEND, Prefixes
from gregor.core.messages.model import RemovalReason

_CURSOR = re.compile(r"([a-z0-9]{1,24})-(0|[1-9][0-9]{0,12})\Z")

NO_EPOCH = b"\0\0\0"
"""The epoch of an unknown user."""

ZERO_DIGEST = bytes(32)
"""The digest of an empty view."""


# ---- views and cursors


@dataclass(frozen=True, slots=True)
class View:
    """The part of a user's state that one reader sees: by device (``""``: the backend) and category filter."""

    device: str = BACKEND
    category_filter: Prefixes = None

    @property
    def tag(self) -> str:
        """The part of a cursor that names the view: empty for the backend's full view, else 10 characters."""
        if self.device == BACKEND and self.category_filter is None:
            return ""
        text = self.device if self.category_filter is None else self.device + "\0" + "\0".join(self.category_filter)
        return b32encode(hashlib.sha256(text.encode()).digest()[:10])[:10].decode().lower()


class Cursor(Struct, frozen=True):
    """A position in one view: ``"<tag>-<seq>"`` on the wire."""

    tag: str
    seq: int

    def __str__(self) -> str:
        return f"{self.tag}-{self.seq}"


def epoch_text(epoch: bytes) -> str:
    """Return an epoch (3 bytes) as the start of a cursor: six hex digits."""
    return epoch.hex()


def cursor_for(epoch: bytes, view: View, seq: int) -> Cursor:
    """Return the cursor of ``view`` at ``seq`` in ``epoch``."""
    return Cursor(epoch_text(epoch) + view.tag, seq)


def cursor_text(epoch: bytes, view: View, seq: int) -> str:
    """Return ``cursor_for`` as it is on the wire, without the object between."""
    return f"{epoch.hex()}{view.tag}-{seq}"


def is_initial_cursor(cursor: Cursor | None, view: View) -> bool:
    """Return whether the cursor is from before the user existed: the reader's copy is empty, and everything is new."""
    return cursor == cursor_for(NO_EPOCH, view, 0)


def parse_cursor(text: str) -> Cursor | None:
    """Return a cursor from the wire, or None if it is malformed. Callers answer it with a full sync."""
    match = _CURSOR.match(text)
    return Cursor(match[1], int(match[2])) if match else None


# ---- items for readers


@dataclass(frozen=True, slots=True)
class StoredItem:
    """A live item for readers: its JSON exactly as hashed, and the fields to sort and filter by."""

    id: str
    category: str
    created_us: int
    seq: int
    json: bytes
    expires_us: int | None = None
    leaf: bytes = b""


@dataclass(frozen=True, slots=True)
class LiveItem:
    """A live item for scheduled work. ``hidden_by``: the devices that dismissed it for themselves."""

    id: str
    category: str
    for_device: str | None
    created_us: int
    seq: int
    expires_us: int | None
    remind_at_us: tuple[int, ...]
    json: bytes
    hidden_by: frozenset[str] = frozenset()

    def is_expired(self, now_us: int) -> bool:
        """Return whether it has expired: then no read shows it (L6)."""
        return self.expires_us is not None and self.expires_us <= now_us


@dataclass(frozen=True, slots=True)
class StoredExternal:
    """A stored external message."""

    seq: int
    system: str
    body: bytes


# ---- results of a sync


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Nothing in the view changed since the cursor; there may be new external messages.

    ``digest`` is the view's, for the process that asked; it is not sent.
    """

    epoch: bytes
    seq: int
    digest: bytes
    external: tuple[StoredExternal, ...] = ()
    external_gap: bool = False


@dataclass(frozen=True, slots=True)
class Delta:
    """The net creations and dismissals from the cursor to ``seq``."""

    epoch: bytes
    seq: int
    digest: bytes
    create: tuple[StoredItem, ...]
    dismiss: tuple[str, ...]
    external: tuple[StoredExternal, ...] = ()
    external_gap: bool = False


@dataclass(frozen=True, slots=True)
class Full:
    """The whole view."""

    epoch: bytes
    seq: int
    digest: bytes
    items: tuple[StoredItem, ...]
    external: tuple[StoredExternal, ...] = ()
    external_gap: bool = False


SyncResult = Unchanged | Delta | Full


# ---- history


class Removal(Struct, frozen=True, gc=False):
    """When and why an item left. ``device``: the device that dismissed it, if any.

    The item left for all readers, or for one view if a device dismissed a ``"*"`` item for itself.
    """

    at_us: int
    reason: RemovalReason
    device: str | None
    seq: int


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """An item of the history, live or gone. ``json``: the item as clients get it; ``is_trimmed``: without its body."""

    id: str
    category: str
    created_us: int
    seq: int
    json: bytes
    gone: Removal | None
    is_trimmed: bool = False


@dataclass(frozen=True, slots=True)
class UserSizes:
    """The sizes of a user's data.

    ``live``: live items, ``live_bytes``: their JSON. ``gone``: entries of items that left or were dismissed.
    ``delivered``: items with deliveries. ``device_dismissals``: those by single devices, of live items and unknown ids.
    """

    live: int
    gone: int
    delivered: int = 0
    live_bytes: int = 0
    device_dismissals: int = 0


@dataclass(frozen=True, slots=True)
class UserPosition:
    """A user's position and digest in the store: a process compares its own with it (semantics.md L12)."""

    epoch: bytes
    seq: int
    digest: bytes


def is_full_smaller(create: Iterable[StoredItem], dismiss: Iterable[str], live_bytes: int) -> bool:
    """Return whether the full view is smaller than a delta, by the JSON of all live items.

    All stores use this rule (L9).
    """
    return sum(len(item.json) for item in create) + sum(map(len, dismiss)) > live_bytes
