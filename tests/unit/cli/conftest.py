"""What the tests of the commands share: a scripted ingest that the commands find."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.scripted_ingest import ScriptedIngest, scripted_ingest


@pytest.fixture
def ingest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedIngest]:
    """A scripted ingest, named by GREGOR_URL; no `gregor dev` is running."""
    with scripted_ingest() as server:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        monkeypatch.setenv("GREGOR_URL", server.url)
        monkeypatch.setenv("GREGOR_KEY", "gk_a_b")
        yield server
