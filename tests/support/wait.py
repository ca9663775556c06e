"""Polling for a condition instead of sleeping: the only place in the tests that lets time pass."""

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

_STEP_S = 0.01


async def wait_until(
    predicate: Callable[[], object],
    description: str | Callable[[], str],
    timeout_s: float = 10,
    step_s: float = _STEP_S,
) -> Any:
    """Return the first true value of `predicate` (plain or async).

    Raises AssertionError with the description on timeout.

    `step_s`: the polling interval; raise it only if the predicate itself puts load on the system.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        value = predicate()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() >= deadline:
            said = description if isinstance(description, str) else description()
            raise AssertionError(f"not within {timeout_s} s: {said}")
        await asyncio.sleep(step_s)


def wait_until_sync(predicate: Callable[[], object], description: str, timeout_s: float = 10) -> Any:
    """Do the same as `wait_until`, without an event loop."""
    deadline = time.monotonic() + timeout_s
    while not (value := predicate()):
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {timeout_s} s: {description}")
        time.sleep(_STEP_S)
    return value
