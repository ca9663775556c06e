"""The examples of docs/reference/python-client.md, run as they stand against a real server."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from gregor.client import mint_device_token
from tests.fundamentals.conftest import RunningGregor

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "python-client.md"
BACKEND, ASYNC_BACKEND, DEVICE = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


def started(example: str, gregor: RunningGregor, uid: str) -> subprocess.Popen[str]:
    """Start an example, for another user than the one on the page, on the ports of this server."""
    addresses = gregor.addresses
    code = example.replace("http://127.0.0.1:8700", addresses["ingest"])
    code = code.replace("ws://127.0.0.1:8701", addresses["gateways"][0]).replace('"alice"', f'"{uid}"')
    variables = {"GREGOR_KEY": addresses["key"], "GREGOR_TOKEN": mint_device_token(gregor.secret, uid, "phone")}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-u", "-c", code], env={**os.environ, **variables}, stdout=pipe, stderr=pipe, text=True
    )


def printed(example: str, gregor: RunningGregor, uid: str) -> list[str]:
    """Run an example to its end and return the lines that it printed."""
    with started(example, gregor, uid) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    return out.splitlines()


def test_backend_example_runs(gregor: RunningGregor, uid: str) -> None:
    item, reason, numbers, *history = printed(BACKEND, gregor, uid)

    assert "'category': 'user.joined'" in item and "'body': {'keybase': 'kbob'}" in item
    assert reason == "dismissed"
    assert len(json.loads(numbers)) == 3
    assert history[0].partition(" ")[0] == "notice-1"
    assert "'reason': 'interval'" in history[-1]


def test_async_backend_example_runs(gregor: RunningGregor, uid: str) -> None:
    assert printed(ASYNC_BACKEND, gregor, uid) == ["1"]


def test_device_example_shows_changes(gregor: RunningGregor, uid: str) -> None:
    def send(api: Any, body: dict[str, Any]) -> None:
        api.post(f"/v1/users/{uid}/messages", json={"system": "gregor", "body": body}).raise_for_status()

    with gregor.api() as api, started(DEVICE, gregor, uid) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "0 {}\n"
            send(api, {"create": {"aa": {"category": "mail"}}})
            assert process.stdout.readline() == "+ aa mail\n"
            send(api, {"dismiss": {"ids": ["aa"]}})
            assert process.stdout.readline() == "- aa\n"
        finally:
            process.terminate()
