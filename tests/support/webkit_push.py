"""The parser by which Safari recognises a declarative push, restated from WebKit's `NotificationJSONParser.cpp`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class ShownNotification:
    """What Safari shows without a service worker."""

    title: str
    body: str
    navigate: str
    tag: str
    app_badge: int | None
    is_mutable: bool
    data: Any


def parse_as_webkit(body: bytes) -> ShownNotification | None:
    """Return the notification, or None if Safari takes the body for an ordinary push."""
    document = json.loads(body)
    if not isinstance(document, dict) or document.get("web_push") != 8030 or isinstance(document["web_push"], bool):
        return None
    shown = document.get("notification")
    if not isinstance(shown, dict) or not _is_absolute(shown.get("navigate")):
        return None
    if not isinstance(shown.get("title"), str) or not shown["title"]:
        return None
    if any(not isinstance(shown.get(name, ""), str) for name in ("body", "tag", "lang", "icon")):
        return None
    if shown.get("dir", "auto") not in ("auto", "ltr", "rtl") or not isinstance(shown.get("mutable", False), bool):
        return None
    badge = _badge(shown["app_badge"]) if "app_badge" in shown else None
    if badge is None and "app_badge" in shown:
        return None
    return ShownNotification(
        *(shown["title"], shown.get("body", ""), shown["navigate"], shown.get("tag", ""), badge),
        *(shown.get("mutable", False), shown.get("data")),
    )


def _is_absolute(url: object) -> bool:
    return isinstance(url, str) and bool(urlsplit(url).scheme) and bool(urlsplit(url).netloc)


def _badge(value: object) -> int | None:
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdigit() and int(value) < 2**64 else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
