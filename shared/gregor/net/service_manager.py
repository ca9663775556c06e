"""Reports to systemd: the process is ready, is stopping, and its event loop is alive (``sd_notify``, watchdog).

Without systemd (no ``NOTIFY_SOCKET`` in the environment) every report does nothing.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping
from typing import Final

import structlog

log = structlog.get_logger(__name__)

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
ALIVE: Final = "WATCHDOG=1"
TIMEOUT_S: Final = 1.0
"""How long a report may block if the queue of systemd is full. ``ALIVE`` never blocks: the next one follows soon."""


def report(state: str, environ: Mapping[str, str] = os.environ) -> None:
    """Send a state to the service manager. A failure is logged, because it must not stop a service that works."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    # A leading "@" is an abstract socket: the kernel writes it as a zero byte.
    path = "\0" + address[1:] if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(0 if state == ALIVE else TIMEOUT_S)
            sender.sendto(state.encode(), path)
    except OSError as error:
        log.warning("service_manager.unreachable", state=state, reason=error.strerror or str(error))


def watchdog_interval_s(environ: Mapping[str, str] = os.environ, pid: int | None = None) -> float | None:
    """Return the interval of watchdog reports: half of ``WatchdogSec``. ``None`` if this process has no watchdog."""
    wanted = environ.get("WATCHDOG_USEC", "")
    process = environ.get("WATCHDOG_PID", "")
    is_other = process != "" and process != str(os.getpid() if pid is None else pid)
    if not wanted.isdecimal() or int(wanted) == 0 or is_other:
        return None
    return int(wanted) / 2e6


async def report_alive(environ: Mapping[str, str] = os.environ) -> None:
    """Report until cancelled that the event loop runs. Returns at once if this process has no watchdog."""
    interval_s = watchdog_interval_s(environ)
    while interval_s is not None:
        report(ALIVE, environ)
        await asyncio.sleep(interval_s)
