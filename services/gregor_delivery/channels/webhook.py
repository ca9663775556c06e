"""Webhook channel: events as signed HTTP calls (Standard Webhooks), never to addresses in our own network.

Receivers ignore a call whose id they have seen, so a call without a response is repeated.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from typing import Final

import httpcore

from gregor.clock import Clock
from gregor.core.notify.webhook_signature import LOOPBACK_HOSTS, signed_headers, webhook_url_error
from gregor.net.outgoing.bounded_streams import ResponseLimitExceeded
from gregor.net.ssrf_guard import AddressNotPublic, GuardedBackend, connect_failure

from .contract import WebhookCall
from .http_pool import CONNECTIONS, HttpExchange, HttpPool
from .verdict import RecipientGone, Refused, Retry, Sent, Verdict, parse_retry_after


class WebhookChannel:
    """The channel `webhook`."""

    name: Final = "webhook"

    def __init__(
        self, clock: Clock, *, is_loopback_allowed: bool = False, context: ssl.SSLContext | None = None
    ) -> None:
        """`is_loopback_allowed`: also call this machine, by http too (development). `context`: trusted authorities."""
        self._clock = clock
        self._is_loopback_allowed = is_loopback_allowed
        self._context = context
        self._pool: HttpPool | None = None

    async def open(self) -> None:
        """Create the connection pool; there are no credentials."""
        backend = _LoopbackBackend() if self._is_loopback_allowed else GuardedBackend()
        self._pool = HttpPool(CONNECTIONS, self._context, backend)

    async def send(self, message: WebhookCall, deadline_s: float) -> Verdict:
        """Make one call; see `DeliveryChannel.send`."""
        if self._pool is None:
            raise RuntimeError("the channel is not open")
        fault = webhook_url_error(message.url, is_loopback_allowed=self._is_loopback_allowed)
        if fault is not None:
            return Refused(None, fault)
        try:
            headers = signed_headers(message.secrets, message.call_id, self._clock.now_us(), message.body)
        except ValueError as error:
            return Refused(None, str(error))
        return await self._call(self._pool, message, headers, deadline_s)

    async def close(self) -> None:
        """Wait for the calls in flight, then close the connections."""
        if self._pool is not None:
            await self._pool.close()
        self._pool = None

    async def check(self) -> str | None:
        """Return None: each webhook has its own endpoint and secret."""
        return None

    async def _call(self, pool: HttpPool, call: WebhookCall, headers: dict[str, str], deadline_s: float) -> Verdict:
        fields = [*headers.items(), ("content-type", "application/json"), ("user-agent", "gregor")]
        exchange = HttpExchange()
        detail = ""
        try:
            async with asyncio.timeout(deadline_s):
                await pool.post(call.url, fields, call.body, exchange)
        except AddressNotPublic:
            return Refused(None, "the URL does not resolve to a public address")
        except TimeoutError:
            detail = "no response before the deadline"
        except ResponseLimitExceeded:
            detail = "the response is too long before its status"
        except (OSError, httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            detail = f"not reached: {connect_failure(error)}"
        if exchange.status is None:
            return Retry(None, None, detail, is_unanswered=exchange.was_sent)
        return self._verdict(exchange.status, exchange.retry_after)

    def _verdict(self, status: int, retry_after: str | None) -> Verdict:
        """Classify a status by Standard Webhooks: 2xx is success, 410 ends the webhook, everything else is retried.

        Redirects are not followed: they would bypass the check of the address.
        """
        text = str(status)
        if 200 <= status < 300:
            return Sent(text)
        if status == 410:
            return RecipientGone(text, "the receiver answered 410 Gone")
        return Retry(parse_retry_after(retry_after, self._clock.now_us()), text, f"answered {status}")


class _LoopbackBackend(GuardedBackend):
    """Allows public addresses and this machine, for development."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        if host in LOOPBACK_HOSTS:
            return await httpcore.AnyIOBackend().connect_tcp(host, port, timeout, local_address, socket_options)
        return await super().connect_tcp(host, port, timeout, local_address, socket_options)
