"""Rates as one number: the generic cell rate algorithm (GCRA). Whole microseconds, so that every store agrees."""

from __future__ import annotations

SECOND_US = 1_000_000


def step_us(rate: float) -> int:
    """The µs in which one comes back at ``rate`` a second."""
    return max(1, int(SECOND_US / rate + 0.5))


def take(full_at_us: int, rate: float, burst: int, count: int, now_us: int) -> tuple[int, float]:
    """Take ``count`` at once from a bucket that refills at ``rate`` a second and holds ``burst``.

    ``full_at_us``: when the bucket will be full again (0: it was never used). Returns that moment anew and 0.0, or the
    old one and the seconds to wait.
    """
    step = step_us(rate)
    next_us = max(full_at_us, now_us) + count * step
    wait_us = next_us - burst * step - now_us
    return (next_us, 0.0) if wait_us <= 0 else (full_at_us, wait_us / SECOND_US)


def messages_bucket(uid: str, device: str) -> str:
    """The bucket of a device's messages, the same on all ways in; no name holds a slash."""
    return f"messages/{uid}/{device}"
