"""Listening sockets for devices."""

from __future__ import annotations

import socket
from typing import Final

from gregor.config.settings import Settings
from gregor.web.serving import listen_all

BACKLOG: Final = 4_096
"""Connections that may wait to be accepted: after another gateway fails, its devices reconnect at the same time."""


def listen_for_devices(settings: Settings) -> list[socket.socket]:
    """Return the sockets of the gateway port, the stream port and the admin port, if it is set. Raises ``OSError``."""
    sockets = listen_all(settings, "gateway_port", "stream_port", backlog=BACKLOG)
    for listening in sockets:
        listening.setblocking(False)
    return sockets
