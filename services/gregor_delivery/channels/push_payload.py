"""PURE. The bytes of a push in the shape of each provider, cut to what the provider takes.

What is too long loses what matters least: the text is shortened, then the title, then the tail of the `withdraw` list
(the next push, or the client's next sync, carries the rest), then the link. Ids, cursor and badge are never touched: a
push that does not fit even so goes out as it is, for the provider to refuse.
"""

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from .contract import PushMessage

APNS_MOST_BYTES = 4_096
FCM_MOST_BYTES = 4_096
WEBPUSH_MOST_BYTES = 3_993
"""4,096 bytes of body less the header (86), the delimiter (1) and the tag (16) of RFC 8188."""
ELLIPSIS = "…"
MOST_STEPS_BACK = 64
"""Characters looked back for the beginning of what a reader sees as one: longer ones are nobody's language."""
_JOINERS = {"\u200d", "\ufe0e", "\ufe0f"}
_SKIN_TONES = range(0x1F3FB, 0x1F400)
_FLAG_LETTERS = range(0x1F1E6, 0x1F200)


@dataclass(frozen=True, slots=True)
class FcmContent:
    """What of an FCM message is counted for its 4,096 bytes; the channel sets it into the message."""

    title: str
    text: str
    data: Mapping[str, str]


def apns_payload(push: PushMessage) -> bytes:
    """The JSON body for APNs: `aps`, and `gregor` beside it.

    `aps.badge` is absolute and stands in background pushes too: they put the icon right where the app may not run.
    """
    return _fitted(push, lambda cut: msgspec.json.encode(_apns(cut)), APNS_MOST_BYTES)


def webpush_payload(push: PushMessage) -> bytes:
    """The plaintext for a Web Push service: `{"title", "body", "gregor"}`."""
    return _fitted(push, lambda cut: msgspec.json.encode(_webpush(cut)), WEBPUSH_MOST_BYTES)


def fcm_parts(push: PushMessage) -> FcmContent:
    """Title, text and data for FCM, together within its bound; `data.gregor` is a JSON string."""

    def size(cut: PushMessage) -> int:
        parts = _fcm(cut)
        texts = (parts.title, parts.text, *parts.data.keys(), *parts.data.values())
        return sum(len(text.encode()) for text in texts)

    return _fcm(_cut(push, lambda cut: size(cut) <= FCM_MOST_BYTES))


def aps_of(push: PushMessage) -> dict[str, Any]:
    """What Apple's devices are told of a push beside its words, by whichever provider it comes."""
    aps: dict[str, Any] = {}
    if push.kind == "background":
        aps["content-available"] = 1
    else:
        if push.sound:
            aps["sound"] = push.sound
        if push.urgent:
            aps["interruption-level"] = "time-sensitive"
        if push.data.get("withdraw"):
            aps["mutable-content"] = 1  # wakes the app's extension, which takes the withdrawn ones away
    if push.badge is not None:
        aps["badge"] = push.badge
    return aps


def _apns(push: PushMessage) -> dict[str, Any]:
    aps = aps_of(push)
    if push.kind == "alert":
        aps["alert"] = {key: value for key, value in (("title", push.title), ("body", push.text)) if value}
    return {"aps": aps, "gregor": dict(push.data)}


def _webpush(push: PushMessage) -> dict[str, Any]:
    return {"title": push.title, "body": push.text, "gregor": dict(push.data)}


def _fcm(push: PushMessage) -> FcmContent:
    return FcmContent(push.title, push.text, {"gregor": msgspec.json.encode(dict(push.data)).decode()})


def _fitted(push: PushMessage, encode: Callable[[PushMessage], bytes], most_bytes: int) -> bytes:
    whole = encode(push)
    if len(whole) <= most_bytes:
        return whole
    return encode(_cut(push, lambda cut: len(encode(cut)) <= most_bytes))


def _cut(push: PushMessage, fits: Callable[[PushMessage], bool]) -> PushMessage:
    """The push with the least taken away that makes it fit, in the order that the module says."""
    if fits(push):
        return push
    for part in (_with_text, _with_title, _with_withdrawn, _with_link):
        most = part(push, None)[1]
        kept = _largest(most, lambda n, part=part, push=push: fits(part(push, n)[0]))  # type: ignore[misc]
        push = part(push, kept or 0)[0]
        if kept is not None:
            break
    return push


def _largest(most: int, fits: Callable[[int], bool]) -> int | None:
    """The largest n in 0 … most that fits, by halving; None where not even 0 does."""
    if not fits(0):
        return None
    low, high = 0, most
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
    """`text` where it has at most `n` characters, else its first ones and an ellipsis; "" for 0.

    What a reader sees as one character (with its accents, a flag, a joined emoji) is kept or left whole.
    """
    if n is None or len(text) <= n:
        return text
    end, least = n, max(0, n - MOST_STEPS_BACK)
    while end > least and _belongs_to_the_one_before(text, end):
        end -= 1
    kept = text[:end].rstrip()
    return kept + ELLIPSIS if kept else ""


def _belongs_to_the_one_before(text: str, at: int) -> bool:
    character, before = text[at], text[at - 1]
    if unicodedata.combining(character) or character in _JOINERS or before == "\u200d":
        return True
    if ord(character) in _SKIN_TONES:
        return True
    if ord(character) not in _FLAG_LETTERS:
        return False
    letters = 0
    while letters < min(at, MOST_STEPS_BACK) and ord(text[at - 1 - letters]) in _FLAG_LETTERS:
        letters += 1
    return letters % 2 == 1
