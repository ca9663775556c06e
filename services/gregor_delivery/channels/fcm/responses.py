"""PURE. Classification of FCM HTTP v1 responses, by `error.details[].errorCode` rather than by status.

404 means a dead token only with `UNREGISTERED`, otherwise a wrong project. 403 means a token of another project with
`SENDER_ID_MISMATCH`, otherwise that our account may not send. An error that a device's token can cause never stops the
channel, because anybody can register such a token.
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
    clean,
    parse_retry_after,
)

QUOTA_PAUSE_S: Final = 60.0
"""Pause after a 429 without Retry-After: the quota of a project is refilled each minute (Firebase, quotas)."""
_FCM_ERROR: Final = "type.googleapis.com/google.firebase.fcm.v1.FcmError"


def verdict_of(status: int, retry_after: str | None, body: bytes, now_us: int) -> Verdict:
    """Return the verdict on one message. `retry_after`: value of the header. `now_us`: wall clock, for a date in it."""
    text = str(status)
    if status == 200:
        name = clean(_object(body).get("name"))
        # Not a response of FCM: a proxy that answered may still have forwarded the message.
        return Sent(text, name) if name else Unknown("answered 200 without a message name")
    error = _object(_object(body).get("error"))
    code, detail = error_code(error), _detail(error, status)
    if code == "UNREGISTERED" and status == 404:  # with another status, it is not an answer of FCM
        return RecipientGone(text, detail)
    if code in ("SENDER_ID_MISMATCH", "THIRD_PARTY_AUTH_ERROR", "INVALID_ARGUMENT"):
        return Refused(text, detail)
    after_s = parse_retry_after(retry_after, now_us)
    if status == 429 or code == "QUOTA_EXCEEDED":
        return Retry(QUOTA_PAUSE_S if after_s is None else after_s, text, detail)
    return _by_status(status, detail, after_s)


def is_token_rejected(status: int, body: bytes) -> bool:
    """Return whether the access token was rejected (401) before the message was read: a new token may work."""
    return status == 401 and error_code(_object(_object(body).get("error"))) != "THIRD_PARTY_AUTH_ERROR"


def error_code(error: Mapping[str, Any]) -> str:
    """Return FCM's `errorCode` of an error object, else its status, such as `UNREGISTERED`; empty without either."""
    for each in _objects(error.get("details")):
        if each.get("@type") == _FCM_ERROR and (code := clean(each.get("errorCode"))):
            return code
    return clean(error.get("status"))


def _by_status(status: int, detail: str, after_s: float | None) -> Verdict:
    text = str(status)
    match status:
        case 408 | 500 | 503:
            return Retry(after_s, text, detail)
        case 413:
            return Refused(text, detail)
        case 401 | 403 | 404 | 405:
            return Misconfigured(text, detail)
        case _ if status >= 500:
            # A gateway in between failed: FCM may have accepted the message.
            return Unknown(f"answered {status}")
        case _ if status >= 400:
            return Refused(text, detail)
        case _:
            return Misconfigured(text, f"answered {status}; check GREGOR_FCM_URL")


def _detail(error: Mapping[str, Any], status: int) -> str:
    """Return the error code and the invalid fields, without the message text, which may quote a token."""
    code = error_code(error)
    reasons, fields = [], []
    for each in _objects(error.get("details")):
        reasons.append(clean(each.get("reason")))
        fields += [clean(violation.get("field")) for violation in _objects(each.get("fieldViolations"))]
    words = [code or f"answered {status}", *reasons, *fields]
    return clean(" ".join(filter(None, words)))


def _object(value: Any) -> dict[str, Any]:
    """Return a JSON object, decoded if it is bytes; empty if the value is not an object."""
    if isinstance(value, bytes):
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return {}
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[dict[str, Any]]:
    """Return the JSON objects of an array; none if the value is not an array."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
