"""An example aggregator: summarises the comments of each thread (docs/how-to/delay-and-summarise.md).

Install it beside the scheduler with ``pip install ./examples/comment_aggregator`` and restart the scheduler. It serves
the categories below ``example.comments``, the name of its entry point. Run this file to see what it returns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def comments_by_thread(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one entry for each thread: the number of comments, their authors, and the last text.

    The body of an item is ``{"thread", "author", "text"}``, or the body of an earlier summary that this function made.
    """
    threads: dict[str, dict[str, Any]] = {}
    for item in items:
        for part in item["body"].get("threads", [item["body"]]):
            thread = threads.setdefault(part["thread"], {"thread": part["thread"], "count": 0, "authors": []})
            thread["count"] += part.get("count", 1)
            thread["text"] = part["text"]
            for author in part.get("authors", [part.get("author")]):
                if author not in thread["authors"]:
                    thread["authors"].append(author)
    return {"threads": list(threads.values())}


if __name__ == "__main__":
    comments = [
        {"id": "c1", "body": {"thread": "lunch", "author": "ann", "text": "Pizza?"}},
        {"id": "c2", "body": {"thread": "lunch", "author": "bob", "text": "Yes!"}},
    ]
    print(json.dumps(comments_by_thread(comments), indent=2))  # noqa: T201
