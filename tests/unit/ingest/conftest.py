"""Fixtures of the tests of ingest."""

from collections.abc import AsyncIterator

import pytest

from tests.support.api import Api


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    """An API in memory, without data."""
    async with Api() as api:
        yield api
