"""Connections that their client resets."""

import socket
import struct


def reset_before_accept(port: int, request: bytes) -> None:
    """Connect, send a request and reset the connection. A server in this thread accepts it only afterwards."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(request)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
