"""A fake relay: speaks SMTP as relays do (EHLO, STARTTLS, AUTH, pipelined or not), and fails where it is told.

A `RelayRule` applies to one step of the dialogue, for all addresses or for those that contain a word, a number of times
or always: it replaces the success reply with another reply, with silence, or with a closed connection.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

SIZE: Final = 10_485_760


class RelayFault(Enum):
    """What a relay may do in place of a reply."""

    HANG = "nothing is said"
    DROP = "the connection is cut"


@dataclass(slots=True)
class RelayRule:
    """`step`: CONNECT EHLO STARTTLS AUTH MAIL RCPT DATA END RSET. `said`: a reply, or trouble. `times`: None is always.

    `match`: a part of the command's words (an address), "" is any.
    """

    step: str
    said: str | RelayFault
    times: int | None = None
    match: str = ""

    def applies(self, step: str, words: str) -> bool:
        """Whether it speaks of this command, and is not used up; a time is taken."""
        if self.step != step or self.match not in words or self.times == 0:
            return False
        if self.times is not None:
            self.times -= 1
        return True


@dataclass(frozen=True, slots=True)
class ReceivedMail:
    """A mail that the relay took: its envelope, and its content with single dots."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes


@dataclass(slots=True)
class FakeSmtp:
    """`tls`: the certificate that is shown. `user`, `password`: asked for where they are given."""

    tls: ssl.SSLContext | None = None
    is_implicit: bool = False
    user: str | None = None
    password: str = ""
    keeps: bool = True
    rules: list[RelayRule] = field(default_factory=list)
    mails: list[ReceivedMail] = field(default_factory=list)
    unanswered: list[ReceivedMail] = field(default_factory=list)
    """Mails that came whole, and whose sender never heard of it: a relay may have them in its queue."""
    commands: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    most_at_once: int = 0
    count: int = 0
    _open: set[asyncio.StreamWriter] = field(default_factory=set)
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self, port: int = 0) -> None:
        """Listen on loopback."""
        tls = self.tls if self.is_implicit else None
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, ssl=tls, limit=SIZE + 1_000)

    async def close(self) -> None:
        """Stop listening and cut what is open."""
        if self._server is not None:
            self._server.close()
            self.drop_all()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._server.wait_closed()

    @property
    def open_connections(self) -> int:
        """Connections that are open now."""
        return len(self._open)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        if self._server is None:
            raise RuntimeError("the fake is not started")
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """What GREGOR_SMTP_URL is set to."""
        login = f"{self.user}:{self.password}@" if self.user else ""
        way = "none" if self.tls is None else "implicit" if self.is_implicit else "starttls"
        return f"smtp://{login}127.0.0.1:{self.port}?tls={way}"

    def drop_all(self) -> None:
        """Cut all connections, as a relay that restarts or is tired of idle ones."""
        for writer in list(self._open):
            writer.transport.abort() if self.tls else writer.close()

    def ruled(self, step: str, words: str = "") -> str | RelayFault | None:
        """What the first rule for this command says; None without one."""
        self.commands[step] += 1
        return next((rule.said for rule in self.rules if rule.applies(step, words)), None)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self.connections += 1
        self._open.add(writer)
        self.most_at_once = max(self.most_at_once, len(self._open))
        try:
            await _Dialogue(self, reader, writer).run()
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, asyncio.CancelledError, TimeoutError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()


class _Cut(ConnectionError):
    """The connection is cut by a rule."""


class _Dialogue:
    """One connection."""

    def __init__(self, relay: FakeSmtp, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._relay = relay
        self._reader = reader
        self._writer = writer
        self._is_secure = relay.is_implicit
        self._is_known = relay.user is None
        self._sender: str | None = None
        self._recipients: list[str] = []

    async def run(self) -> None:
        """Reply until the client has enough."""
        if not await self._reply("CONNECT", "", "220 fake.example ESMTP"):
            return
        while line := (await self._reader.readline()).decode("utf-8", "replace").strip():
            verb, _, words = line.partition(" ")
            if verb.upper() == "QUIT":
                self._relay.commands["QUIT"] += 1
                self._writer.write(b"221 2.0.0 Bye\r\n")
                return
            await self._command(verb.upper(), words)
            await self._writer.drain()

    async def _reply(self, step: str, words: str, good: str) -> bool:
        """Say what a rule says, else the good reply; whether it was the good one."""
        return await self._say(self._relay.ruled(step, words), good)

    async def _say(self, said: str | RelayFault | None, good: str) -> bool:
        if said is RelayFault.HANG:
            await asyncio.Event().wait()
        if said is RelayFault.DROP:
            raise _Cut
        self._writer.write(f"{said or good}\r\n".encode())
        if isinstance(said, str) and said.startswith("421"):
            raise _Cut
        return said is None

    async def _command(self, verb: str, words: str) -> None:
        if verb in ("EHLO", "HELO"):
            await self._reply("EHLO", words, self._extensions())
        elif verb == "STARTTLS":
            await self._secure()
        elif verb == "AUTH":
            await self._log_in(words)
        elif not self._is_known:
            self._writer.write(b"530 5.7.0 Authentication required\r\n")
        elif verb == "MAIL" and self._sender is not None:
            self._writer.write(b"503 5.5.1 Nested MAIL command\r\n")
        elif verb == "MAIL" and await self._reply("MAIL", words, "250 2.1.0 Ok"):
            self._sender, self._recipients = _bare(words), []
        elif verb == "RCPT" and await self._reply("RCPT", words, "250 2.1.5 Ok"):
            self._recipients.append(_bare(words))
        elif verb == "DATA":
            await self._data()
        elif verb == "RSET":
            self._sender, self._recipients = None, []
            await self._reply("RSET", words, "250 2.0.0 Ok")
        elif verb not in ("MAIL", "RCPT"):
            self._writer.write(b"502 5.5.2 Command not known\r\n")

    def _extensions(self) -> str:
        names = ["fake.example", f"SIZE {SIZE}", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"]
        if self._relay.tls is not None and not self._is_secure:
            names.append("STARTTLS")
        elif self._relay.user is not None:
            names.append("AUTH PLAIN LOGIN")
        return "\r\n".join([*(f"250-{name}" for name in names[:-1]), f"250 {names[-1]}"])

    async def _secure(self) -> None:
        if self._relay.tls is None or not await self._reply("STARTTLS", "", "220 2.0.0 Ready"):
            return
        await self._writer.drain()
        await self._writer.start_tls(self._relay.tls)
        self._is_secure = True

    async def _log_in(self, words: str) -> None:
        """AUTH PLAIN with its initial response; clients that offer more begin with it or CRAM-MD5, not offered here."""
        _, _, given = words.partition(" ")
        wanted = base64.b64encode(f"\0{self._relay.user}\0{self._relay.password}".encode()).decode()
        good = "235 2.7.0 Welcome" if given == wanted else "535 5.7.8 Authentication failed"
        self._is_known = await self._reply("AUTH", words, good) and given == wanted

    async def _data(self) -> None:
        if not self._recipients or self._sender is None:
            self._writer.write(b"503 5.5.1 Who is it for?\r\n")
            return
        if not await self._reply("DATA", "", "354 Go on"):
            return
        await self._writer.drain()
        content = bytearray()
        while (line := await self._reader.readuntil(b"\r\n")) != b".\r\n":
            content += line[1:] if line.startswith(b".") else line
        self._relay.count += 1
        received = ReceivedMail(self._sender, tuple(self._recipients), bytes(content))
        good = f"250 2.0.0 Ok: queued as FAKE{self._relay.count}"
        said = self._relay.ruled("END", self._recipients[0])
        if isinstance(said, RelayFault) and self._relay.keeps:
            self._relay.unanswered.append(received)
        if await self._say(said, good) and self._relay.keeps:
            self._relay.mails.append(received)
        self._sender, self._recipients = None, []


def _bare(words: str) -> str:
    """The address between the angle brackets."""
    return words.partition("<")[2].partition(">")[0]
