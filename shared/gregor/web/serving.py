"""HTTP servers inside a process that has other work too: uvicorn that leaves signals and endings to its host."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from gregor.net.os_errors import os_error_text

from .http_limits import LimitedHttpProtocol, check_timeouts

KEEP_ALIVE_S = 75
"""Longer than balancers keep an idle connection (60 s): they close first, and no request meets a closing socket."""


class EmbeddedServer(uvicorn.Server):
    """uvicorn without its own handling of signals: after a graceful stop the process ends with status 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to whoever runs this."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second: once in a second, look for clients that take too long."""
        if counter % 10 == 0:
            check_timeouts(self.server_state.connections, asyncio.get_running_loop())
        return await super().on_tick(counter)


def make_server(app: ASGIApp, host: str, port: int, drain_s: float, *, has_lifespan: bool = True) -> EmbeddedServer:
    """A server of ``app``, not started. ``drain_s``: how long requests under way may take when it is told to stop."""
    return EmbeddedServer(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            http=LimitedHttpProtocol,
            ws="none",
            lifespan="on" if has_lifespan else "off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=round(drain_s),
        )
    )


def listen(host: str, port: int, backlog: int = 2_048) -> socket.socket:
    """A listening socket; ``OSError`` that names host and port where it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=backlog)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {os_error_text(error)}") from error
