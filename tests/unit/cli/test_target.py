"""The URLs that commands accept, and the URLs of a gateway that they derive."""

import os
from pathlib import Path

import pytest

from gregor.cli.state_file import RunningDev, write_running
from gregor.cli.target import stream_url, websocket_url
from tests.support.scripted_ingest import ScriptedIngest
from tests.unit.cli.running import run

MALFORMED = [
    "http://[",
    "http://[x]:1",
    "http://a:b",
    "http://a:99999",
    "http://a:0",
    "http://",
    "a:8700",
    "http://a\n",
]


@pytest.mark.parametrize("url", MALFORMED)
@pytest.mark.parametrize(
    ("command", "option", "scheme"),
    [
        (["watch", "alice"], "--gateway", "ws"),
        (["watch", "alice"], "--url", "http"),
        (["watch", "alice", "--observe"], "--stream", "http"),
        (["watch", "alice", "--observe"], "--url", "http"),
        (["canary", "--once"], "--gateway", "ws"),
        (["canary", "--once"], "--stream", "http"),
        (["canary", "--once"], "--url", "http"),
        (["state", "alice"], "--url", "http"),
        (["users", "export", "alice"], "--url", "http"),
        (["keys", "list"], "--url", "http"),
    ],
)
def test_malformed_url_is_refused_with_its_option(
    command: list[str], option: str, scheme: str, url: str, ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*command, option, url.replace("http:", f"{scheme}:")) == 2

    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert option in said and f"write {scheme}://host:port or {scheme}s://host" in said
    assert ingest.asked == []


@pytest.mark.parametrize("url", MALFORMED)
@pytest.mark.parametrize("command", [["state", "alice"], ["watch", "alice", "--token", "a.b.c"]])
def test_malformed_variable_is_refused_with_its_name(
    command: list[str],
    url: str,
    ingest: ScriptedIngest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GREGOR_URL", url)

    assert run(*command) == 1

    assert capsys.readouterr().err == "gregor: GREGOR_URL is not a URL; write http://host:port or https://host\n"


def test_gateway_is_derived_from_the_port_of_ingest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    assert websocket_url(None, "http://a:8700") == "ws://a:8701"
    assert stream_url(None, "https://[::1]:8700") == "https://[::1]:8702"


def test_gateway_cannot_be_derived_from_the_last_port(
    ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("watch", "alice", "--token", "a.b.c", "--url", "http://a:65535") == 1

    assert "name the gateway with --gateway" in capsys.readouterr().err


@pytest.fixture
def dev(ingest: ScriptedIngest, monkeypatch: pytest.MonkeyPatch) -> ScriptedIngest:
    """A scripted ingest that only the state file of a running `gregor dev` names."""
    monkeypatch.delenv("GREGOR_URL")
    monkeypatch.delenv("GREGOR_KEY")
    redis = "redis://:secret@127.0.0.1:7001/0"
    running = RunningDev(os.getpid(), ingest.url, "ws://127.0.0.1:1", "http://127.0.0.1:1", redis, "gk_a_b", "s" * 32)
    write_running(running, 8700, os.environ)
    return ingest


@pytest.mark.parametrize(
    "command",
    [
        ["state", "alice"],
        ["audit"],
        ["send", "alice", "--category", "mail"],
        ["users", "delete", "alice", "--yes"],
        ["watch", "alice"],
        ["watch", "alice", "--observe"],
        ["keys", "list", "--key", "gk_a_b"],
    ],
)
@pytest.mark.parametrize("is_file", [False, True])
def test_dev_is_not_called_for_the_redis_of_another_deployment(
    is_file: bool,
    command: list[str],
    dev: ScriptedIngest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`gregor keys` uses GREGOR_REDIS_URL, so the other commands must not use another deployment without a word."""
    if is_file:
        (tmp_path / "redis").write_text("redis://:secret@redis.example/0\n")
        monkeypatch.setenv("GREGOR_REDIS_URL_FILE", str(tmp_path / "redis"))
    else:
        monkeypatch.setenv("GREGOR_REDIS_URL", "redis://:secret@redis.example/0")

    assert run(*command) == 1

    assert capsys.readouterr().err == (
        f"gregor: GREGOR_REDIS_URL names the Redis redis.example, but the running gregor dev at {dev.url} uses "
        "127.0.0.1:7001; set GREGOR_URL to the ingest to call, or unset GREGOR_REDIS_URL to call gregor dev\n"
    )
    assert dev.asked == []


@pytest.mark.parametrize("redis", [None, "redis://localhost:7001", "redis://gregor:x@127.0.0.1:7001/0?a=b"])
def test_dev_is_called_for_its_own_redis(
    redis: str | None, dev: ScriptedIngest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if redis is not None:
        monkeypatch.setenv("GREGOR_REDIS_URL", redis)

    assert run("users", "delete", "alice", "--yes") == 0

    assert [path for _, path, _ in dev.asked] == ["/v1/users/alice"]


def test_named_dev_is_called_whatever_redis_is_set(dev: ScriptedIngest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREGOR_REDIS_URL", "redis://redis.example/0")

    assert run("users", "delete", "alice", "--yes", "--url", dev.url) == 0

    monkeypatch.setenv("GREGOR_URL", dev.url)
    assert run("users", "delete", "alice", "--yes") == 0
    assert len(dev.asked) == 2
