"""A device's copy that is never checked: it applies each frame, and computes no digest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class BlindCopy:
    """The items of a device that applies whatever it gets. A plain client in any language does no more."""

    def __init__(self) -> None:
        self.items: dict[str, Any] = {}

    def apply(self, frames: Iterable[dict[str, Any]]) -> None:
        """Apply sync objects and live frames, in order."""
        for frame in frames:
            body = frame.get("body", {})
            if frame.get("sync") == "full":
                self.items = {}
            # The body of an external message may be anything.
            if frame.get("system", "gregor") == "gregor" and isinstance(body, dict):
                self.items |= body.get("create", {})
                for name in body.get("dismiss", {}).get("ids", ()):
                    self.items.pop(name, None)
