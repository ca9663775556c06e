"""Webhooks: what happened, told to a backend, signed as Standard Webhooks has it, and never into our own network.

Receivers drop a call whose id they know, so that one without an answer is simply made again.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from typing import Final

import httpcore

from gregor.clock import Clock
from gregor.core.notify.webhook_signature import LOOPBACK_HOSTS, signed_headers, webhook_url_error
from gregor.net.ssrf_guard import AddressNotPublic, GuardedBackend, connect_failure

from .contract import WebhookCall
from .http_pool import HttpExchange, HttpPool
from .verdict import RecipientGone, Refused, Retry, Sent, Verdict, parse_retry_after

CONNECTIONS: Final = 100


class WebhookChannel:
    """The channel `webhook` (contract.Channel of Call)."""

    name: Final = "webhook"

    def __init__(
        self, clock: Clock, *, is_loopback_allowed: bool = False, context: ssl.SSLContext | None = None
    ) -> None:
        """`is_loopback_allowed`: for development, calls to this machine, http too. `context`: whom to trust."""
        self._clock = clock
        self._is_loopback_allowed = is_loopback_allowed
        self._context = context
        self._pool: HttpPool | None = None

    async def open(self) -> None:
        """Make ready; there are no credentials."""
        backend = _OrLoopback() if self._is_loopback_allowed else GuardedBackend()
        self._pool = HttpPool(CONNECTIONS, self._context, backend)

    async def send(self, message: WebhookCall, deadline_s: float) -> Verdict:
        """Make one call; see `contract.DeliveryChannel.send`."""
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
        """Let the calls in flight end, then close the connections."""
        if self._pool is not None:
            await self._pool.close()
        self._pool = None

    async def check(self) -> str | None:
        """Nothing to check: each webhook has its own receiver."""
        return None

    async def _call(self, pool: HttpPool, call: WebhookCall, headers: dict[str, str], deadline_s: float) -> Verdict:
        fields = [*headers.items(), ("content-type", "application/json"), ("user-agent", "gregor")]
        exchange = HttpExchange()
        detail = ""
        try:
            async with asyncio.timeout(deadline_s):
                await pool.post(call.url, fields, call.body, exchange)
        except AddressNotPublic:
            return Refused(None, "the URL leads to no public address")
        except TimeoutError:
            detail = "no answer before the deadline"
        except (OSError, httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            detail = f"not reached: {connect_failure(error)}"
        if exchange.status is None:
            return Retry(None, None, detail)
        return self._verdict(exchange.status, exchange.retry_after)

    def _verdict(self, status: int, retry_after: str | None) -> Verdict:
        """As Standard Webhooks has it: 2xx is taken, 410 ends the subscription, all else is tried again later.

        Redirects are not followed: they would lead past the judgement of the address.
        """
        said = str(status)
        if 200 <= status < 300:
            return Sent(said)
        if status == 410:
            return RecipientGone(said, "the receiver wants no more calls")
        return Retry(parse_retry_after(retry_after, self._clock.now_us()), said, f"answered {status}")


class _OrLoopback(GuardedBackend):
    """Public addresses, and this machine: for development."""

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
