"""The twins: every test of a store runs once on each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from gregor.core.limits import Limits
from gregor.store.contract.store import Store
from tests.support.builders import LIMITS
from tests.support.store_backends import FACTORIES, AnnouncementRecorder, Factory, StoreUnderTest

MakeStore = Callable[[Limits], Awaitable[Store]]


@pytest.fixture(params=list(FACTORIES.values()), ids=list(FACTORIES))
def factory(request: pytest.FixtureRequest) -> Factory:
    """Makes stores of one kind."""
    made: Factory = request.param
    return made


@pytest.fixture
async def twin(factory: Factory) -> AsyncIterator[StoreUnderTest]:
    """A fresh store with the default bounds, and its feed."""
    async with factory(LIMITS) as made:
        yield made


@pytest.fixture
def store(twin: StoreUnderTest) -> Store:
    """A fresh store with the default bounds."""
    return twin.store


@pytest.fixture
async def heard(twin: StoreUnderTest) -> AnnouncementRecorder:
    """What ``store`` tells of alice."""
    return await twin.hear("alice")


@pytest.fixture
async def make_store(factory: Factory) -> AsyncIterator[MakeStore]:
    """Makes fresh stores with other bounds."""
    async with AsyncExitStack() as stack:

        async def make(limits: Limits) -> Store:
            return (await stack.enter_async_context(factory(limits))).store

        yield make
