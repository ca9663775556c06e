"""Refusals on the wire: RFC 9457 documents, whatever went wrong and wherever it was noticed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import msgspec
from starlette.types import Send

from gregor.core.errors import Problem

PROBLEM_JSON: Final = b"application/problem+json"
_encode: Final = msgspec.json.Encoder().encode


class ClientDisconnected(Exception):
    """The client hung up before its request was read: there is nobody to answer."""


async def send_problem(
    send: Send, problem: Problem, request_id: str, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """Answer with a problem: its document, and the headers that its status asks for."""
    body = _encode(problem.document(request_id))
    fields = [(b"content-type", PROBLEM_JSON), (b"content-length", b"%d" % len(body)), *headers]
    if problem.status == 401:
        fields.append((b"www-authenticate", b'Bearer realm="gregor"'))
    if problem.status in (429, 503):
        fields.append((b"retry-after", b"%d" % max(1, math.ceil(problem.retry_after_s or 1))))
    await send({"type": "http.response.start", "status": problem.status, "headers": fields})
    await send({"type": "http.response.body", "body": body})
