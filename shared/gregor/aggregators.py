"""An aggregator to start from: what an entry point of the group ``gregor.aggregators`` looks like (time.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def comments_by_thread(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Comments become one entry a thread: how many, by whom, and the last words.

    Each item has a body ``{"thread", "author", "text"}``, or is an earlier summary, a body that this function made.
    """
    threads: dict[str, dict[str, Any]] = {}
    for item in items:
        for each in item["body"].get("threads", [item["body"]]):
            kept = threads.setdefault(each["thread"], {"thread": each["thread"], "count": 0, "authors": []})
            kept["count"] += each.get("count", 1)
            kept["text"] = each["text"]
            for author in each.get("authors", [each.get("author")]):
                if author not in kept["authors"]:
                    kept["authors"].append(author)
    return {"threads": list(threads.values())}
