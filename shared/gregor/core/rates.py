"""Rates as one number: the generic cell rate algorithm (GCRA). Whole microseconds, so that every store agrees."""

from __future__ import annotations

SECOND_US = 1_000_000


def take(full_at_us: int, rate: float, burst: int, count: int, now_us: int) -> tuple[int, float]:
    """Take ``count`` at once from a bucket that refills at ``rate`` a second and holds ``burst``.

    ``full_at_us``: when the bucket will be full again (0: it was never used). Returns that moment anew and 0.0, or the
    old one and the seconds to wait.
    """
    step_us = max(1, int(SECOND_US / rate + 0.5))
    next_us = max(full_at_us, now_us) + count * step_us
    wait_us = next_us - burst * step_us - now_us
    return (next_us, 0.0) if wait_us <= 0 else (full_at_us, wait_us / SECOND_US)
