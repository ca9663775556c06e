"""What the fake APNs may do with a request."""

from dataclasses import dataclass

TOKEN_RENEWAL_S = 20 * 60
"""How often a new provider token is taken on one connection."""
_REFUSED_STREAM = 7


@dataclass(frozen=True, slots=True)
class ApnsAction:
    """What is done with one request.

    `status`, `reason`, `timestamp_ms`, `retry_after`: the answer. `delay_s`: before it. `is_silent`: none ever comes.
    `is_empty`: an error without a body. `is_split`: its body in two DATA frames. `trails`: an empty DATA frame ends a
    200, where else the headers end it. `reset`: RST_STREAM with this code in place of an answer. `goaway`: "taken":
    GOAWAY, then the answers to this request and those before it; "refused": GOAWAY that leaves this request out.
    `drops`: the connection is cut when the request is there. `most_streams`: SETTINGS with this bound go before it.
    """

    status: int = 200
    reason: str | None = None
    timestamp_ms: int | None = None
    retry_after: str | None = None
    delay_s: float = 0.0
    is_silent: bool = False
    is_empty: bool = False
    is_split: bool = False
    trails: bool = False
    reset: int | None = None
    goaway: str | None = None
    drops: bool = False
    most_streams: int | None = None

    @property
    def is_delivered(self) -> bool:
        """Whether the push reaches its device, whatever the sender gets to know."""
        return self.status == 200 and self.goaway != "refused" and self.reset != _REFUSED_STREAM
