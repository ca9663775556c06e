"""The binary form of an item in Redis and in announcements: its fields, its names, and the JSON of its body.

The rest of an item's JSON repeats the fields, so it is generated again on reading, byte for byte as it was hashed.
This saves a third of the memory in Redis and of each publication. Layout, big-endian::

    "L"  created 7  expires 7 (``NEVER``)  hidings 2  rest 2  reminders 1  category 1  device 1  fingerprint 8  leaf 32
    category  device  reminders 7 each  hidings  body

The numbers after ``expires`` are lengths in bytes. The exception is the count of reminders, which shares its byte with
flags (32 push timer, 64 mail timer, 128 time set by the server). ``rest``: bytes of the JSON without the body.
``hidings``: written by the store when a device dismisses a ``"*"`` item for itself. Times are microseconds. A gone
item loses its leaf together with its body: it begins with ``"l"``, and all that follows is 32 bytes earlier.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from typing import Final, NamedTuple

from gregor.core.formats import UnknownFormat
from gregor.core.messages.model import Creation, ItemTimer, ItemTimerKind
from gregor.core.times import format_time

NEVER: Final = 1 << 53
"""The expiry of an item that does not expire: later than any valid time."""

_LENGTHS: Final = Struct(">HHBBB")
# The whole header. The letter and created are one number; so are expires and the upper byte of the hidings' length.
_NEW: Final = Struct(">QQBHBBB8s32s")
_SHOWN: Final = Struct(">QQBHBBB")
_HEADER: Final = 62
_LEAF: Final = 32
_WHOLE: Final = ord("L")
_TRIMMED: Final = ord("l")
_LETTER: Final = _WHOLE << 56
_TIME: Final = (1 << 56) - 1


# ---- packing and unpacking


class PackedItem(NamedTuple):
    """A decoded item. ``device``: ``""`` for all devices. ``leaf`` and ``body`` are empty after they were deleted."""

    created_us: int
    expires_us: int | None
    category: str
    device: str
    leaf: bytes
    remind_at_us: tuple[int, ...]
    hidings: bytes
    body: bytes

    def json(self) -> bytes:
        """Return the item as clients get it; if its body was deleted, as the history shows it."""
        is_trimmed = not self.body
        return item_json(
            self.body or b"null",
            self.category,
            self.device,
            self.created_us,
            self.expires_us,
            self.remind_at_us,
            is_trimmed=is_trimmed,
        )


def pack_item(creation: Creation) -> bytes:
    """Return the binary form of a creation that no device has hidden. The store keeps and publishes it unchanged."""
    category = creation.category.encode()
    device = creation.for_device.encode() if creation.for_device else b""
    reminders = creation.remind_at_us
    flags = 128 if creation.is_stamped else 0
    if creation.timers:
        flags |= _flags(creation.timers)
    expires_us = NEVER if creation.expires_us is None else creation.expires_us
    header = _NEW.pack(
        _LETTER | creation.created_us,
        expires_us << 8,
        0,
        len(creation.json) - len(creation.body),
        len(reminders) + flags,
        len(category),
        len(device),
        creation.fingerprint,
        creation.leaf,
    )
    times = b"".join([at.to_bytes(7, "big") for at in reminders]) if reminders else b""
    return b"%b%b%b%b%b" % (header, category, device, times, creation.body)


def _flags(timers: Iterable[ItemTimer]) -> int:
    flags = 0
    for timer in timers:
        if timer.kind is not ItemTimerKind.WINDOW:
            flags |= 32 if timer.kind is ItemTimerKind.PUSH else 64
    return flags


def unpack_item(raw: bytes, start: int = 0) -> PackedItem:
    """Decode the item that begins at ``start`` and ends with ``raw``. Raises ``UnknownFormat``."""
    letter = raw[start]
    if letter != _WHOLE and letter != _TRIMMED:
        raise UnknownFormat("record", letter)
    hidings_length, _, reminders, category_length, device_length = _LENGTHS.unpack_from(raw, start + 15)
    expires_us = _us(raw, start + 8)
    at = start + _HEADER if letter == _WHOLE else start + _HEADER - _LEAF
    leaf = raw[start + _HEADER - _LEAF : at]
    device_at = at + category_length
    category = raw[at:device_at].decode()
    at = device_at + device_length
    device = raw[device_at:at].decode() if device_length else ""
    times = tuple([_us(raw, at + 7 * n) for n in range(reminders & 31)]) if reminders & 31 else ()
    at += 7 * len(times)
    body_at = at + hidings_length
    return PackedItem(
        _us(raw, start + 1),
        None if expires_us == NEVER else expires_us,
        category,
        device,
        leaf,
        times,
        raw[at:body_at],
        raw[body_at:],
    )


# ---- fast path: category and JSON of a packed item


def item_json_fast(raw: bytes, start: int) -> tuple[bytes, bytes]:
    """Return category and JSON of the item at ``start``, which has its leaf and its body.

    Fast path of ``unpack_item`` and ``PackedItem.json``, for announcements of one creation. Benchmark:
    ``tests/bench/fanout.py``. Equality: ``tests/unit/core/test_announcement.py``. It can go if it saves less than 5 %.
    """
    created_us, expires_us, low, _, reminders, category_length, device_length = _SHOWN.unpack_from(raw, start)
    device_at = start + _HEADER + category_length
    at = device_at + device_length
    category = raw[start + _HEADER : device_at]
    times = format_time(created_us & _TIME)
    if expires_us >> 8 != NEVER:
        times += b',"expires":' + format_time(expires_us >> 8)
    if count := reminders & 31:
        times += _reminders([_us(raw, at + 7 * n) for n in range(count)])
        at += 7 * count
    device = b'"%b"' % raw[device_at : device_at + device_length] if device_length else b"null"
    hidings_length = (expires_us & 0xFF) << 8 | low
    return category, _JSON % (raw[at + hidings_length :], category, device, times, b"")


def packed_category(raw: bytes) -> str:
    """Return the category of a packed item that has its leaf."""
    return raw[_HEADER : _HEADER + raw[20]].decode()


# ---- JSON of an item


def item_json(
    body: bytes,
    category: str,
    device: str,
    created_us: int,
    expires_us: int | None,
    remind_at_us: Iterable[int],
    *,
    is_trimmed: bool = False,
) -> bytes:
    """Return an item as clients get it: canonical JSON (RFC 8785), its members sorted; ``body`` is canonical already.

    ``is_trimmed``: with ``"trimmed":true``, as the history shows an item without its body.
    """
    times = format_time(created_us)
    if expires_us is not None:
        times += b',"expires":' + format_time(expires_us)
    if remind_at_us:
        times += _reminders(remind_at_us)
    trimmed = b',"trimmed":true' if is_trimmed else b""
    return _JSON % (body, category.encode(), b'"%b"' % device.encode() if device else b"null", times, trimmed)


def body_json(json: bytes) -> bytes:
    """Return the canonical JSON of the body in an item of ``item_json``, without decoding it."""
    # Only names and numbers follow the body, so the last match is not in the body.
    return json[len(_BODY_KEY) : json.rindex(_AFTER_BODY)]


_BODY_KEY: Final = b'{"body":'
_AFTER_BODY: Final = b',"category":"'
_JSON: Final = b'{"body":%b,"category":"%b","for_device":%b,"times":{"created":%b}%b}'


def _reminders(at_us: Iterable[int]) -> bytes:
    return b',"remind_at":[' + b",".join(map(format_time, at_us)) + b"]"


def _us(raw: bytes, at: int) -> int:
    return int.from_bytes(raw[at : at + 7], "big")
