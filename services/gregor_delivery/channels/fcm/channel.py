"""Push by FCM HTTP v1: pyfcm builds the payloads; this module sends them without blocking the event loop.

The sending of pyfcm is not used: it blocks, sleeps on Retry-After, repeats a POST after a read timeout (a second push)
and treats every 404 as a dead token.
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
from gregor_delivery.channels.in_flight import InFlight
from gregor_delivery.channels.push_payload import aps_without_alert, fcm_content
from gregor_delivery.channels.verdict import Misconfigured, Retry, Unknown, Verdict

from .google_token import AccessToken, TokenUnavailable, read_credentials
from .responses import is_token_rejected, verdict_of

FCM_URL: Final = "https://fcm.googleapis.com"
CONNECTIONS: Final = 250
"""One for each attempt that a worker has in flight.

A push that waited for a connection until its deadline would count as one that could not reach FCM."""
MAX_TTL_S: Final = 28 * 86_400
"""Longest time that FCM keeps a message (documentation of `ttl`)."""


# --- the message ---


def messages_url(url: str, project: str) -> str:
    """Return the URL for messages. `url`: of FCM or a fake, with or without the path up to the project."""
    bare = url.rstrip("/")
    if bare.endswith("/messages:send"):
        return bare
    if not bare.endswith("/v1/projects"):
        bare += "/v1/projects"
    return f"{bare}/{quote(project, safe='')}/messages:send"


def android_config(push: PushMessage, now_us: int) -> dict[str, Any]:
    """Return the `android` member: collapsing, lifetime and priority.

    `collapse_key` replaces a push that has not arrived, and the notification's `tag` one that is on the screen. Only
    visible pushes have priority HIGH: FCM lowers the priority of apps that wake without showing anything. Silent pushes
    have no key, because FCM stores pushes of only four keys per device and throttles each key.
    """
    config: dict[str, Any] = {"priority": "HIGH" if push.kind == "alert" else "NORMAL"}
    if push.expires_us is not None:
        left_s = max(0, (push.expires_us - now_us) // 1_000_000)
        config["ttl"] = f"{min(left_s, MAX_TTL_S)}s"
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
    """Return the `apns` member, with the same values as the channel to APNs; FCM uses it for Apple devices.

    Title and text come from `notification`. Without this member FCM sets no badge, plays no sound, and wakes no app for
    silent pushes.
    """
    headers = {
        "apns-push-type": push.kind,
        "apns-priority": "5" if push.kind == "background" else "10",
        "apns-collapse-id": push.collapse_id,
    }
    if push.expires_us is not None:
        headers["apns-expiration"] = str(push.expires_us // 1_000_000)
    return {"headers": headers, "payload": {"aps": aps_without_alert(push)}}


# --- the channel ---


class FcmChannel:
    """The channel `fcm`. `credentials_file`: JSON file of a service account, or of a workload identity federation."""

    name: Final = "fcm"

    def __init__(
        self, credentials_file: Path, clock: Clock, url: str | None = None, project: str | None = None
    ) -> None:
        """`url`: of a fake or proxy, instead of Google's. `project`: used if the credentials name none."""
        self._file = credentials_file
        self._clock = clock
        self._url = url or FCM_URL
        self._project = project
        self._payloads: BaseAPI | None = None
        self._token: AccessToken | None = None
        self._pool: HttpPool | None = None
        self._endpoint = ""
        self._in_flight = InFlight()

    async def open(self) -> None:
        """Read the credentials, without network access. Raises ValueError that names the setting to correct."""
        try:
            credentials, named = read_credentials(self._file)
        except ValueError as error:
            raise ValueError(f"GREGOR_FCM_CREDENTIALS_FILE: {error}") from None
        project = named or self._project
        if not project:
            raise ValueError(f'GREGOR_FCM_CREDENTIALS_FILE: {self._file} names no "project_id"')
        if not self._url.startswith(("https://", "http://")):
            raise ValueError("GREGOR_FCM_URL: not an http(s) URL; write https://fcm.googleapis.com")
        self._payloads = BaseAPI(credentials=credentials, project_id=project)
        self._endpoint = messages_url(self._url, project)
        self._token = AccessToken(credentials, self._clock)
        self._pool = HttpPool(CONNECTIONS)

    async def send(self, message: PushMessage, deadline_s: float) -> Verdict:
        """Send one push; see `DeliveryChannel.send`."""
        if self._token is None:
            raise RuntimeError("the channel is not open")
        until = self._clock.monotonic() + deadline_s
        with self._in_flight:
            body = self._body(message)
            verdict = await self._attempt(body, until, is_last=False)
            # FCM checks the access token before the message: after a rejection the message may be sent again.
            return verdict or await self._attempt(body, until, is_last=True) or Unknown("no response")

    async def close(self) -> None:
        """Wait for the pushes in flight, then close all connections."""
        await self._in_flight.drain()
        if self._pool is not None:
            await self._pool.close()
        if self._token is not None:
            await self._token.close()
        self._pool = self._token = None

    async def check(self) -> str | None:
        """Check that Google issues an access token, and that FCM accepts it for a test message to no device."""
        if self._token is None:
            await self.open()
        try:
            token = await self._tokens.get(10.0)
        except TokenUnavailable as error:
            return f"{error}; check GREGOR_FCM_CREDENTIALS_FILE."
        exchange = HttpExchange()
        failure = await self._post(b'{"validate_only":true,"message":{"token":"gregor-doctor"}}', token, 10.0, exchange)
        if failure or exchange.status is None:
            return f"FCM cannot be reached: {failure}; check GREGOR_FCM_URL and the firewall."
        verdict = self._read(exchange, exchange.status)
        if isinstance(verdict, Misconfigured):
            return f"FCM rejects the account: {verdict.detail}; check its role and GREGOR_FCM_CREDENTIALS_FILE."
        return None

    @property
    def _tokens(self) -> AccessToken:
        if self._token is None:
            raise RuntimeError("the channel is not open")
        return self._token

    def _body(self, push: PushMessage) -> bytes:
        content = fcm_content(push)
        is_visible = push.kind == "alert"
        body: bytes = self._payloads.parse_payload(  # type: ignore[union-attr]
            fcm_token=push.token,
            notification_title=content.title if is_visible else None,
            notification_body=content.text if is_visible else None,
            data_payload=dict(content.data),
            android_config=android_config(push, self._clock.now_us()),
            apns_config=apns_config(push),
        )
        return body

    async def _attempt(self, body: bytes, until: float, *, is_last: bool) -> Verdict | None:
        """Send one POST. Returns None if the access token was rejected and this is not the last attempt."""
        try:
            token = await self._tokens.get(until - self._clock.monotonic())
        except TokenUnavailable as error:
            return Misconfigured(None, str(error)) if error.is_final else Retry(None, None, str(error))
        left_s = until - self._clock.monotonic()
        if left_s <= 0:
            return Retry(None, None, "the deadline has passed")
        exchange = HttpExchange()
        failure = await self._post(body, token, left_s, exchange)
        if failure or exchange.status is None:
            return Unknown(failure) if exchange.was_sent else Retry(None, None, f"not reached: {failure}")
        if is_token_rejected(exchange.status, exchange.body):
            self._tokens.reject(token)
            if not is_last:
                return None
        return self._read(exchange, exchange.status)

    async def _post(self, body: bytes, token: str, left_s: float, exchange: HttpExchange) -> str:
        """Send one request; returns the reason if the response is missing or incomplete, else an empty string."""
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
            return "no response before the deadline"
        except (OSError, httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            return connect_failure(error)
        return ""

    def _read(self, exchange: HttpExchange, status: int) -> Verdict:
        return verdict_of(status, exchange.retry_after, exchange.body, self._clock.now_us())
