"""The plan of `gregor dev`: ports, environments and secrets, decided before anything starts."""

import errno
import fcntl
import json
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gregor.config.secret_files import override_variables
from gregor.config.settings import Settings

from .errors import DevError
from .fake_providers import FakeProviders
from .processes import inherited_environ
from .supervisor import ServiceProcess

LOCAL_ORIGINS = ",".join(f"{scheme}://{host}:*" for scheme in ("http", "https") for host in ("localhost", "127.0.0.1"))
DRAIN_S = 2.0
"""Short: in development, Ctrl-C should be quick."""
SCHEDULER = 3
"""Offset of the scheduler's port from the first port."""
DELIVERY = 4
"""Offset of delivery's port from the first port."""
SECRETS_FILE = "secrets.json"
SERVER_DIRECTORY = "server"
STEP = 10
"""Offset between the ports of two processes of one service."""
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - the address to call if a service listens on all


@dataclass(frozen=True, slots=True)
class DevPlan:
    """The processes of one `gregor dev` and their addresses."""

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
        return [f"http://{self._address(port)}" for port in self._ports(0, self.ingests)]

    @property
    def gateway_urls(self) -> list[str]:
        """URLs of all gateways, for WebSocket."""
        return [f"ws://{self._address(port)}" for port in self._ports(1, self.gateways)]

    @property
    def stream_urls(self) -> list[str]:
        """URLs of all gateways, for SSE, long poll and posted frames."""
        return [f"http://{self._address(port)}" for port in self._ports(2, self.gateways)]

    @property
    def demo_url(self) -> str:
        """URL of the page that shows two devices of one user."""
        return f"{self.ingest_urls[0]}/demo"

    @property
    def scheduler_url(self) -> str:
        """URL of the scheduler's probes."""
        return f"http://{self._address(self.port_base + SCHEDULER)}"

    @property
    def delivery_url(self) -> str:
        """URL of delivery's probes."""
        return f"http://{self._address(self.port_base + DELIVERY)}"

    @property
    def drain_s(self) -> float:
        """Seconds that a service may take to end."""
        chosen, settings = self.settings.model_fields_set, self.settings
        pre_drain_s = settings.pre_drain_seconds if "pre_drain_seconds" in chosen else 0.0
        return pre_drain_s + (settings.drain_seconds if "drain_seconds" in chosen else DRAIN_S)

    def services(self, redis_url: str) -> list[ServiceProcess]:
        """Return the processes, for the Redis at `redis_url`."""
        environ = override_variables(inherited_environ(), self._environ(redis_url))
        if self.fakes is not None:
            environ = self.fakes.environ(environ)
        services = []
        for n, port in enumerate(self._ports(0, self.ingests)):
            own = {"GREGOR_INGEST_PORT": str(port), **self._admin(2 * n)}
            probes = self._probes([port], 2 * n)
            services.append(ServiceProcess(f"ingest-{n}", "gregor_ingest", environ | own, probes))
        for n, port in enumerate(self._ports(1, self.gateways)):
            own = {"GREGOR_GATEWAY_PORT": str(port), "GREGOR_STREAM_PORT": str(port + 1), **self._admin(2 * n + 1)}
            probes = self._probes([port, port + 1], 2 * n + 1)
            services.append(ServiceProcess(f"gateway-{n}", "gregor_gateway", environ | own, probes))
        after = 2 * max(self.ingests, self.gateways)
        own = {"GREGOR_SCHEDULER_PORT": str(self.port_base + SCHEDULER), **self._admin(after)}
        services.append(
            ServiceProcess("scheduler-0", "gregor_scheduler", environ | own, [f"{self.scheduler_url}/readyz"])
        )
        own = {"GREGOR_DELIVERY_PORT": str(self.port_base + DELIVERY), **self._admin(after + 1)}
        services.append(ServiceProcess("delivery-0", "gregor_delivery", environ | own, [f"{self.delivery_url}/readyz"]))
        return services

    def check_ports(self) -> None:
        """Raises DevError if a port is taken or cannot be used."""
        ports = self._ports(0, self.ingests) + self._ports(1, self.gateways) + self._ports(2, self.gateways)
        ports += [*self._ports(SCHEDULER, 1), *self._ports(DELIVERY, 1)]
        if max(ports) > 65_535:
            raise DevError(f"--port-base {self.port_base} is too high for {len(ports)} ports: they end at 65535")
        for port in ports:
            family = socket.AF_INET6 if ":" in self.settings.host else socket.AF_INET
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((self.settings.host, port))
                except OSError as error:
                    raise DevError(self._port_trouble(port, error)) from error

    def _port_trouble(self, port: int, error: OSError) -> str:
        if error.errno == errno.EADDRINUSE:
            return f"port {port} is in use (another gregor dev?): stop it, or choose other ports with --port-base N"
        return f"cannot listen on {self.settings.host} port {port}: {error.strerror}; check GREGOR_HOST"

    def _ports(self, offset: int, count: int) -> list[int]:
        return [self.port_base + offset + STEP * n for n in range(count)]

    def _probes(self, ports: list[int], admin_offset: int) -> list[str]:
        """Return the URLs of readiness probes: on the ports, or on the admin port if there is one."""
        admin = self.settings.admin_port
        if admin is not None:
            return [f"http://{self._address(admin + admin_offset, self.settings.admin_address)}/readyz"]
        return [f"http://{self._address(port)}/readyz" for port in ports]

    def _address(self, port: int, host: str | None = None) -> str:
        host = host or self.settings.host
        host = _ANY_ADDRESS.get(host, host)
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def _admin(self, offset: int) -> dict[str, str]:
        """Return one admin port for each process, since they share a machine here."""
        port = self.settings.admin_port
        return {} if port is None else {"GREGOR_ADMIN_PORT": str(port + offset)}

    def _environ(self, redis_url: str) -> dict[str, str]:
        environ = {"GREGOR_REDIS_URL": redis_url}
        if self.settings.token_secret_file is None:  # else the services follow the file
            environ["GREGOR_TOKEN_SECRET"] = self.token_secret
        if self.queue is not None:
            environ["GREGOR_QUEUE_URL"] = self.queue
        defaults = {
            "origins": LOCAL_ORIGINS,
            "public_url": self.ingest_urls[0],
            "app_url": self.demo_url,
            "demo": f"{self.gateway_urls[0]},{self.stream_urls[0]}",
            "pre_drain_seconds": "0",
            "drain_seconds": f"{DRAIN_S:g}",
            "log_format": "console",
            "delivery_console": "true",
            "webhook_loopback": "true",
            "allow_weak_secrets": "true",
        }
        chosen = self.settings.model_fields_set
        return environ | {f"GREGOR_{name.upper()}": value for name, value in defaults.items() if name not in chosen}


# The data directory.


@dataclass(slots=True)
class DevSecrets:
    """The generated token secret and service key, kept in the data directory for the next start."""

    token_secret: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    key: str | None = None

    @classmethod
    def load(cls, data: Path | None) -> "DevSecrets":
        """Return the secrets kept in `data`, else new ones. Raises DevError if the file cannot be read."""
        file = data / SECRETS_FILE if data else None
        if file is None or not file.exists():
            return cls()
        try:
            return cls(**json.loads(file.read_text("utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise DevError(
                f"{file} cannot be read; delete it, or start with --fresh, to generate new secrets"
            ) from error

    def save(self, data: Path) -> None:
        """Write the secrets into `data`, readable only for this user."""
        content = json.dumps({"token_secret": self.token_secret, "key": self.key})
        with os.fdopen(
            os.open(data / SECRETS_FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
        ) as file:
            file.write(content)


@contextmanager
def locked(data: Path | None) -> Iterator[None]:
    """Lock the data directory (created if missing) against a second `gregor dev`. Raises DevError."""
    if data is None:
        yield
        return
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (data / "lock").open("w")
    except OSError as error:
        raise DevError(f"the data directory {data} cannot be used: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DevError(f"the data directory {data} is in use by another gregor dev") from error
        yield


def clear_data(data: Path) -> None:
    """Delete the kept state and secrets; other files in the directory stay."""
    shutil.rmtree(data / SERVER_DIRECTORY, ignore_errors=True)
    (data / SECRETS_FILE).unlink(missing_ok=True)
