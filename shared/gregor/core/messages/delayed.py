"""A message that waits for its time: as it is kept from its acceptance until a scheduler commits it."""

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
    """A message and who sent it. ``document`` is the message as it came, its id in it."""

    document: dict[str, Any]
    sender: Sender

    def encode(self) -> bytes:
        """As it is kept; the same document is the same bytes."""
        kept = _StoredDelayedMessage(self.document, self.sender.device, self.sender.category_filter)
        return msgspec.json.encode(kept, order="deterministic")

    @property
    def id(self) -> str:
        """What it is cancelled by."""
        return str(self.document["id"])

    def is_within(self, category_filter: Prefixes) -> bool:
        """Whether all that it creates lies in these categories: who may not create it may not cancel it."""
        body = self.document.get("body")
        create = body.get("create") if self.document.get("system") == GREGOR and isinstance(body, dict) else None
        return category_filter is None or all(
            is_allowed(category_filter, item["category"]) for item in (create or {}).values()
        )

    def receipt(self, not_before_us: int) -> bytes:
        """The answer to whoever sent it: ``{"id", "not_before"}``."""
        return b'{"id":"%s","not_before":%s}' % (self.id.encode(), format_time(not_before_us))

    def message(self, limits: Limits) -> Message:
        """The message. ``Problem`` where it is none by the bounds of now."""
        return parse_message(dict(self.document), limits)


def delay_message(document: Mapping[str, Any], message: Message, sender: Sender, new_id: str) -> DelayedMessage:
    """A message with ``not_before``, to be kept; ``new_id`` names it where it has no id of its own."""
    return DelayedMessage({**document, "id": message.id or new_id}, sender)


def check_same_content(kept: bytes, asked: DelayedMessage, limits: Limits) -> None:
    """The first content under an id wins: ``id_reused`` where another message waits under it.

    The same content may be written otherwise (semantics.md L2): it is compared as that of messages of now is.
    """
    if kept != asked.encode() and _comparable(decode_delayed_message(kept), limits) != _comparable(asked, limits):
        raise Problem("id_reused", "Another message waits under this id; send a fresh one, or cancel that first.")


def _comparable(message: DelayedMessage, limits: Limits) -> tuple[str, int | None, bytes] | None:
    """Who says what for when; ``None`` where it is no message by the bounds of now."""
    try:
        read = message.message(limits)
    except Problem:
        return None
    return message.sender.device, read.not_before_us, content_hash(read)


def decode_delayed_message(raw: bytes) -> DelayedMessage:
    """The inverse of ``encode``."""
    kept = _decode(raw)
    return DelayedMessage(kept.message, Sender(kept.device, kept.category_filter))
