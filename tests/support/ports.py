"""Ports for servers that the tests start: nobody else takes them before the server does.

The kernel's own choice (port 0) comes from the range of outgoing connections: by the time a server binds it, a client,
or another test process, may have it. These lie below that range. A process holds a block of them by its first port,
bound for as long as the process lives, and gives out each of the others once.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from gregor.dev.embedded_redis import HOST

FIRST: Final = 10_000
PAST: Final = 32_000
"""Linux gives 32768 and up to outgoing connections, others 49152 and up."""
BLOCK: Final = 100
_held: list[socket.socket] = []


def free_port() -> int:
    """A port that nobody listens on, and that no other test gets."""
    return free_ports(1)


def free_ports(count: int) -> int:
    """The first of so many ports in a row."""
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
