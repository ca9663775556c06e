"""A cluster of real processes, started one by one, of which a test may kill any."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

from gregor.auth.device_tokens import mint
from gregor.dev.embedded_redis import HOST, find_server
from gregor.dev.processes import end_with_parent
from tests.support.ports import free_port
from tests.support.servers import Server
from tests.support.wait import wait_until_sync

ROOT = Path(__file__).parents[2]
READY_S = 60
SCOPES = ("ingest", "read", "devices", "deliveries", "categories", "broadcast", "admin")
DAY_S = 86_400
KEEP_ALL = ("--appendonly", "yes", "--appendfsync", "always")
"""Options of a Redis that has every acknowledged write on disk."""


@dataclass(slots=True)
class Service:
    """One process of a service. Its ports stay the same over restarts; its output goes to a file."""

    name: str
    module: str
    environ: Mapping[str, str]
    probes: Sequence[str]
    log: Path
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.module],
                env={**self.environ, "PYTHONUNBUFFERED": "1"},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=end_with_parent(),
            )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def wait_ready(self) -> None:
        wait_until_sync(lambda: all(map(self._answers, self.probes)), f"{self.name} is ready", READY_S)

    def kill(self) -> None:
        """Kill the process with SIGKILL and wait for its end."""
        self.signal(signal.SIGKILL)
        self.wait()

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, timeout_s: float = 40) -> int:
        assert self.process is not None
        return self.process.wait(timeout_s)

    def stop(self) -> None:
        if self.is_running:
            self.signal(signal.SIGTERM)
            try:
                self.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()

    def said(self) -> str:
        """Return the end of its log."""
        return self.log.read_text("utf-8", "replace")[-4_000:] if self.log.exists() else ""

    def _answers(self, probe: str) -> bool:
        if not self.is_running:
            raise AssertionError(f"{self.name} ended:\n{self.said()}")
        try:
            return httpx.get(probe, timeout=2, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False


class Cluster:
    """A Redis server, ingests, gateways, and optionally schedulers and delivery workers, as a context manager."""

    def __init__(
        self,
        directory: Path,
        *,
        gateways: int = 2,
        ingests: int = 2,
        schedulers: int = 0,
        deliveries: int = 0,
        server: str | None = None,
        server_options: Sequence[str] = (),
        state_url: str | None = None,
        code: str | Path = ROOT,
        **settings: Any,
    ) -> None:
        """Prepare the processes. `settings`: names without `GREGOR_`, in any case.

        `server`: the Redis or Valkey binary. `state_url`: another Redis has the state; the server has the queue only.
        `code`: a directory with `shared` and `services`, if not those of this tree.
        """
        self._code = Path(code)
        binary = server or str(find_server())
        data = directory / "data"
        data.mkdir(parents=True)
        self.directory = directory
        self.server = Server(binary, data, *server_options)
        self.secret = secrets.token_urlsafe(32)
        self.clock_offset_s = float(settings.get("clock_offset", 0))
        self.key = ""
        self._state_url = state_url
        self._settings = {f"GREGOR_{name.upper()}": str(value) for name, value in settings.items()}
        self.ingests = [self._ingest(number) for number in range(ingests)]
        self.gateways = [self._gateway(number) for number in range(gateways)]
        self.schedulers = [self._scheduler(number) for number in range(schedulers)]
        self.deliveries = [self._delivery(number) for number in range(deliveries)]

    def __enter__(self) -> Self:
        self.server.start()
        try:
            for service in self.services:
                service.start()
            self.key = self.create_key(*SCOPES)
            for service in self.services:
                service.wait_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for service in self.services:
            if service.is_running:
                service.signal(signal.SIGTERM)
        for service in self.services:
            service.stop()
        self.server.kill()

    @property
    def services(self) -> list[Service]:
        return [*self.ingests, *self.gateways, *self.schedulers, *self.deliveries]

    @property
    def pids(self) -> list[int]:
        """Return the process ids of everything that a message passes."""
        return [self.server.pid, *(service.pid for service in self.services)]

    @property
    def ingest_urls(self) -> list[str]:
        return [service.probes[0].removesuffix("/readyz") for service in self.ingests]

    @property
    def gateway_urls(self) -> list[str]:
        return [service.probes[0].removesuffix("/readyz").replace("http", "ws", 1) for service in self.gateways]

    @property
    def stream_urls(self) -> list[str]:
        return [service.probes[1].removesuffix("/readyz") for service in self.gateways]

    def now_s(self) -> float:
        """Return the wall clock of the services, in Unix seconds."""
        return time.time() + self.clock_offset_s

    def token(self, uid: str, device: str, lives_s: int = DAY_S, **claims: Any) -> str:
        """Mint a device token as an application's login service does."""
        return mint(self.secret, uid, device, lives_s, **claims, now_us=round(self.now_s() * 1e6))

    def api(self, token: str | None = None, ingest: int = 0) -> httpx.AsyncClient:
        """Return a client of one ingest, with the service key or the given token."""
        headers = {"Authorization": f"Bearer {self.key if token is None else token}"}
        return httpx.AsyncClient(base_url=self.ingest_urls[ingest], headers=headers, timeout=30, trust_env=False)

    def create_key(self, *scopes: str) -> str:
        """Create a service key as an operator creates the first one."""
        words = ["keys", "create", "--json", *(word for scope in scopes for word in ("--scope", scope))]
        key: str = json.loads(self.gregor(*words))["key"]
        return key

    def gregor(self, *words: str) -> str:
        """Run a `gregor` command and return its standard output."""
        program = "from gregor.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", program, *words], env=self._environ(), cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def logs(self) -> str:
        """Return the complete logs of all services."""
        return "\n".join(service.log.read_text("utf-8", "replace") for service in self.services)

    def said(self) -> str:
        """Return the end of every log, for the message of a failing test."""
        return "\n".join(f"--- {service.name}\n{service.said()}" for service in self.services)

    def _environ(self, **more: str) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GREGOR_")}
        own = {
            "GREGOR_REDIS_URL": self._state_url or self.server.url,
            "GREGOR_QUEUE_URL": self.server.url,
            "GREGOR_TOKEN_SECRET": self.secret,
            "GREGOR_PRE_DRAIN_SECONDS": "0",
            "XDG_STATE_HOME": str(self.directory / "state"),
            "PYTHONPATH": os.pathsep.join(map(str, (self._code / "shared", self._code / "services", ROOT))),
        }
        return inherited | own | self._settings | more

    def _ingest(self, number: int) -> Service:
        port = free_port()
        environ = self._environ(GREGOR_INGEST_PORT=str(port))
        return self._service(f"ingest-{number}", "gregor_ingest", environ, port)

    def _gateway(self, number: int) -> Service:
        port, stream_port = free_port(), free_port()
        environ = self._environ(GREGOR_GATEWAY_PORT=str(port), GREGOR_STREAM_PORT=str(stream_port))
        return self._service(f"gateway-{number}", "gregor_gateway", environ, port, stream_port)

    def _scheduler(self, number: int) -> Service:
        port = free_port()
        environ = self._environ(GREGOR_SCHEDULER_PORT=str(port))
        return self._service(f"scheduler-{number}", "gregor_scheduler", environ, port)

    def _delivery(self, number: int) -> Service:
        port = free_port()
        environ = self._environ(GREGOR_DELIVERY_PORT=str(port))
        return self._service(f"delivery-{number}", "gregor_delivery", environ, port)

    def _service(self, name: str, module: str, environ: Mapping[str, str], *ports: int) -> Service:
        probes = [f"http://{HOST}:{port}/readyz" for port in ports]
        return Service(name, module, environ, probes, self.directory / f"{name}.log")
