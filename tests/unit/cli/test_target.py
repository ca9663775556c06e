"""The URLs that commands accept, and the URLs of a gateway that they derive."""

from pathlib import Path

import pytest

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
