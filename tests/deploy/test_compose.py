"""deploy/compose: everything is started by podman-compose, used through HAProxy, broken, and repaired by itself.

The images of Valkey, HAProxy and Prometheus are those of Debian, because no registry of images can be reached.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import signal
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gregor.auth.device_tokens import mint
from tests.support.deploy_tools import DEPLOY, output_of, tool
from tests.support.podman import ENVIRON, build_tools_image, podman
from tests.support.ports import free_port
from tests.support.wait import wait_until, wait_until_sync
from tests.support.wire_device import WireDevice

SERVICES = ("valkey", "ingest", "gateway", "scheduler", "delivery", "haproxy", "prometheus")
UP_S = 60
REPAIR_S = 150
"""Longest wait for a container that was killed: beside other suites, it starts slowly."""
UNSAFE = ssl._create_unverified_context()


class Compose:
    """The project of deploy/compose, in a copy, with the images and ports of this machine."""

    def __init__(self, directory: Path, image: str) -> None:
        shutil.copytree(DEPLOY, directory / "deploy", ignore=shutil.ignore_patterns("secrets"))
        self.folder = directory / "deploy" / "compose"
        engine = directory / "containers.conf"
        engine.write_text(f'[engine]\nruntime = "{Path(tool("runc")).name}"\n')
        self.https, self.prometheus = free_port(), free_port()
        tools = build_tools_image()
        self.environ = ENVIRON | {
            "CONTAINERS_CONF": str(engine),
            "GREGOR_IMAGE": image,
            "VALKEY_IMAGE": tools,
            "HAPROXY_IMAGE": tools,
            "PROMETHEUS_IMAGE": tools,
            "HTTPS_PORT": str(self.https),
            "HTTP_PORT": str(free_port()),
            "PROMETHEUS_PORT": str(self.prometheus),
            "NOFILE": str(min(100_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1])),
        }
        tool("openssl")
        output_of([str(self.folder / "make-secrets"), "gregor.example"])
        self.key = ""
        self.up_s = 0.0

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.https}"

    def __call__(self, *words: str, timeout_s: float = 180) -> str:
        """Run a command of Compose."""
        command = [tool("podman-compose"), "-f", str(self.folder / "compose.yaml"), *words]
        return output_of(command, timeout_s=timeout_s, environ=self.environ)

    def token(self, uid: str, device: str) -> str:
        secret = (self.folder / "secrets" / "token").read_text().strip()
        return mint(secret, uid, device, 3600, now_us=time.time_ns() // 1000)

    def answers(self) -> bool:
        try:
            found = [httpx.get(f"{self.url}{path}", verify=False, trust_env=False) for path in ("/", "/v1/stream")]
        except httpx.HTTPError:
            return False
        return [each.status_code for each in found] == [200, 401]

    def kill(self, service: str) -> None:
        """Kill the first process of a container, as a crash does. An engine does not restart what it stopped itself."""
        pid = int(podman("inspect", "--format", "{{.State.Pid}}", f"gregor_{service}_1").split()[-1])
        os.kill(pid, signal.SIGKILL)

    def logs(self) -> str:
        return "\n".join(podman("logs", "--tail", "15", f"gregor_{service}_1") for service in SERVICES)


@pytest.fixture(scope="module")
def compose(tmp_path_factory: pytest.TempPathFactory, image: str) -> Iterator[Compose]:
    project = Compose(tmp_path_factory.mktemp("compose"), image)
    project("down", "--volumes", "--timeout", "1")
    began = time.monotonic()
    project("up", "--no-build", "--detach")
    try:
        try:
            wait_until_sync(project.answers, "HAProxy reaches ingest and a gateway", 120)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{project.logs()}") from None
        project.up_s = time.monotonic() - began
        made = project(
            "--profile",
            "admin",
            "run",
            "--rm",
            "admin",
            "keys",
            "create",
            "--json",
            "--scope",
            "ingest",
            "--scope",
            "read",
        )
        project.key = json.loads(made[made.index("{") : made.rindex("}") + 1])["key"]
        yield project
    finally:
        project("down", "--volumes", "--timeout", "1")


async def smoke(compose: Compose, item: str) -> None:
    """Publish an item, and receive it by WebSocket and by SSE, all through HAProxy."""
    url = f"wss://127.0.0.1:{compose.https}"
    sse = {"Authorization": f"Bearer {compose.token('alice', 'web')}"}
    async with (
        httpx.AsyncClient(base_url=compose.url, verify=UNSAFE, trust_env=False, timeout=10) as client,
        WireDevice(url, compose.token("alice", "phone"), {}, ssl=UNSAFE) as device,
        client.stream("GET", "/v1/stream", headers=sse) as response,
    ):
        assert response.status_code == 200
        lines = response.aiter_lines()
        message: dict[str, Any] = {"system": "gregor", "body": {"create": {item: {"category": "mail", "body": 1}}}}
        key = {"Authorization": f"Bearer {compose.key}"}
        sent = await client.post("/v1/users/alice/messages", json=message, headers=key)
        assert sent.status_code == 200, sent.text
        await wait_until(lambda: item in str(device.frames), "the WebSocket has the item", 10)
        async with asyncio.timeout(10):
            while item not in await anext(lines):
                pass


def test_compose_file_follows_the_schema() -> None:
    file = str(DEPLOY / "compose" / "compose.yaml")

    output_of([tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", file])


def test_secrets_are_made_once(tmp_path: Path) -> None:
    tool("openssl")
    shutil.copytree(DEPLOY, tmp_path / "deploy", ignore=shutil.ignore_patterns("secrets"))
    script, secrets = tmp_path / "deploy" / "compose" / "make-secrets", tmp_path / "deploy" / "compose" / "secrets"
    output_of([str(script), "gregor.example"])
    before = {file.name: file.read_text() for file in secrets.iterdir()}
    output_of([str(script), "gregor.example"])

    assert {file.name: file.read_text() for file in secrets.iterdir()} == before
    assert "PASSWORD" not in before["users.acl"] and secrets.stat().st_mode & 0o777 == 0o700
    output_of([str(script)], status=2)


async def test_smoke_within_a_minute(compose: Compose) -> None:
    began = time.monotonic()
    await smoke(compose, "first")

    total_s = compose.up_s + time.monotonic() - began
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    print(f"compose: up and used after {total_s:.0f} s, {load:.1f} processes for each core")
    assert total_s <= UP_S * max(1, load), f"{total_s:.0f} s"


def test_doctor_is_content(compose: Compose) -> None:
    compose("--profile", "admin", "run", "--rm", "admin", "doctor", "--timeout", "20")


async def test_prometheus_sees_every_service(compose: Compose) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:

        async def up() -> set[str]:
            answer = await client.get(
                f"http://127.0.0.1:{compose.prometheus}/api/v1/query", params={"query": "up == 1"}
            )
            found = answer.json()["data"]["result"]
            return {each["metric"].get("service", each["metric"]["job"]) for each in found}

        async def all_are_up() -> bool:
            return await up() == {"ingest", "gateway", "scheduler", "delivery", "haproxy"}

        await wait_until(all_are_up, "Prometheus reaches every service", 60, step_s=1)


@pytest.mark.parametrize("service", SERVICES)
async def test_killed_container_is_restarted(compose: Compose, service: str) -> None:
    compose.kill(service)
    problems: list[Exception] = []

    async def works() -> bool:
        try:
            await smoke(compose, f"after-{service}-{time.monotonic_ns()}")
        except Exception as error:
            problems.append(error)
            return False
        return True

    await wait_until(works, lambda: f"{service}: {problems[-1]}\n{compose.logs()}", REPAIR_S, step_s=0.5)
    wait_until_sync(lambda: runs(service), f"{service} runs again", REPAIR_S)


def runs(service: str) -> bool:
    state = podman("inspect", "--format", "{{.State.Running}} {{.RestartCount}}", f"gregor_{service}_1").split()
    return state[-2] == "true" and int(state[-1]) >= 1
