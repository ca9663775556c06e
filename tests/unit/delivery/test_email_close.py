"""Connections to a mail relay that reads nothing more end at once: no unsent mail and no descriptor stays behind."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiosmtplib
import pytest

from gregor.clock import ManualClock
from gregor.dev.fakes.tls import CertificateAuthority
from gregor_delivery.channels.smtp.mime import parse_address
from gregor_delivery.channels.smtp.pool import IDLE_S, Relay, SmtpConnection, SmtpPool, Tls
from gregor_delivery.channels.smtp.transaction import Envelope, TransactionResult, run_transaction
from gregor_delivery.channels.verdict import Retry
from tests.support.mail_channel import NOW_US
from tests.support.wait import wait_until

CONTENT = b"x" * 16_777_216 + b"\r\n.\r\n"
"""A mail longer than all buffers of the kernel for one connection."""


@dataclass
class DeafRelay:
    """A relay that reads only the start of a mail: it replies at once, and keeps the connection open."""

    reply: bytes
    streams: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.streams.append((reader, writer))  # asyncio closes a connection without a reference to its reader
        writer.write(b"220 relay.example\r\n")
        while (line := await reader.readline()) and line != b"DATA\r\n":
            writer.write(b"250 relay.example\r\n")
        if line:
            writer.write(b"354 go on\r\n")
            await reader.readexactly(1)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(self.reply)


@asynccontextmanager
async def open_pool(relay: DeafRelay, tls: Tls, directory: Path, clock: ManualClock) -> AsyncIterator[SmtpPool]:
    """Start the relay, and open a pool of connections to it."""
    authority = CertificateAuthority(directory)
    server_tls = authority.server_context() if tls == "implicit" else None
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0, ssl=server_tls)
    context = ssl.create_default_context(cafile=authority.ca_file)
    address = Relay("127.0.0.1", server.sockets[0].getsockname()[1], tls, None, None)
    pool = SmtpPool(address, "client.example", clock, context=context)
    try:
        yield pool
    finally:
        await pool.close()
        for _, writer in relay.streams:
            writer.transport.abort()
        server.close()


async def send_mail(connection: SmtpConnection) -> TransactionResult:
    address = parse_address("alice@example.com")
    return await run_transaction(connection, Envelope(address, address, CONTENT), lambda: 5.0, 5.0)


async def wait_until_gone(protocol: aiosmtplib.protocol.SMTPProtocol | None) -> None:
    assert protocol is not None
    await wait_until(lambda: protocol.transport is None, "the connection has ended", timeout_s=5)


@pytest.mark.parametrize("tls", ["none", "implicit"])
async def test_connection_that_is_not_reused_keeps_no_unsent_mail(tls: Tls, tmp_path: Path) -> None:
    relay = DeafRelay(b"421 closing\r\n")
    async with open_pool(relay, tls, tmp_path, ManualClock(NOW_US)) as pool:
        connection = await pool.acquire(5.0)
        protocol = connection.smtp.protocol

        result = await send_mail(connection)
        pool.release(connection, is_reusable=result.is_reusable)

        assert (type(result.verdict), result.is_reusable) == (Retry, False)
        await wait_until_gone(protocol)


async def test_expired_connection_keeps_no_unsent_mail(tmp_path: Path) -> None:
    relay, clock = DeafRelay(b"250 queued\r\n"), ManualClock(NOW_US)
    async with open_pool(relay, "none", tmp_path, clock) as pool:
        connection = await pool.acquire(5.0)
        protocol = connection.smtp.protocol
        result = await send_mail(connection)
        pool.release(connection, is_reusable=result.is_reusable)
        assert pool.idle == 1

        clock.advance(IDLE_S)
        pool.release(await pool.acquire(5.0), is_reusable=False)

        await wait_until_gone(protocol)


async def test_quit_without_a_reply_keeps_no_unsent_mail(tmp_path: Path) -> None:
    async with open_pool(DeafRelay(b"250 queued\r\n"), "none", tmp_path, ManualClock(NOW_US)) as pool:
        connection = await pool.acquire(5.0)
        protocol = connection.smtp.protocol
        result = await send_mail(connection)
        pool.release(connection, is_reusable=result.is_reusable)

        await pool.close()

        await wait_until_gone(protocol)
