"""One request to APNs on its way, and what became of it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class ApnsResponse:
    """The provider's whole answer."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


@dataclass(frozen=True, slots=True)
class NotProcessed:
    """The provider has surely not acted on it. `is_turned_away`: another connection may take it at once."""

    detail: str
    is_turned_away: bool = False


@dataclass(frozen=True, slots=True)
class Untrusted:
    """There is no connection, since the server's certificate is not trusted: nothing was handed over."""

    detail: str


@dataclass(frozen=True, slots=True)
class Lost:
    """It was handed over whole, and no answer will come: the provider may have acted on it."""

    detail: str


Outcome = ApnsResponse | NotProcessed | Untrusted | Lost


class StreamOwner(Protocol):
    """What an exchange knows of the connection that it is on."""

    def give_up(self, exchange: "ApnsRequest") -> None:
        """Free the stream of an exchange that nobody waits for any more."""

    def retire(self) -> None:
        """Begin nothing more there."""


class ApnsRequest:
    """One request and what becomes of it: `outcome` is set once, and never by cancelling."""

    __slots__ = (
        "_handle",
        "answer_body",
        "answer_headers",
        "begun_at",
        "connection",
        "headers",
        "outcome",
        "rest",
        "stream_id",
    )

    def __init__(self, headers: Headers, body: bytes, deadline_at: float) -> None:
        """`deadline_at`: by the running loop's clock."""
        loop = asyncio.get_running_loop()
        self.headers = headers
        self.rest = body
        self.outcome: asyncio.Future[Outcome] = loop.create_future()
        self.connection: StreamOwner | None = None
        self.stream_id = 0
        self.begun_at = 0.0
        self.answer_headers: dict[bytes, bytes] | None = None
        self.answer_body = b""
        self._handle = loop.call_at(deadline_at, self._expire)

    @property
    def is_over(self) -> bool:
        """Whether the outcome is known, or nobody waits for it any more."""
        return self.outcome.done()

    def finish(self, outcome: Outcome) -> None:
        """Tell the outcome, where it is the first one."""
        self._handle.cancel()
        if not self.outcome.done():
            self.outcome.set_result(outcome)

    def abandon(self) -> None:
        """Nobody waits any more: let go of the stream, which is all that belongs to this request."""
        self._handle.cancel()
        if self.connection is not None:
            self.connection.give_up(self)

    def broken(self, detail: str) -> Outcome:
        """What it means for this request that no answer will come."""
        if self.answer_headers is not None:
            return self.answer()
        return Lost(detail) if not self.rest and self.stream_id else NotProcessed(detail)

    def answer(self) -> ApnsResponse:
        """What has come of the answer; only after its headers."""
        headers = self.answer_headers or {}
        return ApnsResponse(int(headers.get(b":status", b"0")), headers, self.answer_body)

    def _expire(self) -> None:
        outcome = (
            self.broken("no answer before the deadline")
            if self.stream_id
            else NotProcessed("no free connection before the deadline")
        )
        if self.connection is not None:
            self.connection.give_up(self)
        self.finish(outcome)
