"""All tests of this directory have the marker `deploy`; they share one image."""

from pathlib import Path

import pytest

from tests.support.podman import build_image

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.deploy)
            # The first one installs a Debian for the base image.
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def image() -> str:
    """Build the image of deploy/docker. Returns its name."""
    return build_image()
