"""Cursors, views and the answers that bring a reader up to date (semantics.md L9, protocol.md "sync object")."""

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
"""The epoch of a user that was never seen."""

ZERO_DIGEST = bytes(32)
"""The digest of an empty view."""


@dataclass(frozen=True, slots=True)
class View:
    """What one reader may see: a device (``""``: the backend, every item) and categories (``None``: all)."""

    device: str = BACKEND
    category_filter: Prefixes = None

    @property
    def tag(self) -> str:
        """The view's part of a cursor tag: empty for the backend's whole view, else 10 characters."""
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
    """An epoch (3 bytes) as the head of a cursor tag: six hex digits."""
    return epoch.hex()


def cursor_for(epoch: bytes, view: View, seq: int) -> Cursor:
    """The cursor of ``view`` at ``seq`` in ``epoch``."""
    return Cursor(epoch_text(epoch) + view.tag, seq)


def cursor_text(epoch: bytes, view: View, seq: int) -> str:
    """``cursor_for`` as it is on the wire, at once."""
    return f"{epoch.hex()}{view.tag}-{seq}"


def is_initial_cursor(cursor: Cursor | None, view: View) -> bool:
    """Whether it was told while the user was not known yet: its copy is empty, and all that came since is news."""
    return cursor == cursor_for(NO_EPOCH, view, 0)


def parse_cursor(text: str) -> Cursor | None:
    """A cursor from the wire, or ``None`` where it is none (callers answer it as a void one: a full copy)."""
    match = _CURSOR.match(text)
    return Cursor(match[1], int(match[2])) if match else None


@dataclass(frozen=True, slots=True)
class StoredItem:
    """A live item as readers get it: its JSON exactly as hashed, and what is needed to sort and filter it."""

    id: str
    category: str
    created_us: int
    seq: int
    json: bytes
    expires_us: int | None = None
    leaf: bytes = b""


@dataclass(frozen=True, slots=True)
class LiveItem:
    """A live item as those who act at a time need it. ``hidden_by``: the devices that dismissed it for themselves."""

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
        """Whether no read shows it any more (L6)."""
        return self.expires_us is not None and self.expires_us <= now_us


@dataclass(frozen=True, slots=True)
class StoredExternal:
    """An external message that is still kept."""

    seq: int
    system: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Nothing in the view changed since the cursor; external messages may have come.

    ``digest`` is the view's, for the process that asks; it does not go out.
    """

    epoch: bytes
    seq: int
    digest: bytes
    external: tuple[StoredExternal, ...] = ()
    external_gap: bool = False


@dataclass(frozen=True, slots=True)
class Delta:
    """The creations and dismissals that lead from the cursor to ``seq``, netted."""

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


@dataclass(frozen=True, slots=True)
class Removal:
    """When and why an item left: for all (``device`` of the dismissing sender, or the backend), or for the view."""

    at_us: int
    reason: RemovalReason
    device: str | None
    seq: int


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """An item of the history, live or gone. ``json``: the item as it goes out; ``is_trimmed``: without its body."""

    id: str
    category: str
    created_us: int
    seq: int
    json: bytes
    gone: Removal | None
    is_trimmed: bool = False


@dataclass(frozen=True, slots=True)
class UserPosition:
    """A user's position as the store has it: to compare with what a process believes (semantics.md L12)."""

    epoch: bytes
    seq: int
    digest: bytes


def is_full_smaller(create: Iterable[StoredItem], dismiss: Iterable[str], live_bytes: int) -> bool:
    """Whether the whole copy is shorter than a delta, by the JSON of all live items: the rule of all stores (L9)."""
    return sum(len(item.json) for item in create) + sum(map(len, dismiss)) > live_bytes
