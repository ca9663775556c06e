"""PURE: what a client says, read strictly (protocol.md, "Client → server"). One frame says one thing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Final

from gregor.core.errors import Problem, field_problem
from gregor.core.json_text import decode_json
from gregor.core.limits import Limits

from .hello import Hello, Position, read_flag, read_hello, read_number, read_resync

Ref = Any
"""What a client calls its frame by: any JSON, given back as it is; ``None``: it wants no receipt."""

_MESSAGE: Final = frozenset({"system", "body", "id", "device", "not_before"})
_MOST_REF_BYTES: Final = 512
_EXACT: Final = 17
"""Characters of an integer that may be within the bounds of ours; what is longer is refused, whatever it is."""


@dataclass(frozen=True, slots=True)
class MessageFrame:
    """A message, as a document that is not looked at yet."""

    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AckFrame:
    """The user has seen everything up to ``seq``."""

    seq: int


@dataclass(frozen=True, slots=True)
class ForegroundFrame:
    """The device came to the foreground, or left it."""

    value: bool


@dataclass(frozen=True, slots=True)
class ResyncFrame:
    """Answer as to a hello with this position."""

    position: Position


@dataclass(frozen=True, slots=True)
class TokenFrame:
    """A fresh token."""

    token: str


@dataclass(frozen=True, slots=True)
class PingFrame:
    """Wants a pong of the same number."""

    n: int


@dataclass(frozen=True, slots=True)
class PongFrame:
    """The answer to a ping."""


ClientFrame = MessageFrame | Hello | AckFrame | ForegroundFrame | ResyncFrame | TokenFrame | PingFrame | PongFrame


def read_ref(document: Any) -> Ref:
    """What the client calls this frame by. ``Problem`` ``invalid``: no object, or a ref too long to be given back."""
    if not isinstance(document, dict):
        raise field_problem("invalid", "", "A frame is one JSON object.")
    ref = document.get("ref")
    if type(ref) not in (dict, list, str) or _bytes_of(ref) <= _MOST_REF_BYTES:
        return ref
    raise field_problem("invalid", "/ref", f"Any JSON of up to {_MOST_REF_BYTES} bytes.")


def _bytes_of(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass"))


def read_frame(document: Mapping[str, Any]) -> ClientFrame:
    """What a frame says. ``Problem``: ``invalid``, ``invalid_id``, ``unknown_field``, ``missing_field``."""
    frame = {name: value for name, value in document.items() if name != "ref"}
    if not _MESSAGE.isdisjoint(frame):
        return MessageFrame(frame)
    if not frame:
        raise field_problem("missing_field", "", "A frame says one thing, such as ack, or system and body.")
    (kind, value), *others = frame.items()
    if others:
        raise field_problem("unknown_field", f"/{others[0][0]}", f"No such field beside {kind}.")
    return _of_kind(kind, value)


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
            raise field_problem("invalid", "/token", "A device token, as text.")
        case "ping":
            return PingFrame(read_number(value, "/ping"))
        case "pong":
            read_number(value, "/pong")
            return PongFrame()
    raise field_problem("unknown_field", f"/{kind}", "This frame is not known.")


def read_loosely(raw: bytes) -> tuple[bool, Ref]:
    """Whether a text that was refused is JSON at all, by RFC 8259 and nothing more, and the ref that it carries.

    A message that breaks our own rules (a number too large, a repeated key) is answered under its name like any other.
    """
    try:
        # From text: json would read the bytes of UTF-16 as well.
        document = json.loads(raw.decode(), parse_constant=_no_constant, parse_int=_whole)
    except RecursionError:
        return True, None
    except ValueError:
        return False, None
    try:
        ref = read_ref(document)
        return True, decode_json(json.dumps(ref).encode(), Limits())
    except Problem:
        return True, None


def _no_constant(word: str) -> Any:
    raise ValueError(word)


def _whole(digits: str) -> int | float:
    """Of any length: Python reads no integer of thousands of digits. What is out of bounds is no ref either."""
    return int(digits) if len(digits) <= _EXACT else inf


def not_here(what: str) -> Problem:
    """A frame that is known, but has no place where it was sent."""
    return field_problem("invalid", f"/{what}", f"A {what} has no place here.")
