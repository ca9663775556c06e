"""The adapter of the Python client: `python -m gregor.conformance.python_client` answers requests over JSON lines."""

from __future__ import annotations

import itertools
import json
import sys
from typing import Any

from gregor.client.mirror import Mirror, digest_of
from gregor.client.outbox import Outbox
from gregor.client.synchronizer import Synchronizer
from gregor.core.json_text import decode_published

_ids = itertools.count(1)


def new_id() -> str:
    """Return a message id that no other message of this process has."""
    return f"python-{next(_ids)}"


class Adapter:
    """One client. Each method answers the request of its name; `now` is in Unix seconds."""

    def __init__(self) -> None:
        self.synchronizer = Synchronizer(new_id)

    def digest(self, text: str) -> dict[str, Any]:
        return {"digest": digest_of(decode_published(text))}

    def start(self, now: float, restore: dict[str, Any] | None = None) -> dict[str, Any]:
        self.synchronizer = Synchronizer(new_id)
        if restore is not None:
            self.synchronizer.mirror = Mirror.restore(restore["mirror"])
            self.synchronizer.outbox = Outbox.restore(restore["outbox"], new_id)
        return {}

    def open(self, now: float) -> dict[str, Any]:
        return {"send": [{"hello": self.synchronizer.opened()}]}

    def receive(self, now: float, frames: list[str]) -> dict[str, Any]:
        return {
            "send": [out for text in frames for out in self.synchronizer.receive(decode_published(text), us(now)).send]
        }

    def close(self, now: float) -> dict[str, Any]:
        self.synchronizer.closed()
        return {}

    def dispatch(self, now: float, message: dict[str, Any]) -> dict[str, Any]:
        self.synchronizer.put(message, us(now))
        return {"send": self.synchronizer.sendable(us(now))}

    def tick(self, now: float) -> dict[str, Any]:
        return {"send": self.synchronizer.tick(us(now))}

    def state(self, now: float) -> dict[str, Any]:
        mirror = self.synchronizer.mirror
        return {
            "items": self.synchronizer.shown(us(now)),
            "copy": mirror.items,
            "badge": self.synchronizer.badge(us(now)),
            "cursor": mirror.cursor,
            "digest": mirror.digest,
            "pending": len(self.synchronizer.outbox),
            "mismatches": self.synchronizer.mismatches,
        }

    def snapshot(self) -> dict[str, Any]:
        return {
            "snapshot": {"mirror": self.synchronizer.mirror.snapshot(), "outbox": self.synchronizer.outbox.snapshot()},
        }


def us(seconds: float) -> int:
    """Return Unix seconds as microseconds."""
    return round(seconds * 1_000_000)


def main() -> None:
    """Answer each line of the standard input."""
    adapter = Adapter()
    for line in sys.stdin:
        request = decode_published(line)
        answer = getattr(adapter, request.pop("do"))(**request)
        sys.stdout.write(json.dumps(answer, separators=(",", ":")) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
