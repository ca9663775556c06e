"""Errors that stay in memory until the next garbage collection, because they are in a reference cycle."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from gregor.core.errors import Problem
from gregor.store.contract.store import Unavailable


@contextmanager
def garbage_collection_off() -> Iterator[None]:
    """Collect all garbage, then none inside the context."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def kept_errors(*kinds: type[Exception]) -> int:
    """Return the number of errors in memory, by default of errors that become responses."""
    return sum(isinstance(each, kinds or (Problem, Unavailable)) for each in gc.get_objects())
