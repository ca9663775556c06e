"""``gregor doctor`` as an operator runs it: it ends within three seconds, also if a server or a provider hangs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.servers import BINARIES, Server, running_server

MOST_S = 3.0
ATTEMPTS = 4
"""Other processes share these cores, so the fastest of some runs counts. A hung server delays each run."""
SECRET = "a-secret-of-at-least-32-bytes-for-hs256"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running_server(BINARIES[-1], tmp_path) as server:
        yield server


@pytest.fixture
def silent_port() -> Iterator[int]:
    """The port of a host that accepts connections and never says a word."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
        yield listener.getsockname()[1]


def doctor(tmp_path: Path, **settings: str) -> tuple[float, Mapping[str, str]]:
    """Return the seconds of the fastest run, and its verdicts by check."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GREGOR_")}
    environ |= {"XDG_STATE_HOME": str(tmp_path / "state"), "GREGOR_TOKEN_SECRET": SECRET}
    environ |= {f"GREGOR_{name.upper()}": value for name, value in settings.items()}
    command = [sys.executable, "-c", "from gregor.cli import main; main()", "doctor", "--json"]
    best_s, verdicts = float("inf"), {}
    for _ in range(ATTEMPTS):
        began = time.monotonic()
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        took_s = time.monotonic() - began
        assert done.returncode in (0, 1, 2), done.stderr
        if took_s < best_s:
            best_s, verdicts = took_s, {each["check"]: each["verdict"] for each in json.loads(done.stdout)}
        if best_s <= MOST_S:
            break
    return best_s, verdicts


def test_healthy_server_is_checked_within_three_seconds(server: Server, tmp_path: Path) -> None:
    took_s, verdicts = doctor(tmp_path, redis_url=server.url)

    assert (verdicts["redis"], verdicts["pubsub"], verdicts["email"]) == ("ok", "ok", "ok")
    assert took_s <= MOST_S


def test_hung_server_is_reported_within_three_seconds(server: Server, tmp_path: Path) -> None:
    server.suspend()

    took_s, verdicts = doctor(tmp_path, redis_url=server.url)

    assert verdicts["redis"] == "fail"
    assert took_s <= MOST_S


def test_closed_port_is_reported_within_three_seconds(tmp_path: Path) -> None:
    took_s, verdicts = doctor(tmp_path, redis_url="redis://127.0.0.1:1/0")

    assert verdicts["redis"] == "fail"
    assert took_s <= MOST_S


def test_hung_provider_is_reported_within_three_seconds(server: Server, tmp_path: Path, silent_port: int) -> None:
    relay = f"smtp://127.0.0.1:{silent_port}?tls=none"

    took_s, verdicts = doctor(tmp_path, redis_url=server.url, smtp_url=relay, mail_from="gregor@example.com")

    assert verdicts["redis"] == "ok"
    assert "fail" in (verdicts.get("email"), verdicts.get("providers"))
    assert took_s <= MOST_S


def test_hung_key_set_is_reported_within_three_seconds(server: Server, tmp_path: Path, silent_port: int) -> None:
    keys = f"https://127.0.0.1:{silent_port}/keys.json"

    took_s, verdicts = doctor(tmp_path, redis_url=server.url, token_jwks=keys)

    assert (verdicts["redis"], verdicts["jwks"]) == ("ok", "fail")
    assert took_s <= MOST_S
