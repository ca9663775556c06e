"""Lookups of names: those of a silent name server delay no others. `test_ssrf_guard` tests those of user URLs."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from typing import Any

import pytest
import uvloop

from gregor.net.outgoing import lookups
from gregor.net.outgoing.lookups import MAX_FAMILY_ADDRESSES, Lookups, ServiceLoop

PROGRAM = """
import asyncio, socket, threading
import httpcore
from gregor.net.outgoing.http_clients import bounded_client
from gregor.web.process import run

names, resolve = [], socket.getaddrinfo

def silent(host, *arguments):
    if host.endswith(".silent.example"):
        names.append(host)
        threading.Event().wait(60)
    return resolve(host, *arguments)

socket.getaddrinfo = silent

async def serve(_):
    server = await asyncio.start_server(lambda _, writer: writer.close(), "localhost", 0)
    async with bounded_client(trust_env=False) as client, asyncio.timeout(20):
        calls = [asyncio.create_task(client.get(f"http://h{n % 8}.silent.example/")) for n in range(40)]
        while len(names) < 8:
            await asyncio.sleep(0.01)
        stream = await httpcore.AnyIOBackend().connect_tcp("localhost", server.sockets[0].getsockname()[1])
        await stream.aclose()
        for each in calls:
            each.cancel()
    print(len(names), "lookups, and a connection")

run("scheduler", serve)
"""


def test_silent_name_servers_of_a_service_do_not_block_other_lookups() -> None:
    """FCM, token endpoint, key servers and trace collector have such clients. uvloop looks up two names at once."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "GREGOR_TOKEN_SECRET": "0123456789abcdefghijklmnopqrstuvwxyz", "GREGOR_LOG_LEVEL": "error"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert (ended.stdout, ended.returncode) == ("8 lookups, and a connection\n", 0), ended.stderr


def test_results_and_errors_are_those_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    async def look_up(*, family: int = 0) -> Any:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo("localhost", 443, family=family, type=socket.SOCK_STREAM)
        with pytest.raises(socket.gaierror):
            await loop.getaddrinfo("localhost", "no such service")
        assert await loop.getaddrinfo(b"127.0.0.1", 443)
        monkeypatch.setattr(lookups, "MAX_SERVICE_LOOKUPS", 0)
        with pytest.raises(OSError, match="too many lookups"):
            await loop.getaddrinfo("localhost", 443)
        return found

    found = uvloop.run(look_up(family=socket.AF_INET), loop_factory=ServiceLoop)
    assert found == socket.getaddrinfo("localhost", 443, socket.AF_INET, socket.SOCK_STREAM)


# --- hostile name servers ---


def addresses(count: int, family: socket.AddressFamily, network: str) -> list[Any]:
    return [(family, socket.SOCK_STREAM, 6, "", (f"{network}{at:x}", 443)) for at in range(1, count + 1)]


async def test_only_the_first_addresses_of_each_family_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server can answer with 4,000 addresses, and anyio would start a connection to each."""
    v6, v4 = addresses(4_000, socket.AF_INET6, "fd00::"), addresses(20, socket.AF_INET, "10.0.0.")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: v6 + v4)

    found = await Lookups().find("many.example", 443, None, socket.AF_UNSPEC, socket.SOCK_STREAM)

    assert found == v6[:MAX_FAMILY_ADDRESSES] + v4[:MAX_FAMILY_ADDRESSES]


@pytest.mark.parametrize("host", ["a" * 64 + ".example", ".example", "a..example", b"\xff.example"])
def test_lookup_of_an_invalid_name_fails_as_that_of_an_unknown_one(host: str | bytes) -> None:
    async def look_up() -> None:
        with pytest.raises(socket.gaierror, match="not a valid host name"):
            await asyncio.get_running_loop().getaddrinfo(host, 443)

    uvloop.run(look_up(), loop_factory=ServiceLoop)


def test_lookup_without_a_free_thread_fails_with_an_error_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP clients handle OSError: a RuntimeError would end the request with an error of the server."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def look_up() -> None:
        with monkeypatch.context() as patched, pytest.raises(socket.gaierror, match="no thread"):
            patched.setattr(threading.Thread, "start", start)
            await asyncio.get_running_loop().getaddrinfo("localhost", 443)

    uvloop.run(look_up(), loop_factory=ServiceLoop)
