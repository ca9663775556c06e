"""One running `gregor dev` with provider fakes, and clients of it."""

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gregor.client import AsyncProducer, Device, mint_device_token
from tests.support.ports import free_ports
from tests.support.wait import wait_until

PORTS = 20
OPTIONS = ("--json", "--gateways", "2", "--fake-providers")
CATEGORIES = {
    "mail": {"title": "Mail from {{ body.from }}"},
    "alert": {"title": "Alert: {{ body.text }}", "push": {"after": "0s"}},
    "reply": {"title": "{{ body.from }} replied", "push": {"after": "1s"}},
    "invoice": {"title": "Invoice {{ body.number }}", "email": {"after": "0s", "unless": "online"}},
    "onboarding": {"title": "Welcome", "counts_in_badge": False},
}
"""The notification types of these tests: which have a push or an e-mail, and how soon."""


class RunningGregor:
    """A `gregor dev` process: addresses, device tokens, and the pushes and e-mails that its fakes received."""

    def __init__(self, folder: Path) -> None:
        self.secret = secrets.token_urlsafe(32)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GREGOR_")}
        settings = {"GREGOR_TOKEN_SECRET": self.secret, "GREGOR_FLUSH_SPREAD": "1"}
        command = "from gregor.cli import main; main()"
        with (folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", command, "dev", *OPTIONS, "--port-base", str(free_ports(PORTS))],
                env={**kept, **settings, "XDG_STATE_HOME": str(folder / "state")},
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, (folder / "log").read_text()
        self.addresses: dict[str, Any] = json.loads(line)

    def api(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.addresses['key']}"}
        return httpx.Client(base_url=self.addresses["ingest"], headers=headers, trust_env=False)

    def pushes(self, uid: str) -> list[dict[str, Any]]:
        """Return the pushes for a user, oldest first, as the provider fakes received them."""
        return [arrival for arrival in self._arrivals() if arrival["user"] == uid]

    def emails(self) -> list[str]:
        """Return the subjects of all e-mails, oldest first, as the SMTP fake received them."""
        return [arrival["title"] for arrival in self._arrivals() if arrival["channel"] == "email"]

    def _arrivals(self) -> list[dict[str, Any]]:
        lines = Path(self.addresses["fakes"]["arrivals"]).read_text("utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="session")
def gregor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGregor]:
    running = RunningGregor(tmp_path_factory.mktemp("gregor"))
    try:
        with running.api() as api:
            api.put("/v1/categories", json={"categories": CATEGORIES}).raise_for_status()
        yield running
    finally:
        running.stop()


@pytest.fixture
def uid() -> str:
    """A user that no other test has."""
    return f"alice-{secrets.token_hex(4)}"


@pytest.fixture
async def backend(gregor: RunningGregor) -> AsyncIterator[AsyncProducer]:
    async with AsyncProducer(gregor.addresses["ingest"], gregor.addresses["key"]) as producer:
        yield producer


DeviceFactory = Callable[..., Device]


@pytest.fixture
def device(gregor: RunningGregor, uid: str) -> DeviceFactory:
    """``device("phone", gateway=1)`` is a device of the user; entering its context connects it."""

    def make(name: str, *, gateway: int = 0, **options: Any) -> Device:
        token = mint_device_token(gregor.secret, uid, name)
        return Device(gregor.addresses["gateways"][gateway], token, name, **options)

    return make


async def shows(device: Device, *item_ids: str) -> None:
    """Wait until exactly these items are on the screen of a device."""
    await wait_until(
        lambda: sorted(device.state) == sorted(item_ids), lambda: f"{item_ids}, not {sorted(device.state)}"
    )
