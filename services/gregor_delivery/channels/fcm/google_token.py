"""OAuth access token of a Google account: shared by all sends, renewed before it expires, off the event loop.

google-auth signs and parses, but it blocks and sleeps between its own retries. It runs in a thread. Its requests run on
the event loop and are never repeated, so the caller decides what a failure means.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeGuard, cast

import google.auth.credentials
import google.auth.exceptions
import google.auth.transport
import httpx
import msgspec
from google.auth import identity_pool
from google.oauth2 import service_account

from gregor.clock import Clock
from gregor.net.bounded_responses import UNCOMPRESSED, ResponseTooLong, compression_fault, read_bounded
from gregor.net.outgoing.http_clients import bounded_client
from gregor_delivery.channels.verdict import clean

SCOPE: Final = "https://www.googleapis.com/auth/firebase.messaging"
RENEW_BEFORE_S: Final = 300.0
"""A token is renewed this long before it expires, while sends still use it; Google's libraries use 225 s. A token that
lives less than twice as long is renewed in the second half of its lifetime."""
FETCH_TIMEOUT_S: Final = 10.0
"""Timeout of a request to the token endpoint, and of reading its answer."""
MAX_ANSWER_BYTES: Final = 32_768
"""Limit of an answer of the token endpoint; a longer one is an error. `bounded_streams` limits the whole response."""
DEFAULT_LIFETIME_S: Final = 1_800.0
"""Assumed if the endpoint does not state a lifetime; pyfcm renews as often."""

_TOKEN: Final = re.compile("[!-~]{1,8192}")

Credentials = google.auth.credentials.Credentials


class TokenUnavailable(Exception):
    """No token is available. `is_final`: Google rejects the key, so a retry cannot succeed."""

    def __init__(self, detail: str, *, is_final: bool) -> None:
        super().__init__(detail)
        self.is_final = is_final


def read_credentials(path: Path) -> tuple[Credentials, str | None]:
    """Return the credentials in a JSON file and the project that it names. Raises ValueError for an invalid file.

    Supports the key of a service account and workload identity federation (`external_account`).
    """
    try:
        document = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(document, dict) or "type" not in document:
        raise ValueError(f'{path} is not a Google credentials file: it has no "type"')
    try:
        credentials = _credentials_of(document)
    except (ValueError, KeyError, google.auth.exceptions.GoogleAuthError) as error:
        raise ValueError(f"{path} is not a valid Google credentials file: {type(error).__name__}") from None
    return credentials, document.get("project_id")


def _credentials_of(document: dict[str, Any]) -> Credentials:
    kinds: dict[str, Any] = {
        "service_account": service_account.Credentials.from_service_account_info,
        "external_account": identity_pool.Credentials.from_info,
    }
    if document["type"] not in kinds:
        raise ValueError("only the types service_account and external_account are supported")
    return cast(Credentials, kinds[document["type"]](document, scopes=[SCOPE]))


# --- the shared token ---


class AccessToken:
    """One token for all sends of a process; at most one fetch at a time."""

    def __init__(self, credentials: Credentials, clock: Clock) -> None:
        self._credentials = credentials
        self._clock = clock
        self._client = bounded_client(timeout=FETCH_TIMEOUT_S, follow_redirects=False, headers=UNCOMPRESSED)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="google-token")
        self._fetch: asyncio.Task[str] | None = None
        self._token: str | None = None
        self._renew_at = 0.0
        self._ends_at = 0.0

    async def get(self, timeout_s: float) -> str:
        """Return the token; raises `TokenUnavailable` if there is none within `timeout_s`.

        A token that expires soon is still returned, and renewed in the background.
        """
        now = self._clock.monotonic()
        if self._token is not None and now < self._ends_at:
            if now > self._renew_at:
                self._start()
            return self._token
        try:
            # Shielded: a caller that times out must not cancel the fetch for the others.
            return await asyncio.wait_for(asyncio.shield(self._start()), timeout_s)
        except TimeoutError:
            raise TokenUnavailable("Google's token endpoint did not respond in time", is_final=False) from None

    def reject(self, token: str) -> None:
        """Discard a token that FCM rejected, unless it was replaced already: the next `get` fetches a new one."""
        if token == self._token:
            self._token = None

    async def close(self) -> None:
        """Stop waiting for a fetch and release the thread."""
        if self._fetch is not None:
            self._fetch.cancel()
            await asyncio.wait([self._fetch])
        self._thread.shutdown(wait=False, cancel_futures=True)
        await self._client.aclose()

    def _start(self) -> asyncio.Task[str]:
        if self._fetch is None or self._fetch.done():
            self._fetch = asyncio.create_task(self._renew(), name="google-token")
            self._fetch.add_done_callback(_retrieve_exception)
        return self._fetch

    async def _renew(self) -> str:
        loop = asyncio.get_running_loop()
        try:
            token, lifetime_s = await loop.run_in_executor(self._thread, self._refresh, loop)
        except (_TemporaryFailure, google.auth.exceptions.TransportError) as error:
            raise TokenUnavailable(f"Google's token endpoint cannot be reached: {error}", is_final=False) from None
        except (google.auth.exceptions.GoogleAuthError, ValueError) as error:
            # The text may quote the response, but never the key.
            raise TokenUnavailable(f"Google rejects the credentials: {clean(str(error), 160)}", is_final=True) from None
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError) as error:
            text = f"Google's token endpoint sent JSON of another shape ({type(error).__name__})"
            raise TokenUnavailable(text, is_final=False) from None
        if not _is_usable(token, lifetime_s):
            raise TokenUnavailable("Google's token endpoint sent a token that cannot be used", is_final=False)
        self._token = token
        self._ends_at = self._clock.monotonic() + lifetime_s
        self._renew_at = self._ends_at - min(RENEW_BEFORE_S, lifetime_s / 2)
        return token

    def _refresh(self, loop: asyncio.AbstractEventLoop) -> tuple[object, float]:
        """Fetch a token; returns it with its lifetime in seconds. Runs in the thread."""
        self._credentials.refresh(_Transport(self._client, loop))  # type: ignore[no-untyped-call]
        expiry: datetime | None = self._credentials.expiry
        if expiry is None:
            return self._credentials.token, DEFAULT_LIFETIME_S
        return self._credentials.token, (expiry.replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds()


def _is_usable(token: object, lifetime_s: float) -> TypeGuard[str]:
    """Return whether a token can be sent in a header, and is not expired."""
    return isinstance(token, str) and _TOKEN.fullmatch(token) is not None and lifetime_s > 0


def _retrieve_exception(task: asyncio.Task[str]) -> None:
    """Mark the exception of a background renewal as retrieved: the next `get` tries again."""
    if not task.cancelled():
        task.exception()


# --- the transport of google-auth ---


class _TemporaryFailure(Exception):
    """The endpoint is unreachable or overloaded. Not a google-auth exception: google-auth retries some of those."""


class _Response(google.auth.transport.Response):
    """A response of httpx with the interface of google-auth."""

    def __init__(self, response: httpx.Response, body: bytes) -> None:
        self._response, self._body = response, body

    @property
    def status(self) -> int:
        return self._response.status_code

    @property
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    @property
    def data(self) -> bytes:
        return self._body


class _Transport(google.auth.transport.Request):
    """Sends requests of google-auth by httpx. Raises on temporary errors, because google-auth would sleep and retry."""

    def __init__(self, client: httpx.AsyncClient, loop: asyncio.AbstractEventLoop) -> None:
        self._client, self._loop = client, loop

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **_more: object,
    ) -> _Response:
        # On the event loop, since only there a request can be cancelled: endless 1xx responses reset every timeout of
        # a blocking client, and would occupy the only thread for good.
        running = asyncio.run_coroutine_threadsafe(self._send(method, url, body, headers), self._loop)
        try:
            return running.result(FETCH_TIMEOUT_S + 1)
        except TimeoutError:
            raise _TemporaryFailure(f"its answer takes longer than {FETCH_TIMEOUT_S:g} s") from None

    async def _send(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str] | None) -> _Response:
        try:
            async with (
                asyncio.timeout(FETCH_TIMEOUT_S),
                self._client.stream(method, url, content=body, headers=headers) as response,
            ):
                if (fault := compression_fault(response.headers)) is not None:
                    raise _TemporaryFailure(fault)
                answer = await read_bounded(response.aiter_raw(), MAX_ANSWER_BYTES)
        except ResponseTooLong:
            raise _TemporaryFailure(f"its answer is longer than {MAX_ANSWER_BYTES} bytes") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # The cause may be `ResponseLimitExceeded`. An exception of httpcore has the same name as that of httpx.
            raise _TemporaryFailure(type(error.__cause__ or error).__name__) from None
        if response.status_code in (408, 429) or response.status_code >= 500:
            raise _TemporaryFailure(f"it answered {response.status_code}")
        return _Response(response, answer)
