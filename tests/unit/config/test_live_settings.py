"""Files of secrets are read again when they change, and an unusable file changes nothing."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stderr, suppress
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gregor.config import live_settings
from gregor.config.live_settings import LiveSettings
from gregor.config.settings import Settings, load_settings
from gregor.telemetry import configure_logging
from tests.support.wait import wait_until

OLD, NEW = "old secret, long enough for HS256!", "new secret, long enough for HS256!"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """The log of a process; restores the logging configuration afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with redirect_stderr(io.StringIO()) as written:
        configure_logging("ingest")
        yield written
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def replace_file(path: Path, content: str) -> None:
    """Write a file beside the path, and move it there, as Kubernetes and configuration tools do."""
    (path.parent / "new").write_text(content)
    (path.parent / "new").replace(path)


def live(path: Path, content: str = OLD, name: str = "TOKEN_SECRET") -> LiveSettings:
    path.write_text(content)
    return LiveSettings(load_settings({f"GREGOR_{name}_FILE": str(path)}))


async def look_twice(settings: LiveSettings) -> None:
    """A version of a file is used when two looks have found it."""
    await settings.check()
    await settings.check()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "secret"


async def test_changed_secret_is_used(path: Path) -> None:
    settings, applied = live(path), list[tuple[str, ...]]()

    async def apply(current: Settings) -> None:
        applied.append(current.token_secrets)

    settings.on_change(["token_secret"], apply)
    await look_twice(settings)
    assert not applied, "the file has not changed since the start"

    replace_file(path, f"{NEW}\n{OLD}\n")
    await look_twice(settings)
    assert settings.current.token_secrets == (NEW, OLD)
    await look_twice(settings)
    assert applied == [(NEW, OLD)]


async def test_change_between_start_and_first_look_is_used(path: Path) -> None:
    path.write_text(OLD)
    read = load_settings({"GREGOR_TOKEN_SECRET_FILE": str(path)})
    replace_file(path, NEW)
    settings = LiveSettings(read)

    await look_twice(settings)

    assert settings.current.token_secrets == (NEW,)


async def test_half_written_file_is_not_used(path: Path) -> None:
    settings = live(path)
    await look_twice(settings)

    for content in (NEW, f"{NEW}\n", f"{NEW}\n{OLD}"):
        path.write_text(content)
        await settings.check()
        assert settings.current.token_secrets == (OLD,)

    await settings.check()
    assert settings.current.token_secrets == (NEW, OLD)


@pytest.mark.parametrize("content", ["", "canary", "canary " * 20_000, None])
async def test_unusable_file_keeps_the_value_before(content: str | None, path: Path, log: io.StringIO) -> None:
    settings = live(path)
    await look_twice(settings)

    if content is None:
        path.unlink()
    else:
        replace_file(path, content)
    for _ in range(3):
        await look_twice(settings)

    assert settings.current.token_secrets == (OLD,)
    [line] = [json.loads(line) for line in log.getvalue().splitlines()]
    assert (line["event"], line["level"]) == ("secret.refused", "error")
    assert "GREGOR_TOKEN_SECRET_FILE" in line["reason"] and "canary" not in log.getvalue()
    replace_file(path, NEW)
    await look_twice(settings)
    assert settings.current.token_secrets == (NEW,)


async def test_weak_secret_is_used_if_allowed(path: Path) -> None:
    path.write_text("weak")
    allowed = {"GREGOR_TOKEN_SECRET_FILE": str(path), "GREGOR_ALLOW_WEAK_SECRETS": "true"}
    settings = LiveSettings(load_settings(allowed))

    replace_file(path, "weak too")
    await look_twice(settings)

    assert settings.current.token_secrets == ("weak too",)


async def test_redis_password_changes_but_not_its_server(path: Path, log: io.StringIO) -> None:
    settings = live(path, "redis://gregor:before@host:1/2", "REDIS_URL")
    for content in (
        "redis://gregor:canary@other:1/2",
        "redis://gregor:canary@host:1/3",
        "redis://gregor:canary@host:2/2",
    ):
        replace_file(path, content)
        await look_twice(settings)
        assert settings.redis_url() == settings.queue_url() == "redis://gregor:before@host:1/2"
    assert log.getvalue().count("restart the services") == 3 and "canary" not in log.getvalue()

    replace_file(path, "redis://gregor:after@host:1/2")
    await look_twice(settings)
    assert settings.redis_url() == settings.queue_url() == "redis://gregor:after@host:1/2"


async def test_refused_credentials_do_not_stop_other_changes(path: Path, log: io.StringIO) -> None:
    key = path.parent / "key.p8"
    key.write_text("a key")
    settings = live(path)
    settings = LiveSettings(settings.current.model_copy(update={"apns_key_file": key}))

    async def refuse(_: Settings) -> None:
        raise ValueError("GREGOR_APNS_KEY_FILE: not a key")

    settings.on_change(["apns_key_file", "apns_cert_file"], refuse)
    await look_twice(settings)
    assert not log.getvalue()

    replace_file(key, "nonsense")
    replace_file(path, NEW)
    await look_twice(settings)

    assert "not a key" in log.getvalue()
    assert settings.current.token_secrets == (NEW,)


async def test_refused_secret_is_not_current(path: Path, log: io.StringIO) -> None:
    settings, used = live(path), list[tuple[str, ...]]()

    async def accept(given: Settings) -> None:
        used.append(given.token_secrets)

    async def refuse(given: Settings) -> None:
        if given.token_secrets == (NEW,):
            raise ValueError("GREGOR_TOKEN_SECRET: refused")

    for apply in (accept, refuse):
        settings.on_change(["token_secret"], apply)
    replace_file(path, NEW)
    await look_twice(settings)

    assert (settings.current.token_secrets, used[-1]) == ((OLD,), (OLD,))
    assert "the old value stays in use" in log.getvalue()
    replace_file(path, f"{NEW}\n{OLD}")
    await look_twice(settings)
    assert settings.current.token_secrets == used[-1] == (NEW, OLD)


async def test_link_to_another_file_is_a_change(path: Path) -> None:
    """Kubernetes replaces all files of a secret by changing one link."""
    for name, content in (("a", OLD), ("b", NEW)):
        (path.parent / name).write_text(content)
    path.symlink_to("a")
    settings = LiveSettings(load_settings({"GREGOR_TOKEN_SECRET_FILE": str(path)}))

    path.unlink()
    path.symlink_to("b")
    await look_twice(settings)

    assert settings.current.token_secrets == (NEW,)


async def test_watch_follows_files_until_cancelled(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_settings, "CHECK_INTERVAL_S", 0.01)
    await LiveSettings(Settings()).watch()  # returns: no setting is in a file
    settings = live(path)
    calls = 0

    async def fail(_: Settings) -> None:
        nonlocal calls
        calls += 1
        raise RuntimeError("a bug")

    settings.on_change(["token_secret"], fail)
    watching = asyncio.create_task(settings.watch())
    for count, secret in enumerate((NEW, f"{NEW}\n{OLD}"), 1):
        replace_file(path, secret)
        await wait_until(lambda count=count: calls == count, "the change is applied")
    assert settings.current.token_secrets == (OLD,)
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching


@hypothesis_settings(deadline=None, max_examples=40)  # threads look at the files
@given(st.lists(st.sampled_from(["", "weak", OLD, NEW, f"{OLD}\n{NEW}", "x" * 70_000]), max_size=8))
async def test_last_usable_content_is_in_use(contents: list[str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "secret"
        settings = live(path)
        expected: tuple[str, ...] = (OLD,)
        for content in contents:
            replace_file(path, content)
            await look_twice(settings)
            if content in (OLD, NEW, f"{OLD}\n{NEW}"):
                expected = tuple(content.splitlines())
            assert settings.current.token_secrets == expected
