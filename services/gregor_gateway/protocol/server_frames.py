"""Server frames that do not change a view: problems, receipts, tokens, closes. Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from gregor.core.close_codes import CloseCode
from gregor.core.errors import Problem
from gregor.store.contract.store import Unavailable

from .client_frames import Ref

RETRY_S: Final = 1.0
"""When a client may retry after an internal server error."""

encode: Final = msgspec.json.Encoder().encode
"""Encodes compact JSON."""


def problem_frame(ref: Ref, problem: Problem) -> bytes:
    """Return a ``problem`` frame, with the ref of the client's frame if it had one."""
    document: dict[str, Any] = {} if ref is None else {"ref": ref}
    return encode(document | {"problem": problem.frame()})


def problem_of(error: Exception) -> Problem:
    """Return the problem that a client gets for an error of its task."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, Unavailable):
        return error.problem()
    return Problem("internal", "Internal server error. Try again.", retry_after_s=RETRY_S)


def receipt_frame(ref: Ref, receipt: bytes) -> bytes:
    """Return a ``receipt`` frame; ``receipt`` is JSON already."""
    return b'{"receipt":%s}' % receipt if ref is None else b'{"ref":%s,"receipt":%s}' % (encode(ref), receipt)


def token_frame(expires_in_s: int) -> bytes:
    """Return the answer to a new token."""
    return b'{"token":{"expires_in":%d}}' % expires_in_s


REFRESH: Final = b'{"refresh":'


def refresh_frame(expires_in_s: int) -> bytes:
    """Return the request for a new token."""
    return REFRESH + b'{"expires_in":%d}}' % expires_in_s


def reconnect_frame(after_ms: int, reason: str) -> bytes:
    """Return the request to reconnect to another gateway after a delay."""
    return encode({"reconnect": {"after_ms": after_ms, "reason": reason}})


def close_frame(code: int, reason: str) -> bytes:
    """Return a close as the last frame of a stream."""
    return encode({"close": {"code": code, "reason": reason}})


def close_of(code: int) -> str:
    """Return the reason of a close code; empty for codes of RFC 6455."""
    known = CloseCode.find(code)
    return known.reason if known is not None else ""
