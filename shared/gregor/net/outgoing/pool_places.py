"""Places in the connection pools of httpx that failed requests would keep for ever."""

from __future__ import annotations

from typing import Any

import httpx


def free_failed_places(client: httpx.AsyncClient | httpx.Client) -> None:
    """Let each pool of a client drop the connections that no request uses, and that cannot serve another one.

    httpcore keeps the connection to a proxy if TLS through its tunnel fails or is cancelled (encode/httpcore#1023).
    It also keeps a connection whose request is cancelled before it begins. Each takes a place. Without places, all
    later requests of the client fail with `PoolTimeout`.
    """
    for transport in (client._transport, *client._mounts.values()):
        if isinstance(transport, httpx.AsyncHTTPTransport | httpx.HTTPTransport):
            _drop_unused_connections(transport._pool)


def _drop_unused_connections(pool: Any) -> None:
    """Change a pool of httpcore, blocking or not."""
    assign = pool._assign_requests_to_connections

    def drop_and_assign() -> list[Any]:
        # A request stays in `_requests` until it fails or its response is closed.
        used = {id(request.connection) for request in pool._requests}
        unused = [each for each in pool._connections if id(each) not in used]
        failed = [each for each in unused if not (each.is_idle() or each.is_closed())]
        for each in failed:
            pool._connections.remove(each)
        # The pool calls this method when a request begins or ends, and closes the connections that it returns.
        return [*failed, *assign()]

    # httpcore has no public hook. tests/unit/net/test_proxy_tunnels.py fails if these attributes change.
    pool._assign_requests_to_connections = drop_and_assign
