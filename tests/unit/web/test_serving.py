"""Listening sockets: how many connections are accepted in one iteration of the event loop."""

from __future__ import annotations

import asyncio
import socket

import uvloop

from gregor.web.serving import ACCEPTS_A_TURN, accepting, listen

CONNECTIONS = 4 * ACCEPTS_A_TURN


class Counted(asyncio.Protocol):
    """Counts its connections."""

    made = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        Counted.made += 1


async def turns_until_accepted() -> int:
    """Return the iterations in which the event loop accepts connections that wait."""
    loop, listening = asyncio.get_running_loop(), accepting(listen("127.0.0.1", 0))
    servers = [await loop.create_server(Counted, sock=each) for each in listening]
    clients = [socket.create_connection(listening[0].getsockname()) for _ in range(CONNECTIONS)]
    Counted.made = turns = 0
    while Counted.made < CONNECTIONS:
        turns += 1
        await asyncio.sleep(0)
    for server in servers:
        server.close()
    for each in (*clients, *listening):
        each.close()
    return turns


def test_several_connections_are_accepted_a_turn() -> None:
    # libuv accepts one for each handle.
    assert uvloop.run(turns_until_accepted()) <= 2 * CONNECTIONS / ACCEPTS_A_TURN
