"""WebSocket frames (RFC 6455): bytes in, messages out. Pure: no socket, no clock.

Written by hand because the buffers of a library cost 9 KB a connection, and keep the size of the largest frame. This
parser holds nothing between two frames (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from gregor.core.close_codes import CloseCode

MAX_CONTROL_BYTES: Final = 125
"""Largest payload of a control frame (RFC 6455, 5.5)."""


FREE_FRAGMENTS: Final = 64
"""Fragments of one message that may have any size."""
MIN_FRAGMENT_BYTES: Final = 128
"""Average size that further fragments must have."""


class Opcode(IntEnum):
    """Kinds of frames (RFC 6455, 5.2)."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


# ---- types


@dataclass(frozen=True, slots=True)
class IncomingMessage:
    """A complete message or a control frame, unmasked.

    ``tiny_fragments``: its fragments, without the free ones: one, and one more for each ``MIN_FRAGMENT_BYTES``.
    """

    opcode: Opcode
    payload: bytes
    tiny_fragments: int = 0


@dataclass(eq=False)
class FrameError(Exception):
    """The peer violated the protocol; ``code`` is the close code to send (RFC 6455, 7.4.1)."""

    code: CloseCode
    reason: str


# ---- encoding


def encode(payload: bytes, opcode: Opcode = Opcode.TEXT) -> bytes:
    """Return a complete server frame: final and not masked."""
    size = len(payload)
    head = 0x80 | opcode
    if size < 126:
        return bytes((head, size)) + payload
    if size < 65_536:
        return bytes((head, 126)) + size.to_bytes(2, "big") + payload
    return bytes((head, 127)) + size.to_bytes(8, "big") + payload


def encode_close(code: int, reason: str) -> bytes:
    """Return a close frame; a reason that is too long is cut."""
    return encode(code.to_bytes(2, "big") + reason.encode()[: MAX_CONTROL_BYTES - 2], Opcode.CLOSE)


def close_code(payload: bytes) -> int:
    """Return the code in the close frame of a peer; 1005 if there is none. Raises ``FrameError`` if it is not valid."""
    if not payload:
        return CloseCode.NO_STATUS
    code = int.from_bytes(payload[:2], "big")
    is_allowed = 1000 <= code <= 1014 or 3000 <= code <= 4999
    if len(payload) < 2 or not is_allowed or code in (1004, CloseCode.NO_STATUS, CloseCode.ABNORMAL):
        raise FrameError(CloseCode.PROTOCOL_ERROR, "invalid close code")
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise FrameError(CloseCode.INVALID_UTF8, "close reason is not UTF-8") from None
    return code


def unmask(payload: bytes, key: bytes) -> bytes:
    """Return the payload XOR the repeated key (RFC 6455, 5.3)."""
    # One XOR of two big integers: for 200 bytes 17 times as fast as a loop over the bytes.
    size = len(payload)
    stream = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")).to_bytes(size, "big")


# ---- parsing


@dataclass(frozen=True, slots=True)
class _FrameHead:
    """The decoded header of a frame; the payload begins at ``start``."""

    opcode: Opcode
    is_final: bool
    start: int
    size: int

    @property
    def end(self) -> int:
        return self.start + self.size


class FrameParser:
    """Parses the byte stream of one client. Joins fragments; control frames may come between them."""

    __slots__ = ("_count", "_fragments", "_opcode", "_pending", "max_bytes")

    def __init__(self, max_bytes: int) -> None:
        """``max_bytes``: the largest message. A larger one raises 1009 before it is read. It may be changed."""
        self.max_bytes = max_bytes
        self._count = 0
        self._pending: bytes | bytearray = b""
        self._fragments: bytearray | None = None
        self._opcode = Opcode.TEXT

    @property
    def held_bytes(self) -> int:
        """Size of the unfinished message: its fragments, and the part of a frame."""
        return len(self._pending) + len(self._fragments or b"")

    def feed(self, data: bytes) -> Iterator[IncomingMessage]:
        """Yield the messages that ``data`` completes. If the caller stops early, the next call continues with the rest.

        Raises ``FrameError`` at the first invalid frame, after the messages before it. The parser is then unusable.
        """
        if self._pending:
            # A large message arrives in many pieces: growing the buffer in place keeps the cost linear.
            pending = self._pending if isinstance(self._pending, bytearray) else bytearray(self._pending)
            pending += data
            self._pending = pending
        else:
            self._pending = data
        at = 0
        try:
            while (head := self._head(at)) is not None and head.end <= len(self._pending):
                payload = unmask(
                    bytes(self._pending[head.start : head.end]), bytes(self._pending[head.start - 4 : head.start])
                )
                at = head.end
                message = self._join(head, payload)
                if message is not None:
                    yield message
        finally:
            if at:
                self._pending = bytes(self._pending[at:])

    def _head(self, at: int) -> _FrameHead | None:
        data = self._pending
        if len(data) < at + 2:
            return None
        first, second = data[at], data[at + 1]
        if first & 0x70 or not second & 0x80:
            raise FrameError(CloseCode.PROTOCOL_ERROR, "reserved bits, or not masked")
        try:
            opcode = Opcode(first & 0x0F)
        except ValueError:
            raise FrameError(CloseCode.PROTOCOL_ERROR, "unknown opcode") from None
        is_final, size, start = bool(first & 0x80), second & 0x7F, at + 2
        if opcode >= Opcode.CLOSE and (not is_final or size > MAX_CONTROL_BYTES):
            raise FrameError(CloseCode.PROTOCOL_ERROR, "control frame fragmented or too long")
        if size > MAX_CONTROL_BYTES:
            extra = 2 if size == 126 else 8
            if len(data) < start + extra:
                return None
            size = _extended_size(bytes(data[start : start + extra]))
            start += extra
        if opcode < Opcode.CLOSE and size + len(self._fragments or b"") > self.max_bytes:
            raise FrameError(CloseCode.MESSAGE_TOO_BIG, "message too big")
        return _FrameHead(opcode, is_final, start + 4, size)

    def _join(self, head: _FrameHead, payload: bytes) -> IncomingMessage | None:
        if head.opcode >= Opcode.CLOSE:
            return IncomingMessage(head.opcode, payload)
        if (head.opcode is Opcode.CONTINUATION) != (self._fragments is not None):
            raise FrameError(CloseCode.PROTOCOL_ERROR, "fragments out of order")
        if self._fragments is None:
            if head.is_final:
                return IncomingMessage(head.opcode, payload)
            self._opcode, self._fragments, self._count = head.opcode, bytearray(), 0
        self._fragments += payload
        self._count += 1
        # Many empty fragments would cost CPU, and no other limit counts them.
        if self._count > FREE_FRAGMENTS + len(self._fragments) // MIN_FRAGMENT_BYTES:
            raise FrameError(CloseCode.RATE_LIMITED, CloseCode.RATE_LIMITED.reason)
        if not head.is_final:
            return None
        message, self._fragments = bytes(self._fragments), None
        return IncomingMessage(self._opcode, message, max(0, self._count - 1 - len(message) // MIN_FRAGMENT_BYTES))


def _extended_size(field: bytes) -> int:
    """Return an extended payload length; it must be the shortest encoding (RFC 6455, 5.2)."""
    size = int.from_bytes(field, "big")
    if size < (126 if len(field) == 2 else 65_536) or size >> 63:
        raise FrameError(CloseCode.PROTOCOL_ERROR, "length not minimal")
    return size
