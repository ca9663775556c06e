"""Delayed messages: a message with ``not_before`` as it is stored until a scheduler commits it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import msgspec

from gregor.core.categories.policy import CategoryPolicies
from gregor.core.errors import Problem, field_problem
from gregor.core.ids import BACKEND, GREGOR, Prefixes
from gregor.core.limits import DAY_US, Limits
from gregor.core.times import format_time

from .fingerprint import content_hash
from .model import Message, Sender, Update
from .parse import parse_message
from .plan import may_send


class _StoredDelayedMessage(msgspec.Struct):
    message: dict[str, Any]
    device: str = BACKEND
    category_filter: Prefixes = msgspec.field(default=None, name="cats")
    systems: Prefixes = None
    accepted_us: int = 0
    key: str = ""
    issued_us: int = 0
    fingerprint: str = ""
    keys: tuple[str, ...] = ()
    """All key ids if there are several. ``key`` is then the newest: an earlier release reads only that one."""


class _StoredFingerprint(msgspec.Struct):
    fingerprint: str = ""


class _StoredHeader(_StoredDelayedMessage):
    message: dict[str, msgspec.Raw]


class _StoredText(_StoredDelayedMessage):
    message: msgspec.Raw  # type: ignore[assignment]


class _StoredId(msgspec.Struct):
    id: str


class _StoredSenders(_StoredDelayedMessage):
    message: _StoredId  # type: ignore[assignment]


MOST_KEYS: Final = 4
"""Service keys that a waiting message remembers. A repeat by another key replaces the oldest one."""

_decode: Final = msgspec.json.Decoder(_StoredDelayedMessage, float_hook=float).decode
_decode_fingerprint: Final = msgspec.json.Decoder(_StoredFingerprint).decode
_decode_text: Final = msgspec.json.Decoder(_StoredText).decode
_decode_header: Final = msgspec.json.Decoder(_StoredHeader).decode
_decode_senders: Final = msgspec.json.Decoder(_StoredSenders).decode
_decode_member: Final = msgspec.json.Decoder(float_hook=float).decode
_decode_creations: Final = msgspec.json.Decoder(dict[str, dict[str, msgspec.Raw]]).decode
_decode_body: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@dataclass(frozen=True, slots=True)
class DelayedMessage:
    """A message and its senders: the first one and those that repeated it. ``document``: as received, with its id.

    ``accepted_us``: when it was accepted; 0 if an older version stored it. ``key_ids``: the service keys that sent it,
    the newest last. ``issued_us``: when the newest device token that sent it was issued; 0 if it is unknown, or if
    only keys sent it. ``fingerprint``: a hash of sender, time and content; empty if an older version stored it.
    """

    document: dict[str, Any]
    sender: Sender
    accepted_us: int = 0
    key_ids: tuple[str, ...] = ()
    issued_us: int = 0
    fingerprint: str = ""

    def encode(self) -> bytes:
        """Return the stored form. The same document, accepted at one time, gives the same bytes."""
        sender = self.sender
        kept = _StoredDelayedMessage(
            self.document,
            sender.device,
            sender.category_filter,
            sender.systems,
            self.accepted_us,
            issued_us=self.issued_us,
            fingerprint=self.fingerprint,
        )
        _set_key_ids(kept, self.key_ids)
        return msgspec.json.encode(kept, order="deterministic")

    @property
    def was_sent_without_key(self) -> bool:
        """Whether a device token sent it, perhaps beside keys."""
        return self.issued_us > 0 or not self.key_ids

    def is_revoked(self, issued_before_us: int) -> bool:
        """Return whether a revocation covers the newest token that sent it.

        If the token has no known time, the time of the acceptance counts: it was issued before.
        """
        return (self.issued_us or self.accepted_us) <= issued_before_us

    @property
    def id(self) -> str:
        """The id by which it can be cancelled."""
        return str(self.document["id"])

    @property
    def is_reset(self) -> bool:
        """Whether it starts a new epoch (``flush``)."""
        body = self.document.get("body")
        return self.document.get("system") == GREGOR and isinstance(body, dict) and "flush" in body

    def may_be_cancelled_by(self, canceller: Sender, limits: Limits, entries: CategoryPolicies) -> bool:
        """Return whether ``canceller`` could send this message, and no other device did.

        The categories of dismissed ids are unknown. A limited sender therefore cancels such a dismissal only if it is
        its own.
        """
        if canceller.device != BACKEND and self.sender.device not in (BACKEND, canceller.device):
            return False
        try:
            message = self.message(limits)
        except Problem:
            return canceller.device == BACKEND and canceller.category_filter is None and canceller.systems is None
        is_own = self.sender == canceller
        ids = message.content.ids if isinstance(message.content, Update) else ()
        if ids and canceller.category_filter is not None and not is_own:
            return False
        return may_send(message, canceller, entries)

    def receipt(self, not_before_us: int) -> bytes:
        """Return the response to its sender: ``{"id", "not_before"}``."""
        return b'{"id":"%s","not_before":%s}' % (self.id.encode(), format_time(not_before_us))

    def message(self, limits: Limits) -> Message:
        """Return the message. Raises ``Problem`` if it exceeds the current limits."""
        return parse_message(dict(self.document), limits)


def check_delay(not_before_us: int, now_us: int, limits: Limits) -> None:
    """Raise ``time_out_of_range`` if the time of a delayed message is too far ahead."""
    if not_before_us > now_us + limits.delay_us:
        most = f"at most {limits.delay_us // DAY_US} days ahead"
        raise field_problem("time_out_of_range", "/not_before", f"A message can be delayed {most}; send it later.")


def delay_message(
    document: Mapping[str, Any],
    message: Message,
    sender: Sender,
    new_id: str,
    accepted_us: int,
    key_id: str = "",
    issued_us: int = 0,
) -> DelayedMessage:
    """Return a message with ``not_before`` in its stored form. It gets ``new_id`` if it has no id."""
    named = {**document, "id": message.id or new_id}
    key_ids = (key_id,) if key_id else ()
    return DelayedMessage(named, sender, accepted_us, key_ids, issued_us, _fingerprint(sender, message))


# ---- repeats (semantics.md L2)
# The stored message is not decoded: 256 KiB can take 0.1 s, and a short request can ask for it.


def is_repeat(kept: bytes, asked: DelayedMessage, limits: Limits) -> bool:
    """Return whether the stored message under an id is the requested one, from whichever key or token.

    The same content may be written differently, so fingerprints of parsed messages are compared.
    """
    stored = _decode_fingerprint(kept).fingerprint or _fingerprint_of(decode_delayed_message(kept), limits)
    return stored == (asked.fingerprint or _fingerprint_of(asked, limits))


def with_sender(kept: bytes, asked: DelayedMessage) -> bytes | None:
    """Return the stored message after a repeat: with the key or token of ``asked``, too. ``None`` if it is known."""
    stored = _decode_text(kept)
    key_ids, issued_us = _key_ids(stored), stored.issued_us
    if not key_ids:
        if stored.device == BACKEND:
            return None  # accepted without a key, so that no deletion of a key drops it
        issued_us = issued_us or stored.accepted_us
    new = tuple(each for each in asked.key_ids if each not in key_ids)
    if not new and asked.issued_us <= issued_us:
        return None
    stored.issued_us = max(issued_us, asked.issued_us)
    _set_key_ids(stored, (*key_ids, *new)[-MOST_KEYS:])
    return msgspec.json.encode(stored, order="deterministic")


def _key_ids(stored: _StoredDelayedMessage) -> tuple[str, ...]:
    return stored.keys or ((stored.key,) if stored.key else ())


def _set_key_ids(stored: _StoredDelayedMessage, key_ids: tuple[str, ...]) -> None:
    stored.key = key_ids[-1] if key_ids else ""
    stored.keys = key_ids if len(key_ids) > 1 else ()


def _fingerprint_of(message: DelayedMessage, limits: Limits) -> str | None:
    """Return the fingerprint of a message; None if it exceeds the current limits."""
    try:
        return _fingerprint(message.sender, message.message(limits))
    except Problem:
        return None


def _fingerprint(sender: Sender, message: Message) -> str:
    about = f"{sender.device} {message.not_before_us} ".encode()
    return sha256(about + content_hash(message, sender.category_filter)).hexdigest()


# ---- decoding


def decode_delayed_message(raw: bytes) -> DelayedMessage:
    """Return the message of its stored form."""
    kept = _decode(raw)
    return _message_of(kept, kept.message)


@dataclass(frozen=True, slots=True)
class DelayedMessageText:
    """A delayed message whose JSON is not decoded; the other members are those of ``DelayedMessage``."""

    json: msgspec.Raw
    device: str
    accepted_us: int
    key_ids: tuple[str, ...]


def decode_delayed_text(raw: bytes) -> DelayedMessageText:
    """Return the message of its stored form, as JSON. It costs a tenth of decoding, at most 5 ms for 256 KiB."""
    kept = _decode_text(raw)
    return DelayedMessageText(kept.message, kept.device, kept.accepted_us, _key_ids(kept))


def decode_delayed_header(raw: bytes) -> DelayedMessage:
    """Return the message of its stored form, with ``null`` for each body.

    Lists and the right to cancel a message do not depend on bodies. 256 KiB of them can take 0.1 s to decode.
    """
    try:
        kept = _decode_header(raw)
        document = _without_bodies(kept.message)
    except msgspec.ValidationError:
        return decode_delayed_message(raw)  # an earlier release accepted another form
    return _message_of(kept, document)


def decode_delayed_senders(raw: bytes) -> DelayedMessage:
    """Return the message of its stored form, whose document has only the id. It costs a quarter of the header."""
    try:
        kept = _decode_senders(raw)
    except msgspec.ValidationError:
        return decode_delayed_header(raw)  # an earlier release accepted another form
    return _message_of(kept, {"id": kept.message.id})


def _message_of(kept: _StoredDelayedMessage, document: dict[str, Any]) -> DelayedMessage:
    sender = Sender(kept.device, kept.category_filter, kept.systems)
    return DelayedMessage(document, sender, kept.accepted_us, _key_ids(kept), kept.issued_us, kept.fingerprint)


def _without_bodies(message: Mapping[str, msgspec.Raw]) -> dict[str, Any]:
    document: dict[str, Any] = {name: _decode_member(value) for name, value in message.items() if name != "body"}
    if "body" not in message:
        return document
    document["body"] = None
    if document.get("system") == GREGOR:
        body = _decode_body(message["body"])
        document["body"] = {name: _decode_member(value) for name, value in body.items() if name != "create"}
        if "create" in body:
            document["body"]["create"] = {
                item_id: {name: None if name == "body" else _decode_member(value) for name, value in item.items()}
                for item_id, item in _decode_creations(body["create"]).items()
            }
    return document
