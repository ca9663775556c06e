"""A shared cluster of two ingests and two gateways, and a fresh user for each test."""

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.cluster import Cluster
from tests.support.wire_device import WireDevice

_users = itertools.count(1)
HERE = Path(__file__).parent
SLOW = (
    "test_crashes",
    "test_dead_letters",
    "test_delivery_chaos",
    "test_dev",
    "test_forgetting",
    "test_mail",
    "test_openapi",
    "test_queue_outage",
    "test_scheduler_crashes",
    "test_sentinel",
    "test_services_on_cluster",
    "test_webhooks",
)
"""Modules that take a quarter of a minute or more on two cores; `make test-slow` and CI run them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            if item.path.stem in SLOW:
                item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster"), flush_spread=1, device_rate=1_000, device_burst=1_000) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: Cluster, request: pytest.FixtureRequest) -> Cluster:
    """Return the shared cluster. A test that kills a process starts its own."""
    return shared_cluster


@pytest.fixture
async def api(cluster: Cluster) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of the first ingest, with a key that has every scope."""
    async with cluster.api() as client:
        yield client


@pytest.fixture
def uid() -> str:
    """Return a user that no other test has."""
    return f"alice-{next(_users)}"


@pytest.fixture
def device_of(cluster: Cluster, uid: str) -> Callable[..., WireDevice]:
    """Return a factory: `device_of("phone", gateway=1, hello={…})` is a device of the user, not yet connected."""

    def make(name: str, gateway: int = 0, hello: dict[str, Any] | None = None, **claims: Any) -> WireDevice:
        token = cluster.token(uid, name, **claims)
        return WireDevice(cluster.gateway_urls[gateway], token, {} if hello is None else hello)

    return make
