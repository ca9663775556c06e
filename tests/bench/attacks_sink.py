"""The control of `tests.bench attacks`: three ports that read, drop, and close a connection after 10 s.

What an attack on them adds to the p99 of the well-behaved user is the cost of the generator, not of the services.
"""

from __future__ import annotations

import asyncio
import json

import uvloop

PORTS = ("ingest", "gateway", "stream")
OPEN_S = 10.0


class Sink(asyncio.Protocol):
    """One connection; what it receives is dropped."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        asyncio.get_running_loop().call_later(OPEN_S, transport.close)


async def main() -> None:
    """Print the ports as JSON, and serve until the process is killed."""
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(Sink, "127.0.0.1", 0, backlog=4_096) for _ in PORTS]
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    print(json.dumps({name: f"http://127.0.0.1:{port}" for name, port in zip(PORTS, ports, strict=True)}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
