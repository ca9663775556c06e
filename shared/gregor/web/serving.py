"""HTTP servers embedded in a process: uvicorn without its own signal handling, and the sockets of its ports."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from gregor.config.settings import Settings, variable_name
from gregor.net.os_errors import os_error_text

from .http_limits import LimitedHttpProtocol, check_timeouts

BACKLOG: Final = 2_048
"""Connections that may wait to be accepted."""
KEEP_ALIVE_S = 75
"""Longer than the 60 s of common load balancers: they close idle connections before this server does."""
TICKS_PER_SECOND: Final = 10
"""How often uvicorn calls ``on_tick``."""
ACCEPTS_A_TURN: Final = 16
"""Connections that are accepted in one iteration of the event loop.

libuv accepts one for each listening handle. An overloaded process, whose iterations take 30 ms, would otherwise accept
33 connections a second.
"""
TCP_USER_TIMEOUT_MS: Final = 60_000
"""How long sent data may stay unacknowledged before the kernel closes the connection.

A device that lost its network is found by the next ping. The kernel's default of 15 minutes would keep it online.
"""
SEND_BUFFER_BYTES: Final = 262_144
"""Kernel send buffer of one client (the kernel doubles it). Without this limit a slow consumer costs up to 4 MB.

The rest of a response waits in the process: a file is shared by all its responses, and a stream stops. The timeouts of
``http_limits`` see only these bytes.
"""
UNSENT_BYTES: Final = 16_384
"""Bytes that the kernel buffers while the peer has no room for them. The rest waits in the process.

Behind a proxy, one client can leave many responses unread.
"""


class UnknownHost(OSError):
    """The host to listen on is a name that cannot be resolved."""


class EmbeddedServer(uvicorn.Server):
    """A uvicorn server that leaves signals to the process, which then exits with status 0 after a graceful stop."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._checked: list[object] = []

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle no signals; the process does."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Check the timeouts of each connection once a second; uvicorn calls this ten times a second.

        Each call checks a tenth of the connections: all of 4,000 at once would delay requests by 4 ms.
        """
        connections, part = self.server_state.connections, counter % TICKS_PER_SECOND
        if part == 0:
            self._checked = list(connections)
        share = [each for each in self._checked[part::TICKS_PER_SECOND] if each in connections]
        await check_timeouts(share, asyncio.get_running_loop())
        return await super().on_tick(counter)


def make_server(
    app: ASGIApp,
    host: str,
    port: int,
    drain_s: float,
    *,
    has_lifespan: bool = True,
    protocol: type[LimitedHttpProtocol] = LimitedHttpProtocol,
) -> EmbeddedServer:
    """Return a server of ``app``, not started. ``drain_s``: time for running requests after a stop.

    ``protocol``: the connections; ``counted_http`` makes one that counts them.
    """
    return EmbeddedServer(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            http=protocol,
            ws="none",
            lifespan="on" if has_lifespan else "off",
            # uvicorn's own logging would bypass the redaction of secrets.
            log_config=None,
            access_log=False,
            server_header=False,
            # uvicorn would trust X-Forwarded-For by FORWARDED_ALLOW_IPS, beside our own setting TRUSTED_PROXIES.
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=round(drain_s),
        )
    )


def accepting(listening: socket.socket) -> list[socket.socket]:
    """Return the sockets for ``serve``: a listening socket and its duplicates, which accept connections faster."""
    return [listening, *(listening.dup() for _ in range(ACCEPTS_A_TURN - 1))]


def listen(host: str, port: int, backlog: int = BACKLOG) -> socket.socket:
    """Return a listening socket. The host ``::`` listens on all IPv6 and IPv4 addresses.

    Accepted connections inherit its options. Raises ``OSError`` with host and port in its text; ``UnknownHost`` if the
    host is a name without an address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    is_dual_stack = host == "::" and socket.has_dualstack_ipv6()
    try:
        # create_server would hide which of its errors is one of name resolution.
        socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
        listening = socket.create_server((host, port), family=family, backlog=backlog, dualstack_ipv6=is_dual_stack)
    except socket.gaierror as error:
        text = f"cannot listen on {host}:{port}: the name {host} cannot be resolved"
        raise UnknownHost(error.errno, text) from error
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {os_error_text(error)}") from error
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # Linux and macOS
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_MS)
    return listening


def listen_all(settings: Settings, *fields: str, backlog: int = BACKLOG) -> list[socket.socket]:
    """Return the sockets of the ports in these fields, then that of the admin port if it is set.

    Raises ``OSError``. All ports are bound before anything is served: a port in use fails the start, not half of
    the service.
    """
    with contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(_listen(settings, field, backlog)) for field in fields]
        if settings.admin_port is not None:
            _check_distinct(settings, fields)
            sockets.append(opened.enter_context(_listen(settings, "admin_port", backlog)))
        opened.pop_all()
    return sockets


def _check_distinct(settings: Settings, fields: tuple[str, ...]) -> None:
    for field in fields:
        if getattr(settings, field) == settings.admin_port and settings.host == settings.admin_address:
            names = f"{variable_name(field)} and {variable_name('admin_port')}"
            raise OSError(errno.EADDRINUSE, f"{names} are both {settings.admin_port}: choose two ports")


def _listen(settings: Settings, field: str, backlog: int) -> socket.socket:
    is_admin = field == "admin_port"
    host_field = "admin_host" if is_admin and settings.admin_host is not None else "host"
    host = settings.admin_address if is_admin else settings.host
    try:
        return listen(host, getattr(settings, field), backlog)
    except OSError as error:
        hint = _hint(error, variable_name(host_field), variable_name(field))
        raise OSError(error.errno, f"{error.strerror}; {hint}") from error


def _hint(error: OSError, host: str, port: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"each process on a host needs its own {port}"
    return f"check {host if isinstance(error, UnknownHost) or error.errno == errno.EADDRNOTAVAIL else port}"
