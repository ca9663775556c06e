"""The events that Sentinels publish, and what each one means for a client. Pure.

Sentinel documents its events at https://valkey.io/topics/sentinel/ ("Pub/Sub messages").
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

ServerAddress = tuple[str, int]
"""Host and port of a server, as the Sentinels write them."""


class EventKind(Enum):
    """What an event means for the connections to the primary."""

    REPLACED = "another server is the primary now"
    BEING_REPLACED = "a replica is about to be promoted: what the primary accepts from now on will be lost"
    ASK_AGAIN = "the answer of the Sentinels may have changed"
    ABORTED = "the failover was given up: the primary remains"


@dataclass(frozen=True, slots=True)
class SentinelEvent:
    """An event about one service. ``primary``: the address of the primary before the event."""

    kind: EventKind
    service: str
    primary: ServerAddress


# The Sentinel that leads a failover publishes these in this order; the last one up to seconds after the promotion,
# because it reconfigures the other replicas first.
EVENTS: Final = {
    "+failover-state-send-slaveof-noone": EventKind.BEING_REPLACED,
    "+promoted-slave": EventKind.ASK_AGAIN,
    "+failover-state-reconf-slaves": EventKind.ASK_AGAIN,
    "+switch-master": EventKind.REPLACED,
    "-failover-abort-slave-timeout": EventKind.ABORTED,
}


def parse_event(channel: bytes, payload: bytes) -> SentinelEvent | None:
    """Return the event of a published message, or ``None`` if it concerns no client or cannot be read.

    The payload of ``+switch-master`` is ``service old-host old-port new-host new-port``. That of the others is
    ``kind name host port``, followed by ``@ service host port`` unless the kind is ``master``.
    """
    kind = EVENTS.get(channel.decode("utf-8", "replace"))
    words = payload.decode("utf-8", "replace").split()
    if kind is None:
        return None
    if kind is EventKind.REPLACED:
        subject = words[:3] if len(words) == 5 else []
    elif "@" in words:
        subject = words[words.index("@") + 1 :][:3]
    else:
        subject = words[1:4] if words[:1] == ["master"] else []
    if len(subject) != 3 or not (subject[2].isascii() and subject[2].isdigit()):
        return None
    return SentinelEvent(kind, subject[0], (subject[1], int(subject[2])))
