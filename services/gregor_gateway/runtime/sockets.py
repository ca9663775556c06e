"""Listening sockets for devices."""

from __future__ import annotations

import socket
from typing import Final

from gregor.web import serving

BACKLOG: Final = 4_096
"""Connections that may wait to be accepted: after another gateway fails, its devices reconnect at the same time."""
SEND_BUFFER_BYTES: Final = 262_144
"""Kernel send buffer of one client (the kernel doubles it). Without this limit a slow consumer costs up to 4 MB."""


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; accepted sockets inherit its options. Raises ``OSError``."""
    listening = serving.listen(host, port, BACKLOG)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    listening.setblocking(False)
    return listening
