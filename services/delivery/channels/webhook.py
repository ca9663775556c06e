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
from gregor.core.webhooks import LOOPBACK, signed_headers, url_fault
from gregor.outbound import AddressNotPublic, GuardedBackend, trouble_of

from ..verdict import Gone, Refused, Retry, Sent, Verdict, parse_retry_after
from .contract import Call

CONNECTIONS: Final = 100
KEPT_S: Final = 30.0
MOST_ANSWER_BYTES: Final = 16_384
"""Of an answer's body, which is not looked at."""


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
        self._connections: httpcore.AsyncConnectionPool | None = None
        self._in_flight = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    async def open(self) -> None:
        """Make ready; there are no credentials."""
        backend = _OrLoopback() if self._is_loopback_allowed else GuardedBackend()
        self._connections = httpcore.AsyncConnectionPool(
            ssl_context=self._context or ssl.create_default_context(),
            max_connections=CONNECTIONS,
            keepalive_expiry=KEPT_S,
            network_backend=backend,
        )

    async def send(self, message: Call, deadline_s: float) -> Verdict:
        """Make one call; see `contract.Channel.send`."""
        if self._connections is None:
            raise RuntimeError("the channel is not open")
        fault = url_fault(message.url, is_loopback_allowed=self._is_loopback_allowed)
        if fault is not None:
            return Refused(None, fault)
        try:
            headers = signed_headers(message.secrets, message.call_id, self._clock.now_us(), message.body)
        except ValueError as error:
            return Refused(None, str(error))
        self._in_flight += 1
        self._quiet.clear()
        try:
            return await self._call(self._connections, message, headers, deadline_s)
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._quiet.set()

    async def close(self) -> None:
        """Let the calls in flight end, then close the connections."""
        await self._quiet.wait()
        if self._connections is not None:
            await self._connections.aclose()
        self._connections = None

    async def check(self) -> str | None:
        """Nothing to check: each webhook has its own receiver."""
        return None

    async def _call(
        self, connections: httpcore.AsyncConnectionPool, call: Call, headers: dict[str, str], deadline_s: float
    ) -> Verdict:
        fields = [*headers.items(), ("content-type", "application/json"), ("user-agent", "gregor")]
        verdict: Verdict | None = None
        try:
            # Cancelled by its deadline a request closes its own connection, and no other.
            async with (
                asyncio.timeout(deadline_s),
                connections.stream("POST", call.url, headers=fields, content=call.body) as answer,
            ):
                after = dict(answer.headers).get(b"retry-after")
                verdict = self._verdict(answer.status, after.decode("latin-1") if after else None)
                await _read_little(answer)
        except AddressNotPublic:
            return Refused(None, "the URL leads to no public address")
        except TimeoutError:
            return verdict or Retry(None, None, "no answer before the deadline")
        except (OSError, httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            return verdict or Retry(None, None, f"not reached: {trouble_of(error)}")
        return verdict

    def _verdict(self, status: int, retry_after: str | None) -> Verdict:
        """As Standard Webhooks has it: 2xx is taken, 410 ends the subscription, all else is tried again later.

        Redirects are not followed: they would lead past the judgement of the address.
        """
        said = str(status)
        if 200 <= status < 300:
            return Sent(said)
        if status == 410:
            return Gone(said, "the receiver wants no more calls")
        return Retry(parse_retry_after(retry_after, self._clock.now_us()), said, f"answered {status}")


async def _read_little(answer: httpcore.Response) -> None:
    """Read a short body, so that the connection can be kept; of a long one no more than its begin."""
    read = 0
    async for chunk in answer.aiter_stream():
        read += len(chunk)
        if read > MOST_ANSWER_BYTES:
            return


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
        if host in LOOPBACK:
            return await httpcore.AnyIOBackend().connect_tcp(host, port, timeout, local_address, socket_options)
        return await super().connect_tcp(host, port, timeout, local_address, socket_options)
