"""PURE. Encodes a push for each provider, truncated to the provider's size limit.

A payload that is too long loses the least important parts first: the text is shortened, then the title, then the end of
the `withdraw` list (the next push or sync carries the rest), then the link. Ids, cursor and badge stay: a push that
still does not fit is sent unchanged, and the provider refuses it.
"""

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from .contract import PushMessage
from .declarative_push import declarative_members

APNS_MAX_BYTES = 4_096
FCM_MAX_BYTES = 4_096
WEBPUSH_MAX_BYTES = 3_993
"""4,096 bytes of body less the header (86), the delimiter (1) and the tag (16) of RFC 8188."""
ELLIPSIS = "…"
MAX_CLUSTER = 64
"""Longest grapheme cluster that is kept whole; no language has longer ones."""
_JOINERS = {"\u200d", "\ufe0e", "\ufe0f"}
_SKIN_TONES = range(0x1F3FB, 0x1F400)
_FLAG_LETTERS = range(0x1F1E6, 0x1F200)


@dataclass(frozen=True, slots=True)
class FcmContent:
    """The parts of an FCM message that count towards its 4,096 bytes."""

    title: str
    text: str
    data: Mapping[str, str]


# --- encoding ---


def apns_payload(push: PushMessage) -> bytes:
    """Return the JSON body for APNs: `aps` and `gregor`.

    Background pushes have `aps.badge`, too: it updates the icon even if the system does not wake the app.
    """
    return _encode_within(push, lambda cut: msgspec.json.encode(_apns(cut)), APNS_MAX_BYTES)


def webpush_payload(push: PushMessage, app_url: str | None = None) -> bytes:
    """Return the plaintext for a Web Push service: `{"title", "body", "gregor"}`.

    With `app_url` (GREGOR_APP_URL) the same body is also a declarative push; see `declarative_push`.
    """
    return _encode_within(push, lambda cut: msgspec.json.encode(_webpush(cut, app_url)), WEBPUSH_MAX_BYTES)


def fcm_content(push: PushMessage) -> FcmContent:
    """Return title, text and data for FCM, together within its limit; `data.gregor` is a JSON string."""

    def size(cut: PushMessage) -> int:
        parts = _fcm(cut)
        texts = (parts.title, parts.text, *parts.data.keys(), *parts.data.values())
        return sum(len(text.encode()) for text in texts)

    return _fcm(_truncate(push, lambda cut: size(cut) <= FCM_MAX_BYTES))


def aps_without_alert(push: PushMessage) -> dict[str, Any]:
    """Return the `aps` dictionary without the alert, for APNs and for FCM's delivery to Apple devices."""
    aps: dict[str, Any] = {}
    if push.kind == "background":
        aps["content-available"] = 1
    else:
        if push.sound:
            aps["sound"] = push.sound
        if push.urgent:
            aps["interruption-level"] = "time-sensitive"
        if push.data.get("withdraw"):
            aps["mutable-content"] = 1  # wakes the app's extension, which removes the withdrawn notifications
    if push.badge is not None:
        aps["badge"] = push.badge
    return aps


def _apns(push: PushMessage) -> dict[str, Any]:
    aps = aps_without_alert(push)
    if push.kind == "alert":
        aps["alert"] = {key: value for key, value in (("title", push.title), ("body", push.text)) if value}
    return {"aps": aps, "gregor": dict(push.data)}


def _webpush(push: PushMessage, app_url: str | None) -> dict[str, Any]:
    declarative = declarative_members(push, app_url) if app_url is not None else {}
    return {**declarative, "title": push.title, "body": push.text, "gregor": dict(push.data)}


def _fcm(push: PushMessage) -> FcmContent:
    return FcmContent(push.title, push.text, {"gregor": msgspec.json.encode(dict(push.data)).decode()})


# --- truncation ---


def _encode_within(push: PushMessage, encode: Callable[[PushMessage], bytes], max_bytes: int) -> bytes:
    whole = encode(push)
    if len(whole) <= max_bytes:
        return whole
    return encode(_truncate(push, lambda cut: len(encode(cut)) <= max_bytes))


def _truncate(push: PushMessage, fits: Callable[[PushMessage], bool]) -> PushMessage:
    """Return the push, truncated by as little as fits, in the order of the module docstring."""
    if fits(push):
        return push
    for part in (_with_text, _with_title, _with_withdrawn, _with_link):
        length = part(push, None)[1]
        kept = _largest(length, lambda n, part=part, push=push: fits(part(push, n)[0]))  # type: ignore[misc]
        push = part(push, kept or 0)[0]
        if kept is not None:
            break
    return push


def _largest(limit: int, fits: Callable[[int], bool]) -> int | None:
    """Return the largest n in 0 … `limit` that fits, by bisection; None if not even 0 fits."""
    if not fits(0):
        return None
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _with_text(push: PushMessage, n: int | None) -> tuple[PushMessage, int]:
    return replace(push, text=shortened(push.text, n)), len(push.text)


def _with_title(push: PushMessage, n: int | None) -> tuple[PushMessage, int]:
    return replace(push, title=shortened(push.title, n)), len(push.title)


def _with_withdrawn(push: PushMessage, n: int | None) -> tuple[PushMessage, int]:
    withdrawn = push.data.get("withdraw") or []
    return replace(push, data={**push.data, "withdraw": withdrawn[:n]}), len(withdrawn)


def _with_link(push: PushMessage, n: int | None) -> tuple[PushMessage, int]:
    return replace(push, data={**push.data, "link": push.data.get("link") if n else None}), 1


def shortened(text: str, n: int | None) -> str:
    """Return the first `n` characters of `text` and an ellipsis, or `text` if it is not longer; empty for 0.

    A grapheme cluster (a letter with accents, a flag, a joined emoji) is never split.
    """
    if n is None or len(text) <= n:
        return text
    end, least = n, max(0, n - MAX_CLUSTER)
    while end > least and _continues_cluster(text, end):
        end -= 1
    kept = text[:end].rstrip()
    return kept + ELLIPSIS if kept else ""


def _continues_cluster(text: str, at: int) -> bool:
    character, before = text[at], text[at - 1]
    if unicodedata.combining(character) or character in _JOINERS or before == "\u200d":
        return True
    if ord(character) in _SKIN_TONES:
        return True
    if ord(character) not in _FLAG_LETTERS:
        return False
    letters = 0
    while letters < min(at, MAX_CLUSTER) and ord(text[at - 1 - letters]) in _FLAG_LETTERS:
        letters += 1
    return letters % 2 == 1
