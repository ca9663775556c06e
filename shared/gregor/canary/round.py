"""One round of the canary: connect as a device, publish as a backend, measure when the items arrive, and clean up."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, cast

import httpx

from gregor.client import calls
from gregor.client.calls import ApiCall, ApiRequest
from gregor.net.bounded_responses import UNCOMPRESSED, ResponseTooLong, compression_fault, read_bounded
from gregor.net.outgoing.http_clients import async_client
from gregor.net.outgoing.tls import outgoing_context

from .failure import NOT_GREGOR, RoundFailed, Stage, connection_failure
from .receivers import CanaryDevice, Frame, Transport, stream_frames, websocket_frames

CATEGORY: Final = "canary"
ITEM_LIFE_S: Final = 120.0
"""Expiry of the items, if the clean-up fails too."""
MAX_RESPONSE_BYTES: Final = 1 << 20
TIMER_S: Final = 1.0
"""Delay of the second item, which a scheduler creates."""


@dataclass(frozen=True, slots=True)
class CheckedDeployment:
    """The deployment as the canary sees it: public URLs, its user, and its bounds in seconds.

    `credentials` returns the service key and the device token; it is called for each round, and both may change.
    """

    ingest: str
    gateway: str
    stream: str
    uid: str
    credentials: Callable[[], tuple[str, str]]
    timeout_s: float
    late_s: float


@dataclass(slots=True)
class RoundResult:
    """The times of a round in seconds; None for a stage that it did not reach. `failure`: the stage that failed."""

    transport: Transport
    connect_s: float | None = None
    publish_s: float | None = None
    receive_s: float | None = None
    """From just before the request until the frame was read."""
    timer_late_s: float | None = None
    failure: RoundFailed | None = None


async def run_round(target: CheckedDeployment, transport: Transport) -> RoundResult:
    """Perform one round and return its result; a failure is part of the result."""
    result = RoundResult(transport)
    try:
        try:
            key, token = target.credentials()
            headers = calls.bearer(key) | UNCOMPRESSED
        except Exception as error:  # each source of credentials has its own errors
            raise RoundFailed(Stage.CREDENTIALS, str(error)) from error
        # A new client for each round: it also checks DNS, TLS and the way to ingest.
        async with async_client(
            base_url=target.ingest,
            headers=headers,
            timeout=target.timeout_s,
            tls=outgoing_context(),
        ) as http:
            await _Round(target, http, result).run(_frames(target, transport, token))
    except RoundFailed as failure:
        result.failure = failure
    except NOT_GREGOR as error:
        result.failure = RoundFailed(Stage.WRONG_BODY, f"a response does not have Gregor's format: {error!r}")
    return result


def _frames(target: CheckedDeployment, transport: Transport, token: str) -> AsyncIterator[Frame]:
    if transport == "websocket":
        return websocket_frames(target.gateway, token, target.timeout_s)
    return stream_frames(target.stream, token, target.timeout_s)


class _Round:
    """The state of one round: an item that is created at once, and one that a scheduler creates a second later."""

    def __init__(self, target: CheckedDeployment, http: httpx.AsyncClient, result: RoundResult) -> None:
        self._target = target
        self._http = http
        self._result = result
        name = secrets.token_hex(8)
        self._item_id = f"canary-{name}"
        self._timer_id = f"canary-timer-{name}"
        self._body = {"canary": name}

    async def run(self, frames: AsyncIterator[Frame]) -> None:
        """Perform the round. Raises `RoundFailed`."""
        started_s = time.monotonic()
        timeout_s = self._target.timeout_s
        async with CanaryDevice(frames) as receiver:
            no_sync = RoundFailed(Stage.NO_SYNC, f"no welcome and sync object within {timeout_s:g} s")
            # The handshake has the same timeout. It ends before this one: a cancelled handshake leaks its socket.
            await receiver.wait_until(lambda: receiver.mirror.cursor is not None, timeout_s + 1, no_sync)
            self._result.connect_s = time.monotonic() - started_s
            try:
                await self._publish_and_receive(receiver)
            except BaseException:
                # The first failure is the one to report; the items expire in any case.
                with suppress(RoundFailed):
                    await self._clean_up(receiver)
                raise
            await self._clean_up(receiver)

    async def _publish_and_receive(self, receiver: CanaryDevice) -> None:
        due_s = time.monotonic() + TIMER_S
        await self._create(self._timer_id, time.time() + receiver.clock_ahead_s + TIMER_S)
        published_s = time.monotonic()
        await self._create(self._item_id)
        self._result.publish_s = time.monotonic() - published_s
        timeout_s, late_s = self._target.timeout_s, self._target.late_s
        missing = RoundFailed(Stage.NOT_RECEIVED, f"no frame with {self._item_id} within {timeout_s:g} s")
        await receiver.wait_until(lambda: self._item_id in receiver.arrived_s, timeout_s, missing)
        self._result.receive_s = receiver.arrived_s[self._item_id] - published_s
        self._check_body(receiver, self._item_id)
        _check_time(Stage.LATE, self._result.receive_s, late_s)
        wait_s = due_s - time.monotonic() + timeout_s
        missing = RoundFailed(Stage.TIMER_MISSING, f"no frame with {self._timer_id} within {timeout_s:g} s of its time")
        await receiver.wait_until(lambda: self._timer_id in receiver.arrived_s, wait_s, missing)
        self._result.timer_late_s = max(0.0, receiver.arrived_s[self._timer_id] - due_s)
        self._check_body(receiver, self._timer_id)
        _check_time(Stage.TIMER_LATE, self._result.timer_late_s, late_s)

    def _check_body(self, receiver: CanaryDevice, item_id: str) -> None:
        body = receiver.mirror.items.get(item_id, {}).get("body")
        if body != self._body:
            raise RoundFailed(Stage.WRONG_BODY, f"{item_id} arrived with {body!r}, not {self._body!r}")
        if receiver.mirror.needs_full:
            raise RoundFailed(Stage.WRONG_BODY, "the digest of the received state differs from that of the server")

    async def _create(self, item_id: str, not_before: float | None = None) -> None:
        creation = calls.create(
            self._target.uid,
            CATEGORY,
            self._body,
            item_id=item_id,
            expires=f"+{ITEM_LIFE_S:g}",
            not_before=not_before,
            message_id=item_id if not_before is not None else None,
        )
        document = await self._request(creation)
        if document.get("ignored"):
            raise RoundFailed(Stage.PUBLISH_REFUSED, f"the item was ignored: {document['ignored']}")

    async def _clean_up(self, receiver: CanaryDevice) -> None:
        """Dismiss both items, or cancel the second one if it was not created. Raises `RoundFailed` (`CLEANUP`)."""
        uid = self._target.uid
        requests: list[ApiCall[Any]] = []
        if self._timer_id not in receiver.arrived_s:
            requests.append(calls.cancel(uid, self._timer_id))
        requests.append(calls.dismiss(uid, self._item_id, self._timer_id))
        for call in requests:
            try:
                await self._request(call, may_be_missing=True)
            except RoundFailed as failure:
                raise RoundFailed(Stage.CLEANUP, failure.detail) from failure

    async def _request(self, call: ApiCall[Any], *, may_be_missing: bool = False) -> dict[str, Any]:
        """Send the request of a call of the client, without its retries, and return the document of the response."""
        request = cast(ApiRequest, next(call))
        try:
            async with asyncio.timeout(self._target.timeout_s):
                response = await self._read(request)
        except (TimeoutError, httpx.TimeoutException):
            text = f"{request.method} {request.path} was not answered within {self._target.timeout_s:g} s"
            raise RoundFailed(Stage.PUBLISH_TIMEOUT, text) from None
        except httpx.HTTPError as error:
            raise connection_failure(error, Stage.PUBLISH_TLS, Stage.PUBLISH_CONNECT) from error
        except ResponseTooLong as error:
            raise RoundFailed(Stage.PUBLISH_REFUSED, f"ingest sent {error}: is it Gregor?") from error
        if response.is_success:
            return _document_of(response)
        if may_be_missing and response.status_code == 404:
            return {}
        raise _refusal(response)

    async def _read(self, request: ApiRequest) -> httpx.Response:
        """Return the response of ingest with its content. Raises `ResponseTooLong`."""
        async with self._http.stream(
            request.method, request.path, content=request.content, headers=request.headers
        ) as response:
            if (fault := compression_fault(response.headers)) is not None:
                raise RoundFailed(Stage.PUBLISH_REFUSED, fault)
            content = await read_bounded(response.aiter_raw(), MAX_RESPONSE_BYTES)
        return httpx.Response(response.status_code, content=content)


def _document_of(response: httpx.Response) -> dict[str, Any]:
    try:
        document = response.json() if response.content else {}
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise RoundFailed(Stage.PUBLISH_REFUSED, "ingest did not answer with a JSON object: is it Gregor?")
    return document


def _refusal(response: httpx.Response) -> RoundFailed:
    stage = Stage.PUBLISH_AUTH if response.status_code in (401, 403) else Stage.PUBLISH_REFUSED
    text = " ".join(response.text.split())[:300]
    return RoundFailed(stage, f"ingest answered {response.status_code}: {text}")


def _check_time(stage: Stage, seconds: float, late_s: float) -> None:
    if seconds > late_s:
        raise RoundFailed(stage, f"the item arrived after {seconds:.2f} s; the bound is {late_s:g} s")
