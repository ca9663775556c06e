"""Listening sockets for devices."""

from __future__ import annotations

import socket
from typing import Final

from gregor.web import serving

BACKLOG: Final = 4_096
"""Connections that may wait to be accepted: after another gateway fails, its devices reconnect at the same time."""
SEND_BUFFER_BYTES: Final = 262_144
"""Kernel send buffer of one client (the kernel doubles it). Without this limit a slow consumer costs up to 4 MB."""
TCP_USER_TIMEOUT_MS: Final = 60_000
"""How long sent data may stay unacknowledged before the kernel closes the connection.

A device that lost its network is found by the next ping. The kernel's default of 15 minutes would keep it online.
"""


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; accepted sockets inherit its options. Raises ``OSError``."""
    listening = serving.listen(host, port, BACKLOG)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_MS)
    listening.setblocking(False)
    return listening
