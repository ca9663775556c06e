"""What all tests of ingest start from."""

from collections.abc import AsyncIterator

import pytest

from tests.support.api import Api


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    """A fresh API."""
    async with Api() as api:
        yield api
