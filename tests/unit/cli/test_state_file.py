"""What a running `gregor dev` leaves for the other commands."""

import os
import stat
import subprocess
import sys
from pathlib import Path

from gregor.cli.state_file import Running, read_running, remove_running, state_directory, write_running


def running(pid: int) -> Running:
    return Running(
        pid=pid,
        ingest="http://127.0.0.1:8700",
        gateway="ws://127.0.0.1:8701",
        stream="http://127.0.0.1:8702",
        redis="redis://127.0.0.1:1/0",
        key="gk_a_b",
        token_secret="s",
    )


def a_pid_that_is_gone() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_what_is_left_is_found_and_only_its_user_can_read_it(tmp_path: Path) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path)}

    place = write_running(running(os.getpid()), environ)

    assert read_running(environ) == running(os.getpid())
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert [entry.name for entry in place.parent.iterdir()] == ["dev.json"]


def test_the_state_directory_is_the_users_where_none_is_named() -> None:
    assert state_directory({}) == Path.home() / ".local" / "state" / "gregor"


def test_what_a_dead_process_left_is_stale(tmp_path: Path) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    write_running(running(a_pid_that_is_gone()), environ)

    assert read_running(environ) is None


def test_nothing_and_nonsense_are_no_running_gregor(tmp_path: Path) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    assert read_running(environ) is None

    (tmp_path / "gregor").mkdir()
    for content in ("{", "[]", "{}", '{"pid":1}'):
        (tmp_path / "gregor" / "dev.json").write_text(content)
        assert read_running(environ) is None


def test_each_takes_away_only_what_it_left_itself(tmp_path: Path) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    write_running(running(os.getpid()), environ)

    remove_running(os.getpid() + 1, environ)
    assert read_running(environ) is not None
    remove_running(os.getpid(), environ)
    assert read_running(environ) is None
