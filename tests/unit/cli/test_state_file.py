"""The state files by which commands find a running `gregor dev`."""

import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gregor.cli.state_file import (
    RunningDev,
    data_directory,
    read_running,
    remove_running,
    state_directory,
    write_running,
)

BASE = 8700


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"XDG_STATE_HOME": str(tmp_path)}


def running(base: int = BASE, pid: int | None = None) -> RunningDev:
    return RunningDev(
        pid=os.getpid() if pid is None else pid,
        ingest=f"http://127.0.0.1:{base}",
        gateway=f"ws://127.0.0.1:{base + 1}",
        stream=f"http://127.0.0.1:{base + 2}",
        redis="redis://127.0.0.1:1/0",
        key="gk_a_b",
        token_secret="s",
    )


def pid_of_ended_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_state_file_is_found_and_private(environ: dict[str, str]) -> None:
    file = write_running(running(), BASE, environ)

    assert read_running(environ) == running()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [entry.name for entry in file.parent.iterdir()] == ["dev-8700.json"]
    assert data_directory(BASE, environ) == state_directory(environ) / "dev-8700"


def test_default_state_directory_is_in_the_home() -> None:
    assert state_directory({}) == Path.home() / ".local" / "state" / "gregor"


def test_state_file_of_an_ended_process_is_ignored(environ: dict[str, str]) -> None:
    write_running(running(pid=pid_of_ended_process()), BASE, environ)

    assert read_running(environ) is None


def test_missing_or_invalid_state_file_is_ignored(environ: dict[str, str], tmp_path: Path) -> None:
    assert read_running(environ) is None

    (tmp_path / "gregor").mkdir()
    for content in ("{", "[]", "{}", '{"pid":1}'):
        (tmp_path / "gregor" / "dev-8700.json").write_text(content)
        assert read_running(environ) is None


def test_second_dev_leaves_the_file_of_the_first(environ: dict[str, str]) -> None:
    first = write_running(running(), BASE, environ)
    os.utime(first, ns=(1, 1))
    write_running(running(9700), 9700, environ)
    assert read_running(environ) == running(9700)

    remove_running(os.getpid(), 9700, environ)

    assert read_running(environ) == running()


def test_dev_is_chosen_by_its_url(environ: dict[str, str]) -> None:
    write_running(running(), BASE, environ)
    write_running(running(9700), 9700, environ)

    assert read_running(environ, "http://127.0.0.1:8700/") == running()
    assert read_running(environ, "http://127.0.0.1:9700") == running(9700)
    assert read_running(environ, "http://127.0.0.1:1") is None


def test_file_of_another_process_is_not_removed(environ: dict[str, str]) -> None:
    write_running(replace(running(), key="gk_newer_b"), BASE, environ)

    remove_running(os.getpid() + 1, BASE, environ)

    assert read_running(environ) is not None
