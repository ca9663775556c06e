"""Free ports for servers that the tests start. No other process takes them before the server binds them.

The kernel's own choice (port 0) comes from the range of outgoing connections. By the time a server binds it, a client
or another test process may have it. These ports lie below that range. Each process reserves a block of them by binding
its first port for as long as it lives, and gives out each of the others once.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from gregor.dev.embedded_redis import HOST

FIRST: Final = 10_000
PAST: Final = 32_000
"""Linux uses ports from 32768 for outgoing connections, other systems from 49152."""
BLOCK: Final = 100
_held: list[socket.socket] = []


def free_port() -> int:
    """Return a port without a listener that no other test gets."""
    return free_ports(1)


def free_ports(count: int) -> int:
    """Return the first of so many consecutive ports."""
    ports: list[int] = []
    for port in _ports:
        if ports and port != ports[-1] + 1:
            ports = []
        ports = [*ports, port] if _is_free(port) else []
        if len(ports) == count:
            return ports[0]
    raise RuntimeError(f"no {count} ports in a row are free between {FIRST} and {PAST}")


def _blocks() -> Iterator[int]:
    for first in range(FIRST, PAST, BLOCK):
        holder = socket.socket()
        try:
            holder.bind((HOST, first))
        except OSError:
            holder.close()
            continue
        _held.append(holder)
        yield from range(first + 1, first + BLOCK)


def _is_free(port: int) -> bool:
    with suppress(OSError), socket.socket() as probe:
        probe.bind((HOST, port))
        return True
    return False


_ports = _blocks()
