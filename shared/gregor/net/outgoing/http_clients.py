"""HTTP clients of asyncio. Every client of httpx in the project is made here, or by `gregor.blocking_http`."""

from __future__ import annotations

import ssl
from http.cookiejar import CookieJar
from typing import Any

import httpx

from gregor.net.bounded_responses import parse_in_linear_time

from .tls import limit_handshakes

parse_in_linear_time()


def async_client(*, tls: ssl.SSLContext | None = None, **options: Any) -> httpx.AsyncClient:
    """Return a client of httpx, made with `options`. `tls`: its context, by default one with httpx's authorities."""
    return httpx.AsyncClient(**client_options(tls, options))


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
