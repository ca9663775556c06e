"""Receipts as tests compare them."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from gregor.core.messages.model import Receipt


def untimed(result: Any) -> Any:
    """Return a result without the extra weight of its receipts: it counts the time of Redis, which varies."""
    if isinstance(result, list | tuple):
        return [untimed(each) for each in result]
    return replace(result, extra_weight=0) if isinstance(result, Receipt) else result
