"""A message that waits for its time: as it is kept from its acceptance until a scheduler commits it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from .ids import BACKEND, Prefixes
from .limits import Limits
from .messages import Message, Sender
from .wire import parse_message


class _Kept(msgspec.Struct):
    message: dict[str, Any]
    device: str = BACKEND
    cats: Prefixes = None


_decode = msgspec.json.Decoder(_Kept).decode


@dataclass(frozen=True, slots=True)
class Delayed:
    """A message and who sent it. ``document`` is the message as it came, its id in it."""

    document: dict[str, Any]
    sender: Sender

    def encode(self) -> bytes:
        """As it is kept; the same content is the same bytes."""
        kept = _Kept(self.document, self.sender.device, self.sender.cats)
        return msgspec.json.encode(kept, order="deterministic")

    def message(self, limits: Limits) -> Message:
        """The message. ``Problem`` where it is none by the bounds of now."""
        return parse_message(dict(self.document), limits)


def decode_delayed(raw: bytes) -> Delayed:
    """The inverse of ``encode``."""
    kept = _decode(raw)
    return Delayed(kept.message, Sender(kept.device, kept.cats))
