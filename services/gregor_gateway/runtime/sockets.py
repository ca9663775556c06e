"""Listening sockets for devices."""

from __future__ import annotations

import socket
from typing import Final

from gregor.web import serving

BACKLOG: Final = 4_096
"""Connections that may wait to be accepted: after another gateway fails, its devices reconnect at the same time."""


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; accepted sockets inherit its options. Raises ``OSError``."""
    listening = serving.listen(host, port, BACKLOG)
    listening.setblocking(False)
    return listening
