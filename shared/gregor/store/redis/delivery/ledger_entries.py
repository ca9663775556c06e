"""The stored form of the records of the delivery ledger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from gregor.core.notify.intents import Intent, IntentKind
from gregor.core.notify.ledger import DeliveryHistory, DeliveryRecord, DeliveryState, delivery_key, rebuild_intent
from gregor.store.contract.store import UnreadableValue

_STORY: Final = msgspec.json.Decoder(DeliveryHistory)
_STATES: Final = {ord(state.value): state for state in DeliveryState}
_HEAD: Final = 22
"""Bytes of an entry before its history: state 1, attempts 4, lease or retry time 17."""


def decode_delivery(intent: Intent, raw: bytes) -> DeliveryRecord:
    """Return an entry of the ledger from its stored value. Raises ``UnreadableValue`` if it has another format."""
    state = _STATES.get(raw[0])
    if state is None:
        raise UnreadableValue("delivery", raw[0])
    history = _STORY.decode(raw[_HEAD:])
    return DeliveryRecord(rebuild_intent(intent, history), state, int(raw[1:5]), int(raw[5:_HEAD]), history)


def is_in_state(raw: bytes, state: DeliveryState) -> bool:
    """Return whether an entry is in a state, without decoding it. Raises ``UnreadableValue`` as ``decode_delivery``."""
    found = _STATES.get(raw[0])
    if found is None:
        raise UnreadableValue("delivery", raw[0])
    return found is state


def encode_delivery(delivery: DeliveryRecord) -> bytes:
    """Return the stored value of an entry, as ``decode_delivery`` reads it."""
    head = f"{delivery.state.value}{delivery.n:04}{delivery.lease_until_us:017}"
    return head.encode() + msgspec.json.encode(delivery.history)


def deliveries_of_item(uid: str, item: str, raw: Sequence[Any]) -> list[DeliveryRecord]:
    """Return the deliveries of a hash, by planning time and key."""
    found = []
    for i in range(0, len(raw), 2):
        kind, n, device, channel = raw[i].decode().split("/")
        intent = Intent(uid, item, IntentKind(kind), channel, device, int(n))
        found.append(decode_delivery(intent, raw[i + 1]))
    return sorted(found, key=lambda delivery: (delivery.history.planned_us, delivery_key(delivery.intent)))
