"""Sockets that devices dial."""

from __future__ import annotations

import socket
from typing import Final

from gregor.web import serving

BACKLOG: Final = 4_096
"""Devices that may dial in the same moment: after a failover of another gateway they all do."""
SEND_BUFFER_BYTES: Final = 262_144
"""What the kernel holds for one client (it doubles it): else a slow one costs up to 4 MB there."""
UNHEARD_MS: Final = 60_000
"""How long what was sent may stay without a sign of the client, so that the next ping or comment finds one that left
without a word (another network, no power). Else the kernel tries for 15 minutes, and the device counts as online."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; who is accepted inherits its options. Raises ``OSError``."""
    listening = serving.listen(host, port, BACKLOG)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNHEARD_MS)
    listening.setblocking(False)
    return listening
