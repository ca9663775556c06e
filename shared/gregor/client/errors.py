"""Exceptions of the client: one base class, and one class for each family of failures.

The server refuses with an RFC 9457 problem (docs/reference/errors.md lists the codes). `error_of` turns a problem into
the class of its family: callers write `except RateLimited` instead of comparing codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .changes import Stopped
from .messages import MessageReceipt


class GregorError(Exception):
    """Base class of everything that this client raises, apart from `ValueError` for wrong arguments."""


class Unreachable(GregorError):
    """No response arrived before the deadline of the call: connection refused, timeout, or a broken connection."""


class UnexpectedResponse(GregorError):
    """The response is not one of Gregor: it has another shape, is too long, or links to another server.

    The server may have accepted the message. The same call is safe to repeat.
    """


class Rejected(GregorError):
    """The server refused a message or a call. `document` is the RFC 9457 problem.

    Instances of exactly this class have a status that no subclass covers.
    """

    def __init__(self, document: Mapping[str, Any], retry_after: float | None = None) -> None:
        super().__init__(_text_of(document))
        self.document = dict(document)
        self.retry_after = retry_after
        """Seconds to wait before the next attempt, if the server named them."""

    @property
    def code(self) -> str:
        """The error code, as listed in docs/reference/errors.md; empty if a proxy answered instead of Gregor."""
        return str(self.document.get("code") or "")

    @property
    def status(self) -> int:
        """The HTTP status; 0 if the problem has none."""
        return _status_of(self.document)

    @property
    def detail(self) -> str:
        """What is wrong and how to fix it, in one sentence."""
        return str(self.document.get("detail") or self.document.get("title") or "")

    @property
    def errors(self) -> list[dict[str, str]]:
        """The invalid fields, each with a JSON `pointer` into the message and a `detail`."""
        return _fields_of(self.document)

    @property
    def request_id(self) -> str | None:
        """The id of the request in the server's logs."""
        found = self.document.get("request_id")
        return found if isinstance(found, str) else None


class Unauthorized(Rejected):
    """401: the service key or device token is missing, unknown, expired or revoked."""


class Forbidden(Rejected):
    """403: the key is valid, but its scopes or category prefixes do not allow this call."""


class NotFound(Rejected):
    """404: the user, item, message or path does not exist, or the key may not see it."""


class Conflict(Rejected):
    """409: the user's state is full, or the message id was used before with other content."""


class Invalid(Rejected):
    """400, 413, 415 or 422: the request itself is wrong; sending it again cannot succeed. See `errors`."""


class RateLimited(Rejected):
    """429: too many requests, and the time to wait (`retry_after`) is longer than the rest of the call's deadline."""


class ServiceUnavailable(Rejected):
    """5xx: the server could not process the call before its deadline. The same call may succeed later."""


class ItemIgnored(GregorError):
    """`create` created nothing: `reason` is `conflict`, `dismissed`, `expired` or `stale`; `receipt` is the receipt.

    `conflict`: an item with this id exists with other content. `dismissed`, `expired`: an item with this id existed
    before, and ids never come back. `stale`: `created` is older than the dismissals that the server remembers.
    """

    def __init__(self, item_id: str, reason: str, receipt: MessageReceipt) -> None:
        super().__init__(f"item {item_id!r} was not created: {reason}")
        self.item_id = item_id
        self.reason = reason
        self.receipt = receipt


class DeviceStopped(GregorError):
    """The gateway closed the device's connection for good; `stopped` has the close code and the reason."""

    def __init__(self, stopped: Stopped) -> None:
        super().__init__(f"{stopped.code} {stopped.reason}")
        self.stopped = stopped


_FAMILIES: dict[int, type[Rejected]] = {
    400: Invalid,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: Invalid,
    415: Invalid,
    422: Invalid,
    429: RateLimited,
}


def error_of(problem: Mapping[str, Any], retry_after: float | None = None) -> Rejected:
    """Return the exception for an RFC 9457 problem, in the class of its status."""
    status = _status_of(problem)
    family = ServiceUnavailable if status >= 500 else _FAMILIES.get(status, Rejected)
    return family(problem, retry_after)


def _text_of(problem: Mapping[str, Any]) -> str:
    detail = problem.get("detail") or problem.get("title")
    fields = [f"{field['pointer']}: {field['detail']}" for field in _fields_of(problem)]
    # The detail of a problem often repeats its first field, with or without the pointer.
    if fields and fields[0].endswith(f": {detail}"):
        detail = fields[0].removeprefix(": ")
    text = f"{problem.get('code') or problem.get('status')}: {detail}"
    return "; ".join([text, *(field for field in fields if field not in text)])


# The document may come from a proxy or from a hostile server: its members can have any type.


def _status_of(problem: Mapping[str, Any]) -> int:
    status = problem.get("status")
    return status if isinstance(status, int) else 0


def _fields_of(problem: Mapping[str, Any]) -> list[dict[str, str]]:
    fields = problem.get("errors")
    found = fields if isinstance(fields, list) else []
    return [field for field in found if isinstance(field, dict) and {"pointer", "detail"} <= field.keys()]
