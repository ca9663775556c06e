"""PURE. What an answer of FCM HTTP v1 means. The status alone says too little: `error.details[].errorCode` does.

404 is a dead token only with `UNREGISTERED`, else it is a wrong project; 403 is a token of somebody else's project with
`SENDER_ID_MISMATCH`, else it is our account that may not send. What one device's token can cause never stops the
provider: anybody could register such a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gregor_delivery.channels.verdict import (
    Misconfigured,
    RecipientGone,
    Refused,
    Retry,
    Sent,
    Unknown,
    Verdict,
    parse_retry_after,
)

QUOTA_PAUSE_S: Final = 60.0
"""Pause after a 429 without Retry-After: the bucket of a project is filled again each minute (Firebase, quotas)."""
_LONGEST_DETAIL: Final = 200
_FCM_ERROR: Final = "type.googleapis.com/google.firebase.fcm.v1.FcmError"


def verdict_of(status: int, retry_after: str | None, body: bytes, now_us: int) -> Verdict:
    """The verdict on one message. `retry_after`: the header's value; `now_us`: wall clock, where that is a date."""
    said = str(status)
    if status == 200:
        name = _object(body).get("name")
        # A page of a proxy is no receipt; what answered may have passed the message on all the same.
        return Sent(said, str(name)) if name else Unknown("answered 200 without the name of a message")
    error = _object(_object(body).get("error"))
    code, detail = error_code(error), _detail(error, status)
    if code == "UNREGISTERED":
        return RecipientGone(said, detail)
    if code in ("SENDER_ID_MISMATCH", "THIRD_PARTY_AUTH_ERROR", "INVALID_ARGUMENT"):
        return Refused(said, detail)
    after_s = parse_retry_after(retry_after, now_us)
    if status == 429 or code == "QUOTA_EXCEEDED":
        return Retry(QUOTA_PAUSE_S if after_s is None else after_s, said, detail)
    return _by_status(status, detail, after_s)


def is_token_refused(status: int, body: bytes) -> bool:
    """Whether the access token was refused (401), so that nothing was looked at: a fresh one may pass."""
    return status == 401 and error_code(_object(_object(body).get("error"))) != "THIRD_PARTY_AUTH_ERROR"


def error_code(error: Mapping[str, Any]) -> str:
    """FCM's own `errorCode` of an error object, else its status: `UNREGISTERED`, `INTERNAL`, … ("" without any)."""
    details = error.get("details")
    for each in details if isinstance(details, list) else []:
        if isinstance(each, dict) and each.get("@type") == _FCM_ERROR and each.get("errorCode"):
            return str(each["errorCode"])
    return str(error.get("status") or "")


def _by_status(status: int, detail: str, after_s: float | None) -> Verdict:
    said = str(status)
    match status:
        case 408 | 500 | 503:
            return Retry(after_s, said, detail)
        case 413:
            return Refused(said, detail)
        case 401 | 403 | 404 | 405:
            return Misconfigured(said, detail)
        case _ if status >= 500:
            # A gateway in between gave up: whether FCM had it, nobody says.
            return Unknown(f"answered {status}")
        case _ if status >= 400:
            return Refused(said, detail)
        case _:
            return Misconfigured(said, f"answered {status}: is FCM_URL right?")


def _detail(error: Mapping[str, Any], status: int) -> str:
    """The provider's own reason: its code, and the fields that it minds; its text, which may quote a token, stays."""
    code = error_code(error)
    reasons, fields = [], []
    for each in error.get("details") or []:
        if isinstance(each, dict):
            reasons += [str(each["reason"])] if each.get("reason") else []
            found = each.get("fieldViolations")
            fields += [str(v.get("field")) for v in found if isinstance(v, dict)] if isinstance(found, list) else []
    words = [code or f"answered {status}", *reasons, *fields]
    return " ".join(words)[:_LONGEST_DETAIL]


def _object(value: Any) -> dict[str, Any]:
    """A JSON object, of bytes or decoded already; empty where it is none."""
    if isinstance(value, bytes):
        try:
            value = msgspec.json.decode(value)
        except msgspec.DecodeError:
            return {}
    return value if isinstance(value, dict) else {}
