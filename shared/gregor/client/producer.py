"""Clients for backends: `Producer` (blocking) and `AsyncProducer` (asyncio) send messages and read the state of users.

    with Producer("http://127.0.0.1:8700", key) as producer:
        receipt = producer.create("alice", "user.joined", {"keybase": "kbob"}, expires=timedelta(days=1))
        print(producer.state("alice")["items"][receipt.item_id])

Both have the same methods with the same arguments. `calls.py` defines them; the classes here only send requests and
sleep. Every message is safe to repeat (docs/semantics.md L2), so a call that got no response is repeated until its
deadline.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing, closing
from datetime import timedelta
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import httpx

from gregor.blocking_http import RequestDeadline, blocking_client
from gregor.net.bounded_responses import UNCOMPRESSED, compression_fault
from gregor.net.outgoing.http_clients import async_client

from . import calls
from .calls import ApiCall, ApiRequest, ApiResponse, Attempt, ItemDocument, TransportFailure
from .errors import UnexpectedResponse
from .messages import seconds_of

DEFAULT_TIMEOUT_S = 5.0
"""Short, since producers are called inside web requests; a batch job passes a longer one."""
# A host that drops packets would otherwise use up the whole deadline in one attempt to connect.
MAX_CONNECT_S = 2.0

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(call: Callable[P, ApiCall[T]]) -> Callable[Concatenate[Producer, P], T]:
    @functools.wraps(call)
    def method(self: Producer, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._perform(call(*args, **kwargs))

    return method


def _awaitable(call: Callable[P, ApiCall[T]]) -> Callable[Concatenate[AsyncProducer, P], Coroutine[Any, Any, T]]:
    @functools.wraps(call)
    async def method(self: AsyncProducer, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._perform(call(*args, **kwargs))

    return method


class Producer:
    """A blocking client for one backend. A context manager; threads may share it."""

    def __init__(
        self, url: str, key: str, *, timeout: timedelta | float = DEFAULT_TIMEOUT_S, replicated: bool = False
    ) -> None:
        """Connect to ingest at `url` with a service key. `timeout` (seconds) is the deadline of a whole call.

        `replicated`: a call returns when replicas of the store have the message, too; it is repeated until they have
        it or the deadline is over. The error is then `not_replicated`, and the message is stored without a replica.

        Raises ValueError if the URL has no scheme or host, or the key is empty.
        """
        headers = calls.bearer(key) | UNCOMPRESSED | (calls.REPLICATED if replicated else {})
        self._http = blocking_client(base_url=calls.base_url_of(url), headers=headers)
        self._timeout_s = seconds_of(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    send = _blocking(calls.send)
    create = _blocking(calls.create)
    dismiss = _blocking(calls.dismiss)
    snooze = _blocking(calls.snooze)
    cancel = _blocking(calls.cancel)
    reset_user = _blocking(calls.reset_user)
    send_many = _blocking(calls.send_many)
    broadcast = _blocking(calls.broadcast)
    job = _blocking(calls.job)
    cancel_job = _blocking(calls.cancel_job)
    state = _blocking(calls.state)
    sync = _blocking(calls.sync)
    item = _blocking(calls.item)

    def history(self, uid: str, *, category_prefix: Sequence[str] = (), page: int = 100) -> Iterator[ItemDocument]:
        """Iterate over a user's history, live and gone items, newest first; `page` entries are fetched at a time."""
        next_url: str | None = None
        visited: set[str] = set()
        while True:
            entries, next_url = self._perform(calls.history_page(uid, category_prefix, page, next_url, visited))
            yield from entries
            if next_url is None:
                return

    def _perform(self, call: ApiCall[T]) -> T:
        steps = calls.with_retries(call, self._timeout_s, time.monotonic)
        try:
            step = next(steps)
            while True:
                if isinstance(step, Attempt):
                    step = steps.send(self._attempt(step))
                else:
                    time.sleep(step.seconds)
                    step = next(steps)
        except StopIteration as done:
            result: T = done.value
            return result

    def _attempt(self, attempt: Attempt) -> ApiResponse | TransportFailure:
        request = _build(self._http, attempt, RequestDeadline(attempt.timeout_s).timeouts(MAX_CONNECT_S))
        content = bytearray()
        try:
            with closing(self._http.send(request, stream=True)) as response:
                _refuse_compressed(response)
                for chunk in response.iter_raw():
                    _append(content, chunk)
                return _read(response, bytes(content))
        except httpx.RequestError as error:
            return TransportFailure(str(error) or type(error).__name__)


class AsyncProducer:
    """An asyncio client for one backend. An async context manager; tasks may share it."""

    def __init__(
        self, url: str, key: str, *, timeout: timedelta | float = DEFAULT_TIMEOUT_S, replicated: bool = False
    ) -> None:
        """Connect to ingest at `url` with a service key. `timeout` (seconds) is the deadline of a whole call.

        `replicated`: a call returns when replicas of the store have the message, too; it is repeated until they have
        it or the deadline is over. The error is then `not_replicated`, and the message is stored without a replica.

        Raises ValueError if the URL has no scheme or host, or the key is empty.
        """
        headers = calls.bearer(key) | UNCOMPRESSED | (calls.REPLICATED if replicated else {})
        self._http = async_client(base_url=calls.base_url_of(url), headers=headers)
        self._timeout_s = seconds_of(timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    send = _awaitable(calls.send)
    create = _awaitable(calls.create)
    dismiss = _awaitable(calls.dismiss)
    snooze = _awaitable(calls.snooze)
    cancel = _awaitable(calls.cancel)
    reset_user = _awaitable(calls.reset_user)
    send_many = _awaitable(calls.send_many)
    broadcast = _awaitable(calls.broadcast)
    job = _awaitable(calls.job)
    cancel_job = _awaitable(calls.cancel_job)
    state = _awaitable(calls.state)
    sync = _awaitable(calls.sync)
    item = _awaitable(calls.item)

    async def history(
        self, uid: str, *, category_prefix: Sequence[str] = (), page: int = 100
    ) -> AsyncIterator[ItemDocument]:
        """Iterate over a user's history, live and gone items, newest first; `page` entries are fetched at a time."""
        next_url: str | None = None
        visited: set[str] = set()
        while True:
            entries, next_url = await self._perform(calls.history_page(uid, category_prefix, page, next_url, visited))
            for entry in entries:
                yield entry
            if next_url is None:
                return

    async def _perform(self, call: ApiCall[T]) -> T:
        steps = calls.with_retries(call, self._timeout_s, time.monotonic)
        try:
            step = next(steps)
            while True:
                if isinstance(step, Attempt):
                    step = steps.send(await self._attempt(step))
                else:
                    await asyncio.sleep(step.seconds)
                    step = next(steps)
        except StopIteration as done:
            result: T = done.value
            return result

    async def _attempt(self, attempt: Attempt) -> ApiResponse | TransportFailure:
        timeout = httpx.Timeout(attempt.timeout_s, connect=min(attempt.timeout_s, MAX_CONNECT_S))
        request = _build(self._http, attempt, timeout)
        content = bytearray()
        try:
            async with asyncio.timeout(attempt.timeout_s):
                response = await self._http.send(request, stream=True)
                async with aclosing(response):
                    _refuse_compressed(response)
                    async for chunk in response.aiter_raw():
                        _append(content, chunk)
                return _read(response, bytes(content))
        except TimeoutError:
            return TransportFailure("the response did not end in time")
        except httpx.RequestError as error:
            return TransportFailure(str(error) or type(error).__name__)


def _build(http: httpx.Client | httpx.AsyncClient, attempt: Attempt, timeout: httpx.Timeout) -> httpx.Request:
    request: ApiRequest = attempt.request
    return http.build_request(
        request.method,
        request.path,
        params=request.query or None,  # an empty mapping would remove the query of a path that has one
        content=request.content,
        headers=request.headers,
        timeout=timeout,
    )


def _refuse_compressed(response: httpx.Response) -> None:
    if (fault := compression_fault(response.headers)) is not None:
        raise UnexpectedResponse(fault)


def _append(content: bytearray, chunk: bytes) -> None:
    content += chunk
    if len(content) > calls.MAX_RESPONSE_BYTES:
        raise UnexpectedResponse(f"the response has more than {calls.MAX_RESPONSE_BYTES >> 20} MiB")


def _read(response: httpx.Response, content: bytes) -> ApiResponse:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return ApiResponse(response.status_code, content, headers, _next_url(response))


def _next_url(response: httpx.Response) -> str | None:
    """Return the URL of the next page. Raises `UnexpectedResponse` for another server: it would get the key."""
    following = response.links.get("next", {}).get("url")
    if following is None:
        return None
    try:
        url = response.url.join(following)
    except httpx.InvalidURL as error:
        raise UnexpectedResponse(f"the next page is not a page, or on another server: {error}") from error
    if (url.scheme, url.host, url.port) != (response.url.scheme, response.url.host, response.url.port):
        raise UnexpectedResponse(f"the next page is on another server: {url.host}")
    return str(url)
