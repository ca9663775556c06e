"""PURE: WebSocket frames (RFC 6455) as bytes in and messages out. No socket, no clock.

Written by hand, because the buffers of a ready-made server cost 9 KB a connection, and never shrink again after one
large frame; this holds nothing between two frames. docs/performance.md has the figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from gregor.core.close_codes import CloseCode

MOST_CONTROL: Final = 125
"""Bytes of a control frame (RFC 6455, 5.5)."""


class Opcode(IntEnum):
    """The kinds of frames (RFC 6455, 5.2)."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


@dataclass(frozen=True, slots=True)
class IncomingMessage:
    """One whole message, or one control frame, unmasked."""

    opcode: Opcode
    payload: bytes


@dataclass(eq=False)
class FrameError(Exception):
    """The peer broke the protocol; ``code`` is the close code to tell it (RFC 6455, 7.4.1)."""

    code: int
    reason: str


def encode(payload: bytes, opcode: Opcode = Opcode.TEXT) -> bytes:
    """One whole server frame: final, not masked."""
    size = len(payload)
    head = 0x80 | opcode
    if size < 126:
        return bytes((head, size)) + payload
    if size < 65_536:
        return bytes((head, 126)) + size.to_bytes(2, "big") + payload
    return bytes((head, 127)) + size.to_bytes(8, "big") + payload


def encode_close(code: int, reason: str) -> bytes:
    """A close frame; the reason is cut to what fits."""
    return encode(code.to_bytes(2, "big") + reason.encode()[: MOST_CONTROL - 2], Opcode.CLOSE)


def close_code(payload: bytes) -> int:
    """The code in a peer's close frame; 1005 where it gave none. Raises ``BadFrame`` where it may not be sent."""
    if not payload:
        return CloseCode.NO_STATUS
    code = int.from_bytes(payload[:2], "big")
    if (
        len(payload) < 2
        or not (CloseCode.NORMAL <= code <= 1014 or 3000 <= code <= 4999)
        or code in (1004, CloseCode.NO_STATUS, CloseCode.ABNORMAL)
    ):
        raise FrameError(CloseCode.PROTOCOL_ERROR, "close code")
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise FrameError(CloseCode.INVALID_UTF8, "close reason") from None
    return code


def unmask(payload: bytes, key: bytes) -> bytes:
    """The payload as it was before masking: an exclusive or with the key, repeated."""
    size = len(payload)
    stream = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")).to_bytes(size, "big")


@dataclass(frozen=True, slots=True)
class _Head:
    """What the first bytes of a frame say."""

    opcode: Opcode
    is_final: bool
    start: int
    size: int

    @property
    def end(self) -> int:
        return self.start + self.size


class FrameParser:
    """Bytes of one client in, messages out. Fragments are joined; control frames may stand between them."""

    __slots__ = ("_kind", "_most", "_parts", "_pending")

    def __init__(self, most_bytes: int) -> None:
        """``most_bytes``: the largest message; over it ``BadFrame`` 1009, before it is read."""
        self._most = most_bytes
        self._pending: bytes | bytearray = b""
        self._parts: bytearray | None = None
        self._kind = Opcode.TEXT

    def feed(self, data: bytes) -> list[IncomingMessage]:
        """The messages that are whole now. Raises ``BadFrame``; the connection is lost then."""
        if self._pending:
            # A large message comes in many pieces: grown in place, so that its cost stays linear.
            pending = self._pending if isinstance(self._pending, bytearray) else bytearray(self._pending)
            pending += data
            self._pending = pending
        else:
            self._pending = data
        found: list[IncomingMessage] = []
        at = 0
        while (head := self._head(at)) is not None and head.end <= len(self._pending):
            payload = unmask(
                bytes(self._pending[head.start : head.end]), bytes(self._pending[head.start - 4 : head.start])
            )
            message = self._join(head, payload)
            if message is not None:
                found.append(message)
            at = head.end
        if at:
            self._pending = bytes(self._pending[at:])
        return found

    def _head(self, at: int) -> _Head | None:
        data = self._pending
        if len(data) < at + 2:
            return None
        first, second = data[at], data[at + 1]
        size, start = second & 0x7F, at + 2
        if first & 0x70 or not second & 0x80:
            raise FrameError(CloseCode.PROTOCOL_ERROR, "reserved bits, or not masked")
        try:
            opcode = Opcode(first & 0x0F)
        except ValueError:
            raise FrameError(CloseCode.PROTOCOL_ERROR, "opcode") from None
        is_final = bool(first & 0x80)
        if opcode >= Opcode.CLOSE and (not is_final or size > MOST_CONTROL):
            raise FrameError(CloseCode.PROTOCOL_ERROR, "control frame")
        if size > MOST_CONTROL:
            wide = 2 if size == 126 else 8
            if len(data) < start + wide:
                return None
            size = int.from_bytes(data[start : start + wide], "big")
            start += wide
        if opcode < Opcode.CLOSE and size + len(self._parts or b"") > self._most:
            raise FrameError(CloseCode.MESSAGE_TOO_BIG, "message too big")
        return _Head(opcode, is_final, start + 4, size)

    def _join(self, head: _Head, payload: bytes) -> IncomingMessage | None:
        if head.opcode >= Opcode.CLOSE:
            return IncomingMessage(head.opcode, payload)
        if (head.opcode is Opcode.CONTINUATION) != (self._parts is not None):
            raise FrameError(CloseCode.PROTOCOL_ERROR, "fragments out of order")
        if self._parts is None:
            if head.is_final:
                return IncomingMessage(head.opcode, payload)
            self._kind, self._parts = head.opcode, bytearray()
        self._parts += payload
        if not head.is_final:
            return None
        whole, self._parts = bytes(self._parts), None
        return IncomingMessage(self._kind, whole)
