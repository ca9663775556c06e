"""The cost of code in calls of Python functions: no other load of the machine changes it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class CallCount:
    """How many Python functions were called or resumed."""

    calls = 0


@contextmanager
def counted_calls() -> Iterator[CallCount]:
    """Count the calls of this thread."""
    count = CallCount()

    def profile(_frame: object, event: str, _arg: object) -> None:
        count.calls += event == "call"

    sys.setprofile(profile)
    try:
        yield count
    finally:
        sys.setprofile(None)


def calls_of(work: Callable[[], object]) -> int:
    """Return how many calls ``work`` takes."""
    with counted_calls() as count:
        work()
    return count.calls
