"""A request to APNs in flight, and its outcome."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

Headers = Sequence[tuple[bytes, bytes]]
READ_HEADERS: Final = frozenset((b":status", b"apns-id", b"retry-after"))
"""The headers of a response that are kept: a hostile provider may send 64 KiB of others for each request."""


@dataclass(frozen=True, slots=True)
class ApnsResponse:
    """A complete response of the provider."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


@dataclass(frozen=True, slots=True)
class NotProcessed:
    """The provider has certainly not processed the request. `is_resendable`: another connection may send it at once."""

    detail: str
    is_resendable: bool = False


@dataclass(frozen=True, slots=True)
class Untrusted:
    """The server's certificate is not trusted, so nothing was sent."""

    detail: str


@dataclass(frozen=True, slots=True)
class Lost:
    """The request was sent completely and gets no response: the provider may have processed it."""

    detail: str


Outcome = ApnsResponse | NotProcessed | Untrusted | Lost


class StreamOwner(Protocol):
    """The connection of a request, as far as the request uses it."""

    def cancel(self, exchange: "ApnsRequest") -> None:
        """Reset the stream of a request that has timed out or was cancelled."""

    def drain(self) -> None:
        """Accept no further requests."""


class ApnsRequest:
    """One request. `outcome` is set exactly once; a cancelled caller does not cancel it."""

    __slots__ = (
        "_timer",
        "begun_at",
        "connection",
        "headers",
        "outcome",
        "response_body",
        "response_headers",
        "rest",
        "stream_id",
    )

    def __init__(self, headers: Headers, body: bytes, deadline_at: float) -> None:
        """`deadline_at`: time of the running event loop."""
        loop = asyncio.get_running_loop()
        self.headers = headers
        self.rest = body
        self.outcome: asyncio.Future[Outcome] = loop.create_future()
        self.connection: StreamOwner | None = None
        self.stream_id = 0
        self.begun_at = 0.0
        self.response_headers: dict[bytes, bytes] | None = None
        self.response_body = b""
        self._timer = loop.call_at(deadline_at, self._expire)

    @property
    def is_over(self) -> bool:
        """Whether the outcome is set, or its caller was cancelled."""
        return self.outcome.done()

    def finish(self, outcome: Outcome) -> None:
        """Set the outcome, unless it is set already."""
        self._timer.cancel()
        if not self.outcome.done():
            self.outcome.set_result(outcome)

    def abandon(self) -> None:
        """Cancel the request: reset its stream, without effect on the connection."""
        self._timer.cancel()
        if self.connection is not None:
            self.connection.cancel(self)

    def outcome_if_lost(self, detail: str) -> Outcome:
        """Return the outcome if no further response data arrives."""
        if self.response_headers is not None:
            return self.response()
        return Lost(detail) if not self.rest and self.stream_id else NotProcessed(detail)

    def response(self) -> ApnsResponse | Lost:
        """Return the response received so far; call it only after the headers have arrived."""
        headers = self.response_headers or {}
        status = headers.get(b":status", b"")
        if re.fullmatch(rb"[1-9][0-9]{2}", status) is None:
            return Lost("the response has no valid status")
        return ApnsResponse(int(status), headers, self.response_body)

    def _expire(self) -> None:
        outcome = (
            self.outcome_if_lost("no response before the deadline")
            if self.stream_id
            else NotProcessed("no free connection before the deadline")
        )
        if self.connection is not None:
            self.connection.cancel(self)
        self.finish(outcome)
