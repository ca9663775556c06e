"""deploy/docker: the image is built and run by podman, over a base image of this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gregor.dev.embedded_redis import find_server
from tests.support.deploy_tools import DEPLOY, ROOT, output_of, tool
from tests.support.podman import podman
from tests.support.ports import free_port
from tests.support.servers import running_server
from tests.support.wait import wait_until_sync

ROLES = ("ingest", "gateway", "scheduler", "delivery")
PORTS = ("INGEST_PORT", "GATEWAY_PORT", "STREAM_PORT", "SCHEDULER_PORT", "DELIVERY_PORT")
SECRET = "kR2vT9xWq4LmZ7nB1cYdE6hUaJ3sGfPo"


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_server(str(find_server()), tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@contextmanager
def running(image: str, role: str, redis_url: str) -> Iterator[str]:
    """Run a role with a read-only root, in the network of this machine, where the Redis is. Yield the container."""
    settings = {"REDIS_URL": redis_url, "TOKEN_SECRET": SECRET, "ADMIN_PORT": free_port(), "HOST": "127.0.0.1"}
    settings |= {name: free_port() for name in PORTS}
    options = [word for name, value in settings.items() for word in ("--env", f"GREGOR_{name}={value}")]
    hardening = ("--read-only", "--cap-drop", "all")
    started = podman("run", "--detach", "--network", "host", *hardening, *options, image, role)
    container = started.strip().splitlines()[-1]
    try:
        yield container
    finally:
        podman("rm", "--force", "--time", "0", container)


def test_dockerfile_has_no_lint() -> None:
    output_of([tool("hadolint"), "--failure-threshold", "info", str(DEPLOY / "docker" / "Dockerfile")])


@pytest.mark.parametrize("role", ROLES)
def test_role_serves_as_process_1_of_nobody(image: str, role: str, redis_url: str) -> None:
    with running(image, role, redis_url) as container:
        wait_until_sync(lambda: "ready" in podman("logs", container), f"{role} is ready", 120)
        podman("healthcheck", "run", container)

        [process] = podman("top", container, "pid", "user", "args").strip().splitlines()[1:]
        assert process.split()[:2] == ["1", "65532"] and f"gregor_{role}" in process
        podman("stop", "--time", "30", container)
        assert podman("inspect", "--format", "{{.State.ExitCode}}", container).strip() == "0"


def test_health_check_fails_without_a_service(image: str) -> None:
    [inspected] = json.loads(podman("inspect", "--type", "image", image))
    command = inspected["Healthcheck"]["Test"][1:]

    podman("run", "--rm", "--entrypoint", command[0], image, *command[1:], status=1)


def test_image_has_no_pip_and_no_source(image: str) -> None:
    listed = podman("run", "--rm", "--entrypoint", "sh", image, "-c", "ls /opt/gregor/bin /src 2>&1 || true")

    assert "gregor" in listed.split() and "pip" not in listed.split()
    assert "cannot access '/src'" in listed


def test_image_has_the_locked_versions(image: str) -> None:
    code = "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()))"
    installed = podman("run", "--rm", "--entrypoint", "python3", image, "-c", code).lower().replace("_", "-").split()
    lock = (ROOT / "requirements-server.lock").read_text("utf-8").lower().splitlines()
    locked = {line.split()[0] for line in lock if "==" in line and not line.startswith(" ")}

    assert {each for each in installed if not each.startswith("gregor==")} <= locked
    assert any(each.startswith("fastapi==") for each in installed)


def test_secrets_of_the_checkout_stay_outside(image: str) -> None:
    """A file that the ignore file does not allow, such as `.env`, is not sent to the build."""
    secret = ROOT / ".env.deploy-test"
    secret.write_text("TOKEN=1")
    try:
        dockerfile = 'FROM scratch\nCOPY . /context\nCMD ["x"]\n'
        ignore = DEPLOY / "docker" / "Dockerfile.dockerignore"
        name = "localhost/gregor-context:test"
        context = _build_context(dockerfile, ignore, name)
        assert "pyproject.toml" in context and ".env.deploy-test" not in context and ".git/" not in context
    finally:
        secret.unlink()


def _build_context(dockerfile: str, ignore: Path, name: str) -> str:
    """Return the files that a build gets with an ignore file."""
    folder = ROOT / ".deploy"
    file = folder / "Context.Dockerfile"
    file.write_text(dockerfile)
    podman("build", "--ignorefile", str(ignore), "-f", str(file), "-t", name, ".")
    archive = folder / "context.tar"
    archive.unlink(missing_ok=True)
    podman("save", "--format", "docker-archive", "-o", str(archive), name)
    try:
        layers = output_of([tool("tar"), "-tf", str(archive)]).split()
        [layer] = [each for each in layers if each.endswith(".tar") and "/" not in each]
        unpacked = subprocess.run(["tar", "-xOf", str(archive), layer], capture_output=True, check=True).stdout
        return subprocess.run(["tar", "-t"], input=unpacked, capture_output=True, check=True).stdout.decode()
    finally:
        archive.unlink()
        podman("rmi", "--force", name)


def test_wheel_is_reproducible(tmp_path: Path) -> None:
    """Two builds give the same bytes, so an image can be compared with its commit."""
    wheels = []
    for number in range(2):
        folder = tmp_path / str(number)
        output_of([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)])
        [wheel] = folder.glob("*.whl")
        wheels.append(wheel.read_bytes())

    assert wheels[0] == wheels[1]
