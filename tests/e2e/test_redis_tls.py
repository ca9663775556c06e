"""All services with a Redis that only speaks TLS and verifies clients: one server, Sentinel, Cluster."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gregor.dev.fakes.tls import CertificateAuthority
from gregor.dev.processes import end_with_parent
from gregor.redis.client import RedisClient
from gregor.redis.errors import RedisUnavailable
from tests.support.cluster import Cluster
from tests.support.ports import free_port
from tests.support.servers import open_client
from tests.support.wait import wait_until, wait_until_sync
from tests.support.wire_device import WireDevice

# The embedded Valkey has no TLS. Debian's packages have it.
PROGRAM = shutil.which("valkey-server") or shutil.which("redis-server")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(PROGRAM is None, reason="no valkey-server or redis-server here")]


class TlsServers:
    """Servers of one test. Each has a certificate for 127.0.0.1 and verifies those of its clients."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = CertificateAuthority(directory)
        self.certificate = self.authority.issue("server", "127.0.0.1")
        client = self.authority.issue("client")
        self.trust = f"ssl_ca_certs={self.authority.ca_file}"
        self.options = f"{self.trust}&ssl_certfile={client}&ssl_keyfile={client}"
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, *lines: str, sentinel: bool = False) -> int:
        """Start a server with more lines of configuration. Returns its port."""
        port = free_port()
        data = self.directory / str(port)
        data.mkdir()
        file = data / "server.conf"
        tls = (f"tls-port {port}", f"tls-cert-file {self.certificate}", f"tls-key-file {self.certificate}")
        trust = (f"tls-ca-cert-file {self.authority.ca_file}", "tls-replication yes")
        file.write_text("\n".join(["port 0", "bind 127.0.0.1", f"dir {data}", *tls, *trust, *lines, ""]))
        command = [str(PROGRAM), str(file), *(["--sentinel"] if sentinel else [])]
        self._processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=end_with_parent()))
        wait_until_sync(lambda: self._is_open(port), f"the server on port {port} speaks TLS")
        return port

    def url(self, topology: str) -> str:
        """Start the servers of a topology. Returns the URL for Gregor."""
        if topology == "cluster":
            bus = free_port()
            port = self.start("cluster-enabled yes", "tls-cluster yes", f"cluster-port {bus}", 'save ""')
            return f"rediss+cluster://127.0.0.1:{port}?{self.options}"
        port = self.start('save ""')
        if topology == "server":
            return f"rediss://127.0.0.1:{port}/0?{self.options}"
        sentinel = self.start(f"sentinel monitor gregor 127.0.0.1 {port} 1", sentinel=True)
        return f"rediss+sentinel://127.0.0.1:{sentinel}/gregor/0?{self.options}"

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def _is_open(self, port: int) -> bool:
        try:
            ssl.get_server_certificate(("127.0.0.1", port), timeout=1)
        except OSError:
            return False
        return True


@contextmanager
def running_servers(directory: Path) -> Iterator[TlsServers]:
    servers = TlsServers(directory)
    try:
        yield servers
    finally:
        servers.close()


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[TlsServers]:
    directory = tmp_path / "tls"
    directory.mkdir()
    with running_servers(directory) as servers:
        yield servers


@pytest.mark.parametrize("topology", ["server", "sentinel", "cluster"])
async def test_services_use_redis_over_tls(servers: TlsServers, tmp_path: Path, topology: str) -> None:
    url = servers.url(topology)
    if topology == "cluster":
        plain = url.replace("rediss+cluster", "rediss").replace("?", "/0?", 1)
        async with open_client(plain) as client:
            await client.call("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
            await wait_until(lambda: is_ok(client), "the cluster serves all slots")
    with Cluster(tmp_path / "c", gateways=1, ingests=1, schedulers=1, state_url=url) as cluster:
        token = cluster.token("ann", "phone")
        async with cluster.api() as api, WireDevice(cluster.gateway_urls[0], token, {}) as phone:
            await phone.synced()
            body = {"create": {"a": {"category": "mail", "body": {}, "times": {"remind_at": ["+1s"]}}}}
            sent = await api.post("/v1/users/ann/messages", json={"system": "gregor", "body": body})
            await phone.until(lambda frame: "remind" in frame.get("body", {}), "the reminder", 30)

    assert sent.status_code == 200


async def is_ok(client: RedisClient) -> bool:
    return b"cluster_state:ok" in await client.call("CLUSTER", "INFO")


async def test_client_without_certificate_is_refused(servers: TlsServers) -> None:
    url = servers.url("server")

    with pytest.raises(RedisUnavailable):
        await RedisClient(url.replace(servers.options, servers.trust), max_wait_s=0.5).open()
    async with open_client(url) as client:
        assert await client.call("PING") == b"PONG"
