"""Error codes: for each its HTTP status, its meaning, and whether a retry helps (errors.md, "Problems").

Code raises ``Problem``; the services turn it into RFC 9457 JSON or into a ``problem`` frame.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

_Error = TypeVar("_Error", bound=BaseException)


@dataclass(frozen=True, slots=True)
class ErrorDefinition:
    """One row of the table: what an error code means to a client. ``retry``: the same request may succeed later."""

    status: int
    title: str
    meaning: str
    retry: bool = False


ERRORS: Final[dict[str, ErrorDefinition]] = {
    # ---- the request as a whole
    "malformed_json": ErrorDefinition(
        400,
        "Malformed JSON",
        "The body is not valid JSON: syntax error, repeated key, lone surrogate, or nesting over 64 levels.",
    ),
    "unauthorised": ErrorDefinition(
        401, "Unauthorised", "The token is missing, malformed, expired or not valid: see detail."
    ),
    "forbidden": ErrorDefinition(403, "Forbidden", "The token is valid, but not for this user, device or scope."),
    "category_not_allowed": ErrorDefinition(
        403, "Category not allowed", "The key or token is limited to category prefixes that do not cover this one."
    ),
    "origin_not_allowed": ErrorDefinition(
        403, "Origin not allowed", "The page's origin is not in the setting ORIGINS."
    ),
    "not_found": ErrorDefinition(404, "Not found", "The resource does not exist, or the caller may not see it."),
    "method_not_allowed": ErrorDefinition(
        405, "Method not allowed", "The path exists, but not with this method: see Allow."
    ),
    # ---- the state of the user
    "state_full": ErrorDefinition(
        409, "State full", "The user would have too many live items, or too many bytes of them. Dismiss some first."
    ),
    "too_many_dismissals": ErrorDefinition(
        409,
        "Too many remembered dismissals",
        "The user has too many stored dismissals, intervals, skips or message ids, or dismissals by single devices. "
        "They expire with the retention.",
    ),
    "too_many_devices": ErrorDefinition(
        409, "Too many devices", "The user has as many devices as allowed, and all are online."
    ),
    "id_reused": ErrorDefinition(
        409,
        "Message id reused",
        "A message with this id and other content was accepted before. Ids are remembered only if the effect of a "
        "message depends on its arrival, or while it waits for not_before.",
    ),
    "upgrade_blocked": ErrorDefinition(
        409,
        "Upgrade blocked",
        "A running process cannot read the newest format. Replace the processes that `detail` names.",
    ),
    # ---- the size of the request
    "message_too_large": ErrorDefinition(
        413, "Message too large", "The request body is over the limit. Send less, or use a batch."
    ),
    "batch_too_large": ErrorDefinition(
        413, "Batch too large", "Too many messages, bytes or users in one call. Split it."
    ),
    "unsupported_media_type": ErrorDefinition(
        415, "Unsupported media type", "This endpoint does not read this Content-Type, or a Content-Encoding is set."
    ),
    # ---- the content of the request
    "unknown_field": ErrorDefinition(422, "Unknown field", "A field or query parameter is unknown: a typing error?"),
    "missing_field": ErrorDefinition(422, "Missing field", "A required field is missing."),
    "invalid": ErrorDefinition(422, "Invalid", "A value has the wrong type or form: see detail."),
    "invalid_id": ErrorDefinition(
        422,
        "Invalid name",
        "A uid, device, id, session, category, prefix or system has a forbidden character, or a wrong length; or the "
        "id of a job begins with another kind of job.",
    ),
    "contradictory": ErrorDefinition(422, "Contradictory", "The message both creates and dismisses the same id."),
    "schema": ErrorDefinition(422, "Schema", "The document does not match its schema: see the pointer."),
    "body_too_large": ErrorDefinition(422, "Body too large", "The body of one item is over the limit."),
    "too_many": ErrorDefinition(
        422,
        "Too many",
        "Too many creations, ids, intervals, skips or reminders in a message, prefixes in a filter, or jobs: "
        "see detail.",
    ),
    "created_in_future": ErrorDefinition(
        422, "Created in the future", "An item's created is too far ahead of the server."
    ),
    "end_in_future": ErrorDefinition(422, "End in the future", "An interval's end is too far ahead of the server."),
    "number_out_of_range": ErrorDefinition(
        422,
        "Number out of range",
        "A number is not finite as a double, or an integer is beyond ±(2^53−1). In a text above 32 KiB the error has "
        "no pointer.",
    ),
    "time_out_of_range": ErrorDefinition(
        422, "Time out of range", "A time is outside 0 … 2^33−1, or outside the retention."
    ),
    "push_endpoint_not_allowed": ErrorDefinition(
        422, "Push endpoint not allowed", "The Web Push endpoint is not https on port 443 of an allowed host."
    ),
    "no_replicas": ErrorDefinition(
        422,
        "No replicas",
        "The message asks for `Gregor-Durability: replicated`, but the store has too few replicas. Nothing was "
        "written.",
    ),
    # ---- a later retry may succeed
    "rate_limited": ErrorDefinition(
        429, "Rate limited", "Too many requests. Retry after the time in Retry-After.", retry=True
    ),
    "internal": ErrorDefinition(
        500, "Internal error", "An error in the server. Search the logs for the request id.", retry=True
    ),
    "not_replicated": ErrorDefinition(
        503,
        "Not replicated",
        "The message was committed, see `receipt`, but not enough replicas confirmed it in time. A repeat waits again.",
        retry=True,
    ),
    "unavailable": ErrorDefinition(
        503,
        "Unavailable",
        "The store cannot be reached or is full, or others change the same resource at once. Retry.",
        retry=True,
    ),
}
"""Error code to its definition, in the order of the documentation."""


# ---- the exception


MAX_TEXT: Final = 1_000
"""Characters of a pointer or detail in a response, beside ``…``."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One error in a document: a JSON pointer (RFC 6901) into the request, and how to fix it."""

    pointer: str
    detail: str


@dataclass(eq=False)
class Problem(Exception):
    """An error response. ``code``: a key of ``ERRORS``. ``detail``: field, value and fix; never a secret.

    ``extra_weight``: as in ``Receipt``, for a message that the store has refused.
    """

    code: str
    detail: str
    errors: tuple[FieldError, ...] = ()
    retry_after_s: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    extra_weight: int = 0

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"

    @property
    def status(self) -> int:
        """The HTTP status of this error."""
        return ERRORS[self.code].status

    def document(self, request_id: str | None = None) -> dict[str, Any]:
        """Return the RFC 9457 document (errors.md, "Problems")."""
        refusal = ERRORS[self.code]
        document: dict[str, Any] = {
            "type": f"/errors#{self.code}",
            "title": refusal.title,
            "status": refusal.status,
            "detail": _shortened(self.detail),
            "code": self.code,
            **self.extra,
        }
        if request_id is not None:
            document["request_id"] = request_id
        if self.errors:
            document["errors"] = [
                {"pointer": _shortened(e.pointer), "detail": _shortened(e.detail)} for e in self.errors
            ]
        return document

    def frame(self) -> dict[str, Any]:
        """Return the document of a ``problem`` frame: ``retry_after_ms`` replaces the header ``Retry-After``."""
        document = self.document()
        if self.retry_after_s is not None:
            document["retry_after_ms"] = max(1, round(self.retry_after_s * 1000))
        return document


def drop_tracebacks(error: _Error) -> _Error:
    """Drop the tracebacks of an error, and of all errors that led to it. Returns the error.

    Their stack frames hold the body of the request. If one of these frames refers to the error, only a garbage
    collection frees them.
    """
    dropped: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in dropped:
            continue
        dropped.add(id(each))
        each.__traceback__ = None
        waiting += each.__cause__, each.__context__
        if isinstance(each, BaseExceptionGroup):
            waiting += each.exceptions
    return error


def _shortened(text: str) -> str:
    """Return a text without its middle if it is too long: it may repeat a name from the request."""
    kept = MAX_TEXT // 2
    return text if len(text) <= MAX_TEXT else f"{text[:kept]}…{text[-kept:]}"


def field_problem(code: str, pointer: str, detail: str) -> Problem:
    """Return the error of one field. ``pointer``: into the request. ``detail``: what is wrong, and how to fix it."""
    return Problem(code, detail, (FieldError(pointer, detail),))
