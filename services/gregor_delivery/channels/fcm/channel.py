"""FCM HTTP v1: the payloads and credentials of pyfcm, sent without blocking the event loop.

pyfcm's own sending is not used: it blocks, sleeps on Retry-After, repeats a POST after a read time-out (a second push)
and calls every 404 a dead token.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpcore
from pyfcm.baseapi import BaseAPI

from gregor.clock import Clock
from gregor.net.ssrf_guard import connect_failure
from gregor_delivery.channels.contract import PushMessage
from gregor_delivery.channels.http_pool import HttpExchange, HttpPool
from gregor_delivery.channels.push_payload import aps_of, fcm_parts
from gregor_delivery.channels.verdict import Misconfigured, Retry, Unknown, Verdict

from .google_token import AccessToken, TokenUnavailable, read_credentials
from .responses import is_token_refused, verdict_of

FCM_URL: Final = "https://fcm.googleapis.com"
CONNECTIONS: Final = 100
"""Most connections at once: at 100 ms an answer, a thousand messages a second."""
LONGEST_TTL_S: Final = 28 * 86_400
"""The longest that FCM keeps a message (its documentation of `ttl`)."""


def endpoint_of(url: str, project: str) -> str:
    """Where messages go: `url` is the host of FCM (or of a fake), with or without the path up to the project."""
    bare = url.rstrip("/")
    if bare.endswith("/messages:send"):
        return bare
    if not bare.endswith("/v1/projects"):
        bare += "/v1/projects"
    return f"{bare}/{quote(project, safe='')}/messages:send"


def android_config(push: PushMessage, now_us: int) -> dict[str, Any]:
    """The `android` member: what replaces what, until when, how soon.

    `collapse_key` replaces a push that has not arrived, the notification's `tag` one that is shown already. Only what
    is shown goes as HIGH: FCM lowers the priority of apps that wake without showing anything. What shows nothing has
    no key: FCM keeps pushes of four keys for a device that is away, and lets few of one key through.
    """
    config: dict[str, Any] = {"priority": "HIGH" if push.kind == "alert" else "NORMAL"}
    if push.expires_us is not None:
        left_s = max(0, (push.expires_us - now_us) // 1_000_000)
        config["ttl"] = f"{min(left_s, LONGEST_TTL_S)}s"
    if push.kind == "alert":
        config["collapse_key"] = push.collapse_id
        notification: dict[str, Any] = {"tag": push.collapse_id}
        if push.sound is not None:
            notification["sound"] = push.sound
        if push.badge is not None:
            notification["notification_count"] = push.badge
        config["notification"] = notification
    return config


def apns_config(push: PushMessage) -> dict[str, Any]:
    """The `apns` member, which FCM heeds for Apple's devices alone: as our own channel to APNs says it.

    The words come from the message's `notification`; without this FCM sets no badge, makes no sound, and wakes no app
    for what shows nothing.
    """
    headers = {
        "apns-push-type": push.kind,
        "apns-priority": "5" if push.kind == "background" else "10",
        "apns-collapse-id": push.collapse_id,
    }
    if push.expires_us is not None:
        headers["apns-expiration"] = str(push.expires_us // 1_000_000)
    return {"headers": headers, "payload": {"aps": aps_of(push)}}


class FcmChannel:
    """FCM behind the contract of channels. `credentials_file`: the JSON file of a service account (or federation)."""

    def __init__(
        self, credentials_file: Path, clock: Clock, url: str | None = None, project: str | None = None
    ) -> None:
        """`url`: in place of Google's, for a fake or a proxy. `project`: where the credentials name none."""
        self._file = credentials_file
        self._clock = clock
        self._url = url or FCM_URL
        self._project = project
        self._payloads: BaseAPI | None = None
        self._token: AccessToken | None = None
        self._pool: HttpPool | None = None
        self._endpoint = ""
        self._in_flight = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    @property
    def name(self) -> str:
        """`fcm`."""
        return "fcm"

    async def open(self) -> None:
        """Read the credentials. ValueError with the setting to mend; the network is not touched."""
        try:
            credentials, named = read_credentials(self._file)
        except ValueError as error:
            raise ValueError(f"GREGOR_FCM_CREDENTIALS_FILE: {error}") from None
        project = named or self._project
        if not project:
            raise ValueError(f'GREGOR_FCM_CREDENTIALS_FILE: {self._file} names no "project_id"')
        if not self._url.startswith(("https://", "http://")):
            raise ValueError("GREGOR_FCM_URL: not a URL; write https://fcm.googleapis.com")
        self._payloads = BaseAPI(credentials=credentials, project_id=project)
        self._endpoint = endpoint_of(self._url, project)
        self._token = AccessToken(credentials, self._clock)
        self._pool = HttpPool(CONNECTIONS)

    async def send(self, message: PushMessage, deadline_s: float) -> Verdict:
        """Hand over one push; see `contract.DeliveryChannel.send`."""
        if self._token is None:
            raise RuntimeError("the channel is not open")
        until = self._clock.monotonic() + deadline_s
        self._in_flight += 1
        self._quiet.clear()
        try:
            body = self._body(message)
            verdict = await self._attempt(body, until, is_last=False)
            # A refused access token is refused before the message is read: it may go out once more, under a new one.
            return verdict or await self._attempt(body, until, is_last=True) or Unknown("no answer")
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._quiet.set()

    async def close(self) -> None:
        """Wait for the sends in flight, then close all connections."""
        await self._quiet.wait()
        if self._pool is not None:
            await self._pool.close()
        if self._token is not None:
            await self._token.close()
        self._pool = self._token = None

    async def check(self) -> str | None:
        """Whether Google gives a token for the credentials, and FCM takes it (asked with a message to nobody)."""
        if self._token is None:
            await self.open()
        try:
            token = await self._tokens.get(10.0)
        except TokenUnavailable as error:
            return f"{error}; check GREGOR_FCM_CREDENTIALS_FILE."
        exchange = HttpExchange()
        trouble = await self._post(b'{"validate_only":true,"message":{"token":"gregor-doctor"}}', token, 10.0, exchange)
        if trouble or exchange.status is None:
            return f"FCM cannot be reached: {trouble}; check GREGOR_FCM_URL and the way out."
        verdict = self._read(exchange, exchange.status)
        if isinstance(verdict, Misconfigured):
            return f"FCM refuses the account: {verdict.detail}; check its role and GREGOR_FCM_CREDENTIALS_FILE."
        return None

    @property
    def _tokens(self) -> AccessToken:
        if self._token is None:
            raise RuntimeError("the channel is not open")
        return self._token

    def _body(self, push: PushMessage) -> bytes:
        parts = fcm_parts(push)
        shown = push.kind == "alert"
        body: bytes = self._payloads.parse_payload(  # type: ignore[union-attr]
            fcm_token=push.token,
            notification_title=parts.title if shown else None,
            notification_body=parts.text if shown else None,
            data_payload=dict(parts.data),
            android_config=android_config(push, self._clock.now_us()),
            apns_config=apns_config(push),
        )
        return body

    async def _attempt(self, body: bytes, until: float, *, is_last: bool) -> Verdict | None:
        """One POST. None where the access token was refused, and this is not the last attempt."""
        try:
            token = await self._tokens.get(until - self._clock.monotonic())
        except TokenUnavailable as error:
            return Misconfigured(None, str(error)) if error.is_final else Retry(None, None, str(error))
        left_s = until - self._clock.monotonic()
        if left_s <= 0:
            return Retry(None, None, "no time was left to send")
        exchange = HttpExchange()
        trouble = await self._post(body, token, left_s, exchange)
        if trouble or exchange.status is None:
            return Unknown(trouble) if exchange.is_handed_over else Retry(None, None, f"not reached: {trouble}")
        if is_token_refused(exchange.status, exchange.body):
            self._tokens.reject(token)
            if not is_last:
                return None
        return self._read(exchange, exchange.status)

    async def _post(self, body: bytes, token: str, left_s: float, exchange: HttpExchange) -> str:
        """Send once; returns why there is no whole answer, in words, else nothing."""
        if self._pool is None:
            raise RuntimeError("the channel is not open")
        headers = [
            ("Authorization", f"Bearer {token}"),
            ("Content-Type", "application/json"),
            ("User-Agent", "gregor"),
        ]
        try:
            async with asyncio.timeout(left_s):
                await self._pool.post(self._endpoint, headers, body, exchange)
        except TimeoutError:
            return "no answer before the deadline"
        except (OSError, httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            return connect_failure(error)
        return ""

    def _read(self, exchange: HttpExchange, status: int) -> Verdict:
        return verdict_of(status, exchange.retry_after, exchange.body, self._clock.now_us())
