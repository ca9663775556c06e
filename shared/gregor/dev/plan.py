"""What `gregor dev` is going to run: ports, environments and secrets, worked out before anything is started."""

import errno
import fcntl
import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gregor.cli.errors import Failure
from gregor.config.settings import Settings

from .fake_providers import FakeProviders
from .supervisor import Service, inherited_environ

LOCAL_ORIGINS = ",".join(f"{scheme}://{host}:*" for scheme in ("http", "https") for host in ("localhost", "127.0.0.1"))
DRAIN_S = 2.0
"""In development nobody waits long for a Ctrl-C."""
SCHEDULER = 3
"""The scheduler's port after the first (protocol.md, "Ports")."""
DELIVERY = 4
"""Delivery's port after the first."""
STEP = 10
"""The n-th further process of a service has its ports + 10·n (protocol.md, "Ports")."""
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what to call where a service listens on all


@dataclass(frozen=True, slots=True)
class Plan:
    """The processes of a `gregor dev` and where they listen."""

    settings: Settings
    port_base: int
    ingests: int
    gateways: int
    queue: str | None
    token_secret: str = field(repr=False)
    fakes: FakeProviders | None = None

    @property
    def ingest_urls(self) -> list[str]:
        """URLs of all ingest processes."""
        return [f"http://{self._place(port)}" for port in self._ports(0, self.ingests)]

    @property
    def gateway_urls(self) -> list[str]:
        """URLs of all gateways, for WebSocket."""
        return [f"ws://{self._place(port)}" for port in self._ports(1, self.gateways)]

    @property
    def stream_urls(self) -> list[str]:
        """URLs of all gateways, for SSE, long poll and posted frames."""
        return [f"http://{self._place(port)}" for port in self._ports(2, self.gateways)]

    @property
    def scheduler_url(self) -> str:
        """URL of the scheduler's probes."""
        return f"http://{self._place(self.port_base + SCHEDULER)}"

    @property
    def delivery_url(self) -> str:
        """URL of delivery's probes."""
        return f"http://{self._place(self.port_base + DELIVERY)}"

    @property
    def drain_s(self) -> float:
        """How long a service may take to end."""
        return self.settings.drain_seconds if "drain_seconds" in self.settings.model_fields_set else DRAIN_S

    def services(self, redis_url: str) -> list[Service]:
        """The processes, for a Redis that listens there."""
        environ = inherited_environ() | self._environ(redis_url)
        if self.fakes is not None:
            environ = self.fakes.environ(environ)
        listed = []
        for n, port in enumerate(self._ports(0, self.ingests)):
            own = {"GREGOR_INGEST_PORT": str(port), **self._admin(2 * n)}
            probes = [f"http://{self._place(port)}/readyz"]
            listed.append(Service(f"ingest-{n}", "gregor_ingest", environ | own, probes))
        for n, port in enumerate(self._ports(1, self.gateways)):
            own = {"GREGOR_GATEWAY_PORT": str(port), "GREGOR_STREAM_PORT": str(port + 1), **self._admin(2 * n + 1)}
            probes = [f"http://{self._place(place)}/readyz" for place in (port, port + 1)]
            listed.append(Service(f"gateway-{n}", "gregor_gateway", environ | own, probes))
        after = 2 * max(self.ingests, self.gateways)
        own = {"GREGOR_SCHEDULER_PORT": str(self.port_base + SCHEDULER), **self._admin(after)}
        listed.append(Service("scheduler-0", "gregor_scheduler", environ | own, [f"{self.scheduler_url}/readyz"]))
        own = {"GREGOR_DELIVERY_PORT": str(self.port_base + DELIVERY), **self._admin(after + 1)}
        listed.append(Service("delivery-0", "gregor_delivery", environ | own, [f"{self.delivery_url}/readyz"]))
        return listed

    def check_ports(self) -> None:
        """Failure, in plain words, where a port is taken or may not be used."""
        ports = self._ports(0, self.ingests) + self._ports(1, self.gateways) + self._ports(2, self.gateways)
        ports += [*self._ports(SCHEDULER, 1), *self._ports(DELIVERY, 1)]
        if max(ports) > 65_535:
            raise Failure(f"--port-base {self.port_base} is too high for {len(ports)} ports: they end at 65535")
        for port in ports:
            family = socket.AF_INET6 if ":" in self.settings.host else socket.AF_INET
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((self.settings.host, port))
                except OSError as error:
                    raise Failure(self._port_trouble(port, error)) from error

    def _port_trouble(self, port: int, error: OSError) -> str:
        if error.errno == errno.EADDRINUSE:
            return f"port {port} is taken (another gregor dev?): end what holds it, or choose others with --port-base N"
        return f"cannot listen on {self.settings.host} port {port}: {error.strerror}"

    def _ports(self, offset: int, count: int) -> list[int]:
        return [self.port_base + offset + STEP * n for n in range(count)]

    def _place(self, port: int) -> str:
        host = _ANY_ADDRESS.get(self.settings.host, self.settings.host)
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def _admin(self, offset: int) -> dict[str, str]:
        """One admin port a process: they share a machine here."""
        port = self.settings.admin_port
        return {} if port is None else {"GREGOR_ADMIN_PORT": str(port + offset)}

    def _environ(self, redis_url: str) -> dict[str, str]:
        environ = {"GREGOR_REDIS_URL": redis_url, "GREGOR_TOKEN_SECRET": self.token_secret}
        if self.queue is not None:
            environ["GREGOR_QUEUE_URL"] = self.queue
        defaults = {
            "origins": LOCAL_ORIGINS,
            "public_url": self.ingest_urls[0],
            "drain_seconds": f"{DRAIN_S:g}",
            "log_format": "console",
            "delivery_console": "true",
            "webhook_loopback": "true",
        }
        chosen = self.settings.model_fields_set
        return environ | {f"GREGOR_{name.upper()}": value for name, value in defaults.items() if name not in chosen}


@dataclass(slots=True)
class Secrets:
    """What a `gregor dev` makes up; kept in the data directory, so that a later start has the same."""

    token_secret: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    key: str | None = None

    @classmethod
    def load(cls, data: Path | None) -> "Secrets":
        """Those kept in `data`, else new ones."""
        place = data / "secrets.json" if data else None
        if place is None or not place.exists():
            return cls()
        try:
            return cls(**json.loads(place.read_text("utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise Failure(f"{place} cannot be read; move it away to have new secrets made") from error

    def save(self, data: Path) -> None:
        """Keep them there, for this user alone."""
        content = json.dumps({"token_secret": self.token_secret, "key": self.key})
        with os.fdopen(
            os.open(data / "secrets.json", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
        ) as file:
            file.write(content)


@contextmanager
def held(data: Path | None) -> Iterator[None]:
    """Hold the data directory (made where absent), so that no second `gregor dev` writes to the same files."""
    if data is None:
        yield
        return
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (data / "lock").open("w")
    except OSError as error:
        raise Failure(f"--data {data} cannot be used: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Failure(f"--data {data} is in use by another gregor dev") from error
        yield
