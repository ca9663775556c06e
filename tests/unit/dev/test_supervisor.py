"""The supervisor over real processes of a few lines each."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gregor.dev.errors import DevError
from gregor.dev.supervisor import ServiceProcess, Supervisor
from tests.support.ports import free_port
from tests.support.wait import wait_until

SERVER = """
import http.server, os, sys
print("starts", os.getpid())
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *args):
        pass
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""
STUBBORN = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ignores SIGTERM")
while True:
    signal.pause()
"""
CRASHING = "import sys\nprint('first line')\nsys.exit('no such thing as port zero')"


class SupervisedModule:
    """A supervisor over one module of the given source, and the lines that it printed."""

    def __init__(self, folder: Path, source: str) -> None:
        (folder / "fake_service.py").write_text(source)
        self.lines: list[tuple[str, str]] = []
        self.port = free_port()
        environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(folder), "PORT": str(self.port)}
        service = ServiceProcess("fake-0", "fake_service", environ, [f"http://127.0.0.1:{self.port}/readyz"])
        self.supervisor = Supervisor([service], lambda name, line: self.lines.append((name, line)))

    def pids(self) -> list[int]:
        return [int(line.split()[1]) for _, line in self.lines if line.startswith("starts")]


@asynccontextmanager
async def supervised_module(folder: Path, source: str) -> AsyncIterator[SupervisedModule]:
    supervised = SupervisedModule(folder, source)
    supervised.supervisor.start()
    try:
        yield supervised
    finally:
        await supervised.supervisor.stop(0.2)


async def test_ready_process_relays_its_lines(tmp_path: Path) -> None:
    async with supervised_module(tmp_path, SERVER) as supervised:
        await supervised.supervisor.wait_ready()

        assert supervised.lines[0][0] == "fake-0"
        assert len(supervised.pids()) == 1


async def test_crashed_process_is_restarted(tmp_path: Path) -> None:
    async with supervised_module(tmp_path, SERVER) as supervised:
        await supervised.supervisor.wait_ready()
        os.kill(supervised.pids()[0], signal.SIGKILL)

        await wait_until(lambda: len(supervised.pids()) == 2, "it was started again")
        await supervised.supervisor.wait_ready()

        assert ("fake-0", "ended (signal 9); restarts in 0.5 s") in supervised.lines


async def test_process_that_keeps_crashing_fails_the_start(tmp_path: Path) -> None:
    async with supervised_module(tmp_path, CRASHING) as supervised:
        with pytest.raises(DevError, match="fake-0 does not start: no such thing as port zero"):
            await supervised.supervisor.wait_ready()


async def test_stopped_process_is_not_restarted(tmp_path: Path) -> None:
    async with supervised_module(tmp_path, SERVER) as supervised:
        await supervised.supervisor.wait_ready()
        await supervised.supervisor.stop(10)

        assert not Path(f"/proc/{supervised.pids()[0]}").exists()
        assert len(supervised.pids()) == 1


async def test_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    async with supervised_module(tmp_path, STUBBORN) as supervised:
        await wait_until(lambda: ("fake-0", "ignores SIGTERM") in supervised.lines, "it runs")

        await asyncio.wait_for(supervised.supervisor.stop(0.1), 5)


async def test_overlong_line_is_skipped(tmp_path: Path) -> None:
    source = "import sys\nsys.stdout.write('x' * 3_000_000 + '\\n')\nprint('after')\n" + SERVER
    async with supervised_module(tmp_path, source) as supervised:
        await supervised.supervisor.wait_ready()

        assert ("fake-0", "after") in supervised.lines


async def test_process_imports_nothing_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "http.py").write_text("raise SystemExit('the file of the user was imported')")
    monkeypatch.chdir(tmp_path / "user")

    async with supervised_module(tmp_path, SERVER) as supervised:
        await supervised.supervisor.wait_ready()

        assert supervised.supervisor.processes[0].crashes == 0
