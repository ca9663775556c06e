"""deploy/systemd: the unit is valid and hardened, and the services run under the part of it that a test can apply."""

from __future__ import annotations

import ctypes
import re
import shutil
from pathlib import Path

import pytest

from gregor.config.settings import Settings
from tests.support.cluster import Cluster
from tests.support.deploy_tools import DEPLOY, output_of, tool

UNIT = DEPLOY / "systemd" / "gregor@.service"
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
