"""A Sentinel that names the primary which a test wants, and publishes events."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Self

import hiredis

from gregor.dev.embedded_redis import HOST
from tests.support.ports import free_port

Address = tuple[str, int]


class FakeSentinel:
    """Answers queries about one service on its own port, over TLS if there is a context.

    Attributes:
        primary: The address that it names.
        epoch: The epoch of its configuration.
        queries: How often it was asked for the primary.
        logins: The AUTH commands that it got.
        is_hung: Whether it leaves commands unanswered.
    """

    def __init__(
        self, primary: Address, *, epoch: int = 1, login: tuple[str, ...] = (), tls: ssl.SSLContext | None = None
    ) -> None:
        self.port = free_port()
        self.primary = primary
        self.epoch = epoch
        self.queries = 0
        self.logins: list[tuple[str, ...]] = []
        self.is_hung = False
        self._login = login
        self._tls = tls
        self._subscribers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._serve, HOST, self.port, ssl=self._tls)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def subscribers(self) -> int:
        """How many connections are subscribed to events."""
        return len(self._subscribers)

    def publish(self, channel: str, payload: str) -> None:
        """Publish an event."""
        for writer in self._subscribers:
            writer.write(_encode([b"message", channel.encode(), payload.encode()]))

    def promote(self, primary: Address) -> None:
        """Name another primary, in a new configuration, and publish that."""
        before, self.primary, self.epoch = self.primary, primary, self.epoch + 1
        self.publish("+switch-master", f"gregor {before[0]} {before[1]} {primary[0]} {primary[1]}")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        parser, is_known = hiredis.Reader(), not self._login
        try:
            while data := await reader.read(65_536):
                parser.feed(data)
                while (command := parser.gets()) is not False:
                    if self.is_hung:
                        continue
                    words = tuple(word.decode() for word in command)
                    if words[0] == "AUTH":
                        self.logins.append(words[1:])
                        is_known = words[1:] == self._login
                    writer.write(self._reply(words, is_known, writer))
        finally:
            self._subscribers.discard(writer)
            writer.close()

    def _reply(self, words: tuple[str, ...], is_known: bool, writer: asyncio.StreamWriter) -> bytes:
        if not is_known:
            is_login = words[0] == "AUTH"
            return b"-WRONGPASS invalid password\r\n" if is_login else b"-NOAUTH Authentication required.\r\n"
        match words:
            case ("PING",):
                return b"+PONG\r\n"
            case ("SUBSCRIBE", *channels):
                self._subscribers.add(writer)
                return b"".join(
                    _encode([b"subscribe", channel.encode(), number]) for number, channel in enumerate(channels, 1)
                )
            case ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service):
                self.queries += 1
                host, port = self.primary
                return _encode([host.encode(), str(port).encode()] if service == "gregor" else None)
            case ("SENTINEL", "MASTER", "gregor"):
                return _encode([b"name", b"gregor", b"config-epoch", str(self.epoch).encode()])
            case ("AUTH", *_) | ("CLIENT", *_):
                return b"+OK\r\n"
            case _:
                return b"-ERR unknown command or service\r\n"


def _encode(value: Any) -> bytes:
    match value:
        case None:
            return b"*-1\r\n"
        case int():
            return b":%d\r\n" % value
        case bytes():
            return b"$%d\r\n%s\r\n" % (len(value), value)
        case _:
            return b"*%d\r\n" % len(value) + b"".join(map(_encode, value))
