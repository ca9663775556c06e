"""The OAuth token of a Google account: fetched once for everybody, renewed before it ends, never on the event loop.

google-auth signs and parses; it blocks and has a back-off of its own that sleeps. So it runs in a thread of ours, with
a transport that gives up at once: who waits for the token decides what a failure means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

import google.auth.credentials
import google.auth.exceptions
import google.auth.transport
import httpx
import msgspec
from google.auth import identity_pool
from google.oauth2 import service_account

from gregor.clock import Clock

SCOPE: Final = "https://www.googleapis.com/auth/firebase.messaging"
RENEW_BEFORE_S: Final = 300.0
"""How long before its end a token is renewed, while sends go on with it: Google's own libraries take 225 s."""
FETCH_S: Final = 10.0
"""How long the token endpoint may take; then the fetch has failed."""
LIFETIME_S: Final = 1_800.0
"""Assumed where the endpoint does not say how long a token is good; pyfcm renews as often."""

Credentials = google.auth.credentials.Credentials


class TokenUnavailable(Exception):
    """There is no token now. `is_final`: the key is refused, and trying again will not mend it."""

    def __init__(self, detail: str, *, is_final: bool) -> None:
        super().__init__(detail)
        self.is_final = is_final


def read_credentials(path: Path) -> tuple[Credentials, str | None]:
    """The credentials in a JSON file, and the project that it names. ValueError where it is none, or unreadable.

    A service account's key, or the federation of a workload's own identity (`external_account`).
    """
    try:
        document = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(document, dict) or "type" not in document:
        raise ValueError(f'{path} is no credentials file of Google: it has no "type"')
    try:
        credentials = _credentials_of(document)
    except (ValueError, KeyError, google.auth.exceptions.GoogleAuthError) as error:
        raise ValueError(f"{path} is no good credentials file of Google: {type(error).__name__}") from None
    return credentials, document.get("project_id")


def _credentials_of(document: dict[str, Any]) -> Credentials:
    kinds: dict[str, Any] = {
        "service_account": service_account.Credentials.from_service_account_info,
        "external_account": identity_pool.Credentials.from_info,
    }
    if document["type"] not in kinds:
        raise ValueError("only service_account and external_account are known")
    return cast(Credentials, kinds[document["type"]](document, scopes=[SCOPE]))


class AccessToken:
    """One token for all sends of a process; at most one fetch of it at a time."""

    def __init__(self, credentials: Credentials, clock: Clock, client: httpx.Client | None = None) -> None:
        """`client`: makes the blocking requests of the thread; one of its own where it is not given."""
        self._credentials = credentials
        self._clock = clock
        self._client = client or httpx.Client(timeout=FETCH_S, follow_redirects=False)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="google-token")
        self._fetch: asyncio.Task[str] | None = None
        self._token: str | None = None
        self._ends_at = 0.0

    async def get(self, timeout_s: float) -> str:
        """The token. NoToken where none is to be had, or not within `timeout_s`.

        A token near its end is given out still, and renewed meanwhile: nobody waits for a renewal that comes in time.
        """
        left_s = self._ends_at - self._clock.monotonic()
        if self._token is not None and left_s > 0:
            if left_s < RENEW_BEFORE_S:
                self._start()
            return self._token
        try:
            # Shielded: whoever stops waiting leaves the fetch to the others.
            return await asyncio.wait_for(asyncio.shield(self._start()), timeout_s)
        except TimeoutError:
            raise TokenUnavailable("the token endpoint of Google did not answer in time", is_final=False) from None

    def reject(self, token: str) -> None:
        """This token was refused: the next `get` fetches a new one. Of many who say so, only the first is heard."""
        if token == self._token:
            self._token = None

    async def close(self) -> None:
        """Let a fetch that runs end by itself, unheard."""
        if self._fetch is not None:
            self._fetch.cancel()
            await asyncio.wait([self._fetch])
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _start(self) -> asyncio.Task[str]:
        if self._fetch is None or self._fetch.done():
            self._fetch = asyncio.create_task(self._renew(), name="google-token")
            self._fetch.add_done_callback(_seen)
        return self._fetch

    async def _renew(self) -> str:
        loop = asyncio.get_running_loop()
        try:
            token, lifetime_s = await loop.run_in_executor(self._thread, self._refresh)
        except (_NotNow, google.auth.exceptions.TransportError) as error:
            raise TokenUnavailable(f"the token endpoint of Google cannot be asked: {error}", is_final=False) from None
        except (google.auth.exceptions.GoogleAuthError, ValueError) as error:
            # Its text may quote the answer, but never the key: the first words say what is wrong.
            raise TokenUnavailable(f"Google refuses the credentials: {str(error)[:160]}", is_final=True) from None
        self._token = token
        self._ends_at = self._clock.monotonic() + lifetime_s
        return token

    def _refresh(self) -> tuple[str, float]:
        """In the thread: a new token, and the seconds that it is good for."""
        self._credentials.refresh(_Transport(self._client))  # type: ignore[no-untyped-call]
        expiry: datetime | None = self._credentials.expiry
        if expiry is None:
            return str(self._credentials.token), LIFETIME_S
        return str(self._credentials.token), (expiry.replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds()


def _seen(task: asyncio.Task[str]) -> None:
    """A renewal ahead of time that failed has nobody to tell it to: whoever needs the token next tries again."""
    if not task.cancelled():
        task.exception()


class _NotNow(Exception):
    """The endpoint could not be asked, or asks for patience. Not an error of google-auth's: those it may try again."""


class _Answer(google.auth.transport.Response):
    """An answer of httpx as google-auth reads it."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response

    @property
    def status(self) -> int:
        return self._response.status_code

    @property
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    @property
    def data(self) -> bytes:
        return self._response.content


class _Transport(google.auth.transport.Request):
    """Requests of google-auth, sent by httpx. What may pass later raises here, since google-auth would sleep on it."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **_more: object,
    ) -> _Answer:
        try:
            response = self._client.request(method, url, content=body, headers=headers, timeout=FETCH_S)
        except httpx.HTTPError as error:
            raise _NotNow(type(error).__name__) from None
        if response.status_code in (408, 429) or response.status_code >= 500:
            raise _NotNow(f"it answered {response.status_code}")
        return _Answer(response)
