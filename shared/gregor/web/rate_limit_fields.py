"""The fields ``RateLimit-Policy`` and ``RateLimit`` of responses (draft-ietf-httpapi-ratelimit-headers).

A handler notes each limit that a request takes from; the middleware adds the fields to its response, whatever its
status. They are lists of structured fields: ``"messages";q=50;w=5`` and ``"messages";r=49;t=1``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping, Sequence
from functools import lru_cache
from typing import Any, Final

from gregor.core.rate_limit import Allowance, Bucket

NOTED: Final = "gregor.rate_limits"
"""The member of an ASGI scope with the noted limits: name → its policy and its state, encoded."""


def note_limit(scope: MutableMapping[str, Any], name: str, buckets: Sequence[Bucket], left: Allowance) -> None:
    """Note a limit for the response. ``buckets``: the first has the smallest burst; the others are shared by more."""
    first = buckets[0]
    seconds = max(1, math.ceil(left.reset_s)) if not left.remaining else math.ceil(left.reset_s)
    scope[NOTED][name] = (
        _policy(name, first.rate, first.burst),
        b'"%s";r=%d;t=%d'
        % (
            name.encode(),
            min(left.remaining, first.burst),
            seconds,
        ),
    )


@lru_cache(1_024)
def _policy(name: str, rate: float, burst: int) -> bytes:
    """Return the policy: ``q`` requests may be sent at once, and again after ``w`` seconds."""
    return b'"%s";q=%d;w=%d' % (name.encode(), burst, max(1, math.ceil(burst / rate)))


def rate_limit_fields(noted: Mapping[str, tuple[bytes, bytes]]) -> tuple[tuple[bytes, bytes], ...]:
    """Return the response headers of the noted limits."""
    policies, states = zip(*noted.values(), strict=True)
    return (b"ratelimit-policy", b", ".join(policies)), (b"ratelimit", b", ".join(states))
