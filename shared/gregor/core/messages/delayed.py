"""Delayed messages: a message with ``not_before`` as it is stored until a scheduler commits it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from gregor.core.errors import Problem
from gregor.core.ids import BACKEND, GREGOR, Prefixes, is_allowed
from gregor.core.limits import Limits
from gregor.core.times import format_time

from .fingerprint import content_hash
from .model import Message, Sender
from .parse import parse_message


class _StoredDelayedMessage(msgspec.Struct):
    message: dict[str, Any]
    device: str = BACKEND
    category_filter: Prefixes = msgspec.field(default=None, name="cats")


_decode = msgspec.json.Decoder(_StoredDelayedMessage).decode


@dataclass(frozen=True, slots=True)
class DelayedMessage:
    """A message and its sender. ``document`` is the message as received, with its id."""

    document: dict[str, Any]
    sender: Sender

    def encode(self) -> bytes:
        """Return the stored form. The same document gives the same bytes."""
        kept = _StoredDelayedMessage(self.document, self.sender.device, self.sender.category_filter)
        return msgspec.json.encode(kept, order="deterministic")

    @property
    def id(self) -> str:
        """The id by which it can be cancelled."""
        return str(self.document["id"])

    def is_within(self, category_filter: Prefixes) -> bool:
        """Return whether all its creations are in these categories: only a caller who could create it may cancel it."""
        body = self.document.get("body")
        create = body.get("create") if self.document.get("system") == GREGOR and isinstance(body, dict) else None
        return category_filter is None or all(
            is_allowed(category_filter, item["category"]) for item in (create or {}).values()
        )

    def receipt(self, not_before_us: int) -> bytes:
        """Return the response to its sender: ``{"id", "not_before"}``."""
        return b'{"id":"%s","not_before":%s}' % (self.id.encode(), format_time(not_before_us))

    def message(self, limits: Limits) -> Message:
        """Return the message. Raises ``Problem`` if it exceeds the current limits."""
        return parse_message(dict(self.document), limits)


def delay_message(document: Mapping[str, Any], message: Message, sender: Sender, new_id: str) -> DelayedMessage:
    """Return a message with ``not_before`` in its stored form. It gets ``new_id`` if it has no id."""
    return DelayedMessage({**document, "id": message.id or new_id}, sender)


def check_same_content(kept: bytes, asked: DelayedMessage, limits: Limits) -> None:
    """Raise ``id_reused`` if the stored message under an id is not the requested one: the first content wins.

    The same content may be written differently (semantics.md L2), so parsed messages are compared.
    """
    if kept != asked.encode() and _comparable(decode_delayed_message(kept), limits) != _comparable(asked, limits):
        raise Problem("id_reused", "Another message waits under this id; use a new id, or cancel that message first.")


def _comparable(message: DelayedMessage, limits: Limits) -> tuple[str, int | None, bytes] | None:
    """Return sender, time and content hash; None if the message exceeds the current limits."""
    try:
        read = message.message(limits)
    except Problem:
        return None
    return message.sender.device, read.not_before_us, content_hash(read)


def decode_delayed_message(raw: bytes) -> DelayedMessage:
    """Return the message of its stored form."""
    kept = _decode(raw)
    return DelayedMessage(kept.message, Sender(kept.device, kept.category_filter))
