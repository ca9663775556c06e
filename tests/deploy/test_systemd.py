"""deploy/systemd: the unit is valid and hardened, and the services run under the part of it that a test can apply."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gregor.config.settings import Settings
from gregor.dev.processes import end_with_parent
from tests.support.cluster import Cluster
from tests.support.deploy_tools import DEPLOY, ROOT, output_of, tool
from tests.support.ports import free_port
from tests.support.wait import wait_until_sync

UNIT = DEPLOY / "systemd" / "gregor@.service"
GUIDE = ROOT / "docs" / "how-to" / "install-with-systemd.md"
MAX_EXPOSURE = 2.0
PR_SET_MDWE, REFUSE_EXEC_GAIN = 65, 1


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """Copy the units, with a program of this machine instead of /opt/gregor/bin/gregor."""
    folder = tmp_path / "units"
    shutil.copytree(DEPLOY / "systemd", folder)
    unit = folder / UNIT.name
    unit.write_text(unit.read_text("utf-8").replace("/opt/gregor/bin/gregor", "/bin/true"))
    return folder


def test_units_are_valid(units: Path) -> None:
    """`systemd-analyze verify` ends with 0 also for an unknown option; then it prints a warning."""
    for role in ("ingest", "gateway", "scheduler", "delivery"):
        instance = units / f"gregor@{role}.service"
        shutil.copy(units / UNIT.name, instance)
        assert output_of([tool("systemd-analyze"), "verify", str(instance), str(units / "gregor.target")]) == ""


def test_unknown_option_is_found(units: Path) -> None:
    unit = units / "gregor@ingest.service"
    unit.write_text((units / UNIT.name).read_text("utf-8").replace("WatchdogSec", "WatchdogSecs"))

    assert "WatchdogSecs" in output_of([tool("systemd-analyze"), "verify", str(unit)])


def test_exposure_of_the_unit_is_low() -> None:
    rated = output_of([tool("systemd-analyze"), "security", "--offline=true", "--no-pager", str(UNIT)])
    overall = re.search(r"Overall exposure level for \S+: ([\d.]+)", rated)

    assert overall is not None and float(overall[1]) <= MAX_EXPOSURE


def test_stop_timeout_is_longer_than_the_drain() -> None:
    stop = re.search(r"^TimeoutStopSec=(\d+)s$", UNIT.read_text("utf-8"), re.MULTILINE)
    settings = Settings()

    assert stop is not None and int(stop[1]) >= settings.pre_drain_seconds + settings.drain_seconds + 5


def test_services_run_without_writable_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MemoryDenyWriteExecute=, by the kernel itself. Only Linux 6.3 or newer has it without seccomp."""
    libc = ctypes.CDLL(None, use_errno=True)

    def deny() -> None:
        if libc.prctl(PR_SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "no PR_SET_MDWE")

    monkeypatch.setattr("tests.support.cluster.end_with_parent", lambda: deny)
    try:
        with Cluster(tmp_path / "c", gateways=1, ingests=1, schedulers=1, deliveries=1) as cluster:
            cluster.gregor("doctor", "--timeout", "20", "--redis", cluster.server.url)
    except Exception as error:
        if "preexec_fn" in str(error):
            pytest.skip("not checked: this kernel has no PR_SET_MDWE")
        raise


def commands_of_the_guide(*sections: str) -> str:
    """Return the commands of some sections of the guide."""
    text = GUIDE.read_text("utf-8")
    found = [re.search(rf"^## {name}$(.*?)^## ", text, re.MULTILINE | re.DOTALL) for name in sections]
    return "\n".join(block for each in found if each for block in re.findall(r"```sh\n(.*?)```", each[1], re.DOTALL))


def environment_of(*files: Path) -> dict[str, str]:
    """Return the variables of EnvironmentFile= files. A later file overrides an earlier one."""
    lines = [line for file in files for line in file.read_text("utf-8").splitlines()]
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def gregor(environ: dict[str, str], *words: str) -> str:
    kept = {name: "" for name in os.environ if name.startswith("GREGOR_")}
    return output_of([sys.executable, "-c", "from gregor.cli import main; main()", *words], environ=kept | environ)


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_commands_of_the_guide_make_working_files(tmp_path: Path) -> None:
    """The sections Secrets, Redis and Settings run here with other paths, group and port; then a Redis starts."""
    server, port = tool("redis-server"), free_port()
    tool("openssl")
    shutil.copytree(DEPLOY, tmp_path / "deploy", ignore=shutil.ignore_patterns("secrets"))
    for folder in ("redis", "data"):
        (tmp_path / folder).mkdir()
    program = tmp_path / "gregor-command"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "from gregor.cli import main; main()" "$@"\n')
    program.chmod(0o755)
    changes = {"/etc/": f"{tmp_path}/", "/var/lib/redis": f"{tmp_path}/data", "127.0.0.1:6379": f"127.0.0.1:{port}"}
    script = re.sub(
        r"-o root -g \w+|^systemctl .*$", "", commands_of_the_guide("Secrets", "Redis", "Settings"), flags=re.M
    )
    for old, new in changes.items():
        assert old in script
        script = script.replace(old, new)
    done = subprocess.run(["bash", "-euc", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "gregor" / "secrets").iterdir()}
    assert {name for name, mode in modes.items() if mode == 0o600} == {"redis-admin", "redis-backup"}
    config = tmp_path / "redis" / "gregor.conf"
    config.write_text(config.read_text().replace("/etc/", f"{tmp_path}/").replace("port 6379", f"port {port}"))

    redis = subprocess.Popen(
        [server, str(tmp_path / "redis" / "redis.conf")], stdout=subprocess.DEVNULL, preexec_fn=end_with_parent()
    )
    try:
        shared = tmp_path / "gregor" / "gregor.env"
        for service in ("ingest", "gateway", "scheduler", "delivery"):
            gregor(environment_of(shared, tmp_path / "gregor" / f"{service}.env"), "config", "check")
        wait_until_sync(lambda: accepts(port), "the Redis listens")
        [function] = re.findall(
            r"^gregor_admin\(\) \($.*?^\)$", commands_of_the_guide("Start"), re.MULTILINE | re.DOTALL
        )
        function = function.replace("/etc/", f"{tmp_path}/").replace("/opt/gregor/bin/gregor", str(program))
        script = f"unset ${{!GREGOR_*}}\n{function}\ngregor_admin doctor --json --timeout 20"
        found = json.loads(output_of(["bash", "-euc", script]))
        assert [each for each in found if each["verdict"] == "fail"] == []
        assert {"redis", "acl"} <= {each["check"] for each in found}
    finally:
        redis.kill()
        redis.wait()
