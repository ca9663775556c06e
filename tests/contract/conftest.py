"""Fixtures: every test of a store runs once on each implementation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from gregor.core.limits import Limits
from gregor.store.contract.store import Store
from tests.support.builders import LIMITS
from tests.support.store_backends import (
    FACTORIES,
    SLOW_FACTORIES,
    AnnouncementRecorder,
    Factory,
    StoreUnderTest,
    marks_of,
)

MakeStore = Callable[[Limits], Awaitable[Store]]


_BACKENDS = [
    *(pytest.param(factory, id=name, marks=marks_of(name)) for name, factory in FACTORIES.items()),
    *(pytest.param(factory, id=name, marks=[pytest.mark.slow]) for name, factory in SLOW_FACTORIES.items()),
]


@pytest.fixture(params=_BACKENDS)
def factory(request: pytest.FixtureRequest) -> Factory:
    """Return the factory of one implementation."""
    made: Factory = request.param
    return made


@pytest.fixture
async def backend(factory: Factory) -> AsyncIterator[StoreUnderTest]:
    """Return an empty store with the default bounds, and its pub/sub."""
    async with factory(LIMITS) as made:
        yield made


@pytest.fixture
def store(backend: StoreUnderTest) -> Store:
    """Return an empty store with the default bounds."""
    return backend.store


@pytest.fixture
async def recorder(backend: StoreUnderTest) -> AnnouncementRecorder:
    """Return a recorder of alice's announcements from ``store``."""
    return await backend.record("alice")


@pytest.fixture
async def make_store(factory: Factory) -> AsyncIterator[MakeStore]:
    """Return a function that makes empty stores with other bounds."""
    async with AsyncExitStack() as stack:

        async def make(limits: Limits) -> Store:
            return (await stack.enter_async_context(factory(limits))).store

        yield make
