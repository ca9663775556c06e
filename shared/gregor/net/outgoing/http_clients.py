"""HTTP clients of asyncio. Every client of httpx in the project is made here, or by `gregor.blocking_http`."""

from __future__ import annotations

import ssl
from http.cookiejar import CookieJar
from typing import Any

import httpcore
import httpx

from .bounded_streams import MAX_RESPONSE_WORK, BoundedBackend
from .pool_places import free_failed_places
from .tls import limit_handshakes


def async_client(*, tls: ssl.SSLContext | None = None, **options: Any) -> httpx.AsyncClient:
    """Return a client of httpx, made with `options`. `tls`: its context, by default one with httpx's authorities."""
    client = httpx.AsyncClient(**client_options(tls, options))
    free_failed_places(client)
    return client


def bounded_client(max_work: int = MAX_RESPONSE_WORK, **options: Any) -> httpx.AsyncClient:
    """Return a client as `async_client` does that limits the work for each response (`BoundedBackend`).

    The limits hold on direct and on proxied connections.
    """
    client = async_client(**options)
    # httpx has no public parameter for the backend. If we passed a transport, httpx would ignore HTTPS_PROXY.
    for each in (client._transport, *client._mounts.values()):
        if isinstance(each, httpx.AsyncHTTPTransport):
            each._pool._network_backend = BoundedBackend(httpcore.AnyIOBackend(), max_work)
    return client


def client_options(tls: ssl.SSLContext | None, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a client of httpx, blocking or not, with those that all clients share."""
    trusts_environment = options.get("trust_env", True)
    context = tls or limit_handshakes(httpx.create_ssl_context(trust_env=trusts_environment))
    return options | {"verify": context, "cookies": _NoCookies()}


class _NoCookies(CookieJar):
    """Ignores the cookies of all responses, without parsing them.

    A server that sends new cookies with each response would fill the memory of a client that keeps them.
    """

    def extract_cookies(self, response: object, request: object) -> None:
        """Keep nothing."""
