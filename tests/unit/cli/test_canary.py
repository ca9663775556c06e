"""`gregor canary`: the options that it refuses."""

import secrets
from collections.abc import Iterator

import pytest
import structlog

from tests.support.scripted_ingest import ScriptedIngest
from tests.unit.cli.running import run


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """The command configures the log of its process."""
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize(
    ("option", "value", "fix"),
    [
        ("--every", "0", "write 0.1s or more"),
        ("--timeout", "0s", "write 0.1s or more"),
        ("--late", "0.05", "write 0.1s or more"),
        ("--every", "soon", "write 2h, 30m, 1d, or seconds"),
        ("--host", "a..b", "write 127.0.0.1 or ::"),
        ("--host", "a" * 64, "write 127.0.0.1 or ::"),
    ],
)
def test_unusable_option_is_refused_with_its_fix(
    option: str,
    value: str,
    fix: str,
    ingest: ScriptedIngest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GREGOR_TOKEN_SECRET", secrets.token_urlsafe(32))

    assert run("canary", option, value) == 2

    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert option in said and fix in said
    assert ingest.asked == []
