"""deploy/redis: Redis and Valkey start with the files, over TLS, and refuse clients without a password."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gregor.dev.processes import end_with_parent
from gregor.redis.client import RedisClient
from gregor.redis.errors import RedisUnavailable
from tests.support.certificates import write_certificate
from tests.support.deploy_tools import DEPLOY, tool
from tests.support.ports import free_port
from tests.support.wait import wait_until

SERVERS = ("redis-server", "valkey-server")


class ConfiguredServer:
    """A server with gregor.conf, users.acl and tls.conf, adapted to the paths and the port of a test."""

    def __init__(self, program: str, directory: Path) -> None:
        self.port = free_port()
        self.certificate = write_certificate(directory)
        acl = directory / "users.acl"
        acl.write_text((DEPLOY / "redis" / "users.acl").read_text("utf-8"))
        text = "".join((DEPLOY / "redis" / name).read_text("utf-8") for name in ("gregor.conf", "tls.conf"))
        changes = {
            "dir /data": f"dir {directory}",
            "/etc/redis/users.acl": str(acl),
            "tls-port 6380": f"tls-port {self.port}",
            "/etc/redis/tls/server.pem": str(self.certificate),
            "/etc/redis/tls/server.key": str(self.certificate),
            "/etc/redis/tls/ca.pem": str(self.certificate),
            "bind * -::*": "bind 127.0.0.1",
        }
        for old, new in changes.items():
            assert old in text, f"deploy/redis no longer has {old!r}"
            text = text.replace(old, new)
        file = directory / "server.conf"
        file.write_text(text)
        self.command = [tool(program), str(file)]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, preexec_fn=end_with_parent())

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()

    def url(self, credentials: str) -> str:
        return f"rediss://{credentials}127.0.0.1:{self.port}/0?ssl_ca_certs={self.certificate}"


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ConfiguredServer]:
    started = ConfiguredServer(request.param, tmp_path)
    yield started
    started.stop()


async def is_open(client: RedisClient) -> bool:
    try:
        await client.open()
    except RedisUnavailable:
        return False
    return True


async def test_server_starts_with_the_files(server: ConfiguredServer) -> None:
    client = RedisClient(server.url("gregor-admin:ADMIN_PASSWORD@"))
    await wait_until(lambda: is_open(client), "the server answers over TLS")
    info = str(await client.call("INFO"))
    await client.close()

    assert "aof_enabled:1" in info and "maxmemory_policy:noeviction" in info


async def test_commits_survive_a_restart(server: ConfiguredServer) -> None:
    """Redis 8.0 and Valkey 8.1 replay a transaction of the file with the permissions of the user default."""
    script = "redis.call('SET', KEYS[1], 1) redis.call('SET', KEYS[2], 2) return 1"
    before = RedisClient(server.url("gregor-ingest:INGEST_PASSWORD@"))
    await wait_until(lambda: is_open(before), "the server answers")
    await before.call("EVAL", script, "2", "gregor:{0}:a", "gregor:{0}:b")
    await before.close()
    server.stop()
    server.start()
    after = RedisClient(server.url("gregor-ingest:INGEST_PASSWORD@"))
    await wait_until(lambda: is_open(after), "the server answers again")
    values = [await after.call("GET", f"gregor:{{0}}:{name}") for name in "ab"]
    await after.close()

    assert values == [b"1", b"2"]


@pytest.mark.parametrize("credentials", ["", "gregor-admin:wrong@", "gregor-ingest:ADMIN_PASSWORD@"])
async def test_client_without_the_password_is_refused(server: ConfiguredServer, credentials: str) -> None:
    known = RedisClient(server.url("gregor-admin:ADMIN_PASSWORD@"))
    await wait_until(lambda: is_open(known), "the server answers over TLS")
    await known.close()
    stranger = RedisClient(server.url(credentials))

    with pytest.raises(Exception, match=r"(?i)noauth|wrongpass|authentication|password"):
        await stranger.open()
        await stranger.call("PING")
    await stranger.close()
