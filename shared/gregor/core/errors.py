"""Every refusal a peer can see, in one table: code, HTTP status, meaning, whether to try again (protocol.md, "Errors").

``Problem`` is how code refuses; services turn it into RFC 9457 JSON or a ``problem`` frame.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class ErrorDefinition:
    """One row of the table: what a code means to a peer."""

    status: int
    title: str
    meaning: str
    retry: bool = False


ERRORS: Final[dict[str, ErrorDefinition]] = {
    "malformed_json": ErrorDefinition(
        400, "Malformed JSON", "The body is no JSON: bad syntax, a repeated key, a lone surrogate, or nesting over 64."
    ),
    "unauthorised": ErrorDefinition(401, "Unauthorised", "No token, or one that is not good: see detail."),
    "forbidden": ErrorDefinition(403, "Forbidden", "The token is good, but not for this user, device or scope."),
    "category_not_allowed": ErrorDefinition(
        403, "Category not allowed", "The key or token is limited to category prefixes that do not cover this one."
    ),
    "origin_not_allowed": ErrorDefinition(
        403, "Origin not allowed", "The page's origin is not in the setting ORIGINS."
    ),
    "not_found": ErrorDefinition(404, "Not found", "Nothing by this name, or nothing that the caller may see."),
    "method_not_allowed": ErrorDefinition(
        405, "Method not allowed", "The path exists, but not with this method: see Allow."
    ),
    "state_full": ErrorDefinition(
        409, "State full", "The user would have too many live items, or too many bytes of them. Dismiss some first."
    ),
    "too_many_dismissals": ErrorDefinition(
        409,
        "Too many remembered dismissals",
        "The user has too many dismissals of unknown ids, or remembered intervals. They are forgotten with time.",
    ),
    "too_many_devices": ErrorDefinition(
        409, "Too many devices", "The user has the most devices allowed, and all are online."
    ),
    "id_reused": ErrorDefinition(409, "Message id reused", "This message id was used before, with other content."),
    "message_too_large": ErrorDefinition(
        413, "Message too large", "The request body is over the limit. Send less, or batch."
    ),
    "batch_too_large": ErrorDefinition(
        413, "Batch too large", "Too many messages, bytes or users in one call. Split it."
    ),
    "unsupported_media_type": ErrorDefinition(
        415, "Unsupported media type", "The Content-Type is not one this endpoint reads, or a Content-Encoding is set."
    ),
    "unknown_field": ErrorDefinition(
        422, "Unknown field", "A field or query parameter that is not known: a typing error?"
    ),
    "missing_field": ErrorDefinition(422, "Missing field", "A field that must be there is not."),
    "invalid": ErrorDefinition(422, "Invalid", "A value that is not of the right kind: see detail."),
    "invalid_id": ErrorDefinition(
        422, "Invalid name", "A uid, device, id, session, category, prefix or system is no name."
    ),
    "contradictory": ErrorDefinition(422, "Contradictory", "The message both creates and dismisses the same id."),
    "schema": ErrorDefinition(422, "Schema", "The document does not fit its schema: see the pointer."),
    "body_too_large": ErrorDefinition(422, "Body too large", "The body of one item is over the limit."),
    "too_many": ErrorDefinition(
        422,
        "Too many",
        "Too many creations, ids, intervals, skips or reminders in a message, or prefixes in a filter.",
    ),
    "created_in_future": ErrorDefinition(
        422, "Created in the future", "An item's created is too far ahead of the server."
    ),
    "end_in_future": ErrorDefinition(422, "End in the future", "An interval's end is too far ahead of the server."),
    "number_out_of_range": ErrorDefinition(
        422, "Number out of range", "A number is not finite as a double, or an integer is beyond ±(2^53−1)."
    ),
    "time_out_of_range": ErrorDefinition(
        422, "Time out of range", "A time is outside 0 … 2^33−1, or outside what is kept."
    ),
    "push_endpoint_not_allowed": ErrorDefinition(
        422, "Push endpoint not allowed", "The Web Push endpoint is not https on port 443 of an allowed host."
    ),
    "rate_limited": ErrorDefinition(429, "Rate limited", "Too many at once. Wait as Retry-After says.", retry=True),
    "internal": ErrorDefinition(
        500, "Internal error", "A fault of the server; the request id finds it in the logs.", retry=True
    ),
    "unavailable": ErrorDefinition(
        503,
        "Unavailable",
        "The store cannot be reached or is full, or others change the same thing at once. Try again.",
        retry=True,
    ),
}
"""``code -> Refusal``. The order is the order of the documentation."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One fault of a document: a JSON pointer (RFC 6901) into what was sent, and the mend in words."""

    pointer: str
    detail: str


@dataclass(eq=False)
class Problem(Exception):
    """A refusal. ``code`` is a key of ``ERRORS``; ``detail`` names the field and the mend; never holds a secret."""

    code: str
    detail: str
    errors: tuple[FieldError, ...] = ()
    retry_after_s: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"

    @property
    def status(self) -> int:
        """The HTTP status of this refusal."""
        return ERRORS[self.code].status

    def document(self, request_id: str | None = None) -> dict[str, Any]:
        """The RFC 9457 document (protocol.md, "Errors")."""
        refusal = ERRORS[self.code]
        document: dict[str, Any] = {
            "type": f"/errors#{self.code}",
            "title": refusal.title,
            "status": refusal.status,
            "detail": self.detail,
            "code": self.code,
            **self.extra,
        }
        if request_id is not None:
            document["request_id"] = request_id
        if self.errors:
            document["errors"] = [{"pointer": e.pointer, "detail": e.detail} for e in self.errors]
        return document

    def frame(self) -> dict[str, Any]:
        """The same document for a ``problem`` frame, with ``retry_after_ms`` in place of the header."""
        document = self.document()
        if self.retry_after_s is not None:
            document["retry_after_ms"] = max(1, round(self.retry_after_s * 1000))
        return document


def field_problem(code: str, pointer: str, detail: str) -> Problem:
    """A refusal of one field: ``pointer`` into the document sent, ``detail`` the mend."""
    return Problem(code, detail, (FieldError(pointer, detail),))
