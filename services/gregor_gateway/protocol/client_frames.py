"""Frames from the client, parsed strictly (docs/reference/websocket.md). Each frame does one thing. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Final

import msgspec

from gregor.core.errors import Problem, field_problem
from gregor.core.json_text import decode_json
from gregor.core.limits import Limits

from .hello import Hello, Position, read_flag, read_hello, read_number, read_resync

Ref = Any
"""The client's name for a frame: any JSON, echoed in the answer. ``None``: the client wants no receipt."""

_MESSAGE: Final = frozenset({"system", "body", "id", "device", "not_before"})
_MAX_REF_BYTES: Final = 512
_LEADING_REF: Final = re.compile(
    rb'[ \t\n\r]{0,8}\{[ \t\n\r]{0,8}"ref"[ \t]{0,8}:[ \t]{0,8}("[ !#-\[\]-~]{0,500}"|-?[0-9]{1,15})[ ,]'
)
_BLANK: Final = re.compile(r"[ \t\n\r]*")
LONG_FRAME_BYTES: Final = 8_192
"""Longest frame that is decoded as a whole. A longer one is first split into its members: 1 ms for 256 KiB."""
_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_MAX_DIGITS: Final = 17
"""Longest integer, in characters, that can be in range."""


# ---- frames


@dataclass(frozen=True, slots=True)
class MessageFrame:
    """A message, not validated yet."""

    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AckFrame:
    """The user has seen every item up to ``seq``."""

    seq: int


@dataclass(frozen=True, slots=True)
class ForegroundFrame:
    """The device entered the foreground, or left it."""

    value: bool


@dataclass(frozen=True, slots=True)
class ResyncFrame:
    """A request for a sync from this position."""

    position: Position


@dataclass(frozen=True, slots=True)
class TokenFrame:
    """A new device token."""

    token: str


@dataclass(frozen=True, slots=True)
class PingFrame:
    """A heartbeat of the client; the answer is a pong with the same number."""

    n: int


@dataclass(frozen=True, slots=True)
class PongFrame:
    """The answer to a heartbeat of the server."""


ClientFrame = MessageFrame | Hello | AckFrame | ForegroundFrame | ResyncFrame | TokenFrame | PingFrame | PongFrame


# ---- parsing


def read_ref(document: Any) -> Ref:
    """Return the ``ref`` of a frame. Raises ``Problem`` ``invalid`` for a non-object or a long ref."""
    if not isinstance(document, dict):
        raise field_problem("invalid", "", "A frame must be one JSON object.")
    ref = document.get("ref")
    if type(ref) not in (dict, list, str) or _bytes_of(ref) <= _MAX_REF_BYTES:
        return ref
    raise field_problem("invalid", "/ref", f"ref must be JSON of at most {_MAX_REF_BYTES} bytes.")


def _bytes_of(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass"))


def read_frame(document: Mapping[str, Any]) -> ClientFrame:
    """Parse a frame. Raises ``Problem``: ``invalid``, ``invalid_id``, ``unknown_field`` or ``missing_field``."""
    frame = {name: value for name, value in document.items() if name != "ref"}
    if not _MESSAGE.isdisjoint(frame):
        return MessageFrame(frame)
    if not frame:
        raise field_problem("missing_field", "", "A frame must have a member, such as ack, or be a message.")
    (kind, value), *others = frame.items()
    if others:
        raise field_problem("unknown_field", f"/{others[0][0]}", f"Unknown field in a {kind} frame.")
    return _of_kind(kind, value)


def decode_frame(raw: bytes, limits: Limits) -> Any:
    """Decode a frame for ``read_ref`` and ``read_frame``. Raises ``Problem``.

    All members of a long message are ``None``, except its ref. Decoding can take 0.08 s, so it is done only once: when
    the message is committed. Errors that only the decoder finds, such as a repeated key, are reported then.
    """
    if len(raw) > LONG_FRAME_BYTES:
        try:
            raw.decode()  # the decoder does not check the text of members that it skips
            members = _members(raw)
        except (ValueError, RecursionError):
            return decode_json(raw, limits)
        if not _MESSAGE.isdisjoint(members):
            ref = decode_json(b'{"ref":%b}' % members.pop("ref", b"null"), limits)
            return dict.fromkeys(members) | ref
    return decode_json(raw, limits)


def read_message(text: bytes, limits: Limits) -> Mapping[str, Any]:
    """Return the message in the text of a frame that ``read_frame`` has recognised as a message."""
    return {name: value for name, value in decode_json(text, limits).items() if name != "ref"}


def _of_kind(kind: str, value: Any) -> ClientFrame:
    match kind:
        case "hello":
            return read_hello(value)
        case "ack":
            return AckFrame(read_number(value, "/ack"))
        case "foreground":
            return ForegroundFrame(read_flag(value, "/foreground"))
        case "resync":
            return ResyncFrame(read_resync(value))
        case "token" if isinstance(value, str):
            return TokenFrame(value)
        case "token":
            raise field_problem("invalid", "/token", "token must be a device token, as a string.")
        case "ping":
            return PingFrame(read_number(value, "/ping"))
        case "pong":
            read_number(value, "/pong")
            return PongFrame()
    raise field_problem("unknown_field", f"/{kind}", f"Unknown frame {kind[:50]}.")


# ---- refused text


def read_loosely(raw: bytes) -> tuple[bool, Ref]:
    """Return whether a refused text is valid JSON by RFC 8259, and its ref.

    If a message breaks a rule of this project (a number too large, a repeated key), the problem still carries its ref.
    """
    try:
        # Decoded first: json.loads would accept bytes in UTF-16 as well.
        document = json.loads(raw.decode(), parse_constant=_no_constant, parse_int=_whole)
    except RecursionError:
        return True, leading_ref(raw)
    except ValueError:
        return False, None
    try:
        ref = read_ref(document)
        return True, decode_json(json.dumps(ref).encode(), Limits())
    except Problem:
        return True, None


def split_loosely(raw: bytes) -> Iterator[bytes]:
    """Yield the elements of a JSON array that the strict decoder refuses, such as one with a lone surrogate.

    Raises ``ValueError`` if the text is not an array by RFC 8259, and ``RecursionError`` if an element is far too deep.
    """
    text = raw.decode()
    decoder = json.JSONDecoder(parse_constant=_no_constant, parse_int=_whole)
    mark, at = "[", _after_blank(text, 0)
    while text[at : at + 1] == mark:
        begin = _after_blank(text, at + 1)
        _, end = decoder.raw_decode(text, begin)
        yield text[begin:end].encode()
        mark, at = ",", _after_blank(text, end)
    if text[at:].rstrip(" \t\n\r") != "]":
        raise ValueError(f"no comma or end of the array at character {at}")


def _after_blank(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    return found.end() if found is not None else at


def _no_constant(word: str) -> Any:
    raise ValueError(word)


def _whole(digits: str) -> int | float:
    """Parse an integer of any length. Infinity replaces every integer out of range.

    Python itself refuses integers of thousands of digits.
    """
    return int(digits) if len(digits) <= _MAX_DIGITS else inf


def leading_ref(raw: bytes) -> Ref:
    """Return the ref of a text that is too large to be decoded, if it comes first and is a number or plain string."""
    found = _LEADING_REF.match(raw)
    return json.loads(found[1]) if found is not None else None


def misplaced(name: str) -> Problem:
    """Return the problem for a known frame that is not allowed in this place."""
    return field_problem("invalid", f"/{name}", f"A {name} frame is not allowed here.")
