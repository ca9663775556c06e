"""Processes that are kept running: real ones, made of a few lines each."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gregor.cli.errors import Failure
from gregor.dev.supervisor import Service, Supervisor
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
STUBBORN = (
    "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf')\nwhile True: signal.pause()"
)
CRASHING = "import sys\nprint('first words')\nsys.exit('no such thing as port zero')"


class House:
    """A supervisor over one module of the given source, and all that it told."""

    def __init__(self, folder: Path, source: str) -> None:
        (folder / "room.py").write_text(source)
        self.told: list[tuple[str, str]] = []
        self.port = free_port()
        environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(folder), "PORT": str(self.port)}
        service = Service("room-0", "room", environ, [f"http://127.0.0.1:{self.port}/readyz"])
        self.supervisor = Supervisor([service], lambda name, line: self.told.append((name, line)))

    def pids(self) -> list[int]:
        return [int(line.split()[1]) for _, line in self.told if line.startswith("starts")]


@asynccontextmanager
async def house(folder: Path, source: str) -> AsyncIterator[House]:
    made = House(folder, source)
    made.supervisor.start()
    try:
        yield made
    finally:
        await made.supervisor.stop(0.2)


async def test_it_is_ready_when_the_probe_answers_and_its_lines_are_told_by_name(tmp_path: Path) -> None:
    async with house(tmp_path, SERVER) as made:
        await made.supervisor.wait_ready()

        assert made.told[0][0] == "room-0"
        assert len(made.pids()) == 1


async def test_a_process_that_crashes_is_started_again(tmp_path: Path) -> None:
    async with house(tmp_path, SERVER) as made:
        await made.supervisor.wait_ready()
        os.kill(made.pids()[0], signal.SIGKILL)

        await wait_until(lambda: len(made.pids()) == 2, "it was started again")
        await made.supervisor.wait_ready()

        assert ("room-0", "ended (signal 9); starts again in 0.5 s") in made.told


async def test_one_that_never_becomes_ready_ends_with_its_last_words(tmp_path: Path) -> None:
    async with house(tmp_path, CRASHING) as made:
        with pytest.raises(Failure, match="room-0 does not start: no such thing as port zero"):
            await made.supervisor.wait_ready()


async def test_all_are_gone_after_stop_and_none_is_started_again(tmp_path: Path) -> None:
    async with house(tmp_path, SERVER) as made:
        await made.supervisor.wait_ready()
        await made.supervisor.stop(10)

        assert not Path(f"/proc/{made.pids()[0]}").exists()
        assert len(made.pids()) == 1


async def test_one_that_is_deaf_to_sigterm_is_killed_when_patience_ends(tmp_path: Path) -> None:
    async with house(tmp_path, STUBBORN) as made:
        await wait_until(lambda: ("room-0", "deaf") in made.told, "it runs")

        await asyncio.wait_for(made.supervisor.stop(0.1), 5)


async def test_a_line_without_end_does_no_harm(tmp_path: Path) -> None:
    source = "import sys\nsys.stdout.write('x' * 3_000_000 + '\\n')\nprint('after')\n" + SERVER
    async with house(tmp_path, source) as made:
        await made.supervisor.wait_ready()

        assert ("room-0", "after") in made.told
