"""The context of a trace: which trace a message belongs to, and which span caused it (W3C Trace Context). Pure.

Only sampled messages carry a context. In announcements it is 25 bytes: the trace id, the span id, and the flags.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

PACKED_SIZE: Final = 25
SAMPLED: Final = 1
"""Flag of W3C Trace Context: the caller records this trace."""

_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_TRACE, _NO_SPAN = bytes(16), bytes(8)


class TraceContext(NamedTuple):
    """A trace (16 bytes) and one span of it (8 bytes). ``is_sampled``: whether the trace is recorded."""

    trace_id: bytes
    span_id: bytes
    is_sampled: bool = True

    def pack(self) -> bytes:
        """Return the 25 bytes of an announcement."""
        return self.trace_id + self.span_id + bytes([SAMPLED if self.is_sampled else 0])

    @property
    def traceparent(self) -> str:
        """The value of the header ``traceparent``."""
        return f"00-{self.trace_id.hex()}-{self.span_id.hex()}-{SAMPLED if self.is_sampled else 0:02x}"


def unpack_trace(packed: bytes) -> TraceContext:
    """Return the context of the 25 bytes of an announcement."""
    return TraceContext(packed[:16], packed[16:24], bool(packed[24] & SAMPLED))


def parse_traceparent(text: str) -> TraceContext | None:
    """Return the context of a header ``traceparent``; None if it is malformed, as the specification requires."""
    found = _TRACEPARENT.fullmatch(text.strip())
    # A later version may append fields; version 00 may not, and ff is not valid.
    if found is None or found[1] == "ff" or (found[1] == "00" and found[5]):
        return None
    trace_id, span_id = bytes.fromhex(found[2]), bytes.fromhex(found[3])
    if trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return TraceContext(trace_id, span_id, bool(int(found[4], 16) & SAMPLED))
