"""All tests of this directory have the marker `deploy`; they share one image.

The files run in parallel, those that take longest first (`make test-deploy`): the proxies mostly wait for pings.
"""

from pathlib import Path

import pytest

from tests.support.podman import build_image

HERE = Path(__file__).parent
LONGEST_FIRST = ("test_proxies.py", "test_compose.py", "test_image.py", "test_chart.py", "test_alerts.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.deploy)
            # The first one installs a Debian for the base image.
            item.add_marker(pytest.mark.timeout(900))
    items.sort(key=lambda item: LONGEST_FIRST.index(item.path.name) if item.path.name in LONGEST_FIRST else 9)


@pytest.fixture(scope="session")
def image() -> str:
    """Build the image of deploy/docker. Returns its name."""
    return build_image()
