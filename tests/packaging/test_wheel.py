"""The wheel as a user installs it: a thin client alone, and all services with the extras."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.ports import free_ports

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
OURS = {"gregor", "gregor_ingest", "gregor_gateway", "gregor_scheduler", "gregor_delivery"}
MAX_REQUIREMENTS = 8
PORTS = 20


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    checked([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], ROOT)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def thin(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` directory of an environment with the wheel alone."""
    return installed(str(wheel), tmp_path_factory.mktemp("thin"))


@pytest.fixture(scope="module")
def full(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` directory of an environment with `gregor[server,dev]`."""
    return installed(f"{wheel}[server,dev]", tmp_path_factory.mktemp("full"))


def installed(requirement: str, folder: Path) -> Path:
    """A new environment in the folder, with the versions of the lock; its `bin` directory."""
    python = folder / "venv" / "bin" / "python"
    checked([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], folder)
    lock = str(ROOT / "requirements.lock")
    checked(
        [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", str(python), "-c", lock, requirement],
        folder,
    )
    return python.parent


def clean_environ(bin_: Path, home: Path) -> dict[str, str]:
    """An environment without the checkout, without other Redis servers, and with its own home."""
    return {"PATH": f"{bin_}:/usr/bin:/bin", "HOME": str(home), "LANG": "C.UTF-8"}


def run(bin_: Path, cwd: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(bin_ / arguments[0]), *arguments[1:]], cwd=cwd, env=clean_environ(bin_, cwd) | environ,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def checked(command: list[str], cwd: Path) -> None:
    ended = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=280, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's project with module names that ours also use."""
    (tmp_path / "services").mkdir()
    (tmp_path / "services" / "__init__.py").write_text("")
    for name in ("structlog.py", "redis.py", "gregor_ingest.py", "gregor.py", "httpx.py"):
        (tmp_path / name).write_text(f"raise SystemExit('{name} of the working directory was imported')\n")
    return tmp_path


@contextmanager
def running_dev(bin_: Path, cwd: Path) -> Iterator[dict[str, Any]]:
    """A `gregor dev` of an installed wheel; its JSON line."""
    log = cwd / "log"
    with log.open("wb") as stderr, subprocess.Popen(
        [str(bin_ / "gregor"), "dev", "--json", "--port-base", str(free_ports(PORTS))],
        cwd=cwd, env=clean_environ(bin_, cwd), stdout=subprocess.PIPE, stderr=stderr,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line, log.read_text()
            yield json.loads(line)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, log.read_text()


def test_top_level_names_are_ours(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name.partition("/")[0] for name in archive.namelist()}

    assert {name for name in names if not name.endswith(".dist-info")} == OURS


def test_wheel_has_every_file_of_the_packages(wheel: Path) -> None:
    """The build skips files that .gitignore matches: a package named like a build directory would be missing."""
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}

    files = {
        path: path.relative_to(ROOT / root) for root in ("shared", "services") for path in (ROOT / root).rglob("*")
    }
    ours = {str(name) for path, name in files.items() if path.is_file() and "__pycache__" not in name.parts}
    client = ROOT / "clients" / "js" / "dist"
    served = {f"gregor_ingest/client/{path.relative_to(client)}" for path in client.rglob("*") if path.is_file()}
    assert "gregor_ingest/client/inbox.js" in served
    assert packed == ours | served


def test_thin_client_has_few_requirements() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

    assert len(project["dependencies"]) <= MAX_REQUIREMENTS
    names = {re.split(r"[\[<>=;!~ ]", line)[0] for line in project["dependencies"]}
    assert names == {"h11", "httpx", "picows", "msgspec", "pyjwt", "typer"}


def test_thin_client_names_the_missing_extras(thin: Path, tmp_path: Path) -> None:
    imported = run(thin, tmp_path, "python", "-c", "import gregor.client; print(gregor.client.Producer.__name__)")
    assert (imported.stdout, imported.stderr) == ("Producer\n", "")

    version = run(thin, tmp_path, "gregor", "--version")
    assert version.returncode == 0 and version.stdout.startswith("gregor ")
    unknown = run(thin, tmp_path, "gregor", "state", "alice")
    assert (unknown.returncode, unknown.stderr[:42]) == (1, "gregor: no running Gregor is known: start ")
    dev = run(thin, tmp_path, "gregor", "dev")
    assert dev.returncode == 1 and "pip install '.[server]'" in dev.stderr


def test_installed_dev_runs_beside_modules_of_the_same_names(full: Path, project: Path) -> None:
    with running_dev(full, project):
        sent = run(full, project, "gregor", "send", "alice", "--category", "mail", "--id", "aa")
        assert sent.stdout == "seq 1: created aa\n", sent.stderr
        assert json.loads(run(full, project, "gregor", "state", "alice", "--json").stdout)["badge"] == 1
        found = run(full, project, "gregor", "doctor", "--timeout", "20")
        assert found.returncode == 0, found.stdout + found.stderr


def test_thin_client_calls_a_running_server(thin: Path, full: Path, tmp_path: Path) -> None:
    program = "import os, sys; from gregor.client import Producer\n"
    program += "print(Producer(sys.argv[1], sys.argv[2]).create('alice', 'mail', {'n': 1}, item_id='aa').created)"
    with running_dev(full, tmp_path) as places:
        created = run(thin, tmp_path, "python", "-c", program, places["ingest"], places["key"])
        state = run(thin, tmp_path, "gregor", "state", "alice")

    assert (created.stdout, created.stderr) == ("('aa',)\n", "")
    assert "1 item, badge 1" in state.stdout


def test_installed_service_ignores_the_working_directory(full: Path, project: Path) -> None:
    (project / "gregor.toml").write_text('redis_url = "redis://127.0.0.1:1/0"\n')
    ended = run(full, project, "gregor", "ingest", GREGOR_CONFIG="gregor.toml")

    assert ended.returncode == 1
    assert "working directory was imported" not in ended.stdout + ended.stderr
    assert "Redis" in ended.stdout + ended.stderr
