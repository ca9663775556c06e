"""A fake SMTP relay: EHLO, STARTTLS, AUTH, the transaction; and every failure on demand.

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
    """A failure of the relay instead of a reply."""

    HANG = "no reply is sent"
    DROP = "the connection is closed"


@dataclass(slots=True)
class RelayRule:
    """`step`: CONNECT EHLO STARTTLS AUTH MAIL RCPT DATA END RSET. `reply`: in place of the success reply.

    `times`: how often it applies; None: always. `match`: a part of the command's arguments, such as an address; empty:
    any. `delay_s`: before the reply; an empty `reply` then delays the success reply, as relays do that scan a mail.
    `unsolicited`: lines that follow the reply at once, although no command asks for them.
    """

    step: str
    reply: str | RelayFault = ""
    times: int | None = None
    match: str = ""
    delay_s: float = 0.0
    unsolicited: str = ""

    def applies(self, step: str, arguments: str) -> bool:
        """Return whether the rule applies to this command, and count it."""
        if self.step != step or self.match not in arguments or self.times == 0:
            return False
        if self.times is not None:
            self.times -= 1
        return True


@dataclass(frozen=True, slots=True)
class ReceivedMail:
    """A mail that the relay accepted: its envelope, and its content without dot-stuffing."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes


@dataclass(slots=True)
class FakeSmtp:
    """The relay. `tls`: its certificate. `user`, `password`: login, if required. `mechanisms`: offered by AUTH."""

    tls: ssl.SSLContext | None = None
    is_implicit: bool = False
    user: str | None = None
    password: str = ""
    mechanisms: str = "PLAIN LOGIN"
    keeps: bool = True
    rules: list[RelayRule] = field(default_factory=list)
    mails: list[ReceivedMail] = field(default_factory=list)
    unanswered: list[ReceivedMail] = field(default_factory=list)
    """Mails that were received whole without a reply: a relay may have queued them."""
    commands: Counter[str] = field(default_factory=Counter)
    hostnames: list[str] = field(default_factory=list)
    """Arguments of EHLO, in order."""
    connections: int = 0
    most_at_once: int = 0
    count: int = 0
    _open: set[asyncio.StreamWriter] = field(default_factory=set)
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self, port: int = 0) -> None:
        """Listen on loopback; port 0 takes a free one."""
        tls = self.tls if self.is_implicit else None
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, ssl=tls, limit=SIZE + 1_000)

    async def close(self) -> None:
        """Stop listening and close all connections."""
        if self._server is not None:
            self._server.close()
            self.drop_all()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._server.wait_closed()

    @property
    def open_connections(self) -> int:
        """Number of open connections."""
        return len(self._open)

    @property
    def port(self) -> int:
        """Port that the relay listens on."""
        if self._server is None:
            raise RuntimeError("the fake is not started")
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """Value for GREGOR_SMTP_URL."""
        login = f"{self.user}:{self.password}@" if self.user else ""
        tls = "none" if self.tls is None else "implicit" if self.is_implicit else "starttls"
        return f"smtp://{login}127.0.0.1:{self.port}?tls={tls}"

    def drop_all(self) -> None:
        """Close all connections, as a relay does that restarts or closes idle ones."""
        for writer in list(self._open):
            writer.transport.abort() if self.tls else writer.close()

    def match_rule(self, step: str, arguments: str = "") -> RelayRule | None:
        """Count the command and return the first rule that applies to it."""
        self.commands[step] += 1
        return next((rule for rule in self.rules if rule.applies(step, arguments)), None)

    # --- connections ---

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


# --- the dialogue ---


class _Dropped(ConnectionError):
    """The connection is closed by a rule."""


class _Dialogue:
    """One connection of a client."""

    def __init__(self, relay: FakeSmtp, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._relay = relay
        self._reader = reader
        self._writer = writer
        self._is_secure = relay.is_implicit
        self._is_logged_in = relay.user is None
        self._sender: str | None = None
        self._recipients: list[str] = []

    async def run(self) -> None:
        """Reply until the client quits."""
        if not await self._reply("CONNECT", "", "220 fake.example ESMTP"):
            return
        while line := (await self._reader.readline()).decode("utf-8", "replace").strip():
            verb, _, arguments = line.partition(" ")
            if verb.upper() == "QUIT":
                self._relay.commands["QUIT"] += 1
                self._writer.write(b"221 2.0.0 Bye\r\n")
                return
            await self._command(verb.upper(), arguments)
            await self._writer.drain()

    async def _reply(self, step: str, arguments: str, success: str) -> bool:
        """Send the reply of a rule, or the success reply; return whether it was the latter."""
        return await self._send(self._relay.match_rule(step, arguments), success)

    async def _send(self, rule: RelayRule | None, success: str) -> bool:
        reply = "" if rule is None else rule.reply
        if rule is not None and rule.delay_s:
            await self._writer.drain()
            await asyncio.sleep(rule.delay_s)
        if reply is RelayFault.HANG:
            await asyncio.Event().wait()
        if reply is RelayFault.DROP:
            raise _Dropped
        unsolicited = "" if rule is None else rule.unsolicited
        self._writer.write(f"{reply or success}\r\n{unsolicited}".encode())
        if isinstance(reply, str) and reply.startswith("421"):
            raise _Dropped
        return not reply

    async def _command(self, verb: str, arguments: str) -> None:
        if verb in ("EHLO", "HELO"):
            self._relay.hostnames.append(arguments)
            await self._reply("EHLO", arguments, self._extensions())
        elif verb == "STARTTLS":
            await self._start_tls()
        elif verb == "AUTH":
            await self._log_in(arguments)
        elif not self._is_logged_in:
            self._writer.write(b"530 5.7.0 Authentication required\r\n")
        elif verb == "MAIL" and self._sender is not None:
            self._writer.write(b"503 5.5.1 Nested MAIL command\r\n")
        elif verb == "MAIL" and await self._reply("MAIL", arguments, "250 2.1.0 Ok"):
            self._sender, self._recipients = _address(arguments), []
        elif verb == "RCPT" and await self._reply("RCPT", arguments, "250 2.1.5 Ok"):
            self._recipients.append(_address(arguments))
        elif verb == "DATA":
            await self._data()
        elif verb == "RSET":
            self._sender, self._recipients = None, []
            await self._reply("RSET", arguments, "250 2.0.0 Ok")
        elif verb not in ("MAIL", "RCPT"):
            self._writer.write(b"502 5.5.2 Command not known\r\n")

    def _extensions(self) -> str:
        names = ["fake.example", f"SIZE {SIZE}", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"]
        if self._relay.tls is not None and not self._is_secure:
            names.append("STARTTLS")
        elif self._relay.user is not None:
            names.append(f"AUTH {self._relay.mechanisms}")
        return "\r\n".join([*(f"250-{name}" for name in names[:-1]), f"250 {names[-1]}"])

    async def _start_tls(self) -> None:
        if self._relay.tls is None or not await self._reply("STARTTLS", "", "220 2.0.0 Ready"):
            return
        await self._writer.drain()
        await self._writer.start_tls(self._relay.tls)
        self._is_secure = True

    async def _log_in(self, arguments: str) -> None:
        """Handle AUTH PLAIN with its initial response, and AUTH LOGIN with the user name as its initial response."""
        mechanism, _, given = arguments.partition(" ")
        expected = base64.b64encode(f"\0{self._relay.user}\0{self._relay.password}".encode())
        if mechanism == "LOGIN":
            self._writer.write(b"334 UGFzc3dvcmQ6\r\n")
            password = base64.b64decode((await self._reader.readline()).strip())
            given = base64.b64encode(b"\0" + base64.b64decode(given) + b"\0" + password).decode()
        is_right = given.encode() == expected
        reply = "235 2.7.0 Welcome" if is_right else "535 5.7.8 Authentication failed"
        self._is_logged_in = await self._reply("AUTH", arguments, reply) and is_right

    async def _data(self) -> None:
        if not self._recipients or self._sender is None:
            self._writer.write(b"503 5.5.1 No recipient\r\n")
            return
        if not await self._reply("DATA", "", "354 Go on"):
            return
        await self._writer.drain()
        content = bytearray()
        while (line := await self._reader.readuntil(b"\r\n")) != b".\r\n":
            content += line[1:] if line.startswith(b".") else line
        self._relay.count += 1
        received = ReceivedMail(self._sender, tuple(self._recipients), bytes(content))
        rule = self._relay.match_rule("END", self._recipients[0])
        if self._relay.keeps and rule is not None and (rule.delay_s or isinstance(rule.reply, RelayFault)):
            self._relay.unanswered.append(received)
        is_accepted = await self._send(rule, f"250 2.0.0 Ok: queued as FAKE{self._relay.count}")
        await self._writer.drain()
        if is_accepted and self._relay.keeps:
            if received in self._relay.unanswered:
                self._relay.unanswered.remove(received)
            self._relay.mails.append(received)
        self._sender, self._recipients = None, []


def _address(arguments: str) -> str:
    """Return the address between the angle brackets."""
    return arguments.partition("<")[2].partition(">")[0]
