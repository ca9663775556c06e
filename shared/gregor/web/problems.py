"""Problem responses (RFC 9457), the same for all errors of all HTTP ports."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import msgspec
from starlette.types import Send

from gregor.core.errors import Problem

PROBLEM_JSON: Final = b"application/problem+json"
# RFC 6750, section 3.1: no error code if the request had no token.
_CHALLENGE: Final = b'Bearer realm="gregor"'
_INVALID_TOKEN: Final = _CHALLENGE + b', error="invalid_token"'
_INSUFFICIENT_SCOPE: Final = _CHALLENGE + b', error="insufficient_scope"'
_encode: Final = msgspec.json.Encoder().encode


class ClientDisconnected(Exception):
    """The client disconnected before its request was read; no response can be sent."""


@dataclass(eq=False)
class HttpProblem(Problem):
    """A problem whose response has additional headers, such as ``Allow`` or ``Accept``."""

    headers: tuple[tuple[bytes, bytes], ...] = ()


async def send_problem(send: Send, problem: Problem, request_id: str, *, has_token: bool = False) -> None:
    """Respond with a problem and the headers of its status. ``has_token``: the request had a bearer token."""
    body = _encode(problem.document(request_id))
    fields = [(b"content-type", PROBLEM_JSON), (b"content-length", b"%d" % len(body))]
    if isinstance(problem, HttpProblem):
        fields += problem.headers
    if problem.status == 401:
        fields.append((b"www-authenticate", _INVALID_TOKEN if has_token else _CHALLENGE))
    elif problem.code in ("forbidden", "category_not_allowed"):
        fields.append((b"www-authenticate", _INSUFFICIENT_SCOPE))
    if problem.status in (429, 503) or (problem.status == 401 and problem.retry_after_s is not None):
        fields.append((b"retry-after", b"%d" % max(1, math.ceil(problem.retry_after_s or 1))))
    await send({"type": "http.response.start", "status": problem.status, "headers": fields})
    await send({"type": "http.response.body", "body": body})
