"""Tables and rows of the commands, for people."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import typer

from .times import time_text

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""C0 and C1 controls, DEL, line separators, and the marks that change the direction of text (Trojan Source)."""


def printable(text: str) -> str:
    """Return a text of a server or user for a terminal: each control character and bidi mark as `\\uXXXX`.

    JSON stays the same JSON, since these characters occur only inside its strings.
    """
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def echo(text: str, *, err: bool = False) -> None:
    """Print one line that may contain texts of a server or user: `printable`."""
    typer.echo(printable(text), err=err)


def print_table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]], empty: str) -> None:
    """Print columns as wide as their widest cell, or the text `empty` if there are no rows."""
    rows = [tuple(map(printable, row)) for row in rows]
    if not rows:
        typer.echo(empty)
        return
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        typer.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def item_row(item_id: str, item: Mapping[str, Any]) -> tuple[str, ...]:
    """Return an item as cells: id, created, category, device, body. The body is last, since it may be long."""
    return item_id, time_text(item["times"]["created"]), item["category"], item["for_device"] or "all", body_text(item)


def body_text(item: Mapping[str, Any]) -> str:
    """Return the body of an item as JSON."""
    return json.dumps(item["body"], ensure_ascii=False)


def gone_text(gone: Mapping[str, Any] | None) -> str:
    """Return why and when an item went; `-` if it is live."""
    if not gone:
        return "-"
    return f"{gone['reason']} {time_text(gone['at'])}" + (f" by {gone['device']}" if gone.get("device") else "")


def notice_text(delivery: Mapping[str, Any]) -> str:
    """Return the subject of a delivery: its intent, and the number of a reminder."""
    is_numbered = delivery["intent"] == "remind"
    return f"{delivery['intent']} {delivery['n']}" if is_numbered else str(delivery["intent"])


def counted(count: int, one: str, many: str) -> str:
    """Return a number with its noun: `1 item`, `2 items`."""
    return f"{count} {one if count == 1 else many}"
