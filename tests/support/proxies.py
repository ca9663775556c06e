"""The proxies of deploy/ as real processes, with their configuration adapted to the ports of a cluster."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import httpx

from gregor.dev.processes import end_with_parent
from tests.support.certificates import write_certificate
from tests.support.cluster import Cluster, Service
from tests.support.deploy_tools import DEPLOY, tool
from tests.support.ports import free_port
from tests.support.wait import wait_until_sync


class Proxy:
    """One proxy process with the configuration of deploy/, adapted to the ports of a cluster."""

    name = ""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self.port = free_port()
        self.certificate = write_certificate(directory)
        self.file = directory / "proxy.conf"
        self.file.write_text(self.adapted(cluster))
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def adapted(self, cluster: Cluster) -> str:
        raise NotImplementedError

    def command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        with (self.directory / "log").open("wb") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, preexec_fn=end_with_parent())
        wait_until_sync(self._is_ready, f"{self.name} is ready", 20)

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def reload(self) -> None:
        """Reload the configuration as an operator does, and return when new processes serve."""
        raise NotImplementedError

    def workers(self) -> set[str]:
        assert self.process is not None
        return set(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split())

    def _is_ready(self) -> bool:
        assert self.process is not None and self.process.poll() is None, (self.directory / "log").read_text()
        try:
            answers = [httpx.get(f"{self.url}{path}", verify=False, trust_env=False) for path in ("/", "/v1/stream")]
        except httpx.HTTPError:
            return False
        return all(answer.status_code < 500 for answer in answers)


class HaProxy(Proxy):
    """HAProxy with master and worker, as in Compose."""

    name = "haproxy"

    def adapted(self, cluster: Cluster) -> str:
        text = (DEPLOY / "haproxy" / "haproxy.cfg").read_text("utf-8")
        ports = {"ingest": [ports_of(each)[0] for each in cluster.ingests]}
        ports["websockets"], ports["streams"] = ([ports_of(each)[n] for each in cluster.gateways] for n in (0, 1))
        lines = []
        backend = ""
        for line in text.splitlines():
            if line.startswith("backend "):
                backend = line.split()[1]
            if line.strip().startswith("server-template"):
                check = line.partition("8709 ")[2]
                lines += [f"    server s{port} 127.0.0.1:{port} check {check}" for port in ports[backend]]
            else:
                lines.append(line)
        changes = {
            "bind :8443": f"bind 127.0.0.1:{self.port}",
            "bind :8080": f"bind 127.0.0.1:{free_port()}",
            "bind :8405": f"bind 127.0.0.1:{free_port()}",
            "/etc/haproxy/gregor.pem": str(self.certificate),
        }
        return replaced("\n".join(lines) + "\n", changes)

    def command(self) -> list[str]:
        return [tool("haproxy"), "-W", "-db", "-f", str(self.file)]

    def reload(self) -> None:
        assert self.process is not None
        before = self.workers()
        self.process.send_signal(signal.SIGUSR2)
        wait_until_sync(lambda: self.workers() - before, "a new worker runs", 10)
        wait_until_sync(self._is_ready, "the new worker serves", 10)


class Nginx(Proxy):
    """nginx with a minimal configuration around the file of deploy/."""

    name = "nginx"

    def adapted(self, cluster: Cluster) -> str:
        text = (DEPLOY / "nginx" / "gregor.conf").read_text("utf-8")
        for service, port in (
            *((each, (8700, 0)) for each in cluster.ingests),
            *((each, (8701, 0)) for each in cluster.gateways),
            *((each, (8702, 1)) for each in cluster.gateways),
        ):
            line = next(line for line in text.splitlines() if f"127.0.0.1:{port[0]} " in line)
            other = line.replace(f":{port[0]} ", f":{ports_of(service)[port[1]]} ")
            text = text.replace(line, f"{line}\n{other}")
        text = "\n".join(line for line in text.splitlines() if not any(f":{p} max" in line for p in (8700, 8701, 8702)))
        changes = {
            "listen 443 ssl": f"listen 127.0.0.1:{self.port} ssl",
            "    listen [::]:443 ssl sndbuf=64k rcvbuf=16k;\n": "",
            "/etc/nginx/gregor.pem": str(self.certificate),
            "/var/log/nginx/gregor.log": str(self.directory / "access.log"),
        }
        folders = "".join(
            f"{kind}_temp_path {self.directory}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        return (
            f"daemon off; pid {self.directory}/pid; worker_processes 2;\nerror_log stderr warn;\n"
            f"events {{ worker_connections 4000; }}\nhttp {{\n{folders}{replaced(text, changes)}\n}}\n"
        )

    def command(self) -> list[str]:
        return [tool("nginx"), "-c", str(self.file), "-p", str(self.directory)]

    def reload(self) -> None:
        assert self.process is not None
        before = self.workers()
        self.process.send_signal(signal.SIGHUP)
        wait_until_sync(lambda: len(self.workers() - before) >= 2, "new workers run", 10)
        wait_until_sync(self._is_ready, "the new workers serve", 10)


def ports_of(service: Service) -> list[int]:
    return [int(probe.split(":")[2].split("/")[0]) for probe in service.probes]


def replaced(text: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        assert old in text, f"deploy/ no longer has {old!r}"
        text = text.replace(old, new)
    return text
