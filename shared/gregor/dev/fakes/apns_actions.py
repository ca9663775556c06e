"""Actions of the fake APNs on a request."""

from dataclasses import dataclass

TOKEN_RENEWAL_S = 20 * 60
"""Shortest time between two new provider tokens on one connection."""
_REFUSED_STREAM = 7


@dataclass(frozen=True, slots=True)
class ApnsAction:
    """The action on one request.

    `status`, `reason`, `timestamp_ms`, `retry_after`: the response. `delay_s`: before it. `is_silent`: no response.
    `is_empty`: an error without a body. `is_split`: its body in two DATA frames. `trails`: an empty DATA frame ends a
    200, instead of the headers. `reset`: RST_STREAM with this code instead of a response. `goaway`: "taken": GOAWAY,
    then the responses to this request and earlier ones; "refused": GOAWAY that excludes this request. `drops`: abort
    the connection. `most_streams`: SETTINGS with this limit before the response. `is_malformed`: a frame that violates
    the protocol (DATA on stream 0).
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
    is_malformed: bool = False

    @property
    def is_delivered(self) -> bool:
        """Whether the push reaches its device, whatever response the sender gets."""
        return self.status == 200 and self.goaway != "refused" and self.reset != _REFUSED_STREAM
