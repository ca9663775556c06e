"""The header ``Gregor-Durability``: how safe a message is when its receipt arrives (durability.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from gregor.core.errors import Problem

HEADER: Final = b"gregor-durability"
REPLICATED: Final = "replicated"
VALUES: Final = ("default", REPLICATED)


def asks_for_replicas(headers: Mapping[bytes, bytes]) -> bool:
    """Return whether the receipt must wait for replicas. Raises ``Problem`` for an unknown value."""
    offered = headers.get(HEADER)
    if offered is None:
        return False
    value = offered.decode("latin-1").strip()
    if value not in VALUES:
        raise Problem("invalid", f"The header Gregor-Durability is {value[:40]!r}; send {' or '.join(VALUES)}.")
    return value == REPLICATED


def with_durability(receipt: bytes, replicas: int, required: int) -> bytes:
    """Return the receipt with the number of replicas that have the message.

    Raises ``not_replicated``, with the receipt, if they are fewer than required.
    """
    if replicas < required:
        raise Problem(
            "not_replicated",
            f"The message was committed, but {replicas} of {required} replicas confirmed it in time. Send it again "
            "with the same content and id: a repeat changes nothing, and waits again.",
            retry_after_s=1.0,
            extra={"receipt": json.loads(receipt), "replicas": replicas},
        )
    return b'%s,"durability":"replicated","replicas":%d}' % (receipt[:-1], replicas)
