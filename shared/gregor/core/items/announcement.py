"""Announcements: what a commit publishes to the gateways, one binary payload a message. Gateways cut frames out of it.

The store makes the payload inside the commit, in the same atomic step (semantics.md L5). The memory store makes the
same bytes. Layout, big-endian (``str8``: a length byte and that many bytes)::

    "C"  epoch 3  seq 5  kind 1  flags 1  before 8  after 8  reason 1  sender str8   then by kind
    "u"  count 2, then entries:  op 1 ("+" entered, "-" left)  scope 1  [count 1, device str8 …]  id str8  length 3
                                 and that many bytes: for "+" the packed item (``codec``), for "-" the category
    "e"  system str8, the body to the end
    "f"  spread 2 (seconds)
    "r"  scope as above, id str8, category str8, at 7 (µs)

The flag ``HAS_TRACE`` says that the last 25 bytes are a trace context (``core/trace_context.py``). A reader that does
not know the flag ignores them, because it reads ``u``, ``f`` and ``r`` by their lengths. ``e`` ends with the body, so
it never has them.

``before`` and ``after`` are the first two lanes of the digest of the view of all devices: a chain that shows forks
(semantics.md L12). ``scope``: 0 every device, 1 only the listed devices, 2 all but the listed ones. The device ``""``
is the backend's full view, which observers have: it has every item of one device, and ignores hiding. A control
(closes, frames for a session on another gateway, revocations) is ``"K"`` and a JSON document.

The first byte of a payload names its format (``core/formats.py``): all of these are format 1.

Other places have the same rules: see semantics.md, "Where each rule lives".
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final

from msgspec import Struct

from gregor.core.formats import UnknownFormat
from gregor.core.ids import GREGOR, Prefixes, covered_ranges, is_allowed, sort_key
from gregor.core.messages.model import RemovalReason
from gregor.core.times import format_time
from gregor.core.trace_context import PACKED_SIZE

from .codec import item_json_fast, packed_category, unpack_item
from .sync import View, cursor_for

# ---- values


class AnnouncementKind(Enum):
    """The kind of a payload; the value is its letter."""

    UPDATE = b"u"
    EXTERNAL = b"e"
    RESET = b"f"
    REMIND = b"r"


class DeviceScope(Enum):
    """The devices that an entry concerns."""

    EVERY = 0
    ONLY = 1
    ALL_BUT = 2


# AnnouncementEntry and Announcement are not frozen: a gateway makes them for every message, and making a frozen
# dataclass costs twice as much.
@dataclass(slots=True)
class AnnouncementEntry:
    """One item that entered (``packed`` is set) or left (``packed`` is None) the views of the devices in scope."""

    id: str
    category: str
    packed: bytes | None
    scope: DeviceScope = DeviceScope.EVERY
    devices: tuple[str, ...] = ()
    _member: bytes | None = field(default=None, compare=False, repr=False)

    @property
    def member(self) -> bytes:
        """Its member of a frame: ``"id":item``, or ``"id"`` if the item left. It is made once for all views."""
        if self._member is None:
            name, item = b'"%s"' % self.id.encode(), self.json
            self._member = name if item is None else b"%b:%b" % (name, item)
        return self._member

    @property
    def json(self) -> bytes | None:
        """The item that entered, as clients get it."""
        return None if self.packed is None else unpack_item(self.packed).json()

    def concerns(self, view: View) -> bool:
        """Return whether this entry changes ``view``.

        The backend's full view ignores hiding: it asks as device ``""``.
        """
        return self.is_in_scope(view.device) and is_allowed(view.category_filter, self.category)

    def is_in_scope(self, device: str) -> bool:
        """Return whether the entry is for the views of a device."""
        if self.scope is DeviceScope.EVERY:
            return True
        return (device in self.devices) == (self.scope is DeviceScope.ONLY)


class _EntryKinds:
    """The kinds of some entries: those of one kind have the same category and scope, so they concern the same views.

    ``of``: the kind of each entry. ``each``: an entry of each kind, sorted by category.
    """

    __slots__ = ("_keys", "each", "of")

    def __init__(self, entries: Sequence[AnnouncementEntry]) -> None:
        names = [(sort_key(entry.category), entry.scope.value, entry.devices) for entry in entries]
        found = dict(zip(names, entries, strict=True))
        places = {name: place for place, name in enumerate(sorted(found))}
        self.of = [places[name] for name in names]
        self.each = [found[name] for name in places]
        self._keys = [key for key, _, _ in places]

    def concerning(self, view: View) -> tuple[bool, ...]:
        """Return for each kind whether it concerns a view (``AnnouncementEntry.concerns``)."""
        if view.category_filter is None or len(self.each) < len(view.category_filter):
            return tuple(entry.concerns(view) for entry in self.each)
        concerned = [False] * len(self.each)
        for places in covered_ranges(view.category_filter, self._keys):
            concerned[places] = [entry.is_in_scope(view.device) for entry in self.each[places]]
        return tuple(concerned)


IS_NEW_EPOCH = 1
"""Flag: this commit made the user's epoch, so each of its frames has a cursor (websocket.md, "Server frames")."""


HAS_TRACE = 2
"""Flag: a trace context follows, because the message is sampled."""


@dataclass(slots=True)
class Announcement:
    """A decoded payload. ``sender``: the device that sent the message (``""``: the backend).

    ``is_for_all``: it concerns every device, so devices with the same category filter get the same frame.
    ``trace``: the packed trace context of a sampled message.
    """

    kind: AnnouncementKind
    epoch: bytes
    seq: int
    before: bytes
    after: bytes
    sender: str = ""
    reason: RemovalReason = RemovalReason.DISMISSED
    is_new_epoch: bool = False
    entries: tuple[AnnouncementEntry, ...] = ()
    system: str = ""
    body: bytes = b""
    spread_s: int = 0
    remind_at_us: int = 0
    is_for_all: bool = field(default=False, compare=False, repr=False)
    trace: bytes = b""
    _frames: dict[View | Prefixes, bytes | None] = field(default_factory=dict, compare=False, repr=False)
    _shared: dict[tuple[bool, ...], bytes | None] | None = field(default=None, compare=False, repr=False)
    _kinds: _EntryKinds | None = field(default=None, compare=False, repr=False)

    def encode(self) -> bytes:
        """Return the payload, byte for byte as the commit script makes it."""
        has_trace = bool(self.trace) and self.kind is not AnnouncementKind.EXTERNAL
        flags = (IS_NEW_EPOCH if self.is_new_epoch else 0) | (HAS_TRACE if has_trace else 0)
        return self._encode(flags) + (self.trace if has_trace else b"")

    def _encode(self, flags: int) -> bytes:
        head = b"C" + self.epoch + self.seq.to_bytes(5, "big") + self.kind.value + bytes([flags])
        head += self.before + self.after + self.reason.value.encode() + _str8(self.sender)
        match self.kind:
            case AnnouncementKind.UPDATE:
                return head + len(self.entries).to_bytes(2, "big") + b"".join(map(_encode_entry, self.entries))
            case AnnouncementKind.EXTERNAL:
                return head + _str8(self.system) + self.body
            case AnnouncementKind.RESET:
                return head + self.spread_s.to_bytes(2, "big")
            case AnnouncementKind.REMIND:
                entry = self.entries[0]
                return (
                    head
                    + _scope(entry)
                    + _str8(entry.id)
                    + _str8(entry.category)
                    + self.remind_at_us.to_bytes(7, "big")
                )

    def frame(self, view: View) -> bytes | None:
        """Return the live frame of ``view`` as JSON, or None if the view did not change.

        It is made once for all views with the same change.
        """
        key = view.category_filter if self.is_for_all else view
        if key not in self._frames:
            self._frames[key] = self._shared_frame(view) if self._frames else self._make_frame(view)
        return self._frames[key]

    def _shared_frame(self, view: View) -> bytes | None:
        """Return the frame of a further view. A user may have hundreds of filters that give the same frame."""
        if self.is_new_epoch:  # the cursor names the view
            return self._make_frame(view)
        shared = self._shared = self._shared or {}
        kinds = self._kinds = self._kinds or _EntryKinds(self.entries)
        change = kinds.concerning(view)
        if change not in shared:
            mine = [entry for entry, kind in zip(self.entries, kinds.of, strict=True) if change[kind]]
            shared[change] = self._make_frame(view, mine)
        return shared[change]

    def with_cursor(self) -> Announcement:
        """Return a copy for views that do not know the epoch yet: its frames have the cursor."""
        return replace(self, is_new_epoch=True, is_for_all=False, _frames={}, _shared=None, _kinds=None)

    def empty_frame(self, view: View) -> bytes:
        """Return the frame with an empty body: the sender's connections get it if their view did not change."""
        return self._wrap(view, b"{}")

    def _make_frame(self, view: View, mine: list[AnnouncementEntry] | None = None) -> bytes | None:
        """Return a new frame. ``mine``: the entries that concern the view, if they are known."""
        if self.kind is AnnouncementKind.EXTERNAL:
            return self._wrap(view, self.body, self.system)
        if self.kind is AnnouncementKind.RESET:
            return b'{"system":"gregor","seq":%d,"body":{"flush":true},"spread":%d}' % (self.seq, self.spread_s)
        if mine is None:
            mine = [entry for entry in self.entries if entry.concerns(view)]
        if not mine:
            return None
        if len(mine) == 1 and mine[0].packed is not None:  # one creation: by far the commonest
            return self._wrap(view, b'{"create":{"%s":%s}}' % (mine[0].id.encode(), mine[0].json))
        if self.kind is AnnouncementKind.REMIND:
            return self._wrap(view, b'{"remind":{"%s":%s}}' % (mine[0].id.encode(), format_time(self.remind_at_us)))
        parts = []
        created = [entry.member for entry in mine if entry.packed is not None]
        gone = [entry.member for entry in mine if entry.packed is None]
        if created:
            parts.append(b'"create":{' + b",".join(created) + b"}")
        if gone:
            reason = b',"reason":"%s"' % self.reason.wire_name.encode() if self.reason.is_announced else b""
            parts.append(b'"dismiss":{"ids":[' + b",".join(gone) + b"]" + reason + b"}")
        return self._wrap(view, b"{" + b",".join(parts) + b"}")

    def _wrap(self, view: View, body: bytes, system: str = GREGOR) -> bytes:
        cursor = b',"cursor":"%s"' % str(cursor_for(self.epoch, view, self.seq)).encode() if self.is_new_epoch else b""
        return b'{"system":"%s","seq":%d%s,"body":%s}' % (system.encode(), self.seq, cursor, body)


# ---- decoding


# Positional and flat: apart from its writes, a gateway spends its time on a message here and in ``frame``.
def decode_announcement(payload: bytes) -> Announcement:
    """Decode a payload that begins with ``C``. Raises ``ValueError`` if it is malformed or has another format."""
    if payload[:1] != b"C":
        raise UnknownFormat("announcement", payload[0] if payload else 0)
    if len(payload) < 29:
        raise ValueError("not an announcement")
    epoch, seq, letter, flags, before, after, reason = _HEAD.unpack_from(payload)
    if letter not in _KINDS or reason not in _REASONS:
        raise ValueError("an announcement of an unknown kind")
    kind = _KINDS[letter]
    reader = _AnnouncementReader(payload, _HEAD.size)
    sender = reader.str8()
    entries: tuple[AnnouncementEntry, ...] = ()
    system, body, spread_s, remind_at_us = "", b"", 0, 0
    if kind is AnnouncementKind.UPDATE:
        entries = tuple([reader.entry() for _ in range(reader.number(2))])
    elif kind is AnnouncementKind.EXTERNAL:
        system, body = reader.str8(), reader.rest()
    elif kind is AnnouncementKind.RESET:
        spread_s = reader.number(2)
    else:
        scope, devices = reader.scope()
        entries = (AnnouncementEntry(reader.str8(), reader.str8(), None, scope, devices),)
        remind_at_us = reader.number(7)
    return Announcement(
        kind,
        epoch,
        int.from_bytes(seq, "big"),
        before,
        after,
        sender,
        _REASONS[reason],
        bool(flags & IS_NEW_EPOCH),
        entries,
        system,
        body,
        spread_s,
        remind_at_us,
        not flags & IS_NEW_EPOCH and all(entry.scope is DeviceScope.EVERY for entry in entries),
        payload[-PACKED_SIZE:] if flags & HAS_TRACE else b"",
    )


_HEAD: Final = struct.Struct(">x3s5scB8s8sc")
_KINDS: Final = {kind.value: kind for kind in AnnouncementKind}
_REASONS: Final = {reason.value.encode(): reason for reason in RemovalReason}
_SCOPES: Final = tuple(DeviceScope)


class _AnnouncementReader:
    """A reader of a payload, from ``at`` on."""

    __slots__ = ("at", "payload")

    def __init__(self, payload: bytes, at: int) -> None:
        self.payload = payload
        self.at = at

    def number(self, size: int) -> int:
        self.at += size
        return int.from_bytes(self.payload[self.at - size : self.at], "big")

    def str8(self) -> str:
        begin = self.at + 1
        self.at = end = begin + self.payload[self.at]
        return self.payload[begin:end].decode()

    def rest(self) -> bytes:
        return self.payload[self.at :]

    def scope(self) -> tuple[DeviceScope, tuple[str, ...]]:
        number = self.payload[self.at]
        self.at += 1
        if number == 0:
            return DeviceScope.EVERY, ()
        return _SCOPES[number], tuple([self.str8() for _ in range(self.number(1))])

    def entry(self) -> AnnouncementEntry:
        is_new = self.payload[self.at] == _ENTERED
        self.at += 1
        scope, devices = self.scope()
        item_id, size = self.str8(), self.number(3)
        begin, self.at = self.at, self.at + size
        if self.at > len(self.payload):
            raise ValueError("a truncated announcement")
        content = self.payload[begin : self.at]
        if is_new:
            return AnnouncementEntry(item_id, packed_category(content), content, scope, devices)
        return AnnouncementEntry(item_id, content.decode(), None, scope, devices)


_ENTERED: Final = ord("+")


# ---- fast path: one creation for every device


class CreationFrame(Struct, frozen=True, gc=False):
    """The commonest announcement: the backend made one item for every device.

    ``frame``: for every view that may see it.
    """

    epoch: bytes
    seq: int
    before: bytes
    after: bytes
    category: str
    frame: bytes


def decode_fast(payload: bytes) -> CreationFrame | None:
    """Decode the commonest announcement and make its frame; None for all others.

    Fast path of ``decode_announcement`` and ``Announcement.frame``, at a third of their cost. Benchmark:
    ``tests/bench/fanout.py``. Equality: ``tests/unit/core/test_announcement.py``. It can go if it saves less than 5 %.
    """
    if len(payload) < _PLAIN.size:
        return None
    letter, epoch, seq_high, seq_low, kind, before, after, shape, id_length = _PLAIN.unpack_from(payload)
    if shape != _ONE_FOR_ALL or kind != _OLD_EPOCH or letter != _COMMITTED:
        return None
    seq, packed_at = seq_high << 32 | seq_low, _PLAIN.size + id_length + 3
    category, json = item_json_fast(payload, packed_at)
    creation = seq, payload[_PLAIN.size : packed_at - 3], json
    frame = b'{"system":"gregor","seq":%d,"body":{"create":{"%b":%b}}}' % creation
    return CreationFrame(epoch, seq, before, after, category.decode(), frame)


# Everything before the id: letter, kind, flags, and the bytes of one item that entered, for every device.
_PLAIN: Final = struct.Struct(">B3sBI2s8s8sx5sB")
_COMMITTED: Final = ord("C")
_OLD_EPOCH: Final = b"u\0"
_ONE_FOR_ALL: Final = b"\0\0\1+\0"


# ---- encoding


def _str8(text: str) -> bytes:
    raw = text.encode()
    return bytes([len(raw)]) + raw


def _scope(entry: AnnouncementEntry) -> bytes:
    if entry.scope is DeviceScope.EVERY:
        return b"\0"
    return bytes([entry.scope.value, len(entry.devices)]) + b"".join(map(_str8, entry.devices))


def _encode_entry(entry: AnnouncementEntry) -> bytes:
    op, content = (b"-", entry.category.encode()) if entry.packed is None else (b"+", entry.packed)
    return op + _scope(entry) + _str8(entry.id) + len(content).to_bytes(3, "big") + content
