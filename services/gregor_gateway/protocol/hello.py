"""The request of a connection: the ``hello`` frame of a WebSocket, or the query of a stream. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gregor.core.categories.policy import is_locale
from gregor.core.errors import field_problem
from gregor.core.ids import MAX_FILTER_PREFIXES, Prefixes, is_name, normalize_prefix, normalize_prefixes
from gregor.core.items.sync import Cursor, parse_cursor

VOID: Final = Cursor("", 0)
"""Replaces a cursor that cannot be parsed: no view has it, so the answer is a full copy."""

_DIGEST: Final = re.compile(r"[0-9a-f]{64}\Z")
_MEMBERS: Final = frozenset(
    {"cursor", "digest", "category_prefix", "systems", "foreground", "session", "token", "render"}
)


# ---- types


@dataclass(frozen=True, slots=True)
class Position:
    """The position of the client's copy. ``cursor`` is ``None`` if the client has no copy."""

    cursor: Cursor | None = None
    digest: bytes | None = None


VOID_POSITION = Position(Cursor("void", 0))
"""A position of no history: a full copy that says ``external_gap``, since external messages may be lost (L13)."""


@dataclass(frozen=True, slots=True)
class Hello:
    """The request of one connection.

    ``prefixes`` and ``systems`` narrow the permission of its token; ``None``: all of it. ``render``: the locale of
    rendered texts; ``None``: the client wants none.
    """

    position: Position = Position()
    prefixes: Prefixes = None
    systems: Prefixes = None
    foreground: bool = False
    session: str | None = None
    token: str | None = None
    render: str | None = None


# ---- frames and queries


def read_hello(members: Any) -> Hello:
    """Parse a ``hello`` frame; null counts as absent.

    Raises ``Problem``: ``unknown_field``, ``invalid`` or ``invalid_id``.
    """
    members = _object(members, "/hello", _MEMBERS)
    return Hello(
        position=_position(members, "/hello"),
        prefixes=_prefixes(members.get("category_prefix") or None, "/hello/category_prefix"),
        systems=_prefixes(members.get("systems"), "/hello/systems"),
        foreground=read_flag(members.get("foreground"), "/hello/foreground"),
        session=_session(members.get("session"), "/hello/session"),
        token=_text(members.get("token"), "/hello/token"),
        render=_locale(members.get("render"), "/hello/render"),
    )


def read_query(pairs: Iterable[tuple[str, str]], last_event_id: str | None) -> Hello:
    """Parse the same members from query parameters; lists repeat their parameter.

    A browser that reconnects repeats the URL and adds ``Last-Event-ID``. That position is newer than the cursor and
    digest of the URL, so it replaces both.
    """
    query: dict[str, list[str]] = {}
    for name, value in pairs:
        query.setdefault(name, []).append(value)
    single = {name: values[-1] for name, values in query.items()}
    foreground = single.get("foreground", "false")
    if foreground not in ("true", "false"):
        raise field_problem("invalid", "/query/foreground", "Must be true or false.")
    position = {"cursor": last_event_id} if last_event_id else single
    return Hello(
        position=_position(position, "/query"),
        prefixes=_prefixes(query.get("category_prefix"), "/query/category_prefix"),
        systems=_prefixes(query.get("systems"), "/query/systems"),
        foreground=foreground == "true",
        session=_session(single.get("session"), "/query/session"),
        render=_locale(single.get("render"), "/query/render"),
    )


def read_resync(value: Any) -> Position:
    """Parse the position of a ``resync`` frame; ``true`` asks for a full copy."""
    if value is True:
        return Position()
    return _position(_object(value, "/resync", frozenset({"cursor", "digest"})), "/resync")


# ---- members


def read_flag(value: Any, pointer: str) -> bool:
    """Parse a boolean; absent is false. Raises ``Problem`` ``invalid``."""
    if value is None:
        return False
    if not isinstance(value, bool):
        raise field_problem("invalid", pointer, "Must be true or false.")
    return value


def read_number(value: Any, pointer: str) -> int:
    """Parse an integer of at least 0. Raises ``Problem`` ``invalid``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise field_problem("invalid", pointer, "Must be an integer of at least 0.")
    return value


def _object(value: Any, pointer: str, known: frozenset[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise field_problem("invalid", pointer, "Must be an object.")
    for name in value:
        if name not in known:
            raise field_problem("unknown_field", f"{pointer}/{name}", "Unknown field.")
    return value


def _text(value: Any, pointer: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise field_problem("invalid", pointer, "Must be a string.")
    return value


def _position(members: Mapping[str, Any], pointer: str) -> Position:
    cursor = _text(members.get("cursor"), f"{pointer}/cursor")
    digest = _text(members.get("digest"), f"{pointer}/digest")
    if digest is not None and not _DIGEST.match(digest):
        raise field_problem("invalid", f"{pointer}/digest", "A digest must be 64 lower-case hex digits.")
    return Position(
        None if cursor is None else parse_cursor(cursor) or VOID, None if digest is None else bytes.fromhex(digest)
    )


def _prefixes(value: Any, pointer: str) -> Prefixes:
    if value is None:
        return None
    if not isinstance(value, list):
        raise field_problem("invalid", pointer, "Must be a list of prefixes.")
    if len(value) > MAX_FILTER_PREFIXES:
        raise field_problem("too_many", pointer, f"A filter names at most {MAX_FILTER_PREFIXES} prefixes.")
    normal = [normalize_prefix(entry) for entry in value]
    if None in normal:
        raise field_problem(
            "invalid_id", f"{pointer}/{normal.index(None)}", "Not a valid prefix: dotted segments, such as user.joined."
        )
    return normalize_prefixes(prefix for prefix in normal if prefix is not None)


def _locale(value: Any, pointer: str) -> str | None:
    text = _text(value, pointer)
    if text is not None and not is_locale(text):
        raise field_problem("invalid", pointer, "Must be a locale, such as it-IT.")
    return text


def _session(value: Any, pointer: str) -> str | None:
    if value is not None and not is_name(value):
        raise field_problem(
            "invalid_id", pointer, "Not a valid session name: 1 to 128 letters, digits or ._:@- characters."
        )
    return None if value is None else str(value)
