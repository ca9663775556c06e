"""Lookups of names: those of a silent name server delay no others. `test_ssrf_guard` tests those of user URLs."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from typing import Any

import pytest
import uvloop

from gregor.net.outgoing import lookups
from gregor.net.outgoing.lookups import ServiceLoop

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
        with pytest.raises(UnicodeError):
            await loop.getaddrinfo("a" * 64 + ".example", 443)
        assert await loop.getaddrinfo(b"127.0.0.1", 443)
        monkeypatch.setattr(lookups, "MAX_SERVICE_LOOKUPS", 0)
        with pytest.raises(OSError, match="too many lookups"):
            await loop.getaddrinfo("localhost", 443)
        return found

    found = uvloop.run(look_up(family=socket.AF_INET), loop_factory=ServiceLoop)
    assert found == socket.getaddrinfo("localhost", 443, socket.AF_INET, socket.SOCK_STREAM)
