"""Fast path for the commonest message: it creates one item with a category and a body, and has no other field.

- Twin: ``parse_message`` in ``parse.py`` after ``decode_json``; every other message, and every error, goes there.
- Benchmark: ``tests/bench/ingest.py``; it halves the time of parsing.
- Equality: the property test ``tests/unit/core/test_parse_fast.py``.
- It can go if a request takes less than 5 % more CPU time without it.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from gregor.core.errors import Problem
from gregor.core.ids import NAME, USER_ID, is_dotted
from gregor.core.json_text import canonical_fast
from gregor.core.limits import Limits

from .model import Message, NewItem, Update

_BRACKETS: Final = 4
"""Brackets that are open at an item's body: message, its body, ``create``, item."""


class _FastItem(msgspec.Struct, forbid_unknown_fields=True):
    category: str
    body: Any = msgspec.UNSET


class _FastBody(msgspec.Struct, forbid_unknown_fields=True):
    create: dict[str, _FastItem]


class _FastMessage(msgspec.Struct, forbid_unknown_fields=True):
    system: Literal["gregor"]
    body: _FastBody
    uid: str | msgspec.UnsetType = msgspec.UNSET


_decode: Final = msgspec.json.Decoder(_FastMessage, float_hook=float).decode
_is_name: Final = NAME.match
_is_user_id: Final = USER_ID.match


def parse_fast(raw: bytes, limits: Limits) -> tuple[str | None, Message] | None:
    """Return the uid in a JSON text, if any, and its message; None if the text needs ``parse_message``."""
    try:
        line = _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    create, uid, extra_keys = line.body.create, None, 5  # system, body, create, the id and category are keys as well
    if line.uid is not msgspec.UNSET:
        uid = line.uid
        extra_keys += 1
    if len(create) != 1 or (uid is not None and not _is_user_id(uid)):
        return None
    ((item_id, item),) = create.items()
    if not (_is_name(item_id) and is_dotted(item.category)):
        return None
    value = item.body
    if value is msgspec.UNSET:
        value = None
    else:
        extra_keys += 1
    try:
        body = canonical_fast(raw, value, limits, extra_keys=extra_keys, brackets=_BRACKETS)
    except Problem:
        return None
    if body is None or len(body) > limits.body_bytes:
        return None
    return uid, Message(Update((NewItem(item_id, item.category, None, None, (), None, body),)))
