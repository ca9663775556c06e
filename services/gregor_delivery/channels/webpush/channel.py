"""Push to browsers: Web Push (RFC 8030), encrypted for the browser and signed with our VAPID key."""

import asyncio
import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpcore
import structlog

from gregor.auth.push_tokens import SubscriptionKeys
from gregor.auth.vapid import VapidKey, subject_problem
from gregor.clock import Clock, SystemClock
from gregor.config.settings import WEBPUSH_SERVICES
from gregor.net.ssrf_guard import AddressNotPublic, AllowedHosts, Destination, GuardedBackend, connect_failure
from gregor_delivery.channels.contract import PushMessage
from gregor_delivery.channels.http_pool import HttpExchange, HttpPool
from gregor_delivery.channels.push_payload import webpush_payload
from gregor_delivery.channels.tls import client_context
from gregor_delivery.channels.verdict import (
    Misconfigured,
    RecipientGone,
    Refused,
    Retry,
    Sent,
    Unknown,
    Verdict,
    parse_retry_after,
)
from gregor_delivery.throttle.web_push_origins import FixedOrigins

from .encryption import encrypt

MAX_TTL_S: Final = 28 * 86_400
REFUSED_USERS: Final = 3
"""Users whose subscriptions an origin refuses, without accepting one, before our key counts as rejected."""
MAX_ACCEPTED_ORIGINS: Final = 1_024
_TOPIC = re.compile(r"[A-Za-z0-9_-]{1,32}")
_ACCEPTED: Final = frozenset({200, 201, 202, 204})
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class WebPushConfig:
    """`hosts`: as GREGOR_WEBPUSH_HOSTS. `ca_file`: authorities of a fake, instead of the system's.

    `app_url`: as GREGOR_APP_URL; None: the bodies are not declarative.
    """

    key_file: Path
    subject: str
    hosts: tuple[str, ...] = WEBPUSH_SERVICES
    ca_file: Path | None = None
    max_connections: int = 100
    app_url: str | None = None


@dataclass(frozen=True, slots=True)
class _Target:
    destination: Destination
    url: str
    keys: SubscriptionKeys

    @property
    def origin(self) -> str:
        port = "" if self.destination.port == 443 else f":{self.destination.port}"
        return f"https://{self.destination.host}{port}"


class WebPushChannel:
    """The channel `webpush`."""

    name: Final = "webpush"

    def __init__(self, config: WebPushConfig, clock: Clock, signing_clock: Clock | None = None) -> None:
        """`clock`: for the remaining lifetime of a push. `signing_clock`: the system's, compared by other hosts."""
        self._config, self._clock, self._signing_clock = config, clock, signing_clock or SystemClock()
        self._hosts = AllowedHosts(config.hosts)
        self._key: VapidKey | None = None
        self._pool: HttpPool | None = None
        self._fixed_origins = FixedOrigins(config.hosts)
        self._accepted_origins: dict[str, None] = {}
        self._refused_users: dict[str, set[str]] = {}

    async def open(self) -> None:
        """Read the key, without network access. Raises ValueError if it cannot be used."""
        self._key = VapidKey.read(self._config.key_file, self._config.subject, self._signing_clock)
        # A warning only: a push service of a closed network may accept a contact of that network.
        if (problem := subject_problem(self._config.subject)) is not None:
            log.warning("webpush.private_subject", reason=problem)
        try:
            tls = client_context(self._config.ca_file)
        except OSError as error:
            raise ValueError(f"GREGOR_WEBPUSH_CA_FILE: {self._config.ca_file} has no readable certificates") from error
        backend = GuardedBackend(self._hosts.private_destinations(), self._fixed_origins)
        self._pool = HttpPool(self._config.max_connections, tls, backend)

    async def send(self, message: PushMessage, deadline_s: float) -> Verdict:
        """Send one push; see `DeliveryChannel.send`."""
        if self._pool is None:
            raise RuntimeError("the channel is not open")
        target = self._target(message.token)
        if isinstance(target, Refused):
            return target
        try:
            body = encrypt(webpush_payload(message, self._config.app_url), target.keys)
        except (TypeError, ValueError) as error:
            return Refused(None, f"the payload cannot be encoded: {type(error).__name__}")
        exchange = HttpExchange()
        detail = ""
        try:
            async with asyncio.timeout(deadline_s):
                await self._pool.post(target.url, self._headers(message, target), body, exchange)
        except AddressNotPublic:
            return Refused(None, "the endpoint does not resolve to a public address")
        except (OSError, httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            detail = connect_failure(error)
        if exchange.status is not None:
            return self._verdict(message.uid, exchange.status, exchange.retry_after, target)
        return Unknown(detail) if exchange.was_sent else Retry(None, None, f"cannot connect: {detail}")

    async def close(self) -> None:
        """Wait for the pushes in flight, then close the connections."""
        if self._pool is not None:
            await self._pool.close()

    async def check(self) -> str | None:
        """Check key and subject; services cannot be tested without a subscription."""
        try:
            if self._key is None:
                await self.open()
        except ValueError as error:
            return str(error)
        return subject_problem(self._config.subject)

    # --- one push ---

    def _target(self, token: Mapping[str, Any] | str) -> _Target | Refused:
        """Return endpoint and keys of a registration. The host is checked again: the settings may have changed."""
        try:
            if isinstance(token, str):
                raise ValueError("not a subscription")
            url, keys = str(token["endpoint"]), token["keys"]
            subscription = SubscriptionKeys.read(str(keys["p256dh"]), str(keys["auth"]))
        except (KeyError, TypeError, ValueError):
            return Refused(None, "not a Web Push subscription")
        destination = self._hosts.destination_of(url)
        return (
            _Target(destination, url, subscription)
            if destination
            else Refused(None, "the endpoint's host is not in GREGOR_WEBPUSH_HOSTS")
        )

    def _headers(self, push: PushMessage, target: _Target) -> list[tuple[str, str]]:
        if self._key is None:
            raise RuntimeError("the channel is not open")
        return [
            ("Host", target.origin.removeprefix("https://")),
            ("Authorization", self._key.authorization(target.origin)),
            ("Content-Encoding", "aes128gcm"),
            ("Content-Type", "application/octet-stream"),
            ("TTL", str(self._ttl_s(push))),
            ("Urgency", "high" if push.urgent else "low" if push.kind == "background" else "normal"),
            ("Topic", topic_for(push.collapse_id)),
        ]

    def _ttl_s(self, push: PushMessage) -> int:
        if push.expires_us is None:
            return MAX_TTL_S
        return max(0, min((push.expires_us - self._clock.now_us()) // 1_000_000, MAX_TTL_S))

    def _verdict(self, uid: str, status: int, retry_after: str | None, target: _Target) -> Verdict:
        """Classify a response (RFC 8030 §5, §7.3).

        401 or 403 from a service that accepted our key before means that this subscription was made for another key. A
        device can cause that: see `_rejected_key`.
        """
        text = str(status)
        if status in _ACCEPTED:
            self._accept(target.origin)
            return Sent(text)
        if status in (404, 410):
            return RecipientGone(text, "the subscription is gone")
        if status in (401, 403):
            return self._rejected_key(uid, text, target)
        if status == 429 or status >= 500:
            return Retry(parse_retry_after(retry_after, self._signing_clock.now_us()), text, "throttled or unavailable")
        return Refused(text, "too large" if status == 413 else f"answered {status}")

    def _accept(self, origin: str) -> None:
        """Remember that the origin accepts our key."""
        self._refused_users.pop(origin, None)
        if origin not in self._accepted_origins:
            if len(self._accepted_origins) >= MAX_ACCEPTED_ORIGINS:
                del self._accepted_origins[next(iter(self._accepted_origins))]
            self._accepted_origins[origin] = None

    def _rejected_key(self, uid: str, status: str, target: _Target) -> Verdict:
        """Classify a rejected VAPID key. A few devices must not stop the channel, so our key counts as wrong only if an
        origin that no device can choose rejects it for several users, and no origin has accepted it yet.

        Otherwise the subscription was made for another key, or the origin alone rejects ours, for example for its
        subject. The push is not lost in that case: it is retried, and the log names the origin.
        """
        if target.origin in self._accepted_origins:
            return Refused(status, "the subscription was made for another key")
        detail = f"{target.destination.host} rejects the VAPID key"
        if target.origin.removeprefix("https://") not in self._fixed_origins:
            return Retry(None, status, detail)
        users = self._refused_users.setdefault(target.origin, set())
        if len(users) < REFUSED_USERS and uid not in users:
            users.add(uid)
            if len(users) == REFUSED_USERS:
                log.warning("webpush.key_rejected", host=target.destination.host, users=REFUSED_USERS)
        is_our_key = len(users) >= REFUSED_USERS and not self._accepted_origins
        return Misconfigured(status, detail) if is_our_key else Retry(None, status, detail)


def topic_for(collapse_id: str) -> str:
    """Return the collapse id if it is a valid `Topic` (at most 32 characters of base64url), else a hash of it."""
    if _TOPIC.fullmatch(collapse_id):
        return collapse_id
    return base64.urlsafe_b64encode(hashlib.sha256(collapse_id.encode()).digest())[:32].decode()
